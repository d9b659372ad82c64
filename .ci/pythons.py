"""Find an interpreter for each pair of aihwkit and torch on this machine.

`python3 .ci/pythons.py` prints one whose Python gets another pair than this Python, or nothing. The
Python farthest from this one comes first. Looked for are python3.X on the path, then pyenv's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aimc_bridge.engines.versions import NEWEST_FROM, PAIRS, Pair, pair_for

OLDEST, NEWEST = (3, 10), (3, 14)
"""The versions of Python that the project supports, as in setup.cfg."""

PROBE = """
import ensurepip, sys, sysconfig, venv
final = sys.version_info.releaselevel == "final" and sys.implementation.name == "cpython"
if final and not sysconfig.get_config_var("Py_GIL_DISABLED"):
    print(*sys.version_info[:2], sep=".")
"""


def pythons(pair: Pair) -> list[tuple[int, int]]:
    """Return the versions of Python that get a pair, the farthest from the other pair's first."""
    minors = range(OLDEST[1], NEWEST[1] + 1)
    versions = [(3, minor) for minor in minors if pair_for((3, minor)) == pair]
    return versions[::-1] if versions[0] >= NEWEST_FROM else versions


def candidates(version: tuple[int, int]) -> Iterator[Path]:
    """Yield the files that may be an interpreter of a version."""
    name = ".".join(map(str, version))
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        yield Path(folder or ".") / f"python{name}"
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(root.glob(f"versions/{name}.*/bin/python"), reverse=True)


def runs(python: Path, version: tuple[int, int]) -> bool:
    """Return whether an interpreter runs, is of that version and can make environments.

    A shim of pyenv for a version that is switched off does not run, and Debian has interpreters
    without ensurepip.
    """
    if not python.exists():
        return False
    try:
        process = subprocess.run(
            [python, "-I", "-c", PROBE], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return process.returncode == 0 and process.stdout.strip() == ".".join(map(str, version))


def interpreter(pair: Pair) -> Path | None:
    """Return an interpreter whose Python gets a pair, or None if there is none."""
    for version in pythons(pair):
        for python in candidates(version):
            if runs(python, version):
                return python
    return None


def main() -> None:
    """Print an interpreter for the pair that this Python does not get, if there is one."""
    for pair in PAIRS:
        if pair != pair_for() and (python := interpreter(pair)) is not None:
            print(python)


if __name__ == "__main__":
    main()
