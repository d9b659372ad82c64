"""The ladder: the changes of each rung, its physics, its compensation."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import presets
from aimc_bridge import calibrate, convert, drift, program
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import SpecError
from aimc_bridge.physics import cells as cell_law
from aimc_bridge.physics import compensation, programmed, sigma_prog_us
from aimc_bridge.physics.drift import drift_exponent, drifted
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.physics.programming import target_us
from aimc_bridge.physics.reading import read_sigma
from aimc_bridge.spec import IdealSpec, Preset, SignedPcmSpec
from benchmarks.studies.ladder.rungs import LADDER, Rung
from presets import SOURCES, ideal, rasch2023, scalar_drift
from tests import stats
from tests.models import linear, mlp, only, random

RUNGS = {rung.key: rung for rung in LADDER}
DAY, YEAR = 86400.0, 365 * 86400.0
TIMES = (0.0, 1.0, 3600.0, DAY, YEAR)

# --- the rungs as data ----------------------------------------------------------------------------

KEYS = [
    *("scalar", "measured", "exponent", "spread", "read_noise", "pairs"),
    *("converters", "out_noise", "pcm_read", "ir_drop", "tiles"),
]
# The values of each field on the rung before, and on this one.
CHANGED: dict[str, dict[str, tuple[Any, Any]]] = {
    "measured": {"drift_compensation": ("oracle", "global")},
    "exponent": {
        "t0_s": (1.0, 20.0),
        "nu": (0.06, None),
        "nu_mean": (None, (-0.0155, 0.0244, 0.049, 0.1)),
        "nu_sd": (None, (0.0, 0.0, 0.0, 0.0)),
        "drift_scale": (None, 1.0),
        "t_read_s": (None, 250e-9),
        "read_coeff": (None, (0.0088, 0.65, 1e-3, 0.2)),
        "read_noise_scale": (None, 0.0),
    },
    "spread": {"nu_sd": ((0.0, 0.0, 0.0, 0.0), (-0.0125, -0.0059, 0.008, 0.045))},
    "read_noise": {"read_noise_scale": (0.0, 1.0)},
    "pairs": {"weight_bits": (8, None)},  # The kind of device changes too.
    "converters": {
        "dac_bits": (None, 8),
        "adc_bits": (None, 8),
        "input_range": ("none", "learned"),
    },
    "out_noise": {"out_noise": (0.0, 0.04)},
    "pcm_read": {"w_noise": (0.0, 0.0175)},
    "ir_drop": {"ir_drop": (0.0, 1.0)},
    "tiles": {
        "max_rows": (None, 512),
        "max_columns": (None, 512),
        "weight_scaling": ("layer", "column"),
        "learned_out_scales": (False, True),
    },
}


def values(preset: Preset) -> dict[str, Any]:
    return {k: v for part in Preset.PARTS for k, v in getattr(preset, part).values().items()}


def test_the_ladder_begins_with_the_replication_and_ends_with_the_paper() -> None:
    assert [rung.key for rung in LADDER] == KEYS
    assert [rung.number for rung in LADDER] == list(range(1, 12))
    assert LADDER[0].preset is scalar_drift
    assert LADDER[-1].preset is rasch2023
    assert len({rung.title for rung in LADDER}) == len({rung.what for rung in LADDER}) == 11


@pytest.mark.parametrize("key", KEYS[1:])
def test_a_rung_changes_exactly_the_named_fields(key: str) -> None:
    before, now = LADDER[KEYS.index(key) - 1].preset, RUNGS[key].preset
    a, b = values(before), values(now)
    changed = {k: (a.get(k), b.get(k)) for k in {**a, **b} if a.get(k) != b.get(k)}
    assert changed == CHANGED[key]
    kinds = {type(preset.pcm).__name__ for preset in (before, now)}
    assert len(kinds) == (2 if key in ("exponent", "pairs") else 1)


@pytest.mark.parametrize("rung", LADDER, ids=lambda rung: rung.key)
def test_every_rung_is_a_preset_with_sources_that_runs(rung: Rung) -> None:
    preset = rung.preset
    assert Preset.from_dict(json.loads(json.dumps(preset.to_dict()))) == preset
    for part in Preset.PARTS:
        assert {s.key for s in getattr(preset, part).sources.values()} <= set(SOURCES)
    assert all(change.why.startswith("the ladder") for change in preset.changes)
    analog = convert(mlp(), preset).eval()
    x = random(64, 12, seed=3)
    if preset.crossbar.input_range != "none":
        calibrate(analog, [x])
    exact = mlp()(x).detach()
    program(analog, 3)
    held = [matrix.effective_weight().detach() for matrix in matrices_of(analog).values()]
    for t_s in (1.0, YEAR):
        drift(analog, t_s)
        off = float((analog(x).detach() - exact).norm() / exact.norm())
        assert 0.01 < off < 0.6
    now = [matrix.effective_weight().detach() for matrix in matrices_of(analog).values()]
    assert all(float((a - b).norm() / a.norm()) > 0.1 for a, b in zip(held, now, strict=True))


# --- the cell of one signed weight ----------------------------------------------------------------

SIGNED = RUNGS["read_noise"].preset
PCM = SIGNED.pcm
assert isinstance(PCM, SignedPcmSpec)
GRID = TileGrid((256,), (8,))


def written(preset: Preset, weight: Tensor, grid: TileGrid = GRID, seed: int = 5) -> Any:
    """Return the cells of a weight, from the same draws for every preset."""
    shapes = cell_law.noise_shapes(grid, preset.pcm)
    draws = [random(*shape, seed=seed + i, dtype=weight.dtype) for i, shape in enumerate(shapes)]
    return cell_law.program_cells(weight, grid, preset.pcm, *draws)


def spread_weights(dtype: torch.dtype = torch.float64) -> Tensor:
    weight = torch.linspace(-1.0, 1.0, 8 * 256, dtype=dtype)
    return weight[torch.randperm(8 * 256, generator=torch.Generator().manual_seed(1))].view(8, 256)


def test_signed_programming_is_on_the_grid_without_a_clip() -> None:
    """A weight in [-1, 1] becomes round(w 127)/127 + sigma(|w|) eps."""
    weight = torch.linspace(-1.0, 1.0, 301, dtype=torch.float64)
    eps = torch.linspace(-4.0, 4.0, 301, dtype=torch.float64)
    rounded = (weight * 127).round() / 127
    size = rounded.abs()
    expected = rounded + (0.26348 + 1.9650 * size - 1.1731 * size**2) / 25.0 * eps
    got = programmed(weight * 25.0, PCM, eps) / 25.0
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    small = programmed(torch.ones(1), PCM, torch.full((1,), -4.0))
    assert float(small) < 0.0  # Noise may turn a sign.
    plain = SIGNED.change(weight_bits=None, why="test").pcm
    assert torch.equal(target_us(weight, plain), weight)
    got = programmed(weight * 25.0, plain, torch.zeros_like(eps)) / 25.0
    torch.testing.assert_close(got, weight, rtol=1e-12, atol=1e-12)


def test_between_rungs_2_and_3_lie_the_exponents_law_and_its_clock_alone() -> None:
    """The signed cell can be made rung 2.

    One exponent of 0.06 and t0 = 1 s give rung 2, on a clock that is a second late.
    """
    same = RUNGS["exponent"].preset.change(why="test", nu_mean=(0.0, 0.06, 0.06, 0.06), t0_s=1.0)
    weight = spread_weights()
    scalar = RUNGS["measured"].preset
    ours, theirs = written(same, weight), written(scalar, weight)
    assert torch.equal(ours.conductance_us, theirs.conductance_us)
    assert torch.equal(ours.us_per_unit, theirs.us_per_unit)
    nothing = torch.zeros(8, 256, dtype=torch.float64)
    for t_s in (1.0, 3600.0, DAY, YEAR):
        a = cell_law.read_cells(ours, GRID, same.pcm, t_s - 1.0, nothing)
        b = cell_law.read_cells(theirs, GRID, scalar.pcm, t_s, nothing)
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("t_s", TIMES)
def test_the_exponent_follows_the_weight_as_written(t_s: float) -> None:
    """The weight is w_P ((t + 20) / 20)^-nu.

    nu = clamp(-0.0155 ln x + 0.0244, 0.049, 0.1), and x is the rounded |w|.
    """
    preset, weight = RUNGS["exponent"].preset, spread_weights()
    cells = written(preset, weight)
    x = ((weight * 127).round() / 127).abs().clamp_min(1e-7)
    nu = (-0.0155 * x.log() + 0.0244).clamp(0.049, 0.1)
    torch.testing.assert_close(cells.nu, nu, rtol=1e-12, atol=0)
    # This rung has no read noise, so eps is not used.
    eps = random(8, 256, seed=9, dtype=torch.float64)
    now = cell_law.read_cells(cells, GRID, preset.pcm, t_s, eps)
    expected = cell_law.held_weight(cells, GRID) * ((t_s + 20.0) / 20.0) ** -nu
    torch.testing.assert_close(now, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("x", [0.0, 0.06, 0.3])
def test_the_spread_is_the_devices(x: float) -> None:
    """The exponents have the moments of |N(mean, sd)| for weights of either sign."""
    count = 400_000
    weight = torch.full((1, count), -x)
    weight[0, 0] = 1.0
    grid = TileGrid((count,), (1,))
    nu = written(RUNGS["spread"].preset, weight, grid).nu[0, 1:]
    r = round(x * 127) / 127
    log = math.log(max(r, 1e-7))
    mean = min(max(-0.0155 * log + 0.0244, 0.049), 0.1)
    sd = min(max(-0.0125 * log - 0.0059, 0.008), 0.045)
    z = mean / sd
    first = sd * math.sqrt(2 / math.pi) * math.exp(-z * z / 2) + mean * math.erf(z / math.sqrt(2))
    stats.assert_mean(nu, first, "nu mean")
    stats.assert_sd(nu, math.sqrt(mean**2 + sd**2 - first**2), "nu sd")


def test_read_noise_is_relative_to_the_programmed_weight_and_keeps_its_sign() -> None:
    weight = spread_weights()
    cells = written(SIGNED, weight)
    eps = random(8, 256, seed=4, dtype=torch.float64)
    quiet = SIGNED.change(why="test", read_noise_scale=0.0).pcm
    for t_s in (1.0, YEAR):
        before = cell_law.read_cells(cells, GRID, quiet, t_s, eps)
        now = cell_law.read_cells(cells, GRID, PCM, t_s, eps)
        x = cells.conductance_us.abs() / 25.0
        q = (0.0088 / (x**0.65).clamp_min(1e-3)).clamp_max(0.2)
        sigma = q * math.sqrt(math.log((t_s + 20.0 + 250e-9) / 500e-9))
        torch.testing.assert_close(read_sigma(cells.conductance_us, t_s, PCM), sigma)
        expected = before * (1.0 + sigma * eps).clamp_min(0.0)
        torch.testing.assert_close(now, expected, rtol=1e-9, atol=1e-15)
        assert bool((now == 0.0).any())


def test_a_weight_of_zero_has_one_cells_noise_before_pairs_and_two_after() -> None:
    """One signed cell has sd sigma(0).

    A pair has sqrt(2) times the sd of max(0, N(0, sigma(0))): (1 - 1/pi)^(1/2) sigma(0).
    """
    count = 400_000
    weight = torch.zeros(1, count)
    weight[0, 0] = 1.0
    grid = TileGrid((count,), (1,))
    single = written(SIGNED, weight, grid)
    stats.assert_sd(single.conductance_us[0, 1:], 0.26348, "one signed cell")
    pairs = written(RUNGS["pairs"].preset, weight, grid)
    # The weights are rescaled by the programmed maximum.
    two = cell_law.held_weight(pairs, grid)[0, 1:] * 25.0
    stats.assert_sd(two, 0.26348 * math.sqrt(1.0 - 1.0 / math.pi), "two devices, netted")


def test_oracle_on_signed_cells_is_the_ratio_of_mean_weights() -> None:
    weight, t_s = spread_weights(), YEAR
    x = weight.abs().clamp_min(1e-7)
    nu = (-0.0155 * x.log() + 0.0244).clamp(0.049, 0.1)
    factor = ((t_s + 20.0) / 20.0) ** -nu
    expected = float(weight.abs().sum() / (weight.abs() * factor).sum())
    got = compensation.oracle(weight, GRID, PCM, t_s)
    torch.testing.assert_close(got, torch.full_like(got, expected), rtol=1e-6, atol=0)


def test_a_signed_cell_that_is_not_physical_is_refused() -> None:
    with pytest.raises(SpecError, match="netting = False; allowed: True"):
        SIGNED.change(netting=False, why="test")
    with pytest.raises(SpecError, match="weight_bits = 1"):
        SIGNED.change(weight_bits=1, why="test")
    with pytest.raises(SpecError, match="has no field weight_bits"):
        rasch2023.change(weight_bits=8, why="test")


def test_pairs_are_what_they_were() -> None:
    """The same devices hold a weight as a pair, in as many numbers as before."""
    cells, pair = (8, 256), (2, 8, 256)
    by_itself = rasch2023.change(netting=False, why="test").pcm
    for pcm, shapes in (
        (rasch2023.pcm, (pair, cells)),
        (by_itself, (pair, pair)),
        (presets.hermes.pcm, (pair, cells)),
        (scalar_drift.pcm, (cells, cells)),
        (PCM, (cells, cells)),
        (ideal.pcm, (cells, cells)),
    ):
        assert cell_law.noise_shapes(GRID, pcm) == shapes
    assert isinstance(ideal.pcm, IdealSpec) and target_us(GRID_OF_ONE, ideal.pcm) is GRID_OF_ONE


GRID_OF_ONE = torch.ones(1)


def test_aihwkit_runs_a_signed_cell_by_our_laws_and_not_as_a_pair() -> None:
    model = SIGNED.rpu_config().noise_model
    assert type(model).__name__ == "LawNoiseModel"
    assert type(RUNGS["pairs"].preset.rpu_config().noise_model).__name__ == "PCMLikeNoiseModel"
    torch.manual_seed(3)
    weight = spread_weights(torch.float32).repeat(40, 4)
    now, _ = model.apply_programming_noise(weight)
    sigma = sigma_prog_us(target_us(weight * 25.0, PCM), PCM)
    noise = (now * 25.0 - target_us(weight * 25.0, PCM)) / sigma
    stats.assert_sd(noise, 1.0)


# --- compensation ---------------------------------------------------------------------------------


def test_one_exponent_measured_is_the_oracle() -> None:
    """Rung 2 changes nothing: all weights fall by one factor.

    So mean |w| falls by the same factor.
    """
    alphas = []
    for key in ("scalar", "measured"):
        analog = convert(linear(40, 30), RUNGS[key].preset).eval()
        program(analog, 1)
        drift(analog, YEAR)
        alphas.append(only(analog).alpha())
    torch.testing.assert_close(alphas[0], torch.full_like(alphas[0], YEAR**0.06))
    torch.testing.assert_close(alphas[1], alphas[0], rtol=1e-6, atol=0)


def test_state_dependent_exponents_are_compensated_on_average_alone() -> None:
    """alpha is sum |w_P| / sum |w_P| f(w).

    Large weights come out too large, small ones too small.
    """
    analog = convert(linear(40, 30), RUNGS["exponent"].preset).eval()
    matrix = only(analog)
    program(analog, 1)
    before = matrix.effective_weight().clone()
    drift(analog, YEAR)
    now = matrix.effective_weight()
    expected = before.abs().sum() / now.abs().sum()
    torch.testing.assert_close(matrix.alpha(), expected.expand_as(matrix.alpha()))
    compensated = now * expected / before
    big = before.abs() > before.abs().max() / 2
    assert float(compensated[big].mean()) > 1.0 > float(compensated[~big].mean())


def test_the_steps_of_a_preset_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LADDER[0].key = "other"  # type: ignore[misc]
    assert isinstance(LADDER, tuple)


def test_exponents_and_drift_take_a_signed_cell_as_they_take_a_device() -> None:
    g = torch.tensor([-25.0, -5.0, 5.0, 25.0], dtype=torch.float64)
    nu = drift_exponent(g, RUNGS["exponent"].preset.pcm, torch.zeros_like(g))
    assert torch.equal(nu, nu.flip(0))
    now = drifted(g, nu, YEAR, PCM)
    assert torch.equal(now, -now.flip(0))
