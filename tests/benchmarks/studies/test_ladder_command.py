"""The ladder: the command, its records, and the page made from them."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from aimc_bridge import calibrate, convert, sweep
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import DataError, UsageError
from aimc_bridge.sealed_files import write_tensors
from benchmarks import ladder as command
from benchmarks import record as record_command
from benchmarks import tasks
from benchmarks.report import figures, folders, pages
from benchmarks.report import ladder as report
from benchmarks.report import ladder_page as page
from benchmarks.report import ladder_tables as tables
from benchmarks.report import record as records
from benchmarks.studies import base
from benchmarks.studies.ladder import sides
from benchmarks.studies.ladder.ascent import Ascent, LadderOptions
from benchmarks.studies.ladder.rungs import LADDER
from presets import ideal, rasch2023

ROOT = Path(__file__).parents[3]
YEAR = 365 * 86400.0
KEYS = [rung.key for rung in LADDER]

# --- the command ----------------------------------------------------------------------------------


pytestmark = pytest.mark.usefixtures("no_data")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the embedded WideResNet, untrained."""
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    write_tensors(file, tasks.get("wrn").build(0).state_dict())
    return file.parent


QUICK = ["wrn", "--times", "1s", "1y", "--chips", "2", "--repeats", "2", "--subset", "30"]


