"""Parts of the products of tiles: units, prepared weights, jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from aimc_bridge.engines.native.digits import IntegerWeights, ThinWeights, Units, prepared, thin
from aimc_bridge.engines.native.product import Product
from aimc_bridge.physics.mapping import levels
from aimc_bridge.physics.mvm import LineEffects
from aimc_bridge.spec import CrossbarSpec


def output_step(spec: CrossbarSpec) -> float:
    """Return the unit of outputs inside a product: a step of the ADC, 1 without one.

    Args:
        spec: The crossbar's settings.
    """
    step: float = 1.0 if spec.adc_bits is None else spec.out_bound / levels(spec.adc_bits)
    return step


def perfect(spec: CrossbarSpec, ir_drop: bool) -> bool:
    """Return whether the periphery changes nothing.

    The tiles then are one digital product.

    Args:
        spec: The crossbar's settings.
        ir_drop: Whether there is an IR drop now.
    """
    converters = spec.adc_bits is not None or spec.input_range != "none"
    noise = spec.out_noise > 0.0 or spec.w_noise > 0.0
    return not (converters or noise or ir_drop or spec.line_effects)


class TileWeights:
    """The weights of a tile in the shape in which its product takes them.

    Attributes:
        rows: Number of inputs of the tile.
        position: The position of each input for the IR drop, in the shape of one output's weights;
            None if there is no IR drop.
        negative: The weights that negative inputs meet, if they are others; else None.
    """

    def __init__(
        self,
        product: Product,
        weight: Tensor,
        row: int,
        column: int | None,
        position: Tensor | None,
        read_asymmetry: Tensor | None = None,
    ) -> None:
        """Cut the weights of a tile out of a matrix.

        Args:
            product: The product of the layer.
            weight: Normalised weights of the layer, `[out, in]`.
            row: The row of the tile.
            column: The column of the tile; None takes all columns.
            position: `TileGrid.row_position` of the layer's inputs, `[in]`; None without IR drop.
            read_asymmetry: Factor on each weight while its input is negative, `[out, in]`, or None.
        """
        self.rows = product.grid.rows[row]
        self._cut: Callable[[], Tensor] = partial(product.weights, weight, row, column)
        self._value: Tensor | None = None
        self.position: Tensor | None = None
        if position is not None:
            self.position = product.weights(position.unsqueeze(0), row, None)
        self._magnitudes: dict[torch.dtype, Tensor] = {}
        self._integers: dict[tuple[bool, bool, Units], IntegerWeights | ThinWeights] = {}
        self.negative: TileWeights | None = None
        if read_asymmetry is not None:
            self.negative = TileWeights(product, weight * read_asymmetry, row, column, position)

    @property
    def value(self) -> Tensor:
        """Return the normalised weights; they are cut out of the matrix at their first use."""
        if self._value is None:
            self._value = self._cut().contiguous()
            self._cut = self._value.detach  # the matrix is not needed any more
        return self._value

    def magnitude(self, dtype: torch.dtype) -> Tensor:
        """Return |value| in a precision; it is computed at its first use.

        Args:
            dtype: The precision.
        """
        if dtype not in self._magnitudes:
            self._magnitudes[dtype] = self.value.to(dtype).abs()
        return self._magnitudes[dtype]

    def integers(self, job: Job, x: Tensor, units: Units) -> IntegerWeights | ThinWeights:
        """Return the weights for products in integers; they are computed at their first use.

        They do not keep `value`, which such products never read.

        Args:
            job: The products.
            x: Inputs of the tile, of a usual shape.
            units: The values of codes of 1.
        """
        key = (job.side is not None, thin(x), units)
        if key not in self._integers:
            self._integers[key] = prepared(
                job.product, self._cut().contiguous(), self.position, x, units,
                noisy=job.spec.w_noise > 0.0, coarse=job.side is not None,
            )  # fmt: skip
        return self._integers[key]


class Kept:
    """The weights of a chip's tiles, kept from one product to the next; copies begin without.

    Attributes:
        of: The weights that they were taken from, `[out, in]`; None if there are none.
        version: The version of that tensor.
        tiles: The weights of tiles, by row and column.
    """

    def __init__(self, of: Tensor | None = None, version: int = 0) -> None:
        """Begin without tiles.

        Args:
            of: The weights that the tiles will be taken from.
            version: The version of that tensor.
        """
        self.of, self.version = of, version
        self.tiles: dict[tuple[int, int | None], TileWeights] = {}

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        """Copy and pickle nothing."""
        return Kept, ()


@dataclass(frozen=True)
class Block:
    """The tiles that one product serves.

    They are a row of tiles with the same input range, or a single tile.

    Attributes:
        row: The row of the tiles.
        column: The column of the tile; None if the block is a whole row.
        columns: The outputs of the layer that the tiles compute.
        tile: The weights of the tiles.
        effects: The optional effects of their periphery, by output; None if there are none.
        ones: Weights of 1 in the shape of one output's weights, for the sum of the inputs; None if
            nothing depends on it.
    """

    row: int
    column: int | None
    columns: slice
    tile: TileWeights
    effects: LineEffects | None = None
    ones: Tensor | None = None

    def range_of(self, ranges: Tensor | None) -> Tensor | None:
        """Return the input range of these tiles.

        Args:
            ranges: The ranges of the layer, `[row tiles, column tiles]`, or None.
        """
        return None if ranges is None else ranges[self.row, self.column or 0]


@dataclass(frozen=True)
class Job:
    """The inputs of a crossbar's products that are not tensors with gradients.

    Attributes:
        product: The product of the layer.
        spec: The crossbar's settings.
        blocks: The tiles, by the product that serves them.
        scale: Digital scale of the trained weights, `[row tiles, out]`.
        decay: Decay of learned input ranges: (rate, least share of unclipped inputs).
        side: Precision of the products behind IR drop and read noise; None is the precision of the
            weights.
        compiled: Whether everything beside the products runs in `compiled_passes`.
        integers: Whether the products may be computed in integers.
    """

    product: Product
    spec: CrossbarSpec
    blocks: Sequence[Block]
    scale: Tensor
    decay: tuple[float, float]
    side: torch.dtype | None
    compiled: bool = False
    integers: bool = False

    @property
    def bound(self) -> int | None:
        """Return the bound of the ADC, in its steps; None without an ADC."""
        bits = self.spec.adc_bits
        return None if bits is None else levels(bits)


def along(values: Tensor, like: Tensor) -> Tensor:
    """Return values per output in a shape that broadcasts to outputs.

    Args:
        values: The values, `[outputs]`.
        like: A tensor with the dimensions `[samples, outputs, *space]`.
    """
    return values.view(-1, *[1] * (like.ndim - 2))


def room(like: Tensor, samples: int, channels: int) -> Tensor:
    """Return an empty tensor with the memory order of another one's dimensions.

    Args:
        like: The other tensor, `[samples, channels, *space]`.
        samples: Size of the first dimension.
        channels: Size of the second dimension.

    Returns:
        The tensor, `[samples, channels, *space]`.
    """
    space = like.shape[2:]
    if like.stride(1) == 1:
        return like.new_empty(samples, *space, channels).movedim(-1, 1)
    return like.new_empty(samples, channels, *space)
