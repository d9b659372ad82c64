"""The state of a training, and its checkpoints and best weights if it keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from aimc_bridge.errors import CheckpointError
from aimc_bridge.training.batches import Order
from aimc_bridge.training.checkpoint import (
    POINTER,
    Folder,
    by_parameter,
    check_fits,
    load_model,
    optimizer_state,
    restore_optimizer,
)
from aimc_bridge.training.options import Options
from aimc_bridge.training.progress import FILE, TrainingLog, read_rows

if TYPE_CHECKING:
    from accelerate import Accelerator


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
            by_parameter(optimizer, parts.get("optimizer", {}), plain)
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
