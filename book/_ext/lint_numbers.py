"""Numbers that were typed where a result should be computed.

A passage is a piece of what the reader sees: the text of a cell, or a caption, an alternative text, a statement, a label in a
figure, a glued or printed text in the code. A number in it is *mathematics* or a *definition*, not a result, if

* it is 0 or 1, or part of a formula in a Statement, Proof, Smallest example or Exercise, or a whole number anywhere in those;
* it is part of a formula elsewhere, whole, neither after ≈ nor the whole formula;
* the code that the passage belongs to contains it (text: the cells of its section and the table of claims; a caption: its cell,
  and what its names were made from; a statement: its check; all: CONSTANTS in upper case): a threshold or a depth that is typed in
  the code as well. Values of parameters are none;
* it is a name or a citation: digits within a word, a link, an identifier, an arXiv number.

Everything else is a typed result, unless numbers_allowed.yml has it. Percentages, "n times", "n of m" in words count as numbers.
What stays unseen: a whole number that the code happens to contain, and words such as half, twice, most.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from lint_model import Book, Cell, Chapter, Names, Violation, called, dotted
from lint_prose import DIGITS, split, split_formulas, unescaped

BY_HAND = ("Statement", "Smallest example", "Proof", "Exercises")  # sections of mathematics done by hand
WORDS = {
    word: value
    for value, word in enumerate(
        "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
        "nineteen twenty".split(), start=2)
} | {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "hundred": 100,
     "a hundred": 100, "thousand": 1000, "a thousand": 1000, "a million": 1e6, "one": 1, "zero": 0}  # fmt: skip
FRACTIONS = {"½": 0.5, "⅓": 1 / 3, "¼": 0.25, "¾": 0.75, "⅔": 2 / 3, "⅛": 0.125}
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

_WORD = "|".join(sorted(WORDS, key=len, reverse=True))
_TOKEN = re.compile(
    rf"(?<![\w.])10(?P<bare>[⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹]+)|(?P<fraction>[{''.join(FRACTIONS)}])"
    rf"|(?<![\w.^{HOLE}])(?P<number>{DIGITS})"
    rf"(?:[eE](?P<exponent>[-+−]?\d+)|\s?(?:·|×|\\cdot|\\times)\s?10(?P<power>[⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹]+|\^\{{?[-−]?\d+\}}?))?"
    rf"(?P<percent>\s?\\?%|\sper\scent|\spercent)?(?![\w{HOLE}])(?!\.\d)"
    rf"|\b(?P<word>{_WORD})(?P<unit>\s(?:per\scent|percent)|\s(?:tenth|hundredth|thousandth)s?\b|(?:-|\s)?fold\b"
    r"|\stimes(?=\s(?:as|more|less|the|small|larg|fast|slow|low|high|great|near|far|long|short|wide))|\sorders?\sof\smagnitude)"
    rf"|\b(?:a|an)\s(?P<part>tenth|hundredth|thousandth)\b",
)  # fmt: skip
_OF = re.compile(
    rf"(?<![\w.,−-])(?P<share>{_WORD}|\d+)\s(?:out\s)?of\s(?:(?:the|all|these|those|its|our)\s)?(?:{_WORD}|\d+)\b(?!\s?(?:×|x)\s?\d)"
)
_SUPERSCRIPT = str.maketrans("⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹", "-+0123456789")
_SCIENTIFIC = re.compile(r"(?:(?P<mantissa>\d+(?:\.\d+)?)\s*(?:\\cdot|\\times)\s*)?(?<![\d.])10\^(?:\{\s*(?P<long>[-+]?\d+)\s*\}|(?P<short>\d))")
_DECIMAL = re.compile(r"(?<![\w.])(?P<value>\d*\.\d+)(?P<percent>\s?\\%)?|(?<![\w.])(?P<whole>\d+)\s?\\%")
_ABOUT = re.compile(r"(?:\\approx|\\simeq|≈|≃)\s*-?(?P<value>\d+(?:\.\d+)?)(?![\d.])")
_ALONE = re.compile(r"\s*[-+−]?\s*(?P<value>\d+(?:\{?,\}?\d{3})*(?:\.\d+)?)\s*(?P<percent>\\%)?\s*")


@dataclass(frozen=True)
class Passage:
    """A piece of text that the reader sees; `source` is what an entry of the allow-list must occur in."""

    kind: str
    cell: Cell
    source: str
    section: str = ""
    definitions: frozenset[float] = frozenset()
    offset: int = 0  # of `source` in its cell


@dataclass(frozen=True)
class Typed:
    """A typed number: where it stands in its passage, and the text."""

    passage: Passage
    start: int
    end: int

    @property
    def text(self) -> str:
        return self.passage.source[self.start : self.end].strip()


def typed_numbers(chapter: Chapter, book: Book) -> list[Violation]:
    """A result number typed in text, caption, alternative text, statement or label; an entry of the allow-list gone stale."""
    passages = list(_passages(chapter))
    found = [typed for passage in passages for typed in _typed(passage)]
    violations, used = [], set()
    entries = [entry for entry in book.allowed if entry.chapter == chapter.name]
    for typed in found:
        covering = [e for e in entries if any(s <= typed.start and typed.end <= t for s, t in _spans(e.text, typed.passage.source))]
        used.update(covering)
        if not covering:
            violation = _complaint(chapter, typed)
            violations += [violation] if violation not in violations else []
    for entry in entries:
        times = sum(len(_spans(entry.text, passage.source)) for passage in passages)
        if times != 1 or entry not in used:
            found_it = "occurs nowhere" if times == 0 else f"occurs {times} times" if times > 1 else "covers no typed number"
            violations.append(Violation(
                "book/_ext/numbers_allowed.yml", f"entry for {chapter.name}", f'"{entry.text}" {found_it}',
                "remove the entry, or give a snippet of the chapter that occurs once and contains the number",
            ))  # fmt: skip
    return violations


def unknown_chapters(book: Book) -> list[Violation]:
    """Entries of the allow-list for a page that the book does not have."""
    names = {chapter.name for chapter in book.chapters}
    return [
        Violation("book/_ext/numbers_allowed.yml", f"entry for {entry.chapter}", f'"{entry.text}" is for a page that the book lacks',
                  "remove the entry, or name a page of _toc.yml")
        for entry in book.allowed if entry.chapter not in names
    ]  # fmt: skip


def _complaint(chapter: Chapter, typed: Typed) -> Violation:
    passage = typed.passage
    before, after = passage.source[max(typed.start - 36, 0) : typed.start], passage.source[typed.end : typed.end + 24]
    context = " ".join(f"{before}{passage.source[typed.start : typed.end]}{after}".replace(HOLE, "{}").split())
    if passage.cell.kind == "text":
        remedy = "compute it in a cell, glue() it and write {glue:text}`label`"
    else:
        remedy = "compute it from the data in an f-string"
    remedy += "; if it is a definition or a citation, add it to book/_ext/numbers_allowed.yml"
    return chapter.violation(
        passage.cell, f'typed number "{typed.text}" in {passage.kind}: "…{context}…"', remedy,
        offset=passage.offset + typed.start,
    )  # fmt: skip


def _spans(snippet: str, text: str) -> list[tuple[int, int]]:
    pattern = r"\s+".join(re.escape(word) for word in snippet.replace("{}", HOLE).split())
    return [match.span() for match in re.finditer(pattern, text)] if pattern else []


# --- numbers in a passage -----------------------------------------------------------------------------------------------


def _typed(passage: Passage) -> list[Typed]:
    """Typed numbers of a passage, in order, each place once."""
    by_hand = passage.section in BY_HAND
    text = passage.source
    words, formulas = split(text) if passage.cell.kind == "text" else split_formulas(text, unescaped(text))
    spans = []
    for start, end, value, certain in _in_words(words):
        whole = value == int(value) if math.isfinite(value) else False
        if certain and not by_hand:
            spans.append((start, end))
        elif whole and (value in (0, 1) or by_hand or passage.kind in LENIENT) and not _percent(words[start:end]):
            continue
        elif not _defined(value, words[start:end], passage.definitions):
            spans.append((start, end))
    for start, end in formulas:
        formula = passage.source[start:end]
        alone = _ALONE.fullmatch(formula)
        value = float(re.sub(r"[{},]", "", alone["value"])) / (100 if alone["percent"] else 1) if alone else 0
        if alone and not (by_hand and value == int(value)):
            if not _defined(value, formula, passage.definitions) and (value not in (0, 1) or alone["percent"]):
                spans.append((start, end))
        elif not by_hand:
            spans += [
                (start + s, start + e) for s, e, value in _in_formula(formula)
                if not _defined(value, formula[s:e], passage.definitions)
            ]  # fmt: skip
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return [Typed(passage, *span) for span in joined]


def _in_words(text: str) -> Iterator[tuple[int, int, float, bool]]:
    """(start, end, value, whether a result for sure) of each number in prose."""
    for match in _OF.finditer(text):
        if match["share"] != "one":
            yield *match.span(), math.nan, True
    for match in _TOKEN.finditer(text):
        yield *match.span(), _value(match), False


def _value(match: re.Match) -> float:
    if match["fraction"]:
        return FRACTIONS[match["fraction"]]
    if match["bare"]:
        return float(f"1e{match['bare'].translate(_SUPERSCRIPT)}")
    if match["part"]:
        return {"tenth": 0.1, "hundredth": 0.01, "thousandth": 0.001}[match["part"]]
    if match["word"]:
        value, unit = float(WORDS[match["word"]]), match["unit"].strip()
        parts = {"tenth": 10, "hundredth": 100, "thousandth": 1000, "per": 100}
        return value / next((size for start, size in parts.items() if unit.startswith(start)), 1)
    number = match["number"].replace(",", "")
    power = (match["exponent"] or match["power"] or "0").translate(_SUPERSCRIPT).replace("−", "-").strip("^{}")
    return float(f"{number}e{power}") / (100 if match["percent"] else 1)


def _in_formula(formula: str) -> Iterator[tuple[int, int, float]]:
    for match in _SCIENTIFIC.finditer(formula):
        yield *match.span(), float(f"{match['mantissa'] or 1}e{match['long'] or match['short']}")
    for match in _DECIMAL.finditer(formula):
        value = float(match["value"] or match["whole"])
        yield *match.span(), value / 100 if match["percent"] or match["whole"] else value
    for match in _ABOUT.finditer(formula):
        yield *match.span(), math.nan


def _percent(text: str) -> bool:
    return bool(re.search(r"%|cent|tenth|hundredth|thousandth", text))


def _defined(value: float, text: str, definitions: frozenset[float]) -> bool:
    """Whether the code has this number; one per cent may stand there as 0.01, 1.01, 0.99 or / 100."""
    forms = (value, 1 + value, 1 - value, 1 / value if value else 0) if _percent(text) else (value,)
    return any(math.isclose(form, known, rel_tol=1e-12) for form in forms for known in definitions)


# --- passages of a chapter --------------------------------------------------------------------------------------------------


def _passages(chapter: Chapter) -> Iterator[Passage]:
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

