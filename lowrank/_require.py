"""Checks of arguments, so that a mistake is named where it is made."""

from __future__ import annotations

import math
import numbers

import numpy as np
import torch
from torch import Tensor


def tensor(name: str, value, *, finite: bool = True) -> Tensor:
    """`value` as a float64 tensor of its own, without a graph; refuses what is not a real, finite array."""
    try:
        # by way of NumPy, since torch reads a Python float as float32
        original = value if isinstance(value, Tensor) else torch.as_tensor(np.array(value, order="C"))
        if original.is_complex():
            raise TypeError("complex numbers")
        converted = original.detach().to(torch.float64, copy=True)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name}: expected an array of real numbers, got {type(value).__name__} ({error})"
        ) from None
    if finite and not torch.isfinite(converted).all():
        bad = int((~torch.isfinite(converted)).sum())
        raise ValueError(
            f"{name}: expected finite numbers, got {bad} of {converted.numel()} that are NaN or infinite"
        )
    return converted


def number(name: str, value, *, above=-math.inf, minimum=-math.inf, maximum=math.inf) -> float:
    """`value` as a finite float with `above < value`, `minimum <= value <= maximum`."""
    expected = "a finite number" + _range(above, minimum, maximum)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected {expected}, got {value!r}")
    if not (math.isfinite(value) and value > above and minimum <= value <= maximum):
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return float(value)


def integer(name: str, value, *, minimum: int, maximum: int | float = math.inf, even: bool = False) -> int:
    """`value` as an int with `minimum <= value <= maximum`."""
    expected = f"{'an even' if even else 'a whole'} number" + _range(-math.inf, minimum, maximum)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}: expected {expected}, got {value!r}")
    if not minimum <= value <= maximum or even and value % 2:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return int(value)


def choice(name: str, value, options) -> str:
    """`value` if it is one of `options`."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name}: expected one of {', '.join(options)}, got {value!r}")
    return value


def instance(name: str, value, kind: type):
    """`value` if it is a `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected a {kind.__name__}, got {type(value).__name__}")
    return value


def generator(value) -> torch.Generator:
    """`value` if it is a torch.Generator: randomness is always an argument."""
    if not isinstance(value, torch.Generator):
        raise TypeError(
            f"generator: expected a torch.Generator, got {value!r}; "
            "write generator=torch.Generator().manual_seed(0)"
        )
    return value


def rate(name: str, value, *, positive: bool) -> Tensor:
    """A rate, or one per member, as a float64 tensor (*E,) of numbers > 0 (or >= 0)."""
    converted = tensor(name, value)
    if not bool((converted > 0 if positive else converted >= 0).all()):
        raise ValueError(
            f"{name}: expected numbers {'>' if positive else '>='} 0, got {converted.min().item():g}"
        )
    return converted


def _range(above, minimum, maximum) -> str:
    limits = []
    if above > -math.inf:
        limits.append(f"> {above:g}")
    if minimum > -math.inf:
        limits.append(f">= {minimum:g}")
    if maximum < math.inf:
        limits.append(f"<= {maximum:g}")
    return " " + " and ".join(limits) if limits else ""
