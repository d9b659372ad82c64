"""The benchmark command: what it writes, going on after an interruption, and bad input."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from aimc_bridge import report
from aimc_bridge.registry import matrices_of
from benchmarks import arguments, measure, run, study, tasks
from benchmarks.profiles import PLANS, parse_changes, recipe_for
from presets import ideal, rasch2023

ROOT = Path(__file__).parent.parent
QUICK = [
    *("--engine", "native", "--chips", "2", "--subset", "60"),
    *("--hwa-batches", "4", "--digital-epochs", "2"),
]


@pytest.fixture(autouse=True)
def no_data(monkeypatch) -> None:
    monkeypatch.delenv("AIMC_BRIDGE_DATA", raising=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of the wrn task on few images; its digital model serves the other tests."""
    out = tmp_path_factory.mktemp("run") / "wrn"
    assert run.main(["wrn", *QUICK, "--times", "1s", "1 day", "--out", str(out)]) == 0
    return out


@pytest.fixture
def model(finished) -> Path:
    return finished / "work" / "wrn" / "digital"


def rows_of(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "results.csv")


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
    assert (analog.seed == analog.chip).all()  # chip i of seed 0
    digital = rows[rows.phase == "digital"]
    assert len(digital) == 3
    assert digital.t_inference.isna().all() and digital.chip.isna().all()
    text = (finished / "results.csv").read_text()
    assert ",0,0," in text and ",0.0,0," not in text  # a chip is a whole number


def test_the_digital_row_is_the_digital_model_on_the_same_samples(finished, model) -> None:
    task = tasks.get("wrn")
    expected = task.evaluate(task.load(model), 60)
    rows = rows_of(finished)
    digital = rows[rows.phase == "digital"].set_index("metric").value.to_dict()
    assert digital == pytest.approx(expected)


def test_the_summary_is_the_rows(finished) -> None:
    text = (finished / "summary.md").read_text()
    rows = rows_of(finished)
    assert report.markdown(report.summary(rows, "accuracy")) in text
    assert report.markdown(report.a_star_summary(rows, 0.9)) in text
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
        *("digital training", "hwa training", "direct native 60", "hwa native 60")
    }
    assert facts["interrupted"] == []


