"""The core of every study: convert, calibrate, train and sweep a task's digital model.

    study = Study(task, settings, folder, output)
    digital = study.digital_model()            # from --checkpoint, or trained here
    analog = study.convert(digital)            # on the native engine, with the settings' preset
    study.calibrate(analog)                    # input ranges from training data
    trainings.train(study, digital, analog, recipe, folder / "hwa-training")
    table = study.sweep(analog, study.evaluate, folder / "hwa.csv", chips=5)

The results of everything that takes time are files in the folder. In the folder of an earlier run,
the same calls read the files that exist and do the rest.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from aimc_bridge import rng
from aimc_bridge.calibration import calibrate
from aimc_bridge.commands import Output
from aimc_bridge.conversion import convert
from aimc_bridge.engines.native import compiled
from aimc_bridge.errors import UsageError
from aimc_bridge.sealed_files import write_facts
from aimc_bridge.spec import Preset
from aimc_bridge.sweeps import sweep
from benchmarks import digital, tasks
from benchmarks.report.answers import Answers, path_of
from benchmarks.studies import chip_metrics, held_out
from benchmarks.studies.chip_metrics import Evaluate
from benchmarks.studies.claims import CALIBRATION, TRAINING
from benchmarks.studies.finished_parts import Parts, measuring_again
from benchmarks.studies.inputs import (
    DIGITAL,
    Inputs,
    calibration_mark,
    changed,
    data_mark,
    fingerprint,
    training_mark,
)
from benchmarks.studies.replicas import Replica
from benchmarks.studies.settings import Settings
from benchmarks.tasks import Split, Task

if TYPE_CHECKING:
    import pandas as pd

CHIPS_BETWEEN = 10_000  # seeds between the chips of two trainings


class Study:
    """The models and chips of one task in a folder; no finished part is done twice.

    Attributes:
        task: The model, its data and its metric.
        settings: The options of the command line.
        plan: How much of the task is run.
        folder: Where finished parts are.
        output: Where notes go.
        seed: Seed of the trainings.
        chip_seed: Seed of the first chip; chip i of a sweep has chip_seed + i.
        parts: The parts that take time, with their seconds.
        inputs: What the results in the folder were made from.
        facts: What the record says about the task; the methods add to it.
        replica: Which of several processes this is.
    """

    def __init__(
        self,
        task: Task,
        settings: Settings,
        folder: Path,
        output: Output = Output(),
        *,
        replica: Replica = Replica(),
        training: int = 0,
    ) -> None:
        """Prepare the study; nothing is read or written yet.

        Args:
            task: The task.
            settings: The options.
            folder: Where finished parts are or will be.
            output: Where notes go.
            replica: Which of several processes this is.
            training: The number of the training, from 0 on, if there are several (--seeds).
                Training i has the seed settings.seed + i, and its own chips: their seeds begin
                10,000 * i after settings.seed.
        """
        self.task, self.settings, self.folder, self.output = task, settings, folder, output
        self.replica = replica
        self.plan = settings.plan_of(task.name)
        self.seed = settings.seed + training
        self.chip_seed = settings.seed + CHIPS_BETWEEN * training
        self.parts = Parts(folder / "parts.json", keep=replica.index == 0)
        self.inputs = Inputs(folder, writes=replica.index == 0)
        self.facts: dict[str, Any] = {
            "model": task.model_name,
            "dataset": task.dataset,
            "metric": task.metric,
            "chance_error": task.chance_error,
            "plan": dataclasses.asdict(self.plan),
        }
        task.place(settings.place)

    @property
    def title(self) -> str:
        """Return the name of the training, such as "wrn", or "wrn, seed 3" of several."""
        several = self.settings.seeds > 1
        return f"{self.task.name}, seed {self.seed}" if several else self.task.name

    def say(self, text: str) -> None:
        """Print a note that begins with the name of the training."""
        self.output.say(f"{self.title}: {text}")

    # --- models ---

    def digital_model(self) -> nn.Module:
        """Load the digital model that the settings name, or train one in the folder "digital".

        Returns:
            The model on the settings' device, in eval mode. `facts["digital"]` says where it comes
            from.

        Raises:
            CheckpointError: If a file is missing, damaged or of another model.
            UsageError: If results in the study's folder are of another digital model.
            TrainingError: If the training diverges.
        """
        model = self._digital_model()
        mark = fingerprint(model)
        self.inputs.check(DIGITAL, mark)
        if not any(self.folder.glob("digital*.json")):  # else `digital_values` compares these first
            self.inputs.note(DIGITAL, mark)
        return model

    def _digital_model(self) -> nn.Module:
        """Load or train the digital model."""
        checkpoint = self.settings.checkpoints().get(self.task.name)
        if checkpoint is not None:
            self.say(f"digital model from {checkpoint}")
            self.facts["digital"] = {"checkpoint": str(checkpoint), **_info(checkpoint)}
            return self.task.load(checkpoint).to(self.settings.place)
        folder = self.folder / "digital"
        if self.replica.index:
            self.replica.meet()  # the first process has trained it
            return self.task.load(folder).to(self.settings.place)
        size = self.settings.recipe_of(self.task).spec.batch_size
        self.inputs.note(TRAINING, training_mark(self.task, size, self.seed))
        recipe = self.task.digital
        if self.plan.digital_epochs is not None:
            recipe = dataclasses.replace(recipe, epochs=self.plan.digital_epochs)
        model: nn.Module = self.parts.timed(
            "digital training",
            functools.partial(
                digital.fit,
                self.task,
                folder,
                recipe=recipe,
                seed=self.seed,
                resume=folder.exists(),
                device=self.settings.device,
                precision=self.settings.precision,
                output=self.output,
            ),
        )
        self.facts["digital"] = _info(folder)
        self.replica.meet()
        return model.to(self.settings.place)

    def convert(
        self, model: nn.Module, engine: str = "native", preset: Preset | None = None
    ) -> nn.Module:
        """Convert a digital model of the task, except for the layers that the task keeps digital.

        Args:
            model: The digital model.
            engine: "native" or "aihwkit".
            preset: The chip; None means the settings' preset.

        Returns:
            The converted model in eval mode, without input ranges.
        """
        preset = preset or self.settings.preset
        analog = convert(
            model, preset, engine=engine, exclude=self.task.digital_names(model)
        ).eval()
        if engine == "native" and self.settings.compiled:
            compiled(analog)
        return analog

    def calibrate(
        self, analog: nn.Module, preset: Preset | None = None, *, inputs_alone: bool = False
    ) -> None:
        """Set the input ranges from training data, by the plan's method.

        No range is set if the periphery of the preset has none.

        Args:
            analog: A converted model.
            preset: The preset that it was converted with; None means the settings' preset.
            inputs_alone: Leave out the plan's out_percentile, which raises the ranges until the ADC
                holds the outputs. How far it raises them depends on tiles and scales; the inputs do
                not.

        Raises:
            UsageError: If results in the study's folder are of other data.
        """
        batches = self.task.calibration_batches(self.plan.calibration)
        self.inputs.note(CALIBRATION, calibration_mark(batches))
        if (preset or self.settings.preset).crossbar.input_range != "none":
            percentile = None if inputs_alone else self.plan.out_percentile
            calibrate(analog, batches, self.plan.method, out_percentile=percentile)

    # --- measurements ---

    def evaluator(
        self,
        model: nn.Module,
        subset: int | None,
        split: Split = "test",
        answers: Answers | None = None,
    ) -> Evaluate:
        """Make the function that a sweep measures: the task's metrics on held-out data.

        If --reestimate-bn is given and the model has batch norm, the statistics are re-estimated on
        each chip at each time before it is evaluated.

        Args:
            model: The digital model.
            subset: The number of samples (words); None means all.
            split: "test" or "validation".
            answers: Keeps which samples each chip gets right; None keeps nothing.

        Returns:
            A function of a model that returns metric -> value.
        """
        measure = self._metrics_of(model, subset, split)
        if answers is None:
            return measure
        return functools.partial(chip_metrics.kept, self.task, answers, measure)

    def _metrics_of(self, model: nn.Module, subset: int | None, split: Split) -> Evaluate:
        batches = self.settings.reestimate_bn
        if not batches or not chip_metrics.has_batchnorm(model):
            return functools.partial(chip_metrics.evaluate, self.task, subset, split)
        data = self.task.calibration_batches(batches, batch_size=64)
        self.facts["reestimated_batchnorm"] = f"{len(data)} batches of 64 of the training data"
        return functools.partial(chip_metrics.evaluate_reestimated, self.task, subset, split, data)

    def sweep(
        self,
        analog: nn.Module,
        evaluate: Evaluate,
        path: Path,
        *,
        chips: int | None = None,
        times: Sequence[float] | None = None,
    ) -> pd.DataFrame:
        """Measure chips at several times; results that the file already holds are kept.

        Args:
            analog: A converted model; afterwards it holds no chip.
            evaluate: The function that measures a chip.
            path: The CSV file of the finished chips.
            chips: The number of chips; None means the plan's number for the native engine.
            times: Seconds after programming; None means the settings' times.

        Returns:
            One row per chip, time and metric.

        Raises:
            CheckpointError: If the file is damaged, or of another sweep.
        """
        with measuring_again(path):
            return sweep(
                analog,
                evaluate,
                self.settings.at if times is None else times,
                chips=self.plan.chips if chips is None else chips,
                seed=self.chip_seed,
                resume=path,
                shard=self.settings.shard,
                progress=self.output.bars,
            )

    def digital_values(
        self, model: nn.Module, subset: int | None, split: Split, path: Path
    ) -> dict[str, float]:
        """Evaluate the digital model, or read its metrics from the file of an earlier run.

        Args:
            model: The digital model.
            subset: The number of samples (words); None means all.
            split: "test" or "validation".
            path: The JSON file of the metrics; it is written if it does not exist, and with it the
                file of the answers (`answers.path_of`).

        Returns:
            Metric -> value.

        Raises:
            CheckpointError: If the file is damaged.
            UsageError: If the file is of other data, or of another model.
        """
        known = held_out.known_values(path)
        mark = data_mark(self.task, split, subset, self.settings.place)
        self.inputs.note(f"set of {split} data ({path.stem})", mark)
        if known is not None and DIGITAL in self.inputs.known:
            return known
        measure = functools.partial(chip_metrics.evaluate, self.task, subset, split)
        if known is None:
            answers = Answers(path_of(path))
            measure = functools.partial(chip_metrics.kept, self.task, answers, measure)
        with torch.random.fork_rng():
            torch.manual_seed(rng.derive(self.seed, "digital"))
            values = measure(model)
        if known is None:
            write_facts(path, values)
        elif not held_out.alike(known, values, held_out.samples(self.task, subset, split)):
            raise UsageError(changed(self.folder, f"{DIGITAL}, or of other {split} data,"))
        self.inputs.note(DIGITAL, fingerprint(model))
        return known or values


def _info(path: Path) -> dict[str, Any]:
    """Return what a record says of a digital model's training; fingerprints and folders are not."""
    return {name: value for name, value in tasks.read_info(path).items() if name != "inputs"}
