"""The trainings of a study: hardware-aware, its control without noise, and without a chip."""

from __future__ import annotations

import copy
import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from aimc_bridge import rng, training
from aimc_bridge.chip import drift, program, restore
from aimc_bridge.conversion import copy_trained
from aimc_bridge.training import HWATraining
from benchmarks.studies.base import Study
from benchmarks.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

HOUR_S = 3600.0


def train(
    study: Study,
    model: nn.Module,
    analog: nn.Module,
    recipe: HWATraining,
    folder: Path,
    seed: int | None = None,
) -> pd.DataFrame:
    """Train a converted model hardware-aware, in place.

    Args:
        study: The study.
        model: The digital model; it is the teacher if the recipe distils.
        analog: The model that was converted from it, with input ranges.
        recipe: The recipe.
        folder: Where checkpoints are; a training that was cut short continues from them.
        seed: Seed of data order and noise; None means the study's seed.

    Returns:
        The history of the training, one row per step.

    Raises:
        TrainingError: If the training diverges.
    """
    seed = study.seed if seed is None else seed
    history: pd.DataFrame = training.train(
        analog,
        study.task.train_loader(recipe.spec.batch_size, seed),
        study.task.loss,
        recipe=recipe,
        teacher=model if recipe.spec.distill_weight > 0 else None,
        validate=functools.partial(on_a_chip, study, seed),
        **_shared(study, analog, folder, seed),
    )
    if study.plan.recalibrate:
        study.calibrate(analog)
    return history


def train_control(
    study: Study, model: nn.Module, analog: nn.Module, recipe: HWATraining, folder: Path
) -> pd.DataFrame:
    """Train a converted model as `train` does, but with noise and drop-connect off, in place.

    Noise on the weights, faults, and the noise of products (out_noise, w_noise) are off.
    Converters, clipping, re-scaling of columns, learned ranges and scales, the data and the
    number of steps are those of `train`.

    Args:
        study: The study.
        model: The digital model; it is the teacher if the recipe distils.
        analog: The model that was converted from it, with input ranges.
        recipe: The recipe of `train`.
        folder: Where checkpoints are; a training that was cut short continues from them.

    Returns:
        The history of the training, one row per step.

    Raises:
        TrainingError: If the training diverges.
    """
    why = "control: noise off"
    quiet = study.convert(
        model, preset=study.settings.preset.change(why=why, out_noise=0.0, w_noise=0.0)
    )
    copy_trained(analog, quiet)
    off = {"noise_type": "none", "noise_scale": 0.0, "drop_connect": 0.0, "faults": "none"}
    history = train(study, model, quiet, recipe.override(why=why, **off), folder)
    copy_trained(quiet, analog)
    if study.plan.recalibrate:  # with the noise of the chips that are measured
        study.calibrate(analog)
    return history


def finetune(
    study: Study, model: nn.Module, recipe: HWATraining, folder: Path
) -> tuple[nn.Module, pd.DataFrame]:
    """Train a copy of a digital model without a chip.

    The recipe, the data and the number of steps are those of `train`.

    Args:
        study: The study.
        model: The digital model; it stays as it is.
        recipe: The recipe.
        folder: Where checkpoints are; a training that was cut short continues from them.

    Returns:
        The trained copy in eval mode, and the history of the training, one row per step.

    Raises:
        TrainingError: If the training diverges.
    """
    tuned = copy.deepcopy(model)
    history = training.train_digital(
        tuned,
        study.task.train_loader(recipe.spec.batch_size, study.seed),
        study.task.loss,
        recipe=recipe,
        teacher=model if recipe.spec.distill_weight > 0 else None,
        validate=functools.partial(_on_validation_data, study),
        **_shared(study, tuned, folder, study.seed),
    )
    return tuned.eval(), history


def _shared(study: Study, model: nn.Module, folder: Path, seed: int) -> dict[str, Any]:
    """Return the arguments that the library's two trainings share."""
    return {
        **study.settings.training_options(),
        "seed": seed,
        "max_batches": study.plan.hwa_batches,
        "validate_every": study.plan.validate_every,
        "keep": study.plan.keep,
        "chance_loss": math.log(study.task.n_classes),
        "folder": folder,
        "resume": True,
        "carried": Carried(study.task, model),
        "split": study.task.part,
        "progress": study.output.bars,
    }


def _on_validation_data(study: Study, model: nn.Module) -> dict[str, float]:
    return study.task.evaluate(model, study.plan.validation_subset, split="validation")


def on_a_chip(study: Study, seed: int, model: nn.Module) -> dict[str, float]:
    """Validate on one chip that is an hour old.

    The results are measured on chips, so weights are chosen on a chip too. It is always the
    same chip, so that two validations differ by the weights alone.
    """
    program(model, validation_seed(seed))
    try:
        drift(model, HOUR_S)
        return _on_validation_data(study, model)
    finally:
        restore(model)


class Carried:
    """The state that a training carries from batch to batch, in the form that checkpoints take."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        """Remember whose state it is.

        Args:
            task: The task; it reads and sets the state.
            model: The model that is trained.
        """
        self.task, self.model = task, model

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of the state by name; only recurrent models have any."""
        return self.task.carried(self.model)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put back the tensors that `state_dict` returned."""
        self.task.carry(self.model, state)


def validation_seed(seed: int) -> int:
    """Return the seed of the chip that validation uses; it is never the seed of a measured chip.

    Args:
        seed: The seed of the training.
    """
    return rng.derive(seed, "validation chip") % 2**31 + 2**31
