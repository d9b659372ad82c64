"""Checkpoints of a training: its state, weights and validation's best weights.

Tensors are written as safetensors, everything else as a small JSON file.

A folder holds `step-N.safetensors` and `checkpoint.json`, which names it and is written last. So a
process that is killed at any moment leaves a whole checkpoint. If the best weights are kept,
`best-N.safetensors` holds them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from aimc_bridge.errors import CheckpointError, UsageError
from aimc_bridge.files import check_writable
from aimc_bridge.sealed_files import misfits, read_facts, read_sealed, write_facts, write_tensors
from aimc_bridge.training.batches import Order
from aimc_bridge.training.options import Options
from aimc_bridge.training.progress import FILE, TrainingLog, read_rows

if TYPE_CHECKING:
    from accelerate import Accelerator

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
    state = _by_parameter(optimizer, tensors, plain)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _by_parameter(
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
            raise CheckpointError(
                f"{pointer}: no record of a training to go on with ({error}); remove the folder to "
                "start over"
            ) from None
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


@dataclass
class State:
    """The place of a run and its losses so far, JSON-safe, kept in its checkpoints.

    Attributes:
        step: Number of mini-batches done.
        epoch: Epoch of the next mini-batch.
        position: Place of the next mini-batch in its epoch.
        trained: Number of mini-batches done at the last optimizer step.
        epoch_loss: Sum of this epoch's losses, before distillation.
        epoch_count: Number of these losses.
        best_loss: Lowest loss of validation, or of an epoch if there is no validation.
        best_step: Number of mini-batches done at that loss.
        stalls: Number of validations that were no better than the best before.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    trained: int = 0
    epoch_loss: float = 0.0
    epoch_count: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    stalls: int = 0


def _state_of(facts: Mapping[str, Any]) -> State:
    """Return the state of a checkpoint.

    Raises:
        TypeError: If a value is missing, unknown, or of another kind.
    """
    state = State(**facts)
    for field in fields(State):
        value, kinds = getattr(state, field.name), (int, float) if "loss" in field.name else (int,)
        optional = field.default is None
        if not (type(value) in kinds or (optional and value is None)):
            raise TypeError(f"{field.name} {value!r}")
    return state


