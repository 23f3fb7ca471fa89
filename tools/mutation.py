"""A wrong version of the package by one small change, and the names that the lists of them share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """`old` stands once in `file` and becomes `new`; `why` a correct book must notice; the `chapters` to try first, and the
    claims (`targets`) expected to fail, none where only tests can tell."""

    name: str
    file: str
    old: str
    new: str
    why: str
    chapters: tuple[str, ...]
    targets: tuple[str, ...] = ()


A, N, B, F = (f"theorems/{name}" for name in ("alignment", "norm_preservation", "low_rank_bias", "gradient_flow"))
L, C, G = (f"theorems/{name}" for name in ("deep_linear", "certificates", "global_optimum"))
SR, ML, AO, MANY, D = (f"merging/{name}" for name in ("shallow_relu", "deep_linear", "approximate_orthogonality", "many_tasks", "digits"))


def of(module: str):
    """A function that makes mutations of `lowrank/{module}.py`; chapters are one or several, targets words of a text."""

    def make(name, old, new, why, chapters, targets="") -> Mutation:
        chosen = tuple(chapters) if isinstance(chapters, (tuple, list)) else (chapters,)
        return Mutation(name, f"lowrank/{module}.py", old, new, why, chosen, tuple(targets.split()))

    return make
