"""Checkpoints of a training in a folder: its state, weights and validation's best weights.

Tensors are written as safetensors, everything else as a small JSON file.

A folder holds `step-N.safetensors` and `checkpoint.json`, which names it and is written last. So a
process that is killed at any moment leaves a whole checkpoint. If the best weights are kept,
`best-N.safetensors` holds them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from aimc_bridge.errors import CheckpointError, UsageError
from aimc_bridge.files import check_writable
from aimc_bridge.sealed_files import (
    damaged,
    misfits,
    read_facts,
    read_sealed,
    write_facts,
    write_tensors,
)

POINTER = "checkpoint.json"


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of an optimizer as tensors and plain values, by "index.name".

    Args:
        optimizer: The optimizer.

    Raises:
        CheckpointError: If a value of the state is neither a tensor nor a plain value.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            elif value is None or isinstance(value, bool | int | float | str):
                plain[f"{index}.{name}"] = value
            else:
                raise CheckpointError(
                    f"{type(optimizer).__name__} keeps {name!r} as a {type(value).__name__}, which "
                    "no checkpoint can hold; use another optimizer, or folder=None"
                )
    return tensors, plain


def restore_optimizer(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    """Put back a state from `optimizer_state`.

    Learning rates and other settings stay as `optimizer` has them.

    Args:
        optimizer: The optimizer, which is changed.
        tensors: The tensors from `optimizer_state`.
        plain: The plain values from `optimizer_state`.

    Raises:
        CheckpointError: If it is the state of other parameters; the optimizer then stays as it is.
    """
    state = by_parameter(optimizer, tensors, plain)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def by_parameter(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> dict[int, dict[str, Any]]:
    """Return the state of an optimizer by the numbers of its parameters.

    Raises:
        CheckpointError: If it is the state of other parameters.
    """
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    state: dict[int, dict[str, Any]] = {}
    for key, value in (*tensors.items(), *plain.items()):
        index, _, name = key.partition(".")
        if not (index.isdecimal() and int(index) < count):
            raise CheckpointError(
                f"the checkpoint is of another model: state {key!r} of the optimizer, which has "
                f"{count} parameters"
            )
        state.setdefault(int(index), {})[name] = value
    return state


class Folder:
    """The checkpoints of one run in a folder; every process may read, one writes.

    Attributes:
        path: The folder.
        run: Arguments of the run that must match for a resume.
        writer: Whether this process writes.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], resume: bool, writer: bool) -> None:
        """Open a folder; nothing is read or written yet.

        Args:
            path: The folder; it is made when the first file is written.
            run: Arguments of the run that must match for a resume.
            resume: Whether a training in the folder may be continued.
            writer: Whether this process writes.

        Raises:
            UsageError: If the folder holds a training and `resume` is False, or if it cannot be
                written.
        """
        self.path = path
        self.run = json.loads(json.dumps(run))  # as JSON gives it back: lists for tuples
        self.writer = writer
        if (path / POINTER).exists() and not resume:
            raise UsageError(
                f"{path} holds a training; resume=True goes on with it, or name another folder"
            )
        if writer:
            try:
                check_writable(path / POINTER)
            except OSError as cause:
                raise UsageError(
                    f"folder={str(path)!r} cannot be written ({cause.strerror}); name another"
                ) from None

    def read(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Return the facts and the tensors of the last checkpoint.

        Returns:
            The facts and the tensors by name; None if there is no checkpoint yet.

        Raises:
            CheckpointError: If the checkpoint is damaged.
            UsageError: If it belongs to another run.
        """
        pointer = self.path / POINTER
        if not pointer.exists():
            return None
        try:
            facts = read_facts(pointer)
            file, run, seal = str(facts["file"]), dict(facts["run"]), facts.get("tensors")
            int(facts["step"])
        except (ValueError, KeyError, TypeError) as error:  # a CheckpointError is a ValueError
            raise damaged(pointer, error, "remove the folder to start over") from None
        differs = sorted(k for k in self.run.keys() | run.keys() if self.run.get(k) != run.get(k))
        if differs:
            changes = ", ".join(f"{k} {run.get(k)!r}, now {self.run.get(k)!r}" for k in differs)
            raise UsageError(
                f"{self.path} holds another training ({changes}); repeat its arguments, or name "
                "another folder"
            )
        return facts, self._tensors(file, seal)

    def write(self, step: int, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint and remove the one before.

        Args:
            step: Number of mini-batches done.
            facts: Plain values.
            tensors: The tensors by name.
        """
        if not self.writer:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / f"step-{step}.safetensors"
        seal = write_tensors(file, tensors)
        content = {**facts, "run": self.run, "step": step, "file": file.name, "tensors": seal}
        write_facts(self.path / POINTER, content)
        best = facts.get("best_step")
        current = {file.name, f"best-{best}.safetensors"}
        for kind in ("step", "best", ".step", ".best"):  # with a point: left by a killed process
            for old in self.path.glob(f"{kind}-*.safetensors"):
                if old.name not in current:
                    old.unlink()

    def write_best(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Write the best weights so far.

        Args:
            step: Number of mini-batches done.
            state: State dict of the model.
        """
        if self.writer:
            self.path.mkdir(parents=True, exist_ok=True)
            write_tensors(self.path / f"best-{step}.safetensors", state)

    def read_best(self, step: int) -> dict[str, Tensor]:
        """Return the weights that `write_best` wrote.

        Args:
            step: Number of mini-batches that were done.

        Raises:
            CheckpointError: If the file is missing or damaged.
        """
        return self._tensors(f"best-{step}.safetensors")

    def _tensors(self, name: str, seal: str | None = None) -> dict[str, Tensor]:
        """Read a file of this folder.

        Args:
            name: The file.
            seal: The checksum that it must have, if that is known.

        Raises:
            CheckpointError: If it is missing or damaged, or another file.
        """
        try:
            file = read_sealed(self.path / name)
            if seal is not None and file.seal != seal:
                raise CheckpointError(f"{self.path / name} is not the file of {POINTER}")
            return file.tensors
        except CheckpointError as error:
            raise CheckpointError(f"{error}; remove the folder to start over") from None


def check_fits(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Check that a state dict fits a model; nothing is changed.

    Args:
        model: The model.
        state: The state dict.

    Raises:
        CheckpointError: If it belongs to another model, or holds NaN where the model does not.
    """
    if wrong := misfits(model.state_dict(), state, exact=True):
        more = f", and {len(wrong) - 1} other tensors do not fit" if len(wrong) > 1 else ""
        raise CheckpointError(
            f"the checkpoint is of another model, or damaged: {wrong[0]}{more}; name another folder"
        )


def load_model(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict into a model of the same kind.

    Args:
        model: The model, which is changed.
        state: The state dict.

    Raises:
        CheckpointError: If the state dict belongs to another model; `model` then stays as it is.
    """
    check_fits(model, state)
    try:
        with torch.no_grad():
            model.load_state_dict(dict(state))
    except RuntimeError as error:
        text = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"the checkpoint is of another model ({text})") from None
