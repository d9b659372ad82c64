"""Analog convolutions as matrix products over unfolded inputs, for engines without their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge.errors import ShapeError
from aimc_bridge.layers.attributes import AnalogModule, computed, weight_of
from aimc_bridge.layers.border import returned, widened
from aimc_bridge.layers.linear import MakeLinear
from aimc_bridge.layers.parameters import copied_parameter

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


def padding_to_do_first(conv: Conv) -> Sequence[int]:
    """Return the padding that a convolution cannot do by itself.

    Args:
        conv: A digital convolution.

    Returns:
        Amounts for `functional.pad`; empty if the convolution pads with zeros by itself, or not at
        all.
    """
    if conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
        return ()
    amounts: list[int] = list(conv._reversed_padding_repeated_twice)
    return tuple(amounts) if any(amounts) else ()


def as_batch(x: Tensor, channels: int, dims: int) -> Tensor:
    """Return inputs with a batch dimension, shape [batch, channels, *space].

    Args:
        x: Inputs with or without a batch.
        channels: Number of channels of the convolution.
        dims: Number of dimensions of space: 1, 2 or 3.

    Raises:
        ShapeError: If the inputs do not fit.
    """
    if x.ndim not in (dims + 1, dims + 2) or x.shape[-dims - 1] != channels:
        raise ShapeError(f"input {tuple(x.shape)}; allowed: [batch, {channels}, {dims} sizes]")
    return x if x.ndim == dims + 2 else x.unsqueeze(0)


def smallest_space(conv: nn.modules.conv._ConvNd, padded: bool) -> tuple[int, ...]:
    """Return the least size of each dimension of space that a convolution takes.

    Args:
        conv: The digital layer.
        padded: Whether its padding is part of the inputs already.
    """
    padding = conv.padding
    if padded or isinstance(padding, str):
        padding = (0,) * len(conv.kernel_size)
    return tuple(
        max(spread * (size - 1) + 1 - 2 * int(pad), 1)
        for size, spread, pad in zip(conv.kernel_size, conv.dilation, padding, strict=True)
    )


def check_space(x: Tensor, least: tuple[int, ...]) -> None:
    """Raise an error if images are smaller than a kernel.

    Args:
        x: Inputs, shape [batch, channels, *space].
        least: `smallest_space` of the convolution.

    Raises:
        ShapeError: If a dimension of space is too small.
    """
    if any(size < one for size, one in zip(x.shape[2:], least, strict=True)):
        raise ShapeError(
            f"input {tuple(x.shape)} is smaller than the kernel; allowed: sizes from {least} on"
        )


def in_order_of(y: Tensor, x: Tensor) -> Tensor:
    """Return images in the memory order in which torch's convolutions return them.

    Args:
        y: Outputs of a convolution, shape [batch, channels, *space], in any memory order.
        x: Its inputs.

    Returns:
        The outputs, contiguous; with the channels last if those of the inputs are.
    """
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    if last is None or x.is_contiguous() or not x.is_contiguous(memory_format=last):
        return y.contiguous()
    return y.contiguous(memory_format=last)


class UnfoldedConv(AnalogModule):
    """An analog convolution in one, two or three dimensions, as a matrix product.

    The inputs of every output position are gathered, in the order (channel, kernel row, kernel
    column), and multiplied by one analog linear layer per group (children `parts`). Groups,
    strides, dilation and every padding mode are those of the digital layer; the bias is digital.
    """

    def __init__(self, conv: Conv, make_linear: MakeLinear) -> None:
        """Convert a digital layer.

        Args:
            conv: The digital layer.
            make_linear: Makes the analog linear layers.
        """
        super().__init__()
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.stride, self.dilation = conv.kernel_size, conv.stride, conv.dilation
        self.padding, self.padding_mode = conv.padding, conv.padding_mode
        self.groups, self.transposed = conv.groups, False
        self.output_padding = conv.output_padding
        self.pad = tuple(conv._reversed_padding_repeated_twice)
        self.least = smallest_space(conv, padded=True)
        self.parts = nn.ModuleList(
            make_linear(part.flatten(1), None) for part in conv.weight.detach().chunk(conv.groups)
        )
        self.register_parameter("bias", copied_parameter(conv.bias))

    bias: nn.Parameter | None

    @property
    def weight(self) -> Tensor:
        """The weights of all groups, in the shape of the digital layer's: a copy, for reading."""
        weight = torch.cat([weight_of(part) for part in self.parts])
        return computed(
            weight.view(self.out_channels, -1, *self.kernel_size),
            "assign the weight of each group: layer.parts[0].weight = values",
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load a state dict, also one in which the children have their former name."""
        former = f"{prefix}groups."
        for key in [key for key in state_dict if key.startswith(former)]:
            state_dict[f"{prefix}parts.{key.removeprefix(former)}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def unfolded(self, x: Tensor) -> tuple[Tensor, list[int]]:
        """Gather the inputs of every output position.

        Args:
            x: Padded inputs, shape [batch, channels, *space].

        Returns:
            The gathered inputs, shape [batch, positions, channels * kernel], and the sizes of the
            output.
        """
        dims = len(self.kernel_size)
        for dim, (size, step, spread) in enumerate(
            zip(self.kernel_size, self.stride, self.dilation, strict=True)
        ):
            x = x.unfold(2 + dim, spread * (size - 1) + 1, step)[..., ::spread]
        sizes = list(x.shape[2 : 2 + dims])
        order = (0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims))
        inputs = x.shape[1] * math.prod(self.kernel_size)
        return x.permute(order).reshape(x.shape[0], math.prod(sizes), inputs), sizes

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of the inputs.

        Args:
            x: Shape [batch, in_channels, *space], or [in_channels, *space] without a batch.

        Returns:
            Shape [batch, out_channels, *space], or [out_channels, *space] without a batch.

        Raises:
            ShapeError: If the input does not fit.
            UsageError: If it is no dense floating-point tensor on the layer's device.
        """
        dims = len(self.kernel_size)
        images = batched = as_batch(widened(x), self.in_channels, dims)
        if any(self.pad):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            batched = functional.pad(batched, self.pad, mode=mode)
        check_space(batched, self.least)
        outputs = []
        sizes: list[int] = []
        for part, linear in zip(batched.chunk(self.groups, dim=1), self.parts, strict=True):
            rows, sizes = self.unfolded(part)
            outputs.append(linear(rows))
        y = torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0]
        if self.bias is not None:
            y = y + self.bias
        y = y.transpose(1, 2).reshape(y.shape[0], self.out_channels, *sizes)
        y = returned(in_order_of(y, images), x)
        return y if x.ndim == dims + 2 else y.squeeze(0)

    def extra_repr(self) -> str:
        """Return the settings of the convolution, for `print(model)`."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"groups={self.groups}, padding_mode={self.padding_mode!r}"
        )
