"""What holds: claims checked over all members at once, with a control that must fail.

`check` compares, `table` shows and records, and raises where a claim fails. The record goes into the metadata of the
output, at full precision; what is displayed keeps three digits, so that it is the same on another machine.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RECORD = "lowrank_claims"  # the key in the output's metadata
UNMET = "premises unmet"
_RELATIONS = ("<=", ">=", "==")
_ROUNDING = 1e-9  # digits of what is smaller, and of a share of it, differ between machines


class ClaimError(AssertionError):
    """A claim that does not hold though its premises do, or whose control did not fail."""


@dataclass(frozen=True, eq=False)
class Claim:
    """lhs relation rhs, up to `tolerance`, for every member; made by `check`."""

    label: str
    statement: str
    lhs: np.ndarray
    relation: str
    rhs: np.ndarray
    tolerance: np.ndarray
    premises: tuple[Claim, ...]
    control: Claim | None
    theorems: tuple[str, ...] = ()
    intervals: tuple[int, int] | None = None

    @property
    def slack(self) -> np.ndarray:
        """How far each comparison is from failing: >= 0 where it holds, nan where it was not a number."""
        with np.errstate(invalid="ignore"):
            gap = {"<=": self.rhs - self.lhs, ">=": self.lhs - self.rhs, "==": -np.abs(self.lhs - self.rhs)}
        return np.where(self.lhs == self.rhs, 0.0, gap[self.relation]) + self.tolerance

    @property
    def satisfied(self) -> np.ndarray:
        """Which comparisons hold; one with nan does not."""
        if self.relation == "==":
            return (self.lhs == self.rhs) | (np.abs(self.lhs - self.rhs) <= self.tolerance)
        return self.lhs <= self.rhs + self.tolerance if self.relation == "<=" else self.lhs >= self.rhs - self.tolerance

    @property
    def holds(self) -> bool:
        """Every comparison holds; one nan is enough to say no."""
        return bool(self.satisfied.all())

    @property
    def members(self) -> int:
        """Length of the first axis: the networks (or cases) that the claim quantifies over."""
        return int(self.lhs.shape[0]) if self.lhs.ndim else 1

    @property
    def worst(self) -> tuple[float, float, float]:
        """(lhs, rhs, tolerance) of the comparison with the least slack relative to its size, or of the first nan."""
        size = np.maximum(np.abs(self.lhs), np.abs(self.rhs)) + self.tolerance
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = np.where(np.isinf(size), 1.0, np.where(size > 0, self.slack / size, self.slack)).ravel()
            relative[~self.satisfied.ravel() & np.isinf(size.ravel())] = -1.0
        index = int(np.flatnonzero(np.isnan(relative))[0]) if np.isnan(relative).any() else int(relative.argmin())
        return tuple(float(a.ravel()[index]) for a in (self.lhs, self.rhs, self.tolerance))

    @property
    def tightness(self) -> tuple[float | None, float | None]:
        """Share of the bound that the measurement uses, (greatest, median) over all comparisons; at most 1 where it holds.

        lhs / (rhs + tolerance) for "<=" with rhs > tolerance, 0 for lhs < 0; (rhs − tolerance) / lhs for ">=" with
        rhs > tolerance; negative bounds are read with both signs turned round. A bound that does not exceed its
        tolerance has no size of its own and is left out. None where no comparison has a ratio (equalities, bounds that
        are zero), or where the ratio is no finite number.
        """
        if self.relation == "==" or np.isnan(self.lhs).any() or np.isnan(self.rhs).any():
            return None, None
        negative = self.rhs < 0
        measured, bound = np.where(negative, -self.lhs, self.lhs), np.abs(self.rhs)
        above = (self.relation == "<=") != negative  # the bound is from above, in absolute value
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            share = np.where(above, np.maximum(measured, 0) / (bound + self.tolerance), (bound - self.tolerance) / measured)
        share = np.where(~above & (measured <= 0), np.inf, share)[bound > self.tolerance]
        share = share[~np.isnan(share)]  # infinity over infinity
        return (_json(share.max()), _json(np.median(share))) if share.size else (None, None)

    @property
    def enclosed(self) -> tuple[int, int] | None:
        """(networks with an interval proof, networks): of the claim's members if those are more than were enclosed."""
        return self.intervals and (self.intervals[0], max(self.intervals[1], self.members))

    @property
    def failing_members(self) -> int:
        """Members for which a comparison fails by its numbers; nan does not count."""
        numbers = ~np.isnan(self.lhs) & ~np.isnan(self.rhs)
        return int((numbers & ~self.satisfied).reshape(self.members, -1).any(-1).sum())

    @property
    def noticed(self) -> bool | None:
        """Whether the control failed for every one of its members, as it must; None without one."""
        return None if self.control is None else self.control.failing_members == self.control.members

    @property
    def verdict(self) -> str:
        """identity checked · numerically consistent (n members) · premises unmet · contradicted."""
        if any(premise.verdict in (UNMET, "contradicted") for premise in self.premises):
            return UNMET
        if not self.holds:
            return "contradicted"
        if self.relation == "==":
            return "identity checked"
        return f"numerically consistent ({self.members} member{'s' if self.members != 1 else ''})"

    def describe(self) -> str:
        """The label, both sides and the tolerance of the worst comparison, on one line."""
        lhs, rhs, tolerance = self.worst
        return f"{self.label}: {lhs:.6g} {self.relation} {rhs:.6g} (tolerance {tolerance:.2g})"

    def record(self) -> dict:
        """The claim as JSON: everything that the ledger shows, worst comparison of each member included."""
        lhs, rhs, tolerance = self.worst
        by_member = self.slack.reshape(self.members, -1)
        tightest, median = self.tightness
        return {
            "label": self.label,
            "statement": self.statement,
            "relation": self.relation,
            "lhs": _json(lhs),
            "rhs": _json(rhs),
            "tolerance": _json(tolerance),
            "slack": [_json(value) for value in by_member.min(-1)],
            "members": self.members,
            "comparisons": int(self.slack.size),
            "verdict": self.verdict,
            "theorems": list(self.theorems),
            "enclosed": self.enclosed and dict(zip(("proved", "of"), self.enclosed)),
            "tightness": {"worst": tightest, "median": median},
            "premises": [premise.record() for premise in self.premises],
            "control": self.control
            and {**self.control.record(), "noticed": self.noticed, "failing_members": self.control.failing_members},
        }


