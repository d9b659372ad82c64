"""Weights on tiles: splits, scales, grids and pairs, against loops and aihwkit's mapping."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from aihwkit.nn import AnalogLinear
from aihwkit.simulator.tiles.array import TileModuleArray
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import presets
from aimc_bridge.errors import ShapeError
from aimc_bridge.physics.mapping import (
    TileGrid,
    column_scales,
    from_pair,
    quantised,
    split_sizes,
    to_pair,
)
from presets import ideal, rasch2023, scalar_drift

PROPERTY = settings(derandomize=True, deadline=None, max_examples=200)
CROSSBAR = rasch2023.crossbar


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(11)


# --- splits ---


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, (1,)),
        (512, (512,)),
        (513, (257, 256)),
        (1024, (512, 512)),
        (1152, (384, 384, 384)),
        (2304, (461, 461, 461, 461, 460)),
    ],
)
def test_splits_of_the_paper(size: int, expected: tuple[int, ...]) -> None:
    assert split_sizes(size, 512) == expected
    assert split_sizes(size, None) == (size,)


@PROPERTY
@given(st.integers(min_value=1, max_value=10_000), st.integers(min_value=1, max_value=1024))
def test_splits_are_few_and_even(size: int, largest: int) -> None:
    parts = split_sizes(size, largest)
    assert sum(parts) == size
    assert len(parts) == -(-size // largest)
    assert max(parts) <= largest
    assert max(parts) - min(parts) <= 1
    assert list(parts) == sorted(parts, reverse=True)


@PROPERTY
@given(st.integers(min_value=1, max_value=10_000), st.integers(min_value=1, max_value=1024))
def test_splits_are_aihwkits(size: int, largest: int) -> None:
    # This reads nothing of the array.
    theirs = TileModuleArray.get_split_sizes(None, size, largest)
    assert list(split_sizes(size, largest)) == theirs


# --- grids ---


class Tiles:
    """A grid's tiles as plain loops over (row tile, column tile, rows, columns)."""

    def __init__(self, grid: TileGrid) -> None:
        self.rows = [
            slice(sum(grid.rows[:i]), sum(grid.rows[: i + 1])) for i in range(len(grid.rows))
        ]
        self.columns = [
            slice(sum(grid.columns[:i]), sum(grid.columns[: i + 1]))
            for i in range(len(grid.columns))
        ]

    def __iter__(self) -> Any:
        for i, rows in enumerate(self.rows):
            for j, columns in enumerate(self.columns):
                yield i, j, rows, columns


GRIDS = {
    "one tile": TileGrid((5,), (4,)),
    "one row": TileGrid((5,), (4, 3)),
    "one column": TileGrid((3, 2), (7,)),
    "uneven": TileGrid((3, 2, 2), (4, 3)),
    "even": TileGrid((2, 2), (3, 3, 3)),
    "groups": TileGrid((5,), (2, 1, 2, 1), groups=2),
    "depthwise": TileGrid((9,), (1,) * 6, groups=6),
}
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def weights(grid: TileGrid, *chips: int) -> Tensor:
    return torch.randn(*chips, grid.out_features, grid.in_features)


