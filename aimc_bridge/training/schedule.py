"""A recipe, and what follows from it alone: optimizer, learning rates, dropout rates."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from aimc_bridge.converted import is_converted, matrices_of
from aimc_bridge.errors import UsageError
from aimc_bridge.spec import Preset, Source, TrainingSpec
from aimc_bridge.spec.base import reason


@dataclass(frozen=True)
class HWATraining:
    """A recipe: the TrainingSpec of a preset for one kind of model, possibly changed."""

    name: str
    spec: TrainingSpec

    @staticmethod
    def for_(preset: Preset, name: str) -> HWATraining:
        """The recipe of that name.

        Raises:  UnknownNameError that lists the recipes of the preset.
        """
        return HWATraining(f"{preset.name}/{name}", preset.training[name])

    def override(self, why: str = "override", **fields: Any) -> HWATraining:
        """Return a copy with other values: `change`, for which a reason need not be given.

        Args:
            why: The reason, which becomes the source of the new values.
            **fields: field=value.

        Raises:
            SpecError: As `change`.
        """
        return self.change(why=why, **fields)

    def change(self, *, why: str, **fields: Any) -> HWATraining:
        """Return a copy with other values.

        Args:
            why: The reason, which becomes the source of the new values.
            **fields: field=value.

        Raises:
            SpecError: If there is no reason, no such field (the error lists the fields), or a value
                is out of range.
        """
        source = Source("changed", reason(why), self.name)
        return replace(self, spec=self.spec.change(why=source, **fields))


def default_optimizer(model: nn.Module, spec: TrainingSpec) -> Optimizer:
    """The recipe's; weight decay on weights of two or more dimensions of the layers only."""
    matrices = matrices_of(model).values() if is_converted(model) else ()
    periphery = {id(p) for m in matrices for ps in m.periphery().values() for p in ps}
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and id(parameter) not in periphery
            groups[decays].append(parameter)
    parts = [
        {"params": groups[True], "weight_decay": spec.weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]
    if spec.optimizer == "adamw":
        return torch.optim.AdamW(parts, lr=spec.learning_rate, fused=True)
    return torch.optim.SGD(parts, lr=spec.learning_rate, momentum=spec.momentum)


def check_optimizer(optimizer: Optimizer, model: nn.Module) -> None:
    """Raises UsageError where the optimizer trains nothing of the model."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    if not any(id(p) in trainable for p in parameters):
        raise UsageError(
            f"optimizer: none of its {len(parameters)} parameters is a trainable parameter of the "
            f"{type(model).__name__} to train, which would stay as it is; build it over "
            "model.parameters() of this very model: the converted one, not the digital one that it "
            "was made of"
        )


def learning_rate_factor(
    spec: TrainingSpec, step: int, epoch: int, total: int | None = None, stalls: int = 0
) -> float:
    """Factor on the learning rate in mini-batch `step` of all, epoch `epoch` (both from 0).

    Args:    total  mini-batches of the whole run: a linear or cosine schedule ends there.
             stalls  how often validation stalled so far.
    """
    if step < spec.warmup_batches:
        factor = spec.warmup_factor
    elif spec.lr_schedule == "constant" or total is None:
        factor = 1.0
    else:
        left = (total - step) / max(1, total - spec.warmup_batches)
        cosine = 0.5 * (1.0 - math.cos(math.pi * left))
        factor = left if spec.lr_schedule == "linear" else cosine
    drops = sum(epoch >= at for at in spec.lr_drop_epochs)
    if spec.lr_drop_on_stall:
        drops += stalls
    return float(factor * spec.lr_drop_factor**drops)


# --- dropout ---

Rates = list[tuple[nn.Module, str, float]]

_ENDINGS = ("dropout", "dropout_p", "dropout_prob")


def rates(model: nn.Module) -> Rates:
    """Where a model keeps its rates: module, attribute, rate.

    Those of torch's dropout layers, and of modules that keep a rate themselves: recurrent and
    attention layers, converted or not, and Hugging Face's.
    """
    found: Rates = []
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            found.append((module, "p", module.p))
            continue
        for name, value in vars(module).items():
            if name.endswith(_ENDINGS) and type(value) in (int, float):
                found.append((module, name, value))
    return found


def set_rates(found: Rates, rate: float) -> None:
    """The same rate everywhere."""
    for module, name, _ in found:
        setattr(module, name, rate)


def put_back(found: Rates) -> None:
    """The rates that `rates` found."""
    for module, name, value in found:
        setattr(module, name, value)
