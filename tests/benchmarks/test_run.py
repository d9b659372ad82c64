"""The benchmark command: its files, going on after an interruption, and its plans."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
import typing
from pathlib import Path

import pandas as pd
import pytest
import torch

from aimc_bridge.calibration import METHODS
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import DataError
from benchmarks import cli, run, tasks
from benchmarks.report import run as report
from benchmarks.report import tables
from benchmarks.studies import chip_metrics, phases, trainings
from benchmarks.studies.settings import Settings
from benchmarks.tasks.plan import recipe_for
from presets import ideal, rasch2023

ROOT = Path(__file__).parents[2]
QUICK = [
    *("--engine", "native", "--chips", "2", "--subset", "60"),
    *("--hwa-batches", "4", "--digital-epochs", "2"),
]


pytestmark = pytest.mark.usefixtures("no_data")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Run the wrn task on few images; its digital model serves the other tests."""
    out = tmp_path_factory.mktemp("run") / "wrn"
    assert run.main(["wrn", *QUICK, "--times", "1s", "1 day", "--out", str(out)]) == 0
    return out


@pytest.fixture
def model(finished) -> Path:
    return finished / "work" / "wrn" / "digital"


def rows_of(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "results.csv")


def one_error(text: str) -> str:
    """Return the one line of an error; nothing follows it, and there is no traceback."""
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


# --- what comes out -------------------------------------------------------------------------------


def test_results_have_the_promised_columns_and_a_row_a_chip_time_and_metric(finished) -> None:
    with (finished / "results.csv").open() as file:
        header = next(csv.reader(file))
    assert header == [
        *("model", "dataset", "metric", "phase", "engine"),
        *("preset", "t_inference", "chip", "seed", "value"),
    ]
    rows = rows_of(finished)
    assert set(rows.model) == {"WRN-10-1"}
    assert set(rows.dataset) == {"digits (8 x 8), subset of 60"}
    assert set(rows.metric) == {"accuracy", "error", "loss"}
    analog = rows[rows.phase != "digital"]
    assert set(analog.preset) == {"rasch2023"}
    keys = {tuple(key) for key in analog[["phase", "t_inference", "chip", "metric"]].to_numpy()}
    assert len(keys) == len(analog) == 2 * 2 * 2 * 3
    assert set(analog.phase) == {"direct", "hwa"}
    assert set(analog.t_inference) == {1.0, 86400.0}
    assert (analog.seed == analog.chip).all()  # Chip i has seed i, since the seed is 0.
    digital = rows[rows.phase == "digital"]
    assert len(digital) == 3
    assert digital.t_inference.isna().all() and digital.chip.isna().all()
    text = (finished / "results.csv").read_text()
    assert ",0,0," in text and ",0.0,0," not in text  # A chip is a whole number.


def test_the_digital_row_is_the_digital_model_on_the_same_samples(finished, model) -> None:
    task = tasks.get("wrn")
    expected = task.evaluate(task.load(model), 60)
    rows = rows_of(finished)
    digital = rows[rows.phase == "digital"].set_index("metric").value.to_dict()
    assert digital == pytest.approx(expected)


def test_the_summary_is_the_rows(finished) -> None:
    study = json.loads((finished / "run.json").read_text())["studies"]["wrn"]
    text = (finished / "summary.md").read_text()
    rows = rows_of(finished)
    assert tables.markdown(tables.summary(rows, "accuracy")) in text
    assert tables.markdown(tables.a_star_summary(rows, 0.9, study["intervals"])) in text
    assert "## WRN-10-1, digits (8 x 8), accuracy" in text
    for figure in re.findall(r"\]\((figures/.*?)\)", text):
        assert (finished / figure).read_bytes().startswith(b"\x89PNG")
    assert (finished / "figures" / "dashboard.png").exists()


