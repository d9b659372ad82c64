"""Products of a layer with the part of its weights that lies on one tile (or one row of tiles).

A `Product` knows which inputs a tile sees and how to multiply them with its weights: a matrix
product for linear layers, a convolution for convolutions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import MutableMapping
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from aimc_bridge.layers.steps import kept_between_steps
from aimc_bridge.physics.mapping import TileGrid

MANY = 256
"""Input vectors from which on a product with a matrix is bound by arithmetic, not by memory. One
more pass over the weights, to cut them into tiles or to change their order, is then nothing beside
the product."""

_ONEDNN_FROM = 16
"""Input vectors from which on oneDNN multiplies: 40 x 325 by 325 x 2600 took MKL twice as long."""

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Product(ABC):
    """How a layer multiplies. `column=None` stands for all column tiles of a row at once."""

    grid: TileGrid

    @abstractmethod
    def outputs_per_sample(self, x: Tensor) -> int:
        """About how many outputs one sample of `x` has."""

    @abstractmethod
    def whole(self) -> Product:
        """The same product on one tile as large as the layer."""

    @abstractmethod
    def inputs(self, x: Tensor, row: int, column: int | None) -> Tensor:
        """The part of the layer's inputs that reaches a tile."""

    @abstractmethod
    def side_by_side(self) -> list[slice]:
        """Where the inputs of each row of tiles lie if all of them are laid side by side; those
        that two rows see lie there twice."""

    @abstractmethod
    def put_inputs(self, total: Tensor, part: Tensor, row: int, column: int | None) -> None:
        """The way back from `inputs`: a tile's part into the sum of the whole layer.

        Tiles must come row by row. What is the first to reach an input is written there, the rest
        is added: `total` needs no zeros.
        """

    @abstractmethod
    def weights(self, weight: Tensor, row: int, column: int | None) -> Tensor:
        """The part of a matrix `[out, in]` that lies on a tile, in the shape `contract` takes."""

    @abstractmethod
    def matrix(self, weight: Tensor, row: int) -> Tensor:
        """Back from the shape of `weights` to `[tile's outputs, tile's inputs]`."""

    @abstractmethod
    def contract(self, x: Tensor, weight: Tensor, bias: float = 0.0) -> Tensor:
        """The product itself, plus a number."""

    def contract_both(
        self, x: Tensor, other: Tensor, weight: Tensor, biases: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        """Two products with the same weights."""
        return self.contract(x, weight, biases[0]), self.contract(other, weight, biases[1])

    @abstractmethod
    def with_positioned(
        self, x: Tensor, side: Tensor, weight: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """sum_j w_ij x_j, and from `side`, the inputs in the precision of side products,
        sum_j w_ij x_j position_j; `position` is in the shape of `weights` of one output."""

    @abstractmethod
    def transposed(
        self, grad: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of `contract` for inputs and weights, where needed."""


class LinearProduct(Product):
    """`[samples, in] -> [samples, out]`."""

    def __init__(self, grid: TileGrid) -> None:
        self.grid = grid
        self.rows = grid.row_slices()
        self.columns = grid.column_slices()

    def outputs_per_sample(self, x: Tensor) -> int:
        return self.grid.out_features

    def whole(self) -> LinearProduct:
        return LinearProduct(self.grid.whole())

    def inputs(self, x: Tensor, row: int, column: int | None) -> Tensor:
        return x if len(self.rows) == 1 else x[:, self.rows[row]]

    def side_by_side(self) -> list[slice]:
        return self.rows

    def put_inputs(self, total: Tensor, part: Tensor, row: int, column: int | None) -> None:
        if column:
            total[:, self.rows[row]] += part
        else:
            total[:, self.rows[row]] = part

    def weights(self, weight: Tensor, row: int, column: int | None) -> Tensor:
        columns = slice(None) if column is None else self.columns[column]
        return weight[columns, self.rows[row]]

    def matrix(self, weight: Tensor, row: int) -> Tensor:
        return weight

    def contract(self, x: Tensor, weight: Tensor, bias: float = 0.0) -> Tensor:
        return _linear(x, weight, _filled(weight, bias))

    def contract_both(
        self, x: Tensor, other: Tensor, weight: Tensor, biases: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        if len(x) >= MANY:
            return super().contract_both(x, other, weight, biases)
        # the time of a thin product is that of reading the weights: once for both
        first, second = self.contract(torch.cat([x, other]), weight).chunk(2)
        for y, bias in ((first, biases[0]), (second, biases[1])):
            if bias:
                y.add_(bias)
        return first, second

    def with_positioned(
        self, x: Tensor, side: Tensor, weight: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor]:
        positioned = side * position.view(-1).to(side.dtype)
        if side.dtype == x.dtype:
            return self.contract_both(x, positioned, weight, (0.0, 0.0))
        return self.contract(x, weight), self.contract(positioned, weight.to(side.dtype))

    def transposed(
        self, grad: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        for_x = grad @ weight if needs[0] else None
        if not needs[1]:
            return for_x, None
        return for_x, grad.T @ x


class ConvProduct(Product):
    """`[batch, channels, *space]`, in rows of (channel, kernel row, kernel column) order.

    A row tile may begin inside a channel: it sees all channels that it touches, with weights of 0
    where the kernel's positions belong to its neighbour. Padding other than a symmetric one with
    zeros is done before by the layer.
    """

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

    def outputs_per_sample(self, x: Tensor) -> int:
        return self.grid.out_features * x[0, 0].numel() // math.prod(self.stride)

    def whole(self) -> ConvProduct:
        grid = self.grid.whole()
        return ConvProduct(grid, self.kernel, self.stride, self.padding, self.dilation)

    def inputs(self, x: Tensor, row: int, column: int | None) -> Tensor:
        part = self._seen(x, row, column)
        return part if part.ndim == x.ndim else part.flatten(1, 2)

    def _seen(self, x: Tensor, row: int, column: int | None) -> Tensor:
        """The inputs of a tile as a view; of all groups at once `[batch, groups, channels, ...]`"""
        first, last = self.spans[row]
        groups = self.grid.groups
        if groups == 1:
            return x if (first, last) == (0, self.channels) else x[:, first:last]
        if column is None:
            grouped: Tensor = x.unflatten(1, (groups, self.channels))[:, :, first:last]
            return grouped
        group = column * groups // len(self.columns)
        return x[:, group * self.channels + first : group * self.channels + last]

    def side_by_side(self) -> list[slice]:
        stops = list(accumulate(last - first for first, last in self.spans))
        return [slice(a, b) for a, b in zip([0, *stops], stops, strict=False)]

    def put_inputs(self, total: Tensor, part: Tensor, row: int, column: int | None) -> None:
        seen = self._seen(total, row, column)
        part = part.view_as(seen)
        if column is not None and column % (len(self.columns) // self.grid.groups):
            seen += part
            return
        channels = seen.ndim - len(self.kernel) - 1
        shared = self.spans[row - 1][1] - self.spans[row][0] if row else 0
        if shared:  # a channel that lies on two rows of tiles
            seen.narrow(channels, 0, shared).add_(part.narrow(channels, 0, shared))
        rest = seen.shape[channels] - shared
        seen.narrow(channels, shared, rest).copy_(part.narrow(channels, shared, rest))

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

    def with_positioned(
        self, x: Tensor, side: Tensor, weight: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor]:
        positioned = (weight * position).to(side.dtype)
        return self.contract(x, weight), self.contract(side, positioned)

    def _groups(self, x: Tensor, weight: Tensor) -> int:
        return x.shape[1] // weight.shape[1]

    def contract(self, x: Tensor, weight: Tensor, bias: float = 0.0) -> Tensor:
        convolution = (functional.conv1d, functional.conv2d, functional.conv3d)[x.ndim - 3]
        shape = (self.stride, self.padding, self.dilation, self._groups(x, weight))
        return convolution(x, weight, _filled(weight, bias), *shape)

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


def _filled(weight: Tensor, bias: float) -> Tensor | None:
    """A bias of one number for each output."""
    return weight.new_full((weight.shape[0],), bias) if bias else None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`functional.linear`. On a CPU oneDNN does it where autograd does not watch: MKL, torch's
    choice for float32, was half as fast (512 x 384 by 384 x 768 on one AMD core: 107 against 215
    GFLOP/s)."""
    if (
        _ONEDNN
        and len(x) >= _ONEDNN_FROM
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_grad_enabled()
    ):
        # where memory has gaps its product is a thousand times slower
        x, weight = x.contiguous(), _prepared(weight.contiguous(), len(x))
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return y
    return functional.linear(x, weight, bias)


def _prepared(weight: Tensor, vectors: int) -> Tensor:
    """Return the weights in oneDNN's own order if a time loop multiplies them again and again.

    oneDNN would otherwise change their order in every product: 40 x 325 by 325 x 2600 takes 0.35 ms
    instead of 0.61 on two cores, to the same numbers. The first product of a loop leaves them as
    they are, since there may be no second one.
    """
    cache = kept_between_steps()
    if cache is None or vectors >= MANY:
        return weight
    # weights that a step made for itself alone go with it
    by_weight: MutableMapping[Tensor, dict[int, Tensor | None]]
    by_weight = cache.setdefault(_prepared, WeakTensorKeyDictionary())
    by_vectors = by_weight.setdefault(weight, {})
    if vectors not in by_vectors:
        by_vectors[vectors] = None
        return weight
    packed = by_vectors[vectors]
    if packed is None:
        packed = by_vectors[vectors] = torch.ops.mkldnn._reorder_linear_weight(weight, vectors)
    return packed
