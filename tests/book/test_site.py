"""The site that the build makes: complete, quiet, and never a mixture of two builds."""

import json
import os
import re
import shutil
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlparse

import chapters
import comparison
import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from conftest import BOOK, CHAPTERS, TOP, build, pages, read


@lru_cache
def soup_of(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def parsed(site: Path, page: str) -> BeautifulSoup:
    return soup_of((site / f"{page}.html").resolve())


@pytest.mark.parametrize("page", pages())
def test_every_link_and_asset_is_there(page, site):
    soup = parsed(site, page)
    here = site / f"{page}.html"
    addresses = [tag[attribute] for tag in soup.find_all(True) for attribute in ("src", "href") if tag.has_attr(attribute)]
    assert addresses
    for address in addresses:
        parts = urlparse(address)
        if parts.scheme in ("http", "https", "mailto", "data"):
            continue
        target = here if not parts.path else (here.parent / unquote(parts.path)).resolve()
        assert target.exists(), address
        if parts.fragment and target.suffix == ".html" and not parts.fragment.startswith("/"):
            assert soup_of(target).find(id=unquote(parts.fragment)), address


@pytest.mark.parametrize("page", pages())
def test_nothing_is_fetched_from_elsewhere(page, site):
    soup = parsed(site, page)
    for tag in soup.find_all(["script", "img", "link", "iframe"]):
        address = tag.get("src") or (tag.get("href") if "stylesheet" in tag.get("rel", []) else None) or ""
        assert not address.startswith(("http:", "https:", "//")), address


@pytest.mark.parametrize("page", pages())
def test_no_script_is_loaded_twice(page, site):
    tags = parsed(site, page).find_all("script")
    sources = [tag["src"] for tag in tags if tag.has_attr("src")]
    assert len(sources) == len(set(sources)) and any("mathjax/tex-svg.js" in source for source in sources)
    constants = [name for tag in tags for name in re.findall(r"\b(?:const|let) (\w+)", tag.get_text())]
    assert len(constants) == len(set(constants)) and "THEBE_JS_URL" not in constants


@pytest.mark.parametrize("page", pages())
def test_no_traceback_no_raw_markup_no_local_path(page, site):
    words = " ".join(node for node in parsed(site, page).find_all(string=True) if node.parent.name not in ("script", "style"))
    assert "Traceback" not in words and str(TOP) not in words
    assert not re.search(r"\{(glue|prf|verdict|cite)[:}]", words)


@pytest.mark.parametrize("page", [*CHAPTERS, "index"])
def test_every_figure_has_alternative_text_caption_and_code(page, site):
    found = parsed(site, page).find_all("figure", class_="lowrank-figure")
    assert found
    for figure in found:
        assert len(figure.find(attrs={"role": "img"})["aria-label"]) > 40
        assert len(figure.find("figcaption").get_text()) > 40
        assert figure.find_all("svg") and figure.find("a", string="Code of this figure")


def test_claims_json_holds_every_claim_of_every_chapter(site):
    ledger = json.loads((site / "claims.json").read_text())
    assert {claim["chapter"] for claim in ledger["claims"]} == set(CHAPTERS)
    for claim in ledger["claims"]:
        assert claim["statement"] and claim["control"]["noticed"] is True, claim["label"]
        assert claim["verdict"].split(" (")[0] in ("identity checked", "numerically consistent")
        assert len(claim["slack"]) == claim["members"]


def test_the_ledger_shows_every_number_that_may_stand_typed(site):
    rows = parsed(site, "appendix/ledger").select("table.numbers-allowed tbody tr")
    entries = yaml.safe_load((BOOK / "_ext" / "numbers_allowed.yml").read_text())
    assert len(rows) == len(entries) > 0
    for row, entry in zip(rows, entries):
        assert entry["text"] in row.get_text() and entry["reason"] in row.get_text()


def test_index_quotes_the_verdicts_of_this_build(site):
    ledger = {c["label"]: c for c in json.loads((site / "claims.json").read_text())["claims"]}
    links = [a for a in parsed(site, "index").find_all("a") if "#claim-" in a.get("href", "")]
    assert len(links) >= 8
    for link in links:
        claim = ledger[link["href"].split("#claim-")[1]]
        enclosed = claim["enclosed"]
        assert link.get_text() == claim["verdict"] + (f", enclosed {enclosed['proved']} of {enclosed['of']}" if enclosed else "")


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_stored_outputs_are_what_a_fresh_run_gives(chapter, site):
    # The site fixture has executed or confirmed every chapter; this reads those executions and runs nothing.
    (execution,) = chapters.execute_all(
        {chapter: BOOK / f"{chapter}.ipynb"}, TOP / "_build" / "executed", report=lambda line: None
    ).values()
    assert comparison.differences(execution.notebook, read(chapter)) == []


def test_an_unchanged_build_runs_no_chapter_and_reads_no_page(quick_top, tmp_path):
    top = shutil.copytree(quick_top, tmp_path / "top", symlinks=True)
    assert build(top).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in (top / "_build").rglob("*.html")}
    again = build(top)
    assert again.returncode == 0 and "chapters: all 1 up to date" in again.stdout
    assert "0 added, 0 changed, 0 removed" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in (top / "_build").rglob("*.html")} == before


def test_an_interrupted_build_is_not_trusted(quick_top, tmp_path):
    top = shutil.copytree(quick_top, tmp_path / "top", symlinks=True)
    assert build(top).returncode == 0
    page = top / "_build" / "html" / "theorems" / "alignment.html"
    whole = page.read_text()
    page.write_text(whole[: len(whole) // 2])  # newer than its source, and half
    (top / "_build" / ".building").touch()  # what an interrupted build leaves
    assert build(top).returncode == 0
    assert len(page.read_text()) > 0.9 * len(whole) and not (top / "_build" / ".building").exists()


def test_a_killed_run_leaves_no_execution(tmp_path):
    source = tmp_path / "slow.ipynb"
    cell = nbformat.v4.new_code_cell("import os, signal; os.kill(os.getppid(), signal.SIGKILL)")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), source)
    with pytest.raises(chapters.ChapterError):
        chapters.execute_all({"slow": source}, tmp_path / "store", report=lambda line: None)
    assert not list(tmp_path.glob("store/*"))


def test_the_key_follows_the_package_the_code_and_not_the_prose(monkeypatch, tmp_path):
    package = shutil.copytree(chapters.package_folder(), tmp_path / "lowrank", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(chapters, "package_folder", lambda: package)

    def key(notebook):
        chapters._package_hash.cache_clear()
        return chapters.key(notebook)

    notebook = read("theorems/alignment")
    first = key(notebook)
    notebook.cells[0].source += " More prose."
    assert key(notebook) == first
    for path in sorted(package.glob("*.py")):
        original = path.read_text()
        path.write_text(original + "\n# edited\n")
        assert key(notebook) != first, path.name
        path.write_text(original)
    assert key(notebook) == first
    next(cell for cell in notebook.cells if cell.cell_type == "code").source += "\nseed = 1"
    assert key(notebook) != first
    chapters._package_hash.cache_clear()


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    chapters.write_atomically(target, "old")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        chapters.write_atomically(target, "new")
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    assert target.stat().st_mode & 0o777 == 0o644
