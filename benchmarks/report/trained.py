"""Trained weights that are small enough to come with the project.

They are copied from a finished run's folder into benchmarks/checkpoints/TASK: the digital model
(model.safetensors, info.json) and the hardware-aware one (hwa.safetensors, hwa.json). Their
matrices are in half precision. So anyone can drift them without a training:

    python -m benchmarks.run wrn -o dataset=cifar100 --profile real --data-dir DIR \
        --phases direct hwa --checkpoint benchmarks/checkpoints/wrn \
        --trained benchmarks/checkpoints/wrn/hwa.safetensors
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aimc_bridge import files, sealed_files
from aimc_bridge.errors import DataError, UsageError
from benchmarks.report.record import read_run

FOLDER = Path(__file__).parents[1] / "checkpoints"
LARGEST = 8_000_000  # largest size of a file, bytes
_SMALL = 4096  # tensors with fewer numbers are not halved: these are scales and statistics


def halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return large float32 tensors in half precision, all others as they are.

    Args:
        tensors: The tensors by name.
    """
    return {
        name: value.half() if value.dtype == torch.float32 and value.numel() >= _SMALL else value
        for name, value in tensors.items()
    }


def keep(
    run: Path,
    task: str,
    *,
    replace: bool = False,
    dry_run: bool = False,
    folder: Path | None = None,
) -> list[Path]:
    """Keep both models of a task of a finished run.

    Args:
        run: The `--out` of the run.
        task: The name of the task.
        replace: Whether they may replace models that are kept already.
        dry_run: Check everything and write nothing.
        folder: The folder that gets a folder with the task's name; None is the project's own.

    Returns:
        The files written.

    Raises:
        DataError: If the run does not have both models, or if a file would be too large.
        CheckpointError: If a file of weights is missing or damaged.
        UsageError: If models of the task are kept already.
    """
    about = read_run(run)
    try:
        facts = about["studies"][task]
        recipe = facts["recipe"]
    except KeyError as error:
        raise DataError(
            f"{run} holds no finished hardware-aware training of {task} ({error!r})"
        ) from None
    into = (FOLDER if folder is None else folder) / task
    if not replace and (into / "hwa.safetensors").exists():
        raise UsageError(f"models of {task} are kept already; --replace takes their place")
    work = run / "work" / task
    digital = Path(facts["digital"].get("checkpoint", work / "digital"))
    sources = {
        "model": digital / "model.safetensors" if digital.is_dir() else digital,
        "hwa": work / "hwa.safetensors",
    }
    shared = {"run": about["command"], "versions": about["versions"], "stored": "float16 matrices"}
    notes: dict[str, dict[str, Any]] = {
        "model": {**facts["digital"], **shared},
        "hwa": {
            **{key: facts[key] for key in ("model", "dataset", "analog_weights", "tiles")},
            **{"preset": about["arguments"]["preset"], "recipe": recipe, **shared},
        },
    }
    notes["model"].pop("checkpoint", None)
    weights = {name: _small_enough(path) for name, path in sources.items()}
    written = []
    for name, (tensors, metadata) in weights.items():
        path = into / f"{name}.safetensors"
        note = into / ("info.json" if name == "model" else "hwa.json")
        if not dry_run:
            into.mkdir(parents=True, exist_ok=True)
            # the last file of all is the one that says that the models are kept
            files.write_text(note, json.dumps(notes[name], indent=1) + "\n")
            sealed_files.write_tensors(path, tensors, metadata)
        written += [path, note]
    return written


def _small_enough(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read weights in half precision, and the texts of their file: how they were trained.

    Args:
        path: The file of the run.

    Raises:
        DataError: If a file of them would be too large.
    """
    sealed = sealed_files.read_sealed(path)
    tensors = halved(sealed.tensors)
    size = sum(value.numel() * value.element_size() for value in tensors.values())
    if size > LARGEST:
        raise DataError(
            f"{path}: {size / 1e6:.1f} MB in half precision; allowed: {LARGEST / 1e6:.0f} MB"
        )
    return tensors, sealed.metadata
