"""What rests on what: the book's statements as a graph and as a table.

Nodes are the statements of the text and the claims of this build; edges are the {prf:ref}s of a statement and its proof,
and the theorems that a claim names. Nothing is typed by hand, so nothing can go stale.

    gather   pages and claims -> Graph, or GraphError: two statements of one label, a label that does not exist, a cycle
    picture  Graph -> inline SVG       table  Graph -> HTML, the same in words
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import statements
from statements import Statement

# From bad to good; a statement is worth what the worst of its checks is worth.
VERDICTS = ("contradicted", "premises unmet", "numerically consistent", "identity checked")
STATED_ONLY = "stated only"


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


def drawn(graph: Graph) -> list[tuple[str, str]]:
    """Edges without those that a longer path already implies (the transitive reduction)."""
    after = {s.label: set(graph.used_by(s.label)) for s in graph.statements}

    def reachable(label: str) -> set[str]:
        return after[label].union(*(reachable(target) for target in after[label]))

    return [
        (source, target)
        for source, target in graph.edges
        if not any(target in reachable(between) for between in after[source] if between != target)
    ]


def tracks(rows: dict[str, int], edges: list[tuple[str, str]]) -> dict[str, int]:
    """A track for each source of an edge, counted from the nodes outward: no two lines on one track share a row,
    and short lines lie inside, so that few cross."""
    spans: dict[str, tuple[int, int]] = {}
    for source, target in edges:
        low, high = spans.get(source, (rows[source], rows[source]))
        spans[source] = (min(low, rows[target]), max(high, rows[target]))
    taken: list[list[tuple[int, int]]] = []
    given = {}
    for source, (low, high) in sorted(spans.items(), key=lambda item: (item[1][1] - item[1][0], item[1])):
        free = (i for i, lines in enumerate(taken) if all(high < a or b < low for a, b in lines))
        given[source] = next(free, len(taken))
        if given[source] == len(taken):
            taken.append([])
        taken[given[source]].append((low, high))
    return given


# ---- the drawing: one row a statement, lanes of chapters, lines at the left

ROW, HEAD, TRACK, FONT = 46, 34, 12, 14
CHARACTER = 0.53  # mean width of a character in units of the font size, on the generous side
MARK = 17
_PLAIN = {r"\lambda": "λ", r"\sigma": "σ", r"\theta": "θ", r"\eta": "η", r"\rho": "ρ", r"\varepsilon": "ε", r"\ell": "ℓ", r"\nabla": "∇"}
SHAPES = {  # kind: outline around (0, 0); every one holds its letter
    "definition": '<rect x="-11" y="-11" width="22" height="22"/>',
    "lemma": '<path d="M-13 0L-6.5 -11.5H6.5L13 0L6.5 11.5H-6.5Z"/>',
    "proposition": '<path d="M0 -14L14 0L0 14L-14 0Z"/>',
    "theorem": '<circle r="12"/>',
    "corollary": '<path d="M-11 -11H11V4L0 13L-11 4Z"/>',
}
MARKS = {  # verdict: outline and sign
    "identity checked": ('<rect x="-6.5" y="-6.5" width="13" height="13"/>', "="),
    "numerically consistent": ('<circle r="7"/>', "≤"),
    "premises unmet": ('<path d="M0 -8L8 6.5H-8Z"/>', "?"),
    "contradicted": ('<path d="M0 -8.5L8.5 0L0 8.5L-8.5 0Z"/>', "×"),
    STATED_ONLY: ('<circle r="6.5"/>', ""),
}


def plain(title: str) -> str:
    """A title as text: formulas lose their dollars, common letters become themselves."""
    for macro, letter in _PLAIN.items():
        title = title.replace(macro, letter)
    return title.replace("$", "")


def picture(graph: Graph, link: Callable[[str, str], str]) -> str:
    """Inline SVG; `link(page, anchor)` is the address of a place in the book."""
    height = _legend_height()
    y: dict[str, float] = {}
    lanes = []
    for page in graph.pages:
        own = [s for s in graph.statements if s.chapter == page.name]
        rows = len(own) + (page.name in graph.experiments)
        if rows:
            lanes.append((page, height, own, HEAD + rows * ROW + 10))
            y |= {s.label: height + HEAD + (i + 0.5) * ROW for i, s in enumerate(own)}
            height += lanes[-1][-1] + 8
    edges = drawn(graph)
    order = {label: i for i, label in enumerate(y)}
    track = tracks(order, edges)
    left = 34 + TRACK * (max(track.values(), default=-1) + 1)
    body = [_lane(graph, lane, left, y, link) for lane in lanes]
    # Outer lines first: an inner one then passes over them with a gap on either side, as a bridge does.
    lines = sorted(edges, key=lambda edge: (-track[edge[0]], order[edge[1]]))
    drawing = [_edge(source, target, left - 22 - TRACK * track[source], left - 14, y) for source, target in lines]
    rules = "".join(
        f'.theorem-graph svg:has(#node-{s.label}:is(:hover,:focus)) :is(.from-{s.label},.to-{s.label}) .line{{stroke:var(--graph-strong);stroke-width:3}}'
        for s in graph.statements
    )
    width = max([520, *(left + _row_width(graph, s) for s in graph.statements),
                 *(left + _experiments_width(found) for found in graph.experiments.values())])  # fmt: skip
    return (
        f'<div class="theorem-graph" tabindex="0" role="region" aria-label="Graph of the statements, scrolls sideways">'
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" role="group" '
        f'aria-label="{len(graph.statements)} statements in {len(lanes)} chapters; a line leads from a statement to each that rests on it. '
        f'The table below says the same in words." font-size="{FONT}"><style>{rules}</style>'
        f'<defs><marker id="graph-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L8 4L0 8Z"/></marker></defs>'
        + "".join(_band(lane, width) for lane in lanes) + _legend() + f'<g class="edges">{"".join(drawing)}</g>' + "".join(body)
        + "</svg></div>"
    )  # fmt: skip


def _band(lane, width: float) -> str:
    page, top, _, height = lane
    return f'<rect class="lane" x="0.5" y="{top + 0.5:.1f}" width="{width - 1:.0f}" height="{height:.0f}" rx="6"/>'


def _lane(graph: Graph, lane, left: float, y: dict[str, float], link) -> str:
    page, top, own, height = lane
    parts = [f'<a href="{escape(link(page.name, ""))}"><text class="chapter" x="14" y="{top + 24:.0f}">{escape(plain(page.title))}</text></a>']
    parts += [_statement(graph, s, left, y[s.label], link) for s in own]
    found = graph.experiments.get(page.name)
    if found:
        middle = top + HEAD + (len(own) + 0.5) * ROW
        parts.append(
            f'<g class="experiments"><path class="kind" d="M{left - 9} {middle - 8}H{left + 9}M{left - 5} {middle - 8}V{middle - 1}L{left - 11} {middle + 10}H{left + 11}L{left + 5} {middle - 1}V{middle - 8}"/>'
            f'<text class="title" x="{left + 24}" y="{middle - 5:.1f}">{_experiments_title(found)}</text>'
            + _checks(found, left + 31, middle + 12, _tally(found), link) + "</g>"
        )  # fmt: skip
    return "".join(parts)


def _statement(graph: Graph, s: Statement, left: float, y: float, link) -> str:
    found, status = graph.checks[s.label], graph.status(s)
    title, words = plain(s.title) or s.label, _words(graph, s)
    whole = f"{s.kind.capitalize()}: {title}. {words}."
    return (
        f'<a class="statement {_slug(status)}" id="node-{escape(s.label)}" href="{escape(link(s.chapter, s.label))}" data-status="{status}">'
        f"<title>{escape(whole)}</title>"
        f'<g class="kind {s.kind}" transform="translate({left} {y:.1f})">{SHAPES[s.kind]}<text class="letter" y="4.5">{s.kind[0].upper()}</text></g>'
        f'<text class="title" x="{left + 24}" y="{y - 5:.1f}">{escape(title)}</text></a>'
        + _checks(found, left + 31, y + 12, words, link, status)
    )


def _checks(found: Iterable[dict], x: float, y: float, words: str, link, status: str = "") -> str:
    parts = []
    if not found and status == STATED_ONLY:
        parts.append(_mark(STATED_ONLY, x, y, ""))
        x += MARK
    for claim in found:
        says = f"{claim['label']}: {claim['verdict']}. {claim['statement']}" + (". Its control is not noticed" if unnoticed(claim) else "")
        enclosed = bool(claim.get("enclosed"))
        address = escape(link(claim["chapter"], f"claim-{claim['label']}"))
        parts.append(f'<a href="{address}" class="claim"><title>{escape(says)}</title>{_mark(verdict(claim), x, y, "ring" if enclosed else "", unnoticed(claim))}</a>')
        x += MARK + 5 * enclosed
    return "".join(parts) + f'<text class="words" x="{x - 7 + 3 * bool(parts):.1f}" y="{y + 4:.1f}">{escape(words)}</text>'


def _mark(name: str, x: float, y: float, extra: str = "", silent: bool = False) -> str:
    outline, sign = MARKS[name]
    ring = '<circle class="ring" r="10"/>' if extra == "ring" else ""
    slash = '<path class="silent" d="M-8 8L8 -8"/>' if silent else ""
    return f'<g class="mark {_slug(name)}" transform="translate({x:.1f} {y:.1f})">{ring}{outline}<text class="sign" y="4">{sign}</text>{slash}</g>'


def _edge(source: str, target: str, x: float, right: float, y: dict[str, float]) -> str:
    start, end = y[source] + 5, y[target] - 5
    down = 1 if end > start else -1
    r = 6
    path = f"M{right} {start:.1f}H{x + r}Q{x} {start:.1f} {x} {start + down * r:.1f}V{end - down * r:.1f}Q{x} {end:.1f} {x + r} {end:.1f}H{right}"
    return f'<g class="from-{escape(source)} to-{escape(target)}"><path class="gap" d="{path}"/><path class="line" d="{path}" marker-end="url(#graph-arrow)"/></g>'


def _words(graph: Graph, s: Statement) -> str:
    found = graph.checks[s.label]
    parts = [graph.status(s) or s.kind]
    if found:
        parts.append(f"{len(found)} check{'s' * (len(found) != 1)}")
    if s.kind != "definition":
        parts.append("proof in text" if s.proof else "no proof in text")
    proved, of = (sum(claim["enclosed"][key] for claim in found if claim.get("enclosed")) for key in ("proved", "of"))
    if of:
        parts.append(f"enclosed {proved} of {of}")
    silent = sum(map(unnoticed, found))
    return " · ".join(parts + [f"{silent} without a control that notices"] * bool(silent))


def _tally(found) -> str:
    counts = Counter(map(verdict, found))
    silent = sum(map(unnoticed, found))
    words = ", ".join(f"{counts[name]} {name}" for name in reversed(VERDICTS) if counts[name])
    return words + (f" · {silent} without a control that notices" if silent else "")


def _experiments_title(found) -> str:
    return f"{len(found)} experiment{'s' * (len(found) != 1)}"


def _row_width(graph: Graph, s: Statement) -> float:
    marks = sum(MARK + 5 * bool(claim.get("enclosed")) for claim in graph.checks[s.label])
    return 50 + max(len(plain(s.title)) * FONT * CHARACTER, marks + len(_words(graph, s)) * 12 * CHARACTER)


def _experiments_width(found) -> float:
    return 50 + MARK * len(found) + len(_tally(found)) * 12 * CHARACTER


def _slug(words: str) -> str:
    return words.replace(" ", "-") or "none"


def _legend_height() -> int:
    return 4 * 26 + 14


def _legend() -> str:
    lines = [
        [(f'<g class="kind {kind}" transform="translate({{x}} {{y}}) scale(.8)">{shape}<text class="letter" y="4.5">{kind[0].upper()}</text></g>', kind)
         for kind, shape in SHAPES.items()],
        [(_legend_mark(name), name) for name in ("identity checked", "numerically consistent", "premises unmet")],
        [(_legend_mark(name), name) for name in ("contradicted", STATED_ONLY)]
        + [(_legend_mark("numerically consistent", "ring"), "with interval proofs"),
           (_legend_mark("numerically consistent", silent=True), "control not noticed")],
        [('<path class="line" d="M{x} {y}m-9 0h18" marker-end="url(#graph-arrow)"/>', "from a statement to one that refers to it"),
         ('<path class="kind" transform="translate({x} {y}) scale(.8)" d="M-9 -8H9M-5 -8V-1L-11 10H11L5 -1V-8"/>', "experiments")],
    ]  # fmt: skip
    parts = []
    for row, entries in enumerate(lines):
        x, y = 20.0, 14 + 26 * row
        for mark, word in entries:
            parts.append(mark.format(x=x, y=y) + f'<text class="words" x="{x + 15:.0f}" y="{y + 4}">{word}</text>')
            x += 42 + len(word) * 12 * CHARACTER
    return f'<g class="legend" role="img" aria-label="Legend">{"".join(parts)}</g>'


def _legend_mark(name: str, extra: str = "", silent: bool = False) -> str:
    return _mark(name, 0, 0, extra, silent).replace("translate(0.0 0.0)", "translate({x} {y})")


# ---- the same in words


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
    words += ", control not noticed" if unnoticed(claim) else ""
    address = escape(link(claim["chapter"], f"claim-{claim['label']}"))
    return f'<a href="{address}">{escape(claim["label"])}</a>: {escape(words)}'


def _scrolled(name: str, head: str, rows: list[str]) -> str:
    return (
        f'<div class="claims-scroll" tabindex="0" role="region" aria-label="{name}"><table class="claims theorem-table">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


# ---- Sphinx


def draw_graph(app: Sphinx) -> None:
    """Gathers the graph once the claims are known; ends the build where the text makes none."""
    pages = read_pages(Path(app.srcdir), app.config.external_site_map)
    claims = [{"chapter": name, **claim} for name, run in app.lowrank_executions.items() for claim in run.claims]
    try:
        app.lowrank_graph = gather(pages, claims)
    except GraphError as error:
        raise SystemExit(f"Theorem graph: {error}") from None


class TheoremGraph(SphinxDirective):
    """The graph as a drawing, `theorem-graph`, or as a table, `theorem-table`."""

    def run(self) -> list[nodes.Node]:
        app, here = self.env.app, self.env.docname
        for page in app.lowrank_graph.pages:
            self.env.note_dependency(str(Path(app.srcdir).parent / page.file))
        for module in (__file__, statements.__file__):
            self.env.note_dependency(module)

        def link(name: str, anchor: str) -> str:
            page = "" if name == here else app.builder.get_relative_uri(here, name)
            return f"{page}#{anchor}" if anchor else page

        draw = picture if self.name == "theorem-graph" else table
        return [nodes.raw("", draw(app.lowrank_graph, link), format="html")]


def setup(app: Sphinx) -> dict:
    app.connect("builder-inited", draw_graph, priority=600)  # after the chapters have run
    app.add_directive("theorem-graph", TheoremGraph)
    app.add_directive("theorem-table", TheoremGraph)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
