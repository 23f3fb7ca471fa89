"""The ledger: its data, its page, and the tables and strips that quote it."""

import copy
import io
import json
import shutil
import subprocess
from pathlib import Path

import jsonschema
import ledger
import ledger_page
import numpy as np
import pandas
import pytest
import torch
from bs4 import BeautifulSoup
from conftest import BOOK, build
from statements import statements

from lowrank import check
from lowrank.enclosure import Enclosure

TEXT = """
```{prf:definition} A word
:label: def-word
Small means at most 1.
```
```{prf:theorem} A law
:label: thm-law
x ≤ 1.
```
```{prf:lemma} A step
:label: lem-step
x < 1.
```
````{prf:proof}
({prf:ref}`thm-law`) By {prf:ref}`lem-step`.
````
"""
ROWS = "rows:\n- claim: Numbers are small\n  verdict: 'always: {small}; or not: {equal}'\n- claim: They stay so\n  stated_only: nobody looked\n"
TITLES = {"theorems/one": "One", "theorems/two": "Two"}


def enclosures(*exists):
    unused = torch.zeros(len(exists))
    return [Enclosure(np.array(exists), unused, unused, unused, unused, unused, np.array([""] * len(exists)))]


def claims():
    """Claims of every kind, as two chapters record them."""
    control = check("broken", [2.0, 3.0], "<=", 1.0)
    met = check("at rest", [1e-3, 0.0], "<=", 1e-2)
    resting = check("resting", 0.0, "<=", 1.0, premises=[check("rest", 1.0, "<=", 0.0)])
    small = check("small", [0.5, 0.25], "<=", 1.0, statement="x < 1 & so on", theorem="thm-law", control=control, premises=[met])
    first = [
        small,
        check("equal", [[1.0, 2.0]], "==", [[1.0, 2.0]], tolerance=1e-12, control=control, enclosures=enclosures(True)),
        check("large", [4.0, 8.0], ">=", 2.0, theorem=["thm-law", "lem-step"], control=control, enclosures=enclosures(True, False)),
    ]
    second = [
        check("unmet", 1.0, "<=", 2.0, premises=[check("rest", 1.0, "<=", 0.0), resting, met], control=check("half", [2.0, 0.5], "<=", 1.0)),
        check("wrong", [3.0, float("nan")], "<=", 2.0, theorem="lem-step"),
        check("rounding", 1e-17, "<=", 1e-9, control=control),
    ]
    return [
        {"chapter": chapter, "seconds": seconds, **claim.record()}
        for chapter, seconds, made in (("theorems/one", 3.21, first), ("theorems/two", 12.0, second))
        for claim in made
    ]


@pytest.fixture
def document(tmp_path):
    (tmp_path / "abstract.yml").write_text(ROWS)
    abstract = ledger.read_abstract(tmp_path / "abstract.yml", {claim["label"] for claim in claims()})
    return ledger.assemble(claims(), statements("theorems/one", [TEXT]), abstract, {"python": "3"})


def link(page, anchor):
    return f"{page}.html#{anchor}"


def page_of(document, part=ledger_page.table):
    return BeautifulSoup(part(document, titles=TITLES, link=link), "html.parser")


def cells_of(document):
    """{label: {column: cell}} of the table."""
    soup = page_of(document)
    names = [th.get_text() for th in soup.thead.find_all("th")]
    return {row["id"].removeprefix("ledger-"): dict(zip(names, row.find_all(["th", "td"]), strict=True)) for row in soup.tbody.find_all("tr")}


def words(document, column):
    return {label: cells[column].get_text(" ", strip=True) for label, cells in cells_of(document).items()}


def test_the_schema_is_one_and_accepts_what_the_chapters_record(document):
    jsonschema.Draft202012Validator.check_schema(json.loads(ledger.SCHEMA.read_text()))
    ledger.validate(json.loads(json.dumps(document, allow_nan=False)))


