"""A poisoned copy of a chapter fails nbval and the build; the copy without poison passes both."""

import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from conftest import build


def an_exception(notebook):
    cell = next(c for c in notebook.cells if c.source.startswith("from lowrank import stationarity"))
    cell.source = 'raise RuntimeError("poisoned well")\n' + cell.source


def a_failed_claim(notebook):
    cell = next(c for c in notebook.cells if "table(" in c.source)
    cell.source = cell.source.replace(
        'layers(w.angle for w in windows), "<=", window_limit', 'layers(w.angle for w in windows), ">=", window_limit'
    )
    assert '">=", window_limit' in cell.source


def a_changed_number(notebook):
    cell = next(c for c in notebook.cells if c.cell_type == "code" and c.source.startswith("import torch"))
    cell.outputs[0].text = re.sub(r"w_1 = (\d)", lambda m: f"w_1 = {(int(m.group(1)) + 1) % 10}", cell.outputs[0].text)


def an_outdated_glue(notebook):
    glued = [o for c in notebook.cells for o in c.get("outputs", []) if o.get("metadata", {}).get("scrapbook")]
    (mime,) = glued[0].data
    glued[0].data[mime] = "'31'"


POISONS = {
    None: ("", ""),
    an_exception: ("RuntimeError: poisoned well", "poisoned well"),
    a_failed_claim: ("claim fails: alignment-window-bound: ", "claim fails: alignment-window-bound: "),
    a_changed_number: ("stored outputs are stale, run `make chapters`: code cell 3", "mismatch 'stdout'"),
    an_outdated_glue: ("stored outputs are stale, run `make chapters`: code cell 4", "mismatch 'application/papermill.record"),
}


@pytest.fixture(params=POISONS, ids=lambda poison: poison.__name__ if poison else "no_poison")
def poisoned(request, quick_top, tmp_path):
    top = shutil.copytree(quick_top, tmp_path / "top", symlinks=True)
    path = top / "book" / "theorems" / "alignment.ipynb"
    if request.param:
        notebook = nbformat.read(path, as_version=4)
        request.param(notebook)
        nbformat.write(notebook, path)
    return top, path, *POISONS[request.param]


def test_the_build_fails_and_says_where(poisoned):
    top, _, says, _ = poisoned
    built = build(top)
    words = re.sub(r"\x1b\[[0-9;]*m", "", built.stdout + built.stderr)
    assert (built.returncode != 0) == bool(says), words[-2000:]
    assert says in words and (not says or "theorems/alignment" in words)
    assert "Traceback" not in words


def test_nbval_fails(poisoned, tmp_path):
    _, path, _, says = poisoned
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "--nbval-cell-timeout=300", "-q", "--color=no",
               "-o", "addopts=", "-o", "filterwarnings=", "--rootdir", tmp_path, "-p", "no:cacheprovider", path]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ})
    assert (ran.returncode != 0) == bool(says), ran.stdout[-3000:]
    assert says in ran.stdout
