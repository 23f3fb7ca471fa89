"""The README's commands exist and its code does what it says."""

import re
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parent.parent
README = (TOP / "README.md").read_text(encoding="utf-8")


def test_the_eight_lines_end_in_the_expected_number():
    code = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL).group(1)
    assert len(code.strip().splitlines()) == 8
    expected = re.search(r"# expected: (\S+)", code).group(1)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == expected


def test_first_screen_has_sentence_commands_picture_and_code():
    first = README[: README.index("## What is here")]
    assert first.index("make book") < first.index("![") < first.index("```python")
    assert (TOP / re.search(r"!\[[^\]]+\]\(([^)]+)\)", first).group(1)).is_file()
    assert len(first.splitlines()) < 40


def test_commands_and_files_that_it_names_exist():
    targets = set(re.findall(r"^([a-z]+):", (TOP / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b", README)) <= targets
    for path in re.findall(r"(?:book|tools|tests|benchmarks)/[\w/]+\.(?:py|ipynb|svg)", README):
        assert (TOP / path).is_file(), path
