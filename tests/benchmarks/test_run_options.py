"""The benchmark command's phases and options: control, seeds, recipes, replicas, the paper's."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from aimc_bridge import calibrate, convert
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.base import Matrix
from aimc_bridge.engines.native import compiled_passes
from aimc_bridge.errors import DataError, UsageError
from aimc_bridge.spec import Preset
from aimc_bridge.training import HWATraining
from benchmarks import record as record_command
from benchmarks import run, tasks
from benchmarks.report import answers, tables
from benchmarks.report import record as records
from benchmarks.report import run as report
from benchmarks.report import trained as keep
from benchmarks.studies import base, chip_metrics, replicas, trainings
from benchmarks.studies.finished_parts import load_weights
from benchmarks.studies.phases import PHASES, Phases
from benchmarks.studies.settings import Settings
from presets import rasch2023
from tests.engines.native.test_fused import needs_compiler

ROOT = Path(__file__).parents[2]
QUICK = ["--engine", "native", "--chips", "2", "--subset", "40", "--hwa-batches", "3"]


pytestmark = pytest.mark.usefixtures("no_data")
TRAINED = ("finetune", "control", "hwa")


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> Path:
    """Run digital training, control and hardware-aware training by two processes on this CPU."""
    out = tmp_path_factory.mktemp("launched") / "out"
    words = [
        *("wrn", *QUICK, "--digital-epochs", "2", "--phases", *PHASES),
        *("--times", "1h", "--validate-every", "2", "--out", str(out)),
    ]
    launcher = [
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", str(free_port()), "-m", "benchmarks.run"),
    ]
    process = subprocess.run(
        [sys.executable, *launcher, *words],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("Report: ") == 1  # The first process alone prints.
    return out


@pytest.fixture
def model(launched) -> Path:
    return launched / "work" / "wrn" / "digital"


def rows_of(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "results.csv")


# --- several processes ---


def test_two_processes_train_and_one_reports(launched) -> None:
    """Every phase is there once, with weights that both processes trained."""
    rows = rows_of(launched)
    counts = rows[rows.metric == "accuracy"].groupby("phase").size().to_dict()
    assert counts == {"digital": 1, "direct": 2, "finetune": 2, "control": 2, "hwa": 2}
    work = launched / "work" / "wrn"
    for phase in TRAINED:
        history = pd.read_csv(work / f"{phase}.csv")
        assert history.step.tolist() == [0, 1, 2]
        assert history.validation_accuracy.notna().tolist() == [False, True, True]
        with (work / f"{phase}-training" / "metrics.csv").open() as file:
            assert len(list(csv.DictReader(file))) == 3
        left = {path.name for path in (work / f"{phase}-training").iterdir()}
        assert left - {"tensorboard"} == {"metrics.csv"}
    for phase in ("finetune", "control"):
        assert set(pd.read_csv(work / f"{phase}.csv").noise_scale) == {0.0}
    assert min(pd.read_csv(work / "hwa.csv").noise_scale) > 0.0


def test_a_replica_reads_no_history(launched, model, tmp_path) -> None:
    """The history is the first process's.

    That process may be writing it when another one comes by.
    """
    out = tmp_path / "out"
    work = out / "work" / "wrn"
    shutil.copytree(launched / "work" / "wrn", work)
    for phase in TRAINED:
        (work / f"{phase}.csv").write_text("")
    settings = Settings(tasks=("wrn",), phases=TRAINED, hwa_batches=3, checkpoint=(str(model),))
    study = base.Study(
        tasks.get("wrn"), settings, work, base.Output(quiet=True), replica=replicas.Replica(index=1)
    )
    Phases(study, settings.measured).assist()
    assert "validation" not in study.facts


# --- phases ---


def test_finetuning_gives_a_digital_model_converted_and_calibrated(
    model, tmp_path, monkeypatch
) -> None:
    """Its chips are those of direct conversion.

    The weights are others.
    """
    seen = {}
    whole = Phases._sweeps

    def watched(self, phase, digital, native):
        seen[phase] = (digital, {k: m.clean_weight() for k, m in matrices_of(native).items()})
        assert all(m.input_ranges() is not None for m in matrices_of(native).values())
        return whole(self, phase, digital, native)

    monkeypatch.setattr(Phases, "_sweeps", watched)
    out = tmp_path / "out"
    words = ["wrn", *QUICK, "--checkpoint", str(model), "--phases", "direct", "finetune"]
    assert run.main([*words, "--times", "1s", "--out", str(out)]) == 0
    task = tasks.get("wrn")
    digital, tuned = task.load(model), seen["finetune"][0]
    assert type(tuned) is type(digital)
    for name, weight in seen["finetune"][1].items():
        assert torch.equal(weight, tuned.get_submodule(name).weight.flatten(1))
        assert not torch.equal(weight, seen["direct"][1][name])
    rows = rows_of(out)
    assert set(rows.phase) == {"digital", "direct", "finetune"}
    assert "fine-tuned without a chip" in (out / "summary.md").read_text()


def test_the_control_is_the_same_training_without_any_noise(model, tmp_path) -> None:
    """It equals hardware-aware training under a preset and a recipe without noise.

    It is measured under the preset itself, and the global random state does not matter to it.
    """
    task = tasks.get("wrn")
    settings = Settings(tasks=("wrn",), hwa_batches=3, checkpoint=(str(model),))
    recipe = settings.recipe_of(task)
    assert recipe.spec.noise_scale > 0 and recipe.spec.drop_connect > 0

    def trained(name: str, preset: Preset, how: str, recipe: HWATraining) -> nn.Module:
        study = base.Study(task, settings, tmp_path / name, base.Output(quiet=True))
        digital = study.digital_model()
        analog = study.convert(digital, preset=preset)
        study.calibrate(analog)
        torch.manual_seed(len(name))
        if how == "control":
            trainings.train_control(study, digital, analog, recipe, tmp_path / name)
        else:
            trainings.train(study, digital, analog, recipe, tmp_path / name)
        return analog

    control = trained("control", rasch2023, "control", recipe)
    quiet = rasch2023.change(why="test", out_noise=0.0, w_noise=0.0)
    off = recipe.override(why="test", noise_type="none", noise_scale=0.0, drop_connect=0.0)
    same = trained("same", quiet, "hwa", off)
    noisy = trained("noisy", rasch2023, "hwa", recipe)
    for name, matrix in matrices_of(control).items():
        assert matrix.preset.crossbar.out_noise == rasch2023.crossbar.out_noise > 0
        expected, other = matrices_of(same)[name], matrices_of(noisy)[name]
        assert torch.allclose(learned(matrix), learned(expected), rtol=1e-6, atol=1e-7), name
        assert not torch.allclose(learned(matrix), learned(other), rtol=1e-4), name
        assert torch.equal(matrix.input_ranges(), expected.input_ranges()), name


def learned(matrix: Matrix) -> Tensor:
    """Return a matrix's weights with its learned column scales."""
    return matrix.clean_weight() * matrix.grid.expand_columns(matrix.learned_scale())


