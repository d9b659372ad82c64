"""Weights on tiles: splitting, scaling, and conductances of weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from aimc_bridge.errors import CalibrationError, ShapeError
from aimc_bridge.spec import CrossbarSpec


def split_sizes(size: int, largest: int | None) -> tuple[int, ...]:
    """Split a size into the fewest parts, as even as possible, the larger ones first.

    Args:
        size: The number to split.
        largest: Largest size of a part; None means one part.

    Returns:
        The sizes of the parts.

    Source: aihwkit TileModuleArray (1152 -> 3 x 384; 513 -> 257 + 256; 2304 -> 4 x 461 + 460).
    """
    if largest is None:
        return (size,)
    parts = -(-size // largest)
    base, extra = divmod(size, parts)
    return tuple(base + (i < extra) for i in range(parts))


@lru_cache(maxsize=4096)
def _owner_index(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the number of the part that each element belongs to."""
    # The result is kept between calls, and a tensor made in inference mode cannot train.
    with torch.inference_mode(False):
        index = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        return index.to(device)


@dataclass(frozen=True)
class TileGrid:
    """The tiles of a weight matrix of shape (out, in).

    As on a crossbar, rows are inputs and columns are outputs.

    Attributes:
        rows: Number of inputs of each row tile. Their sum is `in`.
        columns: Number of outputs of each column tile. Their sum is `out`.
        groups: Groups of a convolution. No column tile crosses the border of a group. Each group
            has inputs of its own, and `rows` splits them all in the same way.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    groups: int = 1

    @staticmethod
    def of(
        out_features: int, in_features: int, crossbar: CrossbarSpec, groups: int = 1
    ) -> TileGrid:
        """Return the grid of a layer.

        Args:
            out_features: Number of outputs.
            in_features: Number of inputs, of one group if there are several.
            crossbar: The crossbar, `preset.crossbar`, with the largest size of a tile.
            groups: Groups of a convolution; a divisor of `out_features`.

        Returns:
            The grid with the fewest tiles.
        """
        columns = split_sizes(out_features // groups, crossbar.max_columns) * groups
        return TileGrid(split_sizes(in_features, crossbar.max_rows), columns, groups)

    def whole(self) -> TileGrid:
        """Return the grid of the same matrix in which each group is one tile."""
        columns = (self.out_features // self.groups,) * self.groups
        return TileGrid((self.in_features,), columns, self.groups)

    @property
    def out_features(self) -> int:
        """Return the number of outputs."""
        return sum(self.columns)

    @property
    def in_features(self) -> int:
        """Return the number of inputs, of one group if there are several."""
        return sum(self.rows)

    @property
    def tiles(self) -> int:
        """Return the number of tiles."""
        return len(self.rows) * len(self.columns)

    def row_slices(self) -> list[slice]:
        """Return the inputs of each row tile as slices."""
        return _slices(self.rows)

    def column_slices(self) -> list[slice]:
        """Return the outputs of each column tile as slices."""
        return _slices(self.columns)

    def check(self, weight: Tensor) -> None:
        """Check that weights fit this grid.

        Args:
            weight: Weights, shape (..., out, in).

        Raises:
            ShapeError: If they do not.
        """
        if tuple(weight.shape[-2:]) != (self.out_features, self.in_features):
            raise ShapeError(
                f"weights {tuple(weight.shape)}; this grid is "
                f"[..., {self.out_features}, {self.in_features}]"
            )

    def check_ranges(self, ranges: Tensor, label: str) -> None:
        """Check that input ranges fit this grid.

        Args:
            ranges: One range per tile, shape (row tiles, column tiles).
            label: Name of the layer, for the error.

        Raises:
            ShapeError: If they have another shape.
            CalibrationError: If one of them is not finite or not positive.
        """
        shape = (len(self.rows), len(self.columns))
        if tuple(ranges.shape) != shape:
            raise ShapeError(
                f"input ranges {tuple(ranges.shape)} for {label}; "
                f"allowed: {shape} (row tiles, column tiles)"
            )
        if not bool((ranges > 0).all() and ranges.isfinite().all()):
            raise CalibrationError(f"input ranges of {label} must be finite and > 0")

    # --- from (..., out, in) to one value per column of a tile, or per tile ---

    def column_amax(self, weight: Tensor) -> Tensor:
        """Return the largest |w| of each column of each tile.

        Args:
            weight: Weights, shape (..., out, in).

        Returns:
            Shape (..., row tiles, out).

        Raises:
            ShapeError: If the weights do not fit the grid.
        """
        self.check(weight)
        parts = torch.split(weight, list(self.rows), dim=-1)
        # abs() would write all of |weight| to memory
        largest = [torch.maximum(part.amax(dim=-1), -part.amin(dim=-1)) for part in parts]
        return torch.stack(largest, dim=-2)

    def tile_amax(self, weight: Tensor) -> Tensor:
        """Return the largest |w| of each tile.

        Args:
            weight: Weights, shape (..., out, in).

        Returns:
            Shape (..., row tiles, column tiles).

        Raises:
            ShapeError: If the weights do not fit the grid.
        """
        return self.reduce_columns(self.column_amax(weight), "amax")

    def column_mean(self, values: Tensor) -> Tensor:
        """Return the mean over each column of each tile.

        Args:
            values: Values, shape (..., out, in).

        Returns:
            Shape (..., row tiles, out).

        Raises:
            ShapeError: If the values do not fit the grid.
        """
        self.check(values)
        parts = torch.split(values, list(self.rows), dim=-1)
        return torch.stack([part.mean(dim=-1) for part in parts], dim=-2)

    def tile_mean(self, values: Tensor) -> Tensor:
        """Return the mean over each tile.

        Args:
            values: Values, shape (..., out, in).

        Returns:
            Shape (..., row tiles, column tiles).

        Raises:
            ShapeError: If the values do not fit the grid.
        """
        return self.reduce_columns(self.column_mean(values), "mean")

    def reduce_columns(self, values: Tensor, how: str) -> Tensor:
        """Reduce one value per column to one value per tile.

        Args:
            values: Values, shape (..., row tiles, out).
            how: "amax" for the largest or "mean" for the mean.

        Returns:
            Shape (..., row tiles, column tiles).
        """
        reduce = torch.amax if how == "amax" else torch.mean
        if len(set(self.columns)) == 1:  # the many columns of a depthwise convolution at once
            return reduce(values.reshape(*values.shape[:-1], len(self.columns), -1), -1)
        # not scatter_reduce: on CUDA it sums in no fixed order
        parts = torch.split(values, list(self.columns), dim=-1)
        return torch.stack([reduce(part, -1) for part in parts], -1)

    # --- and back ---

    def expand_tiles(self, values: Tensor) -> Tensor:
        """Give each column the value of its tile.

        Args:
            values: Values, shape (..., row tiles, column tiles).

        Returns:
            Shape (..., row tiles, out).
        """
        if len(self.columns) == 1:
            return values.expand(*values.shape[:-1], self.out_features)
        return values.index_select(-1, _owner_index(self.columns, values.device))

    def expand_columns(self, values: Tensor) -> Tensor:
        """Give each weight the value of its column in its tile.

        Args:
            values: Values, shape (..., row tiles, out).

        Returns:
            Shape (..., out, in); (..., out, 1), which broadcasts, if there is one row tile.
        """
        values = values.transpose(-1, -2)
        if len(self.rows) == 1:
            return values
        return values.index_select(-1, _owner_index(self.rows, values.device))

    def row_position(self, like: Tensor) -> Tensor:
        """Return how strongly the IR drop acts on each input, 1 - (1 - j/n)^2.

        Here j is the index of the input in its row tile, which has n inputs.

        Args:
            like: A tensor whose dtype and device the result has.

        Returns:
            Shape (in,).
        """
        parts = [
            1.0 - (1.0 - torch.arange(n, dtype=like.dtype, device=like.device) / n) ** 2
            for n in self.rows
        ]
        return torch.cat(parts)

    def row_count(self, like: Tensor) -> Tensor:
        """Return the number of inputs of the row tile that each input belongs to.

        Args:
            like: A tensor whose dtype and device the result has.

        Returns:
            Shape (in,).
        """
        counts = torch.tensor(self.rows, dtype=like.dtype, device=like.device)
        return counts.index_select(0, _owner_index(self.rows, like.device))


def _slices(sizes: tuple[int, ...]) -> list[slice]:
    """Return consecutive slices of these sizes."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def column_scales(weight: Tensor, grid: TileGrid, weight_scaling: str) -> Tensor:
    """Return the digital scale of each column of each tile, so that |w| / scale <= 1.

    Args:
        weight: Weights, shape (..., out, in).
        grid: The tiles.
        weight_scaling: The scale is the largest |w| of the column in the tile ("column"), of the
            tile ("tile") or of the whole matrix ("layer").

    Returns:
        Scales in the units of the weights, shape (..., row tiles, out); 1 if all weights are zero.

    Raises:
        ShapeError: If the weights do not fit the grid.

    Source: rasch2023 SI Table 1 (column); aihwkit `mapping.weight_scaling_columnwise`.
    """
    columns = grid.column_amax(weight)
    if weight_scaling == "tile":
        columns = grid.expand_tiles(grid.reduce_columns(columns, "amax"))
    elif weight_scaling == "layer":
        columns = columns.amax(dim=(-1, -2), keepdim=True).expand_as(columns)
    return torch.where(columns > 0, columns, torch.ones_like(columns))


