"""Devices and cells of a matrix against aihwkit's noise models and one of its tiles; netting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from aihwkit.inference.noise.base import BaseNoiseModel
from aihwkit.inference.noise.custom import StateIndependentNoiseModel
from aihwkit.inference.noise.hermes import HermesNoiseModel
from aihwkit.inference.noise.pcm import PCMLikeNoiseModel
from torch import Tensor

import presets
from aimc_bridge import physics
from aimc_bridge.errors import ShapeError, UsageError
from aimc_bridge.physics import cells as cell_law
from aimc_bridge.physics import elementwise
from aimc_bridge.physics.laws import Law, register
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.spec import DeviceSpec, Preset, V, cite
from presets import rasch2023, scalar_drift
from tests import stats
from tests.physics.test_physics import ALL, DAY, PCM, TIMES, YEAR


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(20230802)


# --- against aihwkit's noise models, by distribution ----------------------------------------------

MODELS: dict[str, Callable[[], BaseNoiseModel]] = {
    "rasch2023": PCMLikeNoiseModel,
    "hermes": HermesNoiseModel,
    "hermes_single": lambda: HermesNoiseModel(num_devices=1),
    "pcm_state_independent": StateIndependentNoiseModel,
}
SAMPLES = 1_500_000


# This warning comes from aihwkit's Hermes model.
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("preset", map(presets.get, MODELS), ids=str)
@pytest.mark.parametrize("x", [0.0, 0.05, 0.4, 1.0])
def test_devices_against_aihwkit(preset: Preset, x: float) -> None:
    """A device is programmed, drifted and read: the moments agree at every stage."""
    pcm, model = preset.pcm, MODELS[preset.name]()
    target = torch.full((SAMPLES,), x * pcm.g_max_us)
    ours = physics.programmed(target, pcm, torch.randn(SAMPLES))
    theirs = model.apply_programming_noise_to_conductance(target)
    stats.assert_same_mean(ours, theirs, "programmed mean")
    stats.assert_same_sd(ours, theirs, "programmed sd")
    nu = physics.drift_exponent(target, pcm, torch.randn(SAMPLES))
    their_nu = model.generate_drift_coefficients(target)
    stats.assert_same_mean(nu, their_nu, "nu mean")
    stats.assert_same_sd(nu, their_nu, "nu sd")
    for name in ("1s", "1y"):
        t_s = TIMES[name]
        drifted = physics.drifted(ours, nu, t_s, pcm)
        read = physics.read(drifted, ours, t_s, pcm, torch.randn(SAMPLES))
        their_read = model.apply_drift_noise_to_conductance(theirs, their_nu, t_s)
        stats.assert_same_mean(read, their_read, f"read mean at {name}")
        stats.assert_same_sd(read, their_read, f"read sd at {name}")


# --- cells: a matrix programmed and read, against aihwkit on one tile -----------------------------

LEVELS = torch.tensor([1.0, -0.6, 0.25, -0.1, 0.04, -0.015, 0.0])
COPIES, TILES, TOGETHER = 3000, 400, 50
STATISTICS = ("mean", "rms", "mean size")
UNPAIRED = rasch2023.change(netting=False, why="each device by itself")


def level_tile() -> tuple[Tensor, TileGrid]:
    """Return one tile with many copies of each level in a row: `[level, copy]`."""
    weight = LEVELS[:, None].expand(-1, COPIES).contiguous()
    return weight, TileGrid((COPIES,), (len(LEVELS),))


def by_tile(weights: Tensor) -> Tensor:
    """Return STATISTICS of each level, `[tile, level, copy] -> [3, level, tile]`.

    The mean keeps its sign. The tile is the sampling unit: all its cells
    share its programmed maximum.
    """
    weights = weights.double()
    mean = weights.mean(-1) * LEVELS.sign()
    rms, size = weights.square().mean(-1).sqrt(), weights.abs().mean(-1)
    return torch.stack([mean, rms, size]).transpose(1, 2)


def our_tiles(preset: Preset, t_s: float) -> tuple[Tensor, Tensor]:
    """Return statistics right after programming and as read at t_s, of many chips at once."""
    weight, grid = level_tile()
    shapes = cell_law.noise_shapes(grid, preset.pcm)
    tiles = []
    for _ in range(TILES // TOGETHER):
        eps = [torch.randn(TOGETHER, *shape) for shape in shapes]
        cells = cell_law.program_cells(weight, grid, preset.pcm, *eps)
        noise = torch.randn(cells.conductance_us.shape)
        read = cell_law.read_cells(cells, grid, preset.pcm, t_s, noise)
        tiles.append((by_tile(cell_law.held_weight(cells, grid)), by_tile(read)))
    held, reads = zip(*tiles, strict=True)
    return torch.cat(held, -1), torch.cat(reads, -1)


def assert_same_levels(ours: Tensor, theirs: Tensor, what: str) -> None:
    for name, values, others in zip(STATISTICS, ours, theirs, strict=True):
        for level, a, b in zip(LEVELS.tolist(), values, others, strict=True):
            if name == "mean" and abs(level) < 0.02:
                # There is no mean to be 2 % off, or noise hides it; the sizes are compared.
                continue
            stats.assert_same_by_unit(a, b, f"{what}: {name} of {level:g}")


def test_netted_cells_against_aihwkit() -> None:
    """Cells are programmed, netted, rescaled to the programmed maximum, drifted and read."""
    weight, _ = level_tile()
    model = PCMLikeNoiseModel()
    programmed, read = our_tiles(rasch2023, YEAR)
    theirs, their_reads = [], []
    for _ in range(TILES):
        held, exponents = model.apply_programming_noise(weight)
        theirs.append(by_tile(held[None]))
        their_reads.append(by_tile(model.apply_drift_noise(held, exponents, YEAR)[None]))
    assert_same_levels(programmed, torch.cat(theirs, -1), "programmed")
    assert_same_levels(read, torch.cat(their_reads, -1), "read")


def test_unpaired_cells_against_aihwkit() -> None:
    """Two devices drift each by themselves: aihwkit's `apply_noise`."""
    weight, _ = level_tile()
    model = PCMLikeNoiseModel()
    theirs = [by_tile(model.apply_noise(weight, YEAR)[None]) for _ in range(TILES)]
    assert_same_levels(our_tiles(UNPAIRED, YEAR)[1], torch.cat(theirs, -1), "read")