def test_a_run_keeps_which_samples_each_chip_got_right(launched) -> None:
    """The files agree with the errors of results.csv; the record has intervals from them."""
    rows, work = rows_of(launched), launched / "work" / "wrn"
    errors = rows[rows.metric == "error"]
    (digital,) = answers.read(work / "digital-40-answers.safetensors").values()
    # The digital model has one, and each of four phases.
    assert len(list(work.glob("*-answers.safetensors"))) == 5
    error = errors[errors.phase == "digital"].value.item()
    assert 1 - digital.mean() == pytest.approx(error, abs=1e-12)
    found = answers.read(work / "hwa-native-40-answers.safetensors")
    for row in errors[(errors.phase == "hwa")].itertuples():
        assert 1 - found[row.seed, row.t_inference].mean() == pytest.approx(row.value, abs=1e-12)
    study = json.loads((launched / "run.json").read_text())["studies"]["wrn"]
    stars = tables.a_star(errors, study["chance_error"]).set_index("phase")
    own = {row["phase"]: row for row in study["intervals"] if not row["minus"]}
    assert set(own) == {"direct", *TRAINED}
    for phase, row in own.items():
        assert row["mean"] == pytest.approx(stars["mean"][phase], abs=1e-9)
        assert row["over"] == "chips, samples" and row["low"] < row["mean"] < row["high"]
    minus = {row["minus"]: row for row in study["intervals"] if row["minus"]}
    assert set(minus) == {"direct", "finetune", "control"}
    assert minus["control"]["mean"] == pytest.approx(own["hwa"]["mean"] - own["control"]["mean"])
    text = (launched / "summary.md").read_text()
    assert "| chips, samples |" in text and "Differences of A* between phases" in text


