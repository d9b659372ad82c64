"""Weights of converted models as files, and those that a user gives."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from aimc_bridge.conversion import convert
from aimc_bridge.errors import CheckpointError
from aimc_bridge.spec import Preset
from benchmarks.tasks import Task


@dataclass(frozen=True)
class Weights:
    """Trained weights that the user gives: the digital model's checkpoint, the hardware-aware
    model's file. None: trained here."""

    digital: Path | None = None
    trained: Path | None = None


def trained_model(task: Task, preset: Preset, file: Path) -> nn.Module:
    """The native model of a hardware-aware training, from its `hwa.safetensors`."""
    native = convert(task.skeleton().eval(), preset, exclude=list(task.exclude))
    load_weights(native, file)
    return native.eval()


def save_weights(model: nn.Module, file: Path) -> None:
    """A converted model's state dict as safetensors, whole or not at all."""
    tensors = {k: v.detach().cpu().clone().contiguous() for k, v in model.state_dict().items()}
    partial = file.with_name(file.name + ".partial")
    save_file(tensors, partial)
    os.replace(partial, file)


def load_weights(model: nn.Module, file: Path) -> None:
    """Back from `save_weights` into a model converted the same way.

    Raises:  CheckpointError where the file is damaged or of another model.
    """
    if file.is_dir():
        raise CheckpointError(f"{file} is a folder; name the hwa.safetensors of a run")
    try:
        model.load_state_dict(load_file(file))
    except FileNotFoundError:
        raise CheckpointError(f"no weights at {file}") from None
    except (SafetensorError, RuntimeError) as error:
        text = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{file}: damaged, or weights of another model ({text})") from None
