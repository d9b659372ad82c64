"""The cross-check's command."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pandas as pd
import pytest

import presets
from aimc_bridge import calibrate, convert
from aimc_bridge.equivalence import device_laws
from aimc_bridge.equivalence.task import POINTS
from aimc_bridge.sealed_files import write_tensors
from benchmarks import digital, tasks
from benchmarks.crosscheck import main
from benchmarks.report import record as records
from benchmarks.studies import crosscheck as study
from benchmarks.studies.finished_parts import save_weights
from tests.stats import FALSE_ALARM

pytestmark = pytest.mark.usefixtures("small_periphery")


DEVICES = ["--levels", "device", "--samples", "2000", "--targets", "0.5", "--times", "1h"]


def assert_agrees(words: list[str], out: Path) -> None:
    """Assert that a check ends and that no row is surely different.

    aihwkit draws the noise of products from a generator without a seed, and "different" has a
    false-alarm rate of up to 5 % for each report. So exit code 1 may happen by chance.
    """
    code = main(words)
    tables = [pd.read_csv(file) for file in out.glob("*/*/crosscheck.csv")]
    assert len(tables) > 0 and min(table["p_different"].min() for table in tables) > FALSE_ALARM
    assert code == any("different" in set(table["verdict"]) for table in tables)


def test_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command compares the devices of two presets, and the two presets.

    Devices should agree on both sides; the pair of presets may differ.
    """
    out = tmp_path / "out"
    monkeypatch.setattr(records, "FOLDER", tmp_path / "records")
    words = [*DEVICES, "--preset", "rasch2023", "scalar_drift", "--out", str(out)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    table = pd.read_csv(out / "rasch2023" / "device" / "crosscheck.csv")
    assert {"cell", "quantity", "low", "high", "margin", "power", "verdict"} <= set(table)
    record = json.loads((out / "crosscheck.json").read_text())
    names = [report["name"] for report in record["reports"]]
    assert names == ["rasch2023/device", "scalar_drift/device", "rasch2023-scalar_drift/device"]
    assert all(name in printed for name in names)
    rows = sum(sum(row[2:]) for r in record["reports"][:2] for row in r["counts"])
    last = printed.splitlines()[-1]
    # There are too few samples.
    assert last.startswith(f"verdict: undecided; of {rows:,} rows that should agree, ")
    assert ", 0 are different, " in last
    summary = (out / "summary.md").read_text()
    assert summary.startswith("# Cross-check\n\n**Verdict: undecided.** Of")
    assert [line.split("[")[1].split("]")[0] for line in summary.splitlines() if "| [" in line] == (
        names
    )
    assert "may differ |" in summary and "What failed" not in summary
    pair = record["reports"][-1]
    assert not pair["should_agree"]
    counts = {tuple(row[:2]): row[2:] for row in pair["counts"]}
    assert counts["device", "drifted mean"] == [0, 1, 0]  # They differ, and the exit code is 0.
    assert record["finished"] and record["kind"] == "crosscheck"
    assert main(words) == 2  # The folder is not empty.
    assert main([*words, "--resume", "--record", "mine"]) == 0
    read_record = records.read(tmp_path / "records" / "crosscheck-mine.json")
    assert read_record.name == "crosscheck-mine" and len(read_record.extra["reports"]) == 3
    assert read_record.kind == "crosscheck" and set(read_record.table().part) == set(names)
    assert records.of_kind("run") == []  # The README's table does not list it.
    assert read_record.command.startswith("python -m benchmarks.crosscheck --levels device")


def test_the_command_fails_where_cells_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 1.

    The verdict is the last line, and the summary shows what failed.
    """
    monkeypatch.setattr(device_laws, "programmed", lambda g, pcm, eps: g)
    out = tmp_path / "out"
    words = [*DEVICES, "--preset", "rasch2023", "--workers", "1", "--out", str(out)]
    assert main(words) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("verdict: failed; of ")
    failed = (out / "summary.md").read_text().partition("## What failed in rasch2023/device")[2]
    assert "programmed sd" in failed or "programming sd" in failed
    assert main([*words, "--resume", "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["verdict"] == "failed" and data["reports"][0]["name"] == "rasch2023/device"
    assert main([*words, "--resume", "--quiet"]) == 1
    assert capsys.readouterr().out == ""


def test_a_dry_run_names_the_reports_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["wrn", "--preset", "rasch2023", "--levels", "device", "layer", "--against", "hermes"]
    assert main([*words, "--dry-run", "--out", str(tmp_path / "out")]) == 0
    *lines, estimate, last = capsys.readouterr().out.splitlines()
    assert lines == [
        "rasch2023/device: device; native against aihwkit",
        "rasch2023/wrn: layer; native against aihwkit",
        "rasch2023-hermes/device: device; two presets, may differ",
        "rasch2023-hermes/wrn: layer; two presets, may differ",
    ]
    assert estimate.startswith("time: ") and last == f"into {tmp_path / 'out'}"
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(
    importlib.util.find_spec("aihwkit_lightning") is None, reason="needs aihwkit-lightning"
)
def test_lightning_is_a_reference_of_layers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["wrn", "--reference", "lightning", "--dry-run", "--out", str(tmp_path / "out")]
    assert main([*words, "--preset", "rasch2023", "hermes"]) == 0
    assert capsys.readouterr().out.splitlines()[:-2] == [
        "rasch2023/wrn: layer; native against lightning",
        "hermes/wrn: layer; native against lightning",
    ]
    for refused in (["--times", "1h"], ["--against", "ideal"], ["--levels", "device"]):
        assert main([*words, "--preset", "rasch2023", *refused]) == 2
        assert "--reference lightning compares layers" in capsys.readouterr().err


def test_the_ladder_is_no_option_of_the_cross_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ladder", "wrn"]) == 2
    assert "--ladder" in capsys.readouterr().err


# --- the budget -----------------------------------------------------------------------------------

LAYER = ["wrn", "--preset", "rasch2023", "--levels", "device", "layer", "--layers", "fc"]
LAYER += ["--times", "1h", "--samples", "2000", "--targets", "0.5", "--workers", "1"]


def test_a_budget_too_small_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the smallest sufficient budget.

    With that budget, the training begins.
    """
    trained = []

    def fit(task: tasks.Task, out: Path, **options: object) -> None:
        trained.append(task.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(digital, "fit", fit)
    out = tmp_path / "out"
    assert main([*LAYER, "--budget", "0.5", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    (smallest,) = re.findall(r"give --budget (\d+[sm]) or more", error)
    assert "is too small for one cell of each of 2 reports (most for rasch2023/" in error
    assert trained == [] and not out.exists()
    assert (
        main(
            [*LAYER, "--budget", f"{2 * int(smallest[:-1])}{smallest[-1]}"] + [*("--out", str(out))]
        )
        == 130
    )
    assert trained == ["wrn"]


def test_a_cross_check_with_a_budget_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A report keeps its share, and nothing is predicted again."""
    wrn = tasks.get("wrn", "embedded", None)
    write_tensors(tmp_path / "model.safetensors", wrn.build(3).state_dict())
    words = [*LAYER, "--checkpoint", str(tmp_path), "--chips", "4", "--budget", "30m"]
    words += ["--out", str(tmp_path / "out")]
    assert_agrees(words, tmp_path / "out")
    shares = json.loads((tmp_path / "out" / study.BUDGET).read_text())["shares_s"]
    assert list(shares) == ["rasch2023/device", "rasch2023/wrn"]
    # The last one gets the rest.
    assert 800 < shares["rasch2023/device"] < 1000 < shares["rasch2023/wrn"] < 1800

    def predict(*_: object) -> float:
        raise AssertionError("predicted again")

    monkeypatch.setattr(study.Crosscheck, "_smallest", predict)
    assert_agrees([*words, "--resume"], tmp_path / "out")
    assert json.loads((tmp_path / "out" / study.BUDGET).read_text())["shares_s"] == shares


def test_the_command_takes_a_trained_model(tmp_path: Path) -> None:
    """A classifier's layer takes the weights of a file.

    A file of another model is an error.
    """
    wrn = tasks.get("wrn", "embedded", None)
    native = convert(wrn.build(3).eval(), presets.rasch2023)
    calibrate(native, wrn.calibration_batches(1))
    save_weights(native, tmp_path / "hwa.safetensors")
    words = ["--preset", "rasch2023", "--levels", "layer", "--times", "1h", "--chips", "4"]
    words += ["--trained", str(tmp_path / "hwa.safetensors"), "--out", str(tmp_path / "out")]
    assert_agrees(["wrn", *words, "--layers", "fc"], tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "rasch2023" / "wrn" / "crosscheck.csv")
    assert set(table["cell"].str.partition(",")[0]) == {"fc"}
    assert main(["lstm", *words[:-1], str(tmp_path / "other")]) == 2
    assert main(["wrn", *words[:-1], str(tmp_path / "c"), "--layers", "fc", "nope"]) == 2
    assert not (tmp_path / "c").exists()  # The error is found before anything is done.
    assert main(["wrn", *words[:-1], str(tmp_path / "b"), "--preset", "hermes", "rasch2023"]) == 2


def test_the_command_compares_the_metrics_asked_for(tmp_path: Path) -> None:
    """Metrics are compared by name.

    A finished check is not mixed with one of other metrics or samples.
    """
    wrn = tasks.get("wrn", "embedded", None)
    native = convert(wrn.build(3).eval(), presets.rasch2023)
    calibrate(native, wrn.calibration_batches(1))
    save_weights(native, tmp_path / "hwa.safetensors")
    words = ["wrn", "--preset", "rasch2023", "--levels", "task", "--times", "1h"]
    words += ["--task-chips", "2", "--trained", str(tmp_path / "hwa.safetensors")]
    words += ["--out", str(tmp_path / "out"), "--workers", "1"]
    options = ["--subset", "10", "--metrics", "probability", "loss"]
    assert_agrees([*words, *options], tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "rasch2023" / "wrn" / "crosscheck.csv")
    assert set(table["quantity"]) == {"probability", "loss"}
    probability = table[table["quantity"] == "probability"].iloc[0]
    # There are ten classes, and the model has learned nothing.
    assert 0.02 < probability["first"] < 0.5
    assert probability["margin"] == POINTS
    assert_agrees([*words, *options, "--resume"], tmp_path / "out")
    assert main([*words, *options[:2], "--resume"]) == 2
    assert main([*words, "--subset", "12", *options[2:], "--resume"]) == 2


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
