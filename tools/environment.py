"""Sets up .venv for this project, once: python3 tools/environment.py

Needs nothing but a Python; says what it does, and what a machine lacks together with the remedy. A second call finds the
environment complete and returns at once. Written without newer syntax, so that an old Python can say that it is old.
"""

import hashlib
import os
import shutil
import subprocess
import sys

OLDEST = (3, 10)
SPACE = 4 * 10**9  # bytes: torch for one processor, the book's tools, and room to unpack them
TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ENVIRONMENT = os.path.join(TOP, ".venv")
STAMP = os.path.join(ENVIRONMENT, "complete")
PYTHON = os.path.join(ENVIRONMENT, "Scripts" if os.name == "nt" else "bin", "python")


def lacks(version, modules, free):
    """What this machine lacks, each with its remedy: `version` of Python, names of importable `modules`, `free` bytes."""
    found = []
    if tuple(version[:2]) < OLDEST:
        found.append(
            "Python {}.{} or newer; this is {}.{} at {}. Install one (Debian, Ubuntu: apt-get install python3; macOS: brew "
            "install python; Windows: winget install Python.Python.3.12) and name it: make PYTHON=python3.12 book".format(
                OLDEST[0], OLDEST[1], version[0], version[1], sys.executable
            )
        )
    for module in ("venv", "ensurepip"):
        if module not in modules:
            found.append("Python's module {}. Debian, Ubuntu: apt-get install python3-venv".format(module))
    if free < SPACE:
        found.append(
            "disk space: {:.1f} GB free in {}, {:.1f} GB needed. Free some, or move the project to a larger disk".format(
                free / 1e9, TOP, SPACE / 1e9
            )
        )
    return found


def key():
    """Hash of what the environment is made from: the two files that list it, and the Python."""
    digest = hashlib.sha256(sys.version.encode())
    for name in ("pyproject.toml", "requirements.txt"):
        with open(os.path.join(TOP, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def is_complete():
    """Whether the last set-up ran to its end, with the same Python and the same lists."""
    try:
        with open(STAMP) as file:
            return file.read() == key()
    except OSError:
        return False


def importable(names):
    found = []
    for name in names:
        try:
            __import__(name)
            found.append(name)
        except ImportError:
            pass
    return found


def run(words, remedy):
    if subprocess.call(words, cwd=TOP) != 0:
        sys.exit("environment: {} failed. {}".format(" ".join(words[1:4]), remedy))


def main():
    if is_complete():
        print("environment: .venv is complete")
        return
    missing = lacks(sys.version_info, importable(("venv", "ensurepip")), shutil.disk_usage(TOP).free)
    if missing:
        sys.exit("environment: this machine lacks\n" + "\n".join("  * " + line for line in missing))
    if os.path.exists(STAMP):
        os.remove(STAMP)
    print("environment: making .venv with Python {}.{}".format(*sys.version_info[:2]))
    # --clear: an interrupted set-up may have left half a package
    run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], "See the message above.")
    print("environment: installing what requirements.txt lists; this takes some minutes and about 1.5 GB")
    sys.stdout.flush()
    run(
        [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "-r", "requirements.txt"],
        "The message above says why; most often the network: check it and call again, what was fetched is kept.",
    )
    with open(STAMP + ".new", "w") as file:
        file.write(key())
    os.replace(STAMP + ".new", STAMP)
    print("environment: complete")


if __name__ == "__main__":
    main()
