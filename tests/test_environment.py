"""What tools/environment.py says of a machine that lacks something."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "tools" / "environment.py"


@pytest.fixture
def environment():
    spec = importlib.util.spec_from_file_location("environment", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_machine_that_has_everything_lacks_nothing(environment):
    assert environment.lacks((3, 10, 0), ("venv", "ensurepip"), 10**11) == []


@pytest.mark.parametrize(
    "version, modules, free, words",
    [
        ((3, 9, 18), ("venv", "ensurepip"), 10**11, ("Python 3.10 or newer", "this is 3.9", "make PYTHON=")),
        ((3, 12, 0), ("venv",), 10**11, ("ensurepip", "apt-get install python3-venv")),
        ((3, 12, 0), ("venv", "ensurepip"), 10**8, ("0.1 GB free", "4.0 GB needed")),
    ],
)
def test_each_lack_is_named_with_its_remedy(environment, version, modules, free, words):
    (line,) = environment.lacks(version, modules, free)
    assert all(word in line for word in words)


def test_all_lacks_are_said_at_once(environment):
    assert len(environment.lacks((2, 7), (), 0)) == 4


def test_a_stamp_of_other_lists_is_not_trusted(environment, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "STAMP", str(tmp_path / "complete"))
    assert not environment.is_complete()
    (tmp_path / "complete").write_text(environment.key())
    assert environment.is_complete()
    (tmp_path / "complete").write_text("of an older pyproject.toml")
    assert not environment.is_complete()


def test_a_missing_module_ends_with_the_list_and_no_traceback(tmp_path):
    # The script in a folder of its own, so that nothing of this checkout is touched, run without ensurepip.
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "environment.py").write_text(SCRIPT.read_text())
    for name in ("pyproject.toml", "requirements.txt"):
        (tmp_path / name).write_text("")
    code = "import sys, runpy; sys.modules['ensurepip'] = None; runpy.run_path('tools/environment.py', run_name='__main__')"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 1 and "ensurepip" in ran.stderr and "Traceback" not in ran.stderr
    assert not (tmp_path / ".venv").exists()
