"""The warning for analog weights that are trained without the noise of their devices.

A product notes its weights if they will get a gradient and no noisy copy is injected, in training
mode or not. Nothing else is done in a pass, and weights of a training with noise are not noted. If
an optimizer then steps on weights that were noted, the warning is given once for these weights.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from aimc_bridge.physics.laws import law_of
from aimc_bridge.spec import DeviceSpec

_noted: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # used as sets
_warned: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_held: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # by a training with noise
_handle: list[RemovableHandle] = []


def note(weight: Tensor, device: DeviceSpec | None) -> None:
    """Remember weights that a product used without noise, and that get a gradient.

    Weights on devices without noise (the preset `ideal`) are not remembered.

    Args:
        weight: The parameter that holds the weights.
        device: The device that they lie on.
    """
    if torch.compiler.is_compiling():  # in a graph of the whole model, which no session trains
        return
    known = weight in _noted or weight in _warned or weight in _held
    if known or law_of(device).noise_free:
        return
    _noted[weight] = True
    if not _handle:
        _handle.append(register_optimizer_step_pre_hook(_before_step))


def hold(weight: Tensor) -> None:
    """Forget weights until `release`, because a training with noise has begun.

    Args:
        weight: The parameter that holds the weights.
    """
    _held[weight] = True
    forget(weight)


def release(weight: Tensor) -> None:
    """Let weights be noted again, because the training has ended.

    Args:
        weight: The parameter that holds the weights.
    """
    _held.pop(weight, None)


def forget(weight: Tensor) -> None:
    """Forget weights that were noted.

    Args:
        weight: The parameter that holds the weights.
    """
    _noted.pop(weight, None)
    if not _noted:
        while _handle:
            _handle.pop().remove()


def _before_step(optimizer: Optimizer, *_: Any) -> None:
    """Warn if an optimizer is about to change weights that were noted.

    It is a hook of all optimizers, and only there while weights are noted.
    """
    trained = [
        p
        for group in optimizer.param_groups
        for p in group["params"]
        if p.grad is not None and p in _noted
    ]
    for weight in trained:
        _warned[weight] = True
        forget(weight)
    if trained:
        warnings.warn(
            f"{type(optimizer).__name__} trains {len(trained)} weight matrices of a converted "
            "model, and no weight noise is injected: the model will not tolerate its chip. Use "
            "train(...), `with hardware_aware(model, recipe, optimizers=[...])` around a loop of "
            "your own, or a HardwareAwareCallback of aimc_bridge.integrations. Recipes with "
            "noise_scale=0 train without noise and without this warning.",
            UserWarning,
            stacklevel=3,
        )
    elif not _noted:  # weights that were noted are gone
        while _handle:
            _handle.pop().remove()
