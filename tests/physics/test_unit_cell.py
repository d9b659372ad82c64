"""Weights on several pairs of devices, and on one device with a reference."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from aihwkit.inference.converter.conductance import (
    NPairConductanceConverter,
    SingleDeviceConductanceConverter,
)
from scipy.stats import norm
from torch import Tensor

import presets
from aimc_bridge.equivalence import Report
from aimc_bridge.equivalence.comparison import device_findings
from aimc_bridge.equivalence.two_engines import TwoEngines
from aimc_bridge.errors import SpecError
from aimc_bridge.physics import cells as cell_law
from aimc_bridge.physics import compensation, injection, unit_cell
from aimc_bridge.physics.drift import mean_drift_factor
from aimc_bridge.physics.laws import Law, law_of, register
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.spec import DeviceSpec, Preset, V, cite
from presets import rasch2023
from tests import stats
from tests.stats import FALSE_ALARM

FACTORS = (1.0, 4.0)
TWO = rasch2023.change(pairs=2, significance=FACTORS, why="test")
APART = TWO.change(netting=False, why="each device by itself")
THREE = rasch2023.change(pairs=3, netting=False, why="test")
DIGITAL = rasch2023.change(reference="digital", g_min_us=1.0, why="test")
COLUMN = rasch2023.change(reference="column", g_min_us=1.0, why="test")
ALL = {"two": TWO, "apart": APART, "three": THREE, "digital": DIGITAL, "column": COLUMN}
LEVELS = (1.0, 0.6, -0.6, 0.2, 0.1, -0.1)
COPIES = 120_000
DAY = 86400.0


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(20260101)


def programmed(preset: Preset, weight: Tensor, grid: TileGrid) -> cell_law.Cells:
    shapes = cell_law.noise_shapes(grid, preset.pcm)
    eps = [torch.randn(shape, dtype=weight.dtype) for shape in shapes]
    return cell_law.program_cells(weight, grid, preset.pcm, *eps)


def level_tile(copies: int = COPIES) -> tuple[Tensor, TileGrid]:
    weight = torch.tensor(LEVELS)[:, None].expand(-1, copies).contiguous()
    return weight, TileGrid((copies,), (len(LEVELS),))


# --- mapping --------------------------------------------------------------------------------------


@pytest.mark.parametrize("factors", [(1.0, 4.0), (4.0, 1.0), (0.5, 1.0, 2.0)])
def test_pairs_are_filled_as_by_aihwkit(factors: tuple[float, ...]) -> None:
    weight = torch.randn(30, 40)
    pcm = rasch2023.change(pairs=len(factors), significance=factors, why="test").pcm
    theirs, params = NPairConductanceConverter(list(factors), g_max=25.0).convert_to_conductances(
        weight
    )
    grid = TileGrid((40,), (30,))
    scale = cell_law.us_per_unit(weight, grid, pcm)
    ours = unit_cell.targets_us(weight, scale, grid, pcm)
    assert ours.shape == (len(factors), 2, 30, 40)
    torch.testing.assert_close(ours.flatten(0, 1), torch.stack(theirs), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(scale[0, 0], params["scale_ratio"])


def test_one_device_lies_where_aihwkit_puts_it() -> None:
    weight = torch.randn(30, 40)
    weight[0, 0], weight[1, 1] = 5.0, -5.0  # aihwkit's range then is symmetric, as ours always is
    grid, pcm = TileGrid((40,), (30,)), DIGITAL.pcm
    ours = unit_cell.targets_us(weight, cell_law.us_per_unit(weight, grid, pcm), grid, pcm)
    converter = SingleDeviceConductanceConverter(g_max=25.0, g_min=1.0)
    theirs, _ = converter.convert_to_conductances(weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert ours.min() == pytest.approx(1.0, abs=1e-5) and ours.max() == pytest.approx(25.0)


@pytest.mark.parametrize("name", ALL)
def test_without_noise_the_weight_comes_back(name: str) -> None:
    preset, grid = ALL[name], TileGrid((3, 2), (4, 3))
    weight = torch.linspace(-1.0, 1.0, 35, dtype=torch.float64).reshape(7, 5)
    shapes = cell_law.noise_shapes(grid, preset.pcm)
    eps = [torch.zeros(2, *shape, dtype=torch.float64) for shape in shapes]
    cells = cell_law.program_cells(weight, grid, preset.pcm, *eps)
    assert cells.conductance_us.shape == (2, *cell_law.state_shape(grid, preset.pcm))
    held = cell_law.held_weight(cells, grid)
    torch.testing.assert_close(held, weight.expand(2, 7, 5))
    zero = torch.zeros_like(cells.conductance_us)
    torch.testing.assert_close(cell_law.read_cells(cells, grid, preset.pcm, 0.0, zero), held)


@pytest.mark.parametrize("name", ALL)
def test_a_chip_is_the_same_alone(name: str) -> None:
    preset, grid = ALL[name], TileGrid((3, 2), (4, 3))
    weight = torch.linspace(-1.0, 1.0, 35).reshape(7, 5)
    eps = [torch.randn(3, 2, *shape) for shape in cell_law.noise_shapes(grid, preset.pcm)]
    cells = cell_law.program_cells(weight, grid, preset.pcm, *eps)
    noise = torch.randn(cells.conductance_us.shape)
    read = cell_law.read_cells(cells, grid, preset.pcm, DAY, noise)
    assert read.shape == (3, 2, 7, 5)
    alone = cell_law.program_cells(weight, grid, preset.pcm, *(draw[2, 1] for draw in eps))
    assert torch.equal(cell_law.read_cells(alone, grid, preset.pcm, DAY, noise[2, 1]), read[2, 1])


# --- closed forms ---------------------------------------------------------------------------------


def cut_variance(target: float, sigma: float) -> float:
    """Return the variance of max(0, target + sigma N), by SciPy."""
    return float(norm(target, sigma).expect(lambda g: max(g, 0.0) ** 2)) - (
        float(norm(target, sigma).expect(lambda g: max(g, 0.0))) ** 2
    )


def sigma_us(target: float) -> float:
    x = target / 25.0
    return 0.26348 + 1.9650 * x - 1.1731 * x**2


def expected_sd(weight: float, factors: tuple[float, ...]) -> float:
    """Return the standard deviation of a programmed weight: sum of F_k^2 var, over all devices."""
    unit, left, variance = 25.0 * sum(factors), abs(weight) * 25.0 * sum(factors), 0.0
    for factor in factors:
        target = min(25.0, left / factor)
        left -= factor * target
        variance += factor**2 * (
            cut_variance(target, sigma_us(target)) + cut_variance(0.0, sigma_us(0.0))
        )
    return math.sqrt(variance) / unit


def check_sds(preset: Preset) -> None:
    """Check the spread of programmed weights against the closed form, level by level."""
    weight, grid = level_tile()
    held = cell_law.held_weight(programmed(preset, weight, grid), grid)
    for level, values in zip(LEVELS, held, strict=True):
        stats.assert_sd(values, expected_sd(level, preset.pcm.factors), f"sd of {level}")


@pytest.mark.parametrize("preset", [TWO, APART, THREE], ids=["two", "apart", "three"])
def test_spread_of_a_weight_on_pairs(preset: Preset) -> None:
    check_sds(preset)


def test_spread_of_one_device() -> None:
    """One device has sigma(g) / half the range; a column adds the variance of the reference."""
    weight, grid = level_tile()
    for preset in (DIGITAL, COLUMN):
        held = cell_law.held_weight(programmed(preset, weight, grid), grid)
        for level, values in zip(LEVELS, held, strict=True):
            variance = cut_variance(13.0 + 12.0 * level, sigma_us(13.0 + 12.0 * level))
            if preset is COLUMN:
                variance += sigma_us(13.0) ** 2
            stats.assert_sd(values, math.sqrt(variance) / 12.0, f"sd of {level}")


def test_a_column_of_references_is_shared_and_drifts() -> None:
    """Outputs of a tile share its noise; those of another tile have a column of their own."""
    grid = TileGrid((50_000,), (2, 2))
    weight = torch.tensor([0.5, -0.5, 1.0, 0.5])[:, None].expand(-1, 50_000).contiguous()
    cells = programmed(COLUMN, weight, grid)
    assert cells.conductance_us.shape == (6, 50_000)
    error = cell_law.held_weight(cells, grid) - weight
    sigma = [sigma_us(13.0 + 12.0 * w / m) for w, m in ((0.5, 0.5), (-0.5, 0.5))]
    shared = sigma_us(13.0) ** 2
    wanted = shared / math.sqrt((shared + sigma[0] ** 2) * (shared + sigma[1] ** 2))
    correlation = torch.corrcoef(error)
    assert correlation[0, 1].item() == pytest.approx(wanted, abs=0.03)
    assert abs(correlation[0, 3].item()) < 0.03
    # after a year a digital reference is left behind by the devices, and a column is not
    zero = torch.zeros(4, 50_000)
    zero[:, 0] = 1.0
    late = {}
    for preset in (DIGITAL, COLUMN):
        cells = programmed(preset, zero, grid)
        noise = torch.randn(cells.conductance_us.shape)
        late[preset] = cell_law.read_cells(cells, grid, preset.pcm, 3.2e7, noise)[:, 1:].mean()
    assert late[DIGITAL].item() < -0.4
    assert abs(late[COLUMN].item()) < 0.02


def test_oracle_knows_each_pair() -> None:
    """Without noise and spread of exponents, the oracle undoes the drift of the mean exactly."""
    grid = TileGrid((4,), (3,))
    weight = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).reshape(3, 4)
    for preset in (TWO, THREE, COLUMN):
        quiet = preset.change(
            netting=False, prog_noise_scale=0.0, read_noise_scale=0.0, why="closed form"
        )
        shapes = cell_law.noise_shapes(grid, quiet.pcm)
        eps = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
        cells = cell_law.program_cells(weight, grid, quiet.pcm, *eps)
        later = cell_law.read_cells(
            cells, grid, quiet.pcm, DAY, torch.zeros_like(cells.conductance_us)
        )
        factor = compensation.oracle(weight, grid, quiet.pcm, DAY)
        size = (later * weight.sign() * factor[0, 0]).sum()
        torch.testing.assert_close(size, weight.abs().sum())
    lone = mean_drift_factor(torch.tensor([25.0]), DAY, rasch2023.pcm)
    ones = torch.ones(1, 1)  # both pairs are full, so that both drift as one full pair does
    whole = compensation.oracle(ones, TileGrid((1,), (1,)), TWO.pcm, DAY)
    torch.testing.assert_close(whole[0], 1 / lone)


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["apart", "three", "digital", "column"])
def test_training_injects_the_spread_of_a_chip(name: str) -> None:
    """Injected programming noise has the spread of programmed chips, at weights far from 0."""
    preset = ALL[name]
    recipe = preset.training["wrn16"].change(noise_type="programming", why="test")
    weight, grid = level_tile(300_000)  # both sides are sampled
    held = cell_law.held_weight(programmed(preset, weight, grid), grid)
    eps = torch.randn(2, *weight.shape)
    noisy = injection.injected(weight, 1.0, preset.pcm, recipe, 1.0, eps[0], eps[1])
    for level, ours, chip in zip(LEVELS, noisy, held, strict=True):
        if abs(level) > 0.15:
            stats.assert_same_sd(ours, chip, f"sd of {level}")


def test_reading_adds_its_spread() -> None:
    """Read noise of each pair: F_k |g_k| Q(g_k) sqrt(ln((t + t_read) / (2 t_read)))."""
    recipe = TWO.training["wrn16"].change(noise_type="pcm", why="test")
    eps = torch.zeros(COPIES), torch.randn(COPIES)
    weight = torch.full((COPIES,), 0.6)
    noisy = injection.injected(weight, 1.0, TWO.pcm, recipe, 2.0, *eps)
    growth = math.sqrt(math.log((recipe.noise_t_s + 250e-9) / (2 * 250e-9)))
    variance, left = 0.0, 0.6 * 125.0
    for factor in FACTORS:
        g = min(25.0, left / factor)
        left -= factor * g
        variance += (factor * g * min(0.0088 / (g / 25.0) ** 0.65, 0.2) * growth) ** 2
    stats.assert_sd(noisy, 2.0 * math.sqrt(variance) / 125.0)


def test_a_compiled_pass_can_inject_it() -> None:
    """Weights of any number of dimensions: compiled passes have rows of cells, not matrices."""
    recipe = TWO.training["wrn16"].change(noise_type="pcm", why="test")
    eps = torch.randn(2, 6)
    flat = injection.injected(torch.tensor(LEVELS), 1.0, TWO.pcm, recipe, 1.0, *eps)
    square = injection.injected(
        torch.tensor(LEVELS).view(2, 3), 1.0, TWO.pcm, recipe, 1.0, *eps.view(2, 2, 3)
    )
    assert torch.equal(flat.view(2, 3), square)


# --- the cross-check, and faults in the code that it must find ------------------------------------


def report(preset: Preset, x: float) -> Report:
    sides = TwoEngines(preset)
    return Report.of([device_findings(sides, x, (1.0, DAY), 60_000, 1)])


@pytest.mark.parametrize("preset", [TWO, DIGITAL, COLUMN], ids=["two", "digital", "column"])
@pytest.mark.parametrize("x", [0.1, 0.6])
def test_cross_check_agrees_with_aihwkit(preset: Preset, x: float) -> None:
    """aihwkit's PCM model with its own converter, by the cross-check's own statistics."""
    table = report(preset, x).table
    assert set(table["reference"]) == {"aihwkit"}
    assert "read weight of all devices sd" in set(table["quantity"])
    assert table["p_different"].min() > FALSE_ALARM


@pytest.mark.parametrize("preset", [TWO, DIGITAL, COLUMN], ids=["two", "digital", "column"])
def test_cross_check_has_formulas_for_what_aihwkit_lacks(preset: Preset) -> None:
    """Other numbers than those in aihwkit's code are compared with the closed forms."""
    table = report(preset.change(prog_coeff_us=(0.3, 1.8, -1.0), why="test"), 0.6).table
    assert set(table["reference"]) == {"closed form"}
    assert "read weight of all devices sd" in set(table["quantity"])
    assert table["p_different"].min() > FALSE_ALARM


