"""What a sweep measures at each chip and time, and the rows of one that is finished."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from aimc_bridge.batchnorm import reestimate_batchnorm
from aimc_bridge.errors import CheckpointError
from benchmarks.tasks import Task

if TYPE_CHECKING:
    import pandas as pd


def evaluate(task: Task, subset: int | None, model: nn.Module) -> dict[str, float]:
    """The task's metrics on its test samples."""
    return task.evaluate(model, subset)


def has_batchnorm(model: nn.Module) -> bool:
    """Whether there are statistics to re-estimate."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def evaluate_reestimated(
    task: Task, subset: int | None, data: list[Any], model: nn.Module
) -> dict[str, float]:
    """The metrics with batch-norm statistics of this chip at this time; then the trained ones."""
    kept: dict[str, Tensor] = {name: value.clone() for name, value in model.named_buffers()}
    reestimate_batchnorm(model, data)
    try:
        return evaluate(task, subset, model)
    finally:
        with torch.no_grad():
            for name, value in model.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    value.copy_(kept[name])


def finished(part: Path, chips: int, times: Sequence[float]) -> pd.DataFrame | None:
    """The rows of a sweep that has all chips at all times; one that lacks some is left to `sweep`.

    Raises:  CheckpointError where the file is damaged.
    """
    import pandas as pd

    if not part.exists():
        return None
    kinds = {"chip": int, "seed": int, "t_inference": float, "metric": str}
    try:
        # not pandas: a value must come back to the last bit
        with part.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file, strict=True))
        rows = [
            {
                **{key: kind(line[key]) for key, kind in kinds.items()},
                "value": float(line["value"] or "nan"),
            }
            for line in lines
        ]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise CheckpointError(
            f"{part} is damaged ({error!r}); remove it to measure these chips again"
        ) from None
    table = pd.DataFrame(rows, columns=[*kinds, "value"])
    table = table[(table.chip < chips) & table.t_inference.isin(times)]
    wanted = itertools.product(range(chips), times)
    if set(zip(table.chip, table.t_inference, strict=True)) != set(wanted):
        return None
    return table.sort_values(["metric", "chip", "t_inference"], ignore_index=True)