def levels(bits: int) -> int:
    """Return the number of steps from 0 to the bound of a converter or grid.

    Args:
        bits: Resolution, 2 or more, sign included.

    Returns:
        2^(bits - 1) - 1, such as 127 for 8 bits.
    """
    return int(2 ** (bits - 1) - 1)


def quantised(values: Tensor, bits: int | None, bound: float) -> Tensor:
    """Round to 2^bits - 1 levels over [-bound, bound], halves to even, and clamp.

    8 bits are 254 steps of bound / 127.

    Args:
        values: Values of any shape.
        bits: Resolution, sign included; None returns the values as they are.
        bound: Largest absolute value, in the units of the values.

    Returns:
        Rounded values, in the same shape.

    Source: aihwkit `inp_res`, `out_res` = 1 / (2^bits - 2).
    """
    if bits is None:
        return values
    step: float = bound / levels(bits)
    rounded: Tensor = (values / step).round() * step
    return rounded.clamp(-bound, bound)


def legs(weight: Tensor, us_per_unit: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return the conductances of the two devices of each weight; one of the two is 0.

    Args:
        weight: Normalised weights, shape (*cells).
        us_per_unit: Microsiemens of a weight of 1, broadcastable to (*cells).

    Returns:
        The positive and the negative device in microsiemens, each of shape (*cells).
    """
    g = weight * us_per_unit
    return g.clamp_min(0.0), (-g).clamp_min(0.0)


def from_legs(positive: Tensor, negative: Tensor, us_per_unit: Tensor | float) -> Tensor:
    """Return the normalised weights of two conductances each.

    Args:
        positive: Conductance of the positive devices in microsiemens, shape (*cells).
        negative: Conductance of the negative devices in microsiemens, shape (*cells).
        us_per_unit: Microsiemens of a weight of 1, broadcastable to (*cells).

    Returns:
        Normalised weights, shape (*cells).
    """
    return (positive - negative) / us_per_unit


def to_pair(weight: Tensor, us_per_unit: Tensor | float) -> Tensor:
    """Return the conductance pair of each weight; one of the two is 0.

    Args:
        weight: Normalised weights, shape (..., out, in).
        us_per_unit: Microsiemens of a weight of 1, broadcastable to (..., out, in).

    Returns:
        Microsiemens, shape (..., 2, out, in): the positive devices, then the negative ones.
    """
    return torch.stack(legs(weight, us_per_unit), dim=-3)


def from_pair(pair_us: Tensor, us_per_unit: Tensor | float) -> Tensor:
    """Return the normalised weights of conductance pairs.

    Args:
        pair_us: Microsiemens, shape (..., 2, out, in): the positive devices, then the negative
            ones.
        us_per_unit: Microsiemens of a weight of 1, broadcastable to (..., out, in).

    Returns:
        Normalised weights, shape (..., out, in).
    """
    return from_legs(pair_us[..., 0, :, :], pair_us[..., 1, :, :], us_per_unit)