@pytest.mark.parametrize(
    "path, value",
    [
        (("claims", 0, "verdict"), "proved"),
        (("claims", 0, "verdict"), "numerically consistent (1 members)"),
        (("claims", 0, "members"), 0),
        (("claims", 0, "seconds"), 0),
        (("claims", 0, "slack"), []),
        (("claims", 0, "tolerance"), None),
        (("claims", 0, "surprise"), 1),
        (("claims", 0, "relation"), "<"),
        (("claims", 0, "control", "noticed"), None),
        (("claims", 0, "control", "surprise"), 1),
        (("claims", 0, "premises", 0, "surprise"), 1),
        (("claims", 0, "premises", 0, "verdict"), "true"),
        (("claims", 0, "tightness", "worst"), -1),
        (("claims", 1, "enclosed"), {"proved": 1}),
        (("claims", 1, "enclosed", "of"), 0),
        (("claims", 0, "theorems"), "thm-law"),
        (("abstract", 0, "labels"), []),
        (("abstract", 0, "stated_only"), "and a reason"),
        (("abstract", 1, "stated_only"), ""),
        (("statements", 0, "proof"), "yes"),
        (("versions", "python"), 3),
        (("surprise",), 1),
    ],
)
def test_the_schema_refuses(path, value, document):
    broken = copy.deepcopy(document)
    place = broken
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ledger.LedgerError, match=r"^claims.json, \$") as error:
        ledger.validate(broken)
    if path[0] == "claims":
        assert f"(claim {document['claims'][path[1]]['label']})" in str(error.value)


def test_the_schema_misses_nothing_that_is_taken_away(document):
    for place in (document, document["claims"][0], document["claims"][0]["control"], document["claims"][0]["premises"][0]):
        for key in list(place):
            kept = place.pop(key)
            with pytest.raises(ledger.LedgerError):
                ledger.validate(document)
            place[key] = kept


@pytest.mark.parametrize("label", ["thm-lwa", "def-word"])
def test_a_claim_about_no_statement_of_the_text_is_refused(label):
    made = [{"chapter": "theorems/one", "seconds": 1.0, **check("a", 0.0, "<=", 1.0, theorem=label).record()}]
    with pytest.raises(ledger.LedgerError, match=f"theorems/one, claim a: theorem {label} is no statement of the text"):
        ledger.assemble(made, statements("theorems/one", [TEXT]), {"rows": []}, {})


def test_what_does_not_fit_the_schema_is_not_assembled(document):
    assert [s["label"] for s in document["statements"]] == ["thm-law", "lem-step"]  # a definition needs no check
    with pytest.raises(ledger.LedgerError, match="seconds"):
        ledger.assemble([{"chapter": "theorems/one", **check("a", 0.0, "<=", 1.0).record()}], [], {"rows": []}, {})


def test_csv_read_by_pandas_equals_the_json(document):
    table = pandas.read_csv(io.StringIO(ledger.as_csv(document)), dtype=str, keep_default_na=False)
    assert len(table) == len(document["claims"])
    for (_, row), claim in zip(table.iterrows(), document["claims"], strict=True):
        control, enclosed = claim["control"] or {}, claim["enclosed"] or {}
        expected = {name: claim[name] for name in ("chapter", "label", "statement", "relation", "verdict", "members", "comparisons")}
        expected |= {name: claim[name] for name in ("lhs", "rhs", "tolerance", "seconds")}
        expected |= {f"tightness_{name}": claim["tightness"][name] for name in ("worst", "median")}
        expected |= {f"enclosed_{name}": enclosed.get(name) for name in ("proved", "of")}
        expected |= {f"control_{name}": control.get(name) for name in ("failing_members", "members", "noticed")}
        expected |= {"control": control.get("label"), "slack": None if None in claim["slack"] else min(claim["slack"])}
        expected |= {"theorems": " ".join(claim["theorems"])}
        expected |= {"premises": "; ".join(f"{p['label']}: {p['verdict']}" for p in claim["premises"])}
        assert set(expected) == set(table.columns)
        for name, value in expected.items():
            number = isinstance(value, float)
            assert float(row[name]) == value if number else row[name] == ("" if value is None else str(value)), name


