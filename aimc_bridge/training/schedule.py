"""Recipes, and what follows from them: optimizer, learning rates, dropout rates."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from aimc_bridge.converted import is_converted, matrices_of
from aimc_bridge.errors import UnknownNameError, UsageError, shown
from aimc_bridge.spec import Preset, Source, TrainingSpec
from aimc_bridge.spec.base import reason
from aimc_bridge.training import any_model

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class HWATraining:
    """A recipe: the TrainingSpec of a preset for one model or for any, possibly changed.

    Attributes:
        name: Preset and recipe, such as "rasch2023/wrn16" or "rasch2023/default".
        spec: The values, with their sources.
    """

    name: str
    spec: TrainingSpec

    def __post_init__(self) -> None:
        """Raise UsageError if this is no recipe."""
        if not isinstance(self.name, str):
            raise UsageError(f"name={shown(self.name)}; allowed: a text")
        if not isinstance(self.spec, TrainingSpec):
            raise UsageError(f"spec={shown(self.spec)}; allowed: a TrainingSpec")

    @staticmethod
    def for_(preset: Preset, name: str = any_model.NAME) -> HWATraining:
        """Return a recipe of a preset.

        Args:
            preset: The preset.
            name: Name of the recipe, a key of `preset.training`. Without it, this is the recipe for
                any model: ramp, warm-up and re-scaling are shares of the training's length, and the
                noise is that of the preset's device. `override(epochs=...)` sets the length.

        Raises:
            UnknownNameError: If the preset has no such recipe; the error lists its recipes.

        Examples:
            >>> from aimc_bridge import HWATraining
            >>> from presets import rasch2023
            >>> recipe = HWATraining.for_(rasch2023).override(epochs=2)
            >>> recipe.spec.ramp_share, recipe.spec.of_length(400).ramp_batches
            (0.1, 40)
        """
        if not isinstance(preset, Preset):
            raise UsageError(
                f"preset is {shown(preset)}; allowed: a Preset, such as presets.get('rasch2023')"
            )
        if isinstance(name, str) and name in preset.training:
            return HWATraining(f"{preset.name}/{name}", preset.training[name])
        if not isinstance(name, str) or name != any_model.NAME:
            raise UnknownNameError(
                f"preset {preset.name!r} has no recipe {shown(name)}; there are: "
                f"{', '.join((*preset.training, any_model.NAME))}"
            )
        return HWATraining(f"{preset.name}/{name}", any_model.recipe_for_any_model(preset))

    def override(self, why: str = "override", **fields: Any) -> HWATraining:
        """Return a copy with other values; like `change`, but a reason is not needed.

        Args:
            why: The reason, which becomes the source of the new values.
            **fields: The new values, as field=value.

        Raises:
            SpecError: If the reason is empty, there is no such field (the error lists the fields),
                or a value is out of range.
        """
        return self.change(why=why, **fields)

    def change(self, *, why: str, **fields: Any) -> HWATraining:
        """Return a copy with other values.

        Args:
            why: The reason, which becomes the source of the new values.
            **fields: The new values, as field=value.

        Raises:
            SpecError: If there is no reason, no such field (the error lists the fields), or a value
                is out of range.
        """
        source = Source("changed", reason(why), self.name)
        return replace(self, spec=self.spec.change(why=source, **fields))

    def explain(self) -> pd.DataFrame:
        """Return a table of every number with its source.

        Returns:
            A DataFrame as that of `Preset.explain`; the part is the recipe's name.
        """
        from aimc_bridge.spec.explanation import Explanation

        return Explanation.of({self.name: self.spec})


def default_optimizer(model: nn.Module, spec: TrainingSpec) -> Optimizer:
    """Return the recipe's optimizer over all parameters that require gradients.

    Weight decay acts only on the layers' weights of two or more dimensions, not on input ranges and
    column scales.

    Args:
        model: A converted or digital model.
        spec: The recipe.
    """
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
    """Raise UsageError if the optimizer trains no parameter of the model.

    Args:
        optimizer: The optimizer.
        model: The model that is to be trained.

    Raises:
        UsageError: If none of its parameters is a trainable parameter of the model.
    """
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
    """Return the factor on the learning rate in a mini-batch.

    Args:
        spec: The recipe.
        step: Number of the mini-batch in the run, from 0.
        epoch: Its epoch, from 0.
        total: Number of mini-batches of the run, at which a linear or cosine schedule ends.
        stalls: Number of validations so far that were no better than the best before.
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
    """Return where a model keeps its dropout rates: module, attribute, rate.

    It finds torch's dropout layers, and modules that keep a rate themselves: recurrent and
    attention layers, converted or not, and those of Hugging Face.

    Args:
        model: The model.
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
    """Set the same dropout rate everywhere.

    Args:
        found: The places, from `rates`.
        rate: The rate.
    """
    for module, name, _ in found:
        setattr(module, name, rate)


def put_back(found: Rates) -> None:
    """Put back the rates that `rates` found.

    Args:
        found: The places and rates, from `rates`.
    """
    for module, name, value in found:
        setattr(module, name, value)
