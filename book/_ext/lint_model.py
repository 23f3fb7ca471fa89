"""What the lint looks at: pages with their cells as a reader counts them, the claims of a build, and what it finds."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import nbformat


@dataclass(frozen=True)
class Violation:
    """One fault: the file, the cell as a reader counts it with its first words, what was found, and what to do."""

    file: str
    cell: str
    message: str
    remedy: str
    rule: str = ""

    def __str__(self) -> str:
        return f"{self.file}, {self.cell}: {self.message}. Remedy: {self.remedy}"


@dataclass(frozen=True)
class Cell:
    """A cell: `count` among those of its kind ("text" or "code"), from one."""

    kind: str
    count: int
    source: str
    tags: tuple[str, ...] = ()
    outputs: tuple = ()

    @property
    def where(self) -> str:
        words = next((line.strip() for line in self.source.splitlines() if line.strip()), "empty")
        return f'{self.kind} cell {self.count} ("{words if len(words) <= 48 else words[:47] + "…"}")'

    @cached_property
    def tree(self) -> ast.Module | None:
        """The code as a tree; None where it is not plain Python."""
        try:
            return ast.parse(self.source)
        except SyntaxError:
            return None


@dataclass(frozen=True)
class Chapter:
    """A page: `name` as in _toc.yml; `executed` says whether its outputs are those of a run."""

    name: str
    file: str
    cells: tuple[Cell, ...]
    executed: bool = False

    @property
    def text_cells(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.kind == "text"]

    @property
    def code_cells(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.kind == "code"]

    @property
    def is_notebook(self) -> bool:
        return self.file.endswith(".ipynb")

    @cached_property
    def parameters(self) -> frozenset[str]:
        """Names that the cell tagged `parameters` declares."""
        trees = [cell.tree for cell in self.code_cells if "parameters" in cell.tags and cell.tree]
        return frozenset(
            node.id
            for tree in trees
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        )

    def outputs(self, key: str) -> Iterator[tuple[Cell, object, object]]:
        """Each output whose metadata has `key`, with its cell and the entry."""
        for cell in self.code_cells:
            for output in cell.outputs:
                if key in output.get("metadata", {}):
                    yield cell, output, output["metadata"][key]

    def violation(self, cell: Cell, message: str, remedy: str, *, offset: int | None = None) -> Violation:
        """A violation in `cell`; with `offset` into the text of a page that is no notebook, its line is named."""
        where = cell.where
        if not self.is_notebook:
            start = cell.source.count("\n", 0, offset or 0)
            words = cell.source.splitlines()[start].strip() if cell.source.strip() else "empty"
            where = f'line {start + 1} ("{words[:47] + "…" if len(words) > 48 else words}")'
        return Violation(self.file, where, message, remedy)


@dataclass(frozen=True)
class Allowed:
    """An entry of numbers_allowed.yml."""

    chapter: str
    text: str
    reason: str


@dataclass(frozen=True)
class Book:
    """All pages of a build and what they may refer to."""

    chapters: tuple[Chapter, ...]
    citations: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()  # relative to the book's folder
    allowed: tuple[Allowed, ...] = ()

    @cached_property
    def claims(self) -> list[dict]:
        return [record for chapter in self.chapters for _, _, records in chapter.outputs("lowrank_claims") for record in records]

    @property
    def executed(self) -> bool:
        """Every notebook has outputs of a run, so that what no claim covers is known."""
        return all(chapter.executed for chapter in self.chapters if chapter.is_notebook)

    def with_chapter(self, chapter: Chapter) -> Book:
        """The book with this page instead of the one of the same name, or beside the others."""
        others = tuple(c for c in self.chapters if c.name != chapter.name)
        return replace(self, chapters=(*others, chapter))


def chapter_of(name: str, notebook, *, file: str = "", executed: bool = False) -> Chapter:
    """The page `name` from a notebook as nbformat reads it."""
    counts = {"text": 0, "code": 0}
    cells = []
    for cell in notebook.cells:
        kind = "code" if cell.cell_type == "code" else "text"
        counts[kind] += 1
        tags = tuple(cell.get("metadata", {}).get("tags", ()))
        cells.append(Cell(kind, counts[kind], cell.source, tags, tuple(cell.get("outputs", ()))))
    return Chapter(name, file or f"book/{name}.ipynb", tuple(cells), executed)


def page_of(name: str, text: str, *, file: str = "") -> Chapter:
    """The page `name` from Markdown: one text cell."""
    return Chapter(name, file or f"book/{name}.md", (Cell("text", 1, text),))


def read_book(folder: Path, names: list[str], executions: dict, allowed: tuple[Allowed, ...]) -> Book:
    """The pages `names` of the book in `folder`; chapters as `executions` by name have them, else as committed."""
    pages = []
    for name in names:
        notebook, page = folder / f"{name}.ipynb", folder / f"{name}.md"
        if name in executions:
            pages.append(chapter_of(name, executions[name], executed=True))
        elif notebook.is_file():
            pages.append(chapter_of(name, nbformat.read(notebook, as_version=4)))
        elif page.is_file():
            pages.append(page_of(name, page.read_text(encoding="utf-8")))
    bibliographies = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.bib")))
    return Book(
        chapters=tuple(pages),
        citations=frozenset(re.findall(r"^@\w+\{\s*([^,\s]+)", bibliographies, flags=re.MULTILINE)),
        files=frozenset(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
        allowed=allowed,
    )


def dotted(node: ast.AST) -> str:
    """`a.b.c` of names and attributes; '' for anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def called(node: ast.AST) -> str:
    """Name of the function or method that a call calls, without what stands before the dot."""
    function = getattr(node, "func", None)
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""