def normalised_again(pairs_us: Tensor, factors: Any) -> Tensor:
    """Divide by the sum of the factors, which the scale has already done."""
    return sum(f * g for f, g in zip(factors, pairs_us.unbind(-3), strict=True)) / sum(factors)  # type: ignore[return-value]


def all_alike(pairs_us: Tensor, factors: Any) -> Tensor:
    """Leave the factors out."""
    return pairs_us.sum(-3) * (sum(factors) / len(factors))


def one_noise(g_us: Tensor, pcm: DeviceSpec, eps: Tensor) -> Tensor:
    """Use the noise of the first pair for all pairs."""
    if eps.ndim >= 3 and eps.shape[-3] == pcm.pairs:
        eps = eps[..., :1, :, :].expand_as(eps)
    return law_of(pcm).programmed(g_us, pcm, eps)


def not_subtracted(g_us: Tensor, grid: TileGrid, pcm: DeviceSpec) -> Tensor:
    """Leave the reference where it is."""
    return g_us[..., : grid.out_features, :]


MUTANTS: dict[str, tuple[Preset, Any, str, Callable[..., Tensor]]] = {
    "significance normalised twice": (TWO, unit_cell, "joined", normalised_again),
    "significance left out": (TWO, unit_cell, "joined", all_alike),
    "the same noise in both pairs": (TWO, cell_law, "programmed", one_noise),
    "reference not subtracted": (DIGITAL, unit_cell, "less_reference", not_subtracted),
    "column not subtracted": (COLUMN, unit_cell, "less_reference", not_subtracted),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    preset, module, function, mutant = MUTANTS[name]
    monkeypatch.setattr(module, function, mutant)
    found = report(preset, 0.6).different
    assert any("weight" in quantity for quantity in found["quantity"])
    assert not any(quantity.startswith("programmed sd") for quantity in found["quantity"])


def test_the_same_noise_in_both_pairs_misses_the_closed_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cell_law, "programmed", one_noise)
    with pytest.raises(AssertionError, match="sd of"):
        check_sds(TWO)