@pytest.mark.parametrize(
    "row, message",
    [
        ("claim: A", "row 1 .A.: expected either a verdict .* got neither"),
        ("{claim: A, verdict: 'surely true'}", "got neither"),
        ("{claim: A, verdict: 'surely true', stated_only: no time}", "expected either a verdict"),
        ("{claim: A, stated_only: ''}", "got neither"),
        ("{claim: A, stated_only: }", "got neither"),
        ("{claim: A, verdict: '{small}', stated_only: no time}", "got both"),
        ("{claim: A, verdict: 'at rest: {smal}, {equal}'}", "no claim of this build is labelled smal;"),
        ("{verdict: '{small}'}", "without claim.: expected claim and verdict or stated_only, got verdict"),
        ("{claim: A, verdict: '{small}', proved: yes}", "got claim, verdict, proved"),
    ],
)
def test_a_row_of_the_abstract_that_says_nothing_or_too_much_is_refused(row, message, tmp_path):
    (tmp_path / "abstract.yml").write_text(f"rows:\n- {row}\n")
    with pytest.raises(ledger.LedgerError, match=message):
        ledger.read_abstract(tmp_path / "abstract.yml", {"small", "equal"})


def test_verdicts_are_quoted_and_never_read_proved(document):
    assert words(document, "Verdict") == {claim["label"]: claim["verdict"] for claim in document["claims"]}
    for cells in cells_of(document).values():
        assert all("proved" not in cell.get_text().lower() for cell in cells.values())


def test_enclosed_only_if_every_network_has_an_interval_proof(document):
    found = words(document, "Interval proof")
    assert found == {"small": "", "equal": "enclosed 1 of 1", "large": "1 of 2 networks", "unmet": "", "wrong": "", "rounding": ""}
    for proved, of in ((0, 0), (0, 3), (2, 3), (3, 3)):
        document["claims"][0]["enclosed"] = {"proved": proved, "of": of}
        assert ledger_page.is_enclosed(document["claims"][0]) == (proved == of > 0)


def test_tightness_is_bound_over_measured(document):
    found = words(document, "Bound ÷ measured")
    assert found["small"] == "2.00 median 2.67"  # 1/0.5; shares 1/2 and 1/4 have the median 3/8
    assert found["large"] == "2.00 median 2.67"
    assert found["equal"] == found["wrong"] == "" and found["rounding"] == "over 1,000"
    document["claims"][0]["tightness"] = {"worst": 1.001, "median": 1.0}
    assert words(document, "Bound ÷ measured")["small"] == "0.99 median 1.00"  # a violated bound never reads 1.00


def test_slack_is_that_of_the_worst_comparison(document):
    expected = {"small": "0.5", "equal": "equal within 1e-12", "large": "2", "unmet": "1", "wrong": "not a number", "rounding": "0 (rounding)"}
    assert words(document, "Slack") == expected


def test_premises_each_with_its_outcome_and_the_control_with_its_count(document):
    premises = words(document, "Premises, measured")
    assert premises["small"] == "at rest: met (0.001 <= 0.01)" and premises["equal"] == "none"
    assert premises["unmet"] == "rest: unmet (1 <= 0) resting: unmet (0 <= 1) at rest: met (0.001 <= 0.01)"
    control = words(document, "Would it notice a fault?")
    assert control["small"] == "yes, 2 of 2 fail broken" and control["unmet"] == "no, 1 of 2 fail half" and control["wrong"] == "no control"


def test_the_statement_that_a_claim_checks_and_whether_its_proof_stands_in_the_text(document):
    cells = cells_of(document)
    assert [a["href"] for a in cells["large"]["Checks"].find_all("a")] == ["theorems/one.html#thm-law", "theorems/one.html#lem-step"]
    proof = words(document, "Proof in the text")
    assert proof == {"small": "yes", "equal": "", "large": "1 of 2", "unmet": "", "wrong": "no", "rounding": ""}
    assert words(document, "Checks")["equal"] == "an experiment"
    assert cells["small"]["Claim"].a["href"] == "theorems/one.html#claim-small"
    assert cells["small"]["Run"].a["href"] == "theorems/one.html#provenance" and words(document, "Run")["small"].startswith("3 s")


