"""Hardware-aware training in the Trainer of Hugging Face transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers.trainer_callback import (
    ExportableState,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)
from transformers.training_args import TrainingArguments

from aimc_bridge.errors import CapabilityError
from aimc_bridge.integrations.sessions import Sessions
from aimc_bridge.spec import TrainingSpec
from aimc_bridge.spec.base import Spec
from aimc_bridge.training.schedule import HWATraining

_NAME = "HardwareAwareCallback"


class HardwareAwareCallback(TrainerCallback, ExportableState):
    """Trains a converted model to tolerate its chip's noise: `Trainer(callbacks=[...])`.

    It does what `hardware_aware` does: every mini-batch has its own noisy copy of each weight
    matrix, from the first on, evaluation has the clean weights, and after each step of the
    optimizer weights are clipped and remapped. With gradient accumulation each backward pass counts
    as a mini-batch. The Trainer's checkpoints hold the place in the training, so that
    `resume_from_checkpoint` goes on with the same numbers.

    Optimizer, learning rates, clipping of gradients and loss are the Trainer's. Its `weight_decay`
    also acts on the input ranges and column scales that the recipe learns.

    Attributes:
        sessions: The open sessions.
    """

    def __init__(self, recipe: HWATraining | Mapping[str, Any], seed: int = 0) -> None:
        """Remember a recipe.

        Pass the callback in `Trainer(callbacks=[...])`, not in `add_callback`: what the recipe
        learns must ask for gradients before the Trainer makes its optimizer.

        Args:
            recipe: What noise is injected; see `HWATraining.for_`. (The Trainer itself may give it
                as the plain data of a checkpoint.)
            seed: Seed of the noise.

        Raises:
            UsageError: If the recipe is none.
        """
        if isinstance(recipe, Mapping):
            spec = Spec.from_dict(recipe["spec"])
            assert isinstance(spec, TrainingSpec)
            recipe = HWATraining(recipe["name"], spec)
        self.sessions = Sessions(recipe, seed)

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let what the recipe learns ask for gradients, before the optimizer is made.

        Args:
            args: The Trainer's arguments.
            state: The Trainer's state.
            control: The Trainer's control.
            **kwargs: The model, among others.
        """
        self.sessions.ask_for_gradients(kwargs["model"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin to inject noise.

        Args:
            args: The Trainer's arguments.
            state: The Trainer's state.
            control: The Trainer's control.
            **kwargs: The model, the optimizer and the loader, among others.

        Raises:
            CapabilityError: If the Trainer splits the model, or copies it to several GPUs in one
                process.
            AimcError: As in `hardware_aware`.
        """
        if args.n_gpu > 1 or args.fsdp or args.deepspeed:
            raise CapabilityError(
                "hardware-aware training needs the whole model in each process; allowed: one GPU "
                "or CPU per process, several with torchrun (DistributedDataParallel), without "
                "FSDP, DeepSpeed and DataParallel"
            )
        model: nn.Module = kwargs["model"]
        optimizer: Optimizer = kwargs["optimizer"]
        states: Any = state.stateful_callbacks  # plain data by now
        saved = states.setdefault(_NAME, {}) if state.global_step else {}
        progress = saved.get("attributes", {}).get("progress")
        self.sessions.progress = {}
        batches = _mini_batches(args, state, kwargs.get("train_dataloader"))
        self.sessions.open(model, [optimizer], batches, progress)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the noise: the model has its clean trained weights.

        Args:
            args: The Trainer's arguments.
            state: The Trainer's state.
            control: The Trainer's control.
            **kwargs: Not used.
        """
        self.close()

    def close(self) -> None:
        """End the noise, after a training that was interrupted by an error.

        The Trainer tells its callbacks nothing of errors. The next training of the same model
        closes what an interrupted one left, too.
        """
        self.sessions.close()

    @property
    def progress(self) -> dict[str, Any]:
        """Return the place in the training, for the Trainer's checkpoints."""
        return self.sessions.now()

    @progress.setter
    def progress(self, progress: dict[str, Any]) -> None:
        """Take the place from a checkpoint; the Trainer does so if it restores callbacks."""
        self.sessions.progress = progress

    def state(self) -> dict[str, Any]:
        """Return what the Trainer's checkpoints hold of this callback."""
        recipe = self.sessions.recipe
        return {
            "args": {
                "recipe": {"name": recipe.name, "spec": recipe.spec.to_dict()},
                "seed": self.sessions.seed,
            },
            "attributes": {"progress": self.progress},
        }


def _mini_batches(args: TrainingArguments, state: TrainerState, loader: Any) -> int:
    """Return the number of mini-batches of the whole training in each process."""
    try:
        length = len(loader)
    except TypeError:
        length = 0
    if args.max_steps > 0 or not length:
        return int(state.max_steps) * int(args.gradient_accumulation_steps)
    return math.ceil(float(args.num_train_epochs) * length)