def test_ranges_are_calibrated_whatever_the_phases(model, tmp_path) -> None:
    """The direct phase does not change how training starts."""
    values = []
    for phases in (["hwa"], ["direct", "hwa"]):
        out = tmp_path / "-".join(phases)
        words = ["wrn", *QUICK, "--checkpoint", str(model), "--phases", *phases]
        assert run.main([*words, "--times", "1s", "--out", str(out)]) == 0
        rows = rows_of(out)
        values.append(rows[rows.phase == "hwa"].value.tolist())
    assert values[0] == values[1]


def test_ranges_are_set_anew_after_training_where_asked(model, tmp_path) -> None:
    """Ranges of the trained weights are set by the same method.

    The weights are those of a run without the option.
    """
    models = []
    for more in ([], ["--recalibrate"]):
        out = tmp_path / f"out{len(more)}"
        words = ["wrn", *QUICK, "--checkpoint", str(model), "--phases", "hwa", *more]
        words += ["--set", "remap_every=1", "--set", "clip_type=column_gaussian"]
        assert run.main([*words, "--times", "1s", "--out", str(out)]) == 0
        models.append(load_file(out / "work" / "wrn" / "hwa.safetensors"))
    plain, anew = models
    moved = {name for name in plain if not torch.equal(plain[name], anew[name])}
    assert moved == {name for name in plain if name.endswith("input_range")}
    task, plan = tasks.get("wrn"), tasks.find("wrn").plans["embedded"]
    analog = convert(task.skeleton().eval(), rasch2023)
    load_weights(analog, tmp_path / "out1" / "work" / "wrn" / "hwa.safetensors")
    calibrate(analog, task.calibration_batches(plan.calibration), plan.method)
    for name, value in analog.state_dict().items():
        assert torch.equal(value, anew[name]), name


# --- training seeds ---


@pytest.fixture(scope="module")
def training_words(launched) -> list[str]:
    return [
        *("wrn", *QUICK, "--checkpoint", str(launched / "work" / "wrn" / "digital")),
        *("--phases", "direct", "hwa", "--times", "1s", "1y", "--seed", "4"),
    ]


@pytest.fixture(scope="module")
def three(tmp_path_factory, training_words) -> Path:
    out = tmp_path_factory.mktemp("seeds") / "out"
    assert run.main([*training_words, "--seeds", "3", "--out", str(out)]) == 0
    return out


