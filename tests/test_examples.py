"""examples/: every example runs, at a small size, and says what it is to say."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

# Arguments of `main` that make an example small, and the cases that it reports.
SMALL: dict[str, tuple[dict[str, Any], list[str]]] = {
    "ahwa_lora.py": (
        {"train": 40, "test": 20, "steps": 2, "chips": 2},
        [
            "digital",
            "chip 0, 1y",
            "chip 0, 1y, adapters",
            "chip 0, 30d, adapters",
            "chip 1, 1y, adapters",
        ],
    ),
}


# Examples whose results are files of the project; the tests of their subject use them.
ELSEWHERE = {"pcm_table.py", "yield.py"}


def test_every_example_has_a_small_size() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SMALL) | ELSEWHERE


@pytest.mark.parametrize("name", SMALL)
def test_it_runs(name: str) -> None:
    arguments, cases = SMALL[name]
    found = runpy.run_path(str(EXAMPLES / name))["main"](**arguments)
    assert list(found) == cases
    assert all(len(hits) == arguments["test"] for hits in found.values())
