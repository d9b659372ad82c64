"""Checkpoints of a training: tensors in safetensors, the rest in a small JSON file.

A folder holds `step-N.safetensors` and `checkpoint.json`, which names it and is written last: a
process that is killed at any moment leaves a whole checkpoint. Where the best weights are kept,
`best-N.safetensors` holds them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from aimc_bridge.errors import CheckpointError, UsageError

POINTER = "checkpoint.json"


@contextmanager
def replaced(file: Path) -> Iterator[Path]:
    """A path to write to, which takes `file`'s place when all went well."""
    partial = file.with_name(file.name + ".partial")
    try:
        yield partial
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors of any device as safetensors, whole or not at all; tied ones are written twice."""
    with replaced(file) as partial:
        save_file({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}, partial)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """What `write_tensors` wrote.

    Raises:  CheckpointError where the file is missing or damaged.
    """
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is missing or damaged ({error}); remove the folder to start over"
        ) from None


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of all parameters as tensors and plain values, by "index.name".

    Raises:  CheckpointError for a state that is neither.
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
    """Back from `optimizer_state`; learning rates and other settings stay those of `optimizer`."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in (*tensors.items(), *plain.items()):
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


class Folder:
    """The checkpoints of one run. Only a writer writes; every process may read."""

    def __init__(self, path: Path, run: Mapping[str, Any], resume: bool, writer: bool) -> None:
        self.path = path
        self.run = json.loads(json.dumps(run))  # as it comes back: lists for tuples
        self.writer = writer
        if (path / POINTER).exists() and not resume:
            raise UsageError(
                f"{path} holds a training; resume=True goes on with it, or name another folder"
            )

    def read(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """(facts, tensors) of the last checkpoint, or None before the first.

        Raises:  CheckpointError where it is damaged; UsageError where it is of another run.
        """
        pointer = self.path / POINTER
        if not pointer.exists():
            return None
        try:
            facts: dict[str, Any] = json.loads(pointer.read_text())
            file, run = str(facts["file"]), facts["run"]
            int(facts["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{pointer} is damaged ({error!r}); remove the folder to start over"
            ) from None
        differs = sorted(k for k in self.run.keys() | run.keys() if self.run.get(k) != run.get(k))
        if differs:
            said = ", ".join(f"{k} {run.get(k)!r}, now {self.run.get(k)!r}" for k in differs)
            raise UsageError(
                f"{self.path} holds another training ({said}); repeat its arguments, or name "
                "another folder"
            )
        return facts, read_tensors(self.path / file)

    def write(self, step: int, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """A checkpoint after `step` mini-batches; the one before goes."""
        if not self.writer:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / f"step-{step}.safetensors"
        write_tensors(file, tensors)
        said = {**facts, "run": self.run, "step": step, "file": file.name}
        with replaced(self.path / POINTER) as partial:
            partial.write_text(json.dumps(said, indent=1) + "\n")
        best = facts.get("best_step")
        kept = {file.name, f"best-{best}.safetensors"}
        for kind in ("step", "best"):
            for old in self.path.glob(f"{kind}-*.safetensors"):
                if old.name not in kept:
                    old.unlink()

    def write_best(self, step: int, state: Mapping[str, Tensor]) -> None:
        """The best weights so far, of after `step` mini-batches."""
        if self.writer:
            self.path.mkdir(parents=True, exist_ok=True)
            write_tensors(self.path / f"best-{step}.safetensors", state)

    def read_best(self, step: int) -> dict[str, Tensor]:
        """What `write_best` wrote."""
        return read_tensors(self.path / f"best-{step}.safetensors")


def load_model(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """A state dict into a model of the same kind.

    Raises:  CheckpointError where it is of another one, which stays as it is.
    """
    mine = {k: v.shape for k, v in model.state_dict().items()}
    theirs = {k: v.shape for k, v in state.items()}
    if wrong := sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k)):
        raise CheckpointError(
            f"the checkpoint is of another model: {wrong[0]!r} and {len(wrong) - 1} other tensors "
            "are not there or not alike; name another folder"
        )
    try:
        with torch.no_grad():
            model.load_state_dict(dict(state))
    except RuntimeError as error:
        text = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"the checkpoint is of another model ({text})") from None
