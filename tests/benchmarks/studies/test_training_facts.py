"""What a file of trained weights says about its training, and what --trained does not take."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from aimc_bridge.errors import CheckpointError, UsageError
from aimc_bridge.sealed_files import read_sealed, write_tensors
from benchmarks import digital, run, tasks
from benchmarks import presets as presets_command
from benchmarks.report import record, tables, trained
from benchmarks.studies import training_facts
from benchmarks.tasks import Task
from benchmarks.tasks.resnet32 import ResNet32Task
from benchmarks.tasks.wrn import DIGITAL, WideResNetTask
from tests.command_lines import settings_of

FIRST = ["mlp", "--engine", "native", "--subset", "40", "--chips", "2", "--times", "1s"]
CHECKPOINTS = Path(__file__).parents[3] / "benchmarks" / "checkpoints"
EVERY = ["--phases", "finetune", "control", "hwa"]

pytestmark = pytest.mark.usefixtures("no_data")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train two digital models, and from the first a hardware-aware one."""
    out = tmp_path_factory.mktemp("trained")
    for seed in ("0", "1"):
        words = ["mlp", "--seed", seed, "--epochs", "1", "--out", str(out / seed)]
        assert digital.main(words) == 0
    words = [*FIRST, "--checkpoint", str(out / "0"), "--phases", "hwa", "--hwa-batches", "3"]
    assert run.main([*words, "--out", str(out / "run")]) == 0
    return out


def words_of(out: Path, weights: Path, *more: str, model: str = "0") -> list[str]:
    return [*FIRST, "--checkpoint", str(out / model), "--trained", str(weights), *more]


def test_a_file_of_weights_says_how_they_were_trained(out: Path, tmp_path: Path) -> None:
    """The half-precision copy says the same, and is of the same digital model."""
    weights = out / "run" / "work" / "mlp" / "hwa.safetensors"
    task = tasks.get("mlp")
    facts = training_facts.read(weights, task)
    assert (facts["phase"], facts["preset"]) == ("hwa", "rasch2023")
    assert facts[training_facts.BATCHES] == 3 and facts["recipe"]["noise_type"] == "pcm"
    trained.keep(out / "run", "mlp", folder=tmp_path)
    copy = tmp_path / "mlp" / "hwa.safetensors"
    assert training_facts.read(copy, task) == facts
    words = [*EVERY, "--hwa-batches", "3", "--out", str(tmp_path / "kept")]
    words = words_of(tmp_path, copy, *words, model="mlp")
    assert run.main(words) == 0
    study = json.loads((tmp_path / "kept" / "run.json").read_text())["studies"]["mlp"]
    assert study["control"] != tables.UNCHECKED and "unchecked" not in study
    assert tables.PHASE_NAMES["control"] in (tmp_path / "kept" / "summary.md").read_text()


