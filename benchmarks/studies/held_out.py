"""The held-out samples of a task, and the digital model's metrics on them in a file."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from aimc_bridge.sealed_files import damaged, read_facts
from benchmarks.tasks import Split, Task

_AGAIN = "to measure the digital model again"


def samples(task: Task, subset: int | None, split: Split = "test") -> int:
    """Return the number of samples (words) in a subset.

    Args:
        task: The task.
        subset: The number of samples that is asked for; None means all.
        split: "test" or "validation".
    """
    return sum(task.targets(batch).numel() for batch in task.batches(split, subset))


def commonest(task: Task, subset: int | None) -> float:
    """Return the share of the commonest class (word) among the test samples, in [0, 1].

    A model that always answers with one class is right this often, and loses nothing on a chip.

    Args:
        task: The task.
        subset: The number of samples (words); None means all.
    """
    batches = task.batches("test", subset)
    classes = torch.cat([task.targets(batch).flatten().cpu() for batch in batches])
    counts = torch.unique(classes, return_counts=True)[1]
    return float(counts.max()) / len(classes)


def known_values(path: Path, again: str = _AGAIN) -> dict[str, float] | None:
    """Read the metrics of a digital model.

    Args:
        path: The JSON file.
        again: What the user does after a damaged file is removed, for the error.

    Returns:
        Metric -> value; None if there is no such file.

    Raises:
        CheckpointError: If the file is damaged.
    """
    if not path.exists():
        return None
    try:
        return {str(name): float(value) for name, value in read_facts(path).items()}
    except (ValueError, TypeError) as error:  # a CheckpointError is a ValueError
        raise damaged(path, error, f"put the former file back, or remove it {again}") from None


def alike(before: dict[str, float], now: dict[str, float], samples: int) -> bool:
    """Return whether two measurements of a model can be of the same model and data.

    Args:
        before: Its metrics.
        now: Its metrics, perhaps on another machine, where a sample or two may be rounded to
            another class.
        samples: How many samples they are of.
    """
    return all(
        math.isclose(value, now[name], rel_tol=1e-3, abs_tol=2 / samples)
        for name, value in before.items()
        if name in now
    )