@every_grid
@pytest.mark.parametrize("chips", [(), (3,), (2, 2)], ids=str)
class TestGrid:
    def test_tile_reductions(self, grid: TileGrid, chips: tuple[int, ...]) -> None:
        weight = weights(grid, *chips)
        amax, mean = grid.tile_amax(weight), grid.tile_mean(weight)
        assert amax.shape == mean.shape == (*chips, len(grid.rows), len(grid.columns))
        for i, j, rows, columns in Tiles(grid):
            tile = weight[..., columns, rows]
            assert torch.equal(amax[..., i, j], tile.abs().amax((-1, -2)))
            torch.testing.assert_close(mean[..., i, j], tile.mean((-1, -2)))

    def test_column_reductions(self, grid: TileGrid, chips: tuple[int, ...]) -> None:
        weight = weights(grid, *chips)
        amax, mean = grid.column_amax(weight), grid.column_mean(weight)
        assert amax.shape == mean.shape == (*chips, len(grid.rows), grid.out_features)
        for i, _, rows, columns in Tiles(grid):
            tile = weight[..., columns, rows]
            assert torch.equal(amax[..., i, columns], tile.abs().amax(-1))
            torch.testing.assert_close(mean[..., i, columns], tile.mean(-1))

    def test_expansions(self, grid: TileGrid, chips: tuple[int, ...]) -> None:
        values = torch.randn(*chips, len(grid.rows), len(grid.columns))
        by_column = grid.expand_tiles(values)
        assert by_column.shape == (*chips, len(grid.rows), grid.out_features)
        by_cell = grid.expand_columns(by_column)
        by_cell = by_cell.expand(*chips, grid.out_features, grid.in_features)
        for i, j, rows, columns in Tiles(grid):
            value = values[..., i, j]
            assert bool((by_column[..., i, columns] == value[..., None]).all())
            assert bool((by_cell[..., columns, rows] == value[..., None, None]).all())

    def test_what_is_constant_on_a_tile_comes_back(
        self, grid: TileGrid, chips: tuple[int, ...]
    ) -> None:
        values = torch.rand(*chips, len(grid.rows), len(grid.columns))
        by_column = grid.expand_tiles(values)
        assert torch.equal(grid.reduce_columns(by_column, "amax"), values)
        torch.testing.assert_close(grid.reduce_columns(by_column, "mean"), values)
        cells = torch.ones(grid.out_features, grid.in_features) * grid.expand_columns(by_column)
        assert torch.equal(grid.tile_amax(cells), values)

    def test_scales(self, grid: TileGrid, chips: tuple[int, ...]) -> None:
        weight = weights(grid, *chips)
        weight[..., 0, :] = 0.0
        scales = {how: column_scales(weight, grid, how) for how in ("column", "tile", "layer")}
        for i, _, rows, columns in Tiles(grid):
            tile = weight[..., columns, rows].abs()
            largest = {
                "column": tile.amax(-1),
                "tile": tile.amax((-1, -2))[..., None].expand(tile.shape[:-1]),
                "layer": weight.abs().amax((-1, -2))[..., None].expand(tile.shape[:-1]),
            }
            for how, expected in largest.items():
                expected = torch.where(expected > 0, expected, torch.ones(()))
                assert torch.equal(scales[how][..., i, columns], expected)
        for how, scale in scales.items():
            normalised = weight / grid.expand_columns(scale)
            assert normalised.abs().max().item() <= 1.0
            if how == "column":  # Each column of each tile fills its range, or is empty.
                full = grid.column_amax(normalised)
                assert bool(((full == 1.0) | (full == 0.0)).all())


@every_grid
def test_positions_and_counts(grid: TileGrid) -> None:
    """The factor is 1 - (1 - j/n)^2; j is the row's index inside its tile."""
    position, count = grid.row_position(torch.zeros(1).double()), grid.row_count(torch.zeros(1))
    at = 0
    for n in grid.rows:
        for j in range(n):
            assert position[at].item() == pytest.approx(1 - (1 - j / n) ** 2)
            assert count[at].item() == n
            at += 1
    assert at == len(position) == len(count)


def test_grid_of_a_layer() -> None:
    grid = TileGrid.of(700, 1152, CROSSBAR)
    assert (grid.rows, grid.columns) == ((384, 384, 384), (350, 350))
    assert (grid.out_features, grid.in_features, grid.tiles) == (700, 1152, 6)
    grouped = TileGrid.of(1200, 64, CROSSBAR, groups=2)
    assert grouped.columns == (300, 300, 300, 300)
    assert (grouped.groups, grouped.in_features) == (2, 64)
    for preset in presets.names():
        assert TileGrid.of(3, 5, presets.get(preset).crossbar) == TileGrid((5,), (3,))
    assert TileGrid.of(4000, 5000, scalar_drift.crossbar).tiles == 1
    assert TileGrid.of(4000, 5000, ideal.crossbar).tiles == 80