def test_netting_matters_for_small_weights_alone() -> None:
    """The two ways differ if the zero leg's noise is as large as the weight."""
    netted, paired = our_tiles(rasch2023, YEAR)[1], our_tiles(UNPAIRED, YEAR)[1]
    sizes = STATISTICS.index("mean size")
    zero, full = LEVELS.tolist().index(0.0), 0
    with pytest.raises(AssertionError):
        stats.assert_same_by_unit(netted[sizes, zero], paired[sizes, zero], "mean size of 0")
    expected = paired[sizes, full].mean().item()
    assert netted[sizes, full].mean().item() == pytest.approx(expected, rel=0.02)


CELL_PRESETS = [*ALL, UNPAIRED]


@pytest.mark.parametrize("preset", CELL_PRESETS, ids=str)
class TestCells:
    """Cells with chips in front, on several tiles, for every device."""

    grid = TileGrid((3, 2), (4, 3))
    weight = torch.linspace(-1.0, 1.0, 35).reshape(7, 5)

    def draws(self, preset: Preset, *chips: int) -> list[Tensor]:
        shapes = cell_law.noise_shapes(self.grid, preset.pcm)
        return [torch.randn(*chips, *shape) for shape in shapes]

    @pytest.mark.parametrize("chips", [(), (1,), (2,), (3, 2)], ids=str)
    def test_shapes(self, preset: Preset, chips: tuple[int, ...]) -> None:
        eps = self.draws(preset, *chips)
        cells = cell_law.program_cells(self.weight, self.grid, preset.pcm, *eps)
        state = (*chips, 2, 7, 5) if cell_law.paired(preset.pcm) else (*chips, 7, 5)
        assert cells.conductance_us.shape == state
        assert cells.nu.shape == state
        assert cells.us_per_unit.shape == (*chips, 2, 2)
        assert cell_law.held_weight(cells, self.grid).shape == (*chips, 7, 5)
        read = cell_law.read_cells(cells, self.grid, preset.pcm, 3600.0, torch.randn(state))
        assert read.shape == (*chips, 7, 5)

    def test_a_chip_is_the_same_alone(self, preset: Preset) -> None:
        eps = self.draws(preset, 3, 2)
        cells = cell_law.program_cells(self.weight, self.grid, preset.pcm, *eps)
        noise = torch.randn(cells.conductance_us.shape)
        held = cell_law.held_weight(cells, self.grid)
        read = cell_law.read_cells(cells, self.grid, preset.pcm, DAY, noise)
        for chip in ((0, 0), (2, 1)):
            draws = [draw[chip] for draw in eps]
            alone = cell_law.program_cells(self.weight, self.grid, preset.pcm, *draws)
            assert torch.equal(cell_law.held_weight(alone, self.grid), held[chip])
            again = cell_law.read_cells(alone, self.grid, preset.pcm, DAY, noise[chip])
            assert torch.equal(again, read[chip])

    def test_without_noise_the_weight_comes_back(self, preset: Preset) -> None:
        weight = (self.weight * 127).round() / 127  # The weights lie on the scalar device's grid.
        eps = [torch.zeros_like(draw) for draw in self.draws(preset, 2)]
        cells = cell_law.program_cells(weight, self.grid, preset.pcm, *eps)
        held = cell_law.held_weight(cells, self.grid)
        tolerance = 1e-6
        if preset is scalar_drift:  # Each tile has its own largest weight, so its own grid.
            tolerance = 0.5 / 127
        torch.testing.assert_close(held, weight.expand_as(held), rtol=0.0, atol=tolerance)
        now = cell_law.read_cells(
            cells, self.grid, preset.pcm, 0.0, torch.zeros_like(cells.conductance_us)
        )
        torch.testing.assert_close(now, held, rtol=1e-6, atol=1e-7)

    def test_each_tile_fills_the_conductance_range(self, preset: Preset) -> None:
        weight = self.weight * 0.3
        scale = cell_law.us_per_unit(weight, self.grid, preset.pcm)
        by_cell = self.grid.expand_columns(self.grid.expand_tiles(scale))
        largest = self.grid.tile_amax(weight * by_cell)
        torch.testing.assert_close(largest, torch.full((2, 2), preset.pcm.g_max_us))

    def test_inputs_are_untouched(self, preset: Preset) -> None:
        eps = self.draws(preset, 2)
        before = [draw.clone() for draw in eps]
        cells = cell_law.program_cells(self.weight, self.grid, preset.pcm, *eps)
        state = [cells.conductance_us.clone(), cells.nu.clone(), cells.us_per_unit.clone()]
        cell_law.held_weight(cells, self.grid)
        cell_law.read_cells(cells, self.grid, preset.pcm, DAY, torch.randn(state[0].shape))
        assert all(map(torch.equal, eps, before))
        assert all(map(torch.equal, (cells.conductance_us, cells.nu, cells.us_per_unit), state))

    def test_wrong_shapes_are_errors(self, preset: Preset) -> None:
        eps = self.draws(preset)
        with pytest.raises(ShapeError):
            cell_law.program_cells(self.weight[:, :4], self.grid, preset.pcm, *eps)
        with pytest.raises(ShapeError):
            cell_law.program_cells(self.weight, self.grid, preset.pcm, eps[0][..., :4], eps[1])
        with pytest.raises(ShapeError):
            cell_law.program_cells(self.weight, self.grid, preset.pcm, eps[0], eps[1][..., :4])


