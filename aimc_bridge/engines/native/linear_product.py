"""The product of a linear layer with the weights of a tile: a matrix product."""

from __future__ import annotations

import torch
from torch import Tensor

from aimc_bridge.engines.native import onednn
from aimc_bridge.engines.native.product import MANY, Product, filled
from aimc_bridge.physics.mapping import TileGrid


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
        return onednn.linear(x, weight, filled(weight, bias))

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
        return onednn.pack_linear(digit, x)

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
        return onednn.linear_of_codes(x, zero, packed, units, bias, onto)

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
