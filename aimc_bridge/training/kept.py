"""What is kept of a training: where it is, its checkpoints, validation's best weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from aimc_bridge.training.batches import Order
from aimc_bridge.training.checkpoint import (
    Folder,
    load_model,
    optimizer_state,
    restore_optimizer,
)
from aimc_bridge.training.options import Options
from aimc_bridge.training.progress import FILE, Report, read_rows

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.optim import Optimizer


@dataclass
class State:
    """Where a run is: all of it but tensors, JSON-safe, kept in its checkpoints.

    step, epoch, position    mini-batches done; the next one's epoch and place in it
    trained                  mini-batches at the last optimizer step
    epoch_loss, epoch_count  sum of this epoch's losses, before distillation, and their number
    best_loss, best_step     lowest loss of validation, and the mini-batches done then
    stalls                   validations that did not better it
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


class Kept:
    """A training's state, and its folder where it has one.

    Args:    claim  what must be the same for a run in the folder to be gone on with.
    Raises:  what `Folder` does where the folder holds another run or is damaged.
    """

    def __init__(
        self, model: nn.Module, options: Options, accelerator: Accelerator, claim: dict[str, Any]
    ) -> None:
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
        """The folder, where this process writes into it."""
        return self.folder.path if self.folder is not None and self.folder.writer else None

    def judge(self, loss: float, weights: bool) -> None:
        """Better than all before, or one stall more.

        Args:    weights  whether the model has the weights that the loss was measured with.
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

    def save(self, optimizer: Optimizer, order: Order, report: Report, *, final: bool) -> None:
        """A checkpoint, where there is a folder: the final one, or when it is time for another."""
        every, step = self.options.checkpoint_every, self.state.step
        if self.folder is None or not (final or step // every > self.saved // every):
            return
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        kept, plain = optimizer_state(optimizer)
        tensors |= {f"optimizer.{key}": value for key, value in kept.items()}
        for rank, mine in enumerate(self._carried()):
            tensors |= {f"carried.{rank}.{key}": value for key, value in mine.items()}
        for index, generator in enumerate(order.now(self.state.position == 0)):
            tensors[f"generator.{index}"] = generator
        scaler = getattr(self.accelerator, "scaler", None)  # of float16 alone
        facts = {
            "state": asdict(self.state),
            "optimizer": plain,
            "metrics": report.metrics,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "best_step": self.state.best_step if self.options.keep == "best" else None,
        }
        self.folder.write(step, facts, tensors)
        self.saved = step

    def _carried(self) -> list[dict[str, Tensor]]:
        """What each replica carries."""
        if self.options.carried is None:
            return []
        mine = {k: v.detach().cpu() for k, v in self.options.carried.state_dict().items()}
        if self.accelerator.num_processes == 1:
            return [mine]
        from accelerate.utils import gather_object

        found: list[dict[str, Tensor]] = gather_object([mine])
        return found

    def resume(
        self, optimizer: Optimizer
    ) -> tuple[list[dict[str, float]], list[str], list[Tensor] | None]:
        """Become what the last checkpoint holds.

        Returns: rows before it, names of validation's columns, the loader's generators.
        """
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is None or self.folder is None:
            return [], [], None
        facts, tensors = checkpoint
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            parts.setdefault(kind, {})[name] = value
        load_model(self.model, parts.get("model", {}))
        restore_optimizer(optimizer, parts.get("optimizer", {}), facts["optimizer"])
        self.state = State(**facts["state"])
        self.saved = self.state.step
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and facts["scaler"] is not None:
            scaler.load_state_dict(facts["scaler"])
        if self.options.carried is not None:
            mine = f"{self.accelerator.process_index}."
            carried = parts.get("carried", {})
            self.options.carried.load_state_dict(
                {k.removeprefix(mine): v for k, v in carried.items() if k.startswith(mine)}
            )
        if facts["best_step"] is not None:
            self.best = self.folder.read_best(facts["best_step"])
        generators = parts.get("generator", {})
        rows = read_rows(self.folder.path / FILE, self.state.step)
        return rows, facts["metrics"], [generators[str(index)] for index in range(len(generators))]

    def choose(self) -> None:
        """At the end the best weights take the place of the last, where they were asked for."""
        if self.options.keep == "best" and self.best is not None:
            load_model(self.model, self.best)
