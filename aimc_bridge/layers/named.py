"""Layers of other libraries that are PyTorch's with something more, known by their names.

Their handlers make a plain layer of them first: a standardised weight is computed once, padding
that depends on the input is a module of its own. timm and transformers are not imported for this.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge.layers.linear import linear_around


class Named(NamedTuple):
    """A class of another library, and how its layers become plain ones.

    Attributes:
        module: Name of the module that defines the class.
        name: Name of the class.
        plain: Returns the padding that comes first, or None, and the plain layer.
        note: The remark of the coverage report; may be empty.
    """

    module: str
    name: str
    plain: Callable[[nn.Module], tuple[nn.Module | None, nn.Module]]
    note: str = ""


class SamePadding(nn.Module):
    """Pads images with zeros as TensorFlow's "same" does: the amount depends on their size."""

    def __init__(self, conv: nn.Conv2d) -> None:
        """Pad for a convolution.

        Args:
            conv: The convolution that follows.
        """
        super().__init__()
        self.sides = tuple(zip(conv.kernel_size, conv.stride, conv.dilation, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Return padded images.

        Args:
            x: Images, `[..., height, width]`.
        """
        amounts: list[int] = []
        for size, (kernel, stride, dilation) in zip(x.shape[-2:], self.sides, strict=True):
            needed = (math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size
            needed = max(needed, 0)
            amounts = [needed // 2, needed - needed // 2, *amounts]
        return functional.pad(x, amounts)


def _linear(module: nn.Module) -> tuple[None, nn.Module]:
    """Return the plain layer of one that multiplies like `nn.Linear`."""
    assert isinstance(module, nn.Linear)
    return None, linear_around(module.weight, module.bias)


def _same(module: nn.Module) -> tuple[nn.Module | None, nn.Module]:
    """Return padding and convolution of timm's Conv2dSame, which ignores its own padding."""
    assert isinstance(module, nn.Conv2d)
    return SamePadding(module), _convolution(module, module.weight, padding=0)


def _standardised(module: nn.Module) -> tuple[nn.Module | None, nn.Module]:
    """Return padding and convolution of a layer that standardises its weight in every pass."""
    assert isinstance(module, nn.Conv2d)
    gain = module._parameters.get("gain")  # the scaled ones have it
    with torch.no_grad():
        scale = None if gain is None else (gain * module.__dict__["scale"]).view(-1)
        weight = functional.batch_norm(
            module.weight.reshape(1, module.out_channels, -1),
            None,
            None,
            weight=scale,
            training=True,
            momentum=0.0,
            eps=float(module.eps),  # type: ignore[arg-type]
        ).reshape_as(module.weight)
    weight.requires_grad_(module.weight.requires_grad)
    padding: nn.Module | None = module._modules.get("pad")  # transformers
    if module.__dict__.get("same_pad"):  # timm
        padding = SamePadding(module)
    return padding, _convolution(module, weight, module.padding)


def _convolution(
    module: nn.Conv2d, weight: Tensor, padding: int | str | tuple[int, ...]
) -> nn.Conv2d:
    """Return a plain convolution with the settings of another, and another weight.

    It is created on the meta device, so that no weights are drawn.
    """
    conv = nn.Conv2d(
        module.in_channels,
        module.out_channels,
        module.kernel_size,  # type: ignore[arg-type]
        module.stride,  # type: ignore[arg-type]
        padding,  # type: ignore[arg-type]
        module.dilation,  # type: ignore[arg-type]
        module.groups,
        bias=module.bias is not None,
        device="meta",
    )
    conv.weight = nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
    conv.bias = module.bias
    return conv


_FOLDED = "standardised weight folded in: training changes the folded one"
_TIMM, _BIT = "timm.layers.std_conv", "transformers.models.bit.modeling_bit"

NAMED = (
    Named("timm.layers.linear", "Linear", _linear),
    Named("transformers.models.falcon.modeling_falcon", "FalconLinear", _linear),
    Named("timm.layers.conv2d_same", "Conv2dSame", _same),
    Named(_TIMM, "StdConv2d", _standardised, _FOLDED),
    Named(_TIMM, "StdConv2dSame", _standardised, _FOLDED),
    Named(_TIMM, "ScaledStdConv2d", _standardised, _FOLDED),
    Named(_TIMM, "ScaledStdConv2dSame", _standardised, _FOLDED),
    Named(_BIT, "WeightStandardizedConv2d", _standardised, _FOLDED),
)
"""All classes that are known by their names."""
