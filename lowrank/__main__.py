"""python -m lowrank run CHAPTER -p NAME VALUE: run one chapter with other parameters, and say what became of its claims."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import nbformat

from . import parameters
from .claims import RECORD, UNMET

# As the build does: the small matrices of the chapters are fastest so, and sums come in one order.
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 the chapter failed, 2 bad input; failures are one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m lowrank", description="Tools of the book's chapters.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run one chapter with other parameters")
    run.add_argument("chapter", help="path of a chapter, such as book/theorems/alignment.ipynb or theorems/alignment")
    run.add_argument(
        "-p", "--parameter", nargs="+", action="append", default=[], metavar="NAME VALUE", help="or NAME=VALUE; may be repeated"
    )
    run.add_argument("-o", "--output", type=Path, default=Path("out.ipynb"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        pairs = [_pair(words) for words in options.parameter]
        names = [name for name, _ in pairs]
        for name in names:
            if names.count(name) > 1:
                raise parameters.ParameterError(f"{name}: expected one value, got {names.count(name)}")
        return _run(options.chapter, dict(pairs), options.output)
    except parameters.ParameterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _pair(words: list[str]) -> list[str]:
    pair = words if len(words) == 2 else words[0].split("=", 1) if len(words) == 1 else []
    if len(pair) != 2:
        raise parameters.ParameterError(f"-p: expected NAME VALUE or NAME=VALUE, got {' '.join(words)}")
    return pair


def _find(chapter: str) -> Path:
    """The notebook itself, or the chapter of that name in this folder's book or in the book beside the package."""
    books = [Path("book"), Path(__file__).resolve().parent.parent / "book"]
    for candidate in (Path(chapter), *(book / f"{chapter.removesuffix('.ipynb')}.ipynb" for book in books)):
        if candidate.is_file():
            return candidate
    known = sorted({p.relative_to(b).with_suffix("").as_posix() for b in books for p in b.glob("[!._]*/*.ipynb")})
    raise parameters.ParameterError(f"CHAPTER: expected a notebook or one of {', '.join(known)}, got {chapter}")


def _run(chapter: str, given: dict[str, str], output: Path) -> int:
    path = _find(chapter)
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except Exception:  # whatever is wrong with the file, nbformat has a type of exception for it
        raise parameters.ParameterError(f"CHAPTER: expected a notebook, got {path}, which is not one") from None
    if output.exists() and (output.is_dir() or output.samefile(path)):
        raise parameters.ParameterError(f"--output: expected a file other than the chapter itself, got {output}")
    values = parameters.parse(notebook, given)
    if not output.parent.is_dir():
        raise parameters.ParameterError(f"--output: expected a file in an existing folder, got {output}")

    import papermill  # slow to import, and only needed here
    from nbclient.exceptions import DeadKernelError

    for name, count in ONE_THREAD.items():
        os.environ.setdefault(name, count)  # the kernel inherits it; who sets it has the say
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".lowrank-") as folder:
        unfinished = Path(folder) / output.name
        try:
            papermill.execute_notebook(path, unfinished, values, kernel_name="python3")
        except papermill.PapermillExecutionError as error:
            reason = str(error.evalue).strip().splitlines() or [""]
            print(f"error: {path}, code cell {error.exec_count}: {error.ename}: {reason[0]}", file=sys.stderr)
            return 1
        except DeadKernelError:
            print(f"error: {path}: the kernel died; was there enough memory?", file=sys.stderr)
            return 1
        said = _verdicts(nbformat.read(unfinished, as_version=4))
        os.replace(unfinished, output)
    print(f"wrote {output}: {said}")
    return 0


def _verdicts(notebook: nbformat.NotebookNode) -> str:
    """What became of the claims, in words; one that is false has stopped the chapter."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    records = [record for output in outputs for record in output.get("metadata", {}).get(RECORD, [])]
    unmet = [record["label"] for record in records if record["verdict"] == UNMET]
    held = f"{len(records) - len(unmet)} of {len(records)} claims hold" if records else "no claims"
    return held + (f"; premises unmet for {', '.join(unmet)}" if unmet else "")


if __name__ == "__main__":
    sys.exit(main())
