"""Fresh outputs of a chapter against the stored ones: nbval's own comparison, but for the last digit of what is measured.

Another machine adds in another order, and a value next to a rounding boundary then falls on its other side. So a
measured number may differ by one unit in the last digit shown; counts and words may not differ at all.
"""

from __future__ import annotations

import copy
import os
import re
from decimal import Decimal
from types import SimpleNamespace

import nbformat
from nbval.plugin import IPyNbCell, coalesce_streams, nocolors

IGNORED = "nbval-ignore-output"
# A number that is no part of a word: (decimals), (exponent), (a % after it)
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.(\d+))?(?:e([-+]?\d+))?(?![\w.]*\w)(?= ?(%)?)")


def differences(fresh: nbformat.NotebookNode, committed: nbformat.NotebookNode) -> list[str]:
    """Where fresh outputs are not the committed ones; a line for each cell."""
    found = []
    both = zip(*([cell for cell in notebook.cells if cell.cell_type == "code"] for notebook in (fresh, committed)), strict=True)
    for index, (new, old) in enumerate(both, start=1):
        noisy = [o for o in new.outputs if o.output_type == "stream" and o.name == "stderr"]
        if noisy:
            found.append(f"code cell {index} writes to stderr: {noisy[0].text.strip().splitlines()[-1]}")
        if IGNORED in new.metadata.get("tags", []):
            continue
        comparison = _Comparison()
        # What a cell prints arrives in as many pieces as the kernel's clock makes of it.
        ours, theirs = (coalesce_streams(copy.deepcopy(cell.outputs)) for cell in (new, old))
        if not comparison.compare_outputs([_settled(*pair) for pair in zip(ours, theirs)] + ours[len(theirs) :], theirs):
            found.append(f"code cell {index} {' '.join(comparison.comparison_traceback)}")
    return found


def settled(ours: str, theirs: str) -> str:
    """`theirs` if the texts differ in measured numbers alone, each by at most a unit of the last digit; otherwise `ours`.

    Measured is what shows a point, an exponent or a per cent sign. The finer of the two last digits counts, since
    formatting drops zeros at the end: 0.8 may be 0.80, and 0.70 is not.
    """
    if _NUMBER.sub("", ours) != _NUMBER.sub("", theirs):
        return ours
    pairs = zip(_NUMBER.finditer(ours), _NUMBER.finditer(theirs))
    return theirs if all(a[0] == b[0] or _within_a_unit(a, b) for a, b in pairs) else ours


def _within_a_unit(a: re.Match, b: re.Match) -> bool:
    units = [Decimal(1).scaleb(int(number[2] or 0) - len(number[1] or "")) for number in (a, b)]
    return any(any(number.groups()) for number in (a, b)) and abs(Decimal(a[0]) - Decimal(b[0])) <= min(units)


def _settled(new, old):
    """The fresh output, with the stored text in place of its own where both agree up to the last digit."""
    if "text" in new and "text" in old:
        new["text"] = settled(new["text"], old["text"])
    if "data" in new and "data" in old:
        texts = {kind for kind in new["data"].keys() & old["data"].keys() if isinstance(new["data"][kind], str)}
        new["data"] |= {kind: settled(new["data"][kind], old["data"][kind]) for kind in texts}
    return new


class _Comparison:
    """What nbval's comparison needs of a cell, without a pytest session around it."""

    compare_outputs = IPyNbCell.compare_outputs
    colors = nocolors
    parent = SimpleNamespace(skip_compare=(
        "metadata", "traceback", "prompt_number", "output_type", "name", "execution_count", "image/png", "image/jpeg",
    ))  # fmt: skip

    @staticmethod
    def sanitize(text):
        return text

    def format_output_compare(self, mime, committed, fresh):
        pairs = zip(f"{committed}".splitlines(), f"{fresh}".splitlines())
        old, new = next(((a, b) for a, b in pairs if a != b), (committed, fresh))
        start = max(len(os.path.commonprefix([f"{old}", f"{new}"])) - 60, 0)  # what differs, with some words before it
        self.comparison_traceback.append(f"{mime}: committed {_shorten(old, start)}, fresh {_shorten(new, start)}")


def _shorten(value, start: int, length: int = 160) -> str:
    text = " ".join(str(value)[start:].split())
    text = f"…{text}" if start else text
    return repr(text if len(text) <= length else text[: length - 1] + "…")