# --- specs ----------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], str]] = [
    ({"pairs": 0}, r"pairs = 0; allowed: an integer >= 1"),
    ({"pairs": -2}, r"pairs = -2; allowed: an integer >= 1"),
    ({"pairs": 2.0}, r"pairs = 2.0; allowed: a finite int"),
    ({"pairs": 2, "significance": (1.0,)}, r"one factor for each of the 2 pairs"),
    ({"significance": (1.0, 2.0)}, r"one factor for each of the 1 pairs \(pairs=1\)"),
    ({"pairs": 2, "significance": (1.0, 0.0)}, "factors > 0"),
    ({"pairs": 2, "significance": (0.0, 0.0)}, "factors > 0"),
    ({"pairs": 2, "significance": (1.0, -1.0)}, "factors > 0"),
    ({"pairs": 2, "significance": (1.0, math.nan)}, "allowed: a finite"),
    ({"pairs": 2, "significance": (1.0, math.inf)}, "allowed: a finite"),
    ({"reference": "middle"}, "allowed: 'none', 'digital', 'column'"),
    ({"reference": "column", "pairs": 2}, "1 with reference='column', one device"),
    ({"reference": "digital", "g_min_us": 25.0}, "below g_max_us"),
    ({"reference": "digital", "g_min_us": -1.0}, ">= 0 uS"),
    ({"g_min_us": 1.0}, 'only with reference="digital" or "column"'),
]


