import os
import subprocess
import sys

import nbformat
import pytest

from lowrank import ParameterError, require
from lowrank.__main__ import ONE_THREAD
from lowrank.parameters import declared, parse

CELL = """
require("weight_decay", weight_decay, float, above=0, maximum=0.1)
require("members", members, int, minimum=1, maximum=8)
require("loss", loss, str, options=("logistic", "squared"))
"""


@pytest.fixture
def notebook():
    first = nbformat.v4.new_code_cell("weight_decay = 0.1", metadata={"tags": ["parameters"]})
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A"), first, nbformat.v4.new_code_cell(CELL)])


def test_declarations_are_read_without_running(notebook):
    found = declared(notebook)
    assert list(found) == ["weight_decay", "members", "loss"]
    assert found["weight_decay"].limits == {"above": 0, "maximum": 0.1} and found["members"].kind == "int"


def test_values_are_parsed_by_kind(notebook):
    assert parse(notebook, {"weight_decay": "4e-3", "members": "3", "loss": "squared"}) == {
        "weight_decay": 0.004, "members": 3, "loss": "squared",
    }  # fmt: skip


@pytest.mark.parametrize(
    "given, message",
    [
        ({"weight_decy": "0.1"}, "weight_decy: expected one of weight_decay, members, loss, got an unknown parameter"),
        ({"weight_decay": "-1"}, "weight_decay: expected a finite number > 0 and <= 0.1, got -1.0"),
        ({"weight_decay": "0"}, "weight_decay: expected a finite number > 0 and <= 0.1, got 0.0"),
        ({"weight_decay": "nan"}, "weight_decay: expected a finite number > 0 and <= 0.1, got nan"),
        ({"weight_decay": "much"}, "weight_decay: expected a finite number > 0 and <= 0.1, got 'much'"),
        ({"members": "2.5"}, "members: expected a whole number >= 1 and <= 8, got '2.5'"),
        ({"members": "9"}, "members: expected a whole number >= 1 and <= 8, got 9"),
        ({"loss": "hinge"}, "loss: expected one of logistic, squared, got 'hinge'"),
    ],
)
def test_bad_values_are_one_line_with_name_expected_and_given(given, message, notebook):
    with pytest.raises(ParameterError) as error:
        parse(notebook, given)
    assert str(error.value) == message and "\n" not in message


def test_a_notebook_without_a_parameters_cell_is_refused(notebook):
    del notebook.cells[1]
    with pytest.raises(ParameterError, match="expected a cell tagged parameters"):
        parse(notebook, {"members": "2"})


def test_require_says_the_same_inside_a_chapter():
    require("members", 3, int, minimum=1)
    with pytest.raises(ParameterError, match="members: expected a whole number >= 1, got True"):
        require("members", True, int, minimum=1)
    require("width", 4, int, minimum=2, even=True)
    with pytest.raises(ParameterError, match="width: expected an even number >= 2, got 5"):
        require("width", 5, int, minimum=2, even=True)


def run(*words, cwd, **environment):
    variables = {name: value for name, value in os.environ.items() if name not in ONE_THREAD} | environment
    return subprocess.run([sys.executable, "-m", "lowrank", *words], capture_output=True, text=True, cwd=cwd, env=variables)


@pytest.mark.parametrize(
    "words, message",
    [
        (["a.ipynb", "-p", "weight_decy", "0.1"], "error: weight_decy: expected one of"),
        (["a.ipynb", "-p", "members", "0"], "error: members: expected a whole number >= 1 and <= 8, got 0"),
        (["a.ipynb", "-p", "members"], "error: -p: expected NAME VALUE or NAME=VALUE, got members"),
        (["a.ipynb", "-p", "members", "2", "3"], "error: -p: expected NAME VALUE or NAME=VALUE, got members 2 3"),
        (["a.ipynb", "-p", "members=0"], "error: members: expected a whole number >= 1 and <= 8, got 0"),
        (["missing.ipynb"], "error: CHAPTER: expected a notebook or one of merging/"),
        (["a.ipynb", "-p", "members", "2", "-p", "members", "3"], "error: members: expected one value, got 2"),
        (["a.ipynb", "-o", "a.ipynb"], "error: --output: expected a file other than the chapter itself, got a.ipynb"),
        (["a.ipynb", "-o", "."], "error: --output: expected a file other than the chapter itself, got ."),
        (["list.ipynb"], "error: CHAPTER: expected a notebook, got list.ipynb, which is not one"),
        (["text.ipynb"], "error: CHAPTER: expected a notebook, got text.ipynb, which is not one"),
        (["a.ipynb", "-o", "nowhere/out.ipynb"], "error: --output: expected a file in an existing folder, got nowhere/out.ipynb"),
    ],
)
def test_command_line_refuses_in_one_line_and_writes_nothing(words, message, notebook, tmp_path):
    nbformat.write(notebook, tmp_path / "a.ipynb")
    (tmp_path / "text.ipynb").write_text("not json")
    (tmp_path / "list.ipynb").write_text("[]")
    before = sorted(tmp_path.iterdir())
    ran = run("run", *words, cwd=tmp_path)
    assert ran.returncode == 2
    assert ran.stderr.startswith(message) and ran.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_failing_chapter_is_one_line_and_leaves_no_output(tmp_path):
    cell = nbformat.v4.new_code_cell('raise ValueError("the step is too large")')
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), tmp_path / "a.ipynb")
    ran = run("run", "a.ipynb", cwd=tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.strip().splitlines()[-1] == "error: a.ipynb, code cell 1: ValueError: the step is too large"
    assert [path.name for path in tmp_path.iterdir()] == ["a.ipynb"]


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ('check("a", 1.0, "<=", 2.0, control=check("b", 3.0, "<=", 2.0))', "1 of 1 claims hold"),
        (
            'check("a", 1.0, "<=", 2.0, control=check("b", 3.0, "<=", 2.0)), '
            'check("c", 1.0, "<=", 2.0, premises=[check("d", 1.0, "<=", 0.0)], control=check("b", 3.0, "<=", 2.0))',
            "1 of 2 claims hold; premises unmet for c",
        ),
        (None, "no claims"),
    ],
)
def test_the_last_line_says_what_became_of_the_claims(claims, said, tmp_path):
    source = f"from lowrank import check, table\ntable({claims})" if claims else "1"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "a.ipynb")
    ran = run("run", "a.ipynb", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip().splitlines()[-1] == f"wrote out.ipynb: {said}"


@pytest.mark.parametrize("environment, threads", [({}, "1 1 1"), ({"OMP_NUM_THREADS": "2"}, "2 1 1")])
def test_a_chapter_runs_on_one_thread_unless_told_otherwise(environment, threads, tmp_path):
    source = f"import os\nprint(*(os.environ[name] for name in {list(ONE_THREAD)}))"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)], metadata=kernel), tmp_path / "a.ipynb")
    assert run("run", "a.ipynb", cwd=tmp_path, **environment).returncode == 0
    (output,) = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[0].outputs
    assert output.text.strip() == threads
