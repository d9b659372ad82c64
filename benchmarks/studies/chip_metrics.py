"""The metrics of a model that holds a chip, with its answers or re-estimated statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge.batchnorm import reestimate_batchnorm
from benchmarks.report.answers import Answers, chip_of
from benchmarks.tasks import Split, Task

Evaluate = Callable[[nn.Module], dict[str, float]]


def evaluate(task: Task, subset: int | None, split: Split, model: nn.Module) -> dict[str, float]:
    """Return the task's metrics on held-out samples.

    Args:
        task: The task.
        subset: The number of samples (words); None means all.
        split: "test" or "validation".
        model: A digital or analog model.
    """
    return task.evaluate(model, subset, split)


def kept(task: Task, answers: Answers, measure: Evaluate, model: nn.Module) -> dict[str, float]:
    """Measure a model and keep which samples it gets right.

    Args:
        task: The task.
        answers: Where they are kept.
        measure: The function that measures the model.
        model: A digital model, or an analog model that holds a chip.
    """
    with task.recording() as right:
        metrics = measure(model)
    if right:
        answers.add(chip_of(model), torch.cat(right))
    return metrics


def has_batchnorm(model: nn.Module) -> bool:
    """Return whether a model has batch-norm layers, whose statistics can be re-estimated.

    Args:
        model: Any model.
    """
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def evaluate_reestimated(
    task: Task, subset: int | None, split: Split, data: list[Any], model: nn.Module
) -> dict[str, float]:
    """Return the metrics with batch-norm statistics that are re-estimated on this chip.

    The statistics from the training are put back afterwards.

    Args:
        task: The task.
        subset: The number of samples (words); None means all.
        split: "test" or "validation".
        data: The batches that the statistics are re-estimated from.
        model: A model that holds a chip.
    """
    buffers: dict[str, Tensor] = {name: value.clone() for name, value in model.named_buffers()}
    reestimate_batchnorm(model, data)
    try:
        return evaluate(task, subset, split, model)
    finally:
        with torch.no_grad():
            for name, value in model.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    value.copy_(buffers[name])
