"""What a training can be asked for, with the checks that need no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from aimc_bridge.errors import UsageError
from aimc_bridge.training.batches import Split

Loss = Callable[[nn.Module, Any], Tensor]
Validate = Callable[[nn.Module], float | Mapping[str, float]]


class Stateful(Protocol):
    """What `loss` carries from one mini-batch to the next, as the state of a recurrent model."""

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors, those of the process that asks."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""


@dataclass(kw_only=True)
class Options:
    """What `train` is asked for beside model, data and recipe.

    The signature of `train` lists and explains the options for users; a test holds both together.
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
        if self.keep not in ("last", "best"):
            raise UsageError(f'keep={self.keep!r}; allowed: "last" or "best"')
        if self.keep == "best" and self.validate is None:
            raise UsageError('keep="best" needs validate=: model -> a loss on held-out data')
        if self.resume and self.folder is None:
            raise UsageError("resume=True needs folder=, where the checkpoint is")
        for name in ("max_batches", "validate_every", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}={value}; allowed: 1 or more mini-batches")

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