def test_all_zero_weights_stay_finite() -> None:
    grid = TileGrid((4,), (3,))
    for preset in CELL_PRESETS:
        shapes = cell_law.noise_shapes(grid, preset.pcm)
        eps = [torch.randn(2, *shape) for shape in shapes]
        cells = cell_law.program_cells(torch.zeros(3, 4), grid, preset.pcm, *eps)
        noise = torch.randn(cells.conductance_us.shape)
        assert bool(cell_law.read_cells(cells, grid, preset.pcm, DAY, noise).isfinite().all())


def test_netted_exponent_follows_the_leg_that_came_out_larger() -> None:
    """The larger leg decides the exponent.

    A small positive weight whose pair came out negative drifts as a device with target 0.
    """
    grid = TileGrid((2,), (1,))
    weight = torch.tensor([[1.0, 0.01]], dtype=torch.float64)
    eps_prog = torch.zeros(2, 1, 2, dtype=torch.float64)
    eps_prog[1, 0, 1] = 3.0  # This is the negative leg of the small weight.
    cells = cell_law.program_cells(weight, grid, PCM, eps_prog, torch.zeros(1, 2).double())
    assert cells.conductance_us[0, 1] < 0.0
    # This is the highest mean, the one of target 0.
    assert cells.nu[0, 1].item() == pytest.approx(0.1)
    assert cells.nu[0, 0].item() == pytest.approx(0.049)
    net = 0.01 - 3 * 0.26348 / 25.0
    assert cell_law.held_weight(cells, grid)[0, 1].item() == pytest.approx(net)