def test_the_record_says_how_it_was_done(finished) -> None:
    record = json.loads((finished / "run.json").read_text())
    assert record["command"].startswith("python -m benchmarks.run wrn --engine native")
    assert "'1 day'" in record["command"]
    assert record["arguments"]["seed"] == 0
    assert record["arguments"]["times"] == [1.0, 86400.0]
    assert record["arguments"]["preset_data"] == json.loads(json.dumps(rasch2023.to_dict()))
    assert record["versions"]["torch"].startswith("2.")
    assert record["versions"]["python"] == sys.version.split()[0]
    assert record["hardware"]["cores"] == os.cpu_count()
    facts = record["studies"]["wrn"]
    assert facts["samples"] == {"digits (8 x 8), subset of 60": 60}
    assert facts["plan"]["hwa_batches"] == 4
    assert facts["recipe"]["noise_scale"] == 3.0
    assert facts["digital"]["steps"] == 74
    assert facts["analog_weights"] == sum(
        p.numel() for n, p in tasks.get("wrn").build(0).named_parameters() if "norm" not in n
    )
    assert set(facts["wall_s"]) == {
        "digital training",
        *("layers direct", "direct native 60"),
        *("hwa training", "layers hwa", "hwa native 60"),
    }
    assert facts["interrupted"] == []