def test_training_seeds_are_a_last_column_where_there_are_several(
    three, tmp_path, monkeypatch
) -> None:
    rows = rows_of(three)
    assert list(rows.columns) == [*tables.COLUMNS, "training_seed"]
    chips = rows[(rows.phase == "hwa") & (rows.metric == "error")]
    assert chips.groupby("training_seed").size().to_dict() == {4: 4, 5: 4, 6: 4}
    seeds = chips[chips.t_inference == 1.0].groupby("training_seed").seed.apply(list).to_dict()
    assert seeds == {4: [4, 5], 5: [10_004, 10_005], 6: [20_004, 20_005]}  # No chip comes twice.
    # The digital model comes from a checkpoint: converted directly it is one model, whatever is
    # trained from it.
    assert set(rows[rows.phase == "direct"].training_seed) == {4}
    text = (three / "summary.md").read_text()
    assert "2 x 3 trainings" in text and "over chips of all 3 trainings" in text
    facts = json.loads((three / "run.json").read_text())["studies"]["wrn"]
    assert facts["training_seeds"] == [4, 5, 6] and set(facts["others"]) == {"5", "6"}
    weights = [
        load_file(three / "work" / folder / "hwa.safetensors")["fc.weight"]
        for folder in ("wrn", "wrn-seed-5", "wrn-seed-6")
    ]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    record = report.record_of(three, "three")
    direct, line = report.lines_of(record)
    assert (direct["chips"], line["chips"]) == ("2", "2 x 3 trainings")
    monkeypatch.setattr(records, "FOLDER", tmp_path)
    records.add(record)
    assert "40 samples, 2 chips x 3 trainings" in report.compare()
    before = {path: path.read_bytes() for path in three.rglob("*") if path.is_file()}
    report.rebuild(three)  # What the run wrote is what its rows say.
    assert {path: path.read_bytes() for path in three.rglob("*") if path.is_file()} == before


def test_a_finished_run_takes_more_trainings(three, training_words, tmp_path) -> None:
    """The first is not trained again.

    All is as in a run that had three from the start.
    """
    words = [*training_words, "--out", str(tmp_path / "out")]
    assert run.main(words) == 0
    assert "training_seed" not in rows_of(tmp_path / "out")
    weights = tmp_path / "out" / "work" / "wrn" / "hwa.safetensors"
    before = weights.stat().st_mtime_ns
    assert run.main([*words, "--seeds", "3", "--resume"]) == 0
    assert weights.stat().st_mtime_ns == before
    pd.testing.assert_frame_equal(rows_of(tmp_path / "out"), rows_of(three))


def test_a_star_is_against_the_digital_model_of_the_same_training() -> None:
    """A* of two trainings is computed by hand.

    Their digital models differ.
    """
    rows = []
    for seed, digital, errors in ((0, 0.1, (0.2, 0.3)), (1, 0.2, (0.2, 0.4))):
        base = {"model": "M", "dataset": "D", "metric": "error", "training_seed": seed}
        rows.append({**base, "phase": "digital", "engine": "digital", "value": digital})
        for chip, error in enumerate(errors):
            place = {"phase": "hwa", "engine": "native", "t_inference": 1.0, "chip": chip}
            rows.append({**base, **place, "value": error})
    (row,) = tables.a_star(pd.DataFrame(rows), 0.9).to_dict("records")
    stars = [1 - 0.1 / 0.8, 1 - 0.2 / 0.8, 1.0, 1 - 0.2 / 0.7]
    assert row["mean"] == pytest.approx(statistics.fmean(stars))
    assert row["sd"] == pytest.approx(statistics.stdev(stars))


def test_one_seed_has_the_promised_columns_alone(launched) -> None:
    assert list(rows_of(launched).columns) == tables.COLUMNS


# --- options ---


def test_batch_norm_statistics_of_every_chip(model, tmp_path, monkeypatch) -> None:
    """They are set on training data before each evaluation.

    The trained ones are put back after it.
    """
    seen = []
    evaluate = chip_metrics.evaluate

    def watched(task, subset, split, of):
        seen.append(of.norm.running_var.clone())
        return evaluate(task, subset, split, of)

    monkeypatch.setattr(chip_metrics, "evaluate", watched)
    out = tmp_path / "out"
    words = ["wrn", *QUICK, "--checkpoint", str(model), "--times", "1s", "1y"]
    assert run.main([*words, "--reestimate-bn", "2", "--out", str(out)]) == 0
    trained = tasks.get("wrn").load(model).norm.running_var
    assert len(seen) == 1 + 4  # The digital model's statistics stay as they are.
    assert torch.equal(seen[0], trained)
    for index, variance in enumerate(seen[1:]):
        assert not torch.equal(variance, trained)
        assert not any(torch.equal(variance, other) for other in seen[1 : 1 + index])
    facts = json.loads((out / "run.json").read_text())["studies"]["wrn"]
    assert facts["reestimated_batchnorm"] == "2 batches of 64 of the training data"


