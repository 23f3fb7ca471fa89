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

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from lint_model import Book, Chapter, Violation
from lint_passages import HOLE, LENIENT, Passage, passages_of
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
    passages = list(passages_of(chapter))
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
