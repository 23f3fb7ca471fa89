"""What a chapter shows in words, piece by piece, each with the numbers that the code it belongs to contains."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from lint_model import Cell, Chapter, Names, called, dotted

SHOWN = {  # keywords and calls whose texts a reader sees, and what they are called
    "alt": "alternative text", "caption": "caption", "statement": "statement of a claim", "label": "label", "title": "title",
    "xlabel": "axis label", "ylabel": "axis label",
}  # fmt: skip
PRINTED = {
    "print": "printed text", "Markdown": "displayed text", "HTML": "displayed text", "Latex": "displayed text", "text": "text in a figure",
    "annotate": "text in a figure", "set_title": "title", "set_xlabel": "axis label", "set_ylabel": "axis label", "suptitle": "title",
}  # fmt: skip
LENIENT = {"statement of a claim", "label", "title", "axis label", "printed text", "name of a check"}  # whole numbers are names there
HOLE = "\N{REPLACEMENT CHARACTER}"  # what an f-string computes


@dataclass(frozen=True)
class Passage:
    """A piece of text that the reader sees; `source` is what an entry of the allow-list must occur in."""

    kind: str
    cell: Cell
    source: str
    section: str = ""
    definitions: frozenset[float] = frozenset()
    offset: int = 0  # of `source` in its cell


def passages_of(chapter: Chapter) -> Iterator[Passage]:
    codes = {id(cell): _literals(cell.tree) for cell in chapter.code_cells if cell.tree and "parameters" not in cell.tags}
    trees = [cell.tree for cell in chapter.code_cells if cell.tree and "parameters" not in cell.tags]
    names = Names.of(trees)
    tables = frozenset().union(
        *(_around(cell, names) for cell in chapter.code_cells if id(cell) in codes and _has(cell.tree, "table")), ()
    )
    constants = [source for name, made in names.sources.items() if name.isupper() for source in made]
    constant = frozenset().union(*(_literals(source) for source in constants))
    common = constant | tables
    by_section: dict[str, set[float]] = {}
    section, pieces = "", []
    for cell in chapter.cells:
        if cell.kind == "text":
            for offset, text in _sections(cell.source):
                heading = re.match(r"##\s+(.+?)\s*$", text, flags=re.MULTILINE)
                section = heading[1] if heading else section
                pieces.append((cell, section, text, offset))
        else:
            by_section.setdefault(section, set()).update(_around(cell, names) if id(cell) in codes else ())
    for cell, section, text, offset in pieces:
        yield Passage("text", cell, text, section, common.union(by_section.get(section, ())), offset)
    seen: set[tuple[int, bool]] = set()
    for cell in chapter.code_cells:
        if cell.tree and id(cell) in codes:
            yield from _shown_in(cell, names, codes[id(cell)] | constant, seen)


def _sections(text: str) -> list[tuple[int, str]]:
    """(offset, text) of the parts of a cell, each but the first beginning with a heading of the second level."""
    starts = [0, *(m.start() for m in re.finditer(r"^##\s", text, flags=re.MULTILINE) if m.start())]
    return [(a, text[a:b]) for a, b in zip(starts, [*starts[1:], len(text)])]


def _around(cell: Cell, names: Names) -> frozenset[float]:
    """Numbers of a cell, and those that are not whole in what its names were made from."""
    behind = (value for part in names.behind(cell.tree, 1)[1:] for value in _literals(part))
    return _literals(cell.tree) | {value for value in behind if value != int(value)}


def _has(tree: ast.AST, name: str) -> bool:
    return any(isinstance(node, ast.Call) and called(node) == name for node in ast.walk(tree))


def _literals(node: ast.AST) -> frozenset[float]:
    """Numbers that stand in the code, quotients and powers of literals included. Within an f-string, a caption or an
    alternative text only those that something is compared with: 'below 1e-6' if worst < 1e-6."""
    found: set[float] = set()

    def visit(part: ast.AST, shown: bool) -> None:
        if isinstance(part, ast.Constant) and isinstance(part.value, (int, float)) and not isinstance(part.value, bool) and not shown:
            found.add(float(part.value))
        elif isinstance(part, ast.BinOp) and isinstance(part.op, (ast.Pow, ast.Div)) and not shown:
            try:
                found.add(float(ast.literal_eval(part.left) ** ast.literal_eval(part.right)) if isinstance(part.op, ast.Pow)
                          else ast.literal_eval(part.left) / ast.literal_eval(part.right))  # fmt: skip
            except (ValueError, ArithmeticError):
                pass  # has names in it
        for child in ast.iter_child_nodes(part):
            hidden = shown or isinstance(part, ast.JoinedStr) or (isinstance(child, ast.keyword) and child.arg in ("alt", "caption"))
            visit(child, hidden and not isinstance(part, ast.Compare))

    visit(node, False)
    return frozenset(found)


def _shown_in(cell: Cell, names: Names, literals: frozenset[float], seen: set[tuple[int, bool]]) -> Iterator[Passage]:
    """Texts in code that a reader sees, each with the numbers of the code that it belongs to."""
    for node in ast.walk(cell.tree):
        if not isinstance(node, ast.Call):
            continue
        name = called(node)
        shown = [(SHOWN[k.arg], k.value) for k in node.keywords if k.arg in SHOWN]
        if name == "show" and dotted(node.func).endswith("figures.show"):
            shown += [("alternative text or caption", a) for a in node.args if isinstance(a, (ast.Constant, ast.JoinedStr))]
        shown += [(PRINTED[name], a) for a in node.args] if name in PRINTED else []
        if name == "glue" and len(node.args) > 1:
            shown.append(("glued text", node.args[1]))
        if name == "check" and node.args:
            shown.append(("name of a check", node.args[0]))
        for kind, value in shown:
            # A statement or a name of a check is held to the code of that check, everything else to that of its cell.
            of_check = kind in ("statement of a claim", "name of a check")
            root = node if of_check or kind in LENIENT else value
            depth, base = (3, frozenset()) if of_check else (2, literals)
            definitions = base.union(*(_literals(part) for part in names.behind(root, depth)))
            if kind == "glued text" and not any(isinstance(n, (ast.Name, ast.Call)) for n in ast.walk(value)):
                definitions = frozenset()  # gluing a literal computes nothing
            for text in _texts(value, names, numbers=kind == "glued text"):
                if (id(text[0]), kind in LENIENT) not in seen:
                    seen.add((id(text[0]), kind in LENIENT))
                    yield Passage(kind, cell, text[1], "", definitions)


def _texts(value: ast.AST, names: Names, *, numbers: bool = False, depth: int = 2) -> Iterator[tuple[ast.AST, str]]:
    """Texts that `value` may show: constants, constant parts of f-strings, also behind a name, a choice or a format."""
    if isinstance(value, ast.Constant):
        if isinstance(value.value, str) or (numbers and isinstance(value.value, (int, float)) and not isinstance(value.value, bool)):
            yield value, f"{value.value}"
    elif isinstance(value, ast.JoinedStr):
        parts = []
        for part in value.values:
            if isinstance(part, ast.Constant):
                parts.append(str(part.value))
            elif not any(isinstance(n, (ast.Name, ast.Call)) for n in ast.walk(part.value)):
                parts.append(ast.unparse(part.value).strip("'\""))  # f"{0.93}" types the number all the same
            else:
                parts.append(HOLE)
        yield value, "".join(parts)
        for part in value.values:
            if isinstance(part, ast.FormattedValue) and not isinstance(part.value, ast.Name):
                yield from _texts(part.value, names, depth=depth)
    elif isinstance(value, ast.IfExp):
        yield from _texts(value.body, names, numbers=numbers, depth=depth)
        yield from _texts(value.orelse, names, numbers=numbers, depth=depth)
    elif isinstance(value, ast.BoolOp):
        for part in value.values:
            yield from _texts(part, names, numbers=numbers, depth=depth)
    elif isinstance(value, ast.BinOp):
        for part in (value.left, value.right):
            yield from _texts(part, names, depth=depth)
    elif isinstance(value, ast.Call) and called(value) in ("format", "join", "replace", "strip", "str", "dedent", "Markdown", "HTML"):
        inner = [value.func.value] if isinstance(value.func, ast.Attribute) else []
        for part in (*inner, *value.args):
            yield from _texts(part, names, numbers=numbers, depth=depth)
    elif isinstance(value, ast.Name) and depth:
        for source in names.sources.get(value.id, ()):
            yield from _texts(source, names, numbers=numbers, depth=depth - 1)