def test_statistics_come_back_after_an_evaluation() -> None:
    task = tasks.get("wrn")
    network = task.build(0).eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    batches = task.calibration_batches(1)
    chip_metrics.evaluate_reestimated(task, 40, "test", batches, network)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert chip_metrics.has_batchnorm(network) and not chip_metrics.has_batchnorm(nn.Linear(1, 1))


@needs_compiler
def test_compiled_passes_train_and_measure(model, tmp_path, monkeypatch) -> None:
    """With the option, both the training and the sweeps run them.

    Without it neither does.
    """
    calls = []
    real = compiled_passes.finish

    def counted(*args, **more):
        calls.append(1)
        return real(*args, **more)

    monkeypatch.setattr(compiled_passes, "finish", counted)
    training = []
    step = trainings.train

    def watched(*args):
        before = len(calls)
        result = step(*args)
        training.append(len(calls) - before)
        return result

    monkeypatch.setattr(trainings, "train", watched)
    words = [
        "wrn",
        *QUICK,
        "--times",
        "1s",
        "--checkpoint",
        str(model),
        "--phases",
        "direct",
        "hwa",
    ]
    assert run.main([*words, "--out", str(tmp_path / "eager")]) == 0
    assert len(calls) == 0
    assert run.main([*words, "--compiled", "--out", str(tmp_path / "compiled")]) == 0
    assert training[0] == 0 < training[1] < len(calls)


def test_a_trained_model_is_measured_again_without_training(
    launched, model, tmp_path, capsys
) -> None:
    """The same weights and chips give the same rows.

    They are compared with the run that trained the model.
    """
    words = ["wrn", *QUICK, "--times", "1h", "--checkpoint", str(model)]
    trained = ["--trained", str(launched / "work" / "wrn" / "hwa.safetensors")]
    out = tmp_path / "again"
    assert run.main([*words, *trained, "--out", str(out)]) == 0
    about, once = (
        json.loads((folder / "run.json").read_text())["studies"]["wrn"]
        for folder in (out, launched)
    )
    assert "validation" not in about and set(once["validation"]) == set(TRAINED)
    # It validates at 2 of 3 steps (--validate-every), and at the end.
    assert once["validation"]["hwa"]["step"] == [1, 2]
    before, again = (rows[rows.phase == "hwa"] for rows in (rows_of(launched), rows_of(out)))
    assert again.value.tolist() == before.value.tolist()
    assert not (out / "work" / "wrn" / "hwa-training").exists()
    for more, message in (
        (["--phases", "direct"], "phase hwa"),
        (["--seeds", "2"], "one training"),
        (["--trained", str(tmp_path / "none.safetensors")], "no weights at"),
        (["--trained", str(tmp_path)], "is a folder; name the hwa.safetensors of a run"),
    ):
        assert run.main([*words, *trained, *more]) == 2
        assert message in capsys.readouterr().err