@pytest.mark.parametrize(
    ("more", "model", "text"),
    [
        ([*EVERY, "--hwa-batches", "2"], "0", "mini-batches 3, here 2): repeat"),
        (
            [*EVERY, "--hwa-batches", "3", "--set", "clip_value=2"],
            "0",
            "value 2.5, here 2): repeat",
        ),
        ([*EVERY, "--hwa-batches", "3", "--accumulate", "3"], "0", "accumulate 1, here 3)"),
        ([*EVERY, "--hwa-batches", "3", "--preset", "hermes"], "0", "preset rasch2023, here"),
        ([*EVERY, "--hwa-batches", "3", "--precision", "bf16"], "0", "precision fp32, here bf16)"),
        ([*EVERY, "--hwa-batches", "3", "--seed", "5"], "0", "the noise 0, here 5): repeat"),
        ([*EVERY, "--hwa-batches", "3", "--calibration", "max"], "0", "another calibration)"),
        ([*EVERY, "--hwa-batches", "3", "--recalibrate"], "0", "another calibration)"),
        (["--phases", "direct", "hwa"], "1", "from another digital model than that of"),
    ],
)
def test_a_trained_model_that_does_not_fit_is_refused(
    out: Path,
    more: list[str],
    model: str,
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = out / "run" / "work" / "mlp" / "hwa.safetensors"
    words = words_of(out, weights, *more, "--out", str(tmp_path / "out"), model=model)
    assert run.main(words) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_preset_is_more_than_its_name(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = tmp_path / "mine.toml"
    assert presets_command.main(["export", "rasch2023", str(preset)]) == 0
    preset.write_text(preset.read_text().replace('"rasch2023"', '"mine"', 1))
    base = [*FIRST, "--checkpoint", str(out / "0"), "--hwa-batches", "3", "--preset", str(preset)]
    assert run.main([*base, "--phases", "hwa", "--out", str(tmp_path / "first")]) == 0
    text = preset.read_text()
    assert "\nout_noise = 0.04" in text
    preset.write_text(text.replace("\nout_noise = 0.04", "\nout_noise = 0.3"))
    weights = tmp_path / "first" / "work" / "mlp" / "hwa.safetensors"
    capsys.readouterr()
    words = [*base, "--trained", str(weights), "--phases", "control", "hwa"]
    assert run.main([*words, "--out", str(tmp_path / "second")]) == 2
    assert "another set of preset values)" in capsys.readouterr().err


def test_a_trained_model_alone_needs_no_recipe(out: Path, tmp_path: Path) -> None:
    """Without a training that is compared with its own, its length does not matter."""
    weights = out / "run" / "work" / "mlp" / "hwa.safetensors"
    words = ["--phases", "direct", "hwa", "--hwa-batches", "2", "--out", str(tmp_path / "out")]
    assert run.main(words_of(out, weights, *words)) == 0


def test_the_model_of_another_phase_is_refused(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sealed = read_sealed(out / "run" / "work" / "mlp" / "hwa.safetensors")
    facts = json.loads(sealed.metadata[training_facts.KEY])
    control = tmp_path / "control.safetensors"
    write_tensors(control, sealed.tensors, training_facts.header({**facts, "phase": "control"}))
    assert run.main(words_of(out, control, "--phases", "hwa", "--out", str(tmp_path / "o"))) == 2
    assert "is the model of the phase control; name the hwa" in capsys.readouterr().err


def test_a_file_that_says_nothing_is_taken_with_a_warning(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its control is not called the same training, in no table."""
    sealed = read_sealed(out / "run" / "work" / "mlp" / "hwa.safetensors")
    alone = tmp_path / "deep" / "in" / "folders" / "hwa.safetensors"
    alone.parent.mkdir(parents=True)
    write_tensors(alone, sealed.tensors)
    place = tmp_path / "out"
    assert run.main(words_of(out, alone, *EVERY, "--hwa-batches", "2", "--out", str(place))) == 0
    told = capsys.readouterr()
    note = " ".join(told.err.split())
    assert "says nothing about its digital model, recipe, number of mini-batches: whether" in note
    tables_of = (place / "summary.md").read_text()
    rows = [line for line in tables_of.splitlines() if line.startswith("| control")]
    assert rows and all(line.startswith("| control, a training without noise |") for line in rows)
    assert tables.PHASE_NAMES["control"] not in (place / "report.html").read_text()
    assert "what the noise is worth" not in tables_of


def test_the_record_of_an_older_run_says_it_too(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its file has no header: the run's record has the recipe, its folder the digital model."""
    old = tmp_path / "run"
    shutil.copytree(out / "run", old)
    shutil.copytree(out / "0", old / "work" / "mlp" / "digital")
    weights = old / "work" / "mlp" / "hwa.safetensors"
    write_tensors(weights, read_sealed(weights).tensors)
    for more, model, text in (
        ([*EVERY, "--hwa-batches", "2"], "0", "mini-batches 3, here 2"),
        (["--phases", "hwa"], "1", "from another digital model"),
    ):
        words = words_of(out, weights, *more, "--out", str(tmp_path / "o"), model=model)
        assert run.main(words) == 2
        assert text in capsys.readouterr().err


def without_data(name: str) -> Task:
    """Return a task on a few black images, with the classes of its data."""
    classes = 100 if name == "wrn" else 10
    pixels, labels = torch.zeros(300, 3, 32, 32, dtype=torch.uint8), torch.arange(300) % classes
    images = {"train_images": pixels, "train_labels": labels}
    images |= {"test_images": pixels, "test_labels": labels}
    if name == "resnet32":
        return ResNet32Task(images, "real", 0)
    return WideResNetTask(images, 16, 4, dataset="D", digital=DIGITAL["real"], n_validation=10)


@pytest.mark.parametrize("name", ["wrn", "resnet32"])
def test_the_models_that_come_with_the_project_fit_their_records(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recipe, length and digital model are known; other ones are refused."""
    command = next(r for r in record.of_kind("run") if r.name == f"rows-{name}").command
    settings = settings_of(command)
    task = without_data(name)
    monkeypatch.setattr(task, "train_loader", lambda *_: range(400))
    model = task.load(CHECKPOINTS / name)
    path = CHECKPOINTS / name / "hwa.safetensors"
    recipe = settings.recipe_of(task)

    def check(recipe: Any, model: nn.Module) -> list[str]:
        return training_facts.check(path, task, settings, recipe, model)

    assert check(recipe, model) == []
    with pytest.raises(UsageError, match="noise_scale 3.0, here 2.0"):
        check(recipe.override(why="test", noise_scale=2.0), model)
    with pytest.raises(UsageError, match="another digital model"):
        check(recipe, task.build(1))


@pytest.mark.parametrize(
    ("changed", "told"),
    [({}, True), ({"seed": 1}, False), ({"batch_size": 8}, False), ({"mini-batches": 9}, True)],
)
def test_other_training_data_are_told_of_the_same_order_alone(
    changed: dict[str, int], told: bool
) -> None:
    """With another seed or batch size the first mini-batches are others, of whatever data."""
    now = {"batch_size": 4, "seed": 0, "mini-batches": 7, "whole": "a"}
    assert training_facts._same_data({**now, "whole": "b", **changed}, now) is not told
    assert training_facts._same_data(now, now)


def test_a_damaged_file_of_weights_says_what_to_do(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "hwa.safetensors"
    content = (out / "run" / "work" / "mlp" / "hwa.safetensors").read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged .*; copy it again, or name another file"):
        training_facts.read(weights, tasks.get("mlp"))
    beside = tmp_path / "old" / "hwa.safetensors"
    beside.parent.mkdir()
    write_tensors(beside, {"a": torch.ones(1)})
    beside.with_name("hwa.json").write_text("{")
    with pytest.raises(CheckpointError, match="hwa.json is damaged .*; copy it again, or name"):
        training_facts.read(beside, tasks.get("mlp"))
    assert run.main(words_of(out, weights, "--phases", "hwa", "--out", str(tmp_path / "o"))) == 2
    assert "damaged" in (error := capsys.readouterr().err) and "; put the former file" in error
