"""Checks of the arguments of bounds: each names the argument, what was expected and what came."""

from __future__ import annotations

import numpy as np

EPS = float(np.finfo(np.float64).eps)


def refuse_zero_decay(decay):
    if not np.all(decay > 0):
        raise ValueError(f"weight_decay: expected numbers > 0, since the bound divides by it, got {decay.min():g}")


def positive(name, value, remedy=""):
    value = np.asarray(value, dtype=np.float64)
    wrong = value[~(value > 0)]
    if wrong.size:
        raise ValueError(f"{name}: expected numbers > 0, got {wrong.flat[0]:g}{remedy}")
    return value


def not_negative(name, value):
    value = np.asarray(value, dtype=np.float64)
    wrong = value[~((value >= 0) & np.isfinite(value))]
    if wrong.size:
        raise ValueError(f"{name}: expected finite numbers >= 0, got {wrong.flat[0]:g}; leave out members that diverged")
    return value


def depth_of(depth, *, minimum=1):
    depth = np.asarray(depth, dtype=np.float64)
    if not np.all((depth >= minimum) & (depth == np.round(depth))):
        raise ValueError(f"depth: expected whole numbers >= {minimum}, got {np.ravel(depth)[0]:g}")
    return depth