def test_every_cell_has_a_key_and_keys_order_as_the_words_do(document):
    cells = cells_of(document)
    assert all(cell.has_attr("data-sort") for row in cells.values() for cell in row.values())

    def order(column):
        return sorted(cells, key=lambda label: float(cells[label][column]["data-sort"] or "inf"))

    assert order("Slack")[:3] == ["equal", "rounding", "small"]
    assert order("Would it notice a fault?")[:2] == ["wrong", "unmet"]  # what would not notice comes first
    assert order("Proof in the text") == ["small", "large", "wrong", "equal", "unmet", "rounding"]
    assert cells["large"]["Proof in the text"]["data-sort"] == "1"  # one of two is not all
    assert order("Verdict")[-1] == "wrong" and order("Interval proof")[0] == "equal"


def test_markup_in_words_is_escaped(document):
    assert "x < 1 & so on" in words(document, "Claim")["small"] and ">x &lt; 1 &amp; so on<" in ledger_page.table(document, titles=TITLES, link=link)


def test_the_summary_counts(document):
    summary = page_of(document, ledger_page.summary)
    shown = {li.span.next_sibling.strip(): li.span.get_text() for li in summary.find_all("li")}
    assert shown == {
        "claims in 2 chapters": "6",
        "identity checked": "1",
        "numerically consistent": "3",
        "premises unmet": "1",
        "contradicted": "1",
        "have a control that fails, as it must": "4 of 6",
        "enclosed: interval proofs for all their networks": "1",
        "statements of the text named by a claim that checks them": "2 of 2",
        "statements with a proof in the text": "1 of 2",
        "claims of the abstract stated only": "1 of 2",
    }


def test_what_is_not_checked_is_said_with_its_reason(document):
    assert [li.get_text() for li in page_of(document, ledger_page.unchecked).find_all("li")] == ["They stay so: stated only, nobody looked."]
    for claim in document["claims"]:
        claim["theorems"] = ["lem-step"] if claim["label"] == "wrong" else []
    assert "A law (One): stated only, no claim names it." in page_of(document, ledger_page.unchecked).get_text()
    document["abstract"], document["statements"] = [], []
    assert page_of(document, ledger_page.unchecked).get_text() == "Every statement of the text, and every row of the table on the first page, is named by a claim."


def test_the_strip_of_a_chapter():
    made = claims()
    assert ledger_page.strip(made[:3]) == (
        "1 identity checked · 2 numerically consistent; 1 enclosed by interval proofs; 2 members at most, 6 comparisons; "
        "controls: 3 of 3 fail as they must"
    )
    assert "enclosed" not in ledger_page.strip(made[3:]) and "controls: 1 of 2 fail" in ledger_page.strip(made[3:])
    assert ledger_page.strip([]) == "no claim is checked"


@pytest.fixture(scope="module")
def with_ledger(quick_top, tmp_path_factory):
    """The quick book with a ledger and an abstract of two rows."""
    top = shutil.copytree(quick_top, tmp_path_factory.mktemp("ledger") / "top", symlinks=True)
    book = top / "book"
    (book / "appendix").mkdir(exist_ok=True)
    page = (BOOK / "appendix" / "ledger.md").read_text().replace("../how_to_read.md", "../index.md")
    (book / "appendix" / "ledger.md").write_text(page)
    with (book / "_toc.yml").open("a") as toc:
        toc.write("- file: appendix/ledger\n")
    (book / "index.md").write_text("# A book\n\n```{abstract-table}\n```\n")
    (book / "abstract.yml").write_text(ROWS.replace("{small}", "{alignment-at-any-point}").replace("{equal}", "{alignment-window-identity}"))
    return top


@pytest.fixture(scope="module")
def built(with_ledger):
    made = build(with_ledger)
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
    return with_ledger / "_build" / "html"


def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def test_the_page_holds_every_claim_without_a_script(built):
    document = json.loads((built / "claims.json").read_text())
    table = soup(built / "appendix" / "ledger.html").find("table", class_="ledger")
    assert [row["id"] for row in table.tbody.find_all("tr")] == [f"ledger-{claim['label']}" for claim in document["claims"]]
    assert not table.find(["button", "script"]) and not table.find(attrs={"hidden": True})
    for address in (a["href"] for a in table.find_all("a")):
        file, _, anchor = address.partition("#")
        target = soup((built / "appendix" / file).resolve())
        assert not anchor or target.find(id=anchor), address