def test_slices_cover_the_matrix() -> None:
    grid = TileGrid((3, 2, 2), (4, 3))
    assert grid.row_slices() == [slice(0, 3), slice(3, 5), slice(5, 7)]
    assert grid.column_slices() == [slice(0, 4), slice(4, 7)]


def test_a_matrix_of_another_shape_is_an_error() -> None:
    grid = TileGrid((3, 2), (4, 3))
    for reduce in (grid.tile_amax, grid.tile_mean, grid.column_amax, grid.column_mean):
        with pytest.raises(ShapeError, match=r"weights \(5, 7\); this grid is \[\.\.\., 7, 5\]"):
            reduce(torch.ones(5, 7))


def test_what_was_mapped_in_inference_mode_can_be_trained() -> None:
    """Index tensors are stored between calls.

    Autograd refuses those that were made in inference mode.
    """
    grid = TileGrid((13, 12), (11, 10))  # This grid is used by this test alone.
    with torch.inference_mode():
        grid.expand_columns(grid.expand_tiles(torch.ones(2, 2)))
    values = torch.ones(2, 2, requires_grad=True)
    grid.expand_columns(grid.expand_tiles(values)).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[13 * 11, 13 * 10], [12 * 11, 12 * 10]]


def test_grid_keeps_dtype_and_device() -> None:
    grid = TileGrid((3, 2), (4, 3))
    for like in (torch.ones(7, 5).double(), torch.ones(7, 5, device="meta")):
        for values in (
            grid.tile_amax(like),
            grid.tile_mean(like),
            grid.expand_columns(grid.expand_tiles(grid.tile_mean(like))),
            grid.row_position(like),
            grid.row_count(like),
            column_scales(like, grid, "layer"),
        ):
            assert (values.dtype, values.device) == (like.dtype, like.device)


# --- against aihwkit's mapping ---


@pytest.mark.parametrize(("out_features", "in_features"), [(700, 1152), (513, 1025), (10, 64)])
def test_tiles_are_aihwkits(out_features: int, in_features: int) -> None:
    """A layer of aihwkit with our config has the same tiles, scales and normalised weights."""
    layer = torch.nn.Linear(in_features, out_features)
    with torch.no_grad():
        layer.weight[1].zero_()
        layer.weight[2] *= 100.0
    analog = AnalogLinear.from_digital(layer, rasch2023.rpu_config())
    weight = layer.weight.detach()
    grid = TileGrid.of(out_features, in_features, CROSSBAR)
    scale = column_scales(weight, grid, "column")
    normalised = weight / grid.expand_columns(scale)
    single = grid.tiles == 1
    theirs = [[next(iter(analog.analog_tiles()))]] if single else analog.analog_module.array
    assert (len(theirs), len(theirs[0])) == (len(grid.rows), len(grid.columns))
    for i, j, rows, columns in Tiles(grid):
        tile = theirs[i][j]
        their_weight, _ = tile.get_weights(apply_weight_scaling=False)
        assert their_weight.shape == normalised[columns, rows].shape
        torch.testing.assert_close(their_weight, normalised[columns, rows], rtol=1e-6, atol=1e-7)
        their_scale = tile.get_mapping_scales()
        used = weight[columns, rows].abs().amax(1) > 0  # For an empty column any scale will do.
        torch.testing.assert_close(their_scale[used], scale[i, columns][used], rtol=1e-6, atol=0.0)


def test_one_scale_a_tile_is_aihwkits() -> None:
    preset = rasch2023.change(weight_scaling="tile", why="test")
    layer = torch.nn.Linear(600, 20)
    analog = AnalogLinear.from_digital(layer, preset.rpu_config())
    grid = TileGrid.of(20, 600, preset.crossbar)
    scale = column_scales(layer.weight.detach(), grid, "tile")
    for i in range(2):
        their_scale = analog.analog_module.array[i][0].get_mapping_scales()
        torch.testing.assert_close(their_scale.expand(20), scale[i], rtol=1e-6, atol=0.0)


