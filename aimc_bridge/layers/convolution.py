"""Analog convolutions as matrix products over unfolded inputs, for engines without their own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge.errors import ShapeError
from aimc_bridge.layers.linear import MakeLinear

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


class UnfoldedConv(nn.Module):
    """An analog convolution in one, two or three dimensions, as a matrix product.

    The inputs of every output position are gathered, in the order (channel, kernel row, kernel
    column), and multiplied by one analog linear layer per group (children `groups`). Groups,
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
        self.pad_mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        self.pad = tuple(conv._reversed_padding_repeated_twice)
        self.groups = nn.ModuleList(
            make_linear(part.flatten(1), None) for part in conv.weight.detach().chunk(conv.groups)
        )
        bias = None
        if conv.bias is not None:
            bias = nn.Parameter(conv.bias.detach().clone(), requires_grad=conv.bias.requires_grad)
        self.register_parameter("bias", bias)

    bias: nn.Parameter | None

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
        return x.permute(order).reshape(x.shape[0], math.prod(sizes), -1), sizes

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of the inputs.

        Args:
            x: Shape [batch, in_channels, *space], or [in_channels, *space] without a batch.

        Returns:
            Shape [batch, out_channels, *space], or [out_channels, *space] without a batch.

        Raises:
            ShapeError: If the input does not fit.
        """
        dims = len(self.kernel_size)
        batched = as_batch(x, self.in_channels, dims)
        if any(self.pad):
            batched = functional.pad(batched, self.pad, mode=self.pad_mode)
        outputs = []
        sizes: list[int] = []
        for part, linear in zip(batched.chunk(len(self.groups), dim=1), self.groups, strict=True):
            rows, sizes = self.unfolded(part)
            outputs.append(linear(rows))
        y = torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0]
        if self.bias is not None:
            y = y + self.bias
        y = y.transpose(1, 2).reshape(y.shape[0], self.out_channels, *sizes)
        return y if x.ndim == dims + 2 else y.squeeze(0)

    def extra_repr(self) -> str:
        """Return the settings that are shown when the module is printed."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, dilation={self.dilation}, groups={len(self.groups)}"
        )
