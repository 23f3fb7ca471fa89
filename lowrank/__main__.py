"""python -m lowrank run CHAPTER -p NAME VALUE: run one chapter with other parameters."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import nbformat

from . import parameters


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 the chapter failed, 2 bad input; failures are one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m lowrank", description="Tools of the book's chapters.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run one chapter with other parameters")
    run.add_argument("chapter", help="path of a chapter, such as book/theorems/alignment.ipynb or theorems/alignment")
    run.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="may be repeated"
    )
    run.add_argument("-o", "--output", type=Path, default=Path("out.ipynb"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        return _run(options.chapter, dict(options.parameter), options.output)
    except parameters.ParameterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(chapter: str, given: dict[str, str], output: Path) -> int:
    candidates = [Path(chapter), Path("book") / f"{chapter}.ipynb"]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise parameters.ParameterError(f"CHAPTER: expected a notebook, got {chapter}, and no such file exists")
    try:
        notebook = nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, UnicodeDecodeError):
        raise parameters.ParameterError(f"CHAPTER: expected a notebook, got {path}, which is not one") from None
    values = parameters.parse(notebook, given)
    if not output.parent.is_dir():
        raise parameters.ParameterError(f"--output: expected a file in an existing folder, got {output}")

    import papermill  # slow to import, and only needed here

    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".lowrank-") as folder:
        unfinished = Path(folder) / output.name
        try:
            papermill.execute_notebook(path, unfinished, values, kernel_name="python3")
        except papermill.PapermillExecutionError as error:
            print(f"error: {path}, cell {error.exec_count}: {error.ename}: {error.evalue}", file=sys.stderr)
            return 1
        os.replace(unfinished, output)
    print(f"wrote {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