def test_the_files_are_published_together_and_fit(built):
    document = json.loads((built / "claims.json").read_text())
    schema = json.loads((built / document["$schema"]).read_text())
    jsonschema.Draft202012Validator(schema).validate(document)
    table = pandas.read_csv(built / "claims.csv")
    assert list(table["label"]) == [claim["label"] for claim in document["claims"]] and (table["seconds"] > 0).all()
    assert document["abstract"][1] == {"claim": "They stay so", "labels": [], "stated_only": "nobody looked"}
    assert [s["label"] for s in document["statements"]] == ["thm-alignment-point", "thm-alignment-window"]


def test_index_and_strip_quote_the_ledger(built):
    document = json.loads((built / "claims.json").read_text())
    rows = [[td.get_text(" ", strip=True) for td in row.find_all("td")] for row in soup(built / "index.html").find("table").tbody.find_all("tr")]
    verdict = {claim["label"]: claim["verdict"] for claim in document["claims"]}
    assert rows == [
        [
            "Numbers are small",
            f"always: {verdict['alignment-at-any-point']} ; or not: {verdict['alignment-window-identity']}",
            "Alignment of parameters and gradient",
        ],
        ["They stay so", "stated only", "none yet"],
    ]
    strip = soup(built / "theorems" / "alignment.html").find(class_="status-strip")
    assert ledger_page.strip(document["claims"]) in strip.get_text()
    assert strip.find("a", string="In the ledger")["href"] == "../appendix/ledger.html?chapter=theorems/alignment"


def test_no_page_reads_proved_where_numbers_agree(built):
    for name in ("index", "appendix/ledger"):
        for place in soup(built / f"{name}.html").find("article").find_all("table"):
            assert "proved" not in place.get_text().lower()


def test_a_label_that_no_claim_has_stops_the_build(built, with_ledger):
    path = with_ledger / "book" / "abstract.yml"
    whole = path.read_text()
    path.write_text(whole.replace("{alignment-at-any-point}", "{alignment-at-any-pont}"))
    failed = build(with_ledger)
    path.write_text(whole)
    said = failed.stdout + failed.stderr
    assert failed.returncode != 0 and "no claim of this build is labelled alignment-at-any-pont" in said and "Traceback" not in said


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="needs a browser; the page is complete without its script")
def test_the_script_sorts_and_filters(document, tmp_path):
    script = (BOOK / "_static" / "ledger.js").read_text()
    act = """
    const rows = () => [...document.querySelectorAll("tbody tr")].filter((r) => !r.hidden).map((r) => r.id.slice(7)).join(" ");
    const said = [rows()];
    const headers = [...document.querySelectorAll("th[scope=col]")];
    for (const column of [5, 5, 5, 4, 0]) { headers[column].querySelector("button").click(); said.push(headers[column].ariaSort + ": " + rows()); }
    const [chapter, verdict] = document.querySelectorAll("select"), text = document.querySelector("input");
    const enter = (field, value) => { field.value = value; field.dispatchEvent(new Event("input")); said.push(rows() + " | " + document.querySelector("output").value); };
    enter(chapter, "theorems/two"); enter(verdict, "numerically consistent"); enter(chapter, ""); enter(text, "SO ON");
    document.body.innerHTML = "<pre>" + said.join("\\n") + "</pre>";
    """
    markup = ledger_page.table(document, titles=TITLES, link=link)
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><meta charset='utf-8'><body>{markup}<script>{script}</script><script>{act}</script>")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    shown = BeautifulSoup(subprocess.run(command, capture_output=True, text=True, timeout=120).stdout, "html.parser").pre.get_text()
    assert shown.splitlines() == [
        "small equal large unmet wrong rounding",
        "ascending: equal rounding small unmet large wrong",
        "descending: large unmet small rounding equal wrong",  # what has no number stays last
        "none: small equal large unmet wrong rounding",
        "ascending: small large unmet rounding equal wrong",
        "ascending: equal large rounding unmet wrong small",
        "rounding unmet wrong | 3 of 6 claims",
        "rounding | 1 of 6 claims",
        "large rounding small | 3 of 6 claims",
        "small | 1 of 6 claims",
    ]
