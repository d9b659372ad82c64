"""The digital layer that an analog layer was made from, without its weights.

An analog layer remembers it, so that another engine can make its own layer from the same settings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from aimc_bridge.errors import ConversionError
from aimc_bridge.spec import Preset

_ATTRIBUTE = "_aimc_digital_form"
_CONVOLUTIONS: tuple[type[Any], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def remembering(
    convert: Callable[[Any, Preset], nn.Module],
) -> Callable[[Any, Preset], nn.Module]:
    """Return a handler whose analog layers remember the digital layer that they came from.

    Args:
        convert: A handler of one engine for a layer with one weight matrix: a linear layer, a
            convolution, or Hugging Face's `Conv1D`.
    """

    def convert_and_remember(module: nn.Module, preset: Preset) -> nn.Module:
        layer = convert(module, preset)
        # in a tuple: it is no part of the module tree
        setattr(layer, _ATTRIBUTE, (_without_weights(module),))
        return layer

    return convert_and_remember


def is_analog(layer: nn.Module) -> bool:
    """Return whether a layer is an analog one with one weight matrix, of any engine.

    Args:
        layer: Any module.
    """
    return _ATTRIBUTE in layer.__dict__


def digital_form(layer: nn.Module) -> nn.Module:
    """Return the digital layer that an analog layer was made from, on the meta device.

    It has the class, the settings, the shapes and the dtype, but no numbers: about 3 kB per layer.

    Args:
        layer: An analog layer with one weight matrix.

    Raises:
        ConversionError: If a handler made the layer that is not one of the library's.
    """
    form = layer.__dict__.get(_ATTRIBUTE)
    if form is None:
        raise ConversionError(
            f"{type(layer).__name__} does not know the digital layer that it was made from; "
            "convert the digital model again, with an engine's own handlers"
        )
    module: nn.Module = form[0]
    return module


def _without_weights(module: Any) -> nn.Module:
    """Return a new layer of the library's own kind with the settings of a digital layer.

    It is not a copy: a layer of a user's own class may hold anything, even the whole model.
    """
    dtype, bias = module.weight.dtype, module.bias is not None
    if isinstance(module, nn.Linear):
        return nn.Linear(module.in_features, module.out_features, bias, "meta", dtype)
    for kind in _CONVOLUTIONS:
        if isinstance(module, kind):
            layer: nn.Module = kind(
                module.in_channels,
                module.out_channels,
                module.kernel_size,
                module.stride,
                module.padding,
                module.dilation,
                module.groups,
                bias,
                module.padding_mode,
                "meta",
                dtype,
            )
            return layer
    from transformers.pytorch_utils import Conv1D  # its layer is at hand, so the package is too

    with torch.device("meta"):
        return Conv1D(module.nf, module.nx).to(dtype)
