"""The steps of a run, before anything runs: what each does, and what its cost depends on."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

from aimc_bridge.times import label
from aimc_bridge.training import HWATraining
from benchmarks.digital import total_steps
from benchmarks.studies.base import Study
from benchmarks.studies.steps import Listener, Step, kind_of

TRAININGS = {
    "finetune": "fine-tuning without a chip",
    "control": "control: hardware-aware training without its noise",
    "hwa": "hardware-aware training",
}
_SWEPT = {
    "direct": "direct conversion",
    "finetune": "the fine-tuned model",
    "control": "the control",
    "hwa": "the hardware-aware model",
}


def name_of(study: Study, part: str) -> str:
    """Return the name of a step of a training.

    Args:
        study: The study of the training.
        part: "digital", or a phase with "training", or a phase with an engine and samples.
    """
    return f"{study.folder.name} {part}"


def cost_of(study: Study, work: str) -> str:
    """Return the kind of some work of a study; see `steps.kind_of`.

    Args:
        study: The study.
        work: "digital", "training" or an engine.
    """
    settings = study.settings
    compiled = settings.compiled or (settings.compile and work == "training")
    precision = settings.precision if settings.precision != "fp32" else ""
    return kind_of(study.task, work, settings.device, precision, "compiled" if compiled else "")


def digital(study: Study) -> list[Step]:
    """Return the step that trains the digital model; none if a model is given.

    Args:
        study: The study.
    """
    task = study.task
    if task.name in study.settings.checkpoints():
        return []
    recipe = task.digital
    if study.plan.digital_epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=study.plan.digital_epochs)
    batches = total_steps(recipe, len(task.digital_loader(recipe.batch_size, study.seed)))
    text = f"{study.title}: training the digital {task.model_name}, {batches} mini-batches"
    group = study.folder.name
    return [Step(name_of(study, "digital"), text, ((cost_of(study, "digital"), batches),), group)]


@contextlib.contextmanager
def digital_training(study: Study, steps: Listener | None) -> Iterator[None]:
    """Say that the training of the digital model begins, unless there is nothing to train.

    Args:
        study: The study; the block calls its `digital_model`.
        steps: The steps of the command; None says nothing.
    """
    place = study.folder / "digital"
    if study.task.name in study.settings.checkpoints() or steps is None:
        yield
    elif (place / "model.safetensors").exists() or study.replica.index:
        steps.skip(name_of(study, "digital"))
        yield
    else:
        with steps.doing(name_of(study, "digital"), whole=not place.exists()):
            yield


def training(study: Study, phase: str) -> list[Step]:
    """Return the step that trains the model of a phase; none if its weights are given.

    Args:
        study: The study.
        phase: "finetune", "control" or "hwa".
    """
    task = study.task
    if phase == "hwa" and task.name in study.settings.trained_files():
        return []
    recipe = study.settings.recipe_of(task)
    batches = batches_of(study, recipe)
    text = f"{study.title}: {TRAININGS[phase]}, recipe {recipe.name}, {batches} mini-batches"
    work = (cost_of(study, "fine-tuning" if phase == "finetune" else "training"), batches)
    return [Step(name_of(study, f"{phase} training"), text, (work,), study.folder.name)]


def batches_of(study: Study, recipe: HWATraining) -> int:
    """Return the mini-batches of a training of a study.

    Args:
        study: The study.
        recipe: Its recipe.
    """
    loader = study.task.train_loader(recipe.spec.batch_size, study.seed)
    batches = recipe.spec.epochs * len(loader)
    most = study.plan.hwa_batches
    return batches if most is None else min(batches, most)


def swept(
    study: Study, phase: str, measurements: Sequence[tuple[str, int | None, int]]
) -> list[Step]:
    """Return the steps that measure the chips of a phase.

    Args:
        study: The study.
        phase: One of `phases.PHASES`.
        measurements: (engine, samples, chips) of each; None samples are all.
    """
    task, times = study.task, study.settings.at
    listed = []
    for engine, subset, chips in measurements:
        samples = task.count("test") if subset is None else subset
        what = f"{_SWEPT[phase]} on {engine}" + (f", {subset} {task.unit}" if subset else "")
        at = ", ".join(map(label, times))
        text = f"{study.title}: {what}, {chips} {'chips' if chips > 1 else 'chip'} at {at}"
        part = f"{phase} {engine}" + (f" {subset}" if subset is not None else "")
        units = chips * len(times) * samples
        work = ((cost_of(study, engine), units),)
        listed.append(Step(name_of(study, part), text, work, study.folder.name))
    return listed