# --- a law of a user is checked with the noise that each of its functions gets --------------------


@dataclass(frozen=True, kw_only=True)
class SharedNoiseSpec(DeviceSpec):
    """A device of `SharedNoise`; `where` is the function that looks at the noise of other cells."""

    law: ClassVar[str] = "shared noise"
    pairs: ClassVar[int] = 1
    where: str


class SharedNoise(Law[SharedNoiseSpec]):
    """A law whose value for a cell is right without noise, and else depends on all the noise."""

    def sigma_prog_us(self, g_us: Tensor, pcm: SharedNoiseSpec) -> Tensor:
        return torch.full_like(g_us, 0.5)

    def nu_mean(self, g_us: Tensor, pcm: SharedNoiseSpec) -> Tensor:
        return torch.full_like(g_us, 0.05)

    def programmed(self, g_us: Tensor, pcm: SharedNoiseSpec, eps: Tensor) -> Tensor:
        largest = eps.abs().amax() if pcm.where == "programmed" else 1.0
        return super().programmed(g_us, pcm, eps * largest)

    def drift_exponent(self, g_us: Tensor, pcm: SharedNoiseSpec, eps: Tensor) -> Tensor:
        largest = eps.abs().amax() if pcm.where == "drift_exponent" else 1.0
        return self.nu_mean(g_us, pcm) + 0.01 * eps * largest


register(SharedNoiseSpec, SharedNoise())


@pytest.mark.parametrize("where", ["programmed", "drift_exponent"])
@pytest.mark.parametrize("noisy", ["programmed", "drift_exponent"])
def test_each_function_of_a_law_is_checked_with_its_own_noise(
    where: str, noisy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function is refused if its own noise is there, and not for the noise of the other one."""
    monkeypatch.setattr(elementwise, "_CHECKED", set())
    values = {"g_max_us": 25.0, "t0_s": 1.0, "netting": False, "where": where}
    pcm = cite(SharedNoiseSpec, **{name: V(v, "choice", "test") for name, v in values.items()})
    weight = torch.linspace(-0.9, 1.0, 48).view(6, 8)
    noise = torch.randn(2, 6, 8)
    noise[0, -1, -1] = 9.0  # at the largest weight, which the check leaves out of the few
    none = torch.zeros_like(noise)
    eps_prog, eps_nu = (noise, none) if noisy == "programmed" else (none, noise)
    if noisy == where:
        with pytest.raises(UsageError, match=f"^{where} of the law 'shared noise' returned other"):
            cell_law.program_cells(weight, TileGrid((8,), (6,)), pcm, eps_prog, eps_nu)
        return
    cells = cell_law.program_cells(weight, TileGrid((8,), (6,)), pcm, eps_prog, eps_nu)
    target = torch.stack([weight.clamp_min(0), (-weight).clamp_min(0)]) * 25.0
    torch.testing.assert_close(cells.conductance_us, (target + 0.5 * eps_prog).clamp_min(0))
    torch.testing.assert_close(cells.nu, 0.05 + 0.01 * eps_nu)
