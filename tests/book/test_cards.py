"""Under each figure a card; what it offers is there, can be read, and is what was drawn."""

import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree
from functools import lru_cache
from pathlib import Path

import cards
import chapters
import nbformat
import pandas
import pytest
from bs4 import BeautifulSoup
from conftest import CHAPTERS, pages
from docutils import nodes

from lowrank.figures import GROUND

COLOUR = re.compile(r"#[0-9a-f]{6}\b")


@lru_cache
def soup_of(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def figures_of(site, page):
    return soup_of(site / f"{page}.html").find_all("figure", class_="lowrank-figure")


def fact(card, name):
    return card.find("dt", string=name).find_next_sibling("dd")


@pytest.mark.parametrize("page", [*CHAPTERS, "index"])
def test_every_figure_has_one_closed_card_with_its_files(page, site):
    here = (site / f"{page}.html").parent
    for figure in figures_of(site, page):
        name = figure["id"].removeprefix("figure-")
        (card,) = figure.find_all("details", class_="figure-card")
        assert not card.has_attr("open") and not card.find(id=True)
        links = [a["href"] for a in card.find_all("a", download=True)]
        files = [(here / link).resolve() for link in links]
        assert [file.name for file in files] == [f"{name}.csv", f"{name}-light.svg", f"{name}-dark.svg"]
        frame = pandas.read_csv(files[0])
        assert fact(card, "Data").get_text().startswith(f"{name}.csv: {len(frame):,} row")
        assert {"panel", "title", "x_label", "y_label", "series", "label", "kind"} <= set(frame.columns)
        assert frame.panel.nunique() == len(figure.find(attrs={"role": "img"}).find_all("svg", recursive=False))
        light, dark = (file.read_text() for file in files[1:])
        assert len(ElementTree.fromstring(light)) and len(ElementTree.fromstring(dark))
        assert light != dark and COLOUR.sub("", light) == COLOUR.sub("", dark)
        assert "var(" not in light + dark


@pytest.mark.parametrize("page", [*CHAPTERS, "index"])
def test_the_card_leads_to_the_lines_that_draw(page, site):
    for figure in figures_of(site, page):
        name = figure["id"].removeprefix("figure-")
        entry = fact(figure.find("details", class_="figure-card"), "Code")
        address = entry.find("a")["href"]
        assert figure.find("a", string="Code of this figure")["href"] == address
        path, fragment = address.split("#")
        target = soup_of((site / f"{page}.html").parent.joinpath(path).resolve() if path else site / f"{page}.html").find(id=fragment)
        assert target.find_parent("details") is not None  # folded; browsers open it for a fragment inside
        numbers = [int(number.get_text()) for number in target.find_all(class_="linenos")]
        assert numbers == list(range(1, len(numbers) + 1)) and numbers
        lines = [re.sub(r"^\s*\d+ ?", "", line) for line in target.find("pre").get_text().rstrip("\n").split("\n")]
        first, last = map(int, re.search(r"lines (\d+)–(\d+)", entry.get_text()).groups())
        drawing = "\n".join(lines[first - 1 : last])
        assert f'name="{name}"' in drawing and "figures." in lines[first - 1] + lines[first] and last <= len(lines)


@pytest.mark.parametrize("page", pages())
def test_no_anchor_is_there_twice(page, site):
    ids = [tag["id"] for tag in soup_of(site / f"{page}.html").find_all(id=re.compile("^(figure|code)-"))]
    assert len(ids) == len(set(ids))


def test_the_list_of_files_is_complete(site):
    listed = json.loads((site / "figures" / "index.json").read_text())
    shown = {figure["id"].removeprefix("figure-"): page for page in CHAPTERS for figure in figures_of(site, page)}
    assert set(listed) == set(shown) and all(listed[name]["chapter"] == page for name, page in shown.items())
    assert {path.name for path in (site / "figures").iterdir()} == {"index.json"} | {f for one in listed.values() for f in one["files"]}


def execution(name, *figures, code='figures.show(ax, name="a")'):
    cells = [nbformat.v4.new_code_cell("width: int = 3  # a\nseed: int = 4  # b\nseed = 5", metadata={"tags": ["parameters"]})]
    for figure in figures:
        metadata = {"lowrank_figure": {"name": figure, "alt": "a", "caption": "c", "data": DATA}}
        markup = '<figure id="figure-a"><svg viewBox="0 0 1 2" style="flex:1"></svg><figcaption>c</figcaption></figure>'
        output = nbformat.v4.new_output("display_data", {"text/html": markup}, metadata=metadata)
        cells.append(nbformat.v4.new_code_cell(code, outputs=[output]))
    return chapters.Execution(name, "key", nbformat.v4.new_notebook(cells=cells), 1.25)


DATA = [{"panel": 1, "title": "", "x_label": "", "y_label": "", "series": 1, "label": "<l>", "kind": "line", "x": [0.1], "y": [0.2]}]


def test_two_figures_of_one_name_are_refused():
    with pytest.raises(chapters.ChapterError, match="two, code cell 2: .* got a, which one, code cell 3, has too; rename"):
        cards.gather({"one": execution("one", "b", "a"), "two": execution("two", "a")})
    with pytest.raises(chapters.ChapterError, match="one, code cell 3.* got a, which one, code cell 2"):
        cards.gather({"one": execution("one", "a", "a")})


def test_a_card_says_parameters_seeds_and_seconds_of_the_run():
    code = "generator = Generator().manual_seed(seed + 1)\nother = default_rng(what)\nlast = default_rng(seed<width)\nfigures.show(ax, name='a')"
    figure = cards.gather({"one": execution("one", "a", code=code)})["a"]
    card = BeautifulSoup(cards.with_card(figure, root="../", page="p.html"), "html.parser").find("details")
    assert fact(card, "Parameters").get_text() == "width = 3, seed = 5"
    assert fact(card, "Seeds").get_text() == "seed + 1 = 6, what, seed<width = 0"
    assert fact(card, "Code").get_text() == "code cell 2, lines 4–4 of one" and fact(card, "Code").a["href"] == "p.html#code-a"
    assert fact(card, "Run").find(class_="seconds").get_text() == "1.2 s"


def test_a_cell_with_two_figures_has_an_anchor_for_each_and_other_chapters_leave_it_alone():
    one = execution("one", "a")
    one.notebook.cells[1].outputs.append(execution("one", "b").notebook.cells[1].outputs[0])
    block = nodes.literal_block("", "code")
    cell = nodes.container("", block, nb_element="cell_code", cell_index=1)
    cards.mark_code(cell, one, cards.gather({"one": one, "two": execution("two", "c")}))
    assert block["ids"] == ["code-a", "code-b"] and block["linenos"] is True


@pytest.mark.parametrize("source, lines", [
    ("import numpy\nx = 1\n(ax,) = figures.panels()\nax.plot([1])\nfigures.show(\n    ax,\n)\n", (3, 7)),
    ("%magic\nfigures.show(ax)", (1, 2)),
    ("shown", (1, 1)),
])  # fmt: skip
def test_lines_that_draw(source, lines):
    assert cards.drawing_lines(source) == lines


def test_files_are_written_once_and_none_is_left_over(tmp_path):
    figures = cards.gather({"one": execution("one", "a", "b")})
    cards.write_files(tmp_path, figures)
    folder = tmp_path / "figures"
    assert (folder / "a.csv").read_text() == "panel,title,x_label,y_label,series,label,kind,x,y\n1,,,,1,<l>,line,0.1,0.2\n"
    for mode, ground in GROUND.items():
        assert f'fill="{ground}"' in (folder / f"a-{mode}.svg").read_text()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    cards.write_files(tmp_path, figures)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    newer = execution("one", "a", "b")
    newer.notebook.cells[1].outputs[0].metadata["lowrank_figure"]["data"] = [{**DATA[0], "y": [0.3]}]
    cards.write_files(tmp_path, cards.gather({"one": dataclasses.replace(newer, key="another")}))
    assert (folder / "a.csv").read_text().endswith("line,0.1,0.3\n")
    (folder / "a.csv").unlink()
    cards.write_files(tmp_path, {"a": figures["a"]})
    assert {path.name for path in folder.iterdir()} == {"index.json", "a.csv", "a-light.svg", "a-dark.svg"}
