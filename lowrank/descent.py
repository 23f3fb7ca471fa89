"""How it learns: plain gradient descent on a whole ensemble at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from . import _require
from .networks import Weights, check_weights
from .objective import Objective, backpropagate, check_members, regularised_loss, residuals
from .spectra import layer_norms


@dataclass(frozen=True, eq=False)
class WindowMean:
    """Means over the last `steps` steps: of the parameters and of ∇L, both taken before each update.

    `start` are the parameters at the window's first step, so that for plain descent
    mean(∇L + λθ) = (start − end) / (η · steps) exactly, whatever the activation. `weight_norms` and `gradient_norms` are
    the means of ‖W_k‖_F and ‖∇_{W_k}L‖_F, (*E, K): they bound the rounding error of these sums.
    """

    weights: Weights
    loss_gradients: Weights
    weight_norms: Tensor
    gradient_norms: Tensor
    start: Weights
    steps: int


@dataclass(frozen=True, eq=False)
class Solution:
    """Where training ended, and how: what every analysis takes.

    `weights` are the last ones; `saved` stacks those at `times` (steps) along a new first axis, (t, *E, m_k, m_{k−1});
    `status` is an array (*E,) of words, each `converged` | `max_steps` | `diverged` | `collapsed`; `stats` holds
    step_size, steps and the tolerance of `converged`.
    """

    objective: Objective
    weights: Weights
    times: Tensor
    saved: Weights
    window_mean: WindowMean | None
    status: np.ndarray
    stats: dict = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """How many members ended how, in words: "7 converged, 1 diverged"."""
        words, counts = np.unique(self.status, return_counts=True)
        return ", ".join(f"{count} {word}" for word, count in zip(words, counts))


class TrainingError(RuntimeError):
    """Members that diverged or collapsed to zero where a result needs them: how many, why, and what to try."""


_REMEDIES = {"diverged": "take a smaller step_size", "collapsed": "collapsed to zero: take a smaller weight_decay"}


def trained(solution: Solution) -> Solution:
    """`solution` itself, if no member diverged or collapsed.

    Raises TrainingError naming how many did, with the network, λ and η, and what to try: such members are reported,
    never plotted.
    """
    failed = [word for word in _REMEDIES if (solution.status == word).any()]
    if failed:
        objective, eta = solution.objective, solution.stats["step_size"]
        raise TrainingError(
            f"{objective.network}: {solution.outcome}, of {solution.status.size}, with weight_decay "
            f"{_span(objective.weight_decay)} and step_size {_span(eta)}; {'; '.join(_REMEDIES[word] for word in failed)}"
        )
    return solution


def _span(rate: Tensor) -> str:
    low, high = rate.min().item(), rate.max().item()
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def gradient_descent(
    objective: Objective,
    weights: Weights,
    *,
    step_size: float | Tensor,
    steps: int,
    batch_size: int | None = None,
    momentum: float = 0.0,
    save_every: int | None = None,
    window: int | None = None,
    generator: torch.Generator | None = None,
    tolerance: float = 1e-6,
) -> Solution:
    """W ← (1−ηλ) W − η∇L(W), `steps` times, for every member of the stack `weights` independently.

    `step_size` η is a number or one per member (*E,). `save_every` s keeps the weights at steps 0, s, 2s, … and the
    last; by default the first and the last. `window` w averages weights and gradients over the last w steps.
    `momentum` is torch's heavy ball on ∇L + λW. `batch_size` draws that many samples anew each step, the same for
    all members, with `generator`, which it requires.

    Every step is taken, so that laws which count steps hold exactly and members stay independent. The status of a member
    says, in this order:
    `diverged`, its weights are not finite, or L_λ ends above both its start and the zero network's value (above twice
    both, with momentum or batches, where a small rise is noise);
    `collapsed`, L_λ is within 1e-3 of the zero network's (relative to it or to the start), ‖θ‖² has fallen to a hundredth
    and each layer would shrink further: it goes to zero;
    `converged`, ‖∇L + λW‖ ≤ tolerance · (‖∇L‖ + λ‖W‖) in each layer (with λ = 0, only where ∇L = 0);
    and otherwise `max_steps`.
    Raises ValueError or TypeError, naming the argument, for anything out of range.
    """
    check_weights(_require.instance("objective", objective, Objective).network, weights)
    weights = tuple(_require.tensor(f"W_{k}", w) for k, w in enumerate(weights, start=1))
    rate = _require.rate("step_size", step_size, positive=True)
    check_members(objective, weights, step_size=rate)
    _require.integer("steps", steps, minimum=1)
    if _require.number("momentum", momentum, minimum=0.0, maximum=1.0) == 1.0:
        raise ValueError("momentum: expected a number below 1, got 1.0, which never loses speed")
    _require.number("tolerance", tolerance, minimum=0.0)
    save_every = steps if save_every is None else _require.integer("save_every", save_every, minimum=1)
    if window is not None and _require.integer("window", window, minimum=1) > steps:
        raise ValueError(f"window: expected at most steps = {steps}, got {window}")
    x, targets = objective.task.x, objective.targets
    if batch_size is not None:
        _require.generator(generator)
        if _require.integer("batch_size", batch_size, minimum=1) > x.shape[-2]:
            raise ValueError(f"batch_size: expected at most n = {x.shape[-2]}, got {batch_size}")

    # glibc keeps freed memory up to twice the largest block freed so far: without this one, every temporary of a step
    # is given back to the system and faulted in again, which takes as long as the arithmetic.
    torch.empty(30 * 2**20, dtype=torch.uint8)

    decay = objective.weight_decay[..., None, None]
    eta = rate[..., None, None]
    shrink = 1 - eta * decay
    current = list(weights)  # copies already
    initial = tuple(w.clone() for w in weights)
    velocity = [torch.zeros_like(w) for w in weights] if momentum else None
    window_start = steps - window if window else steps
    sums = start = None
    times, saved = [0], [[w] for w in initial]

    for step in range(steps):
        if batch_size is not None:
            chosen = torch.randperm(objective.task.x.shape[-2], generator=generator)[:batch_size]
            x = objective.task.x[..., chosen, :]
            targets = objective.targets.index_select(objective.task.x.ndim - 2, chosen)
        gradients = backpropagate(objective, current, x, targets)
        if step >= window_start:
            terms = (*current, *gradients)
            if sums is None:
                start = tuple(w.clone() for w in current)
                sums = [torch.zeros_like(w) for w in terms]
                norm_sums = torch.zeros_like(layer_norms(terms))
            for total, term in zip(sums, terms):
                total += term
            norm_sums += layer_norms(terms)
        if velocity is None:
            for w, g in zip(current, gradients):
                w.mul_(shrink).sub_(g.mul_(eta))
        else:
            for w, g, v in zip(current, gradients, velocity):
                v.mul_(momentum).add_(g).add_(decay * w)
                w.sub_(eta * v)
        done = step + 1
        if done % save_every == 0 or done == steps:
            times.append(done)
            for kept, w in zip(saved, current):
                kept.append(w.clone())

    final = tuple(current)
    mean = None
    if sums is not None:
        layers = len(final)
        means, norms = tuple(total / window for total in sums), norm_sums / window
        mean = WindowMean(means[:layers], means[layers:], norms[..., :layers], norms[..., layers:], start, window)
    return Solution(
        objective=objective,
        weights=final,
        times=torch.tensor(times),
        saved=tuple(torch.stack(kept) for kept in saved),
        window_mean=mean,
        status=_status(objective, initial, final, tolerance, noisy=bool(momentum or batch_size)),
        stats={"step_size": rate, "steps": steps, "momentum": momentum, "tolerance": tolerance},
    )


def _finite(weights) -> Tensor:
    return torch.stack([torch.isfinite(w).all(-1).all(-1) for w in weights]).all(0)


def _status(objective: Objective, initial: Weights, final: Weights, tolerance: float, *, noisy: bool) -> np.ndarray:
    finite = _finite(final)
    safe = tuple(torch.where(finite[..., None, None], w, 0.0) for w in final)
    zero = regularised_loss(objective, tuple(torch.zeros_like(w) for w in final))
    before, after = regularised_loss(objective, initial), regularised_loss(objective, safe)
    highest = torch.maximum(before, zero)
    diverged = ~finite | ~torch.isfinite(after) | (after > highest * (2 if noisy else 1 + 1e-9))

    forces = residuals(objective, safe)
    shrinking = torch.stack([(g * w).sum((-2, -1)) >= 0 for g, w in zip(forces, safe)]).all(0)
    squares = [layer_norms(weights).square().sum(-1) for weights in (initial, safe)]
    collapsed = ((after - zero).abs() <= 1e-3 * highest) & (squares[1] <= 1e-2 * squares[0]) & shrinking

    norms = layer_norms(safe) * objective.weight_decay[..., None]
    gradients = layer_norms(backpropagate(objective, safe, objective.task.x, objective.targets))
    converged = (layer_norms(forces) <= tolerance * (norms + gradients)).all(-1)

    status = np.full(finite.shape, "max_steps", dtype="<U9")
    for word, holds in (("converged", converged), ("collapsed", collapsed), ("diverged", diverged)):
        status[holds.numpy()] = word
    return status
