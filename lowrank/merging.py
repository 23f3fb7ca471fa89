"""Several networks into one. A rule maps stacked task matrices (T, *E, m, n) to one (*E, m, n)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


def sum_weights(deltas: Tensor) -> Tensor:
    """Σ_t W_t, (*E, m, n) from (T, *E, m, n)."""
    return deltas.sum(0)


def average(deltas: Tensor) -> Tensor:
    """(1/T) Σ_t W_t, (*E, m, n) from (T, *E, m, n)."""
    return deltas.mean(0)


def merge(models: Sequence, rule: Callable[[Tensor], Tensor] = sum_weights, *, base=None):
    """base + rule(models − base), matrix by matrix; base 0 by default.

    `models` are at least two tuples of tensors, or at least two dicts or state dicts from name to tensor; the result
    is of the same kind. Raises ValueError naming the model and the entry where number, names, shapes or dtypes
    differ, or where an entry is not finite.
    """
    models = list(models)
    if len(models) < 2:
        raise ValueError(f"models: expected at least two, got {len(models)}")
    if len({isinstance(model, Mapping) for model in models}) > 1:
        raise TypeError("models: expected all tuples or all dicts, got both")
    named = [_named(f"models[{t}]", model) for t, model in enumerate(models)]
    origin = _named("base", base) if base is not None else {key: torch.zeros_like(w) for key, w in named[0].items()}
    for where, entries in [*((f"models[{t}]", n) for t, n in enumerate(named)), ("base", origin)]:
        _refuse_mismatch(where, entries, named[0])
    merged = {}
    for key, reference in named[0].items():
        delta = rule(torch.stack([entries[key] - origin[key] for entries in named]))
        if not isinstance(delta, Tensor) or delta.shape != reference.shape:
            got = tuple(delta.shape) if isinstance(delta, Tensor) else type(delta).__name__
            raise ValueError(f"rule: expected a tensor {tuple(reference.shape)} for {key}, got {got}")
        merged[key] = origin[key] + delta
    return merged if isinstance(models[0], Mapping) else tuple(merged.values())


def _named(where: str, model) -> dict[str, Tensor]:
    if isinstance(model, Mapping):
        entries = dict(model)
    elif isinstance(model, (tuple, list)):
        entries = {f"W_{k}": w for k, w in enumerate(model, start=1)}
    else:
        raise TypeError(f"{where}: expected a tuple or dict of tensors, got {type(model).__name__}")
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
        raise ValueError(f"{where}: expected the entries of models[0], got a difference in {', '.join(differing)}")
    for key, w in entries.items():
        if w.shape != reference[key].shape or w.dtype != reference[key].dtype:
            raise ValueError(
                f"{where}[{key}]: expected {tuple(reference[key].shape)} of {reference[key].dtype} as in models[0], "
                f"got {tuple(w.shape)} of {w.dtype}"
            )
