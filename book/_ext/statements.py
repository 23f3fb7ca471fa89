"""What the book states: its definitions, lemmas, propositions, theorems and corollaries, parsed from the text.

Text cells in, frozen `Statement`s out; imports nothing of ours, so the theorem graph and the lint read the same text alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat

KINDS = ("definition", "lemma", "proposition", "theorem", "corollary")
OPAQUE = ("code", "code-block", "code-cell", "math", "literalinclude")  # directives whose body is no text of the book
_OPENING = re.compile(r"^\s*(?P<fence>`{3,}|:{3,})\s*(?:\{(?P<name>[^}]+)\})?[ \t]*(?P<argument>.*?)\s*$")
_OPTION = re.compile(r"^\s*:(?P<key>[\w-]+):\s*(?P<value>.*?)\s*$")
_REFERENCE = re.compile(r"\{prf:ref\}`(?:[^`<]*<)?\s*(?P<label>[^`<>]+?)\s*>?`")
_PROOF_OF = re.compile(rf"^\s*\({_REFERENCE.pattern}\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: `name` is the directive's, or '' for a fence that only shows code."""

    name: str
    argument: str
    options: dict[str, str]
    body: str


@dataclass(frozen=True)
class Proof:
    """A proof block: the label that it opens with, or '', and its text."""

    label: str
    text: str
    cell: int


@dataclass(frozen=True)
class Statement:
    """A labelled or unlabelled statement; `proof` is '' where its chapter gives none, `cell` counts text cells from one."""

    kind: str
    label: str
    title: str
    chapter: str
    body: str
    proof: str
    references: tuple[str, ...]
    cell: int


def statements(name: str, text_cells: list[str]) -> list[Statement]:
    """Statements of the page `name` in their order, each with the proof that opens with ({prf:ref}`its label`)."""
    proved: dict[str, str] = {}
    for proof in proofs(text_cells):
        if proof.label:
            proved[proof.label] = f"{proved[proof.label]}\n\n{proof.text}" if proof.label in proved else proof.text
    found = []
    for cell, text in enumerate(text_cells, start=1):
        for block in blocks(text):
            kind = block.name.removeprefix("prf:")
            if not block.name.startswith("prf:") or kind not in KINDS:
                continue
            label = block.options.get("label", "")
            proof = proved.get(label, "") if label else ""
            named = dict.fromkeys(references(f"{block.body}\n{proof}"))
            named.pop(label, None)
            found.append(Statement(kind, label, block.argument, name, block.body, proof, tuple(named), cell))
    return found


def proofs(text_cells: list[str]) -> list[Proof]:
    """Every proof block of a page, also those that do not say what they prove."""
    found = []
    for cell, text in enumerate(text_cells, start=1):
        for block in blocks(text):
            if block.name == "prf:proof":
                opening = _PROOF_OF.match(block.body)
                found.append(Proof(opening["label"] if opening else "", block.body, cell))
    return found


def references(text: str) -> list[str]:
    """Labels that `text` refers to by {prf:ref}, in order, with repetitions; what stands in shown code is none."""
    return [match["label"] for match in _REFERENCE.finditer("\n".join(_prose(text)))]


def text_cells(path: Path) -> list[str]:
    """Text of a page, cell by cell; a Markdown file is one cell."""
    if path.suffix != ".ipynb":
        return [path.read_text(encoding="utf-8")]
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]


def blocks(text: str) -> Iterator[Block]:
    """Fenced blocks of `text`, each before those inside it. A fence ends at the next line of as many or more of its marks."""
    for part in _parts(text):
        if isinstance(part, Block):
            yield part
            if _is_text(part):
                yield from blocks(part.body)


def _prose(text: str) -> Iterator[str]:
    """Lines of `text` and of the directives in it, without shown code."""
    for part in _parts(text):
        if not isinstance(part, Block):
            yield part
        elif _is_text(part):
            yield from _prose(part.body)


def _is_text(block: Block) -> bool:
    return bool(block.name) and block.name not in OPAQUE


def _parts(text: str) -> Iterator[str | Block]:
    """`text` as lines and outermost blocks."""
    lines = iter(text.splitlines())
    for line in lines:
        opening = _OPENING.match(line)
        if not opening or (opening["fence"][0] == "`" and "`" in opening["argument"]):
            yield line
            continue
        body = []
        for inner in lines:
            if _closes(inner, opening["fence"]):
                break
            body.append(inner)
        name = opening["name"] or ""
        options, content = _split_options(body) if name else ({}, body)
        yield Block(name, opening["argument"], options, "\n".join(content).strip())


def _closes(line: str, fence: str) -> bool:
    mark = line.strip()
    return len(mark) >= len(fence) and set(mark) == {fence[0]}


def _split_options(body: list[str]) -> tuple[dict[str, str], list[str]]:
    options = {}
    for index, line in enumerate(body):
        option = _OPTION.match(line)
        if not option:
            return options, body[index:]
        options[option["key"]] = option["value"]
    return options, []