@pytest.mark.parametrize(("values", "message"), BAD, ids=lambda value: str(value)[:60])
def test_impossible_cells_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        rasch2023.change(**values, why="test")


@pytest.mark.parametrize("name", ["scalar_drift", "ideal", "reram_cmo", "pcm_afm"])
@pytest.mark.parametrize(
    "values", [{"pairs": 2}, {"reference": "digital"}, {"significance": (1.0, 2.0)}], ids=str
)
def test_laws_of_whole_weights_are_refused(name: str, values: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="is that of whole weights and not of single devices"):
        presets.get(name).change(**values, why="test")


def test_one_pair_is_what_it_was() -> None:
    """One pair has no new fields in files and fingerprints, however it is said."""
    same = rasch2023.change(pairs=1, why="test")
    assert same.pcm == rasch2023.pcm
    assert not {"pairs", "significance", "reference", "g_min_us"} & set(rasch2023.pcm.values())
    assert TWO.pcm.full_scale_us == 125.0 and DIGITAL.pcm.full_scale_us == 12.0
    assert Preset.from_dict(TWO.to_dict()) == TWO


def test_a_spec_from_before_keeps_its_pair() -> None:
    """`pairs: ClassVar[bool]` in a device of a user's is the default of the field."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class OldSpec(DeviceSpec):
        law: ClassVar[str] = "old form"
        pairs: ClassVar[bool] = True  # type: ignore[misc]
        sigma_us: float

    class OldLaw(Law[OldSpec]):
        def sigma_prog_us(self, g_us: Tensor, pcm: OldSpec) -> Tensor:
            return torch.full_like(g_us, pcm.sigma_us)

        def nu_mean(self, g_us: Tensor, pcm: OldSpec) -> Tensor:
            return torch.zeros_like(g_us)

    register(OldSpec, OldLaw())
    values = {"g_max_us": 10.0, "t0_s": 1.0, "netting": False, "sigma_us": 0.1}
    old = cite(OldSpec, **{name: V(value, "choice", "test") for name, value in values.items()})
    assert old.pairs == 1 and "pairs" not in old.values()
    two = old.change(pairs=2, why="test")
    weight = torch.full((1, 200_000), 1.0)
    grid = TileGrid((200_000,), (1,))
    cells = programmed(dataclasses.replace(rasch2023, pcm=two), weight, grid)
    assert cells.conductance_us.shape == (2, 2, 1, 200_000)
    variance = 2 * (0.1**2 + cut_variance(0.0, 0.1))
    stats.assert_sd(cell_law.held_weight(cells, grid), math.sqrt(variance) / 20.0)
