"""examples/: every example runs, at a small size, and says what it is to say."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

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

SHORT = {
    *("digits.py", "drift_curve.py", "own_loop.py", "own_device.py", "own_preset.py"),
    "own_physics.py",
}
"""Examples of under 60 lines, each with a test of its own below."""


@pytest.fixture
def project_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let examples import `examples.digits`, as they do in the project's folder."""
    monkeypatch.syspath_prepend(str(EXAMPLES.parent))


def main_of(name: str) -> Any:
    """Return `main` of an example."""
    return runpy.run_path(str(EXAMPLES / name))["main"]


def test_every_example_has_a_small_size() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SMALL) | ELSEWHERE | SHORT
    for name in SHORT:
        assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.usefixtures("project_on_path")
def test_training_brings_back_what_drift_takes(tmp_path: Path) -> None:
    tables = main_of("drift_curve.py")(epochs=10, chips=4, out=str(tmp_path / "drift.svg"))
    direct, aware = (table.groupby("t_inference").value.mean() for table in tables.values())
    assert direct.iloc[0] - direct.iloc[-1] > 0.05  # 94 and 82 % over ten chips
    assert aware.iloc[-1] - direct.iloc[-1] > 0.05
    assert (tmp_path / "drift.svg").stat().st_size > 1000


@pytest.mark.usefixtures("project_on_path")
def test_a_loop_of_ones_own_brings_it_back_too() -> None:
    torch.manual_seed(0)  # the digital network begins at torch's default generator
    digital, before, after = main_of("own_loop.py")(epochs=20, chips=5)
    assert len(before) == len(after) == 5
    gain = after - before
    # Student's t of five pairs: not zero with a false-alarm rate of 1 %, one-sided
    assert gain.mean() > 3.75 * gain.sem()
    # the claim: training brings back more than half of what the year took
    assert gain.mean() > 0.5 * (digital - before.mean()) > 0.0


@pytest.mark.usefixtures("project_on_path")
def test_a_device_that_relaxes_stays_then() -> None:
    means = main_of("own_device.py")(chips=4)
    assert list(means) == ["rasch2023", "relaxing"]
    _, hour, year = means["relaxing"]
    assert abs(hour - year) < 0.03  # its spread has grown to its end within an hour
    assert means["rasch2023"][1] - means["rasch2023"][2] > 0.03  # PCM goes on drifting


@pytest.mark.usefixtures("project_on_path")
def test_what_a_number_costs_has_a_paired_error() -> None:
    gains = main_of("own_preset.py")(chips=4)
    assert len(gains) == 4 and all(error > 0 for _, error in gains.values())


@pytest.mark.aihwkit
def test_a_wrong_law_is_told_from_a_right_one() -> None:
    right, wrong = main_of("own_physics.py")(samples=20_000).values()
    assert "different" not in set(right.table.verdict)
    assert "different" in set(wrong.table.verdict)


@pytest.mark.parametrize("name", SMALL)
def test_it_runs(name: str) -> None:
    arguments, cases = SMALL[name]
    found = runpy.run_path(str(EXAMPLES / name))["main"](**arguments)
    assert list(found) == cases
    assert all(len(hits) == arguments["test"] for hits in found.values())
