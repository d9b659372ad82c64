"""The demo: the whole command once, at its full size."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import __main__ as commands
from benchmarks import demo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the demo as a user does, but for the times in between."""
    out = tmp_path_factory.mktemp("demo") / "out"
    assert commands.main(["demo", "--times", "1s", "1y", "--out", str(out), "--quiet"]) == 0
    return out


def changes_of(folder: Path) -> dict[tuple[str, str, float], dict[str, float]]:
    study = json.loads((folder / "run.json").read_text())["studies"]["mlp"]
    return {(row["phase"], row["minus"], row["t_inference"]): row for row in study["changes"]}


def test_a_year_costs_more_than_the_interval_and_training_brings_back_more(folder: Path) -> None:
    """Both intervals cover chips and test samples, and are well away from 0.

    The differences are those of the rows.
    """
    rows = pd.read_csv(folder / "results.csv")
    year_s = 365 * 86400.0
    errors = rows[(rows.metric == "error")]
    digital = errors[errors.phase == "digital"].value.item()
    mean = errors[errors.t_inference == year_s].groupby("phase").value.mean()
    changes = changes_of(folder)
    lost = changes["direct", "digital", year_s]
    back = changes["hwa", "direct", year_s]
    assert lost["mean"] == pytest.approx(mean["direct"] - digital)
    assert back["mean"] == pytest.approx(mean["hwa"] - mean["direct"])
    assert lost["over"] == back["over"] == "chips, samples"
    assert digital < 0.05
    assert lost["low"] > 0.1 and back["high"] < -0.1
    # By more than the whole width of its interval, not only by half of it.
    for row in (lost, back):
        assert abs(row["mean"]) > row["high"] - row["low"]


def test_it_ends_with_the_sentence_and_the_path(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finished parts are read from the folder, and nothing is done again."""
    words = ["--times", "1s", "1y", "--out", str(folder), "--resume"]
    assert demo.main(words) == 0
    captured = capsys.readouterr()
    *_, sentence, last = captured.out.rstrip().split("\n\n")
    assert re.fullmatch(
        r"MLP 10x64 on native, 1y after programming: direct conversion loses [\d.]+ points of "
        r"accuracy \(95 % interval [\d.]+ to [\d.]+, over chips and test samples\): digital "
        r"9\d\.\d %, on the chip \d\d\.\d %; hardware-aware training brings back [\d.]+ points "
        r"\([\d.]+ to [\d.]+, over chips and test samples\): \d\d\.\d %\.",
        sentence,
    ), sentence
    assert last.startswith(f"Report: {folder}") and Path(last.removeprefix("Report: ")).exists()
    assert not re.search(r"^\[\d/\d\]", captured.err, re.MULTILINE)
    assert "\x1b" not in captured.out + captured.err  # no colours without a terminal


def test_the_table_fits_a_narrow_terminal_without_losing_a_cell(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.report import terminal

    words = ["--times", "1s", "1y", "--out", str(folder), "--resume"]
    texts = {}
    for columns in (200, 100, 60, 40):
        monkeypatch.setattr(terminal, "width", lambda columns=columns: columns)
        assert demo.main(words) == 0
        texts[columns] = capsys.readouterr().out
        lines = texts[columns].splitlines()
        assert max(len(line) for line in lines if not line.startswith("Report")) <= columns
    cells = set(re.findall(r"\d+\.\d", texts[200]))
    for text in texts.values():
        assert cells <= set(re.findall(r"\d+\.\d", text))
        assert "hardware-aware" in text


def test_a_dry_run_says_the_plan_and_how_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert demo.main(["--dry-run", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert any("MLP 10x64 (42,250 parameters)" in line for line in data["plan"])
    assert set(data["estimate"]) == {"seconds", "here", "unknown", "text"}
    assert list(tmp_path.iterdir()) == []
