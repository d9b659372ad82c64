"""The steps of a run, before anything runs: what each does, and what its cost depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from aimc_bridge.times import label
from benchmarks.digital import total_steps
from benchmarks.studies.base import Study
from benchmarks.studies.steps import Step

_TRAININGS = {
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


def kind_of(study: Study, work: str) -> str:
    """Return the kind of some work, which its cost per unit depends on.

    Args:
        study: The study.
        work: "digital", "training" or an engine.
    """
    settings = study.settings
    fast = [settings.precision] if settings.precision != "fp32" else []
    fast += ["compiled"] if settings.compiled or (settings.compile and work == "training") else []
    how = [work, settings.device, f"{torch.get_num_threads()} threads", *fast]
    return f"{study.task.model_name}, {study.task.dataset}: {', '.join(how)}"


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
    text = f"{_head(study)}: training the digital {task.model_name}, {batches} mini-batches"
    return [Step(name_of(study, "digital"), text, kind_of(study, "digital"), batches)]


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
    batches = recipe.spec.epochs * len(task.train_loader(recipe.spec.batch_size, study.seed))
    if study.plan.hwa_batches is not None:
        batches = min(batches, study.plan.hwa_batches)
    text = f"{_head(study)}: {_TRAININGS[phase]}, recipe {recipe.name}, {batches} mini-batches"
    kind = kind_of(study, "digital" if phase == "finetune" else "training")
    return [Step(name_of(study, f"{phase} training"), text, kind, batches)]


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
        text = f"{_head(study)}: {what}, {chips} {'chips' if chips > 1 else 'chip'} at {at}"
        part = f"{phase} {engine}" + (f" {subset}" if subset is not None else "")
        units = chips * len(times) * samples
        listed.append(Step(name_of(study, part), text, kind_of(study, engine), units))
    return listed


def _head(study: Study) -> str:
    several = study.settings.seeds > 1
    return f"{study.task.name}, seed {study.seed}" if several else study.task.name
