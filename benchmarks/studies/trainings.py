"""The trainings that follow the digital one: hardware-aware, and its control without noise."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge import rng
from aimc_bridge.chip import drift, program, restore
from aimc_bridge.training import HWATraining, train, train_digital
from benchmarks.tasks import Task
from benchmarks.tasks.plan import Plan

HOUR_S = 3600.0


@dataclass(frozen=True)
class How:
    """How trainings run on this machine: nothing here belongs to a recipe.

    precision         "fp32", or "bf16": autocast
    compile           torch.compile between the analog products
    accumulate        mini-batches of one optimizer step
    checkpoint_every  mini-batches between two checkpoints
    show              a live bar
    """

    seed: int
    device: torch.device
    precision: str = "fp32"
    compile: bool = False
    accumulate: int = 1
    checkpoint_every: int = 500
    show: bool = False

    def options(self) -> dict[str, Any]:
        """The arguments of `train` that say so."""
        return {
            "seed": self.seed,
            "cpu": self.device.type == "cpu",
            "mixed_precision": "bf16" if self.precision == "bf16" else "no",
            "compile": self.compile,
            "gradient_accumulation_steps": self.accumulate,
            "checkpoint_every": self.checkpoint_every,
            "progress": self.show,
        }


class Carried:
    """What a task's training carries from batch to batch, for a checkpoint."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        self.task, self.model = task, model

    def state_dict(self) -> dict[str, Tensor]:
        """The task's tensors; empty but for recurrent models."""
        return self.task.carried(self.model)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put them back."""
        self.task.carry(self.model, state)


def validation_seed(seed: int) -> int:
    """The chip that validation looks at: never one of those that are measured in the end."""
    return rng.derive(seed, "validation chip") % 2**31 + 2**31


def on_a_chip(task: Task, subset: int | None, seed: int) -> Callable[[nn.Module], dict[str, float]]:
    """Validation of a hardware-aware training: the validation split on one chip of an hour's age.

    Weights are chosen by what they will be judged by; always the same chip, so that two validations
    differ by the weights alone.
    """

    def validate(model: nn.Module) -> dict[str, float]:
        program(model, validation_seed(seed))
        try:
            drift(model, HOUR_S)
            return task.evaluate(model, subset, split="validation")
        finally:
            restore(model)

    return validate


def hardware_aware(
    task: Task,
    plan: Plan,
    recipe: HWATraining,
    how: How,
    digital: nn.Module,
    analog: nn.Module,
    folder: Path,
) -> Any:
    """Train `analog`, converted from `digital`, in place; the history.

    A training that was cut short goes on from its checkpoint in `folder`.
    """
    return train(
        analog,
        task.train_loader(recipe.spec.batch_size, how.seed),
        task.loss,
        recipe=recipe,
        teacher=digital if recipe.spec.distill_weight > 0 else None,
        validate=on_a_chip(task, plan.validation_subset, how.seed),
        **_shared(task, plan, how, analog, folder),
    )


def unaware(
    task: Task, plan: Plan, recipe: HWATraining, how: How, digital: nn.Module, folder: Path
) -> tuple[nn.Module, Any]:
    """The control: a copy of `digital` after as many steps without a chip; its history."""
    model = copy.deepcopy(digital)
    history = train_digital(
        model,
        task.train_loader(recipe.spec.batch_size, how.seed),
        task.loss,
        recipe=recipe,
        teacher=digital if recipe.spec.distill_weight > 0 else None,
        validate=lambda m: task.evaluate(m, plan.validation_subset, split="validation"),
        **_shared(task, plan, how, model, folder),
    )
    return model.eval(), history


def _shared(task: Task, plan: Plan, how: How, model: nn.Module, folder: Path) -> dict[str, Any]:
    return {
        "max_batches": plan.hwa_batches,
        "validate_every": plan.validate_every,
        "keep": plan.keep,
        "chance_loss": math.log(task.n_classes),
        "folder": folder,
        "resume": True,
        "carried": Carried(task, model),
        "split": task.part,
        **how.options(),
    }
