"""Weights on tiles: how a matrix is split, scaled, and turned into conductances and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from aimc_bridge.errors import CalibrationError, ShapeError
from aimc_bridge.spec import CrossbarSpec


def split_sizes(size: int, largest: int | None) -> tuple[int, ...]:
    """Sizes of the fewest parts of at most `largest`, as even as possible, larger ones first.

    Source: aihwkit TileModuleArray (1152 -> 3 x 384; 513 -> 257 + 256; 2304 -> 4 x 461 + 460).
    """
    if largest is None:
        return (size,)
    parts = -(-size // largest)
    base, extra = divmod(size, parts)
    return tuple(base + (i < extra) for i in range(parts))


@lru_cache(maxsize=4096)
def _owner_index(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # kept between calls: one made for inference cannot train
        index = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        return index.to(device)


@dataclass(frozen=True)
class TileGrid:
    """A matrix `[out, in]` cut into tiles. Rows are inputs, columns are outputs, as on a crossbar.

    rows       number of inputs of each row tile; sums to `in`
    columns    number of outputs of each column tile; sums to `out`
    groups     groups of a convolution: column tiles never cross a group, and every group has the
               same rows of its own
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    groups: int = 1

    @staticmethod
    def of(
        out_features: int, in_features: int, crossbar: CrossbarSpec, groups: int = 1
    ) -> TileGrid:
        """The grid of a layer; `in_features` counts the inputs of one group."""
        columns = split_sizes(out_features // groups, crossbar.max_columns) * groups
        return TileGrid(split_sizes(in_features, crossbar.max_rows), columns, groups)

    def whole(self) -> TileGrid:
        """The same matrix, each group on one tile as large as it."""
        columns = (self.out_features // self.groups,) * self.groups
        return TileGrid((self.in_features,), columns, self.groups)

    @property
    def out_features(self) -> int:
        return sum(self.columns)

    @property
    def in_features(self) -> int:
        return sum(self.rows)

    @property
    def tiles(self) -> int:
        return len(self.rows) * len(self.columns)

    def row_slices(self) -> list[slice]:
        return _slices(self.rows)

    def column_slices(self) -> list[slice]:
        return _slices(self.columns)

    def check(self, weight: Tensor) -> None:
        if tuple(weight.shape[-2:]) != (self.out_features, self.in_features):
            raise ShapeError(
                f"weights {tuple(weight.shape)}; this grid is "
                f"[..., {self.out_features}, {self.in_features}]"
            )

    def check_ranges(self, ranges: Tensor, label: str) -> None:
        """Raises ShapeError or CalibrationError where input ranges do not fit the layer `label`."""
        shape = (len(self.rows), len(self.columns))
        if tuple(ranges.shape) != shape:
            raise ShapeError(
                f"input ranges {tuple(ranges.shape)} for {label}; "
                f"allowed: {shape} (row tiles, column tiles)"
            )
        if not bool((ranges > 0).all() and ranges.isfinite().all()):
            raise CalibrationError(f"input ranges of {label} must be finite and > 0")

    # from [..., out, in] to one value a column of a tile, or a tile
    def column_amax(self, weight: Tensor) -> Tensor:
        """Largest |w| of each column of each tile: `[..., out, in] -> [..., row tiles, out]`."""
        self.check(weight)
        parts = torch.split(weight, list(self.rows), dim=-1)
        # not of |weight|, which would be written to memory
        largest = [torch.maximum(part.amax(dim=-1), -part.amin(dim=-1)) for part in parts]
        return torch.stack(largest, dim=-2)

    def tile_amax(self, weight: Tensor) -> Tensor:
        """Largest |w| of each tile: `[..., out, in] -> [..., row tiles, column tiles]`."""
        return self.reduce_columns(self.column_amax(weight), "amax")

    def column_mean(self, values: Tensor) -> Tensor:
        """Mean over each column of each tile: `[..., out, in] -> [..., row tiles, out]`."""
        self.check(values)
        parts = torch.split(values, list(self.rows), dim=-1)
        return torch.stack([part.mean(dim=-1) for part in parts], dim=-2)

    def tile_mean(self, values: Tensor) -> Tensor:
        """Mean over each tile: `[..., out, in] -> [..., row tiles, column tiles]`."""
        return self.reduce_columns(self.column_mean(values), "mean")

    def reduce_columns(self, values: Tensor, how: str) -> Tensor:
        """`[..., row tiles, out] -> [..., row tiles, column tiles]` by "amax" or "mean"."""
        reduce = torch.amax if how == "amax" else torch.mean
        if len(set(self.columns)) == 1:  # the many columns of a depthwise convolution at once
            return reduce(values.reshape(*values.shape[:-1], len(self.columns), -1), -1)
        # not scatter_reduce: on CUDA it sums in no fixed order
        parts = torch.split(values, list(self.columns), dim=-1)
        return torch.stack([reduce(part, -1) for part in parts], -1)

    # and back
    def expand_tiles(self, values: Tensor) -> Tensor:
        """`[..., row tiles, column tiles] -> [..., row tiles, out]`."""
        if len(self.columns) == 1:
            return values.expand(*values.shape[:-1], self.out_features)
        return values.index_select(-1, _owner_index(self.columns, values.device))

    def expand_columns(self, values: Tensor) -> Tensor:
        """`[..., row tiles, out] -> [..., out, in]`, broadcastable where there is one row tile."""
        values = values.transpose(-1, -2)
        if len(self.rows) == 1:
            return values
        return values.index_select(-1, _owner_index(self.rows, values.device))

    def row_position(self, like: Tensor) -> Tensor:
        """1 - (1 - j/n)^2 of each input, j its index in its row tile of n inputs: `[in]`."""
        parts = [
            1.0 - (1.0 - torch.arange(n, dtype=like.dtype, device=like.device) / n) ** 2
            for n in self.rows
        ]
        return torch.cat(parts)

    def row_count(self, like: Tensor) -> Tensor:
        """Number of inputs of the row tile that each input belongs to: `[in]`."""
        counts = torch.tensor(self.rows, dtype=like.dtype, device=like.device)
        return counts.index_select(0, _owner_index(self.rows, like.device))


def _slices(sizes: tuple[int, ...]) -> list[slice]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def column_scales(weight: Tensor, grid: TileGrid, weight_scaling: str) -> Tensor:
    """Digital scale of each column of each tile, so that |w| / scale <= 1.

    Args:    weight  `[..., out, in]`.    weight_scaling  "column": largest |w| of the column in
             the tile; "tile": of the tile; "layer": of the whole matrix.
    Returns: `[..., row tiles, out]`; 1 where all weights are zero.
    Source:  rasch2023 SI Table 1 (column); aihwkit `mapping.weight_scaling_columnwise`.
    """
    columns = grid.column_amax(weight)
    if weight_scaling == "tile":
        columns = grid.expand_tiles(grid.reduce_columns(columns, "amax"))
    elif weight_scaling == "layer":
        columns = columns.amax(dim=(-1, -2), keepdim=True).expand_as(columns)
    return torch.where(columns > 0, columns, torch.ones_like(columns))


def levels(bits: int) -> int:
    """Return the number of steps from 0 to the bound of a converter or grid: 127 for 8 bits."""
    return int(2 ** (bits - 1) - 1)


def quantised(values: Tensor, bits: int | None, bound: float) -> Tensor:
    """Round to 2^bits - 1 levels over [-bound, bound], halves to even, and clamp.

    8 bits are 254 steps of bound / 127. Source: aihwkit `inp_res`, `out_res` = 1 / (2^bits - 2).
    `bits=None` gives the values back.
    """
    if bits is None:
        return values
    step: float = bound / levels(bits)
    rounded: Tensor = (values / step).round() * step
    return rounded.clamp(-bound, bound)


def legs(weight: Tensor, us_per_unit: Tensor | float) -> tuple[Tensor, Tensor]:
    """Conductances of the two devices of each weight, (positive, negative); one of them is 0."""
    g = weight * us_per_unit
    return g.clamp_min(0.0), (-g).clamp_min(0.0)


def from_legs(positive: Tensor, negative: Tensor, us_per_unit: Tensor | float) -> Tensor:
    """The weight of two conductances."""
    return (positive - negative) / us_per_unit


def to_pair(weight: Tensor, us_per_unit: Tensor | float) -> Tensor:
    """A conductance pair of each weight; one of the two is 0.

    Args:    weight  `[..., out, in]`.    us_per_unit  microsiemens of a weight of 1, broadcastable.
    Returns: `[..., 2, out, in]`, microsiemens: positive leg, negative leg.
    """
    return torch.stack(legs(weight, us_per_unit), dim=-3)


def from_pair(pair_us: Tensor, us_per_unit: Tensor | float) -> Tensor:
    """The weight of a conductance pair: `[..., 2, out, in] -> [..., out, in]`."""
    return from_legs(pair_us[..., 0, :, :], pair_us[..., 1, :, :], us_per_unit)