@pytest.fixture(scope="module")
def finished(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ladder") / "run"
    assert command.main([*QUICK, "--checkpoint", str(checkpoint), "--out", str(out)]) == 0
    return out


def test_the_command_climbs_and_writes(finished: Path, checkpoint: Path) -> None:
    results = pd.read_csv(finished / "results.csv")
    assert list(results.columns) == tables.COLUMNS
    assert list(results.row.unique()) == ["digital", *KEYS, *(s.key for s in sides.SIDES)]
    rungs = results[results.row.isin(KEYS)]
    assert set(rungs.t_inference) == {1.0, YEAR} and set(rungs.chip) == {0, 1}
    assert set(results[~results.row.isin([*KEYS, "digital"])].t_inference) == {YEAR}
    about = json.loads((finished / "run.json").read_text())
    assert about["command"].startswith("python -m benchmarks.ladder wrn --times 1s 1y")
    facts = about["studies"]["wrn"]
    assert facts["samples"] == 30 and facts["metric"] == "accuracy"
    matrices = matrices_of(convert(tasks.get("wrn").build(0), ideal))
    assert facts["layers"] == list(matrices)
    assert facts["tiles"]["ir_drop"] == len(matrices) <= facts["tiles"]["tiles"]
    assert set(about["arguments"]["presets"]) == set(KEYS)
    mvm = rungs[rungs.metric == "mvm"]
    parts = rungs[rungs.metric.str.startswith("mvm ")]
    means = parts.groupby(["row", "t_inference", "chip"]).value.mean()
    expected = mvm.set_index(["row", "t_inference", "chip"]).value.reindex(means.index)
    assert np.allclose(means, expected)
    redrawn = results[(results.row == "replication redrawn") & (results.metric == "draws")]
    assert set(redrawn.value) == {2.0}  # There are 30 images, 25 at a time.
    for name in ("ladder.csv", "layers.csv", "flaws.csv", "less-one.csv", "summary.md"):
        assert (finished / name).stat().st_size > 0
    text = (finished / "summary.md").read_text()
    assert page.ladder_text(tables.steps(results, "accuracy"), "mvm") in text
    assert (finished / "figures" / "ladder.png").read_bytes().startswith(b"\x89PNG")


def test_a_rung_is_the_sweep_of_its_preset(finished: Path, checkpoint: Path) -> None:
    """The last rung gives the values of a sweep of the preset alone.

    Chips, noise and ranges are the same; the errors of layers are left out.
    """
    task = tasks.get("wrn")
    analog = convert(task.load(checkpoint), rasch2023).eval()
    calibrate(analog, task.calibration_batches(8), "percentile")
    torch.set_num_threads(1)
    table = sweep(
        analog, lambda m: task.evaluate(m, 30), times=("1s", "1y"), chips=2, progress=False
    )
    results = tables.read_results(finished / "results.csv")
    keys = ["metric", "chip", "t_inference"]
    rung = results[(results.row == "tiles") & results.metric.isin(["accuracy", "error", "loss"])]
    rung = rung.sort_values(keys, ignore_index=True)
    assert rung.value.tolist() == table.sort_values(keys, ignore_index=True).value.tolist()


def test_an_interrupted_ladder_goes_on(
    finished: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*QUICK, "--checkpoint", str(checkpoint), "--out", str(tmp_path / "run")]
    true, calls = sides.Chips.__call__, [0]

    def stopped(self: sides.Chips, model: nn.Module) -> dict[str, float]:
        calls[0] += 1
        if calls[0] == 12:  # This is in the second chip of the third rung.
            raise KeyboardInterrupt
        return true(self, model)

    monkeypatch.setattr(sides.Chips, "__call__", stopped)
    assert command.main(words) == 130
    work = tmp_path / "run" / "work" / "wrn"
    assert sorted(p.name for p in work.glob("*.csv")) == [
        *("exponent.csv", "measured.csv", "scalar.csv")
    ]
    assert command.main(words) == 2  # A run goes on only with --resume.
    assert command.main([*words, "--resume", "--seed", "3"]) == 2
    calls[0] = -(10**6)
    assert command.main([*words, "--resume"]) == 0
    # A whole chip is measured again, and no more.
    assert calls[0] + 10**6 == 2 * 2 * 11 - 10 + 2 * 2 + 7 * 2
    for name in ("results", "ladder", "flaws"):
        same = [pd.read_csv(out / f"{name}.csv") for out in (finished, tmp_path / "run")]
        pd.testing.assert_frame_equal(*same, check_exact=True)
    calls[0] = -(10**6)
    assert command.main([*words, "--resume"]) == 0
    assert calls[0] == -(10**6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gpt"], "unknown task 'gpt'; one of wrn, bert, lstm"),
        (["wrn", "--profile", "tiny"], 'Invalid value "tiny" for --profile'),
        (["wrn", "--times"], "--times names no time"),
        (["wrn", "--times", "soon"], "time 'soon' is not understood"),
        (["wrn", "--chips", "1"], "--chips 1; allowed: 2 or more: an interval needs two"),
        (["wrn", "--repeats", "0"], "--repeats 0; allowed: 2 or more"),
        (["wrn", "--threads", "0"], "--threads 0; allowed: 1 or more"),
        (["wrn", "--subset", "few"], "--subset few; allowed: a whole number"),
        (["wrn", "--subset", "lstm=5"], "--subset lstm=5: 'lstm' is not among wrn"),
        (["--subset", "5"], "--subset 5: which task?"),
        (["wrn", "--checkpoint", "nowhere"], "no checkpoint at nowhere"),
        (["wrn", "--device", "tpu"], 'Invalid value "tpu" for --device'),
        (["wrn", "--data-dir", "nowhere"], "no data folder nowhere"),
        (["wrn", "--chip", "5"], "Unknown option: --chip."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_is_one_line_and_leaves_nothing(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert command.main([*words, "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and message in line
    assert not out.exists()


def test_a_folder_of_something_else_is_refused(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*QUICK, "--checkpoint", str(checkpoint), "--out"]
    (tmp_path / "file").write_text("x")
    assert command.main([*words, str(tmp_path / "file")]) == 2
    assert command.main([*words, str(tmp_path)]) == 2
    assert command.main([*words, str(tmp_path), "--resume"]) == 2
    error = capsys.readouterr().err
    for part in ("is a file", "is not empty", "no record of a run to resume"):
        assert part in error


def test_a_digital_model_is_trained_where_none_is_given(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model is trained once.

    A resumed ladder takes the one it has.
    """
    seen = []

    def fit(task: tasks.Task, out: Path, **options: Any) -> nn.Module:
        seen.append(options)
        out.mkdir(parents=True)
        (out / "info.json").write_text('{"steps": 3}')
        return task.load(checkpoint)

    monkeypatch.setattr(base.digital, "fit", fit)
    (climb,) = Ascent(LadderOptions(tasks=("wrn",), digital_epochs=0.5), tmp_path).climbs
    climb.study.folder.mkdir(parents=True)
    assert isinstance(climb.study.digital_model(), nn.Module)
    assert climb.facts["digital"] == {"steps": 3}
    assert seen[0]["resume"] is False and seen[0]["seed"] == 0
    assert seen[0]["recipe"].epochs == 0.5  # --digital-epochs sets this, as in every study.


def test_input_ranges_come_from_the_inputs_alone(
    finished: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ladder does not follow a plan that raises them for outputs.

    The results' LSTM has such a plan.
    """
    percentiles: list[float | None] = []

    def noted(model: nn.Module, batches: list[Any], method: str, **options: Any) -> None:
        percentiles.append(options["out_percentile"])
        calibrate(model, batches, method, **options)

    monkeypatch.setattr(base, "calibrate", noted)
    settings = LadderOptions(tasks=("wrn",), checkpoint=(str(checkpoint),)).settings()
    settings = dataclasses.replace(settings, out_percentile=99.0)
    study = base.Study(tasks.get("wrn"), settings, tmp_path)
    digital = study.digital_model()
    digital.get_submodule("fc").get_parameter("weight").data.fill_(1.0)  # This saturates its ADC.
    results, alone, raised = (study.convert(digital) for _ in range(3))
    calibrate(results, study.task.calibration_batches(8), "percentile")
    study.calibrate(alone, inputs_alone=True)
    study.calibrate(raised)
    assert percentiles == [None, 99.0]
    same = [
        {name: matrix.input_ranges() for name, matrix in matrices_of(model).items()}
        for model in (results, alone, raised)
    ]
    assert all(torch.equal(same[0][name], same[1][name]) for name in same[0])
    assert any((same[2][name] > same[0][name]).any() for name in same[0])

    about = json.loads((finished / "run.json").read_text())["studies"]["wrn"]["input_ranges"]
    assert about == {"method": "percentile", "batches": 8, "out_percentile": None}
    text = (finished / "summary.md").read_text()
    assert "Input ranges: method `percentile`, 8 batches, from the inputs alone." in text
    raised_facts = {**about, "out_percentile": 99.99}
    assert "raised until the ADC holds 99.99 %" in page._ranges_text(raised_facts)
    for name in ("docs/ladder.md", "docs/results.md"):  # Both pages tell the difference.
        assert "99.99" in (ROOT / name).read_text(encoding="utf-8")


def test_a_dry_run_says_what_would_be_climbed(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*QUICK, "--checkpoint", str(checkpoint), "--out", str(tmp_path / "run")]
    assert command.main([*words, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("WRN") and "on 30 test images of" in lines[0]
    assert lines[1] == "11 rungs, 2 chips each, at 1s, 1y" and not (tmp_path / "run").exists()


# --- records --------------------------------------------------------------------------------------


def test_a_record_gives_the_tables_of_its_run(finished: Path, tmp_path: Path) -> None:
    (new,) = folders.records_of(finished)
    assert (new.kind, new.name) == ("ladder", "ladder-wrn")
    record = records.read(records.write(new, tmp_path / "ladder-wrn.json"))
    assert record == new
    results, facts = report.results_of(record)
    run = tables.read_results(finished / "results.csv")
    assert facts == json.loads((finished / "run.json").read_text())["studies"]["wrn"]
    assert page.study_text(results, facts) == page.study_text(run, facts)
    for table in (tables.steps, tables.flaws, tables.less_one):
        pd.testing.assert_frame_equal(table(results, "accuracy"), table(run, "accuracy"))
    recorded, true = tables.layers(results), tables.layers(run)
    merged = recorded.merge(true, on=["row", "layer", "t_inference"])
    assert len(merged) == len(recorded) == len(true)
    assert np.allclose(merged.mean_x, merged.mean_y, rtol=1e-4)
    assert len(record.rows) == 1 + 11 * 2 * 2 + 2 * len(sides.SIDES)


def test_a_summary_is_made_again(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "summary.md").unlink()
    (out / "figures" / "ladder.png").unlink()
    folders.rebuild(out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_ladder_that_is_not_finished_gives_no_record(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no finished run"):
        report.records_of(tmp_path)
    with pytest.raises(UsageError, match="--name x: records of a ladder are called ladder-TASK"):
        folders.records_of(finished, "x")
    for name in ("run.json", "results.csv"):
        shutil.copy(finished / name, tmp_path / name)
    about = json.loads((finished / "run.json").read_text())
    about["arguments"]["tasks"] = ["wrn", "lstm"]
    (tmp_path / "run.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match="is not finished: lstm is missing"):
        folders.records_of(tmp_path)
    assert report.section([]) == ""


def test_the_page_is_made_from_records(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "FOLDER", tmp_path / "records")
    section = next(each for each in pages.SECTIONS if each.name == "ladder")
    monkeypatch.setattr(pages, "SECTIONS", (section,))
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    path = tmp_path / section.page
    path.parent.mkdir()
    path.write_text("# Ladder\n\n<!-- ladder -->\nold\n<!-- /ladder -->\nend\n")
    assert record_command.main(["add", str(finished)]) == 0
    assert record_command.main(["write"]) == 0
    text = path.read_text()
    (record,) = records.of_kind("ladder")
    assert text.startswith("# Ladder\n\n") and text.endswith("<!-- /ladder -->\nend\n")
    assert report.section([record]) in text and "\nold\n" not in text
    assert figures.description_of(tmp_path / "docs" / "ladder.png") == records.digest(record)
    assert record_command.main(["check"]) == 0
    path.write_text("no marks")
    assert record_command.main(["write"]) == 2


def committed() -> dict[str, pd.DataFrame]:
    return {
        record.name.removeprefix("ladder-"): report.results_of(record)[0]
        for record in report.committed()
    }


def test_docs_ladder_names_every_rung_and_no_folder_of_ours() -> None:
    text = (ROOT / "docs" / "ladder.md").read_text(encoding="utf-8")
    for rung in LADDER:
        assert f"| {rung.number} | {rung.title} | {rung.what} |" in text and "|" not in rung.what
    assert list(committed()) == ["wrn", "lstm", "bert"]
    for record in report.committed():
        data = json.dumps(record.to_dict())
        assert "/root" not in data and "/work" not in data
        results, facts = report.results_of(record)
        assert set(KEYS) <= set(results.row) and len(facts["layers"]) > 1


def test_the_prose_of_docs_ladder_has_the_records_numbers() -> None:
    text = (ROOT / "docs" / "ladder.md").read_text(encoding="utf-8")
    prose = " ".join(text.partition("**In short.**")[2].partition("## How")[0].split())
    tasks = committed()
    quoted = [(t, r, YEAR) for t in tasks for r in ("scalar", "read_noise", "out_noise", "tiles")]
    for task, row, t_s in [*quoted, *((t, "scalar", 1.0) for t in tasks), ("lstm", "tiles", 1.0)]:
        metric = "perplexity" if task == "lstm" else "accuracy"
        mean = float(tables.values_of(tasks[task], row, metric, t_s).mean())
        assert page._number(mean, metric) in prose, (task, row, t_s)
    parts = {"wrn": "output noise", "lstm": "spread of exponents", "bert": "DAC and ADC"}
    for task, row in parts.items():
        metric = "perplexity" if task == "lstm" else "accuracy"
        less = tables.less_one(tasks[task], metric)
        cell = less[(less.row == f"without {row}") & (less.metric == metric)].iloc[0]
        assert page._change(cell.change, cell.low, cell.high, metric) in prose, (task, row)
        assert cell.p < 0.05
    flaws = tables.flaws(tasks["bert"], "accuracy")
    flaws = flaws[flaws.metric == "accuracy"]
    flaw, physics = "no noise in the evaluation", "scalar_drift"
    cell = flaws[(flaws.flaw == flaw) & (flaws.physics == physics)].iloc[0]
    step = page._change(cell.difference, cell.low, cell.high, "accuracy").removeprefix("+")
    assert step in prose


def test_the_page_tells_what_its_tables_show() -> None:
    """Every figure of the finding is in the page's tables.

    The tables come from the records.
    """
    root = Path(__file__).parents[3]
    page = (root / "docs" / "ladder.md").read_text(encoding="utf-8")
    finding = page.split("**In short.**")[1].split("## How it is measured")[0].split("\n\n")[0]
    # 0.00 is what the replication reports.
    figures = set(re.findall(r"\b\d+\.\d\d\b", finding)) - {"0.00"}
    assert len(figures) >= 10
    tables_shown = page.split("<!-- ladder -->")[1]
    assert not {figure for figure in figures if figure not in tables_shown}
