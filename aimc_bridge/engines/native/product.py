"""Products of a layer with the weights of one tile, or of one row of tiles.

A `Product` knows which inputs reach a tile and how to multiply them with the tile's weights: by a
matrix product in linear layers, by a convolution in convolutions.
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

from aimc_bridge.engines.native import integers
from aimc_bridge.layers.steps import kept_between_steps
from aimc_bridge.physics.mapping import TileGrid

MANY = 256
"""From this number of input vectors on, arithmetic limits a product, not memory.

One more pass over the weights, to cut them into tiles or to change their order, then costs nothing
next to the product.
"""

_ONEDNN_FROM = 16
"""From this number of input vectors on, oneDNN multiplies.

A product of 40 x 325 by 325 x 2600 took MKL twice as long.
"""

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Product(ABC):
    """The way in which a layer multiplies.

    In all methods `column=None` stands for all column tiles of a row at once.

    Attributes:
        grid: The tiles of the layer.
        has_integers: Whether it can multiply codes of inputs with digits of weights (`integers`).
    """

    grid: TileGrid
    has_integers = False

    @abstractmethod
    def outputs_per_sample(self, x: Tensor) -> int:
        """Return about how many outputs one sample has.

        Args:
            x: Inputs of the layer.
        """

    @abstractmethod
    def whole(self) -> Product:
        """Return the same product on one tile as large as the layer."""

    @abstractmethod
    def inputs(self, x: Tensor, row: int, column: int | None) -> Tensor:
        """Return the part of the layer's inputs that reaches a tile.

        Args:
            x: Inputs of the layer.
            row: Row of the tile.
            column: Column of the tile, or None.
        """

    @abstractmethod
    def side_by_side(self) -> list[slice]:
        """Return the slices of each row of tiles if their inputs lie side by side.

        Inputs that two rows of tiles see lie there twice.
        """

    @abstractmethod
    def put_inputs(self, total: Tensor, part: Tensor, row: int, column: int | None) -> None:
        """Add a tile's part to the sum over the whole layer: the way back from `inputs`.

        Tiles must come row by row. The first part that reaches an input is written there, the
        others are added, so `total` needs no zeros.

        Args:
            total: The sum, in the shape of the layer's inputs; changed in place.
            part: The tile's part, in the shape of its inputs.
            row: Row of the tile.
            column: Column of the tile, or None.
        """

    @abstractmethod
    def weights(self, weight: Tensor, row: int, column: int | None) -> Tensor:
        """Return the part of a matrix that lies on a tile, in the shape for `contract`.

        Args:
            weight: The matrix, `[out, in]`.
            row: Row of the tile.
            column: Column of the tile, or None.
        """

    @abstractmethod
    def matrix(self, weight: Tensor, row: int) -> Tensor:
        """Return weights of a tile as a matrix: the way back from `weights`.

        Args:
            weight: The weights, as `weights` returns them.
            row: Row of the tile.

        Returns:
            The weights, `[tile's outputs, tile's inputs]`.
        """

    @abstractmethod
    def contract(self, x: Tensor, weight: Tensor, bias: float = 0.0) -> Tensor:
        """Return the product of inputs with weights, plus a number.

        Args:
            x: Inputs of a tile.
            weight: Weights of the tile, as `weights` returns them.
            bias: The number.
        """

    def contract_both(
        self, x: Tensor, other: Tensor, weight: Tensor, biases: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        """Return two products with the same weights.

        Args:
            x: Inputs of the first product.
            other: Inputs of the second product.
            weight: Weights of the tile.
            biases: The number that is added to each product.
        """
        return self.contract(x, weight, biases[0]), self.contract(other, weight, biases[1])

    @abstractmethod
    def pack(self, digit: Tensor, x: Tensor) -> Tensor:
        """Return a digit of weights as `contract_codes` takes it.

        Args:
            digit: The digit of the weights of a tile, int8, in the shape of `weights`.
            x: Inputs of the tile, for whose shape the order is chosen.
        """

    @abstractmethod
    def contract_codes(
        self,
        x: Tensor,
        zero: int,
        packed: Tensor,
        units: Tensor,
        bias: Tensor | None,
        onto: Tensor | None,
    ) -> Tensor:
        """Return the product of codes of inputs with a digit of weights.

        Args:
            x: Codes of the inputs of a tile, uint8.
            zero: The code of 0.
            packed: The digit, from `pack`.
            units: The product of the units of codes and digits, `[outputs]`.
            bias: Numbers that are added, `[outputs]`, or None.
            onto: Outputs to add to, in place; None makes new ones.
        """

    @abstractmethod
    def with_positioned(
        self, x: Tensor, side: Tensor, weight: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return sum_j w_ij x_j, and sum_j w_ij side_j position_j for the IR drop.

        Args:
            x: Inputs of a tile.
            side: The same inputs in the precision of side products.
            weight: Weights of the tile.
            position: The positions, in the shape of `weights` of one output.
        """

    @abstractmethod
    def transposed(
        self, grad: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of `contract` with respect to inputs and weights.

        Args:
            grad: Gradient of the outputs.
            x: Inputs of the tile.
            weight: Weights of the tile.
            needs: Whether the gradients of (inputs, weights) are needed.

        Returns:
            The gradients of (inputs, weights); None in place of one that is not needed.
        """


class LinearProduct(Product):
    """The product of a linear layer, `[samples, in] -> [samples, out]`."""

    has_integers = True

    def __init__(self, grid: TileGrid) -> None:
        """Prepare the product.

        Args:
            grid: The tiles of the layer.
        """
        self.grid = grid
        self.rows = grid.row_slices()
        self.columns = grid.column_slices()

    def outputs_per_sample(self, x: Tensor) -> int:
        """Return the number of outputs of the layer."""
        return self.grid.out_features

    def whole(self) -> LinearProduct:
        """Return the linear product on one tile."""
        return LinearProduct(self.grid.whole())

    def inputs(self, x: Tensor, row: int, column: int | None) -> Tensor:
        """Return the columns of `x` that reach the tile."""
        return x if len(self.rows) == 1 else x[:, self.rows[row]]

    def side_by_side(self) -> list[slice]:
        """Return the row slices of the grid, since no two tiles share an input."""
        return self.rows

    def put_inputs(self, total: Tensor, part: Tensor, row: int, column: int | None) -> None:
        """Write the part if it comes first, else add it."""
        if column:
            total[:, self.rows[row]] += part
        else:
            total[:, self.rows[row]] = part

    def weights(self, weight: Tensor, row: int, column: int | None) -> Tensor:
        """Return a block of the matrix."""
        columns = slice(None) if column is None else self.columns[column]
        return weight[columns, self.rows[row]]

    def matrix(self, weight: Tensor, row: int) -> Tensor:
        """Return the weights as they are."""
        return weight

    def contract(self, x: Tensor, weight: Tensor, bias: float = 0.0) -> Tensor:
        """Return the matrix product."""
        return _linear(x, weight, _filled(weight, bias))

    def contract_both(
        self, x: Tensor, other: Tensor, weight: Tensor, biases: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        """Return two matrix products; a thin pair is done as one product."""
        if len(x) >= MANY:
            return super().contract_both(x, other, weight, biases)
        # a thin product takes as long as reading the weights does: they are read once for both
        first, second = self.contract(torch.cat([x, other]), weight).chunk(2)
        for y, bias in ((first, biases[0]), (second, biases[1])):
            if bias:
                y.add_(bias)
        return first, second

    def pack(self, digit: Tensor, x: Tensor) -> Tensor:
        """Return the digit in oneDNN's order."""
        return integers.pack_linear(digit, x)

    def contract_codes(
        self,
        x: Tensor,
        zero: int,
        packed: Tensor,
        units: Tensor,
        bias: Tensor | None,
        onto: Tensor | None,
    ) -> Tensor:
        """Return the matrix product."""
        return integers.linear(x, zero, packed, units, bias, onto)

    def with_positioned(
        self, x: Tensor, side: Tensor, weight: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return two products with the same weights: the positions go into the inputs."""
        positioned = side * position.view(-1).to(side.dtype)
        if side.dtype == x.dtype:
            return self.contract_both(x, positioned, weight, (0.0, 0.0))
        return self.contract(x, weight), self.contract(positioned, weight.to(side.dtype))

    def transposed(
        self, grad: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return two matrix products."""
        for_x = grad @ weight if needs[0] else None
        if not needs[1]:
            return for_x, None
        return for_x, grad.T @ x


class ConvProduct(Product):
    """The product of a convolution, `[batch, channels, *space]`.

    The inputs of its matrix are in the order (channel, kernel row, kernel column). A row tile may
    begin inside a channel. It then sees all channels that it touches, with weights of 0 at the
    positions of the kernel that belong to its neighbour. The padding here is symmetric and with
    zeros; the layer does any other padding before the product.
    """

    def __init__(
        self,
        grid: TileGrid,
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
    ) -> None:
        """Prepare the product.

        Args:
            grid: The tiles of the layer.
            kernel: Size of the kernel.
            stride: Stride of the convolution.
            padding: Zeros on each side of each dimension.
            dilation: Dilation of the kernel.
        """
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
        self.has_integers = len(kernel) == 2

    def outputs_per_sample(self, x: Tensor) -> int:
        """Return the number of outputs, without regard to padding and kernel."""
        return self.grid.out_features * x[0, 0].numel() // math.prod(self.stride)

    def whole(self) -> ConvProduct:
        """Return the convolution on one tile."""
        grid = self.grid.whole()
        return ConvProduct(grid, self.kernel, self.stride, self.padding, self.dilation)

    def inputs(self, x: Tensor, row: int, column: int | None) -> Tensor:
        """Return the channels that the tile touches."""
        part = self._seen(x, row, column)
        return part if part.ndim == x.ndim else part.flatten(1, 2)

    def _seen(self, x: Tensor, row: int, column: int | None) -> Tensor:
        """Return the inputs of a tile as a view.

        For all groups at once it is `[batch, groups, channels, *space]`.
        """
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
        """Return the places of the channels; one on two rows of tiles lies there twice."""
        stops = list(accumulate(last - first for first, last in self.spans))
        return [slice(a, b) for a, b in zip([0, *stops], stops, strict=False)]

    def put_inputs(self, total: Tensor, part: Tensor, row: int, column: int | None) -> None:
        """Write channels that no tile has written yet, and add to the others."""
        seen = self._seen(total, row, column)
        part = part.view_as(seen)
        if column is not None and column % (len(self.columns) // self.grid.groups):
            seen += part
            return
        channels = seen.ndim - len(self.kernel) - 1
        shared = self.spans[row - 1][1] - self.spans[row][0] if row else 0
        if shared:  # a channel that lies on two rows of tiles, of which the first has written it
            seen.narrow(channels, 0, shared).add_(part.narrow(channels, 0, shared))
        rest = seen.shape[channels] - shared
        seen.narrow(channels, shared, rest).copy_(part.narrow(channels, shared, rest))

    def weights(self, weight: Tensor, row: int, column: int | None) -> Tensor:
        """Return the kernels of the tile, with zeros at its neighbours' positions."""
        columns = slice(None) if column is None else self.columns[column]
        first, last = self.spans[row]
        part = weight[columns, self.rows[row]]
        before = self.rows[row].start - first * self.size
        after = last * self.size - self.rows[row].stop
        if before or after:
            part = functional.pad(part, (before, after))
        return part.reshape(part.shape[0], last - first, *self.kernel)

    def matrix(self, weight: Tensor, row: int) -> Tensor:
        """Return the kernels without their neighbours' positions, as a matrix."""
        first = self.rows[row].start - self.spans[row][0] * self.size
        return weight.flatten(1)[:, first : first + self.grid.rows[row]]

    def _geometry(self, outputs: int) -> integers.Geometry:
        """Return the geometry of the convolution of a tile, or of all tiles of a row."""
        groups = self.grid.groups if outputs == self.grid.out_features else 1
        lists = (list(self.stride), list(self.padding), list(self.dilation))
        return integers.Geometry(*lists, groups)

    def pack(self, digit: Tensor, x: Tensor) -> Tensor:
        """Return the digit in oneDNN's order."""
        return integers.pack_conv(digit, x, self._geometry(len(digit)))

    def contract_codes(
        self,
        x: Tensor,
        zero: int,
        packed: Tensor,
        units: Tensor,
        bias: Tensor | None,
        onto: Tensor | None,
    ) -> Tensor:
        """Return the convolution."""
        return integers.conv(x, zero, packed, units, bias, onto, self._geometry(len(units)))

    def with_positioned(
        self, x: Tensor, side: Tensor, weight: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return two convolutions: the positions go into the weights."""
        positioned = (weight * position).to(side.dtype)
        return self.contract(x, weight), self.contract(side, positioned)

    def _groups(self, x: Tensor, weight: Tensor) -> int:
        """Return the number of groups that inputs and weights belong to."""
        return x.shape[1] // weight.shape[1]

    def contract(self, x: Tensor, weight: Tensor, bias: float = 0.0) -> Tensor:
        """Return the convolution."""
        convolution = (functional.conv1d, functional.conv2d, functional.conv3d)[x.ndim - 3]
        shape = (self.stride, self.padding, self.dilation, self._groups(x, weight))
        return convolution(x, weight, _filled(weight, bias), *shape)

    def transposed(
        self, grad: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of the convolution."""
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
    """Return a bias of the same number for each output; None if the number is 0."""
    return weight.new_full((weight.shape[0],), bias) if bias else None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `functional.linear`, by oneDNN on a CPU if autograd does not watch.

    MKL, torch's choice for float32, was half as fast (512 x 384 by 384 x 768 on one AMD core: 107
    against 215 GFLOP/s).
    """
    if (
        _ONEDNN
        and len(x) >= _ONEDNN_FROM
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_grad_enabled()
    ):
        # contiguous, because oneDNN is a thousand times slower if the memory has gaps
        x, weight = x.contiguous(), _prepared(weight.contiguous(), len(x))
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return y
    return functional.linear(x, weight, bias)


def _prepared(weight: Tensor, vectors: int) -> Tensor:
    """Return the weights in oneDNN's own order if a time loop reuses them.

    oneDNN would otherwise change their order in every product: 40 x 325 by 325 x 2600 takes 0.35 ms
    instead of 0.61 on two cores, with the same numbers. The first product of a loop leaves the
    weights as they are, since there may be no second one.
    """
    cache = kept_between_steps()
    if cache is None or vectors >= MANY:
        return weight
    # weak keys: weights that a step made only for itself are forgotten with it
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
