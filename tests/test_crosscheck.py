"""Device level of the cross-check, and its command."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import presets
from aimc_bridge.equivalence import device_level
from aimc_bridge.errors import UsageError
from benchmarks.crosscheck import main

pytestmark = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # aihwkit's Hermes


@pytest.mark.parametrize("name", ["rasch2023", "hermes", "scalar_drift", "ideal"])
def test_the_same_physics_agrees(name: str) -> None:
    """Nothing different; means and standard deviations are decided at this size."""
    found = device_level(
        getattr(presets, name), ("0", "1h", "10y"), (0.0, 0.1, 1.0), samples=200_000, seed=3
    )
    assert found.different.empty
    moments = found.table[~found.table["quantity"].str.endswith("distribution")]
    assert (moments["verdict"] == "equivalent").mean() > 0.95
    assert set(found.table["quantity"].str.rsplit(n=1).str[0]) == {
        *("programmed", "exponent", "drifted", "read", "programmed weight", "read weight"),
        *("drifted change", "read weight change"),
    }


def test_a_small_sample_decides_nothing_and_does_not_pass() -> None:
    found = device_level(presets.rasch2023, ("1h",), (0.5,), samples=50)
    distances = found.table[found.table["quantity"].str.endswith("distribution")]
    assert set(distances["verdict"]) == {"undecided"}
    assert not found.passed
    assert "undecided" in found.summary()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--preset", "rasch2023", "--times", "1h", "--samples", "5000", "--out", str(tmp_path)]
    assert main(words) == 0
    assert "rasch2023" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "rasch2023" / "crosscheck.csv")
    assert {"cell", "quantity", "low", "high", "margin", "power", "verdict"} <= set(table)
    assert (tmp_path / "rasch2023" / "summary.md").read_text().startswith("# Cross-check")


@pytest.mark.parametrize(
    "words", [["--preset", "nope"], ["--samples", "x"], ["--samples", "1"], ["--times", "soon"]]
)
def test_bad_usage(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "--out", str(tmp_path)]) == 2


def test_targets_outside_the_device() -> None:
    with pytest.raises(UsageError, match="within"):
        device_level(presets.rasch2023, targets=(1.5,), samples=10)