def test_the_first_lines_name_data_sizes_and_that_they_are_not_the_papers(
    model, tmp_path, capsys
) -> None:
    arguments = ["wrn", *QUICK, "--checkpoint", str(model), "--times", "1s", "--out"]
    assert run.main([*arguments, str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    first, second = lines[:2]
    assert "not the paper's" in first
    assert "WRN-10-1 (77,562 parameters) on digits (8 x 8)" in second
    assert "1,198 train, 400 test images" in second
    begun = "[1/1] wrn: direct conversion on native, 60 images, 2 chips at 1s (about "
    assert any(line.startswith(begun) and line.endswith(" left in all)") for line in lines), lines
    assert re.fullmatch(r" {6}accuracy \d+\.\d % at 1s", lines[-2]), lines
    # The command prints a table that is no Markdown, the conclusion, and where the report is.
    table, sentence, report_line = captured.out.rstrip().split("\n\n")
    assert "WRN-10-1" in table and "|" not in table and "#" not in captured.out
    assert sentence.startswith("WRN-10-1 on native (subset of 60), 1s after programming: ")
    assert report_line.startswith(f"Report: {tmp_path / 'out'}") and "![" not in captured.out


def test_a_checkpoint_is_evaluated_without_training(finished, model, tmp_path) -> None:
    """The chips and weights are the same.

    So are the numbers of the run that trained them.
    """
    out = tmp_path / "out"
    arguments = ["wrn", *QUICK, "--checkpoint", str(model), "--times", "1 day", "--out", str(out)]
    assert run.main(arguments) == 0
    assert not (out / "work" / "wrn" / "digital").exists()
    results, before = rows_of(out), rows_of(finished)
    assert set(results.phase) == {"digital", "direct"}
    same = before[(before.phase == "direct") & (before.t_inference == 86400.0)]
    assert results[results.phase == "direct"].value.tolist() == same.value.tolist()
    facts = json.loads((out / "run.json").read_text())["studies"]["wrn"]
    assert facts["digital"]["checkpoint"] == str(model)
    assert facts["digital"]["steps"] == 74  # This comes from the info beside it.


def test_both_engines_side_by_side(model, tmp_path, monkeypatch) -> None:
    """aihwkit gets the trained weights and ranges.

    The native engine is measured on aihwkit's samples too.
    """
    out = tmp_path / "out"
    arguments = [
        *("wrn", "--engine", "both", "--checkpoint", str(model), "--phases", "direct", "hwa"),
        *("--chips", "2", "--subset", "60", "--aihwkit-chips", "1", "--aihwkit-subset", "20"),
        *("--hwa-batches", "3", "--times", "1s", "--out", str(out)),
    ]
    carried = []
    whole = phases.Phases._as

    def watched(self, engine, digital, native):
        analog = whole(self, engine, digital, native)
        pairs = zip(matrices_of(native).values(), matrices_of(analog).values(), strict=True)
        carried.append(list(pairs))
        for ours, theirs in carried[-1]:
            scale = ours.grid.expand_columns(ours.learned_scale())
            assert torch.allclose(theirs.clean_weight(), ours.clean_weight() * scale, atol=1e-6)
            assert torch.allclose(theirs.input_ranges(), ours.input_ranges(), rtol=1e-5)
        return analog

    monkeypatch.setattr(phases.Phases, "_as", watched)
    assert run.main(arguments) == 0
    assert len(carried) == 2  # A conversion happens once per phase.
    rows = rows_of(out)
    chips = rows[(rows.metric == "accuracy") & (rows.phase != "digital")]
    counts = chips.groupby(["phase", "engine", "dataset"]).size().to_dict()
    name = "digits (8 x 8), subset of"
    assert counts == {
        (phase, engine, f"{name} {samples}"): n
        for phase in ("direct", "hwa")
        for engine, samples, n in (("native", 60, 2), ("native", 20, 2), ("aihwkit", 20, 1))
    }
    baselines = rows[(rows.phase == "digital") & (rows.metric == "accuracy")]
    assert set(baselines.dataset) == {f"{name} 60", f"{name} 20"}
    assert run.main([*arguments, "--resume"]) == 0
    assert len(carried) == 2  # Measured chips need no conversion.
    pd.testing.assert_frame_equal(rows_of(out), rows)


# --- going on -------------------------------------------------------------------------------------


class Interrupted(Exception):
    """The exception that stops a run in a test."""


@pytest.mark.parametrize(
    ("at_evaluation", "at_training", "evaluations", "trained_again"),
    [
        # It stops in the second chip of two: that chip and the other phase are left.
        (4, False, 2 + 4, 1),
        (None, True, 4, 1),  # It stops in the hardware-aware training: that and its chips are left.
        (7, False, 4, 0),  # It stops in the first chip after it: its chips alone are left.
    ],
)
def test_a_resumed_run_ends_as_if_never_interrupted(
    finished, model, tmp_path, monkeypatch, at_evaluation, at_training, evaluations, trained_again
) -> None:
    """Nothing is done twice, and the numbers are the same.

    A whole run evaluates the digital model, then two chips at two times in each phase.
    """
    out = tmp_path / "out"
    arguments = [
        *("wrn", *QUICK, "--checkpoint", str(model), "--phases", "direct", "hwa"),
        *("--times", "1s", "1 day", "--out", str(out)),
    ]
    calls = {"evaluate": 0, "train": 0}
    evaluate, train = chip_metrics.evaluate, trainings.train

    def counted(*args):
        calls["evaluate"] += 1
        if calls["evaluate"] == at_evaluation:
            raise Interrupted
        return evaluate(*args)

    def trained(*args):
        calls["train"] += 1
        if at_training and calls["train"] == 1:
            raise Interrupted
        return train(*args)

    monkeypatch.setattr(chip_metrics, "evaluate", counted)
    monkeypatch.setattr(trainings, "train", trained)
    with pytest.raises(Interrupted):
        run.main(arguments)
    assert not (out / "results.csv").exists()
    first = dict(calls)

    assert run.main([*arguments, "--resume"]) == 0
    assert calls["evaluate"] - first["evaluate"] == evaluations
    assert calls["train"] - first["train"] == trained_again
    expected, resumed = rows_of(finished), rows_of(out)
    pd.testing.assert_frame_equal(resumed, expected)

    before = dict(calls)
    assert run.main([*arguments, "--resume"]) == 0  # All is done, so nothing is done.
    assert calls == before
    pd.testing.assert_frame_equal(rows_of(out), expected)


def test_an_interruption_is_listed_beside_the_seconds(model, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    arguments = ["wrn", *QUICK, "--checkpoint", str(model), "--times", "1s", "--out", str(out)]
    evaluate = chip_metrics.evaluate

    def fail(task, subset, split, of):
        if "aimc" in type(next(of.children())).__module__:
            raise Interrupted
        return evaluate(task, subset, split, of)

    monkeypatch.setattr(chip_metrics, "evaluate", fail)
    with pytest.raises(Interrupted):
        run.main(arguments)
    monkeypatch.setattr(chip_metrics, "evaluate", evaluate)
    assert run.main([*arguments, "--resume"]) == 0
    facts = json.loads((out / "run.json").read_text())["studies"]["wrn"]
    assert facts["interrupted"] == ["direct native 60"]


def test_another_run_is_refused_and_left_as_it_is(finished, model, capsys) -> None:
    before = sorted((p.name, p.stat().st_mtime_ns) for p in finished.rglob("*"))
    same = ["wrn", *QUICK, "--times", "1s", "1 day", "--out", str(finished)]
    assert run.main(same) == 2
    assert "is not empty; name another folder, or add --resume" in capsys.readouterr().err
    assert run.main([*same, "--seed", "1", "--resume"]) == 2
    assert "a run with other arguments (seed 0, now 1)" in capsys.readouterr().err
    assert sorted((p.name, p.stat().st_mtime_ns) for p in finished.rglob("*")) == before


def test_a_finished_run_grows_by_chips_times_and_phases(model, tmp_path) -> None:
    """It grows to the rows that one run over all of it has.

    Existing rows are not measured again.
    """
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    same = ["wrn", *QUICK, "--checkpoint", str(model)]
    every = ["--chips", "3", "--times", "1s", "1h", "1y", "--phases", "direct", "hwa"]
    assert run.main([*same, *every, "--out", str(whole)]) == 0
    part = ["--chips", "1", "--times", "1h", "--phases", "direct", "--out", str(grown)]
    assert run.main([*same, *part]) == 0
    assert run.main([*same, *every, "--out", str(grown), "--resume"]) == 0
    assert (grown / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
    record = json.loads((grown / "run.json").read_text())
    assert record["arguments"]["chips"] == 3
    assert {"direct native 60", "direct native 60, more"} <= set(record["studies"]["wrn"]["wall_s"])


def test_what_a_run_has_stays_whatever_is_asked_for(model, tmp_path, capsys) -> None:
    """Times, phases and chips that are not named again stay."""
    words = ["wrn", *QUICK, "--checkpoint", str(model), "--out", str(tmp_path / "out")]
    first = ["--times", "1s", "1y", "--phases", "direct", "control"]
    assert run.main([*words, "--chips", "2", *first]) == 0
    before = rows_of(tmp_path / "out")
    assert run.main([*words, "--times", "30d", "--phases", "direct", "--resume"]) == 0
    after = rows_of(tmp_path / "out")
    chips = after[after.phase != "digital"]
    assert sorted(chips.t_inference.unique()) == [1.0, 30 * 86400.0, 31536000.0]
    assert set(chips.phase) == {"direct", "control"} and set(chips.chip) == {0, 1}
    old = after[after.t_inference != 30 * 86400.0].reset_index(drop=True)
    pd.testing.assert_frame_equal(old, before)
    capsys.readouterr()
    assert run.main([*words, "--chips", "1", "--resume"]) == 2
    assert "--chips 1: the run has 2 of wrn" in one_error(capsys.readouterr().err)
    pd.testing.assert_frame_equal(rows_of(tmp_path / "out"), after)


def test_a_growth_that_was_cut_short_is_not_finished(model, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    words = ["wrn", *QUICK, "--checkpoint", str(model), "--times", "1s", "--out", str(out)]
    assert run.main([*words, "--chips", "1"]) == 0
    report.record_of(out, "one")

    def fail(*_: object) -> dict[str, float]:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(chip_metrics, "evaluate", fail)
        with pytest.raises(Interrupted):
            run.main([*words, "--chips", "3", "--resume"])
    with pytest.raises(DataError, match="is not finished: run.json lacks .*studies; go on with it"):
        report.record_of(out, "one")
    assert run.main([*words, "--chips", "3", "--resume"]) == 0
    rows = rows_of(out)
    assert set(rows[rows.phase == "direct"].chip) == {0, 1, 2}
    assert report.record_of(out, "one").arguments["chips"] == 3


def test_a_folder_that_is_no_run_cannot_be_resumed(tmp_path, capsys) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert run.main(["wrn", *QUICK, "--out", str(tmp_path), "--resume"]) == 2
    assert "no record of a run to resume" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "name",
    [
        *("parts.json", "direct-native-60.csv", "hwa.safetensors", "digital/model.safetensors"),
        *("digital-60.json", "hwa.csv", "digital/info.json"),
    ],
)
def test_a_damaged_part_of_a_run_is_named(finished, tmp_path, name, capsys) -> None:
    import shutil

    out = tmp_path / "out"
    shutil.copytree(finished, out)
    part = out / "work" / "wrn" / name
    damaged = {"direct-native-60.csv": b"chip,seed\n0,0\n", "hwa.csv": b""}
    part.write_bytes(damaged.get(name, part.read_bytes()[:40]))
    arguments = ["wrn", *QUICK, "--times", "1s", "1 day", "--out", str(out), "--resume"]
    assert run.main(arguments) == 2
    assert part.name in one_error(capsys.readouterr().err)


def test_results_that_were_changed_afterwards_are_refused(finished, tmp_path, capsys) -> None:
    """A copy that lost its last rows, or has another number; other ends of lines do not count."""
    import shutil

    out = tmp_path / "out"
    shutil.copytree(finished, out)
    table = out / "results.csv"
    whole = table.read_bytes()
    table.write_bytes(whole.replace(b"\n", b"\r\n"))
    assert report.record_of(out, "run-copied").rows == report.record_of(finished, "run-here").rows
    cut = b"\n".join(whole.splitlines()[:-1]) + b"\n"
    for damaged in (cut, whole.replace(b"0.", b"0.9", 1)):
        assert damaged != whole
        table.write_bytes(damaged)
        with pytest.raises(DataError, match=r"results\.csv is damaged, or was changed after"):
            report.record_of(out, "run-damaged")
    words = ["wrn", *QUICK, "--times", "1s", "1 day", "--out", str(out), "--resume"]
    assert run.main(words) == 0
    assert table.read_bytes() == whole


# --- arguments and plans --------------------------------------------------------------------------


def test_times_as_people_write_them_and_tasks_between_options() -> None:
    words = ["--times", "1y", "1 day", "3600", "1h", "--chips", "3", "wrn", "--seed", "4", "lstm"]
    _, bound, _ = run.app.parse_args(words, exit_on_error=False, print_error=False)
    settings = bound.kwargs["settings"]
    assert bound.args == ("wrn", "lstm")
    assert settings.at == (3600.0, 86400.0, 365 * 86400.0)
    assert (settings.chips, settings.seed) == (3, 4)
    assert Settings().at == (1.0, 3600.0, 86400.0, 365 * 86400.0)


@pytest.mark.parametrize(
    ("name", "profile"),
    [(name, profile) for name in tasks.names() for profile in tasks.find(name).plans],
)
def test_every_profile_has_a_plan_whose_recipe_is_valid(name, profile) -> None:
    plan = tasks.find(name).plans[profile]
    recipe_name = tasks.find(name).recipe
    recipe = recipe_for(rasch2023, recipe_name, plan, {})
    assert {key: getattr(recipe.spec, key) for key in plan.overrides} == plan.overrides
    if profile == "paper":  # This is the paper's own, whole.
        assert recipe.spec.values() == rasch2023.training[recipe_name].values()
        assert (plan.hwa_batches, plan.subset, plan.chips) == (None, None, 25)


def test_a_preset_without_recipes_borrows_the_papers_and_says_so() -> None:
    recipe = recipe_for(ideal, "wrn16", tasks.find("wrn").plans["embedded"], {"noise_scale": 1.0})
    assert recipe.name == "rasch2023/wrn16"
    assert recipe.spec.noise_scale == 1.0


def test_changes_are_read_as_json_or_text() -> None:
    words = ["noise_scale=2.5", "noise_type=gaussian", "lr_drop_epochs=[1, 2]", "grad_clip=null"]
    assert cli.changes_of(words) == {
        "noise_scale": 2.5,
        "noise_type": "gaussian",
        "lr_drop_epochs": (1, 2),
        "grad_clip": None,
    }


def test_calibrations_are_those_of_the_library() -> None:
    choices = typing.get_type_hints(Settings)["calibration"]
    assert set(typing.get_args(typing.get_args(choices)[0])) == set(METHODS)


# --- ways to print --------------------------------------------------------------------------------


def test_a_dry_run_says_the_plan_and_writes_nothing(model, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["wrn", *QUICK, "--checkpoint", str(model), "--times", "1s", "--dry-run"]
    assert run.main(words) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "WRN-10-1 (77,562 parameters) on digits (8 x 8)" in captured.out
    assert "preset rasch2023; phases direct; times 1s" in captured.out
    assert "wrn: native 2 chips on 60 test images" in captured.out
    assert run.main([*words, "--json", "--out", "deep/out"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["plan"][-1] == "into deep/out"
    assert result["plan"][-2] == result["estimate"]["text"]
    assert run.main([*words, "--recipe", "wrn17", "--phases", "hwa"]) == 2  # It is checked.
    assert run.main([*words, "--quiet"]) == 0
    assert "wrn17" in one_error(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_json_is_the_rows_and_quiet_is_the_conclusion(model, tmp_path, capsys) -> None:
    words = ["wrn", *QUICK, "--checkpoint", str(model), "--times", "1s", "--quiet"]
    assert run.main([*words, "--out", str(tmp_path / "a")]) == 0
    quiet = capsys.readouterr()
    assert quiet.err == "" and quiet.out.startswith("WRN-10-1 on native (subset of 60), 1s after")
    assert len(quiet.out.splitlines()) == 1
    assert run.main([*words, "--json", "--out", str(tmp_path / "b")]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    result = json.loads(captured.out)
    assert result["out"] == str(tmp_path / "b")
    assert Path(result["report"]).parent == tmp_path / "b" and Path(result["report"]).exists()
    (conclusion,) = result["conclusions"]
    assert (conclusion["model"], conclusion["engine"]) == ("WRN-10-1", "native")
    assert conclusion["text"] == quiet.out.strip()
    assert (tmp_path / "b" / "summary.md").read_text().count(conclusion["text"]) == 1
    table = pd.DataFrame(result["rows"], columns=result["columns"])
    expected = rows_of(tmp_path / "b")
    assert list(table.columns) == list(expected.columns)
    assert table.value.tolist() == expected.value.tolist()
    assert table.chip.isna().tolist() == expected.chip.isna().tolist()
    assert (tmp_path / "a" / "results.csv").read_bytes() == (
        tmp_path / "b" / "results.csv"
    ).read_bytes()


def test_an_interruption_says_the_folder(model, tmp_path, monkeypatch, capsys) -> None:
    def interrupt(*_: object) -> dict[str, float]:
        raise KeyboardInterrupt

    words = ["wrn", *QUICK, "--checkpoint", str(model), "--times", "1s", "--quiet"]
    monkeypatch.setattr(chip_metrics, "evaluate", interrupt)
    out = tmp_path / "out"
    assert run.main([*words, "--out", str(out)]) == 130
    error = capsys.readouterr().err
    assert error.startswith("interrupted") and len(error.splitlines()) == 1
    advice = f"what is done is kept; to go on: the same command with --out {out} --resume"
    assert (advice in error) == out.exists()
