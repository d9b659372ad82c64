"""The trainings after the digital one, as the benchmark runs them: resuming and validation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aimc_bridge import calibrate, convert
from aimc_bridge.commands import Output
from aimc_bridge.converted import matrices_of, record_of
from benchmarks import tasks
from benchmarks.studies import trainings
from benchmarks.studies.base import Study
from benchmarks.studies.settings import Settings
from benchmarks.tasks import Task
from presets import rasch2023
from tests.benchmarks.test_digital import language

SETTINGS = Settings(
    hwa_batches=6, validate_every=2, changes=("batch_size=8",), seed=3, checkpoint_every=1
)


def study_of(task: Task, folder: Path, samples: int, settings: Settings = SETTINGS) -> Study:
    """Return a study that validates on so many samples, and prints nothing."""
    study = Study(task, settings, folder, Output(quiet=True))
    study.plan = dataclasses.replace(study.plan, validation_subset=samples)
    return study


class Interrupted(Exception):
    """The exception that stops a training in a test."""


def toy(name: str) -> Task:
    """Return a language whose training carries a state between batches, or small images."""
    return language() if name == "lstm" else tasks.get("wrn")


def go(
    name: str, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, stop: int | None = None
) -> tuple[dict[str, Tensor], Any]:
    """Run a hardware-aware training or its control; it fails in mini-batch `stop`."""
    task = toy(name)
    study = study_of(task, folder, 120)
    recipe = SETTINGS.recipe_of(task)
    digital = task.build(0).eval()
    calls = []
    loss = task.loss

    def counted(model: nn.Module, batch: Any) -> Tensor:
        calls.append(1)
        if len(calls) - 1 == stop:
            raise Interrupted
        return loss(model, batch)

    monkeypatch.setattr(task, "loss", counted)
    if kind == "finetune":
        model, history = trainings.finetune(study, digital, recipe, folder)
    else:
        model = convert(digital, rasch2023).eval()
        calibrate(model, task.calibration_batches(2), "percentile")
        how = trainings.train if kind == "hwa" else trainings.train_control
        history = how(study, digital, model, recipe, folder)
    return {k: v.clone() for k, v in model.state_dict().items()}, history


@pytest.mark.parametrize("kind", ["hwa", "control", "finetune"])
@pytest.mark.parametrize("name", ["lstm", "wrn"])
def test_a_training_cut_short_goes_on_as_if_it_had_not_been(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with the same weights, bit for bit.

    This includes what a recurrent model carries between batches.
    """
    weights, history = go(name, kind, tmp_path / "whole", monkeypatch)
    with pytest.raises(Interrupted):
        go(name, kind, tmp_path / "cut", monkeypatch, 4)
    resumed = go(name, kind, tmp_path / "cut", monkeypatch)
    for key, value in weights.items():
        assert torch.equal(resumed[0][key], value), key
    assert resumed[1].equals(history)
    assert history.validation_loss.notna().tolist() == [False, True] * 3
    start = toy(name).build(0).state_dict()
    assert any(not torch.equal(v, start[k]) for k, v in weights.items() if k in start)


def test_validation_is_on_a_chip_of_an_hour_that_is_none_of_those_measured(
    tmp_path: Path,
) -> None:
    """The metric is always that of one chip.

    The model comes back clean and in its mode.
    """
    task = tasks.get("wrn")
    analog = convert(task.build(0), rasch2023).eval()
    calibrate(analog, task.calibration_batches(1), "percentile")
    seen: list[tuple[int, float]] = []
    evaluate = task.evaluate

    def watched(model: nn.Module, subset: int | None = None, split: Any = "test") -> Any:
        chip = record_of(model).chip
        assert chip is not None and chip.t_inference is not None
        seen.append((chip.seed, chip.t_inference))
        assert split == "validation" and subset == 50
        return evaluate(model, subset, split)

    task.evaluate = watched  # type: ignore[method-assign]
    clean = {name: m.clean_weight() for name, m in matrices_of(analog).items()}
    for seed in (0, 0, 1):
        torch.manual_seed(9)
        scores = trainings.on_a_chip(study_of(task, tmp_path, 50), seed, analog)
        assert set(scores) == {"accuracy", "error", "loss"}
        assert record_of(analog).chip is None
    assert seen[0] == seen[1] != seen[2]
    assert all(t_s == 3600.0 and seed >= 2**31 for seed, t_s in seen)
    for name, matrix in matrices_of(analog).items():
        assert torch.equal(matrix.clean_weight(), clean[name])
