"""Builds the book twice from clean and compares the two, then runs all chapters on imitated machines: `make reproduce`, or

    .venv/bin/python tools/reproduce.py                          # all; writes book/appendix/reproduce.json
    .venv/bin/python tools/reproduce.py --chapters NAME ...      # these chapters without pages; writes only with -o
    .venv/bin/python tools/reproduce.py --against OTHER.json     # our record against that of another machine

Each build starts from a fresh copy of the tracked files in a temporary folder, so nothing that ran before is reused.
The two builds must agree to the last bit; an imitated machine (machines.py) must show the same texts, up to a unit in the
last digit of measured numbers. Exit status: 0 they do, 1 not, or a build failed, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

import nbformat
import yaml
from bs4 import BeautifulSoup

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "book" / "_ext"))

import cards  # noqa: E402
import chapters  # noqa: E402
import machines  # noqa: E402
import reproduction  # noqa: E402

PROGRESS = re.compile(r"^(chapters:|\[\d+/\d+\]|reading sources|writing output|build )")
SECONDS = re.compile(r"\b\d[\d,]*(\.\d+)? (s|seconds|min)\b")


class BuildError(Exception):
    """A build that failed, with the end of what it said."""


def main(arguments: list[str] | None = None, *, top: Path = TOP) -> int:
    parser = argparse.ArgumentParser(prog="tools/reproduce.py", description="Builds the book twice and compares.")
    parser.add_argument("--chapters", nargs="+", metavar="NAME", help="only these, such as theorems/alignment; no pages")
    parser.add_argument("--against", type=Path, metavar="OTHER.json", help="compare the stored record with this one; builds nothing")
    parser.add_argument("-o", "--output", type=Path, help=f"default, for the whole book: book/{reproduction.RECORD}")
    options = parser.parse_args(arguments)
    stored = top / "book" / reproduction.RECORD
    if options.against:
        missing = [path for path in (stored, options.against) if not path.is_file()]
        if missing:
            print(f"error: expected a record of two builds, found no file {missing[0]}; `make reproduce` writes one", file=sys.stderr)
            return 2
        lines = against(*(json.loads(path.read_text(encoding="utf-8")) for path in (stored, options.against)))
        print("\n".join(lines) or "the same shown digits and the same arrays everywhere")
        return 1 if lines else 0
    known = names(top)
    unknown = [name for name in options.chapters or () if name not in known]
    if unknown:
        print(f"error: --chapters: expected {', '.join(known)}, got {', '.join(unknown)}", file=sys.stderr)
        return 2
    output = options.output or (None if options.chapters else stored)
    try:
        record = reproduce(top, options.chapters)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if output:
        chapters.write_atomically(output, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        print(f"wrote {output}")
    found = [f"{name}, {line}" for name, chapter in record["chapters"].items() for line in chapter["differences"]]
    found += [f"page {page}: other words" for page in record["pages"]["differ"]]
    found += [
        f"{name} on {machine}: {line}"
        for name, chapter in record["chapters"].items()
        for machine, there in chapter["machines"].items()
        for line in there["differences"]
    ]
    said = f"identical: {len(record['chapters'])} chapters, {record['pages']['compared']} pages"
    print("\n".join(found) or f"{said}; the same texts with instructions up to {', up to '.join(record['machines'])}")
    return 1 if found else 0


def reproduce(top: Path, chosen: list[str] | None = None) -> dict:
    """The record of two builds of the book in `top`, or of two runs of the chosen chapters; and of imitated machines."""
    ran, pages, seconds = [], [], []
    for number in (1, 2):
        executed, words, took = _run(top, chosen, f"build {number} of 2")
        ran.append(executed), pages.append(words), seconds.append(took)
    imitations = machines.imitations()
    there = {name: _run(top, chosen or names(top), f"instructions up to {name}", settings)[0] for name, settings in imitations.items()}
    differ = [page for page in sorted(pages[0].keys() | pages[1].keys()) if pages[0].get(page) != pages[1].get(page)]
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": _commit(top),
        "seconds": [round(value, 1) for value in seconds],
        "hardware": _hardware(),
        "versions": chapters.versions(),
        "pages": {"compared": len(pages[0]), "differ": differ},
        "machines": imitations,
        "chapters": {
            name: {
                **_compared(ran[0][name], ran[1][name]),
                "machines": {machine: reproduction.on_machine(executed[name][1], ran[0][name][1]) for machine, executed in there.items()},
            }
            for name in ran[0]
        },
    }


def _run(top: Path, chosen: list[str] | None, what: str, settings: dict | None = None) -> tuple[dict, dict, float]:
    """Executions by chapter, words by page and seconds of one build from clean; no pages of chosen chapters."""
    with tempfile.TemporaryDirectory(prefix="lowrank-reproduce-") as folder:
        copy = Path(folder) / "book-of-its-own"
        _copy(top, copy)
        started = time.perf_counter()
        try:
            _build(copy, chosen, settings or {}, say=lambda line: print(f"{what}: {line}", flush=True))
        except BuildError as error:
            raise BuildError(f"{what}: {error}") from None
        seconds = time.perf_counter() - started
        executed = {name: _executed(copy, name) for name in chosen or names(top)}
        return executed, {} if chosen else _words(copy / "_build" / "html"), seconds


def against(ours: dict, theirs: dict) -> list[str]:
    """Where the record of another machine has other shown digits (three), or other arrays; a line each."""
    lines = []
    for name in dict.fromkeys([*ours["chapters"], *theirs["chapters"]]):
        if name not in ours["chapters"] or name not in theirs["chapters"]:
            lines.append(f"{name}: only in {'ours' if name in ours['chapters'] else 'theirs'}")
            continue
        one, other = ours["chapters"][name], theirs["chapters"][name]
        if one["key"] != other["key"]:
            lines.append(f"{name}: other code, parameters or libraries: {one['key']} and {other['key']}")
        cells = [cell for cell, shown in one["shown"].items() if other["shown"].get(cell) != shown]
        if cells:
            lines.append(f"{name}: other shown text in code cell {', '.join(cells)}")
        for label in one["claims"].keys() & other["claims"].keys():
            for side, a, b in zip(("left", "right"), one["claims"][label], other["claims"][label]):
                if a is not None and b is not None and f"{a:.3g}" != f"{b:.3g}":
                    lines.append(f"{name}: claim {label}, {side} side: {a:.3g} and {b:.3g}")
        if one["arrays"] != other["arrays"] and not cells:
            lines.append(f"{name}: other arrays, the same shown text")
    return lines


def names(top: Path) -> list[str]:
    """The chapters of the table of contents, in its order."""
    toc = yaml.safe_load(_toc(top).read_text(encoding="utf-8"))
    entries = [entry for part in toc.get("parts", [toc]) for entry in part.get("chapters", [])]
    return [entry["file"] for entry in entries if (top / "book" / f"{entry['file']}.ipynb").is_file()]


def _toc(top: Path) -> Path:
    return top / "_toc.yml" if (top / "_toc.yml").is_file() else top / "book" / "_toc.yml"


def _copy(top: Path, target: Path) -> None:
    """The tracked files as they are now; without git, everything but what builds leave behind."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=top, capture_output=True) if (top / ".git").exists() else None
    if listed is None or listed.returncode:
        left = shutil.ignore_patterns("_build", ".venv", ".git", "__pycache__", ".pytest_cache", ".hypothesis")
        shutil.copytree(top, target, symlinks=True, ignore=left)
        return
    for name in listed.stdout.decode().split("\0"):
        if name and os.path.lexists(top / name):  # a file deleted since it was tracked is not there
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(top / name, target / name, follow_symlinks=False)


