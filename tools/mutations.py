"""Breaks the package on purpose, one small change at a time, and says which claim of the book notices.

    python tools/mutations.py [--only NAME ...] [--jobs N] [--chapters NAME ...] [--json FILE] [--seconds S] [--thorough] [--tests] [--record]

Each mutation of `mutation_list.py` is made in a temporary copy. There the chapters that should notice are executed until one
fails; with `--tests` the tests of the module for those that none of these kills; then all other chapters for those that live on.
A mutation is `killed` by a claim that fails (or whose control does not), by an exception, by a chapter that no longer ends, by a
claim whose premises are no longer met, or by a test. If all that changes is what the chapters print it is `seen`: the build
compares that with the committed outputs and fails, but no claim does. Otherwise it `survived`.
`--thorough` does not stop at the first kill but runs all chapters named with a mutation, to learn which claims it breaks.
`--seconds` begins no new run after that time; what is left is `unfinished`, and the next call goes on from there.
`--record` writes what became of all of them to `book/appendix/mutations.json`, which the book shows.

The unmutated package must pass first. A line a run; results are kept in the JSON file, and pairs whose code has not changed
are not run again. Needs what `lowrank` needs, not Jupyter; chapters for which a package is missing here are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import mutation_record  # noqa: E402
from mutation import Mutation  # noqa: E402
from mutation_list import MUTATIONS  # noqa: E402

RECORD = ROOT / "book" / "appendix" / "mutations.json"
RUNNER = Path(__file__).resolve().parent / "mutation_runner.py"
BASELINE = "(unmutated)"
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
KILLS = ("claim", "exception", "timeout", "premise")
TESTS = {  # where they are not just tests/test_MODULE.py
    "exact": ("test_exact", "test_exact_linear", "test_exact_thresholds"),
    "convex": ("test_exact_relu",),
    "integrate": ("test_flow",),
    "compaction": ("test_stationary",),
    "flow": ("test_flow",),
    "sum_bounds": ("test_bounds",),
    "_numbers": ("test_bounds",),
    "merge_changes": ("test_merging",),
}


def chapters() -> dict[str, Path]:
    """Notebooks of the book by name, relative to book/."""
    book = ROOT / "book"
    paths = [p for p in sorted(book.glob("*/*.ipynb")) if not p.parent.name.startswith(("_", "."))]
    return {str(path.relative_to(book).with_suffix("")): path for path in paths}


def mutated(text: str, mutation: Mutation) -> str:
    """`text` with the change made. Raises ValueError where the old text does not occur exactly once."""
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.name}: expected its old text once in {mutation.file}, got it {text.count(mutation.old)} times")
    return text.replace(mutation.old, mutation.new)


def copy(target: Path, mutation: Mutation | None) -> Path:
    """The package, its tests and the notebooks, with the change made."""
    junk = shutil.ignore_patterns("__pycache__", "_build", "_static", ".ipynb_checkpoints")
    for folder in ("lowrank", "tests", "tools", "book"):
        shutil.copytree(ROOT / folder, target / folder, ignore=junk)
    shutil.copy(ROOT / "pyproject.toml", target)
    if mutation:
        path = target / mutation.file
        path.write_text(mutated(path.read_text(encoding="utf-8"), mutation), encoding="utf-8")
    return target


class Results:
    """What is known so far, by mutation and chapter; in a file that is the old or the new one at every moment."""

    def __init__(self, path: Path):
        self.path, self.lock = path, threading.Lock()
        self.found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def get(self, name: str, where: str, key: str) -> dict | None:
        found = self.found.get(f"{name} | {where}")
        return found if found and found["key"] == key else None

    def put(self, name: str, where: str, key: str, result: dict) -> None:
        with self.lock:
            self.found[f"{name} | {where}"] = {"key": key, **result}
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, prefix=".", suffix=".json", delete=False, encoding="utf-8") as file:
                json.dump(self.found, file, ensure_ascii=False, indent=1)
            os.replace(file.name, self.path)


class Campaign:
    def __init__(self, names, jobs: int, results: Results, scratch: Path, thorough: bool, until: float):
        self.jobs, self.results, self.scratch, self.thorough = jobs, results, scratch, thorough
        self.paths = {name: path for name, path in chapters().items() if name in names}
        code = b"".join(path.read_bytes() for path in sorted((ROOT / "lowrank").glob("*.py"))) + RUNNER.read_bytes()
        self.package = hashlib.sha256(code).hexdigest()
        self.until, self.trees, self.locks, self.told = until, {}, {}, threading.Lock()

    def key(self, mutation: Mutation | None, code) -> str:
        """Of the package, the mutation and the `code` that is run with it: the same key, the same outcome."""
        change = [mutation.file, mutation.old, mutation.new] if mutation else []
        return hashlib.sha256(json.dumps([self.package, sys.version, change, code]).encode()).hexdigest()[:16]

    def chapter_key(self, mutation: Mutation | None, chapter: str) -> str:
        cells = json.loads(self.paths[chapter].read_text(encoding="utf-8"))["cells"]
        return self.key(mutation, [cell["source"] for cell in cells if cell["cell_type"] == "code"])

    def tree(self, mutation: Mutation | None) -> Path:
        name = mutation.name if mutation else BASELINE
        with self.told:
            lock = self.locks.setdefault(name, threading.Lock())
        with lock:
            if name not in self.trees:
                self.trees[name] = copy(self.scratch / (mutation.name if mutation else "unmutated"), mutation)
        return self.trees[name]

    def execute(self, mutation: Mutation | None, chapter: str, limit: float) -> dict:
        """The result of one pair, known or new."""
        name, key = mutation.name if mutation else BASELINE, self.chapter_key(mutation, chapter)
        known = self.results.get(name, chapter, key)
        if known:
            return known
        tree, began = self.tree(mutation), time.perf_counter()
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            answer = Path(folder) / "result.json"
            command = [sys.executable, RUNNER, tree / "book" / f"{chapter}.ipynb", answer]
            try:
                ran = subprocess.run(command, capture_output=True, text=True, env=environment(tree), timeout=limit)
                if answer.is_file():
                    result = json.loads(answer.read_text(encoding="utf-8"))
                else:
                    last = (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[-1]
                    result = {"status": "raised", "cell": 0, "exception": "process", "message": last, "claims": []}
            except subprocess.TimeoutExpired:
                result = {"status": "timeout", "message": f"longer than {limit:.0f} s"}
        result["seconds"] = round(time.perf_counter() - began, 1)
        self.results.put(name, chapter, key, result)
        return result

    def baseline(self) -> dict[str, dict]:
        """Results of the unmutated package; exits where one does not pass. Chapters that cannot run here are left out."""
        with ThreadPoolExecutor(self.jobs) as pool:
            names = sorted(self.paths)
            found = dict(zip(names, pool.map(lambda chapter: self.execute(None, chapter, 600), names)))
        bad = []
        for chapter, result in found.items():
            said = result["status"] + (": " + result["message"] if "message" in result else "")
            if result["status"] == "passed" and result["unmet"]:
                said = f"premises unmet: {', '.join(result['unmet'])}"
            print(f"baseline {chapter}: {said} ({result['seconds']} s)", flush=True)
            if result["status"] == "not run":
                del self.paths[chapter]
            elif said != "passed":
                bad.append(chapter)
        if bad:
            sys.exit(f"the unmutated package does not pass in {', '.join(bad)}: nothing to compare with; leave them out with --chapters")
        return {chapter: found[chapter] for chapter in self.paths}

    def run(self, base: dict[str, dict], mutations, *, others: bool) -> dict[str, dict[str, tuple[str, str, list]]]:
        """How each mutation fared in the chapters that were run, those named with it or also all others: kind, words, claims."""
        rest = sorted(self.paths, key=lambda chapter: base[chapter]["seconds"]) if others else []
        queue = []
        for m in mutations:
            first = [c for c in m.chapters if c in self.paths]
            order = [*first, *(c for c in rest if c not in first)]
            queue += [(position, position < len(first), m, c) for position, c in enumerate(order)]
        queue.sort(key=lambda pair: pair[0])
        known = [pair[2:] for pair in queue if self.results.get(pair[2].name, pair[3], self.chapter_key(pair[2], pair[3]))]
        found, busy, lock = {m.name: {} for m in mutations}, [], threading.Lock()

        def killed(name: str) -> bool:
            return any(kind in KILLS for kind, *_ in found[name].values())

        def next_pair():
            with lock:
                late = time.monotonic() > self.until
                wanted = [pair for pair in queue if not late or pair[2:] in known]
                wanted = [pair for pair in wanted if not killed(pair[2].name) or (self.thorough and pair[1])]
                # a mutation that another process tries just now may be dead in a moment
                best = min(wanted, key=lambda pair: (busy.count(pair[2].name) and not (self.thorough and pair[1]), pair[0]), default=None)
                if best:
                    queue.remove(best)
                    busy.append(best[2].name)
                return best

        def work():
            while pair := next_pair():
                _, _, m, chapter = pair
                result = self.execute(m, chapter, max(90.0, 5 * base[chapter]["seconds"]))
                kind, words, claims = verdict(result, base[chapter])
                with lock:
                    busy.remove(m.name)
                    found[m.name][chapter] = kind, words, claims
                    open_ones = sum(not killed(one.name) for one in mutations)
                    print(f"[{open_ones} not killed] {m.name} in {chapter}: {kind}{words and ', '}{words} ({result['seconds']} s)", flush=True)

        with ThreadPoolExecutor(self.jobs) as pool:
            for worker in [pool.submit(work) for _ in range(self.jobs)]:
                worker.result()
        return found


def environment(tree: Path) -> dict[str, str]:
    path = os.pathsep.join([str(tree), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **ONE_THREAD, "PYTHONPATH": path, "MPLBACKEND": "Agg", "PYTHONDONTWRITEBYTECODE": "1"}


def verdict(result: dict, base: dict) -> tuple[str, str, list]:
    """claim | exception | timeout | premise | printed | passed | not run; words; the labels of the claims."""
    if result["status"] == "raised":
        kind = "claim" if result["exception"] == "ClaimError" else "exception"
        words = ", ".join(result["claims"]) if result["claims"] else f"{result['exception']}: {result['message'][:100]}"
        return kind, words, result["claims"]
    if result["status"] != "passed":
        return result["status"], result["message"], []
    unmet = sorted(set(result["unmet"]))
    if unmet:
        return "premise", ", ".join(unmet), unmet
    changed = [new[0] for new, old in zip(result["outputs"], base["outputs"]) if new != old]
    return ("printed", f"cells {', '.join(map(str, changed))}", []) if changed else ("passed", "", [])


def module_tests(mutation: Mutation) -> list[str]:
    module = Path(mutation.file).stem
    return [f"tests/{name}.py" for name in TESTS.get(module, (f"test_{module}",))]


def run_tests(campaign: Campaign, mutation: Mutation, sound: dict) -> str:
    """The first failing test of the mutation's module, '' for none; files that fail without it are left out."""

    def failing(tree: Path, file: str) -> str:
        command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", "-x", "-q", "--tb=no", file]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, cwd=tree, env=environment(tree), timeout=900)
        except subprocess.TimeoutExpired:
            return f"{file} takes longer than 900 s"
        lines = [line for line in ran.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return "" if ran.returncode == 0 else (lines or [f"exit status {ran.returncode}"])[0][:160]

    for file in module_tests(mutation):
        if file not in sound:
            sound[file] = failing(campaign.tree(None), file)
            if sound[file]:
                print(f"{file} fails without any mutation and says nothing: {sound[file]}", flush=True)
        if sound[file]:
            continue
        key = campaign.key(mutation, (ROOT / file).read_text(encoding="utf-8"))
        known = campaign.results.get(mutation.name, file, key)
        if not known:
            known = {"failed": failing(campaign.tree(mutation), file)}
            campaign.results.put(mutation.name, file, key, known)
        if known["failed"]:
            return known["failed"]
    return ""


def outcome(found: dict, failed_test: str, chapters: int) -> dict:
    """What noticed a mutation, and where, with the words and the claims; `nothing`, or `unfinished` before all has been tried."""
    by_kind = {kind: (chapter, words, claims) for chapter, (kind, words, claims) in reversed(found.items())}
    noticed = next((kind for kind in KILLS if kind in by_kind), "")
    if not noticed and failed_test:
        return {"noticed": "test", "chapter": "", "claims": [], "words": re.sub(r"^(FAILED|ERROR) | - .*$", "", failed_test)}
    if not noticed and len(found) < chapters:
        return {"noticed": "unfinished", "chapter": "", "claims": [], "words": ""}
    noticed = noticed or ("printed" if "printed" in by_kind else "nothing")
    chapter, words, claims = by_kind.get(noticed, ("", "", []))
    return {"noticed": noticed, "chapter": chapter, "claims": claims, "words": "" if claims else words}


def record(outcomes: dict[Mutation, dict]) -> dict:
    """What the book shows: every mutation with its outcome, and of which modules this speaks."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {
        "date": time.strftime("%Y-%m-%d"), "commit": commit or "unknown", "modules": mutation_record.hashes(ROOT / "lowrank"),
        "mutations": [{"name": m.name, "file": m.file, "old": m.old, "new": m.new, "why": m.why, **what} for m, what in outcomes.items()],
    }  # fmt: skip


def summary(outcomes: dict[Mutation, dict], broken: set[str]) -> int:
    """Prints how many of each kind there are, survivors by name, and targets that are not `broken`; 1 if not all are killed."""
    kills = (*KILLS, "test")
    count = Counter(what["noticed"] for what in outcomes.values())
    print(f"\n{sum(count[kind] for kind in kills)} of {len(outcomes)} killed: " + ", ".join(f"{count[kind]} by {kind}" for kind in kills))
    for kind, word in (("printed", "seen in what is printed only"), ("nothing", "survived"), ("unfinished", "unfinished")):
        for m in (m for m, what in outcomes.items() if what["noticed"] == kind):
            print(f"{word}: {m.name} ({m.file}): {m.why}")
    untouched = sorted({claim for m in outcomes for claim in m.targets} - broken)
    print(f"claims that a mutation brought down: {len(broken)}; targeted without effect in what was run: {', '.join(untouched) or 'none'}")
    return int(any(what["noticed"] not in kills for what in outcomes.values()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these mutations")
    parser.add_argument("--chapters", nargs="+", metavar="NAME", help="these chapters, such as merging/digits")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    parser.add_argument("--json", type=Path, default=ROOT / "_build" / "mutations.json", help="where results are kept")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no new run after that long")
    parser.add_argument("--thorough", action="store_true", help="all chapters named with a mutation, even after a kill")
    parser.add_argument("--tests", action="store_true", help="the module's tests for those that no named chapter kills")
    parser.add_argument("--record", action="store_true", help="write the record that the book shows; of all mutations and chapters")
    given = parser.parse_args()
    if given.record and (given.only or given.chapters or given.seconds < float("inf") or not given.tests):
        parser.error("--record: expected all of them to the end, with --tests and without --only, --chapters and --seconds")
    for word, chosen, all_of in (("--only", given.only, [m.name for m in MUTATIONS]), ("--chapters", given.chapters, list(chapters()))):
        unknown = sorted(set(chosen or ()) - set(all_of))
        if unknown:
            parser.error(f"{word}: expected some of {', '.join(all_of)}, got {', '.join(unknown)}")
    mutations = [m for m in MUTATIONS if not given.only or m.name in given.only]
    until = time.monotonic() + given.seconds
    given.json.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        names = given.chapters or list(chapters())
        campaign = Campaign(names, max(given.jobs, 1), Results(given.json.resolve()), Path(scratch), given.thorough, until)
        base = campaign.baseline()
        found, tested = campaign.run(base, mutations, others=False), {}
        alive = [m for m in mutations if not any(kind in KILLS for kind, *_ in found[m.name].values())]
        if given.tests:
            sound = {}
            with ThreadPoolExecutor(campaign.jobs) as pool:
                for m, failed in zip(alive, pool.map(lambda m: run_tests(campaign, m, sound), alive)):
                    tested[m.name] = failed
                    print(f"tests of {m.file} with {m.name}: {failed or 'pass'}", flush=True)
        found |= campaign.run(base, [m for m in alive if not tested.get(m.name)], others=True)
        outcomes = {m: outcome(found[m.name], tested.get(m.name, ""), len(campaign.paths)) for m in mutations}
        if given.record:
            RECORD.write_text(json.dumps(record(outcomes), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        return summary(outcomes, {claim for per in found.values() for _, _, claims in per.values() for claim in claims})


if __name__ == "__main__":
    sys.exit(main())
