"""Models of tasks: the place and the wrappers of a model, and its weights in a file."""

import json
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import nn

from aimc_bridge.errors import CheckpointError
from aimc_bridge.files import read_text
from aimc_bridge.sealed_files import damaged, misfits, read_tensors

_ADVICE = (
    "put the former file back, or remove its folder to train the model again, with the command "
    "that trained it"
)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter or buffer, else the CPU.

    Args:
        model: Any model.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def bare(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers of data parallelism and torch.compile.

    Args:
        model: A model with or without wrappers.
    """
    while True:
        inner = model._modules.get("_orig_mod")  # the model that torch.compile wraps
        if isinstance(model, nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def moved(batch: Any, model: nn.Module) -> Any:
    """Return a batch on the device of a model.

    Args:
        batch: A tensor, a tuple or a dict of tensors.
        model: The model; see `device_of`.
    """
    return send_to_device(batch, device_of(model))


def load_weights(model: nn.Module, file: Path, about: str) -> None:
    """Load the weights of a trained model from a file.

    Args:
        model: The model; its weights are replaced.
        file: The safetensors file.
        about: The model and its data, for the error, such as "WRN-16 for digits".

    Raises:
        CheckpointError: If the file is damaged or of another model.
    """
    try:
        tensors = read_tensors(file)
        for key, value in tensors.items():
            if value.is_floating_point() and not value.isfinite().all():
                raise CheckpointError(f"{file}: {key} holds NaN or infinite values")
    except CheckpointError as error:
        raise damaged(file, error, _ADVICE) from None
    state = model.state_dict(keep_vars=True)
    by_tensor = {id(value): tensors[name] for name, value in state.items() if name in tensors}
    for name, value in state.items():  # a tensor that has several names is stored under one
        if name not in tensors and id(value) in by_tensor:
            tensors[name] = by_tensor[id(value)]
    if wrong := misfits(state, tensors):
        raise CheckpointError(f"{file} holds another model than {about}: {'; '.join(wrong[:3])}")
    model.load_state_dict(tensors)


def read_info(path: str | Path) -> dict[str, Any]:
    """Read the `info.json` beside a checkpoint.

    Args:
        path: The checkpoint, or the folder that it lies in.

    Returns:
        Its contents; empty if there is no such file.

    Raises:
        CheckpointError: If the file is damaged.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    try:
        info: dict[str, Any] = json.loads(read_text(folder / "info.json"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(folder / "info.json", error, _ADVICE) from None
    if not isinstance(info, dict):
        raise damaged(folder / "info.json", ValueError("it holds no table"), _ADVICE)
    return info
