"""The page on wrong versions of the package."""

import mutation_record
import pytest
from bs4 import BeautifulSoup


def row(name, noticed, **other):
    return {"name": name, "file": "lowrank/bounds.py", "old": "a <b> c", "new": "a > b", "why": "<i>c</i> is a bound",
            "noticed": noticed, "chapter": "theorems/one", "claims": [], "words": "", **other}  # fmt: skip


@pytest.fixture
def package(tmp_path):
    (tmp_path / "lowrank").mkdir()
    (tmp_path / "lowrank" / "bounds.py").write_text("a < b")
    return tmp_path / "lowrank"


def page(package, *rows):
    record = {"date": "2026-01-31", "commit": "abcdef0", "modules": mutation_record.hashes(package), "mutations": rows}
    markup = mutation_record.rendered(
        record, package, chapter_of={"small": "theorems/one"}, titles={"theorems/one": "One"}, link=lambda name, anchor: f"../{name}.html#{anchor}"
    )
    return BeautifulSoup(markup, "html.parser")


def test_each_wrong_version_has_a_row_that_says_what_noticed_it(package):
    soup = page(
        package, row("flip", "claim", claims=["small", "gone"]), row("stop", "exception", words="ValueError: <x> & y"),
        row("quiet", "nothing", chapter="", new=""), row("unit", "test", chapter="", words="tests/test_bounds.py::test_it"),
    )  # fmt: skip
    cells = [[cell.get_text() for cell in line.find_all("td")] for line in soup.tbody.find_all("tr")]
    assert [line[2] for line in cells] == [
        "a claim fails, or its control does not in One: small, gone", "a chapter stops with an exception in One: ValueError: <x> & y",
        "nothing notices", "a test of the module fails: tests/test_bounds.py::test_it",
    ]  # fmt: skip
    assert cells[0][:2] == ["lowrank/bounds.py, flipa <b> c a > b", "<i>c</i> is a bound"] and soup.tbody.ins.get_text() == "a > b"
    assert cells[2][0].endswith("a <b> c nothing")
    assert [link["href"] for link in soup.find_all("a")] == ["../theorems/one.html#claim-small"]  # a claim that is gone is no link
    assert soup.p.get_text() == (
        "3 of 4 wrong versions were noticed. a claim fails, or its control does not: 1; a chapter stops with an exception: 1; a test of the "
        "module fails: 1; nothing notices: 1. Recorded on 2026-01-31 at commit abcdef0; none of the modules has changed since."
    )


def test_a_record_of_an_older_package_says_so(package):
    rows = [row("flip", "claim"), row("other", "claim", file="lowrank/exact.py")]
    assert "changed since the record: lowrank/exact.py." in page(package, *rows).p.get_text()  # a file that is not there
    assert "none of the modules has changed since" in page(package, rows[0]).p.get_text()
    record = {"date": "", "commit": "", "modules": mutation_record.hashes(package), "mutations": rows[:1]}
    (package / "bounds.py").write_text("a <= b")
    assert "changed since the record: lowrank/bounds.py." in mutation_record.rendered(record, package, chapter_of={}, titles={}, link=None)
