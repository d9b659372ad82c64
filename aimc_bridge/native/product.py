"""Products of a layer with the part of its weights that lies on one tile (or one row of tiles).

A `Product` knows which inputs a tile sees and how to multiply them with its weights: a matrix
product for linear layers, a convolution for convolutions. `TileProduct` wraps one of them, with the
crossbar's non-idealities, for autograd.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aimc_bridge.physics import crossbar as law
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.spec import CrossbarSpec


class Product(ABC):
    """How a layer multiplies. `column=None` stands for all column tiles of a row at once."""

    output_dim: int

    @abstractmethod
    def inputs(self, x: Tensor, row: int, column: int | None) -> Tensor:
        """The part of the layer's inputs that reaches a tile."""

    @abstractmethod
    def weights(self, weight: Tensor, row: int, column: int | None) -> Tensor:
        """The part of a matrix `[out, in]` that lies on a tile, in the shape `contract` takes."""

    @abstractmethod
    def matrix(self, weight: Tensor, row: int) -> Tensor:
        """Back from the shape of `weights` to `[tile's outputs, tile's inputs]`."""

    @abstractmethod
    def contract(self, x: Tensor, weight: Tensor) -> Tensor:
        """The product itself."""

    @abstractmethod
    def transposed(
        self, grad: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of `contract` for inputs and weights, where needed."""


class LinearProduct(Product):
    """`[..., in] -> [..., out]`."""

    output_dim = -1

    def __init__(self, grid: TileGrid) -> None:
        self.grid = grid
        self.rows = grid.row_slices()
        self.columns = grid.column_slices()

    def inputs(self, x: Tensor, row: int, column: int | None) -> Tensor:
        return x if len(self.rows) == 1 else x[..., self.rows[row]]

    def weights(self, weight: Tensor, row: int, column: int | None) -> Tensor:
        columns = slice(None) if column is None else self.columns[column]
        return weight[columns, self.rows[row]]

    def matrix(self, weight: Tensor, row: int) -> Tensor:
        return weight

    def contract(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.linear(x, weight)

    def transposed(
        self, grad: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        for_x = grad @ weight if needs[0] else None
        if not needs[1]:
            return for_x, None
        for_w = grad.reshape(-1, grad.shape[-1]).T @ x.reshape(-1, x.shape[-1])
        return for_x, for_w


class ConvProduct(Product):
    """`[batch, channels, *space]`, in rows of (channel, kernel row, kernel column) order.

    A row tile may begin inside a channel: it sees all channels that it touches, with weights of 0
    where the kernel's positions belong to its neighbour. Padding other than a symmetric one with
    zeros is done before by the layer.
    """

    output_dim = 1

    def __init__(
        self,
        grid: TileGrid,
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
    ) -> None:
        self.grid = grid
        self.kernel, self.stride, self.padding, self.dilation = kernel, stride, padding, dilation
        self.columns = grid.column_slices()
        self.size = 1
        for extent in kernel:
            self.size *= extent
        self.channels = grid.in_features // self.size
        self.spans = [
            (part.start // self.size, -(-part.stop // self.size)) for part in grid.row_slices()
        ]
        self.rows = grid.row_slices()

    def inputs(self, x: Tensor, row: int, column: int | None) -> Tensor:
        first, last = self.spans[row]
        groups = self.grid.groups
        if groups == 1:
            return x if (first, last) == (0, self.channels) else x[:, first:last]
        if column is None:
            grouped: Tensor = x.unflatten(1, (groups, self.channels))[:, :, first:last]
            return grouped.flatten(1, 2)
        group = column * groups // len(self.columns)
        return x[:, group * self.channels + first : group * self.channels + last]

    def weights(self, weight: Tensor, row: int, column: int | None) -> Tensor:
        columns = slice(None) if column is None else self.columns[column]
        first, last = self.spans[row]
        part = weight[columns, self.rows[row]]
        before = self.rows[row].start - first * self.size
        after = last * self.size - self.rows[row].stop
        if before or after:
            part = functional.pad(part, (before, after))
        return part.reshape(part.shape[0], last - first, *self.kernel)

    def matrix(self, weight: Tensor, row: int) -> Tensor:
        first = self.rows[row].start - self.spans[row][0] * self.size
        return weight.flatten(1)[:, first : first + self.grid.rows[row]]

    def _groups(self, x: Tensor, weight: Tensor) -> int:
        return x.shape[1] // weight.shape[1]

    def contract(self, x: Tensor, weight: Tensor) -> Tensor:
        convolution = (functional.conv1d, functional.conv2d, functional.conv3d)[x.ndim - 3]
        return convolution(
            x, weight, None, self.stride, self.padding, self.dilation, self._groups(x, weight)
        )

    def transposed(
        self, grad: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        for_x, for_w, _ = torch.ops.aten.convolution_backward(
            grad,
            x,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0] * len(self.stride),
            self._groups(x, weight),
            [*needs, False],
        )
        return for_x, for_w


class TileWeights:
    """The weights of a tile as its product takes them: values, magnitudes, with row positions."""

    def __init__(
        self,
        product: Product,
        weight: Tensor,
        spec: CrossbarSpec,
        row: int,
        column: int | None,
        position: Tensor | None,
    ) -> None:
        """`position` of each input for the IR drop, `[in]`; None is no IR drop."""
        self.rows = product.grid.rows[row]  # type: ignore[attr-defined]
        self.value = product.weights(weight, row, column)
        needs_magnitude = spec.w_noise > 0.0 or position is not None
        self.magnitude = self.value.abs() if needs_magnitude else None
        self.positioned = None
        if position is not None:
            self.positioned = product.weights(weight * position, row, column)


class TileProduct(torch.autograd.Function):
    """One analog product: DAC, currents with IR drop, noise, ADC; gradients as on aihwkit.

    Backward is the transpose product with the weights of the forward pass, without DAC, IR drop or
    noise; clipped inputs pass their full gradient, saturated outputs pass none; the input range has
    a gradient of its own, relative to its size, with decay while few inputs are clipped; the weight
    gradient goes to the clean weights.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        clean: Tensor | None,
        input_range: Tensor | None,
        tile: TileWeights,
        product: Product,
        spec: CrossbarSpec,
        row: int,
        decay: tuple[float, float],
    ) -> Tensor:
        """`x` in own units, `clean` the tile's clean matrix `[out, in]` that gets the gradient."""
        converted = law.converted_input(x, input_range, spec)
        y = law.current(
            converted,
            tile.value,
            tile.magnitude,
            tile.positioned,
            tile.rows,
            spec,
            product.contract,
            ir_drop=tile.positioned is not None,
        )
        sd = law.noise_sd(converted, tile.magnitude, spec, product.contract)
        if isinstance(sd, Tensor):
            y = y + sd.mul_(torch.randn(y.shape, device=y.device, dtype=y.dtype))
        elif sd > 0.0:
            y = y + torch.randn(y.shape, device=y.device, dtype=y.dtype).mul_(sd)
        y = law.converted_output(y, spec)
        if any(ctx.needs_input_grad):
            saturated = y.abs() >= spec.out_bound if spec.adc_bits is not None else None
            ctx.save_for_backward(x, input_range, tile.value, saturated)
            ctx.product, ctx.row, ctx.decay = product, row, decay
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, input_range, weight, saturated = ctx.saved_tensors
        product: Product = ctx.product
        if saturated is not None:
            grad = grad.masked_fill(saturated, 0.0)
        scaled = x
        if input_range is not None:
            scaled = (x / input_range).clamp_(-1.0, 1.0)
        needs_x = ctx.needs_input_grad[0] or ctx.needs_input_grad[2]
        for_x, for_w = product.transposed(grad, scaled, weight, (needs_x, ctx.needs_input_grad[1]))
        if for_w is not None:
            for_w = product.matrix(for_w, ctx.row)
        for_range = None
        if input_range is not None and for_x is not None:
            for_x = for_x / input_range
            if ctx.needs_input_grad[2]:
                for_range = range_gradient(x, for_x, input_range, *ctx.decay)
        return for_x, for_w, for_range, None, None, None, None, None


def range_gradient(
    x: Tensor, grad_x: Tensor, input_range: Tensor, decay: float, min_unclipped: float
) -> Tensor:
    """Gradient of a learned input range, relative to its size. Source: aihwkit InputRangeParameter.

    range * (sum over x >= range of min(g, 0) - sum over x <= -range of max(g, 0)), plus
    decay * range while more than `min_unclipped` of the inputs are inside.
    """
    upper = (grad_x.clamp_max(0.0) * (x >= input_range)).sum()
    lower = (grad_x.clamp_min(0.0) * (x <= -input_range)).sum()
    inside = (x.abs() < input_range).to(grad_x.dtype).mean()
    shrink = decay * (inside > min_unclipped)
    return (upper - lower + shrink) * input_range