def _build(top: Path, chosen: list[str] | None, settings: dict[str, str], *, say) -> None:
    """The site in `top`, or only the chosen chapters, with the package of that copy; `settings` of the environment."""
    scripts = Path(sys.executable).parent
    command = [str(scripts / "jupyter-book"), "build", "-W", "-n", "--keep-going", "--toc", str(_toc(top)), str(top / "book")]
    if chosen:
        command = [sys.executable, str(top / "book" / "_ext" / "chapters.py"), "refresh", *chosen]
    paths = [str(top)] if (top / "lowrank").is_dir() else []
    if os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    environment = {**os.environ, **settings, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    said = []
    with subprocess.Popen(command, cwd=top, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace") as process:
        for line in process.stdout:
            line = re.sub(r"\x1b\[[\d;]*m", "", line).rstrip()
            said.append(line)
            if PROGRESS.match(line) and not line.startswith(("reading", "writing")):
                say(line)
    if process.returncode:
        raise BuildError("a build failed; its last lines:\n" + "\n".join(said[-20:]))


def _executed(top: Path, name: str) -> tuple[str, nbformat.NotebookNode]:
    """The key of the chapter in that build, and what it gave."""
    (path,) = (top / "_build" / "executed").glob(f"{name.replace('/', '__')}--*.ipynb")
    return path.stem.split("--")[1], nbformat.read(path, as_version=4)


def _compared(first: tuple, second: tuple) -> dict:
    (key, one), (other_key, other) = first, second
    found = [f"{difference}" for difference in reproduction.differences(one, other)]
    found += [f"keys {key} and {other_key}"] if key != other_key else []
    both = reproduction.numbers(one)
    return {
        "key": key,
        "outcome": "differs" if found else "identical",
        "differences": found,
        "compared": reproduction.counts(one),
        "seconds": [round(run.metadata["lowrank_seconds"], 1) for run in (one, other)],
        "parameters": cards.parameters(one),
        "seeds": cards.seeds(one),
        "arrays": reproduction.digest(both),
        "shown": {cell: reproduction.digest(text)[:8] for cell, text in reproduction.texts(one).items() if text},
        "claims": {label: [record["lhs"], record["rhs"]] for label, record in both["claims"].items()},
    }


def _words(site: Path) -> dict[str, str]:
    """What is to read on each page, without times."""
    found = {}
    for path in sorted(site.rglob("*.html")):
        soup = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for tag in soup.select("script, style, time, .seconds"):
            tag.decompose()
        words = " ".join(soup.get_text(" ").split())
        found[path.relative_to(site).as_posix()] = SECONDS.sub("… s", words)
    return found


def _commit(top: Path) -> str:
    def git(*words):
        ran = subprocess.run(["git", *words], cwd=top, capture_output=True, text=True) if (top / ".git").exists() else None
        return ran.stdout.strip() if ran and ran.returncode == 0 else ""

    changed = [line for line in git("status", "--porcelain", "--untracked-files=no").splitlines() if reproduction.RECORD not in line]
    return (git("rev-parse", "HEAD") or "unknown") + (" and changes that are not committed" if changed else "")


def _hardware() -> dict:
    import torch

    return {
        "processor": _processor(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "threads of a chapter": int(chapters.KERNEL_ENVIRONMENT["OMP_NUM_THREADS"]),
    }


def _processor() -> str:
    """The model as the system names it; each system has its own place for it."""
    try:
        if sys.platform == "darwin":
            return subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True).stdout.strip()
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
        return found.group(1) if found else platform.machine()
    except OSError:
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
