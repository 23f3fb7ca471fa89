"""The theorem graph: on texts small enough to check by eye, and on the book itself."""

import json
import shutil
from functools import lru_cache
from pathlib import Path

import nbformat
import numpy as np
import pytest
import theorem_drawing
import theorem_graph
import theorem_model
from bs4 import BeautifulSoup
from conftest import BOOK, build, pages
from hypothesis import given
from hypothesis import strategies as some
from statements import statements
from theorem_model import Graph, GraphError, Page, gather


def stated(kind: str, label: str, title: str = "A title", body: str = "Words.") -> str:
    return f"````{{prf:{kind}}} {title}\n:label: {label}\n\n{body}\n````\n"


def proof(label: str, body: str) -> str:
    return f"````{{prf:proof}}\n({{prf:ref}}`{label}`) {body}\n````\n"


def claim(label: str, *theorems: str, verdict: str = "identity checked", noticed: bool | None = True, chapter: str = "b", **more) -> dict:
    control = None if noticed is None else {"label": "c", "noticed": noticed}
    return {"label": label, "chapter": chapter, "statement": "a < b & c", "verdict": verdict, "theorems": list(theorems), "control": control, **more}


def page(name: str, *cells: str) -> Page:
    return Page(name, f"book/{name}.ipynb", f"Page {name}", cells)


TINY = [
    page("a", "# Page a\n\n" + stated("definition", "def-d", "Thing") + stated("lemma", "lem-l", "Of $\\lambda$", "By {prf:ref}`def-d`.")),
    page("b", stated("theorem", "thm-t", "On <all>", "Of {prf:ref}`def-d`.") + stated("corollary", "cor-c", "So"),
         "## Proof\n\n" + proof("thm-t", "By {prf:ref}`lem-l`.") + "{prf:ref}`cor-c` in prose is no edge.",
         proof("cor-c", "By {prf:ref}`thm-t`, see {prf:ref}`text <thm-t>`.")),
]  # fmt: skip
CLAIMS = [claim("one", "thm-t"), claim("two", "thm-t", "cor-c"), claim("three"), claim("four", chapter="a")]


def svg(graph: Graph) -> BeautifulSoup:
    return BeautifulSoup(theorem_drawing.picture(graph, lambda name, anchor: f"{name}.html#{anchor}"), "html.parser")


def words(graph: Graph) -> BeautifulSoup:
    return BeautifulSoup(theorem_graph.table(graph, lambda name, anchor: f"{name}.html#{anchor}"), "html.parser")


def test_edges_and_checks_of_a_tiny_book():
    graph = gather(TINY, CLAIMS)
    assert [s.label for s in graph.statements] == ["def-d", "lem-l", "thm-t", "cor-c"]
    assert set(graph.edges) == {("def-d", "lem-l"), ("def-d", "thm-t"), ("lem-l", "thm-t"), ("thm-t", "cor-c")}
    assert graph.used_by("def-d") == ["lem-l", "thm-t"]
    assert {label: [c["label"] for c in found] for label, found in graph.checks.items()} == {
        "def-d": [], "lem-l": [], "thm-t": ["one", "two"], "cor-c": ["two"],
    }  # fmt: skip
    assert {name: [c["label"] for c in found] for name, found in graph.experiments.items()} == {"a": ["four"], "b": ["three"]}
    # def-d → thm-t is implied by def-d → lem-l → thm-t
    assert set(theorem_drawing.drawn(graph)) == set(graph.edges) - {("def-d", "thm-t")}


def test_drawing_and_table_say_what_the_graph_says():
    graph = gather(TINY, CLAIMS)
    drawing, table = svg(graph), words(graph)
    assert [a["id"] for a in drawing.select("a.statement")] == ["node-def-d", "node-lem-l", "node-thm-t", "node-cor-c"]
    node = drawing.find(id="node-thm-t")
    assert node["href"] == "b.html#thm-t" and node.title.string.startswith("Theorem: On <all>. identity checked · 2 checks · proof in text")
    assert drawing.find(id="node-lem-l").select_one("text.title").string == "Of λ"
    lines = {tuple(name.split("-", 1)[1] for name in line["class"][1:]) for line in drawing.select("g.edges path.line")}
    assert lines == set(theorem_drawing.drawn(graph))
    assert [a["href"] for a in drawing.select("a.claim")] == [
        "a.html#claim-four", "b.html#claim-one", "b.html#claim-two", "b.html#claim-two", "b.html#claim-three",
    ]  # fmt: skip
    row = [cell.get_text(" ") for cell in table.find(id="row-thm-t").find_all(["th", "td"])]
    assert row[:3] == ["On <all>", "theorem", "Page b"] and row[5:] == ["identity checked", "one : identity checked two : identity checked", "yes"]
    assert [a["href"] for a in table.find(id="row-thm-t").find_all("td")[2].find_all("a")] == ["a.html#def-d", "a.html#lem-l"]
    assert [a["href"] for a in table.find(id="row-thm-t").find_all("td")[3].find_all("a")] == ["b.html#cor-c"]
    assert table.find(id="row-lem-l").find_all("td")[-1].string == "no"


