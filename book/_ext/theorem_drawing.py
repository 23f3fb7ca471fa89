"""The theorem graph as an inline SVG: a row for each statement, chapters as lanes, one line at the left for each statement
that others rest on. Kind and verdict are told by shape and sign, colour only besides; every row and mark is a link."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from html import escape

from statements import Statement
from theorem_model import STATED_ONLY, VERDICTS, Graph, plain, unnoticed, verdict

ROW, HEAD, TRACK, FONT = 46, 34, 13, 14
CHARACTER = 0.53  # mean width of a character in units of the font size, on the generous side
MARK = 17
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


def drawn(graph: Graph) -> list[tuple[str, str]]:
    """Edges without those that a longer path already implies (the transitive reduction)."""
    after = {s.label: set(graph.used_by(s.label)) for s in graph.statements}

    @cache
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
    left = 42 + TRACK * (max(track.values(), default=-1) + 1)
    body = [_lane(graph, lane, left, y, link) for lane in lanes]
    # Outer lines first: an inner one then passes over them with a gap on either side, as a bridge does.
    outward = sorted(track, key=lambda source: (-track[source], order[source]))
    drawing = [_lines(source, [b for a, b in edges if a == source], left - 29.5 - TRACK * track[source], left - 14, y) for source in outward]
    rules = "".join(
        f'.theorem-graph svg:has(#node-{s.label}:is(:hover,:focus)) :is(.from-{s.label},.to-{s.label}){{stroke:var(--graph-strong);stroke-width:3}}'
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
        + "".join(_band(lane, width) for lane in lanes) + _legend({s.kind for s in graph.statements}) + f'<g class="edges">{"".join(drawing)}</g>' + "".join(body)
        + "</svg></div>"
    )  # fmt: skip


def _band(lane, width: float) -> str:
    page, top, _, height = lane
    return f'<rect class="lane" x="0.5" y="{top + 0.5:.1f}" width="{width - 1:.0f}" height="{height:.0f}" rx="6"/>'


def _lane(graph: Graph, lane, left: float, y: dict[str, float], link) -> str:
    page, top, own, height = lane
    parts = [f'<a href="{escape(link(page.name, ""))}"><text class="chapter" x="{left - 12}" y="{top + 24:.0f}">{escape(plain(page.title))}</text></a>']
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
        says = f"{claim['label']}: {claim['verdict']}. {claim['statement']}" + (". It would not notice a fault" if unnoticed(claim) else "")
        enclosed = bool(claim.get("enclosed") and claim["enclosed"]["proved"])
        address = escape(link(claim["chapter"], f"claim-{claim['label']}"))
        x += 4 * enclosed
        parts.append(f'<a href="{address}" class="claim"><title>{escape(says)}</title>{_mark(verdict(claim), x, y, "ring" if enclosed else "", unnoticed(claim))}</a>')
        x += MARK + 4 * enclosed
    return "".join(parts) + f'<text class="words" x="{x - 7 + 3 * bool(parts):.1f}" y="{y + 4:.1f}">{escape(words)}</text>'


def _mark(name: str, x: float, y: float, extra: str = "", silent: bool = False) -> str:
    outline, sign = MARKS[name]
    ring = '<circle class="ring" r="10"/>' if extra == "ring" else ""
    slash = '<path class="silent" d="M-8 8L8 -8"/>' if silent else ""
    return f'<g class="mark {_slug(name)}" transform="translate({x:.1f} {y:.1f})">{ring}{outline}<text class="sign" y="4">{sign}</text>{slash}</g>'


def _lines(source: str, targets: list[str], x: float, right: float, y: dict[str, float]) -> str:
    """The line of `source` along x, with a branch to each of its targets."""
    start, r = y[source] + 5.5, 6
    paths = {}
    for target in targets:
        end = y[target] - 4.5
        down = r if end > start else -r
        paths[target] = (
            f"M{right} {start:.1f}H{x + r}Q{x} {start:.1f} {x} {start + down:.1f}V{end - down:.1f}Q{x} {end:.1f} {x + r} {end:.1f}H{right}"
        )
    return "".join(f'<path class="gap" d="{path}"/>' for path in paths.values()) + "".join(
        f'<path class="line from-{escape(source)} to-{escape(target)}" d="{path}" marker-end="url(#graph-arrow)"/>'
        for target, path in paths.items()
    )


def _words(graph: Graph, s: Statement) -> str:
    found = graph.checks[s.label]
    parts = [graph.status(s) or s.kind]
    if found:
        parts.append(f"{len(found)} check{'s' * (len(found) != 1)}")
    if s.kind != "definition":
        parts.append("proof in text" if s.proof else "no proof in text")
    proofs = [claim["enclosed"] for claim in found if claim.get("enclosed")]
    if proofs:  # checks often speak of the same networks: the least complete one counts
        least = min(proofs, key=lambda one: one["proved"] / one["of"])
        parts.append(f"enclosed {least['proved']} of {least['of']}")
    silent = sum(map(unnoticed, found))
    return " · ".join(parts + [f"{silent} would not notice"] * bool(silent))


def _tally(found) -> str:
    counts = Counter(map(verdict, found))
    silent = sum(map(unnoticed, found))
    words = ", ".join(f"{counts[name]} {name}" for name in reversed(VERDICTS) if counts[name])
    return words + (f" · {silent} would not notice" if silent else "")


def _experiments_title(found) -> str:
    return f"{len(found)} experiment{'s' * (len(found) != 1)}"


def _row_width(graph: Graph, s: Statement) -> float:
    marks = sum(MARK + 8 * bool(claim.get("enclosed")) for claim in graph.checks[s.label])
    return 50 + max(len(plain(s.title)) * FONT * CHARACTER, marks + len(_words(graph, s)) * 12 * CHARACTER)


def _experiments_width(found) -> float:
    return 50 + sum(MARK + 8 * bool(claim.get("enclosed")) for claim in found) + len(_tally(found)) * 12 * CHARACTER


def _slug(words: str) -> str:
    return words.replace(" ", "-") or "none"


def _legend_height() -> int:
    return 4 * 26 + 14


def _legend(kinds: set[str]) -> str:
    lines = [
        [(f'<g class="kind {kind}" transform="translate({{x}} {{y}}) scale(.8)">{shape}<text class="letter" y="4.5">{kind[0].upper()}</text></g>', kind)
         for kind, shape in SHAPES.items() if kind in kinds],
        [(_legend_mark(name), name) for name in ("identity checked", "numerically consistent", "premises unmet")],
        [(_legend_mark(name), name) for name in ("contradicted", STATED_ONLY)]
        + [(_legend_mark("numerically consistent", "ring"), "with interval proofs"),
           (_legend_mark("numerically consistent", silent=True), "would not notice")],
        [('<path class="line" d="M{x} {y}m-9 0h18" marker-end="url(#graph-arrow)"/>', "from a statement to one that refers to it"),
         ('<path class="kind" transform="translate({x} {y}) scale(.8)" d="M-9 -8H9M-5 -8V-1L-11 10H11L5 -1V-8"/>', "experiments")],
    ]  # fmt: skip
    parts = []
    for row, entries in enumerate(lines):
        x, y = 20.0, 14 + 26 * row
        for mark, word in entries:
            parts.append(mark.format(x=x, y=y) + f'<text class="words" x="{x + 15:.0f}" y="{y + 4}">{word}</text>')
            x += 46 + len(word) * 12 * CHARACTER
    return f'<g class="legend" role="img" aria-label="Legend">{"".join(parts)}</g>'


def _legend_mark(name: str, extra: str = "", silent: bool = False) -> str:
    return _mark(name, 0, 0, extra, silent).replace("translate(0.0 0.0)", "translate({x} {y})")
