"""Training of a converted model, and its control: training of the digital one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from aimc_bridge.converted import matrices_of, record_of
from aimc_bridge.errors import SpecError, StateError, UsageError
from aimc_bridge.training.batches import Split
from aimc_bridge.training.loop import Run
from aimc_bridge.training.options import Loss, Options, Stateful, Validate
from aimc_bridge.training.schedule import HWATraining

if TYPE_CHECKING:
    import pandas as pd
    from torch.optim import Optimizer


@contextmanager
def accelerate_state() -> Iterator[None]:
    """Forget what Accelerate set up meanwhile, in one process; also a decorator.

    Else the next training could not ask for another device or precision.
    """
    from accelerate.state import AcceleratorState, GradientState, is_initialized

    before = is_initialized()
    try:
        yield
    finally:
        if not before and is_initialized():
            AcceleratorState._reset_state(AcceleratorState().num_processes == 1)
            GradientState._reset_state()


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
    """Train a converted model so that it bears its chip.

    In every mini-batch, from the first on, each weight matrix is replaced by a noisy copy (one draw
    a matrix and mini-batch) in forward and backward; the gradient goes to the clean weights. After
    the optimizer's step weights are clipped and, now and then, their columns scaled anew; frozen
    weights (`requires_grad` False) are left alone.

    Args:    model  a converted model, either engine, no chip programmed.
             loader  mini-batches, iterated anew each epoch.    loss  (model, batch) -> scalar.
             recipe  what to inject and how to train.    teacher  digital model for distillation,
             called with the arguments that `loss` calls the model with, as it must.
             optimizer  any, over all of `model.parameters()` or some of them: input ranges and
             column scales ask for gradients from here on only; default is the recipe's (weight
             decay on weight matrices only).
             seed  of the injected noise (by layer, step and process) and of torch's default
             generator, seeded anew in each mini-batch, and for the loader in each epoch.
             max_batches  stop after so many mini-batches.
             progress  show a bar with loss, noise and learning rate on standard error.
             validate  model, in eval mode, its weights clean -> a loss (lower is better) or a dict
             with "loss" among its numbers; it may program a chip, and must restore the model.
             validate_every  mini-batches between two of them; None: the end of each epoch. The
             last mini-batch is followed by one always.
             keep  "last" or "best": the weights of validation's lowest loss.
             chance_loss  loss of a guess, ln K for K classes: an epoch no better is an error.
             folder  where metrics.csv, tensorboard/ (where it is installed) and checkpoints go.
             checkpoint_every  mini-batches between two; the last is followed by one always.
             resume  go on from the checkpoint in `folder`, if there is one, to the weights of a run
             never interrupted (bit for bit on the CPU). `loader`, `loss`, `optimizer` and `carried`
             must be made as before; a DataLoader's workers must not draw from other generators
             than torch's.
             carried  what `loss` carries from batch to batch, for checkpoints.
             split  (batch, index, count) -> this replica's part of a mini-batch, with several
             processes; without it replicas of a loader that is no DataLoader take turns.
             compile  torch.compile what lies between the analog products, by inductor (True) or
             another backend (its name); native engine.
             accelerate  arguments of `accelerate.Accelerator`: mixed_precision,
             gradient_accumulation_steps, cpu, ... With gradient_accumulation_steps=n the optimizer
             steps after every n-th mini-batch of an epoch, whatever the kind of loader, and with
             those left over after the last of an epoch and of the run; as in Accelerate, every
             loss is divided by n, of those left over too. All else counts mini-batches.
    Returns: DataFrame `step, epoch, loss, noise_scale, learning_rate`, and `validation_...` columns
             where there is validation; with several processes the losses are this one's.
    Raises:  StateError (a chip is programmed), SpecError (distillation without teacher),
             TrainingError (empty loader, loss not finite, an epoch at chance, distillation where
             `loss` does not call the model), UsageError (a folder of another training, an optimizer
             of another model), CheckpointError (a damaged folder).
    Source:  rasch2023 SI A.1, SI Table 3.
    """
    options, _ = Options.among(locals())
    record = record_of(model)
    _check(recipe, teacher)
    if record.chip is not None:
        raise StateError("train: the model holds a programmed chip; call restore(model) first")
    return Run(model, matrices_of(model), loader, loss, recipe, options, accelerate).go()


@accelerate_state()
def train_digital(
    model: nn.Module, loader: Iterable[Any], loss: Loss, *, recipe: HWATraining, **options: Any
) -> pd.DataFrame:
    """The control of `train`: as many steps of a digital model, which knows of no chip.

    Optimizer, schedule, gradient clipping, distillation, data and their order are the recipe's; no
    noise, no drop-connect, no clipped or remapped weights, no converters.

    Args:    model  a digital model.    options  those of `train`.    Others: as `train`.
    Returns: as `train`; the noise scale is 0.    Raises:  as `train`.
    """
    chosen, accelerate = Options.among(options)
    _check(recipe, chosen.teacher)
    unaware = recipe.override("control: no noise", noise_type="none", noise_scale=0.0)
    return Run(model, {}, loader, loss, unaware, chosen, accelerate).go()


def _check(recipe: HWATraining, teacher: nn.Module | None) -> None:
    if not isinstance(recipe, HWATraining):
        raise UsageError(
            f"recipe is {recipe!r}; allowed: HWATraining.for_(preset, name), with the names "
            "of preset.training"
        )
    if recipe.spec.distill_weight > 0 and teacher is None:
        raise SpecError(
            f"recipe {recipe.name!r} distils (distill_weight={recipe.spec.distill_weight}); pass "
            "teacher=digital_model or recipe.override(distill_weight=0.0)"
        )