# --- grids of converters ---


def test_eight_bits_are_254_steps() -> None:
    values = torch.linspace(-1.2, 1.2, 100_001, dtype=torch.float64)
    for bound in (1.0, 10.0):
        got = quantised(values * bound, 8, bound)
        levels = got.unique()
        assert len(levels) == 255
        expected = torch.arange(-127, 128, dtype=torch.float64) * bound / 127
        torch.testing.assert_close(levels, expected, rtol=1e-14, atol=0.0)
        inside = values.abs() <= 1.0
        assert (got - values * bound)[inside].abs().max() <= bound / 254 * (1 + 1e-12)


def test_halves_go_to_even() -> None:
    """The steps are those of a grid of 2 bits with bound 1: -1, 0, 1."""
    steps = torch.tensor([0.5, 1.5, 2.5, 3.5, -0.5, -1.5, -2.5])
    got = quantised(steps, 5, 15.0)  # A step is one unit.
    assert got.tolist() == [0.0, 2.0, 2.0, 4.0, 0.0, -2.0, -2.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_converter_is_bounded_and_idempotent(dtype: torch.dtype) -> None:
    values = torch.randn(10_000, dtype=dtype) * 10.0
    before = values.clone()
    got = quantised(values, 8, 10.0)
    assert torch.equal(values, before) and got.dtype == dtype
    assert got.abs().max().item() == 10.0
    assert torch.equal(quantised(got, 8, 10.0), got)
    assert torch.equal(quantised(-values, 8, 10.0), -got)
    assert quantised(values, None, 10.0) is values


@PROPERTY
@given(
    st.floats(min_value=-2.0, max_value=2.0),
    st.integers(min_value=2, max_value=16),
    st.floats(min_value=0.01, max_value=100.0),
)
def test_a_converter_takes_the_nearest_level(share: float, bits: int, bound: float) -> None:
    steps = 2**bits - 2
    value = torch.tensor(share * bound, dtype=torch.float64)
    got = quantised(value, bits, bound).item()
    inside = max(-bound, min(bound, share * bound))
    assert abs(got - inside) <= bound / steps * (1 + 1e-9)
    level = got / (2 * bound / steps)
    assert level == pytest.approx(round(level), abs=1e-6)
    assert abs(got) <= bound


# --- pairs ---


@PROPERTY
@given(
    st.lists(st.floats(min_value=-1.0, max_value=1.0), min_size=1, max_size=12),
    st.floats(min_value=0.1, max_value=100.0),
)
def test_a_pair_goes_both_ways(values: list[float], us_per_unit: float) -> None:
    weight = torch.tensor([values], dtype=torch.float64)
    pair = to_pair(weight, us_per_unit)
    assert pair.shape == (2, 1, len(values))
    assert bool((pair >= 0.0).all())
    assert not (pair[0] * pair[1]).any()  # One of the two is at 0.
    torch.testing.assert_close(pair[0] - pair[1], weight * us_per_unit)
    torch.testing.assert_close(from_pair(pair, us_per_unit), weight, rtol=1e-14, atol=1e-300)


def test_pairs_broadcast_over_chips_and_scales() -> None:
    weight, scale = torch.randn(3, 4, 5), torch.rand(3, 4, 1) + 0.5
    pair = to_pair(weight, scale)
    assert pair.shape == (3, 2, 4, 5)
    torch.testing.assert_close(from_pair(pair, scale), weight)
    noisy = pair.expand(6, 3, 2, 4, 5) + 1.0  # The offset is common to both legs, so it cancels.
    torch.testing.assert_close(from_pair(noisy, scale), weight.expand(6, 3, 4, 5))
