"""Two builds agree, and where they do not, somebody says so: chapter, cell, and by how much."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import chapters
import nbformat
import pytest
import reproduction
from bs4 import BeautifulSoup
from conftest import BOOK, TOP, build

sys.path.insert(0, str(TOP / "tools"))
import reproduce

CODE = '''import numpy as np
from lowrank import figures
from lowrank.claims import check, table
draw = np.random.default_rng({seed}).random((3, 4))
print("a draw")
print({shown})'''
CHECK = 'table(check("tiny-range", draw, "<=", 1.0, statement="draws are at most 1", control=check("doubled", draw + 1, "<=", 1.0)))'
FIGURE = '''(ax,) = figures.panels()
figures.spread(ax, [1, 2, 3, 4], draw, label="draws")
figures.show(ax, name="tiny", alt="three lines of four draws each, all between zero and one", caption="Draws from a generator.")'''


@pytest.fixture
def tiny_top(tmp_path):
    """A function that makes a book of one chapter, whose draw starts from `seed`."""

    def make(seed: str = "seed", shown: str = "'nothing'"):
        top = tmp_path / "tiny"
        shutil.copytree(BOOK / "_ext", top / "book" / "_ext", ignore=shutil.ignore_patterns("__pycache__"))
        (top / "book" / "_static" / "mathjax").mkdir(parents=True)
        (top / "book" / "_static" / "mathjax" / "tex-svg.js").touch()
        for name in ("lowrank.css", "favicon.svg", "claims.schema.json", "ledger.js"):
            shutil.copy(BOOK / "_static" / name, top / "book" / "_static")
        shutil.copy(TOP / "_config.yml", top)
        (top / "book" / "references.bib").touch()
        (top / "book" / "_ext" / "numbers_allowed.yml").write_text("[]\n")
        toc = "format: jb-book\nroot: index\nchapters:\n- file: theorems/tiny\n- file: appendix/reproduce\n"
        (top / "book" / "_toc.yml").write_text(toc)
        (top / "book" / "index.md").write_text("# A book\n\nOf one chapter.\n")
        (top / "book" / "appendix").mkdir()
        shutil.copy(BOOK / "appendix" / "reproduce.md", top / "book" / "appendix")
        (top / "book" / "theorems").mkdir()
        ran = nbformat.v4.new_code_cell
        cells = [
            nbformat.v4.new_markdown_cell("# Tiny"),
            ran("seed: int = 3  # of the draw", metadata={"tags": ["parameters"]}),
            ran(CODE.format(seed=seed, shown=shown)),
            ran(CHECK),
            ran(FIGURE, metadata={"tags": ["hide-input", "nbval-ignore-output"]}),
            nbformat.v4.new_markdown_cell("```{provenance}\n```"),
        ]
        for index, cell in enumerate(cells):
            cell["id"] = f"cell-{index}"
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), top / "book" / "theorems" / "tiny.ipynb")
        subprocess.run([sys.executable, "book/_ext/chapters.py", "refresh"], cwd=top, check=True, capture_output=True)
        return top

    return make


def article(page):
    return " ".join(BeautifulSoup(page.read_text(), "html.parser").find("article").get_text().split())


def test_two_builds_of_a_seeded_chapter_are_identical_and_the_page_says_so(tiny_top, capfd):
    top = tiny_top()
    built = build(top)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    page = top / "_build" / "html" / "appendix" / "reproduce.html"
    assert "No record is stored" in article(page) and "make reproduce writes one" in article(page)

    assert reproduce.main([], top=top) == 0
    said = capfd.readouterr().out
    assert "build 1 of 2: [1/1] theorems/tiny: ran in" in said and "build 2 of 2" in said and "identical: 1 chapters" in said
    assert "instructions up to SSE: [1/1] theorems/tiny: ran in" in said and "the same texts with instructions up to AVX2, up to SSE" in said
    record = json.loads((top / "book" / reproduction.RECORD).read_text())
    assert record["pages"]["differ"] == [] and record["pages"]["compared"] >= 4
    chapter = record["chapters"]["theorems/tiny"]
    assert chapter["outcome"] == "identical" and chapter["parameters"] == {"seed": 3} and chapter["seeds"] == {"seed": 3}
    assert chapter["compared"] == {"text outputs": 3, "claims": 1, "figures": 1, "numbers": chapter["compared"]["numbers"]}
    assert chapter["machines"].keys() == record["machines"].keys() == {"AVX2", "SSE"}
    assert all(there == {"arrays": "the same", "last digits": [], "differences": [], "figures": []} for there in chapter["machines"].values())
    assert chapter["compared"]["numbers"] > 16 and record["hardware"]["processor"] and len(chapter["seconds"]) == 2

    assert build(top).returncode == 0
    assert "The two builds are identical." in article(page) and "1 of 1 chapters gave the arrays" in article(page)
    assert record["hardware"]["processor"] in article(page)
    assert "All 2 runs show the same texts, and no claim failed." in article(page) and "OPENBLAS_CORETYPE=Nehalem" in article(page)
    assert BeautifulSoup(page.read_text(), "html.parser").find("td", string="the same arrays")

    record["chapters"]["theorems/tiny"] |= {"outcome": "differs", "differences": ["code cell 2: 1 and <2>"], "arrays": "0"}
    (execution,) = chapters.execute_all(
        {"theorems/tiny": top / "book" / "theorems" / "tiny.ipynb"}, top / "_build" / "executed", report=print
    ).values()
    words = reproduction._rendered(record, {"theorems/tiny": execution})
    assert "differ in theorems/tiny" in words and "code cell 2: 1 and &lt;2&gt;" in words and "as on another machine" in words


def test_an_unseeded_draw_is_caught_with_chapter_cell_and_size(tiny_top, tmp_path, capfd):
    top = tiny_top(seed="", shown="draw[0, 0]")
    output = tmp_path / "record.json"
    assert reproduce.main(["--chapters", "theorems/tiny", "-o", str(output)], top=top) == 1
    said = capfd.readouterr().out
    chapter = json.loads(output.read_text())["chapters"]["theorems/tiny"]
    assert chapter["outcome"] == "differs" and len(chapter["differences"]) == 5
    for place in ("theorems/tiny, code cell 2: “0.", "theorems/tiny, code cell 3: ", "claim tiny-range, ", "data of figure tiny, ", "drawing of figure tiny: "):
        assert place in said, said
    assert "by up to" in said and not (top / "book" / reproduction.RECORD).exists()


INSTRUCTIONS = "__import__('os').environ.get('ATEN_CPU_CAPABILITY')"  # what an imitated machine sees and this one does not


@pytest.mark.parametrize("shown, status, found", [
    (f"{INSTRUCTIONS} and 'older' or 'newer'", 1, {"differences": ["code cell 2 stdout: committed 'newer', fresh 'older'"]}),
    (f"0.51 if {INSTRUCTIONS} else 0.52", 0, {"last digits": [2]}),
])  # fmt: skip
def test_an_imitated_machine_may_show_another_last_digit_and_nothing_else(shown, status, found, tiny_top, tmp_path, capfd):
    top, output = tiny_top(shown=shown), tmp_path / "record.json"
    assert reproduce.main(["--chapters", "theorems/tiny", "-o", str(output)], top=top) == status
    record = json.loads(output.read_text())
    for machine, there in record["chapters"]["theorems/tiny"]["machines"].items():
        assert there == {"arrays": "the same", "last digits": [], "differences": [], "figures": [], **found}
        assert (f"theorems/tiny on {machine}: code cell 2" in capfd.readouterr().out) is (machine == "AVX2" and status == 1)
    words = reproduction._machines(record)
    assert ("2 of 2 runs show other texts" in words) is bool(status) and ("another last digit in code cell 2" in words) is not status


def test_a_machine_with_other_arrays_and_other_words_of_figures():
    other = notebook(y=2.5)
    other.cells[0].outputs[2].data["text/html"] = "<svg/><figcaption>up to 0.75</figcaption>"
    here = notebook()
    here.cells[0].outputs[2].data["text/html"] = "<svg/><figcaption>up to 0.51</figcaption>"
    there = reproduction.on_machine(other, here)
    assert there["arrays"] == "others" and there["figures"] == ["f"] and there["differences"]  # the figure's HTML, in a cell that is compared
    for notebooks in (other, here):
        notebooks.cells[0].metadata["tags"] = ["nbval-ignore-output"]
    assert reproduction.on_machine(other, here) == {"arrays": "others", "last digits": [], "differences": [], "figures": ["f"]}


def test_a_chapter_that_is_not_there_is_refused(capfd):
    assert reproduce.main(["--chapters", "theorems/none"]) == 2
    assert "--chapters: expected theorems/alignment, " in capfd.readouterr().err


def test_a_failing_build_says_why(tiny_top, capfd):
    top = tiny_top()
    path = top / "book" / "theorems" / "tiny.ipynb"
    path.write_text(path.read_text().replace("<=", ">="))
    assert reproduce.main([], top=top) == 1
    assert "Chapter failed: theorems/tiny, code cell 3" in capfd.readouterr().err and not (top / "book" / reproduction.RECORD).exists()


def notebook(text="1.5", slack=0.25, y=2.0):
    """An execution with one claim and one figure, as a chapter would leave it."""
    claim = {"label": "a", "lhs": 1.0, "rhs": 2.0, "slack": [slack, None], "verdict": "identity checked"}
    figure = {"name": "f", "alt": "alt", "data": [{"panel": 1, "kind": "line", "x": [0.0, 1.0], "y": [1.0, y]}]}
    outputs = [
        nbformat.v4.new_output("stream", name="stdout", text=f"value {text}\n"),
        nbformat.v4.new_output("display_data", {"text/plain": "a table"}, metadata={"lowrank_claims": [claim]}),
        nbformat.v4.new_output("display_data", {"text/plain": "alt", "text/html": "<svg/>"}, metadata={"lowrank_figure": figure}),
    ]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("pass", outputs=outputs)])


@pytest.mark.parametrize("change, where, size", [
    ({"text": "1.75"}, "code cell 1", 0.25),
    ({"slack": 0.25 + 2**-54}, "claim a, 1 of 6 entries, most at slack[0]", 2**-54),
    ({"slack": None}, "claim a, 1 of 6 entries, most at slack[0]", None),
    ({"y": 2.0 + 2**-51}, "data of figure f, 1 of 6 entries, most at [0].y[1]", 2**-51),
    ({"y": 2}, "data of figure f, 1 of 6 entries, most at [0].y[1]", 0),
    ({"y": float("nan")}, "data of figure f, 1 of 6 entries, most at [0].y[1]", pytest.approx(float("nan"), nan_ok=True)),
])  # fmt: skip
def test_one_bit_is_a_difference(change, where, size):
    assert reproduction.differences(notebook(), notebook()) == []
    (found,) = reproduction.differences(notebook(), notebook(**change))
    assert found.where == where and found.size == size
    changed = reproduction.digest(reproduction.numbers(notebook(**change))) != reproduction.digest(reproduction.numbers(notebook()))
    assert changed == ("text" not in change)


def test_the_largest_difference_of_a_figure_is_named_and_a_drawing_of_the_same_length_told():
    first, second = notebook(), notebook(y=2.5)
    figure = second.cells[0].outputs[2]
    figure.metadata["lowrank_figure"]["data"][0]["x"][1] = 1.0 + 2**-40
    figure.data["text/html"] = "<SVG/>"
    data, drawing = reproduction.differences(first, second)
    assert (data.where, data.size) == ("data of figure f, 2 of 6 entries, most at [0].y[1]", 0.5)
    assert drawing.where == "drawing of figure f" and drawing.size is None


def test_not_a_number_twice_is_no_difference():
    assert reproduction.differences(notebook(y=float("nan")), notebook(y=float("nan"))) == []


@pytest.mark.parametrize("key, change, words", [
    ("k", {}, "the same arrays"), ("k", {"y": 3.0}, "other arrays from the same code, as on another machine"),
    ("l", {}, "the same arrays, though the code changed since"), ("l", {"y": 3.0}, "code, parameters or libraries changed since"),
])  # fmt: skip
def test_the_page_tells_a_stale_record(key, change, words):
    recorded = {"key": "k", "arrays": reproduction.digest(reproduction.numbers(notebook()))}
    assert reproduction.standing(recorded, SimpleNamespace(key=key, notebook=notebook(**change))) == words
    assert reproduction.standing(None, SimpleNamespace(key=key, notebook=notebook())) == "not in the record"


def test_against_another_machine_only_shown_digits_count():
    chapter = {"key": "k", "arrays": "1", "shown": {"2": "aa", "3": "bb"}, "claims": {"c": [0.12345, None]}}
    one = {"chapters": {"t": chapter}}
    assert reproduce.against(one, one) == []
    other = {"chapters": {"t": {**chapter, "arrays": "2", "claims": {"c": [0.12346, None]}}}}
    assert reproduce.against(one, other) == ["t: other arrays, the same shown text"]
    other = {"chapters": {"t": {**chapter, "shown": {"2": "aa", "3": "cc"}, "claims": {"c": [0.1245, None]}}}}
    assert reproduce.against(one, other) == ["t: other shown text in code cell 3", "t: claim c, left side: 0.123 and 0.124"]
    assert reproduce.against(one, {"chapters": {}}) == ["t: only in ours"]


def test_a_copy_has_the_tracked_files_and_nothing_built(tmp_path):
    reproduce._copy(TOP, tmp_path / "copy")
    assert (tmp_path / "copy" / "lowrank" / "claims.py").is_file() and (tmp_path / "copy" / "book" / "_toc.yml").exists()
    assert not (tmp_path / "copy" / "_build").exists() and not (tmp_path / "copy" / ".venv").exists()


def test_times_do_not_count_as_words(tmp_path):
    page = '<p>Ran in 12.3 s, {} <span class="seconds">{}</span> and x = 1.5.</p><script>{}</script>'
    (tmp_path / "a").mkdir()
    for folder, numbers in (("a", ("4 s", 7, 1)), ("b", ("9.25 s", 8, 2))):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "p.html").write_text(page.format(*numbers))
    assert reproduce._words(tmp_path / "a") == reproduce._words(tmp_path / "b") == {"p.html": "Ran in … s, … s and x = 1.5."}


def test_keys_of_both_runs_are_compared():
    ran = notebook()
    ran.metadata["lowrank_seconds"] = 1.0
    assert reproduce._compared(("k", ran), ("k", ran))["outcome"] == "identical"
    assert reproduce._compared(("k", ran), ("l", ran))["differences"] == ["keys k and l"]


def test_versions_of_the_record_are_those_of_the_build():
    assert {"python", "torch"} <= chapters.versions().keys()
