"""Every chapter runs with another parameter set, and refuses a bad one in its first cell."""

import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from conftest import BOOK, CHAPTERS, OTHER_PARAMETERS

from lowrank.claims import RECORD


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_other_parameters_run_and_every_claim_still_holds(chapter, tmp_path):
    out = tmp_path / "out.ipynb"
    words = [word for name, value in OTHER_PARAMETERS[chapter].items() for word in ("-p", name, str(value))]
    command = [sys.executable, "-m", "lowrank", "run", str(BOOK / f"{chapter}.ipynb"), *words, "-o", str(out)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    notebook = nbformat.read(out, as_version=4)
    injected = next(cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", []))
    assert all(f"{name} = {value}" in injected.source for name, value in OTHER_PARAMETERS[chapter].items())
    records = [r for c in notebook.cells for o in c.get("outputs", []) for r in o.get("metadata", {}).get(RECORD, [])]
    assert records and all(record["verdict"].split(" (")[0] in ("identity checked", "numerically consistent") for record in records)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_plain_papermill_refuses_a_negative_decay_in_the_first_cell(chapter, tmp_path):
    out = tmp_path / "out.ipynb"
    with pytest.raises(papermill.PapermillExecutionError, match="weight_decay: expected a finite number > 0 .* got -0.01"):
        papermill.execute_notebook(
            BOOK / f"{chapter}.ipynb", out, {"weight_decay": -0.01}, progress_bar=False, kernel_name="python3"
        )
    cells = [c for c in nbformat.read(out, as_version=4).cells if c.cell_type == "code" and "papermill-error-cell-tag" not in str(c.metadata)]
    failed = [i for i, cell in enumerate(cells) if any(o.output_type == "error" for o in cell.outputs)]
    assert failed == [2]  # after the parameters and what papermill injects


def test_the_papermill_command_of_the_readme(tmp_path):
    command = [Path(sys.executable).parent / "papermill", "-p", "weight_decay", "0.004", "-p", "members", "1", "-p", "width", "4",
               "-p", "horizon", "10", str(BOOK / "theorems" / "alignment.ipynb"), str(tmp_path / "out.ipynb")]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
