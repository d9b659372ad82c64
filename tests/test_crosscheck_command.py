"""The cross-check's command."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

import presets
from aimc_bridge import calibrate, convert
from aimc_bridge.equivalence import device
from aimc_bridge.equivalence.task import POINTS
from benchmarks import tasks
from benchmarks.crosscheck import main
from benchmarks.report import record as records
from benchmarks.studies.weights import save_weights

pytestmark = pytest.mark.usefixtures("small_periphery")


# --- the command ----------------------------------------------------------------------------------

DEVICES = ["--levels", "device", "--samples", "2000", "--targets", "0.5", "--times", "1h"]


def test_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices of two presets that should agree, and the pair that may differ."""
    out = tmp_path / "out"
    monkeypatch.setattr(records, "FOLDER", tmp_path / "records")
    words = [*DEVICES, "--preset", "rasch2023", "scalar_drift", "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().out
    table = pd.read_csv(out / "rasch2023" / "device" / "crosscheck.csv")
    assert {"cell", "quantity", "low", "high", "margin", "power", "verdict"} <= set(table)
    record = json.loads((out / "crosscheck.json").read_text())
    names = [report["name"] for report in record["reports"]]
    assert names == ["rasch2023/device", "scalar_drift/device", "rasch2023-scalar_drift/device"]
    assert all(name in said for name in names)
    pair = record["reports"][-1]
    assert not pair["should_agree"]
    counts = {tuple(row[:2]): row[2:] for row in pair["counts"]}
    assert counts["device", "drifted mean"] == [0, 1, 0]  # different, and the exit code is 0
    assert record["finished"] and record["kind"] == "crosscheck"
    assert main(words) == 2  # not empty
    assert main([*words, "--resume", "--record", "mine"]) == 0
    kept = records.read(tmp_path / "records" / "crosscheck-mine.json")
    assert kept.name == "crosscheck-mine" and len(kept.extra["reports"]) == 3
    assert kept.kind == "crosscheck" and set(kept.table().part) == set(names)


def test_the_command_fails_where_cells_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "programmed", lambda g, pcm, eps: g)
    words = [*DEVICES, "--preset", "rasch2023", "--workers", "1", "--out", str(tmp_path / "out")]
    assert main(words) == 1


def test_the_command_takes_a_trained_model(tmp_path: Path) -> None:
    """A classifier's layer with the weights of a file; a file of another model is an error."""
    wrn = tasks.get("wrn", "embedded", None)
    native = convert(wrn.build(3).eval(), presets.rasch2023)
    calibrate(native, wrn.calibration_batches(1))
    save_weights(native, tmp_path / "hwa.safetensors")
    words = ["--preset", "rasch2023", "--levels", "layer", "--times", "1h", "--chips", "4"]
    words += ["--trained", str(tmp_path / "hwa.safetensors"), "--out", str(tmp_path / "out")]
    assert main(["wrn", *words, "--layers", "fc"]) == 0
    table = pd.read_csv(tmp_path / "out" / "rasch2023" / "wrn" / "crosscheck.csv")
    assert set(table["cell"].str.partition(",")[0]) == {"fc"}
    assert main(["lstm", *words[:-1], str(tmp_path / "other")]) == 2
    assert main(["wrn", *words[:-1], str(tmp_path / "c"), "--layers", "fc", "nope"]) == 2
    assert not (tmp_path / "c").exists()  # found before anything is done
    assert main(["wrn", *words[:-1], str(tmp_path / "b"), "--preset", "hermes", "rasch2023"]) == 2


def test_the_command_compares_the_metrics_asked_for(tmp_path: Path) -> None:
    """By name; a finished check is not mixed with one of other metrics or samples."""
    wrn = tasks.get("wrn", "embedded", None)
    native = convert(wrn.build(3).eval(), presets.rasch2023)
    calibrate(native, wrn.calibration_batches(1))
    save_weights(native, tmp_path / "hwa.safetensors")
    words = ["wrn", "--preset", "rasch2023", "--levels", "task", "--times", "1h"]
    words += ["--task-chips", "2", "--trained", str(tmp_path / "hwa.safetensors")]
    words += ["--out", str(tmp_path / "out"), "--workers", "1"]
    asked = ["--subset", "10", "--metrics", "probability", "loss"]
    assert main([*words, *asked]) == 0
    table = pd.read_csv(tmp_path / "out" / "rasch2023" / "wrn" / "crosscheck.csv")
    assert set(table["quantity"]) == {"probability", "loss"}
    probability = table[table["quantity"] == "probability"].iloc[0]
    assert 0.02 < probability["native"] < 0.5  # ten classes and a model that has learned nothing
    assert probability["margin"] == POINTS
    assert main([*words, *asked, "--resume"]) == 0
    assert main([*words, *asked[:2], "--resume"]) == 2
    assert main([*words, "--subset", "12", *asked[2:], "--resume"]) == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--metrics", "probability"],
        ["--metrics", "perplexity", "wrn", "--levels", "task"],
        ["lstm", "--levels", "task", "--metrics", "probability"],
        ["--preset", "nope"],
        ["--preset"],
        ["--levels", "tile"],
        ["--samples", "x"],
        ["--samples", "1"],
        ["--times", "soon"],
        ["--targets", "2"],
        ["--budget", "much"],
        ["--workers", "0"],
        ["--device", "tpu"],
        ["--against", "nope"],
        ["--record", "a/b"],
        ["gpt"],
        ["--profile", "nope"],
        ["wrn", "--checkpoint", "/no/such/folder"],
    ],
)
def test_bad_usage(words: list[str], tmp_path: Path) -> None:
    before = [] if "--levels" in words or words[0] in ("gpt", "wrn", "--profile") else DEVICES
    assert main([*before, *words, "--out", str(tmp_path / "out")]) == 2
