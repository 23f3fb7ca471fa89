"""The page `appendix/theorem_graph`: directives {theorem-graph}, a drawing, and {theorem-table}, the same in words."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import ledger
import theorem_drawing
import theorem_model
from theorem_model import Graph, plain, unnoticed


def table(graph: Graph, link: Callable[[str, str], str]) -> str:
    """HTML tables of the statements and of the experiments; `link(page, anchor)` is an address in the book."""
    by_label = {s.label: s for s in graph.statements}
    titles = {page.name: plain(page.title) for page in graph.pages}

    def to(label: str) -> str:
        s = by_label[label]
        return f'<a href="{escape(link(s.chapter, label))}">{escape(plain(s.title) or label)}</a>'

    def listed(items: Iterable[str]) -> str:
        items = list(items)
        return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>" if items else "none"

    rows = []
    for s in graph.statements:
        status = graph.status(s)
        checks = listed(_claim_words(claim, link) for claim in graph.checks[s.label])
        proof = "" if s.kind == "definition" else "yes" if s.proof else "no"
        rows.append(
            f'<tr id="row-{escape(s.label)}"><th scope="row">{to(s.label)}</th><td>{s.kind}</td>'
            f'<td><a href="{escape(link(s.chapter, ""))}">{escape(titles[s.chapter])}</a></td><td>{listed(map(to, s.references))}</td>'
            f"<td>{listed(map(to, graph.used_by(s.label)))}</td><td>{status}</td><td>{checks}</td><td>{proof}</td></tr>"
        )
    head = "".join(f'<th scope="col">{word}</th>' for word in
                   ("statement", "kind", "chapter", "depends on", "used by", "status", "checks", "proof in text"))  # fmt: skip
    words = _scrolled("Statements", head, rows)
    rows = [
        f'<tr><td><a href="{escape(link(name, ""))}">{escape(titles[name])}</a></td><td>{_claim_words(claim, link)}</td><td>{escape(claim["statement"])}</td></tr>'
        for name, found in graph.experiments.items() for claim in found
    ]  # fmt: skip
    if rows:
        head = "".join(f'<th scope="col">{word}</th>' for word in ("chapter", "experiment", "says"))
        words += "<p>Experiments: claims of the ledger that check no statement.</p>" + _scrolled("Experiments", head, rows)
    return words


def _claim_words(claim: dict, link) -> str:
    enclosed = claim.get("enclosed")
    words = claim["verdict"] + (f", enclosed {enclosed['proved']} of {enclosed['of']}" if enclosed else "")
    words += ", would not notice" if unnoticed(claim) else ""
    address = escape(link(claim["chapter"], f"claim-{claim['label']}"))
    return f'<a href="{address}">{escape(claim["label"])}</a>: {escape(words)}'


def _scrolled(name: str, head: str, rows: list[str]) -> str:
    return (
        f'<div class="claims-scroll" tabindex="0" role="region" aria-label="{name}"><table class="claims theorem-table">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def draw_graph(app: Sphinx) -> None:
    """Gathers the graph once the claims are known; ends the build where the text makes none."""
    pages = theorem_model.read_pages(Path(app.srcdir), app.config.external_site_map)
    try:
        app.lowrank_graph = theorem_model.gather(pages, ledger.gather_claims(app))
    except theorem_model.GraphError as error:
        raise SystemExit(f"Theorem graph: {error}") from None


def find_outdated(app: Sphinx, env, added, changed, removed) -> list[str]:
    """The pages that show the graph, once it or the code that draws it has changed."""
    graph = app.lowrank_graph
    shown = repr((graph.statements, graph.edges, graph.checks, graph.experiments, [(p.name, p.title) for p in graph.pages]))
    code = [Path(module).read_text(encoding="utf-8") for module in (__file__, theorem_drawing.__file__, theorem_model.__file__)]
    state = hashlib.sha256("".join([shown, *code]).encode()).hexdigest()
    if getattr(env, "lowrank_graph_state", "") == state:
        return []
    env.lowrank_graph_state = state
    return sorted(getattr(env, "lowrank_graph_pages", set()) & set(env.found_docs))


class TheoremGraph(SphinxDirective):
    """The graph as a drawing, `theorem-graph`, or as a table, `theorem-table`."""

    def run(self) -> list[nodes.Node]:
        app, here = self.env.app, self.env.docname
        self.env.lowrank_graph_pages = getattr(self.env, "lowrank_graph_pages", set()) | {here}

        def link(name: str, anchor: str) -> str:
            page = "" if name == here else app.builder.get_relative_uri(here, name)
            return f"{page}#{anchor}" if anchor else page

        draw = theorem_drawing.picture if self.name == "theorem-graph" else table
        return [nodes.raw("", draw(app.lowrank_graph, link), format="html")]


def setup(app: Sphinx) -> dict:
    app.connect("builder-inited", draw_graph, priority=600)  # after the chapters have run
    app.connect("env-get-outdated", find_outdated)
    app.add_directive("theorem-graph", TheoremGraph)
    app.add_directive("theorem-table", TheoremGraph)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
