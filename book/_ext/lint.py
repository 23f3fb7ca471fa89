"""What the book may not contain. The build ends with all violations, as does

    python book/_ext/lint.py [CHAPTER ...]

which reads the stored executions of the last build, or the committed notebooks where there is none. The rules are pure functions
(chapter, book) -> violations, in lint_text.py, lint_numbers.py (which reads what lint_passages.py finds), lint_code.py and
lint_draws.py; what is typed on purpose is in numbers_allowed.yml, and {numbers-allowed} shows that list to the reader.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import chapters
import lint_code
import lint_draws
import lint_numbers
import lint_text
from lint_model import Allowed, Book, Chapter, Violation, read_book

logger = logging.getLogger(__name__)

ALLOWED = Path(__file__).with_name("numbers_allowed.yml")
REASONS = ("definition", "citation", "constant", "data")

RULES: dict[str, Callable[[Chapter, Book], list[Violation]]] = {
    "a1 no ledger entry": lint_text.statements_without_entry,
    "a2 no proof": lint_text.statements_without_proof,
    "b1 no control": lint_text.claims_without_control,
    "b2 unknown statement": lint_text.claims_of_unknown_statements,
    "c typed number": lint_numbers.typed_numbers,
    "d figure": lint_text.figures_without_words,
    "e reference": lint_text.broken_references,
    "f1 training loop": lint_code.training_loops,
    "f2 other chapter": lint_code.imports_of_chapters,
    "f3 not Python": lint_code.not_python,
    "g unseeded draw": lint_draws.unseeded_draws,
}


def check_chapter(chapter: Chapter, book: Book) -> list[Violation]:
    """Everything that one page does wrong."""
    return [replace(violation, rule=name) for name, rule in RULES.items() for violation in rule(chapter, book)]


def check_book(book: Book) -> list[Violation]:
    """Everything that the book does wrong, in the order of its pages."""
    return [*(v for chapter in book.chapters for v in check_chapter(chapter, book)), *lint_numbers.unknown_chapters(book)]


def read_allowed(path: Path = ALLOWED) -> tuple[Allowed, ...]:
    """The entries of the allow-list. Raises ValueError for an entry that is none."""
    entries = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != {"chapter", "text", "reason"} or not all(isinstance(v, str) and v for v in entry.values()):
            raise ValueError(f"{path.name}: expected entries with chapter, text and reason, got {entry!r}")
        if entry["reason"].split(":")[0] not in REASONS:
            raise ValueError(f"{path.name}: expected a reason that begins with one of {', '.join(REASONS)}, got {entry['reason']!r}")
    return tuple(Allowed(**entry) for entry in entries)


def check_build(app) -> None:
    """Ends the build with every violation at once; by SystemExit, since jupyter-book wraps other exceptions in a traceback."""
    try:
        allowed = read_allowed()
    except ValueError as error:
        raise SystemExit(f"Lint: {error}") from None
    notebooks = {name: execution.notebook for name, execution in app.lowrank_executions.items()}
    found = check_book(read_book(Path(app.srcdir), list(app.config.external_site_map), notebooks, allowed))
    if found:
        raise SystemExit(report(found))
    logger.info("lint: nothing found")


def report(found: list[Violation]) -> str:
    """All violations, a line each, under a count."""
    return "\n".join([f"Lint: {len(found)} violation{'s' if len(found) != 1 else ''}", *(f"  {violation}" for violation in found)])


class NumbersAllowed(SphinxDirective):
    """The allow-list as a table: what is typed, where, and why it may be."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(ALLOWED))
        table = nodes.table(classes=["numbers-allowed"])
        group = nodes.tgroup(cols=3)
        group += [nodes.colspec(colwidth=width) for width in (25, 50, 25)]
        head, body = nodes.thead(), nodes.tbody()
        head += self._row([nodes.Text(word) for word in ("Page", "Text", "Why it may be typed")])
        for entry in read_allowed():
            address = self.env.app.builder.get_relative_uri(self.env.docname, entry.chapter)
            page = nodes.reference("", entry.chapter, refuri=address, internal=True)
            body += self._row([page, nodes.literal(entry.text, entry.text), nodes.Text(entry.reason)])
        group += [head, body]
        table += group
        return [nodes.container("", table, classes=["claims-scroll"])]

    @staticmethod
    def _row(cells: list[nodes.Node]) -> nodes.row:
        row = nodes.row()
        for cell in cells:
            entry = nodes.entry()
            entry += nodes.paragraph("", "", cell)
            row += entry
        return row


def setup(app) -> dict:
    app.connect("builder-inited", check_build, priority=600)  # after the chapters have run
    app.add_directive("numbers-allowed", NumbersAllowed)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def main(chosen: list[str]) -> int:
    """Prints the violations of the pages `chosen`, of all by default; 1 if there are any."""
    top = Path(__file__).resolve().parents[2]
    toc = yaml.safe_load((top / "_toc.yml").read_text(encoding="utf-8"))
    pages = [toc["root"], *(entry["file"] for part in toc.get("parts", [toc]) for entry in part["chapters"])]
    unknown = [name for name in chosen if name not in pages]
    if unknown:
        print(f"CHAPTER: expected one of {', '.join(pages)}, got {', '.join(unknown)}", file=sys.stderr)
        return 2
    paths = {name: top / "book" / f"{name}.ipynb" for name in pages if (top / "book" / f"{name}.ipynb").is_file()}
    executions = chapters.stored_executions(paths, top / "_build" / "executed")
    for name in sorted(set(paths) - set(executions)):
        print(f"{name}: not run since its last change; what needs its outputs (claims, figures) is not checked", file=sys.stderr)
    try:
        book = read_book(top / "book", pages, executions, read_allowed())
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    found = check_book(book)
    if chosen:
        found = [v for page in book.chapters if page.name in chosen for v in check_chapter(page, book)]
    for violation in found:
        print(violation)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
