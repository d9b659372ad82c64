"""Optimizers that a training can follow: one step after the backward pass."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from aimc_bridge.engines.base import Matrix
from aimc_bridge.errors import UsageError
from aimc_bridge.training.schedule import check_optimizer

_INNER = ("optimizer", "_optimizer")


def bare(optimizer: Any) -> Optimizer:
    """Return the torch optimizer inside the wrappers of Accelerate, Lightning or Fabric.

    Args:
        optimizer: An optimizer, wrapped or not.

    Raises:
        UsageError: If it is no optimizer.
    """
    inner = next((vars(optimizer)[k] for k in _INNER if k in getattr(optimizer, "__dict__", {})), 0)
    if isinstance(inner, Optimizer):
        return bare(inner)
    if not isinstance(optimizer, Optimizer):
        raise UsageError(
            f"optimizers holds a {type(optimizer).__name__}; allowed: torch optimizers, such as "
            "optimizers=[torch.optim.AdamW(model.parameters())]"
        )
    return optimizer


def refuse_closures(optimizer: Optimizer) -> None:
    """Raise UsageError if an optimizer needs several backward passes for one step.

    Args:
        optimizer: The optimizer.

    Raises:
        UsageError: If it is LBFGS, or if its `step` needs a closure.
    """
    name = type(optimizer).__name__
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    needs = closure is not None and closure.default is inspect.Parameter.empty
    if isinstance(optimizer, LBFGS) or needs:
        raise several_passes(name)


def several_passes(name: str) -> UsageError:
    """Return the error for an optimizer with several backward passes in one step.

    Args:
        name: Name of its class.
    """
    return UsageError(
        f"{name} runs several forward and backward passes in one step, and each would have other "
        "noise on the weights; use an optimizer that takes one step per backward pass, such as "
        "SGD, Adam or AdamW"
    )


def checked(optimizers: Any, model: nn.Module, matrices: Iterable[Matrix]) -> list[Optimizer]:
    """Return the torch optimizers of a training.

    Args:
        optimizers: An iterable of optimizers, or one.
        model: The model that they train, with the learned parameters asking for gradients.
        matrices: Its weight matrices.

    Raises:
        UsageError: If there is none, one does not train the model or cannot be followed, or learned
            input ranges or column scales are in none of them.
    """
    if isinstance(optimizers, Optimizer | Tensor) or not isinstance(optimizers, Iterable):
        optimizers = [optimizers]
    listed = [bare(optimizer) for optimizer in optimizers]
    if not listed:
        raise UsageError("optimizers is empty; pass every optimizer that trains the model")
    for optimizer in listed:
        refuse_closures(optimizer)
        check_optimizer(optimizer, model)
    trained = {id(p) for optimizer in listed for p in parameters_of(optimizer)}
    missing = {"input_range": 0, "out_scale": 0}
    for matrix in matrices:
        for kind, parameters in matrix.periphery().items():
            missing[kind] += sum(p.requires_grad and id(p) not in trained for p in parameters)
    if any(missing.values()):
        raise UsageError(
            f"{missing['input_range']} input ranges and {missing['out_scale']} column scales that "
            "the recipe learns are in none of the optimizers; build an optimizer over all of "
            "model.parameters(), also those that require no gradient before the training, or use "
            "recipe.override(learn_input_ranges=False, learn_out_scales=False)"
        )
    return listed


def parameters_of(optimizer: Optimizer) -> list[Any]:
    """Return all parameters of an optimizer.

    Args:
        optimizer: The optimizer.
    """
    return [p for group in optimizer.param_groups for p in group["params"]]
