"""Analog transposed convolutions: one matrix product per input position, summed digitally."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor, nn

from aimc_bridge.errors import ShapeError
from aimc_bridge.layers.attributes import AnalogModule, computed, weight_of
from aimc_bridge.layers.border import returned, widened
from aimc_bridge.layers.convolution import as_batch, in_order_of
from aimc_bridge.layers.parameters import copied_parameter

ConvTranspose = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


class AnalogConvTranspose(AnalogModule):
    """A transposed convolution in one, two or three dimensions, `[batch, channels, *space]`.

    The crossbar of a group holds the matrix `[out_channels * kernel, in_channels]` of that group
    (children `parts`): the inputs of one position give the outputs of all kernel positions.
    Outputs that fall on the same place are summed digitally, and the bias is digital.
    """

    def __init__(
        self, conv: ConvTranspose, make_linear: Callable[[Tensor, Tensor | None], nn.Module]
    ) -> None:
        """Put the weights on tiles.

        Args:
            conv: The digital layer. It decides groups, strides, dilation, padding and output
                padding.
            make_linear: Makes the analog linear layer of a weight `[out, in]` and a bias or None.
        """
        super().__init__()
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.stride, self.dilation = conv.kernel_size, conv.stride, conv.dilation
        self.padding: tuple[int, ...] = tuple(map(int, conv.padding))
        self.output_padding = conv.output_padding
        trainable = conv.weight.requires_grad
        self.groups, self.transposed, self.padding_mode = conv.groups, True, conv.padding_mode
        self.parts = nn.ModuleList(
            make_linear(part.detach().flatten(1).T.contiguous().requires_grad_(trainable), None)
            for part in conv.weight.chunk(conv.groups)
        )
        self.register_parameter("bias", copied_parameter(conv.bias))

    bias: nn.Parameter | None

    @property
    def weight(self) -> Tensor:
        """The weights, turned back into the shape of the digital layer's: a copy, for reading."""
        parts = [weight_of(part).T for part in self.parts]
        weight = torch.cat([part.reshape(len(part), -1, *self.kernel_size) for part in parts])
        return computed(
            weight, "assign the weight [out, in] of each group: layer.parts[0].weight = values"
        )

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Compute the transposed convolution.

        Args:
            x: Inputs, `[batch, in_channels, *space]`, with or without a batch.
            output_size: Sizes of the output's space, if they are not to follow from
                `output_padding`.

        Returns:
            `[batch, out_channels, *space]`.

        Raises:
            ShapeError: If x has other channels or dimensions, or output_size cannot be reached.
            UsageError: If x is no dense floating-point tensor on the layer's device.
        """
        dims = len(self.kernel_size)
        batched = as_batch(widened(x), self.in_channels, dims)
        more = self._more(batched, output_size)
        vectors = batched.flatten(2).transpose(1, 2)  # [batch, positions, channels]
        parts = [
            linear(part)
            for part, linear in zip(vectors.chunk(self.groups, dim=-1), self.parts, strict=True)
        ]
        y = torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
        y = y.transpose(1, 2).reshape(
            len(batched), self.out_channels, math.prod(self.kernel_size), *batched.shape[2:]
        )
        y = self._summed(y, more)
        if self.bias is not None:
            y = y + self.bias.view(-1, *[1] * dims)
        y = returned(in_order_of(y, batched), x)
        return y if x.ndim == dims + 2 else y.squeeze(0)

    def _more(self, x: Tensor, output_size: Sequence[int] | None) -> tuple[int, ...]:
        """Return what is added to one side of the output, per dimension."""
        if output_size is None:
            return tuple(self.output_padding)
        dims = len(self.kernel_size)
        sizes = tuple(output_size)[-dims:]
        more = tuple(
            size - ((n - 1) * step - 2 * pad + spread * (kernel - 1) + 1)
            for size, n, step, pad, spread, kernel in zip(
                sizes,
                x.shape[2:],
                self.stride,
                self.padding,
                self.dilation,
                self.kernel_size,
                strict=True,
            )
        )
        for amount, step in zip(more, self.stride, strict=True):
            if not 0 <= amount < step:
                raise ShapeError(
                    f"output_size={tuple(output_size)} for inputs {tuple(x.shape)}; allowed per "
                    f"dimension: from {tuple(s - m for s, m in zip(sizes, more, strict=True))} on, "
                    f"less than a stride {tuple(self.stride)} more"
                )
        return more

    def _summed(self, y: Tensor, more: tuple[int, ...]) -> Tensor:
        """Sum `[batch, out, kernel positions, *space]` where outputs fall on the same place."""
        space = y.shape[3:]
        full = [
            (n - 1) * step + spread * (kernel - 1) + 1
            for n, step, spread, kernel in zip(
                space, self.stride, self.dilation, self.kernel_size, strict=True
            )
        ]
        # padding is cut off, output padding added: both at the end of a buffer large enough
        sizes = [n + extra for n, extra in zip(full, more, strict=True)]
        total = y.new_zeros(*y.shape[:2], *sizes)
        for place, offsets in enumerate(product(*map(range, self.kernel_size))):
            target = total
            for dim, (offset, n, step, spread) in enumerate(
                zip(offsets, space, self.stride, self.dilation, strict=True)
            ):
                first = offset * spread
                target = target[(slice(None),) * (2 + dim) + (slice(first, None, step),)]
                target = target.narrow(2 + dim, 0, n)
            target += y[:, :, place]
        for dim, (pad, size) in enumerate(zip(self.padding, sizes, strict=True)):
            total = total.narrow(2 + dim, pad, size - 2 * pad)
        return total

    def extra_repr(self) -> str:
        """Return the arguments of the digital layer."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"groups={self.groups}"
        )
