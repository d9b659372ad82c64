"""Training of a converted model, and its control: training of the digital model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from aimc_bridge import rng
from aimc_bridge.arguments import function, iterable, module
from aimc_bridge.converted import matrices_of, record_of
from aimc_bridge.errors import SpecError, StateError, UsageError
from aimc_bridge.training.batches import Passing, Split
from aimc_bridge.training.loop import Run
from aimc_bridge.training.options import Loss, Options, Stateful, Validate, check_recipe
from aimc_bridge.training.schedule import HWATraining

if TYPE_CHECKING:
    import pandas as pd
    from torch.optim import Optimizer


@contextmanager
def accelerate_state() -> Iterator[None]:
    """Forget at the end of the block what Accelerate set up in it; also a decorator.

    Otherwise the next training in this process could not use another device or precision.
    """
    from accelerate.state import AcceleratorState, GradientState, is_initialized

    before = is_initialized()
    try:
        yield
    finally:
        if not before and is_initialized():
            AcceleratorState._reset_state(AcceleratorState().num_processes == 1)
            GradientState._reset_state()


@rng.alone()
@accelerate_state()
def train(
    model: nn.Module,
    loader: Iterable[Any],
    loss: Loss,
    *,
    recipe: HWATraining,
    teacher: nn.Module | None = None,
    optimizer: Optimizer | None = None,
    seed: int = 0,
    max_batches: int | None = None,
    progress: bool = True,
    validate: Validate | None = None,
    validate_every: int | None = None,
    keep: str = "last",
    chance_loss: float | None = None,
    folder: str | Path | None = None,
    checkpoint_every: int = 500,
    resume: bool = False,
    carried: Stateful | None = None,
    split: Split | None = None,
    compile: bool | str = False,
    **accelerate: Any,
) -> pd.DataFrame:
    """Train a converted model to tolerate its chip's noise.

    In every mini-batch each weight matrix is replaced by a noisy copy in forward and backward pass
    (one draw per matrix and mini-batch, from the first on), and the gradient goes to the clean
    weights. After a step of the optimizer the weights are clipped and, from time to time, their
    columns are scaled again. Frozen weights (`requires_grad` False) stay as they are. The model is
    trained in place; afterwards its modes, dropout rates and forward are as before, also after an
    error.

    Args:
        model: A converted model of either engine, without a programmed chip.
        loader: Mini-batches, such as a DataLoader or a list; it is iterated again in each epoch.
        loss: A function (model, batch) -> scalar tensor.
        recipe: What noise is injected and how the model is trained; see `HWATraining.for_`.
        teacher: The digital model, for a recipe with distillation. It is called with the arguments
            that `loss` calls the model with, so `loss` must call the model itself then.
        optimizer: Any optimizer over all of `model.parameters()` or some of them. None makes the
            recipe's, with weight decay on weight matrices only. Input ranges and column scales
            require gradients only from this call on.
        seed: Seed of the injected noise, per layer, step and process. It also seeds torch's default
            generator in each mini-batch, and for the loader in each epoch.
        max_batches: Number of mini-batches after which the training stops; None trains all epochs.
        progress: Whether a bar with loss, noise and learning rate is shown on standard error.
        validate: A function of the model, which is in eval mode with clean weights. It returns a
            loss (lower is better), or a dict of numbers with "loss" among them. It may program a
            chip and must restore the model then.
        validate_every: Number of mini-batches between two validations; None validates at the end of
            each epoch. The last mini-batch is always followed by a validation.
        keep: "last" keeps the weights of the end, "best" those of validation's lowest loss.
        chance_loss: Loss of a guess, ln K for K classes. An epoch that is no better is an error.
        folder: Where metrics.csv, tensorboard/ (if TensorBoard is installed) and checkpoints go.
            None writes nothing.
        checkpoint_every: Number of mini-batches between two checkpoints. The last mini-batch is
            always followed by one.
        resume: Whether to continue from the checkpoint in `folder`, if there is one. The weights
            are then those of a run without an interruption (bit for bit on the CPU). `loader`,
            `loss`, `optimizer` and `carried` must be made as before, and the workers of a
            DataLoader must not draw from other generators than torch's.
        carried: An object with `state_dict` and `load_state_dict` that holds what `loss` carries
            from batch to batch, for checkpoints.
        split: A function (batch, index, count) -> this replica's part of a mini-batch, for several
            processes. Without it, replicas take turns with the batches, unless the loader is a
            DataLoader, which is split by itself.
        compile: True compiles everything between the analog products with torch.compile and
            inductor; a text names another backend. Native engine only.
        **accelerate: Arguments of `accelerate.Accelerator`: mixed_precision,
            gradient_accumulation_steps, cpu and so on. With gradient_accumulation_steps=n the
            optimizer steps after every n-th mini-batch of an epoch, for every kind of loader, and
            also after the last mini-batch of an epoch and of the run. As in Accelerate, every loss
            is divided by n, even if fewer than n are left. Everything else counts mini-batches.

    Returns:
        A DataFrame with one row per mini-batch and the columns `step`, `epoch`, `loss`,
        `noise_scale` and `learning_rate`, and `validation_...` columns if there is a validation.
        With several processes the losses are those of this process.

    Raises:
        StateError: If a chip is programmed.
        SpecError: If the recipe distils and there is no teacher.
        TrainingError: If the loader is empty, a loss is not finite, an epoch is no better than a
            guess, or the recipe distils and `loss` does not call the model.
        UsageError: If an option is not allowed, the folder holds another training, or the optimizer
            belongs to another model.
        CheckpointError: If the folder is damaged.
        CapabilityError: If the model is not a converted one, or the engine cannot compile.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from aimc_bridge import HWATraining, calibrate, convert, train
        >>> from presets import rasch2023
        >>> inputs, labels = torch.randn(64, 12), torch.randint(2, (64,))
        >>> model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> def loss(model, batch):
        ...     return nn.functional.cross_entropy(model(batch[0]), batch[1])
        >>> analog = convert(model, rasch2023)
        >>> calibrate(analog, [inputs])
        >>> recipe = HWATraining.for_(rasch2023, "wrn16").override(epochs=2, ramp_batches=4)
        >>> loader = [(inputs[:32], labels[:32]), (inputs[32:], labels[32:])]
        >>> table = train(analog, loader, loss, recipe=recipe, teacher=model, progress=False)
        >>> list(table["epoch"])
        [0, 0, 1, 1]

    Source: rasch2023 SI A.1, SI Table 3.
    """
    options, _ = Options.among(locals())
    _check_data(loader, loss)
    record = record_of(model)
    _check(recipe, teacher)
    if record.chip is not None:
        raise StateError("train: the model holds a programmed chip; call restore(model) first")
    return Run(model, matrices_of(model), loader, loss, recipe, options, accelerate).go()


@rng.alone()
@accelerate_state()
def train_digital(
    model: nn.Module, loader: Iterable[Any], loss: Loss, *, recipe: HWATraining, **options: Any
) -> pd.DataFrame:
    """Train a digital model without a chip, as the control of `train`.

    The number of steps is the same. Optimizer, schedule, gradient clipping, distillation, data and
    their order are the recipe's. There is no noise, no drop-connect, no clipping or remapping of
    weights, and there are no converters.

    Args:
        model: A digital model.
        loader: As in `train`.
        loss: As in `train`.
        recipe: As in `train`.
        **options: The other arguments of `train`.

    Returns:
        As in `train`; the noise scale is 0.

    Raises:
        AimcError: As in `train`.
    """
    chosen, accelerate = Options.among(options)
    module("model", model)
    _check_data(loader, loss)
    _check(recipe, chosen.teacher)
    unaware = recipe.override("control: no noise", noise_type="none", noise_scale=0.0)
    return Run(model, {}, loader, loss, unaware, chosen, accelerate).go()


def _check_data(loader: Iterable[Any], loss: Loss) -> None:
    """Raise UsageError if there is nothing to iterate, or no loss."""
    if isinstance(loader, Tensor | Mapping | str):
        raise UsageError(
            f"loader is one {type(loader).__name__}; allowed: an iterable of mini-batches, such as "
            "a DataLoader"
        )
    if not isinstance(loader, Passing):
        iterable("loader", loader, "an iterable of mini-batches, such as a DataLoader")
    function("loss", loss, "a function (model, batch) -> a tensor of one number")


def _check(recipe: HWATraining, teacher: nn.Module | None) -> None:
    """Raise an error if the recipe is none, or distils without a teacher."""
    check_recipe(recipe)
    if recipe.spec.distill_weight > 0 and teacher is None:
        raise SpecError(
            f"recipe {recipe.name!r} distils (distill_weight={recipe.spec.distill_weight}); pass "
            "teacher=digital_model or recipe.override(distill_weight=0.0)"
        )
