"""How it learns without steps: gradient flow, on a whole ensemble at once."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _require
from .descent import Solution, status_of
from .integrate import integrate
from .networks import Weights, check_weights
from .objective import Objective, backpropagate, check_members


def gradient_flow(
    objective: Objective,
    weights: Weights,
    *,
    time: float,
    rtol: float = 1e-9,
    atol: float = 1e-12,
    save_at=None,
    tolerance: float = 1e-6,
    step_limit: int = 5000,
) -> Solution:
    """dθ/dt = −∇L(θ) − λθ up to `time` t, for every member of the stack `weights` independently.

    Time is that of descent with steps ηT. `save_at` are increasing times within [0, time] at which weights are
    kept, by default start and end. Each member takes its own steps (Tsitouras 5(4)): in each, the root mean square
    over its weights of error/(atol + rtol·|w|) is estimated below 1; between steps weights are interpolated, to the order
    of that estimate. `accepted_steps` in `stats` counts them.

    A flow never raises L_λ, so that no member can diverge; the integrator can still give one up, after `step_limit` steps
    or at numbers that are not finite. Then the status is `diverged`, `stats["given_up"]` says why, and weights that
    were not reached are nan. Otherwise the rules of gradient_descent hold: `converged` and `collapsed` as there, and
    `max_steps` means that the time is up.

    ReLU: a kink lowers the order of a step that crosses it, and error control then shortens the step, so that the error of
    each step stays in bounds. Where the flow slides along a kink (−∇L points to it from both sides) no step is short
    enough, and the member is given up.
    Raises ValueError or TypeError, naming the argument, for anything out of range.
    """
    check_weights(_require.instance("objective", objective, Objective).network, weights)
    weights = tuple(_require.tensor(f"W_{k}", w) for k, w in enumerate(weights, start=1))
    check_members(objective, weights)
    time = _require.number("time", time, above=0.0)
    _require.number("rtol", rtol, minimum=1e-13, maximum=1e-1)  # rounding hides any finer control
    _require.number("atol", atol, minimum=1e-30, maximum=1e-1)  # the library keeps it as float32, where less is 0
    _require.number("tolerance", tolerance, minimum=0.0)
    _require.integer("step_limit", step_limit, minimum=1)
    times = _save_times(save_at, time)
    clock = times if times[-1] == time else torch.cat([times, times.new_tensor([time])])

    members = weights[0].shape[:-2]
    shapes = [w.shape[-2:] for w in weights]
    start = _flat(w.reshape(-1, *w.shape[-2:]) for w in weights)
    found = integrate(
        lambda chosen: _descent_direction(objective, members, shapes, chosen),
        start, clock, rtol=rtol, atol=atol, step_limit=step_limit,
    )  # fmt: skip
    saved = tuple(w.movedim(1, 0).reshape(len(clock), *members, *w.shape[-2:]) for w in _layers(found.values, shapes))
    final = tuple(w[-1].clone() for w in saved)
    return Solution(
        objective=objective,
        weights=final,
        times=times,
        saved=tuple(w[: len(times)] for w in saved),
        window_mean=None,
        status=status_of(objective, weights, final, tolerance, range(len(final)), noisy=False),
        stats={
            "time": time, "rtol": rtol, "atol": atol, "tolerance": tolerance, "step_limit": step_limit,
            "accepted_steps": found.accepted.reshape(members), "given_up": found.given_up.reshape(tuple(members)),
        },
    )  # fmt: skip


def _save_times(save_at, time: float) -> Tensor:
    times = _require.tensor("save_at", [0.0, time] if save_at is None else save_at)
    if times.ndim != 1 or len(times) == 0:
        raise ValueError(f"save_at: expected a list of times, got shape {tuple(times.shape)}")
    if not bool((times.diff() > 0).all()) or times[0] < 0 or times[-1] > time:
        raise ValueError(
            f"save_at: expected increasing times within [0, {time:g}], got {len(times)} from {times.min().item():.9g} "
            f"to {times.max().item():.9g}" + ("" if bool((times.diff() > 0).all()) else " that do not increase")
        )
    return times


def _flat(weights) -> Tensor:
    return torch.cat([w.flatten(-2) for w in weights], dim=-1)


def _layers(flat: Tensor, shapes) -> Weights:
    parts = flat.split([rows * columns for rows, columns in shapes], dim=-1)
    return tuple(part.unflatten(-1, shape) for part, shape in zip(parts, shapes))


def _descent_direction(objective: Objective, members: tuple[int, ...], shapes, chosen: Tensor):
    """y → −∇L − λθ for the members with these numbers, weights in one row (len(chosen), F) each."""

    def own(values: Tensor, axes: int) -> Tensor:
        if values.ndim == axes:
            return values
        return values.expand(*members, *values.shape[values.ndim - axes :]).reshape(-1, *values.shape[values.ndim - axes :])[chosen]

    x = own(objective.task.x, 2)
    targets = own(objective.targets, objective.targets.ndim - objective.task.x.ndim + 2)
    decay = own(objective.weight_decay, 0)[..., None]

    def field(y: Tensor) -> Tensor:
        return -_flat(backpropagate(objective, _layers(y, shapes), x, targets)) - decay * y

    return field