def test_the_first_lines_name_data_sizes_and_that_they_are_not_the_papers(
    model, tmp_path, capsys
) -> None:
    arguments = ["wrn", *QUICK, "--checkpoint", str(model), "--times", "1s", "--out"]
    assert run.main([*arguments, str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    first, second = captured.err.splitlines()[:2]
    assert "not the paper's" in first
    assert "WRN-10-1 (77,562 parameters) on digits (8 x 8)" in second
    assert "1,198 train, 400 test images" in second
    assert "## WRN-10-1" in captured.out  # the tables are what it prints


def test_a_checkpoint_is_evaluated_without_training(finished, model, tmp_path) -> None:
    """The same chips of the same weights: the numbers of the run that trained them."""
    out = tmp_path / "out"
    arguments = ["wrn", *QUICK, "--checkpoint", str(model), "--times", "1 day", "--out", str(out)]
    assert run.main(arguments) == 0
    assert not (out / "work" / "wrn" / "digital").exists()
    found, before = rows_of(out), rows_of(finished)
    assert set(found.phase) == {"digital", "direct"}
    same = before[(before.phase == "direct") & (before.t_inference == 86400.0)]
    assert found[found.phase == "direct"].value.tolist() == same.value.tolist()
    facts = json.loads((out / "run.json").read_text())["studies"]["wrn"]
    assert facts["digital"]["checkpoint"] == str(model)
    assert facts["digital"]["steps"] == 74  # from the info beside it


def test_both_engines_side_by_side(model, tmp_path, monkeypatch) -> None:
    """aihwkit gets the trained weights and ranges; native is measured on its samples too."""
    out = tmp_path / "out"
    arguments = [
        *("wrn", "--engine", "both", "--checkpoint", str(model), "--phases", "direct", "hwa"),
        *("--chips", "2", "--subset", "60", "--aihwkit-chips", "1", "--aihwkit-subset", "20"),
        *("--hwa-batches", "3", "--times", "1s", "--out", str(out)),
    ]
    carried = []
    whole = study.Study._as

    def watched(self, engine, digital, native):
        analog = whole(self, engine, digital, native)
        pairs = zip(matrices_of(native).values(), matrices_of(analog).values(), strict=True)
        carried.append(list(pairs))
        for ours, theirs in carried[-1]:
            scale = ours.grid.expand_columns(ours.learned_scale())
            assert torch.allclose(theirs.clean_weight(), ours.clean_weight() * scale, atol=1e-6)
            assert torch.allclose(theirs.input_ranges(), ours.input_ranges(), rtol=1e-5)
        return analog

    monkeypatch.setattr(study.Study, "_as", watched)
    assert run.main(arguments) == 0
    assert len(carried) == 2  # once a phase
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
    assert len(carried) == 2  # measured chips need no conversion
    pd.testing.assert_frame_equal(rows_of(out), rows)


# --- going on -------------------------------------------------------------------------------------


class Interrupted(Exception):
    """What stops a run in a test."""


@pytest.mark.parametrize(
    ("at_evaluation", "at_training", "evaluations", "trainings"),
    [
        (4, False, 2 + 4, 1),  # in the second chip of two: that chip, the other phase
        (None, True, 4, 1),  # in the hardware-aware training: that, and its chips
        (7, False, 4, 0),  # in the first chip after it: its chips alone
    ],
)
def test_a_resumed_run_ends_as_if_never_interrupted(
    finished, model, tmp_path, monkeypatch, at_evaluation, at_training, evaluations, trainings
) -> None:
    """Nothing done is done again, and the numbers are those of one go.

    A whole run evaluates the digital model, then two chips at two times in each phase.
    """
    out = tmp_path / "out"
    arguments = [
        *("wrn", *QUICK, "--checkpoint", str(model), "--phases", "direct", "hwa"),
        *("--times", "1s", "1 day", "--out", str(out)),
    ]
    calls = {"evaluate": 0, "train": 0}
    evaluate, train = measure.evaluate, study.hardware_aware

    def counted(*given):
        calls["evaluate"] += 1
        if calls["evaluate"] == at_evaluation:
            raise Interrupted
        return evaluate(*given)

    def trained(*given, **options):
        calls["train"] += 1
        if at_training and calls["train"] == 1:
            raise Interrupted
        return train(*given, **options)

    monkeypatch.setattr(measure, "evaluate", counted)
    monkeypatch.setattr(study, "hardware_aware", trained)
    with pytest.raises(Interrupted):
        run.main(arguments)
    assert not (out / "results.csv").exists()
    first = dict(calls)

    assert run.main([*arguments, "--resume"]) == 0
    assert calls["evaluate"] - first["evaluate"] == evaluations
    assert calls["train"] - first["train"] == trainings
    expected, found = rows_of(finished), rows_of(out)
    pd.testing.assert_frame_equal(found, expected)

    before = dict(calls)
    assert run.main([*arguments, "--resume"]) == 0  # all done: nothing is done
    assert calls == before
    pd.testing.assert_frame_equal(rows_of(out), expected)


def test_an_interruption_is_listed_beside_the_seconds(model, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    arguments = ["wrn", *QUICK, "--checkpoint", str(model), "--times", "1s", "--out", str(out)]
    evaluate = measure.evaluate

    def fail(task, subset, of):
        if "aimc" in type(next(of.children())).__module__:
            raise Interrupted
        return evaluate(task, subset, of)

    monkeypatch.setattr(measure, "evaluate", fail)
    with pytest.raises(Interrupted):
        run.main(arguments)
    monkeypatch.setattr(measure, "evaluate", evaluate)
    assert run.main([*arguments, "--resume"]) == 0
    facts = json.loads((out / "run.json").read_text())["studies"]["wrn"]
    assert facts["interrupted"] == ["direct native 60"]


def test_another_run_is_refused_and_left_as_it_is(finished, model, capsys) -> None:
    before = sorted((p.name, p.stat().st_mtime_ns) for p in finished.rglob("*"))
    same = ["wrn", *QUICK, "--times", "1s", "1 day", "--out", str(finished)]
    assert run.main(same) == 2
    assert "is not empty; name another folder, or add --resume" in capsys.readouterr().err
    assert run.main([*same, "--seed", "1", "--resume"]) == 2
    assert "a run with other arguments (seed)" in capsys.readouterr().err
    assert sorted((p.name, p.stat().st_mtime_ns) for p in finished.rglob("*")) == before


def test_a_folder_that_is_no_run_cannot_be_resumed(tmp_path, capsys) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert run.main(["wrn", *QUICK, "--out", str(tmp_path), "--resume"]) == 2
    assert "no record of a run to resume" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "name", ["parts.json", "direct-native-60.csv", "hwa.safetensors", "digital/model.safetensors"]
)
def test_a_damaged_part_of_a_run_is_named(finished, tmp_path, name, capsys) -> None:
    import shutil

    out = tmp_path / "out"
    shutil.copytree(finished, out)
    part = out / "work" / "wrn" / name
    part.write_bytes(b"chip,seed\n0,0\n" if name.endswith("csv") else part.read_bytes()[:40])
    arguments = ["wrn", *QUICK, "--times", "1s", "1 day", "--out", str(out), "--resume"]
    assert run.main(arguments) == 2
    assert part.name in one_error(capsys.readouterr().err)


# --- bad input ------------------------------------------------------------------------------------


def one_error(text: str) -> str:
    """The one line of an error; nothing after it, and no traceback."""
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


def truncated(model: Path, tmp_path: Path) -> list[str]:
    file = tmp_path / "model.safetensors"
    file.write_bytes((model / "model.safetensors").read_bytes()[:5000])
    return ["--checkpoint", str(file)]


def with_nan(model: Path, tmp_path: Path) -> list[str]:
    tensors = load_file(model / "model.safetensors")
    tensors["fc.weight"][0, 0] = math.nan
    save_file(tensors, tmp_path / "model.safetensors")
    return ["--checkpoint", str(tmp_path / "model.safetensors")]


def of_another(model: Path, tmp_path: Path) -> list[str]:
    return ["-o", "width=2", "--checkpoint", str(model)]


def missing(model: Path, tmp_path: Path) -> list[str]:
    return ["--checkpoint", str(tmp_path / "nowhere")]


def short_file(model: Path, tmp_path: Path) -> list[str]:
    folder = tmp_path / "data" / "cifar-10"
    folder.mkdir(parents=True)
    (folder / "lossless-subset.npz").write_bytes(b"PK\x03\x04 cut")
    return ["--data-dir", str(tmp_path / "data"), "-o", "dataset=cifar10-lossless"]


def a_file_as_out(model: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "file").write_text("")
    return ["--out", str(tmp_path / "file" / "run")]


Extra = Callable[[Path, Path], list[str]]
BAD: list[tuple[str, list[str] | Extra, str]] = [
    ("preset", ["--preset", "rasch2032"], "rasch2032.*rasch2023"),
    ("task", ["gpt"], "unknown task 'gpt'; one of wrn, bert, lstm"),
    (
        "calibration",
        ["--calibration", "mean"],
        "unknown calibration 'mean'; one of max, percentile, std",
    ),
    ("engine", ["--engine", "cuda"], "unknown engine 'cuda'; one of native, aihwkit, both"),
    ("profile", ["--profile", "tiny"], "unknown profile 'tiny'; one of embedded, real, paper"),
    ("phase", ["--phases", "both"], "unknown phase 'both'; one of direct, control, hwa"),
    ("no phase", ["--phases"], "--phases names no phase"),
    ("negative time", ["--times", "-5"], "time '-5' is not understood; allowed: seconds"),
    ("nan", ["--times", "nan"], "time 'nan' is not understood"),
    ("inf", ["--times", "1h", "inf"], "time 'inf' is not understood"),
    ("huge", ["--times", "1e999"], "time '1e999' is not understood"),
    ("fortnight", ["--times", "1 fortnight"], "time '1 fortnight' is not understood"),
    ("no time", ["--times"], "--times names no time"),
    ("no chips", ["--chips", "0"], "--chips 0; allowed: 1 or more"),
    ("half a chip", ["--chips", "1.5"], "--chips: invalid int value: '1.5'"),
    ("no samples", ["--subset", "-3"], "--subset -3; allowed: 1 or more"),
    ("device", ["--device", "tpu"], "unknown device 'tpu'; one of cpu, cuda"),
    ("option of argparse", ["--chip", "3"], "unrecognized arguments: --chip"),
    ("no value", ["--preset"], "argument --preset: expected one argument"),
    ("field", ["--set", "noise=3"], "--set 'noise=3'; allowed: FIELD=VALUE, fields: noise_type"),
    ("type of a field", ["--set", "noise_scale=big"], "noise_scale.*big"),
    ("list for a field", ["--set", "noise_scale=[1]"], "noise_scale"),
    ("part of a batch", ["--set", "batch_size=2.5"], "batch_size"),
    ("null for a field", ["--set", "epochs=null"], "epochs"),
    ("text for a switch", ["--set", "learn_out_scales=maybe"], "learn_out_scales"),
    ("range of a field", ["--set", "drop_connect=2"], "drop_connect"),
    ("no field", ["--set", "noise_scale"], "allowed: FIELD=VALUE"),
    ("option", ["-o", "colour=red"], "unknown option 'colour' for task 'wrn'"),
    ("type of an option", ["-o", "depth=deep"], "depth='deep' of task 'wrn'; allowed: a whole"),
    ("empty loader", ["--set", "batch_size=5000"], "smaller than one batch; lower the batch"),
    ("data folder", ["--data-dir", "/nowhere"], r"no data folder /nowhere \(from --data-dir\)"),
    ("short data file", short_file, "lossless-subset.npz is damaged or cut short"),
    ("short checkpoint", truncated, "model.safetensors is damaged or cut short"),
    ("NaN", with_nan, "fc.weight holds NaN or infinite values"),
    ("other model", of_another, "holds another model than WRN-10-2"),
    ("no checkpoint", missing, "no checkpoint at .*; train one: python -m benchmarks.digital wrn"),
    ("checkpoint of no task", ["--checkpoint", "gpt=x"], "'gpt' is not among wrn"),
    ("out is in a file", a_file_as_out, "--out .* cannot be (written|made)"),
]


@pytest.mark.parametrize(("extra", "complaint"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input_is_one_line_exit_code_2_and_nothing_left(
    model, tmp_path, monkeypatch, capsys, extra, complaint
) -> None:
    monkeypatch.chdir(tmp_path)
    words = extra if isinstance(extra, list) else extra(model, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    out = [] if "--out" in words else ["--out", str(tmp_path / "deep" / "out")]
    assert run.main(["wrn", "--engine", "native", *out, *words]) == 2
    error = one_error(capsys.readouterr().err)
    assert re.search(complaint, error), error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none(tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert run.main(["wrn", "--engine", "native", "--device", "cuda", "--out", str(out)]) == 2
    assert "torch sees no CUDA device here; use --device cpu" in one_error(capsys.readouterr().err)
    assert not out.exists()


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, capsys) -> None:
    def refuse(*_, **__) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write anywhere
    assert run.main(["wrn", *QUICK, "--out", str(tmp_path / "out")]) == 2
    error = one_error(capsys.readouterr().err)
    assert "cannot be written (Permission denied); name another folder" in error


def test_what_fails_before_anything_is_done_leaves_no_folder(tmp_path, monkeypatch) -> None:
    def fail(self) -> None:
        raise Interrupted

    monkeypatch.setattr(study.Study, "run", fail)
    with pytest.raises(Interrupted):
        run.main(["wrn", *QUICK, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_times_as_people_write_them_and_tasks_between_options() -> None:
    given = run.parser().parse_intermixed_args(
        ["--times", "1y", "1 day", "3600", "--chips", "3", "wrn", "--seed", "4", "lstm"]
    )
    settings, names = arguments.settings_of(
        run.parser().parse_intermixed_args(
            ["wrn", "--engine", "native", "--times", "1y", "1 day", "3600", "1h"]
        )
    )
    assert given.tasks == ["wrn", "lstm"]
    assert settings.times == (3600.0, 86400.0, 365 * 86400.0)
    assert names == ["wrn"]


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["wrn", "--preset", "rasch"], 2, "rasch2023"),
        (["--help"], 0, ""),
    ],
)
def test_the_real_command(tmp_path, words, code, complaint) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    if code:
        assert complaint in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stdout == ""
    else:
        assert "--times" in done.stdout
    assert list(tmp_path.iterdir()) == []


# --- plans ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", tasks.PROFILES)
@pytest.mark.parametrize("name", tasks.NAMES)
def test_every_profile_has_a_plan_whose_recipe_is_valid(profile, name) -> None:
    plan = PLANS[profile, name]
    recipe_name = {"wrn": "wrn16", "bert": "bert_glue", "lstm": "lstm"}[name]
    recipe = recipe_for(rasch2023, recipe_name, plan, {})
    assert {key: getattr(recipe.spec, key) for key in plan.overrides} == plan.overrides
    if profile == "paper":  # the paper's own, whole
        assert recipe.spec.values() == rasch2023.training[recipe_name].values()
        assert (plan.hwa_batches, plan.subset, plan.chips) == (None, None, 25)


def test_a_preset_without_recipes_borrows_the_papers_and_says_so() -> None:
    recipe = recipe_for(ideal, "wrn16", PLANS["embedded", "wrn"], {"noise_scale": 1.0})
    assert recipe.name == "rasch2023/wrn16"
    assert recipe.spec.noise_scale == 1.0


def test_changes_are_read_as_json_or_text() -> None:
    known = ("noise_scale", "noise_type", "lr_drop_epochs", "grad_clip")
    words = ["noise_scale=2.5", "noise_type=gaussian", "lr_drop_epochs=[1, 2]", "grad_clip=null"]
    assert parse_changes(words, known) == {
        "noise_scale": 2.5,
        "noise_type": "gaussian",
        "lr_drop_epochs": (1, 2),
        "grad_clip": None,
    }