def deviation(found, law) -> np.ndarray:
    """|found − law|, numbers, arrays or tensors that broadcast: the left side of a claim whose right side is what chance,
    or an approximation, allows. Such a claim is agreement, where "==" up to rounding is an identity."""
    return np.abs(np.asarray(found, dtype=np.float64) - np.asarray(law, dtype=np.float64))


def check(
    label: str,
    lhs,
    relation: str,
    rhs,
    *,
    tolerance=0.0,
    premises: Sequence[Claim] = (),
    control: Claim | None = None,
    statement: str = "",
    theorem: str | Sequence[str] = (),
    enclosures: Sequence = (),
) -> Claim:
    """The claim that `lhs relation rhs` holds for every member, up to `tolerance`.

    `relation` is "<=", ">=" or "==" (|lhs − rhs| ≤ tolerance). Numbers, arrays and tensors broadcast; the first axis
    is that of the members, and nan never holds. `premises` are claims without which this one says nothing;
    `control` is the same check with a premise broken, which must fail for every member. `statement` says it in words,
    and `theorem` names the label or labels of the statements in the text that it checks; an experiment has none.
    `enclosures` are interval proofs (`enclosure.enclose`) for the networks of the claim, which the ledger counts.
    Raises ValueError for an unknown relation, shapes that do not broadcast, nothing to compare or a bad tolerance, and
    TypeError for what is no number, claim, label or enclosure.
    """
    if relation not in _RELATIONS:
        raise ValueError(f"relation: expected one of {', '.join(_RELATIONS)}, got {relation!r}")
    if not isinstance(label, str) or not label:
        raise TypeError(f"label: expected a text, got {label!r}")
    if not isinstance(premises, (tuple, list)) or not all(isinstance(premise, Claim) for premise in premises):
        raise TypeError(f"{label}: expected premises as a list of claims, got {premises!r}")
    if control is not None and not isinstance(control, Claim):
        raise TypeError(f"{label}: expected a claim as control, got {control!r}")
    theorems = (theorem,) if isinstance(theorem, str) else theorem
    if not isinstance(theorems, (tuple, list)) or not all(isinstance(name, str) and name for name in theorems):
        raise TypeError(f"{label}: expected theorem as a label or a list of labels, got {theorem!r}")
    intervals = _count_proofs(label, enclosures)
    sides = [_array(label, side) for side in (lhs, rhs, tolerance)]
    shapes = ", ".join(str(side.shape) for side in sides)
    try:
        left, right, tolerated = (np.array(side) for side in np.broadcast_arrays(*sides))
        compared = np.broadcast_shapes(sides[0].shape, sides[1].shape)
    except ValueError:
        raise ValueError(f"{label}: expected lhs, rhs and tolerance that broadcast, got shapes {shapes}") from None
    if len({side.ndim for side in sides if side.ndim}) > 1 or compared != left.shape:
        raise ValueError(
            f"{label}: expected sides with the same axes, or single numbers, and a tolerance no larger, got shapes {shapes}"
        )
    if left.size == 0:
        raise ValueError(f"{label}: expected at least one comparison, got none")
    if not ((tolerated >= 0) & np.isfinite(tolerated)).all():
        raise ValueError(f"{label}: expected a finite tolerance >= 0, got {tolerated.min():g}")
    return Claim(label, statement, left, relation, right, tolerated, tuple(premises), control, tuple(theorems), intervals)


