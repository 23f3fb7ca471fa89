"""The list of mutations fits the package and the book, and the runner tells a break from an intact package."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import mutations as tool  # noqa: E402
from mutation_list import MUTATIONS  # noqa: E402


def claims_of_the_book():
    """Label of each claim by its chapter: first arguments of the `check` calls that are arguments of `table`."""
    found = {}
    for chapter, path in tool.chapters().items():
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code" and "table(" in "".join(cell["source"]):
                for node in ast.walk(ast.parse("".join(cell["source"]))):
                    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "table":
                        found |= {claim.args[0].value: chapter for claim in node.args}
    return found


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_change_fits_the_package_as_it_is(mutation):
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    changed = tool.mutated(text, mutation)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))  # it compiles, and is no other spelling of the same


def test_names_are_unique_and_chapters_exist():
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 45
    assert {chapter for mutation in MUTATIONS for chapter in mutation.chapters} <= set(tool.chapters())
    assert all(mutation.chapters for mutation in MUTATIONS)


def test_every_claim_of_the_book_is_the_target_of_a_mutation():
    claims, targets = set(claims_of_the_book()), {label for mutation in MUTATIONS for label in mutation.targets}
    assert len(claims) > 60
    assert claims - targets == set()
    assert targets - claims == set()


def test_targets_lie_in_the_chapters_that_are_tried_first():
    claims = claims_of_the_book()
    assert {m.name for m in MUTATIONS for label in m.targets if claims[label] not in m.chapters} == set()


def test_modules_have_tests():
    assert {file for mutation in MUTATIONS for file in tool.module_tests(mutation) if not (ROOT / file).is_file()} == set()


def chapter(folder, *cells):
    path = folder / "chapter.ipynb"
    cells = [{"cell_type": "code", "source": source, "metadata": {}} for source in cells]
    path.write_text(json.dumps({"cells": cells}))
    return path


CLAIM = """from lowrank import check, table
table(check("small", [1.0, 2.0], "<=", {limit}, premises=[check("there", 1.0, "==", {there})],
            control=check("large", [9.0, 9.0], "<=", 3.0)))"""


@pytest.mark.parametrize(
    "cells, status, claims, unmet",
    [
        ((CLAIM.format(limit=3.0, there=1.0), "2 + 2"), "passed", None, []),
        ((CLAIM.format(limit=1.5, there=1.0),), "raised", ["small"], []),
        ((CLAIM.format(limit=1.5, there=0.0),), "passed", None, ["small"]),
        (("x = 1", "1 / (x - 1)"), "raised", [], []),
        (("import surely_not_installed",), "not run", None, []),
        (("import lowrank.surely_not_there",), "raised", [], []),
    ],
)
def test_a_chapter_is_run_without_jupyter(tmp_path, cells, status, claims, unmet):
    path, answer = chapter(tmp_path, *cells), tmp_path / "result.json"
    subprocess.run([sys.executable, tool.RUNNER, path, answer], check=True, env=tool.environment(ROOT), timeout=120)
    result = json.loads(answer.read_text())
    assert (result["status"], result.get("claims"), result["unmet"]) == (status, claims, unmet)


def test_what_is_printed_is_compared():
    base = {"status": "passed", "unmet": [], "outputs": [[1, ""], [2, "0.12"]]}
    assert tool.verdict(base, base)[0] == "passed"
    assert tool.verdict({**base, "outputs": [[1, ""], [2, "0.13"]]}, base)[:2] == ("printed", "cells 2")
    assert tool.verdict({**base, "unmet": ["small"]}, base)[0] == "premise"


def test_results_are_kept_for_the_same_code_only(tmp_path):
    results = tool.Results(tmp_path / "kept.json")
    results.put("one", "chapter", "key", {"status": "passed"})
    kept = tool.Results(tmp_path / "kept.json")
    assert kept.get("one", "chapter", "key")["status"] == "passed"
    assert kept.get("one", "chapter", "other key") is None and kept.get("two", "chapter", "key") is None
    assert [path.name for path in tmp_path.iterdir()] == ["kept.json"]


@pytest.mark.parametrize(
    "found, test, outcome",
    [
        ({"a": ("passed", "", []), "b": ("claim", "one, two", ["one", "two"]), "c": ("claim", "three", ["three"])}, "", ("claim", "b", ["one", "two"], "")),
        ({"a": ("printed", "cells 3", []), "b": ("exception", "ValueError: norm", [])}, "", ("exception", "b", [], "ValueError: norm")),
        ({"a": ("premise", "two", ["two"]), "b": ("claim", "one", ["one"])}, "", ("claim", "b", ["one"], "")),
        ({"a": ("premise", "two", ["two"])}, "FAILED tests/test_bounds.py::test_it", ("premise", "a", ["two"], "")),
        ({"a": ("passed", "", []), "b": ("printed", "cells 3", []), "c": ("passed", "", [])}, "", ("printed", "b", [], "cells 3")),
        ({"a": ("printed", "cells 3", [])}, "FAILED tests/test_bounds.py::test_it - assert 1 == 2", ("test", "", [], "tests/test_bounds.py::test_it")),
        ({"a": ("passed", "", []), "b": ("passed", "", []), "c": ("passed", "", [])}, "", ("nothing", "", [], "")),
        ({"a": ("passed", "", []), "b": ("printed", "cells 3", [])}, "", ("unfinished", "", [], "")),
    ],
)
def test_what_noticed_a_mutation_first(found, test, outcome):
    assert tuple(tool.outcome(found, test, chapters=3).values()) == outcome


def test_the_summary_counts_survivors(capsys):
    one, other = (tool.Mutation(name, "lowrank/bounds.py", "<", ">", "it is a bound", ("a",), ("one", "two")) for name in ("one", "other"))
    killed, survived = ({"noticed": noticed, "chapter": "", "claims": [], "words": ""} for noticed in ("test", "nothing"))
    assert tool.summary({one: killed}, {"one", "two"}) == 0
    assert tool.summary({one: killed, other: survived}, {"two"}) == 1
    said = capsys.readouterr().out
    assert "1 of 2 killed: 0 by claim, 0 by exception, 0 by timeout, 0 by premise, 1 by test" in said and "survived: other" in said
    assert said.endswith("targeted without effect in what was run: one\n")


@pytest.mark.parametrize("partial", [["--only", "gap-no-drive"], ["--chapters", "merging/digits"], ["--seconds", "9"], []])
def test_a_part_is_no_record(partial, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mutations.py", "--record", *(["--tests"] if partial else []), *partial])
    monkeypatch.setattr(tool, "Campaign", None)  # it must not come to that
    with pytest.raises(SystemExit) as stopped:
        tool.main()
    assert stopped.value.code == 2 and "--record: expected all of them to the end" in capsys.readouterr().err


def test_the_stored_record_has_all_mutations_and_no_survivor():
    stored = json.loads(tool.RECORD.read_text(encoding="utf-8"))["mutations"]
    assert [tuple(row[what] for what in ("name", "file", "old", "new", "why")) for row in stored] == [(m.name, m.file, m.old, m.new, m.why) for m in MUTATIONS]
    assert {row["name"] for row in stored if row["noticed"] not in (*tool.KILLS, "test")} == set()
