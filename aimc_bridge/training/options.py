"""The options of a training, with the checks that need no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from accelerate.utils import DynamoBackend
from torch import Tensor, nn
from torch.optim import Optimizer

from aimc_bridge.arguments import choice, flag, function, instance, integer, number, path
from aimc_bridge.errors import UsageError, shown
from aimc_bridge.training.batches import Split
from aimc_bridge.training.schedule import HWATraining

Loss = Callable[[nn.Module, Any], Tensor]
Validate = Callable[[nn.Module], float | Mapping[str, float]]


class Stateful(Protocol):
    """The values that `loss` carries from one mini-batch to the next.

    An example is the state of a recurrent model.
    """

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of this process."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put back the tensors that `state_dict` returned.

        Args:
            state: The tensors by name.
        """


@dataclass(kw_only=True)
class Options:
    """The options of `train`, beside model, loader, loss and recipe.

    The docstring of `train` explains each of them for users; a test holds the two together.
    """

    teacher: nn.Module | None = None
    optimizer: Optimizer | None = None
    seed: int = 0
    max_batches: int | None = None
    progress: bool = True
    validate: Validate | None = None
    validate_every: int | None = None
    keep: str = "last"
    chance_loss: float | None = None
    folder: str | Path | None = None
    checkpoint_every: int = 500
    resume: bool = False
    carried: Stateful | None = None
    split: Split | None = None
    compile: bool | str = False

    def __post_init__(self) -> None:
        """Check the options that need no model."""
        self.seed = integer("seed", self.seed)
        self.progress = flag("progress", self.progress)
        self.resume = flag("resume", self.resume)
        choice("keep", self.keep, ("last", "best"))
        self._check_objects()
        if self.keep == "best" and self.validate is None:
            raise UsageError('keep="best" needs validate=: model -> a loss on held-out data')
        if self.resume and self.folder is None:
            raise UsageError("resume=True needs folder=, where the checkpoint is")
        for name in ("max_batches", "validate_every", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None or name == "checkpoint_every":
                value = integer(f"{name} (mini-batches)", value, least=1, most=2**62)
            setattr(self, name, value)
        if self.chance_loss is not None:
            self.chance_loss = number("chance_loss (or None)", self.chance_loss)

    def _check_objects(self) -> None:
        """Check the options that are objects: models, functions, paths."""
        kinds: dict[str, tuple[type, str]] = {
            "teacher": (nn.Module, "a digital model"),
            "optimizer": (Optimizer, "an optimizer of torch"),
        }
        for name, (kind, example) in kinds.items():
            if getattr(self, name) is not None:
                instance(name, getattr(self, name), kind, f"{example}, or None")
        for name, example in (
            ("validate", "a function of the model"),
            ("split", "a function (batch, index, count) -> part of the batch"),
        ):
            if getattr(self, name) is not None:
                function(name, getattr(self, name), f"{example}, or None")
        if self.folder is not None:
            self.folder = path("folder (or None)", self.folder)
        if isinstance(self.compile, str):
            backends = [backend.value.lower() for backend in DynamoBackend]
            choice("compile", self.compile.lower(), [*backends, ""])
        else:
            self.compile = flag("compile (or the name of a backend)", self.compile)
        methods = (getattr(self.carried, name, None) for name in ("state_dict", "load_state_dict"))
        if self.carried is not None and not all(map(callable, methods)):
            raise UsageError(
                f"carried={shown(self.carried)}; allowed: an object with state_dict and "
                "load_state_dict, or None"
            )

    @classmethod
    def among(cls, arguments: Mapping[str, Any]) -> tuple[Options, dict[str, Any]]:
        """Take the options out of keyword arguments.

        Args:
            arguments: Keyword arguments, some of which are options.

        Returns:
            The options, and the arguments that are none.

        Raises:
            UsageError: If an option has a value that is not allowed.
        """
        names = {field.name for field in fields(cls)}
        options = cls(**{key: value for key, value in arguments.items() if key in names})
        return options, {key: value for key, value in arguments.items() if key not in names}


def check_recipe(recipe: object) -> None:
    """Raise an error if a recipe is none.

    Args:
        recipe: What was given as a recipe.

    Raises:
        UsageError: If it is no HWATraining.
    """
    if not isinstance(recipe, HWATraining):
        raise UsageError(
            f"recipe is {shown(recipe)}; allowed: HWATraining.for_(preset), or "
            "HWATraining.for_(preset, name) with the names of preset.training"
        )
