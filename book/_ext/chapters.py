"""Runs the book's chapters and keeps what they gave.

One execution per chapter and key, whoever asks: the build, the tests, and

    python book/_ext/chapters.py refresh [CHAPTER ...]     # the `make chapters` of the Makefile

The key of a chapter is a hash of its code, of every file of the package and of the versions of the libraries, so an edit
anywhere in `lowrank/` runs anew what depends on it. A stored execution appears atomically or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import nbformat

from comparison import IGNORED

STORY = "story"  # the figure that the index and the README show
LIBRARIES = (
    "torch", "torchode", "numpy", "scipy", "scikit-learn", "cvxpy", "clarabel", "python-flint", "matplotlib", "seaborn", "ipykernel", "myst-nb",
)  # fmt: skip
CELL_TIMEOUT = 600  # seconds
# One thread a kernel: chapters already run side by side, and sums in one order give the same digits everywhere.
KERNEL_ENVIRONMENT = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


class ChapterError(Exception):
    """A chapter that does not run through: its name, the cell and the cell's message."""


@dataclass(frozen=True)
class Execution:
    """What a run of a chapter gave: the committed notebook with fresh outputs."""

    name: str
    key: str
    notebook: nbformat.NotebookNode
    seconds: float

    @property
    def claims(self) -> list[dict]:
        """Records of the chapter's claims tables, in order."""
        return [
            record
            for cell in _code_cells(self.notebook)
            for output in cell.outputs
            for record in output.get("metadata", {}).get("lowrank_claims", [])
        ]

    @property
    def figures(self) -> dict[str, str]:
        """HTML of each figure by its name."""
        return {
            output.metadata["lowrank_figure"]["name"]: output.data["text/html"]
            for cell in _code_cells(self.notebook)
            for output in cell.outputs
            if "lowrank_figure" in output.get("metadata", {})
        }


def versions() -> dict[str, str]:
    """Versions of what a chapter's numbers depend on."""
    return {"python": platform.python_version(), **{library: version(library) for library in LIBRARIES}}


def package_folder() -> Path:
    """Where `lowrank` lives, found without importing it: a build that runs no chapter needs no torch."""
    return Path(find_spec("lowrank").origin).parent


@lru_cache(1)
def _package_hash() -> str:
    digest = hashlib.sha256(json.dumps(versions()).encode())
    for path in sorted(package_folder().glob("**/*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def key(notebook: nbformat.NotebookNode) -> str:
    """Hash of all that the outputs depend on: code cells with their tags, the package, the libraries."""
    code = [(cell.source, cell.metadata.get("tags", [])) for cell in _code_cells(notebook)]
    return hashlib.sha256((_package_hash() + json.dumps(code)).encode()).hexdigest()[:24]


def execute_all(
    paths: dict[str, Path], store: Path, *, report: Callable[[str], None], workers: int | None = None
) -> dict[str, Execution]:
    """Executions of all chapters, `paths` by name; runs those that `store` lacks, side by side, a line of `report` each.

    Raises ChapterError for the first chapter that fails, after the others in progress have ended.
    """
    notebooks = {name: nbformat.read(path, as_version=4) for name, path in paths.items()}
    keys = {name: key(notebook) for name, notebook in notebooks.items()}
    missing = [name for name in paths if not _stored(store, name, keys[name]).is_file()]
    if missing:
        report(f"chapters: {len(missing)} of {len(paths)} to run, {workers or os.cpu_count()} at a time")
    else:
        report(f"chapters: all {len(paths)} up to date")

    failures = []
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        jobs = {pool.submit(_run, paths[name], _stored(store, name, keys[name])): name for name in missing}
        for done, job in enumerate(as_completed(jobs), start=1):
            name = jobs[job]
            seconds, failure = job.result()
            report(f"[{done}/{len(missing)}] {name}: {'FAILED after' if failure else 'ran in'} {seconds:.1f} s")
            if failure:
                failures.append(f"{name}, {failure}")
                for waiting in jobs:
                    waiting.cancel()
                break
        # leaving the block waits for what is still running
    if failures:
        raise ChapterError("; ".join(failures))

    executions = {}
    for name, notebook in notebooks.items():
        stored = nbformat.read(_stored(store, name, keys[name]), as_version=4)
        executions[name] = Execution(name, keys[name], _with_outputs(notebook, stored), stored.metadata["lowrank_seconds"])
    return executions


def stored_executions(paths: dict[str, Path], store: Path) -> dict[str, nbformat.NotebookNode]:
    """Executed notebooks of those chapters of `paths` that `store` has under their key; runs nothing."""
    found = {}
    for name, path in paths.items():
        notebook = nbformat.read(path, as_version=4)
        stored = _stored(store, name, key(notebook))
        if stored.is_file():
            found[name] = _with_outputs(notebook, nbformat.read(stored, as_version=4))
    return found


def normalise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook as it is committed: no outputs of figure cells, no images, no records; cells counted from 1, since
    nbval takes a cell without a count for one that was never run."""
    notebook = nbformat.from_dict(notebook)
    notebook.metadata = nbformat.from_dict(
        {k: v for k, v in notebook.metadata.items() if k in ("kernelspec", "language_info", "lowrank")}
    )
    notebook.metadata["language_info"] = {"name": "python"}
    for count, cell in enumerate(_code_cells(notebook), start=1):
        cell.execution_count = count
        if IGNORED in cell.metadata.get("tags", []):
            cell.outputs = []
        for output in cell.outputs:
            if "data" in output:
                output.data = {k: v for k, v in output.data.items() if not k.startswith("image/")}
                output.metadata = {k: v for k, v in output.metadata.items() if k == "scrapbook"}
                if output.output_type == "execute_result":
                    output.execution_count = count
    return notebook


def parameters(notebook: nbformat.NotebookNode) -> str:
    """Source of the cell tagged `parameters`."""
    return next((c.source for c in _code_cells(notebook) if "parameters" in c.metadata.get("tags", [])), "")


def write_atomically(path: Path, text: str) -> None:
    """`text` as the file `path`, which is either the old one or the whole new one at every moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(unfinished, 0o644)  # mkstemp makes it readable by its owner alone; pages are for everybody
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


def _with_outputs(notebook, stored):
    """`notebook` with the outputs of its stored run; its text may be newer than that."""
    for cell, ran in zip(_code_cells(notebook), _code_cells(stored), strict=True):
        cell.outputs, cell.execution_count = ran.outputs, ran.execution_count
    return notebook


def _stored(store: Path, name: str, chapter_key: str) -> Path:
    return store / f"{name.replace('/', '__')}--{chapter_key}.ipynb"


def _code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _run(source: Path, stored: Path) -> tuple[float, str]:
    """Runs `source` in a process of its own and stores it; seconds, and what failed or ''."""
    started = time.perf_counter()
    command = [sys.executable, __file__, "execute", str(source), str(stored)]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **KERNEL_ENVIRONMENT})
    failure = ""
    if ran.returncode:
        lines = (ran.stdout + ran.stderr).strip().splitlines()
        failure = ran.stdout.strip() or (lines[-1] if lines else f"exit status {ran.returncode}")
    return time.perf_counter() - started, failure


