"""How it learns: plain gradient descent, on a whole ensemble at once, and what training returns; `flow` has gradient flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from . import _require
from .networks import Weights, check_weights
from .objective import Objective, backpropagate, check_members, regularised_loss, residuals, sample_losses
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

    `weights` are the last ones; `saved` stacks those at `times` (steps of descent, time of flow) along a new first axis,
    (t, *E, m_k, m_{k−1}); `status` is an array (*E,) of words, each `converged` | `max_steps` | `diverged` |
    `collapsed`; `stats` holds the tolerance of `converged` and how it was run: for descent step_size and steps, for
    flow time, rtol, atol, and per member (*E,) accepted_steps and given_up (a reason, or "").
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
_FLOW_REMEDIES = {
    "step limit": "the integrator gave up at its step limit: take a shorter time, a larger rtol or a larger step_limit (a "
    "ReLU flow that slides along a kink needs more steps than any limit)",
    "not finite": "the integrator met numbers that are not finite: take smaller starting weights",
}


def trained(solution: Solution) -> Solution:
    """`solution` itself, if no member diverged or collapsed.

    Raises TrainingError naming how many did, with the network, λ and η (or the time of a flow), and what to try: such
    members are reported, never plotted.
    """
    failed = [word for word in _REMEDIES if (solution.status == word).any()]
    if failed:
        objective, stats = solution.objective, solution.stats
        run, remedies = _length(stats), []
        for word in failed:
            reasons = np.unique(stats["given_up"]) if word == "diverged" and "given_up" in stats else ()
            remedies += [_FLOW_REMEDIES[reason] for reason in reasons if reason] or [_REMEDIES[word]]
        raise TrainingError(
            f"{objective.network}: {solution.outcome}, of {solution.status.size}, with weight_decay "
            f"{_span(objective.weight_decay)} and {run}; {'; '.join(remedies)}"
        )
    return solution


def _length(stats: dict) -> str:
    """What a run was made with: η of descent, the time of a flow, the tolerance of second-order steps."""
    if "step_size" in stats:
        return f"step_size {_span(stats['step_size'])}"
    return f"time {stats['time']:g}" if "time" in stats else f"tolerance {stats['tolerance']:g}"


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
    frozen: Sequence[int] = (),
    generator: torch.Generator | None = None,
    tolerance: float = 1e-6,
) -> Solution:
    """W ← (1−ηλ) W − η∇L(W), `steps` times, for every member of the stack `weights` independently.

    `step_size` η is a number or one per member (*E,). `save_every` s keeps the weights at steps 0, s, 2s, … and the
    last; by default the first and the last. `window` w averages weights and gradients over the last w steps.
    `momentum` is torch's heavy ball on ∇L + λW. `frozen` are numbers k of layers W_k that stay as they are, without
    gradient and without decay; what the status says is then of the others. `batch_size` draws that many samples anew each step, the same for
    all members, with `generator`, which it requires.

    Every step is taken, so that laws which count steps hold exactly and members stay independent. The status of a member
    says, in this order:
    `diverged`, its weights are not finite, or L_λ ends above both its start and the zero network's value (above twice
    both, with momentum or batches, where a small rise is noise);
    `collapsed`, it goes to zero: its outputs change the losses of the inputs by less than 1e-3 of the zero network's, in the
    mean of absolute values; L_λ is above the zero network's, from below descent does not come to zero, but by 1e-3 of that
    loss at most; ‖θ‖² has fallen to a hundredth; and each layer would shrink further (near a saddle at zero a network may
    still turn);
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
    learning = _learning(objective.network.depth, frozen)
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
            for k in learning:
                current[k].mul_(shrink).sub_(gradients[k].mul_(eta))
        else:
            for k in learning:
                velocity[k].mul_(momentum).add_(gradients[k]).add_(decay * current[k])
                current[k].sub_(eta * velocity[k])
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
        status=status_of(objective, initial, final, tolerance, learning, noisy=bool(momentum or batch_size)),
        stats=dict(step_size=rate, steps=steps, momentum=momentum, batch_size=batch_size, frozen=tuple(frozen), tolerance=tolerance),
    )


def _learning(depth: int, frozen: Sequence[int]) -> list[int]:
    """Positions, from 0, of the layers that are not frozen."""
    if not isinstance(frozen, Sequence) or isinstance(frozen, str):
        raise TypeError(f"frozen: expected numbers of layers such as (2,), got {frozen!r}")
    learning = set(range(depth)) - {_require.integer("frozen", k, minimum=1, maximum=depth) - 1 for k in frozen}
    if not learning:
        raise ValueError(f"frozen: expected at least one of {depth} layers to learn, got all of them")
    return sorted(learning)


def _finite(weights) -> Tensor:
    return torch.stack([torch.isfinite(w).all(-1).all(-1) for w in weights]).all(0)


def status_of(
    objective: Objective, initial: Weights, final: Weights, tolerance: float, learning: Sequence[int], *, noisy: bool
) -> np.ndarray:
    finite = _finite(final)
    safe = tuple(torch.where(finite[..., None, None], w, 0.0) for w in final)
    silent = tuple(w * (k not in learning) for k, w in enumerate(initial))
    zero, before, after = (regularised_loss(objective, weights) for weights in (silent, initial, safe))
    highest = torch.maximum(before, zero)
    diverged = ~finite | ~torch.isfinite(after) | (after > highest * (2 if noisy else 1 + 1e-9))

    forces = residuals(objective, safe)
    shrinking = torch.stack([(forces[k] * safe[k]).sum((-2, -1)) >= 0 for k in learning]).all(0)
    squares = [layer_norms([weights[k] for k in learning]).square().sum(-1) for weights in (initial, safe)]
    # Each input counts by itself: a loss that is right in the mean is passed by large outputs on their way, too.
    unheard = sample_losses(objective, silent)
    small = 1e-3 * unheard.mean(-1)
    nothing_said = (sample_losses(objective, safe) - unheard).abs().mean(-1) <= small
    nothing_won = (after >= zero * (1 - 1e-12)) & (after <= zero + small)  # 1e-12: rounding
    collapsed = nothing_said & nothing_won & (squares[1] <= 1e-2 * squares[0]) & shrinking

    norms = layer_norms(safe) * objective.weight_decay[..., None]
    gradients = layer_norms(backpropagate(objective, safe, objective.task.x, objective.targets))
    converged = (layer_norms(forces) <= tolerance * (norms + gradients))[..., list(learning)].all(-1)

    status = np.full(finite.shape, "max_steps", dtype="<U9")
    for word, holds in (("converged", converged), ("collapsed", collapsed), ("diverged", diverged)):
        status[holds.numpy()] = word
    return status