@pytest.mark.parametrize(
    "verdicts, expected",
    [
        (["identity checked"], "identity checked"),
        (["identity checked", "numerically consistent (8 members)"], "numerically consistent"),
        (["numerically consistent (1 member)", "premises unmet", "identity checked"], "premises unmet"),
        (["premises unmet", "contradicted"], "contradicted"),
        ([], "stated only"),
    ],
)
def test_a_statement_is_worth_its_worst_check(verdicts, expected):
    graph = gather(TINY, [claim(f"c{i}", "lem-l", verdict=verdict) for i, verdict in enumerate(verdicts)])
    drawing = svg(graph)
    node = drawing.find(id="node-lem-l")
    assert node["data-status"] == expected and expected in node.title.string and "no proof in text" in node.title.string
    assert words(graph).find(id="row-lem-l").find_all("td")[4].string == expected
    marks = [mark["class"][1].replace("-", " ") for mark in drawing.select("a.claim > g.mark")]
    assert marks == [verdict.split(" (")[0] for verdict in verdicts]
    if not verdicts:  # every statement but the definition is drawn as stated only, beside the legend
        assert len(drawing.select(".mark.stated-only")) == 3 + 1


def test_verdict_and_kind_are_told_without_colour():
    signs = set(theorem_drawing.MARKS.values())
    assert len(signs) == len({shape for shape, _ in signs}) == len(theorem_drawing.MARKS) == 5
    assert len(set(theorem_drawing.SHAPES.values())) == 5 and len({kind[0] for kind in theorem_drawing.SHAPES}) == 5
    assert set(theorem_drawing.MARKS) == {*theorem_model.VERDICTS, theorem_model.STATED_ONLY}


@pytest.mark.parametrize("noticed", [True, False, None])
def test_a_check_without_a_working_control_is_struck_through(noticed):
    graph = gather(TINY, [claim("one", "thm-t", noticed=noticed, enclosed={"proved": 2, "of": 3})])
    mark = svg(graph).select_one("a.claim")
    assert bool(mark.select(".silent")) == (noticed is not True) == ("would not notice" in mark.title.string)
    assert ("would not notice" in words(graph).find(id="row-thm-t").get_text()) == (noticed is not True)
    none = gather(TINY, [claim("one", "thm-t", enclosed={"proved": 0, "of": 3})])
    assert mark.select(".ring") and not svg(none).select("a.claim .ring")
    assert "enclosed 0 of 3" in svg(none).find(id="node-thm-t").title.string and "enclosed 2 of 3" in svg(graph).find(id="node-thm-t").title.string


def test_a_circle_is_refused_with_its_labels_and_places():
    circle = [*TINY, page("c", proof("lem-l", "no")), page("d", stated("lemma", "lem-x", body="{prf:ref}`lem-y`"), stated("lemma", "lem-y", body="{prf:ref}`lem-x`"))]
    with pytest.raises(GraphError) as error:
        gather(circle, CLAIMS)
    assert str(error.value).count("\n") == 0
    for part in ("book/d.ipynb, text cell 1", "book/d.ipynb, text cell 2", "lem-x → lem-y → lem-x", "take one of these references out"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "book, claims, parts",
    [
        ([page("a", "## Proof\n\nSee {prf:ref}`thm-gone`.")], [], ["book/a.ipynb, text cell 1 (## Proof)", "thm-gone", "correct the label"]),
        ([page("a", "", stated("lemma", "lem-l")), page("b", stated("lemma", "lem-l"))], [],
         ["book/a.ipynb, text cell 2", "book/b.ipynb, text cell 1", "lem-l 2 times", "rename one"]),
        ([page("a", "```{prf:lemma} L\nWords.\n```")], [], ["book/a.ipynb, text cell 1", "a lemma without a label", "add a line"]),
        (TINY, [claim("one", "thm-gone")], ["b, claim one", "thm-gone", "correct `theorem=`"]),
    ],
    ids=["reference", "twice", "unlabelled", "claim"],
)  # fmt: skip
def test_faults_name_file_cell_and_remedy(book, claims, parts):
    with pytest.raises(GraphError) as error:
        gather(book, claims)
    assert all(part in str(error.value) for part in parts)


def test_a_reference_to_a_remark_is_no_edge_and_no_fault():
    book = [page("a", stated("remark", "rem-r"), stated("lemma", "lem-l", body="{prf:ref}`rem-r`"))]
    assert gather(book, []).edges == ()