def _count_proofs(label: str, enclosures) -> tuple[int, int] | None:
    """(networks with a proof, networks) of some enclosures; None without any."""
    if isinstance(enclosures, (tuple, list)) and not enclosures:
        return None
    from .enclosure import Enclosure  # here, since it needs interval arithmetic and few claims do

    if not isinstance(enclosures, (tuple, list)) or not all(isinstance(e, Enclosure) for e in enclosures):
        raise TypeError(f"{label}: expected enclosures as a list of Enclosure, made by enclose(), got {enclosures!r}")
    exists = [np.asarray(e.exists) for e in enclosures]
    return sum(int(e.sum()) for e in exists), sum(e.size for e in exists)


def _array(label: str, side) -> np.ndarray:
    array = np.asarray(side.detach() if hasattr(side, "detach") else side)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{label}: expected real numbers, got {side!r}")
    return array.astype(np.float64)


class Table:
    """Claims side by side; renders as HTML and as text, and carries the records in its metadata."""

    def __init__(self, claims: Sequence[Claim]):
        self.claims = tuple(claims)

    def rows(self) -> list[tuple[str, ...]]:
        """One row of words a claim, numbers to three digits."""
        return [
            (c.label, c.statement, _comparison(c), f"{c.members}", _premises(c), _noticed(c), c.verdict)
            for c in self.claims
        ]

    _HEAD = ("claim", "says", "worst case", "members", "premises", "control fails", "verdict")

    def __repr__(self) -> str:
        return "\n".join(" | ".join(cell for cell in row if cell) for row in self.rows())

    def _repr_mimebundle_(self, include=None, exclude=None):
        head = "".join(f"<th>{cell}</th>" for cell in self._HEAD)
        body = "".join(
            f'<tr id="claim-{html.escape(row[0])}">' + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.rows()
        )
        markup = (
            f'<div class="claims-scroll"><table class="claims"><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )
        return {"text/plain": repr(self), "text/html": markup}, {RECORD: [c.record() for c in self.claims]}


def table(*claims: Claim) -> None:
    """Display the claims and record them for the ledger.

    Raises ClaimError with the label, both sides and the tolerance of each claim that fails though its premises hold,
    and of each control that holds for a member; ValueError for a label given twice.
    """
    from IPython.display import display

    labels = [claim.label for claim in claims]
    if len(set(labels)) != len(labels):
        raise ValueError(f"label: expected each label once, got {', '.join(labels)}")
    display(Table(claims))
    faults = [f"claim fails: {c.describe()}" for c in claims if c.verdict == "contradicted"]
    faults += [
        f"control of {c.label} fails for {c.control.failing_members} of {c.control.members} members only: "
        f"{c.control.describe()}"
        for c in claims
        if c.noticed is False and c.verdict != UNMET
    ]
    if faults:
        raise ClaimError("; ".join(faults))


def number(value: float) -> str:
    """Three significant digits; what is below 1e-9 is 0, since another machine has other digits there, or none."""
    value = float(value)
    return "0" if abs(value) < _ROUNDING else f"{value:.3g}"


def at_most(value: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is not below `value`, between 1e-20 and 1e20.

    For numbers in prose whose digits training decides: runs that never rest end elsewhere on another machine.
    Raises ValueError for a value out of that range.
    """
    return float(_STEPS[np.searchsorted(_STEPS, _within_steps(value))])


def at_least(value: float) -> float:
    """The greatest of 1, 2 and 5 times a power of ten that is not above `value`; see `at_most`."""
    return float(_STEPS[np.searchsorted(_STEPS, _within_steps(value), side="right") - 1])


_STEPS = np.array([float(f"{first}e{power}") for power in range(-20, 20) for first in (1, 2, 5)] + [1e20])


def _within_steps(value) -> float:
    if not _STEPS[0] <= float(value) <= _STEPS[-1]:
        raise ValueError(f"value: expected a number between {_STEPS[0]:g} and {_STEPS[-1]:g}, got {float(value):g}")
    return float(value)


def _comparison(claim: Claim) -> str:
    lhs, rhs, tolerance = claim.worst
    if not claim.holds:
        return f"{number(lhs)} {claim.relation} {number(rhs)} fails"
    if claim.relation == "==":  # the largest tolerance: which member is the worst, rounding decides
        return f"both sides equal within {claim.tolerance.max():.0e}" if claim.tolerance.any() else "both sides equal"
    if max(abs(lhs), abs(rhs)) < _ROUNDING and not all((side % 1 == 0).all() for side in (claim.lhs, claim.rhs)):
        return f"0 {claim.relation} 0, up to rounding"
    if lhs >= _ROUNDING and rhs > 0 and not (claim.relation == ">=" and lhs > 100 * rhs):
        share = round(100 * lhs / (rhs + tolerance))
        return f"{share} % of the bound" if share >= 10 else "under 10 % of the bound"  # how little, chance may decide
    return f"{number(lhs)} {claim.relation} {number(rhs)}"


def _premises(claim: Claim) -> str:
    return "; ".join(f"{p.label}: {'met' if p.holds else 'unmet'}" for p in claim.premises) or "none"


def _noticed(claim: Claim) -> str:
    return "no control" if claim.control is None else f"{claim.control.label}: {claim.control.failing_members} of {claim.control.members}"


def _json(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