def keyword(node: ast.Call, name: str) -> ast.expr | None:
    """The value of a call's keyword."""
    return next((k.value for k in node.keywords if k.arg == name), None)


def loaded(node: ast.AST) -> set[str]:
    """Names that an expression or statement reads."""
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


@dataclass
class Names:
    """What each name of a chapter was made from: the expressions assigned to it, also by loops, calls and functions."""

    sources: dict[str, list[ast.AST]] = field(default_factory=dict)

    @classmethod
    def of(cls, trees: list[ast.Module]) -> Names:
        names = cls()
        arguments: dict[str, list[str]] = {}
        for node in (n for tree in trees for n in ast.walk(tree)):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    names._add(target, node.value)
            elif isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)) and node.value:
                names._add(node.target, node.value)
            elif isinstance(node, (ast.For, ast.comprehension)):
                names._add(node.target, node.iter)
            elif isinstance(node, ast.FunctionDef):
                names.sources.setdefault(node.name, []).append(node)
                arguments[node.name] = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
        for node in (n for tree in trees for n in ast.walk(tree)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in arguments:
                for name, value in zip(arguments[node.func.id], node.args):
                    names.sources.setdefault(name, []).append(value)
                for k in node.keywords:
                    if k.arg:
                        names.sources.setdefault(k.arg, []).append(k.value)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                if node.func.attr in ("append", "extend", "update", "insert"):
                    names.sources.setdefault(node.func.value.id, []).extend(node.args)
        return names

    def _add(self, target: ast.AST, value: ast.AST) -> None:
        for node in ast.walk(target):
            if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
                self.sources.setdefault(node.id, []).append(value)
            elif isinstance(node, (ast.Subscript, ast.Attribute)) and isinstance(node.value, ast.Name):
                self.sources.setdefault(node.value.id, []).append(value)

    def behind(self, node: ast.AST, depth: int) -> list[ast.AST]:
        """`node` and the expressions that its names were made from, `depth` assignments back."""
        found, seen, names = [node], set(), loaded(node)
        for _ in range(depth):
            fresh = [source for name in names - seen for source in self.sources.get(name, ())]
            seen |= names
            found += fresh
            names = {name for source in fresh for name in loaded(source)} - seen
            if not names:
                break
        return found


def trees_of(chapter: Chapter) -> list[tuple[Cell, ast.Module]]:
    return [(cell, cell.tree) for cell in chapter.code_cells if cell.tree]


def imports_of(trees: list[ast.Module]) -> dict[str, str]:
    """What each imported name stands for; `X = module.function` counts as an import."""
    found: dict[str, str] = {}
    for node in (n for tree in trees for n in ast.walk(tree)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in (n for tree in trees for n in ast.walk(tree)):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            made = resolved(node.value, found)
            if made and "." in made and node.targets[0].id not in found:
                found[node.targets[0].id] = made
    return found


def resolved(node: ast.AST, imports: dict[str, str]) -> str:
    """The full name of a function or module that `node` names through imports; '' for anything else."""
    name = dotted(node)
    if not name:
        return ""
    first, *rest = name.split(".")
    return ".".join([imports[first], *rest]) if first in imports else ""