def _execute(source: Path, stored: Path) -> int:
    from nbclient import NotebookClient
    from nbclient.exceptions import CellControlSignal, CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = nbformat.read(source, as_version=4)
    resources = {"metadata": {"path": str(source.parent)}}
    client = NotebookClient(
        notebook, timeout=CELL_TIMEOUT, kernel_name="python3", resources=resources, record_timing=False, coalesce_streams=True
    )
    started = time.perf_counter()
    try:
        client.execute()
    except (CellControlSignal, CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        cells = _code_cells(notebook)
        index = next((i for i, c in enumerate(cells) if any(o.output_type == "error" for o in c.outputs)), None)
        if index is None:
            print(f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}")
        else:
            print(f"code cell {index + 1} ({cells[index].source.strip().splitlines()[0]}): {error.ename}: {error.evalue}")
        return 1
    notebook.metadata["lowrank_seconds"] = time.perf_counter() - started
    for older in stored.parent.glob(stored.name.split("--")[0] + "--*.ipynb"):
        older.unlink()
    write_atomically(stored, nbformat.writes(notebook))
    return 0


def _refresh(names: Iterable[str]) -> int:
    """Re-executes chapters in place (all by default), and draws the README's picture anew."""
    book = Path(__file__).resolve().parent.parent
    every = {
        str(path.relative_to(book).with_suffix("")): path
        for path in sorted(book.glob("*/*.ipynb"))
        if not path.parent.name.startswith(("_", "."))
    }
    chosen = list(names) or list(every)
    unknown = [name for name in chosen if name not in every]
    if unknown:
        print(f"CHAPTER: expected one of {', '.join(every)}, got {', '.join(unknown)}", file=sys.stderr)
        return 2
    try:
        executions = execute_all(
            {name: every[name] for name in chosen},
            book.parent / "_build" / "executed",
            report=lambda line: print(line, flush=True),
        )
    except ChapterError as error:
        print(f"chapter failed: {error}", file=sys.stderr)
        return 1
    for name, execution in executions.items():
        write_atomically(every[name], nbformat.writes(normalise(execution.notebook)) + "\n")
        if STORY in execution.figures:
            from lowrank import figures

            drawings = re.findall(r"<svg .*?</svg>", execution.figures[STORY], flags=re.DOTALL)
            write_atomically(book / "_static" / f"{STORY}.svg", figures.picture(drawings))
    print(f"refreshed {', '.join(executions)}")
    return 0


if __name__ == "__main__":
    action, *rest = sys.argv[1:] or [""]
    if action == "execute":
        sys.exit(_execute(*map(Path, rest)))
    if action == "refresh":
        sys.exit(_refresh(rest))
    sys.exit("usage: python book/_ext/chapters.py refresh [CHAPTER ...]")