def test_a_trained_model_wants_the_digital_model_that_it_is_compared_with(
    launched, tmp_path, capsys
) -> None:
    trained = str(launched / "work" / "wrn" / "hwa.safetensors")
    words = ["wrn", *QUICK, "--phases", "hwa", "--trained", trained, "--out", str(tmp_path / "a")]
    assert run.main(words) == 2
    assert "--trained of wrn without --checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_weights_kept_with_the_project(launched, tmp_path, monkeypatch) -> None:
    """Matrices are stored in half precision.

    A run takes both models from the folder.
    """
    with pytest.raises(DataError, match="no finished hardware-aware training of lstm"):
        keep.keep(launched, "lstm", folder=tmp_path)
    monkeypatch.setattr(keep, "FOLDER", tmp_path)
    assert record_command.main(["keep", str(launched), "wrn", "--dry-run", "--quiet"]) == 0
    assert not (tmp_path / "wrn").exists()
    files = keep.keep(launched, "wrn")
    with pytest.raises(UsageError, match="models of wrn are kept already; --replace takes"):
        keep.keep(launched, "wrn")
    assert [file.name for file in files] == [
        *("model.safetensors", "info.json", "hwa.safetensors", "hwa.json")
    ]
    half = load_file(tmp_path / "wrn" / "hwa.safetensors")
    whole = load_file(launched / "work" / "wrn" / "hwa.safetensors")
    assert half.keys() == whole.keys()
    for name, value in whole.items():
        large = value.is_floating_point() and value.numel() >= 4096
        assert half[name].dtype == (torch.float16 if large else value.dtype)
        assert torch.allclose(half[name].to(value), value, rtol=2**-11, atol=1e-7)
    assert any(value.dtype == torch.float16 for value in half.values())
    about = json.loads((tmp_path / "wrn" / "hwa.json").read_text())
    assert about["preset"] == "rasch2023" and about["recipe"]["noise_type"] == "pcm"
    words = ["wrn", *QUICK, "--times", "1h", "--checkpoint", str(tmp_path / "wrn")]
    words += ["--trained", str(tmp_path / "wrn" / "hwa.safetensors"), "--phases", "hwa"]
    assert run.main([*words, "--out", str(tmp_path / "out")]) == 0
    monkeypatch.setattr(keep, "LARGEST", 1000)
    with pytest.raises(DataError, match="allowed: 0 MB"):
        keep.keep(launched, "wrn", replace=True)


def test_a_recipe_by_name_and_every_field_of_it(model, tmp_path) -> None:
    out = tmp_path / "out"
    words = [
        *("wrn", *QUICK, "--checkpoint", str(model), "--phases", "hwa", "--times", "1s"),
        *("--recipe", "resnet32", "--set", "noise_scale=4", "--set", "optimizer=adamw"),
        *("--set", "lr_schedule=linear", "--set", "learning_rate=0.001", "--keep", "best"),
        *("--validate-every", "1", "--accumulate", "2", "--precision", "bf16"),
    ]
    assert run.main([*words, "--out", str(out)]) == 0
    facts = json.loads((out / "run.json").read_text())["studies"]["wrn"]
    recipe = facts["recipe"]
    assert recipe["name"] == "rasch2023/resnet32"
    assert (recipe["noise_scale"], recipe["optimizer"]) == (4.0, "adamw")
    assert recipe["drop_connect"] == 0.0  # The value is resnet32's, not wrn16's.
    assert facts["plan"]["keep"] == "best"
    history = pd.read_csv(out / "work" / "wrn" / "hwa.csv")
    assert history.learning_rate.tolist() == pytest.approx([0.001, 0.001 * 2 / 3, 0.001 / 3])
    assert history.validation_loss.notna().all()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--recipe", "wrn17"], "'rasch2023' has no recipe 'wrn17'; there are: wrn16"),
        (["--keep", "first"], '"first" for --keep. Choose from: "last", "best"'),
        (["--precision", "fp16"], '"fp16" for --precision. Choose from: "fp32", "bf16"'),
        (["--reestimate-bn", "-1"], "--reestimate-bn -1; allowed: 0 (never) or more"),
        (["--seeds", "0"], "--seeds 0; allowed: 1 or more"),
        (["--accumulate", "0"], "--accumulate 0; allowed: 1 or more"),
        (["--digital-epochs", "nan"], "--digital-epochs nan; allowed: more than 0"),
        (
            ["--phases", "noise"],
            '"noise" for --phases. Choose from: "direct", "finetune", "control"',
        ),
        (["--set", "lr_schedule=step"], "lr_schedule"),
    ],
)
def test_bad_options(words, complaint, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert run.main(["wrn", "--engine", "native", *words, "--out", str(out)]) == 2
    assert complaint in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
