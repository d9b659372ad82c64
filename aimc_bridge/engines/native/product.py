"""Products of a layer with the weights of one tile, or of one row of tiles.

A `Product` knows which inputs reach a tile and how to multiply them with the tile's weights: by a
matrix product in linear layers (`linear_product`), by a convolution in convolutions
(`conv_product`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from aimc_bridge.physics.mapping import TileGrid

MANY = 256
"""From this number of input vectors on, arithmetic limits a product, not memory.

One more pass over the weights, to cut them into tiles or to change their order, then costs nothing
next to the product.
"""


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


def filled(weight: Tensor, bias: float) -> Tensor | None:
    """Return a bias of the same number for each output; None if the number is 0.

    Args:
        weight: Weights, `[outputs, ...]`.
        bias: The number.
    """
    return weight.new_full((weight.shape[0],), bias) if bias else None