@given(some.integers(2, 8).flatmap(lambda n: some.lists(some.tuples(some.integers(0, n - 1), some.integers(0, n - 1)), max_size=20).map(lambda pairs: (n, pairs))))
def test_what_is_drawn_is_the_least_with_the_same_paths(case):
    n, pairs = case
    edges = sorted({(min(a, b), max(a, b)) for a, b in pairs if a != b})
    cells = [stated("lemma", f"l{b}", body=" ".join(f"{{prf:ref}}`l{a}`" for a, c in edges if c == b)) for b in range(n)]
    graph = gather([page("p", *cells)], [])
    kept = [(int(a[1:]), int(b[1:])) for a, b in theorem_drawing.drawn(graph)]

    def paths(some_edges):
        step = np.eye(n, dtype=int)
        for a, b in some_edges:
            step[a, b] = 1
        return np.linalg.matrix_power(step, n) > 0

    assert set(kept) <= set(edges) and (paths(kept) == paths(edges)).all()
    for edge in kept:
        assert (paths([other for other in kept if other != edge]) != paths(edges)).any()


@given(some.lists(some.tuples(some.integers(0, 30), some.integers(0, 30)).filter(lambda pair: pair[0] != pair[1]), max_size=40))
def test_no_two_lines_run_on_top_of_each_other(pairs):
    rows = {f"l{i}": i for i in range(31)}
    track = theorem_drawing.tracks(rows, [(f"l{a}", f"l{b}") for a, b in pairs])
    taken = set()
    for source in {a for a, _ in pairs}:
        ends = [source, *(b for a, b in pairs if a == source)]
        cells = {(track[f"l{source}"], row) for row in range(min(ends), max(ends) + 1)}
        assert not cells & taken
        taken |= cells


def test_a_plain_build_ends_at_a_reference_to_nothing(quick_top, tmp_path):
    top = shutil.copytree(quick_top, tmp_path / "top", symlinks=True)
    path = top / "book" / "theorems" / "alignment.ipynb"
    notebook = nbformat.read(path, as_version=4)
    cell = next(cell for cell in notebook.cells if "{prf:proof}" in cell.source)
    cell.source = cell.source.replace("`) ", "`) By {prf:ref}`thm-gone`. ", 1)
    nbformat.write(notebook, path)
    built = build(top)
    assert built.returncode != 0
    said = " ".join((built.stdout + built.stderr).split())
    assert "Theorem graph: book/theorems/alignment.ipynb, text cell" in said and "refers to thm-gone" in said
    assert "Traceback" not in said


def test_the_page_follows_a_change_on_another_page(quick_top, tmp_path):
    top = shutil.copytree(quick_top, tmp_path / "top", symlinks=True)
    with open(top / "book" / "_toc.yml", "a") as toc:
        toc.write("- file: theorem_graph\n")
    shutil.copy(BOOK / "appendix" / "theorem_graph.md", top / "book" / "theorem_graph.md")
    assert build(top).returncode == 0
    shown = top / "_build" / "html" / "theorem_graph.html"
    assert "Homogeneity" in shown.read_text() and "Of degree p" not in shown.read_text()
    notation = top / "book" / "notation.md"
    notation.write_text(notation.read_text().replace("{prf:definition} Homogeneity", "{prf:definition} Of degree p"))
    assert build(top).returncode == 0
    assert soup_of(shown).find(id="node-def-homogeneous").select_one("text.title").string == "Of degree p"


@lru_cache
def soup_of(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def test_the_page_shows_every_label_of_the_book_once(site):
    found = theorem_model.read_pages(BOOK, pages())
    labels = [s.label for p in found for s in statements(p.name, list(p.cells))]
    soup = soup_of(site / "appendix" / "theorem_graph.html")
    assert len(labels) > 40
    assert [a["id"] for a in soup.select("svg a.statement")] == [f"node-{label}" for label in labels]
    assert [row["id"] for row in soup.select("table.theorem-table tr[id]")] == [f"row-{label}" for label in labels]
    for a in soup.select("svg a.statement"):
        page_name, label = a["href"].split("#")
        target = soup_of((site / "appendix" / page_name).resolve()).find(id=label)
        assert target and f"node-{label}" == a["id"] and set(target["class"]) & set(theorem_drawing.SHAPES)
        assert a.title.string.strip()


def test_the_page_links_every_claim_of_this_build(site):
    claims = json.loads((site / "claims.json").read_text())["claims"]
    soup = soup_of(site / "appendix" / "theorem_graph.html")
    linked = {a["href"].split("#claim-")[1] for a in soup.select("svg a.claim")}
    assert linked == {c["label"] for c in claims} == {a["href"].split("#claim-")[1] for a in soup.select("table.theorem-table a") if "#claim-" in a["href"]}
