"""Runs one chapter's code cells in order, in one namespace and without Jupyter: what tools/mutations.py calls for each pair.

    python tools/mutation_runner.py CHAPTER.ipynb RESULT.json

RESULT.json says how it ended: `passed`, `raised` (which exception, in which cell, which claims it names) or `not run` (a
module is missing here); and what the build would compare with the committed outputs: printed text, glued texts and
claims whose premises are unmet.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import sys
import time
import types
from pathlib import Path

FAILED = re.compile(r"claim fails: (\S+?): |control of (\S+) fails for")


def main(chapter: Path, result: Path) -> None:
    began = time.perf_counter()
    shown = []
    watch_displays(shown)
    cells = [cell for cell in json.loads(chapter.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    os.chdir(chapter.parent)
    space = {"__name__": "__main__"}
    found = {"status": "passed", "unmet": [], "outputs": []}
    for number, cell in enumerate(cells, start=1):
        printed, noise = io.StringIO(), io.StringIO()
        shown.clear()
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(noise):
                last = run("".join(cell["source"]), f"cell {number}", space)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] == "lowrank":
                found |= failure(number, error)
            else:
                found |= {"status": "not run", "message": f"no module {error.name} here"}
            break
        except Exception as error:
            found |= failure(number, error)
            break
        found["unmet"] += [label for unmet, _ in shown for label in unmet]
        if "nbval-ignore-output" not in cell["metadata"].get("tags", []):
            value = "" if last is None or hasattr(last, "_repr_mimebundle_") else repr(last)
            texts = [printed.getvalue(), *(text for _, text in shown), value, "stderr" if noise.getvalue() else ""]
            found["outputs"].append([number, "\n".join(text for text in texts if text)])
    found["seconds"] = round(time.perf_counter() - began, 1)
    result.write_text(json.dumps(found), encoding="utf-8")


def failure(number: int, error: Exception) -> dict:
    words = str(error)
    return {
        "status": "raised", "cell": number, "exception": type(error).__name__, "message": words[:400],
        "claims": sorted({claim or control for claim, control in FAILED.findall(words)}),
    }  # fmt: skip


def run(source: str, name: str, space: dict):
    """Executes a cell; the value of its last expression, if it ends in one."""
    tree = ast.parse(source)
    last = ast.Expression(tree.body.pop().value) if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), space)
    return eval(compile(last, name, "eval"), space) if last else None


def watch_displays(shown: list) -> None:
    """`display` and `glue` note what they are given, as (labels with unmet premises, text): stubs, so that neither
    package is needed."""

    def display(*things, **options):
        for thing in things:
            unmet = [claim.label for claim in getattr(thing, "claims", ()) if claim.verdict == "premises unmet"]
            shown.append((unmet, repr(thing)))

    def glue(name, value, display=True):
        shown.append(([], f"{name} = {value!r}"))

    # IPython itself is left alone: pyplot asks a module of that name for more than there would be
    for name, attributes in (("IPython.display", {"display": display}), ("myst_nb", {"glue": glue})):
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(attributes)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
