"""What rests on what: the book's statements and claims as a graph.

Nodes are the statements of the text and the claims of this build; edges are the {prf:ref}s of a statement and its proof,
and the theorems that a claim names. Nothing is typed by hand, so nothing can go stale.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import statements
from statements import Statement

# From bad to good; a statement is worth what the worst of its checks is worth.
VERDICTS = ("contradicted", "premises unmet", "numerically consistent", "identity checked")
STATED_ONLY = "stated only"
_PLAIN = {r"\lambda": "λ", r"\sigma": "σ", r"\theta": "θ", r"\eta": "η", r"\rho": "ρ", r"\varepsilon": "ε", r"\ell": "ℓ", r"\nabla": "∇"}


class GraphError(Exception):
    """A text whose references make no graph: every fault with file, cell and remedy, a line each."""


@dataclass(frozen=True)
class Page:
    """A page of the book as text."""

    name: str
    file: str
    title: str
    cells: tuple[str, ...]

    def place(self, cell: int) -> str:
        """Where text cell `cell` stands, in words."""
        first = next(iter(self.cells[cell - 1].strip().splitlines()), "")
        return f"{self.file}, text cell {cell} ({first[:50]})"


@dataclass(frozen=True)
class Graph:
    """Statements in the order of the book; `edges` (B, A) where A refers to B; claims by the statement that they check."""

    pages: tuple[Page, ...]
    statements: tuple[Statement, ...]
    edges: tuple[tuple[str, str], ...]
    checks: dict[str, tuple[dict, ...]]
    experiments: dict[str, tuple[dict, ...]]

    def used_by(self, label: str) -> list[str]:
        """Labels that refer to `label`."""
        return [target for source, target in self.edges if source == label]

    def status(self, statement: Statement) -> str:
        """Worst verdict of the statement's checks; without any, a definition has none and all else is stated only."""
        worst = min((VERDICTS.index(verdict(claim)) for claim in self.checks[statement.label]), default=None)
        return VERDICTS[worst] if worst is not None else "" if statement.kind == "definition" else STATED_ONLY


def read_pages(source: Path, names: Iterable[str]) -> list[Page]:
    """The pages `names` of the folder `source` that are notebooks or Markdown."""
    found = []
    for name in names:
        path = next((p for p in (source / f"{name}{suffix}" for suffix in (".ipynb", ".md")) if p.is_file()), None)
        if path:
            cells = tuple(statements.text_cells(path))
            lines = (line for cell in cells for line in cell.splitlines())
            title = next((line[2:].strip() for line in lines if line.startswith("# ")), name)
            found.append(Page(name, path.relative_to(source.parent).as_posix(), title, cells))
    return found


def gather(pages: Iterable[Page], claims: Iterable[dict]) -> Graph:
    """The graph of `pages` and of the `claims` of a build. Raises GraphError with every fault."""
    pages, claims = tuple(pages), tuple(claims)
    by_name = {page.name: page for page in pages}
    stated = [s for page in pages for s in statements.statements(page.name, list(page.cells))]
    faults = []
    for statement in stated:
        if not statement.label:
            faults.append(f"{by_name[statement.chapter].place(statement.cell)}: a {statement.kind} without a label; add a line `:label:`")
    for label, count in Counter(s.label for s in stated if s.label).items():
        if count > 1:
            places = "; ".join(by_name[s.chapter].place(s.cell) for s in stated if s.label == label)
            faults.append(f"{places}: expected each label once in the book, got {label} {count} times; rename one")
    faults += list(_unknown_labels(pages, claims, {s.label for s in stated}))
    labels = {s.label for s in stated}
    edges = tuple((source, s.label) for s in stated for source in s.references if source in labels)
    before = {s.label: [source for source, target in edges if target == s.label] for s in stated}
    try:
        graphlib.TopologicalSorter(before).prepare()
    except graphlib.CycleError as error:
        circle = error.args[1]
        places = "; ".join(by_name[s.chapter].place(s.cell) for s in stated if s.label in circle)
        faults.append(
            f"{places}: statements must not rest on each other in a circle, got {' → '.join(circle)}; "
            "take one of these references out of the statement or its proof"
        )
    if faults:
        raise GraphError("\n".join(faults))
    checks = {s.label: tuple(claim for claim in claims if s.label in claim.get("theorems", ())) for s in stated}
    experiments = {
        page.name: tuple(c for c in claims if c["chapter"] == page.name and not c.get("theorems")) for page in pages
    }
    return Graph(pages, tuple(stated), edges, checks, {name: found for name, found in experiments.items() if found})


def _unknown_labels(pages, claims, stated: set[str]) -> Iterable[str]:
    labelled = {
        block.options.get("label")
        for page in pages for cell in page.cells for block in statements.blocks(cell) if block.name.startswith("prf:")
    }  # fmt: skip
    for page in pages:
        for index, cell in enumerate(page.cells, start=1):
            for label in dict.fromkeys(statements.references(cell)):
                if label not in labelled:
                    yield f"{page.place(index)}: refers to {label}, which no statement has; correct the label or state it"
    for claim in claims:
        for label in claim.get("theorems", ()):
            if label not in stated:
                yield f"{claim['chapter']}, claim {claim['label']}: says it checks {label}, which no statement has; correct `theorem=`"


def verdict(claim: dict) -> str:
    """The verdict without its count of members."""
    return claim["verdict"].split(" (")[0]


def unnoticed(claim: dict) -> bool:
    """Whether nothing shows that this check could fail: no control, or one that passes."""
    return not (claim.get("control") and claim["control"].get("noticed"))


def plain(title: str) -> str:
    """A title as text: formulas lose their dollars, common letters become themselves."""
    for macro, letter in _PLAIN.items():
        title = title.replace(macro, letter)
    return title.replace("$", "")