class Kept:
    """A training's state, and its folder if it has one.

    Attributes:
        model: The model that is trained.
        options: The options of the training.
        accelerator: The Accelerator of the training.
        state: Where the run is.
        saved: Number of mini-batches done at the last checkpoint.
        best: Weights of the lowest loss of validation, on the CPU; None if they are not kept.
        folder: The folder of the checkpoints, or None.
    """

    def __init__(
        self, model: nn.Module, options: Options, accelerator: Accelerator, claim: dict[str, Any]
    ) -> None:
        """Open the folder, if there is one, and read its last checkpoint.

        Args:
            model: The model that is trained.
            options: The options of the training.
            accelerator: The Accelerator of the training.
            claim: Arguments that must match for a resume.

        Raises:
            UsageError: If the folder holds a training and `resume` is off, or another training.
            CheckpointError: If the checkpoint is damaged.
        """
        self.model, self.options, self.accelerator = model, options, accelerator
        self.state, self.saved = State(), 0
        self.best: dict[str, Tensor] | None = None
        self.folder: Folder | None = None
        self._checkpoint: tuple[dict[str, Any], dict[str, Tensor]] | None = None
        if options.folder is not None:
            writer = accelerator.is_main_process
            self.folder = Folder(Path(options.folder), claim, options.resume, writer)
            self._checkpoint = self.folder.read()

    @property
    def path(self) -> Path | None:
        """Return the folder if this process writes into it, else None."""
        return self.folder.path if self.folder is not None and self.folder.writer else None

    def judge(self, loss: float, weights: bool) -> None:
        """Record a loss: it is the best so far, or one more stall.

        Args:
            loss: The loss of a validation or an epoch.
            weights: Whether the model still has the weights that the loss was measured with.
        """
        state = self.state
        if state.best_loss is not None and loss >= state.best_loss:
            state.stalls += 1
            return
        state.best_loss, state.best_step = loss, state.step
        if self.options.keep == "best" and weights:
            self.best = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
            if self.folder is not None:
                self.folder.write_best(state.step, self.best)

    def save(self, optimizer: Optimizer, order: Order, log: TrainingLog, *, final: bool) -> None:
        """Write a checkpoint if there is a folder and it is time for one.

        Args:
            optimizer: The optimizer.
            order: The order of the mini-batches.
            log: The log of the training.
            final: Whether this is the end of the run, which always gets a checkpoint.
        """
        every, step = self.options.checkpoint_every, self.state.step
        if self.folder is None or not (final or step // every > self.saved // every):
            return
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        optimizer_tensors, plain = optimizer_state(optimizer)
        tensors |= {f"optimizer.{key}": value for key, value in optimizer_tensors.items()}
        for rank, carried in enumerate(self._carried()):
            tensors |= {f"carried.{rank}.{key}": value for key, value in carried.items()}
        for index, generator in enumerate(order.now(self.state.position == 0)):
            tensors[f"generator.{index}"] = generator
        scaler = getattr(self.accelerator, "scaler", None)  # only float16 has one
        facts = {
            "state": asdict(self.state),
            "optimizer": plain,
            "metrics": log.metrics,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "best_step": self.state.best_step if self.options.keep == "best" else None,
        }
        self.folder.write(step, facts, tensors)
        self.saved = step

    def _carried(self) -> list[dict[str, Tensor]]:
        """Return the tensors that each replica's loss carries from batch to batch."""
        if self.options.carried is None:
            return []
        carried = {k: v.detach().cpu() for k, v in self.options.carried.state_dict().items()}
        if self.accelerator.num_processes == 1:
            return [carried]
        from accelerate.utils import gather_object

        gathered: list[dict[str, Tensor]] = gather_object([carried])
        return gathered

    def resume(
        self, optimizer: Optimizer
    ) -> tuple[list[dict[str, float]], list[str], list[Tensor] | None]:
        """Load the last checkpoint into the model, the optimizer and this state.

        Args:
            optimizer: The optimizer, which is changed.

        Returns:
            The rows before the checkpoint, the names of validation's columns, and the states of the
            loader's generators; empty and None if there is no checkpoint.

        Raises:
            CheckpointError: If the checkpoint belongs to another model or is damaged.
        """
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is None or self.folder is None:
            return [], [], None
        facts, tensors = checkpoint
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            parts.setdefault(kind, {})[name] = value
        if unknown := sorted(parts.keys() - {"model", "optimizer", "carried", "generator"}):
            raise CheckpointError(
                f"the checkpoint is of another model, or damaged: it holds {unknown[0]!r}; name "
                "another folder"
            )
        rank = f"{self.accelerator.process_index}."
        carried = {
            k.removeprefix(rank): v
            for k, v in parts.get("carried", {}).items()
            if k[: len(rank)] == rank
        }
        scaler = getattr(self.accelerator, "scaler", None)
        try:
            state, best_step = _state_of(facts["state"]), facts["best_step"]
            plain, scales, metrics = facts["optimizer"], facts["scaler"], list(facts["metrics"])
            generators = parts.get("generator", {})
            order = [generators[str(index)] for index in range(len(generators))]
            _by_parameter(optimizer, parts.get("optimizer", {}), plain)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{self.folder.path / POINTER}: no record of a training to go on with ({error}); "
                "remove the folder to start over"
            ) from None
        rows = read_rows(self.folder.path / FILE, state.step)
        best = None if best_step is None else self.folder.read_best(best_step)
        for weights in (parts.get("model", {}), *([] if best is None else [best])):
            check_fits(self.model, weights)
        # all is checked: from here on, things change
        load_model(self.model, parts.get("model", {}))
        restore_optimizer(optimizer, parts.get("optimizer", {}), plain)
        self.state, self.saved, self.best = state, state.step, best
        if scaler is not None and scales is not None:
            scaler.load_state_dict(scales)
        if self.options.carried is not None:
            self.options.carried.load_state_dict(carried)
        return rows, metrics, order

    def choose(self) -> None:
        """Load the best weights into the model at the end, if they were asked for."""
        if self.options.keep == "best" and self.best is not None:
            load_model(self.model, self.best)
