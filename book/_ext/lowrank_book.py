"""The book's Sphinx extension: runs the chapters first, then lets the pages quote what they found.

    config-inited      an interrupted build is not trusted: its pages are thrown away
    builder-inited     all chapters are executed or found unchanged (chapters.py), outputs compared, claims gathered
                       (ledger.py); then the lint looks at everything (lint.py)
    source-read        a chapter is read with its fresh outputs
    html-page-context  each script once
    build-finished     the ledger's files appear beside the pages
"""

from __future__ import annotations

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

import chapters
import ledger

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
    except chapters.ChapterError as error:
        raise SystemExit(f"Chapter failed: {error}") from None
    labels = Counter(claim["label"] for execution in app.lowrank_executions.values() for claim in execution.claims)
    twice = [label for label, count in labels.items() if count > 1]
    if twice:
        raise SystemExit(f"Chapter failed: claim labels must be unique in the book, got twice: {', '.join(twice)}")
    for name, execution in app.lowrank_executions.items():
        committed = nbformat.read(paths[name], as_version=4)
        for line in chapters.differences(execution.notebook, committed):
            logger.warning(f"stored outputs are stale, run `make chapters`: {line}", location=name)


def find_outdated(app: Sphinx, env, added, changed, removed) -> list[str]:
    """Pages to read again: chapters that ran anew, and all pages once the ledger or an extension has changed."""
    state = {name: execution.key for name, execution in app.lowrank_executions.items()}
    sources = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))]
    quoted = "".join([ledger.quoted(app), *sources])
    state["claims"] = hashlib.sha256(quoted.encode()).hexdigest()
    before = getattr(env, "lowrank_state", {})
    env.lowrank_state = state
    if before.get("claims") != state["claims"]:
        return list(env.found_docs)
    return [name for name in app.lowrank_executions if before.get(name) != state[name]]


def insert_outputs(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replaces a chapter's text by that of the executed notebook, each figure linked with the cell that draws it."""
    if docname not in app.lowrank_executions:
        return
    notebook = nbformat.from_dict(app.lowrank_executions[docname].notebook)
    cells = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "lowrank_figure" in output.get("metadata", {}):
                name = output.metadata["lowrank_figure"]["name"]
                cells.append(nbformat.v4.new_markdown_cell(f'<a class="code-anchor" id="code-{name}"></a>'))
                output.data["text/html"] = _with_code_link(output.data["text/html"], f"#code-{name}")
        cells.append(cell)
    notebook.cells = cells
    source[0] = nbformat.writes(notebook)


def _with_code_link(markup: str, target: str) -> str:
    return markup.replace("</figcaption>", f' <a href="{target}">Code of this figure</a></figcaption>')


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
        figures = self.env.app.lowrank_executions[chapter].figures if chapter in self.env.app.lowrank_executions else {}
        if name not in figures:
            raise self.error(f"chapter-figure: expected a chapter and one of its figures, got {chapter} {name}")
        page = "" if chapter == self.env.docname else self.env.app.builder.get_relative_uri(self.env.docname, chapter)
        return [nodes.raw("", _with_code_link(figures[name], f"{page}#code-{name}"), format="html")]


def setup(app: Sphinx) -> dict:
    app.connect("config-inited", distrust_interrupted_build, priority=900)
    app.connect("builder-inited", run_chapters)
    app.connect("env-get-outdated", find_outdated)
    app.connect("source-read", insert_outputs)
    if "sphinx.ext.autodoc" in app.extensions:
        app.connect("autodoc-process-docstring", plain_docstrings)
    app.connect("html-page-context", tidy_scripts, priority=900)
    app.connect("build-finished", finish)
    app.add_directive("provenance", Provenance)
    app.add_directive("chapter-figure", ChapterFigure)
    ledger.setup(app)
    app.setup_extension("theorem_graph")
    app.setup_extension("lint")
    return {"parallel_read_safe": False, "parallel_write_safe": True}
