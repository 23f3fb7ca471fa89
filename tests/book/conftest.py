"""The book under test: its chapters, one shared execution of each, and one shared build of the site."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from filelock import FileLock

TOP = Path(__file__).parents[2]
BOOK = TOP / "book"
sys.path.insert(0, str(BOOK / "_ext"))


def pages() -> list[str]:
    toc = yaml.safe_load((TOP / "_toc.yml").read_text())
    return [toc["root"], *(entry["file"] for part in toc["parts"] for entry in part["chapters"])]


CHAPTERS = [page for page in pages() if (BOOK / f"{page}.ipynb").is_file()]

# One other parameter set for each chapter: quick, and far from the defaults.
OTHER_PARAMETERS = {
    "theorems/alignment": {"weight_decay": 0.02, "members": 2, "width": 8, "samples": 20, "dimension": 6},
    "theorems/norm_preservation": {"weight_decay": 0.015, "members": 3, "width": 5, "samples": 12, "dimension": 6, "seed": 1},
    "theorems/gradient_flow": {"weight_decay": 0.05, "horizon": 0.8, "members": 3, "width": 5, "samples": 7, "unseen": 4, "seed": 1},
    "theorems/deep_linear": {"weight_decay": 0.02, "starts": 2, "width": 10, "samples": 20, "dimension": 6, "target_decay": 0.12, "seed": 1},
    "theorems/low_rank_bias": {"weight_decay": 0.012, "horizon": 3.0, "members": 2, "width": 16, "samples": 16, "dimension": 8, "seed": 2},
    "theorems/certificates": {"weight_decay": 0.004, "largest_decay": 0.02, "width": 10, "samples": 14, "dimension": 5, "horizon": 5.0, "seed": 1},
    "theorems/global_optimum": {"weight_decay": 0.02, "members": 3, "samples": 6, "seed": 2},
    "merging/shallow_relu": {"weight_decay": 0.015, "members": 3, "width": 40, "samples": 60, "dimension": 20, "coherence": 0.02, "start_scale": 20.0, "seed": 3},
    "merging/approximate_orthogonality": {"weight_decay": 0.02, "members": 4, "width": 24, "samples": 12, "start_scale": 2.0, "seed": 3},
    "merging/many_tasks": {"weight_decay": 0.015, "families": 4, "linear_families": 80, "tasks": 28, "width": 48, "majority": 0.8, "seed": 1},
    "merging/deep_linear": {"weight_decay": 0.02, "members": 3, "sets": 16, "width": 10, "samples": 4, "dimension": 4, "start_scale": 1.2, "seed": 1},
    "merging/digits": {"weight_decay": 0.015, "horizon": 7.0, "members": 4, "n_train": 60, "seed": 2},
    "merging/deep_relu": {"weight_decay": 0.04, "members": 6, "law_members": 96, "width": 40, "samples": 8, "seed": 3},
}  # fmt: skip


def read(chapter: str, book: Path = BOOK):
    return nbformat.read(book / f"{chapter}.ipynb", as_version=4)


def build(top: Path) -> subprocess.CompletedProcess:
    """`make book` without make, in `top`."""
    command = [Path(sys.executable).parent / "jupyter-book", "build", "-W", "-n", "--keep-going", "book/"]
    return subprocess.run(command, cwd=top, capture_output=True, text=True)


@pytest.fixture(scope="session")
def site(testrun_uid) -> Path:
    """The site of this checkout, built once however many workers ask for it."""
    (TOP / "_build").mkdir(exist_ok=True)
    with FileLock(TOP / "_build" / ".tests.lock"):
        done = TOP / "_build" / f".tests-{testrun_uid}"
        if not done.exists():
            for older in (TOP / "_build").glob(".tests-*"):
                older.unlink()
            built = build(TOP)
            assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
            done.touch()
    return TOP / "_build" / "html"


@pytest.fixture(scope="session")
def quick_top(tmp_path_factory) -> Path:
    """A copy of the book without its other chapters, `theorems/alignment` set to quick parameters, outputs stored."""
    top = tmp_path_factory.mktemp("quick")
    for name in ("_config.yml",):
        shutil.copy(TOP / name, top / name)
    shutil.copytree(BOOK, top / "book", ignore=shutil.ignore_patterns("*.ipynb", "*.md", "mathjax", "__pycache__", "_toc.yml", "abstract.yml"))
    (top / "book" / "_static" / "mathjax").mkdir()
    (top / "book" / "_static" / "mathjax" / "tex-svg.js").touch()
    (top / "book" / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n- file: notation\n- file: theorems/alignment\n- file: bibliography\n")
    (top / "book" / "index.md").write_text("# A book\n\n{verdict}`alignment-window-identity`\n")
    (top / "book" / "bibliography.md").write_text("# Bibliography\n\n```{bibliography}\n```\n")
    # Statements refer to the definitions there.
    notation = (BOOK / "notation.md").read_text()
    (top / "book" / "notation.md").write_text(notation.replace("(appendix/theorem_graph.md)", "(index.md)"))
    allowed = top / "book" / "_ext" / "numbers_allowed.yml"
    entries = yaml.safe_load(allowed.read_text()) or []
    allowed.write_text(yaml.safe_dump([entry for entry in entries if entry["chapter"] in ("theorems/alignment", "notation")]))
    notebook = read("theorems/alignment")
    for cell in notebook.cells:
        cell.source = cell.source.replace("(../how_to_read.md)", "(../index.md)")
        cell.source = cell.source.replace("(norm_preservation.ipynb)", "(../index.md)")
        cell.source = cell.source.replace("(certificates.ipynb)", "(../index.md)")
        if "parameters" in cell.metadata.get("tags", []):
            values = OTHER_PARAMETERS["theorems/alignment"]
            cell.source += "".join(f"\n{name} = {value}" for name, value in values.items())
    path = top / "book" / "theorems" / "alignment.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, path)
    refreshed = subprocess.run(
        [sys.executable, "book/_ext/chapters.py", "refresh"], cwd=top, capture_output=True, text=True
    )
    assert refreshed.returncode == 0, refreshed.stderr
    return top
