"""The product of a convolution with the weights of a tile: a convolution."""

from __future__ import annotations

import math
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from aimc_bridge.engines.native import onednn
from aimc_bridge.engines.native.product import Product, filled
from aimc_bridge.physics.mapping import TileGrid


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

    def _geometry(self, outputs: int) -> onednn.Geometry:
        """Return the geometry of the convolution of a tile, or of all tiles of a row."""
        groups = self.grid.groups if outputs == self.grid.out_features else 1
        lists = (list(self.stride), list(self.padding), list(self.dilation))
        return onednn.Geometry(*lists, groups)

    def pack(self, digit: Tensor, x: Tensor) -> Tensor:
        """Return the digit in oneDNN's order."""
        return onednn.pack_conv(digit, x, self._geometry(len(digit)))

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
        return onednn.conv_of_codes(x, zero, packed, units, bias, onto, self._geometry(len(units)))

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
        return convolution(x, weight, filled(weight, bias), *shape)

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
