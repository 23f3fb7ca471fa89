"""The book's Sphinx extension: runs the chapters first, then lets the pages quote what they found.

    config-inited      an interrupted build is not trusted: its pages are thrown away
    builder-inited     all chapters are executed or found unchanged (chapters.py), outputs compared, claims gathered
                       (ledger.py); then the lint looks at everything (lint.py)
    source-read        a chapter is read with its fresh outputs, each figure with its card (cards.py)
    doctree-read       the code of each figure can be linked to
    html-page-context  each script once
    build-finished     the ledger's and the figures' files appear beside the pages
"""

from __future__ import annotations

import copy
import hashlib
import re
import shutil
from collections import Counter
from pathlib import Path

import nbformat
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import cards
import chapters
import comparison
import ledger
import mutation_record
import reproduction

logger = logging.getLogger(__name__)


def distrust_interrupted_build(app: Sphinx, config) -> None:
    """Empties the output folder if the last build did not reach its end, and marks this one as begun."""
    mark = _mark(app)
    if mark.exists():
        logger.info("the last build was interrupted: its pages are made anew")
        for folder in (Path(app.outdir), Path(app.doctreedir)):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def run_chapters(app: Sphinx) -> None:
    """Executes every chapter of the table of contents whose key is new; a failure ends the build.

    It ends by SystemExit, since jupyter-book wraps any other exception in a traceback of its own.
    """
    names = [name for name in app.config.external_site_map if (Path(app.srcdir) / f"{name}.ipynb").is_file()]
    paths = {name: Path(app.srcdir) / f"{name}.ipynb" for name in names}
    try:
        app.lowrank_executions = chapters.execute_all(
            paths, Path(app.outdir).parent / "executed", report=logger.info
        )
        app.lowrank_figures = cards.gather(app.lowrank_executions)
    except chapters.ChapterError as error:
        raise SystemExit(f"Chapter failed: {error}") from None
    labels = Counter(claim["label"] for execution in app.lowrank_executions.values() for claim in execution.claims)
    twice = [label for label, count in labels.items() if count > 1]
    if twice:
        raise SystemExit(f"Chapter failed: claim labels must be unique in the book, got twice: {', '.join(twice)}")
    for name, execution in app.lowrank_executions.items():
        committed = nbformat.read(paths[name], as_version=4)
        for line in comparison.differences(execution.notebook, committed):
            logger.warning(f"stored outputs are stale, run `make chapters`: {line}", location=name)


def find_outdated(app: Sphinx, env, added, changed, removed) -> list[str]:
    """Pages to read again: all of them once a chapter ran anew, or the ledger, an extension or a record changed."""
    keys = {name: execution.key for name, execution in app.lowrank_executions.items()}
    records = [Path(app.srcdir) / name for name in (reproduction.RECORD, mutation_record.RECORD)]
    files = [*sorted(Path(__file__).parent.glob("*.py")), *records]
    quoted = [str(keys), ledger.quoted(app), *(path.read_text(encoding="utf-8") for path in files if path.is_file())]
    state, before = hashlib.sha256("".join(quoted).encode()).hexdigest(), getattr(env, "lowrank_state", None)
    env.lowrank_state = state
    return [] if state == before else list(env.found_docs)


def insert_outputs(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replaces a chapter's text by that of the executed notebook, each figure with its card."""
    if docname not in app.lowrank_executions:
        return
    notebook = copy.deepcopy(app.lowrank_executions[docname].notebook)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "lowrank_figure" in output.get("metadata", {}):
                figure = app.lowrank_figures[output.metadata.pop("lowrank_figure")["name"]]
                output.data["text/html"] = cards.with_card(figure, root=_root(docname), page="")
    source[0] = nbformat.writes(notebook)


def mark_code(app: Sphinx, doctree: nodes.document) -> None:
    """The code of each figure can be linked to."""
    if app.env.docname in app.lowrank_executions:
        cards.mark_code(doctree, app.lowrank_executions[app.env.docname], app.lowrank_figures)


def _root(docname: str) -> str:
    return "../" * docname.count("/")


def tidy_scripts(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Each script once, and none of thebe, which nothing here uses: jupyter-book adds it twice, and MathJax twice, which
    browsers report as errors."""
    seen, kept = set(), []
    for script in context.get("script_files", []):
        identity = (getattr(script, "filename", None) or str(script), getattr(script, "attributes", {}).get("body"))
        if identity not in seen and "thebe" not in f"{identity}".lower():
            seen.add(identity)
            kept.append(script)
    context["script_files"] = kept


def plain_docstrings(app: Sphinx, what: str, name: str, obj, options, lines: list[str]) -> None:
    """Docstrings are plain text with formulas: `code` becomes literal, and *, _ and | mean themselves."""
    for index, line in enumerate(lines):
        parts = re.split(r"(`[^`]+`)", line)
        lines[index] = "".join(
            f"`{part}`" if part.startswith("`") else re.sub(r"([*_|])", r"\\\1", part) for part in parts
        )


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Writes the ledger's files and takes the mark away, unless the build failed."""
    if exception is None:
        ledger.write(app)
        cards.write_files(Path(app.outdir), app.lowrank_figures)
        _mark(app).unlink(missing_ok=True)


def _mark(app: Sphinx) -> Path:
    return Path(app.outdir).parent / ".building"


class Provenance(SphinxDirective):
    """Parameters, versions, seconds and figures of this chapter's execution."""

    def run(self) -> list[nodes.Node]:
        execution = self.env.app.lowrank_executions[self.env.docname]
        entries = [
            nodes.paragraph("", f"Ran in {execution.seconds:.1f} s on one thread, key {execution.key[:8]}, with "
                            + ", ".join(f"{name} {version}" for name, version in chapters.versions().items()) + "."),
        ]  # fmt: skip
        links = nodes.paragraph("", "Figures; the code of each is folded in the cell above it: ")
        for index, name in enumerate(execution.figures):
            links += nodes.Text(", " if index else "")
            links += nodes.reference("", name, refuri=f"#figure-{name}", internal=True)
        code = chapters.parameters(execution.notebook)
        return [*entries, links, nodes.paragraph("", "Parameters of this run:"), nodes.literal_block(code, code, language="python")]


class ChapterFigure(SphinxDirective):
    """A figure that another chapter made: `chapter name`."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        chapter, name = self.arguments
        figure = self.env.app.lowrank_figures.get(name)
        if figure is None or figure.execution.name != chapter:
            raise self.error(f"chapter-figure: expected a chapter and one of its figures, got {chapter} {name}")
        page = "" if chapter == self.env.docname else self.env.app.builder.get_relative_uri(self.env.docname, chapter)
        return [nodes.raw("", cards.with_card(figure, root=_root(self.env.docname), page=page), format="html")]


def setup(app: Sphinx) -> dict:
    app.connect("config-inited", distrust_interrupted_build, priority=900)
    app.connect("builder-inited", run_chapters)
    app.connect("env-get-outdated", find_outdated)
    app.connect("source-read", insert_outputs)
    app.connect("doctree-read", mark_code)
    if "sphinx.ext.autodoc" in app.extensions:
        app.connect("autodoc-process-docstring", plain_docstrings)
    app.connect("html-page-context", tidy_scripts, priority=900)
    app.connect("build-finished", finish)
    app.add_directive("provenance", Provenance)
    app.add_directive("chapter-figure", ChapterFigure)
    app.add_directive("reproduce", reproduction.Reproduce)
    ledger.setup(app)
    app.setup_extension("theorem_graph")
    app.setup_extension("lint")
    return {"parallel_read_safe": False, "parallel_write_safe": True}
