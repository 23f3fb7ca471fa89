"""Several networks into one. A rule maps stacked task matrices (T, *E, m, n) to one (*E, m, n); `interference` measures what
merging does to outputs; `merge_changes` says it beforehand, from weights and second moments.

Rules compute in the dtype of what they are given. Where a sum leaves its range a rule returns infinity, as torch does,
and raises nothing; `merge` then refuses the result, naming the entry. This goes for the average too, which sums first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from . import _require
from ._numbers import EPS
from .descent import Solution
from .merge_changes import decision_distance, layer_changes, predicted_change, second_moments  # noqa: F401 (called by this name, too)
from .networks import Network, Weights, forward
from .tasks import Task

Rule = Callable[[Tensor], Tensor]


def sum_weights(deltas: Tensor) -> Tensor:
    """Σ_t W_t, (*E, m, n) from (T, *E, m, n)."""
    return deltas.sum(0)


def average(deltas: Tensor) -> Tensor:
    """(1/T) Σ_t W_t, (*E, m, n) from (T, *E, m, n); infinite where Σ_t W_t overflows, though the average might not."""
    return deltas.mean(0)


def task_arithmetic(*, scale: float) -> Rule:
    """The rule α Σ_t W_t, α = `scale`, (*E, m, n) from (T, *E, m, n) (Ilharco et al. 2023).

    It is meant for `base` the common start. Without a base, α > 0 multiplies the output of a bias-free network of
    degree 1 by α^K and changes no label. A negative α unlearns. Infinite where Σ_t W_t overflows, or α times it; NaN where
    α is 0 and it does.
    """
    scale = _require.number("scale", scale)
    return lambda deltas: scale * deltas.sum(0)


def ties(*, density: float) -> Rule:
    """The rule (1/|A|) Σ_{t∈A} Ŵ_t, entry by entry: trim, elect sign, disjoint mean, (*E, m, n) from (T, *E, m, n).

    Ŵ_t keeps the ⌈density·mn⌉ entries of W_t largest in size, one at least, and is 0 elsewhere; A holds the tasks whose
    Ŵ_t has the sign of Σ_t Ŵ_t; 0 where that sum is 0. Yadav et al. 2023 (TIES-merging), written from their description.
    They trim all layers of a network together; a rule sees one matrix at a time: for theirs, `merge` networks flattened
    into one (1, N) matrix. Give a bias a last axis, (*E, m, 1). Infinite where the entries that agree sum to more than
    the dtype holds. The rule raises ValueError for deltas without two axes of a matrix.
    """
    density = _require.number("density", density, above=0.0, maximum=1.0)

    def rule(deltas: Tensor) -> Tensor:
        if deltas.ndim < 3:
            raise ValueError(f"deltas: expected matrices (T, *E, m, n), got {tuple(deltas.shape)}; give a bias a last axis")
        flat = deltas.flatten(-2)
        kept = math.ceil(density * flat.shape[-1] * (1 - 2 * EPS))  # 0.07 · 100 is 7 and a little more in floating point
        top = flat.abs().topk(kept, dim=-1).indices
        trimmed = torch.zeros_like(flat).scatter(-1, top, flat.gather(-1, top))
        sign = trimmed.sum(0).sign()
        agreeing = trimmed.sign() == sign  # where no sign is elected only zeros agree
        mean = (trimmed * agreeing).sum(0) / agreeing.sum(0).clamp_min(1)
        return mean.unflatten(-1, deltas.shape[-2:])

    return rule


def merge(models: Sequence, rule: Rule = sum_weights, *, base=None):
    """base + rule(models − base), matrix by matrix; base 0 by default.

    `models` are at least two tuples of tensors, or at least two dicts or state dicts from name to tensor; the result
    is of the same kind. Biases are tensors like others here; what the theorems say of sums is not about them, and
    `interference` refuses them. Raises ValueError naming the model and the entry where number, names, shapes or dtypes
    differ, or where an entry or what the rule makes of it is not finite, by overflow for instance; TypeError for a rule
    that is not one. Activations are no part of weights: that they are the same is for the caller to know.
    """
    if isinstance(rule, (tuple, list, Mapping, Solution)):
        raise TypeError(f"rule: expected a function of stacked matrices, got a {type(rule).__name__}; put the networks into one list, [A, B]")
    models = _several(models)
    if rule in (task_arithmetic, ties):
        raise TypeError(f"rule: expected {rule.__name__}(…) with its number, got {rule.__name__} itself")
    if not callable(rule):
        raise TypeError(f"rule: expected a function of stacked matrices, such as sum_weights, got {type(rule).__name__}")
    if len({isinstance(model, Mapping) for model in models}) > 1:
        raise TypeError("models: expected all tuples or all dicts, got both; turn the tuples into dicts from name to tensor")
    named = [_named(f"models[{t}]", model) for t, model in enumerate(models)]
    origin = _named("base", base) if base is not None else {key: torch.zeros_like(w) for key, w in named[0].items()}
    for where, entries in [*((f"models[{t}]", n) for t, n in enumerate(named)), ("base", origin)]:
        _refuse_mismatch(where, entries, named[0])
    merged = {}
    for key, reference in named[0].items():
        deltas = torch.stack([entries[key] - origin[key] for entries in named])
        if not torch.isfinite(deltas).all():
            raise ValueError(f"base[{key}]: expected differences to the models within {reference.dtype}, got infinity; {_OVERFLOW}")
        delta = rule(deltas)
        if not isinstance(delta, Tensor) or delta.shape != reference.shape:
            got = tuple(delta.shape) if isinstance(delta, Tensor) else type(delta).__name__
            raise ValueError(f"rule: expected a tensor {tuple(reference.shape)} for {key}, got {got}")
        merged[key] = origin[key] + delta
        if not torch.isfinite(merged[key]).all():
            raise ValueError(f"rule: expected finite numbers for {key}, got NaN or infinity; {_OVERFLOW}")
    return merged if isinstance(models[0], Mapping) else tuple(merged.values())


_OVERFLOW = "where sums overflow, convert to a wider dtype or scale the weights down"


def interference(
    models: Sequence, task: Task, *, rule: Rule = sum_weights, network: Network | None = None, base=None
) -> Tensor:
    """f_merged(x_i) − f_t(x_i) at the task's inputs, (T, *E, n), or (T, *E, n, c) for c > 1 outputs; t over `models`.

    `models` are at least two `Solution`s, whose network is known; or tuples, dicts or state dicts of weight matrices in
    the order of the layers, the same for all, with `network`, by default `Network(widths)` on the widths that the shapes have, a ReLU network.
    `base` as in `merge`, a tuple or dict of matrices. Raises ValueError naming the model for different networks
    (shapes or activations), for shapes that do not chain, and for biases; TypeError for what is not float64.
    """
    _require.instance("task", task, Task)
    models = _several(models)
    if network is not None:
        _require.instance("network", network, Network)
    for t, model in enumerate(models):
        if isinstance(model, Solution):
            network = network or model.objective.network
            if model.objective.network != network:
                raise ValueError(
                    f"models[{t}]: expected a solution for {network}, got one for {model.objective.network}; merge "
                    "networks of one shape and activation"
                )
    named = [(f"models[{t}]", model) for t, model in enumerate(models)] + [("base", base)]
    orders = [(where, list(model)) for where, model in named if isinstance(model, Mapping)]
    for where, order in orders:
        if order != orders[0][1]:
            raise ValueError(f"{where}: expected the entries of {orders[0][0]} in their order, {orders[0][1]}, got {order}")
    weights = [_matrices(f"models[{t}]", model) for t, model in enumerate(models)]
    merged = merge(weights, rule, base=None if base is None else _matrices("base", base))
    network = network or Network((weights[0][0].shape[-1], *(w.shape[-2] for w in weights[0])))
    after = forward(network, merged, task.x)
    change = torch.stack([after - forward(network, own, task.x) for own in weights])
    return change[..., 0] if network.widths[-1] == 1 else change


def _several(models: Sequence) -> list:
    if isinstance(models, (Tensor, Mapping, Solution)) or not hasattr(models, "__iter__"):
        raise TypeError(f"models: expected a list of at least two networks, got {type(models).__name__}; put the networks into one list, [A, B]")
    models = list(models)
    if len(models) < 2:
        raise ValueError(f"models: expected at least two, got {len(models)}; put the networks into one list, [A, B]")
    return models


def _matrices(where: str, model) -> Weights:
    """The weight matrices of a model, in the order of its layers; refuses biases and shapes that do not chain."""
    entries = _named(where, model.weights if isinstance(model, Solution) else model)
    for key, w in entries.items():
        if w.ndim < 2 or str(key).split(".")[-1].startswith("bias"):
            raise ValueError(
                f"{where}[{key}]: expected weight matrices only, got shape {tuple(w.shape)}; a bias is the weight of a constant "
                "input, which every task has, so that no two tasks are orthogonal: train without, or use merge() alone"
            )
    weights = tuple(entries.values())
    for k, (below, above) in enumerate(zip(weights, weights[1:]), start=2):
        if above.shape[-1] != below.shape[-2]:
            raise ValueError(
                f"{where}: expected matrices in the order of the layers, each taking what the one before gives; W_{k} takes "
                f"{above.shape[-1]} and gets {below.shape[-2]}"
            )
    return weights


def _named(where: str, model) -> dict[str, Tensor]:
    if isinstance(model, Mapping):
        entries = dict(model)
    elif isinstance(model, (tuple, list)):
        entries = {f"W_{k}": w for k, w in enumerate(model, start=1)}
    else:
        remedy = "; pass its .weights" if isinstance(model, Solution) else ""
        remedy = "; put the networks into one list, [A, B], each a tuple of its matrices" if isinstance(model, Tensor) else remedy
        raise TypeError(f"{where}: expected a tuple or dict of tensors, got {type(model).__name__}{remedy}")
    if not entries:
        raise ValueError(f"{where}: expected at least one tensor, got none")
    for key, w in entries.items():
        if not isinstance(w, Tensor):
            raise TypeError(f"{where}[{key}]: expected a tensor, got {type(w).__name__}")
        if not w.is_floating_point():
            raise TypeError(f"{where}[{key}]: expected floating-point numbers, got {w.dtype}")
        if not torch.isfinite(w).all():
            raise ValueError(f"{where}[{key}]: expected finite numbers, got NaN or infinity")
    return entries


def _refuse_mismatch(where: str, entries: dict[str, Tensor], reference: dict[str, Tensor]):
    if entries.keys() != reference.keys():
        differing = sorted(map(str, entries.keys() ^ reference.keys()))
        raise ValueError(f"{where}: expected the entries of models[0], got a difference in {', '.join(differing)}; merge networks of one shape")
    for key, w in entries.items():
        if w.shape != reference[key].shape or w.dtype != reference[key].dtype:
            raise ValueError(
                f"{where}[{key}]: expected {tuple(reference[key].shape)} of {reference[key].dtype} as in models[0], "
                f"got {tuple(w.shape)} of {w.dtype}; {'convert it' if w.shape == reference[key].shape else 'merge networks of one shape'}"
            )
