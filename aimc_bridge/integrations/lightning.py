"""Hardware-aware training in the Trainer of Lightning."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from aimc_bridge.integrations.sessions import Sessions
from aimc_bridge.training.schedule import HWATraining

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    try:
        from lightning.pytorch import Callback, LightningModule, Trainer
    except ImportError:  # the same library under its older name
        from pytorch_lightning import Callback, LightningModule, Trainer


class HardwareAwareCallback(Callback):
    """Trains converted models to tolerate their chips' noise: `Trainer(callbacks=[...])`.

    It does what `hardware_aware` does for each converted model in the LightningModule: every
    mini-batch has its own noisy copy of each weight matrix, from the first on, validation has the
    clean weights, and after each step of an optimizer the weights that it trains are clipped and
    remapped. With gradient accumulation each backward pass counts as a mini-batch. Checkpoints hold
    the place in the training, so that `fit(ckpt_path=...)` goes on with the same numbers.

    Optimizers, learning rates, clipping of gradients and loss are yours. Make the optimizers over
    all parameters of the model, so that they train the input ranges and column scales too.

    Attributes:
        sessions: The open sessions.
    """

    def __init__(self, recipe: HWATraining, seed: int = 0) -> None:
        """Remember a recipe.

        Args:
            recipe: What noise is injected; see `HWATraining.for_`.
            seed: Seed of the noise.

        Raises:
            UsageError: If the recipe is none.
        """
        self.sessions = Sessions(recipe, seed)
        self._loaded: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let what the recipe learns ask for gradients, before optimizers are made.

        Args:
            trainer: The Trainer.
            pl_module: The LightningModule.
            stage: What begins; only "fit" is a training.

        Raises:
            UsageError: If no converted model is in the LightningModule.
        """
        if stage == "fit":
            self._loaded = None
            self.sessions.progress = {}
            self.sessions.ask_for_gradients(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to inject noise.

        Args:
            trainer: The Trainer.
            pl_module: The LightningModule.

        Raises:
            AimcError: As in `hardware_aware`.
        """
        optimizers = list(trainer.optimizers)
        self.sessions.open(pl_module, optimizers, _mini_batches(trainer), self._loaded)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the noise: the models have their clean trained weights.

        Args:
            trainer: The Trainer.
            pl_module: The LightningModule.
        """
        self.sessions.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """End the noise after an error.

        Args:
            trainer: The Trainer.
            pl_module: The LightningModule.
            exception: The error.
        """
        self.sessions.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the training, for Lightning's checkpoints."""
        return self.sessions.now()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the place in the training from a checkpoint.

        Args:
            state_dict: What `state_dict` returned.
        """
        self._loaded = state_dict


def _mini_batches(trainer: Trainer) -> int | None:
    """Return the number of mini-batches of the whole training in each process, if it is known."""
    length, epochs = trainer.num_training_batches, trainer.max_epochs
    known = [length * epochs] if epochs is not None and epochs > 0 else []
    if trainer.max_steps > 0 and trainer.lightning_module.automatic_optimization:
        known.append(trainer.max_steps * trainer.accumulate_grad_batches)
    least = min(known, default=math.inf)
    return None if math.isinf(least) else int(least)
