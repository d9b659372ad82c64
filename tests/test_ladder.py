"""The ladder: what each rung changes, its physics, layers' errors, intervals, flaws, records."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from typer.testing import CliRunner

import presets
from aimc_bridge import calibrate, convert, drift, program, rng, sweep
from aimc_bridge.errors import CapabilityError, DataError, SpecError, UsageError
from aimc_bridge.ladder import (
    Interval,
    Probe,
    change,
    independent_change,
    mean_interval,
    sd_ratio,
)
from aimc_bridge.physics import cells as cell_law
from aimc_bridge.physics import compensation, programmed, sigma_prog_us
from aimc_bridge.physics.drift import drift_exponent, drifted
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.physics.programming import target_us
from aimc_bridge.physics.read import read_sigma
from aimc_bridge.registry import matrices_of
from aimc_bridge.spec import IdealSpec, Preset, SignedPcmSpec
from benchmarks import crosscheck, tasks
from benchmarks import record as run_records
from benchmarks.ladder import __main__ as command
from benchmarks.ladder import climb, page, records, sides, tables
from presets import ideal, ladder, rasch2023, scalar_drift
from presets._sources import SOURCES
from tests import stats
from tests.models import linear, mlp, only, random

ROOT = Path(__file__).parent.parent
RUNGS = {rung.key: rung for rung in ladder}
DAY, YEAR = 86400.0, 365 * 86400.0
TIMES = (0.0, 1.0, 3600.0, DAY, YEAR)

# --- the rungs as data ----------------------------------------------------------------------------

KEYS = [
    *("scalar", "measured", "exponent", "spread", "read_noise", "pairs"),
    *("converters", "out_noise", "pcm_read", "ir_drop", "tiles"),
]
# field -> (value on the rung before, value on this one)
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
    "pairs": {"weight_bits": (8, None)},  # and the kind of device
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
    assert [rung.key for rung in ladder] == KEYS
    assert [rung.number for rung in ladder] == list(range(1, 12))
    assert ladder[0].preset is scalar_drift
    assert ladder[-1].preset is rasch2023
    assert len({rung.title for rung in ladder}) == len({rung.what for rung in ladder}) == 11


@pytest.mark.parametrize("key", KEYS[1:])
def test_a_rung_changes_exactly_the_named_fields(key: str) -> None:
    before, now = ladder[KEYS.index(key) - 1].preset, RUNGS[key].preset
    a, b = values(before), values(now)
    found = {k: (a.get(k), b.get(k)) for k in {**a, **b} if a.get(k) != b.get(k)}
    assert found == CHANGED[key]
    kinds = {type(preset.pcm).__name__ for preset in (before, now)}
    assert len(kinds) == (2 if key in ("exponent", "pairs") else 1)


@pytest.mark.parametrize("rung", ladder, ids=lambda rung: rung.key)
def test_every_rung_is_a_preset_with_sources_that_runs(rung: presets.Rung) -> None:
    preset = rung.preset
    assert Preset.from_dict(json.loads(json.dumps(preset.to_dict()))) == preset
    for part in Preset.PARTS:
        assert {s.key for s in getattr(preset, part).sources.values()} <= set(SOURCES)
    assert all(one.why.startswith("the ladder") for one in preset.changes)
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
    """Cells of a weight, from the same draws whatever the preset."""
    shapes = cell_law.noise_shapes(grid, preset.pcm)
    draws = [random(*shape, seed=seed + i, dtype=weight.dtype) for i, shape in enumerate(shapes)]
    return cell_law.program_cells(weight, grid, preset.pcm, *draws)


def spread_weights(dtype: torch.dtype = torch.float64) -> Tensor:
    weight = torch.linspace(-1.0, 1.0, 8 * 256, dtype=dtype)
    return weight[torch.randperm(8 * 256, generator=torch.Generator().manual_seed(1))].view(8, 256)


def test_signed_programming_is_on_the_grid_without_a_clip() -> None:
    """round(w 127)/127 + sigma(|w|) eps, in weights of [-1, 1]."""
    weight = torch.linspace(-1.0, 1.0, 301, dtype=torch.float64)
    eps = torch.linspace(-4.0, 4.0, 301, dtype=torch.float64)
    rounded = (weight * 127).round() / 127
    size = rounded.abs()
    expected = rounded + (0.26348 + 1.9650 * size - 1.1731 * size**2) / 25.0 * eps
    got = programmed(weight * 25.0, PCM, eps) / 25.0
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    small = programmed(torch.ones(1), PCM, torch.full((1,), -4.0))
    assert float(small) < 0.0  # noise may turn a sign
    plain = SIGNED.change(weight_bits=None, why="test").pcm
    assert torch.equal(target_us(weight, plain), weight)
    got = programmed(weight * 25.0, plain, torch.zeros_like(eps)) / 25.0
    torch.testing.assert_close(got, weight, rtol=1e-12, atol=1e-12)


def test_between_rungs_2_and_3_lie_the_exponents_law_and_its_clock_alone() -> None:
    """One exponent of 0.06 and t0 = 1 s on the signed cell: rung 2, on a clock a second late."""
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
    """w_P ((t + 20) / 20)^-nu, nu = clamp(-0.0155 ln x + 0.0244, 0.049, 0.1), x the rounded |w|."""
    preset, weight = RUNGS["exponent"].preset, spread_weights()
    found = written(preset, weight)
    x = ((weight * 127).round() / 127).abs().clamp_min(1e-7)
    nu = (-0.0155 * x.log() + 0.0244).clamp(0.049, 0.1)
    torch.testing.assert_close(found.nu, nu, rtol=1e-12, atol=0)
    eps = random(8, 256, seed=9, dtype=torch.float64)  # no read noise on this rung: not used
    now = cell_law.read_cells(found, GRID, preset.pcm, t_s, eps)
    expected = cell_law.held_weight(found, GRID) * ((t_s + 20.0) / 20.0) ** -nu
    torch.testing.assert_close(now, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("x", [0.0, 0.06, 0.3])
def test_the_spread_is_the_devices(x: float) -> None:
    """Moments of |N(mean, sd)| at a weight of either sign."""
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
    found = written(SIGNED, weight)
    eps = random(8, 256, seed=4, dtype=torch.float64)
    quiet = SIGNED.change(why="test", read_noise_scale=0.0).pcm
    for t_s in (1.0, YEAR):
        before = cell_law.read_cells(found, GRID, quiet, t_s, eps)
        now = cell_law.read_cells(found, GRID, PCM, t_s, eps)
        x = found.conductance_us.abs() / 25.0
        q = (0.0088 / (x**0.65).clamp_min(1e-3)).clamp_max(0.2)
        sigma = q * math.sqrt(math.log((t_s + 20.0 + 250e-9) / 500e-9))
        torch.testing.assert_close(read_sigma(found.conductance_us, t_s, PCM), sigma)
        expected = before * (1.0 + sigma * eps).clamp_min(0.0)
        torch.testing.assert_close(now, expected, rtol=1e-9, atol=1e-15)
        assert bool((now == 0.0).any())


def test_a_weight_of_zero_has_one_cells_noise_before_pairs_and_two_after() -> None:
    """sd sigma(0), against sqrt(2) that of max(0, N(0, sigma(0))): (1 - 1/pi)^(1/2) sigma(0)."""
    count = 400_000
    weight = torch.zeros(1, count)
    weight[0, 0] = 1.0
    grid = TileGrid((count,), (1,))
    one = written(SIGNED, weight, grid)
    stats.assert_sd(one.conductance_us[0, 1:], 0.26348, "one signed cell")
    found = written(RUNGS["pairs"].preset, weight, grid)
    two = cell_law.held_weight(found, grid)[0, 1:] * 25.0  # rescaled by the programmed maximum
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
    """Which devices hold a weight as a pair, and in how many numbers."""
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
    """Why rung 2 changes nothing: mean |w| falls by the one factor that all weights fall by."""
    alphas = []
    for key in ("scalar", "measured"):
        analog = convert(linear(40, 30), RUNGS[key].preset).eval()
        program(analog, 1)
        drift(analog, YEAR)
        alphas.append(only(analog).alpha())
    torch.testing.assert_close(alphas[0], torch.full_like(alphas[0], YEAR**0.06))
    torch.testing.assert_close(alphas[1], alphas[0], rtol=1e-6, atol=0)


def test_state_dependent_exponents_are_compensated_on_average_alone() -> None:
    """alpha = sum |w_P| / sum |w_P| f(w): large weights come out too large, small too small."""
    analog = convert(linear(40, 30), RUNGS["exponent"].preset).eval()
    matrix = only(analog)
    program(analog, 1)
    before = matrix.effective_weight().clone()
    drift(analog, YEAR)
    now = matrix.effective_weight()
    expected = before.abs().sum() / now.abs().sum()
    torch.testing.assert_close(matrix.alpha(), expected.expand_as(matrix.alpha()))
    kept = now * expected / before
    big = before.abs() > before.abs().max() / 2
    assert float(kept[big].mean()) > 1.0 > float(kept[~big].mean())


# --- errors of layers -----------------------------------------------------------------------------


class Mixed(nn.Module):
    """A convolution, an LSTM and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.conv = nn.Conv2d(2, 3, 3)
            self.lstm = nn.LSTM(3, 4)
            self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.conv(x).flatten(2).permute(2, 0, 1)
        out: Tensor = self.fc(self.lstm(seen)[0])
        return out


NAMES = ["conv", "lstm.ih_l0", "lstm.hh_l0", "fc"]


def probed(preset: Preset, rows: int = 50) -> tuple[nn.Module, Probe]:
    analog = convert(Mixed(), preset).train()
    x = random(6, 2, 5, 5)
    if preset.crossbar.input_range != "none":
        calibrate(analog, [x])
    probe = Probe(analog, lambda model: model(x), rows)
    assert analog.training
    return analog.eval(), probe


def test_a_probe_sees_every_layer_with_the_digital_models_inputs() -> None:
    _, probe = probed(rasch2023)
    assert sorted(probe.inputs) == sorted(NAMES)
    digital = Mixed().eval()
    x = random(6, 2, 5, 5)
    seen = digital.conv(x).flatten(2).permute(2, 0, 1)
    outs, _ = digital.lstm(seen)
    assert torch.equal(probe.inputs["conv"], x)
    torch.testing.assert_close(probe.inputs["lstm.ih_l0"], spaced(seen.reshape(-1, 3)))
    before = torch.cat([torch.zeros(1, 6, 4), outs[:-1]]).reshape(-1, 4)
    torch.testing.assert_close(probe.inputs["lstm.hh_l0"], spaced(before))
    torch.testing.assert_close(probe.inputs["fc"], spaced(outs.reshape(-1, 4)))
    expected = digital.fc(probe.inputs["fc"]) - digital.fc.bias
    torch.testing.assert_close(probe.exact["fc"], expected)


def spaced(x: Tensor) -> Tensor:
    return x[torch.linspace(0, len(x) - 1, 50).long()].detach()


def test_errors_are_relative_and_of_the_weights_held() -> None:
    """None on an ideal chip; a tenth, exactly, where every weight is a tenth too large."""
    analog, probe = probed(ideal)
    assert max(probe.errors().values()) < 1e-6
    program(analog, 0)
    for matrix in matrices_of(analog).values():
        matrix.load_chip_state(
            {k: v * 1.1 if k == "held" else v for k, v in matrix.chip_state().items()}
        )
    assert probe.errors() == pytest.approx(dict.fromkeys(probe.errors(), 0.1), rel=1e-5)


def test_output_noise_gives_the_error_it_must() -> None:
    """|y - exact|^2 has mean rows sum_c (out_noise scale_c)^2."""
    analog = convert(linear(20, 16), ideal.change(out_noise=0.04, why="test")).eval()
    probe = Probe(analog, lambda model: model(random(64, 20)), 64)
    torch.manual_seed(5)
    size = float(probe.exact[""].norm())
    squares = torch.tensor([(probe.errors()[""] * size) ** 2 for _ in range(600)])
    scale = only(analog).column_scale()
    stats.assert_mean(squares, float(64 * (0.04 * scale).square().sum()), "squared error")


def test_wrong_probes_are_refused_and_leave_the_model_as_it_was() -> None:
    analog = convert(mlp(), ideal).eval()
    x = random(4, 12)
    with pytest.raises(UsageError, match="never reached layer '2'"):
        Probe(analog, lambda model: model[0](x), 4)
    with pytest.raises(UsageError, match="rows=0"):
        Probe(analog, lambda model: model(x), 0)
    with pytest.raises(CapabilityError, match="engine='native'"):
        Probe(convert(mlp(), ideal, engine="aihwkit"), lambda model: model(x), 4)
    program(analog, 0)
    for matrix in matrices_of(analog).values():
        state = {k: v * 2 if k == "held" else v for k, v in matrix.chip_state().items()}
        matrix.load_chip_state(state)
    torch.testing.assert_close(analog[0](x), 2 * (x @ mlp()[0].weight.T) + mlp()[0].bias)


# --- intervals ------------------------------------------------------------------------------------


def test_intervals_by_hand() -> None:
    """n = 4: t quantile 3.18245; mean 2.5, sd 1.29099."""
    found = mean_interval([1.0, 2.0, 3.0, 4.0])
    half = 3.182446 * 1.290994 / 2
    assert found[:3] == pytest.approx((2.5, 2.5 - half, 2.5 + half), rel=1e-5)
    paired = change([10.0, 20.0, 30.0, 40.0], [11.0, 22.0, 33.0, 44.0])
    assert paired == pytest.approx(found)
    # Welch: variances 1 and 4 of n = 3 and 5: error sqrt(1/3 + 4/5); freedom 5.9935
    a, b = [0.0, 1.0, 2.0], [10 - 2.828427, 10.0, 10.0, 10.0, 10 + 2.828427]
    welch = independent_change(a, b)
    error = math.sqrt(1 / 3 + 4 / 5)
    assert welch.mean == pytest.approx(9.0)
    assert (welch.high - welch.low) / 2 == pytest.approx(2.447356 * error, rel=2e-3)
    # F with 4 and 2 degrees of freedom: quantiles 39.2484 and 1 / 10.6491
    ratio = sd_ratio(a, b)
    assert ratio.mean == pytest.approx(2.0, rel=1e-6)
    assert ratio.low == pytest.approx(2.0 / math.sqrt(39.2484), rel=1e-4)
    assert ratio.high == pytest.approx(2.0 * math.sqrt(10.6491), rel=1e-4)


def test_an_interval_holds_the_mean_95_times_of_100() -> None:
    """Of 5 normal values; with the normal quantile it would be 88 times."""
    count = 20_000
    draws = random(count, 5, seed=11, dtype=torch.float64).numpy()
    found = [mean_interval(x) for x in draws[:2000]]
    inside = np.array([one.low <= 0.0 <= one.high for one in found])
    bound = stats.quantile() * math.sqrt(0.95 * 0.05 / len(inside))
    assert abs(inside.mean() - 0.95) <= bound
    normal = np.abs(draws.mean(1)) <= 1.959964 * draws.std(1, ddof=1) / math.sqrt(5)
    assert abs(normal.mean() - 0.95) > bound
    assert np.mean([one.p < 0.05 for one in found]) == pytest.approx(1 - inside.mean())


def test_values_without_spread() -> None:
    assert mean_interval([2.0, 2.0]) == Interval(2.0, 2.0, 2.0, 0.0)
    assert mean_interval([0.0, 0.0]) == Interval(0.0, 0.0, 0.0, 1.0)
    assert math.isnan(mean_interval([2.0]).low)
    assert change([1.0, 2.0], [1.0 + 1e-8, 2.0 - 1e-8]) == Interval(0.0, 0.0, 0.0, 1.0)
    assert change([1.0, 2.0], [1.0 + 1e-4, 2.0 + 1e-4]).mean == pytest.approx(1e-4)
    assert sd_ratio([1.0, 2.0], [3.0, 3.0]) == Interval(0.0, 0.0, 0.0, 0.0)
    assert math.isnan(sd_ratio([3.0, 3.0], [1.0, 2.0]).mean)
    known = independent_change([1.0, 1.0], [1.0, 2.0, 3.0, 4.0])
    assert known == pytest.approx(mean_interval([0.0, 1.0, 2.0, 3.0]))
    known = independent_change([1.0, 2.0, 3.0, 4.0], [4.0, 4.0])
    assert known == pytest.approx(mean_interval([3.0, 2.0, 1.0, 0.0]))
    assert independent_change([1.0, 1.0], [1.0, 1.0]) == Interval(0.0, 0.0, 0.0, 1.0)


def test_values_that_give_no_interval_are_refused() -> None:
    for wrong in ([], [1.0, math.nan], [math.inf], [[1.0]]):
        with pytest.raises(UsageError):
            mean_interval(wrong)
    with pytest.raises(UsageError, match="2 chips before, 3 after"):
        change([1.0, 2.0], [1.0, 2.0, 3.0])
    for function in (sd_ratio, independent_change):
        with pytest.raises(UsageError, match="two or more"):
            function([1.0], [1.0, 2.0])


# --- the flaws ------------------------------------------------------------------------------------


class Batches:
    """A task of three batches of different sizes: the metric is the mean output."""

    def __init__(self, *inputs: Any) -> None:
        self.inputs = inputs or (random(4, 12), random(4, 12, seed=1), random(2, 12, seed=2))

    def evaluate(self, model: nn.Module, subset: int | None = None) -> dict[str, float]:
        assert not model.training
        with torch.no_grad():
            return {"value": float(torch.cat([model(x) for x in self.inputs]).mean())}


def noisy() -> nn.Module:
    analog = convert(mlp(), RUNGS["pairs"].preset).eval()
    program(analog, 7)
    drift(analog, 3600.0)
    return analog


def by_hand(seeds: list[int], parts: list[Tensor], t_s: float = 3600.0) -> float:
    analog, outs = noisy(), []
    for seed, part in zip(seeds, parts, strict=True):
        program(analog, seed)
        drift(analog, t_s)
        outs.append(analog(part))
    return float(torch.cat(outs).detach().mean())


def test_redrawn_noise_is_another_chip_at_every_batch() -> None:
    task, model = Batches(), noisy()
    seeds = [rng.derive(7, "redrawn", i) for i in range(5)]
    found = sides.Redrawn(task, None, None)(model)  # type: ignore[arg-type]
    assert found == {"value": pytest.approx(by_hand(seeds[:3], list(task.inputs))), "draws": 3.0}
    drift(model, 3600.0)
    parts = [part for x in task.inputs for part in x.split(2)]
    found = sides.Redrawn(task, None, 2)(model)  # type: ignore[arg-type]
    assert found == {"value": pytest.approx(by_hand(seeds, parts)), "draws": 5.0}
    drift(model, 3600.0)  # the chip that it held is there again
    assert task.evaluate(model)["value"] == pytest.approx(by_hand([7] * 3, list(task.inputs)))


def test_a_batch_of_several_tensors_is_not_split() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = linear(12, 3)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.fc(x) * scale

    analog = convert(Pair(), RUNGS["pairs"].preset).eval()
    program(analog, 1)
    drift(analog, 1.0)
    drawing = sides.Redrawing(analog, 1, 1.0, 2)
    assert drawing(random(6, 12), scale=torch.ones(6, 1)).shape == (6, 3)
    assert drawing.draws == 1


def test_one_chip_again_and_again_has_reading_noise_alone() -> None:
    """On the replication's physics nothing at all differs; chips do."""
    for preset, same in ((scalar_drift, True), (RUNGS["pairs"].preset, False)):
        analog, task = convert(mlp(), preset).eval(), Batches()
        again = sides.Reread(task, None, 40)  # type: ignore[arg-type]
        options: dict[str, Any] = {"times": YEAR, "chips": 6, "seed": 40, "progress": False}
        reads = sweep(analog, again, **options).value
        chips = sweep(analog, task.evaluate, **options).value
        assert (reads.nunique() == 1) is same
        assert chips.nunique() == 6
        assert reads.std() < chips.std()
        program(analog, 40)
        for index, value in enumerate(reads):
            drift(analog, YEAR + index)
            assert task.evaluate(analog)["value"] == value


def test_what_is_beside_the_ladder() -> None:
    keys = [side.key for side in sides.SIDES]
    assert len(set(keys)) == len(keys)
    assert not set(keys) & set(KEYS)
    physics = {"replication": scalar_drift, "paper": rasch2023}
    for side in sides.SIDES:
        first, _, how = side.key.partition(" ")
        if first in physics:
            assert side.preset is physics[first] and side.how == how and side.many
        else:
            assert len(side.preset.changes) in (1, 3) and not side.many and side.how == "chips"
    oracle = next(side for side in sides.SIDES if side.key == "oracle")
    assert {c.field for c in oracle.preset.changes} == {"drift_compensation"}


# --- tables ---------------------------------------------------------------------------------------


def made_up(chips: int = 4) -> pd.DataFrame:
    """A ladder that loses a point a rung at 1 s and two at 1 y, on chips 0.1 apart."""
    rows: list[dict[str, Any]] = []

    def add(row: str, t_s: float, chip: float, **named: float) -> None:
        place = {"task": "wrn", "model": "M", "row": row, "t_inference": t_s, "chip": chip}
        rows.extend({**place, "metric": k, "value": v, "seed": chip} for k, v in named.items())

    add("digital", math.nan, math.nan, accuracy=0.95, loss=0.2)
    wobble = [0.001, -0.001, 0.002, -0.002]
    for rung in ladder:
        for t_s, step in ((1.0, 0.01), (YEAR, 0.02)):
            for chip in range(chips):
                lost = step * (rung.number - 1) + 0.1 * chip
                if rung.number > 2:  # rungs 1 and 2 are the same
                    lost += wobble[chip] * (rung.number % 2)
                else:
                    lost = 0.1 * chip
                errors = {"mvm": lost, "mvm a": lost, "mvm b": 2 * lost}
                add(rung.key, t_s, chip, accuracy=0.9 - lost, loss=lost, **errors)
    for side in sides.SIDES:
        for chip in range(chips):
            spread = {"redrawn": 0.01, "reread": 0.0}.get(side.how, 0.02)
            value = 0.5 + spread * (chip - 1.5)
            add(side.key, YEAR, chip, accuracy=value, loss=1 - value)
    return pd.DataFrame(rows)[tables.COLUMNS]


FACTS: dict[str, Any] = {
    "model": "M",
    "dataset": "D",
    "metric": "accuracy",
    "samples": 1234,
    "layers": ["a", "b"],
    "wall_s": {"scalar": 120.0},
}


def test_steps_are_means_and_paired_changes() -> None:
    table = tables.steps(made_up(), "accuracy")
    assert len(table) == 2 * 11 * 2
    assert list(table.metric.unique()) == ["accuracy", "mvm"]
    year = table[(table.metric == "accuracy") & (table.t_inference == YEAR)].set_index("row")
    chips = np.array([0.9, 0.8, 0.7, 0.6])
    level = mean_interval(chips)
    assert tuple(year.loc["scalar", ["mean", "low", "high"]]) == pytest.approx(level[:3])
    assert math.isnan(year.loc["scalar", "change"])
    assert tuple(year.loc["measured", ["change", "change_low", "p", "p_holm"]]) == (0, 0, 1, 1)
    expected = change(chips - 0.04 - np.array([1, -1, 2, -2]) * 1e-3, chips - 0.06)
    got = year.loc["spread"]
    assert tuple(got[["change", "change_low", "change_high", "p"]]) == pytest.approx(expected)
    assert (got.change_high - got.change_low) < 0.2 * (got.high - got.low)  # pairing pays
    tested = table[(table.metric == "accuracy") & table.p.notna()]
    assert (tested.p_holm >= tested.p).all() and len(tested) == 20
    assert tested.p_holm.min() == pytest.approx(20 * tested.p.min())


def test_what_cannot_be_compared_is_refused() -> None:
    results = made_up()
    less = results[~((results.row == "spread") & (results.chip == 2))]
    with pytest.raises(DataError, match="'spread' has other chips"):
        tables.steps(less, "accuracy")
    with pytest.raises(DataError, match="no accuracy of 'pairs' at 1s"):
        tables.steps(results[results.row != "pairs"], "accuracy")


def test_flaws_and_less_one_are_compared_with_what_is_right() -> None:
    results = made_up()
    table = tables.flaws(results, "accuracy")
    assert list(table.metric.unique()) == ["accuracy", "loss"]
    mine = table[table.metric == "accuracy"].set_index(["physics", "flaw"])
    assert len(mine) == 8
    redrawn = mine.loc[("rasch2023", "noise drawn anew at each batch")]
    assert redrawn.difference == pytest.approx(0.0, abs=1e-12)
    assert redrawn.sd_ratio == pytest.approx(0.5)
    again = mine.loc[("scalar_drift", "one chip again and again")]
    assert again.sd_ratio == 0.0 and math.isnan(again.low)
    clean = mine.loc[("scalar_drift", "no noise in the evaluation")]
    assert clean.difference == pytest.approx(0.45)
    assert (clean.low, clean.high) == pytest.approx(
        mean_interval(0.95 - np.array([0.47, 0.49, 0.51, 0.53]))[1:3]
    )
    same = mine.loc[("scalar_drift", "oracle compensation instead of measured")]
    assert (same.difference, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    less = tables.less_one(results, "accuracy")
    assert set(less.row) == {s.key for s in sides.SIDES if s.key.startswith("without")}
    whole = tables.values_of(results, "tiles", "accuracy", YEAR).to_numpy()
    now = tables.values_of(results, "without IR drop", "accuracy", YEAR).to_numpy()
    row = less[(less.row == "without IR drop") & (less.metric == "accuracy")].iloc[0]
    assert (row.change, row.low, row.high, row.p) == pytest.approx(change(whole, now))


def test_layers_are_kept_each() -> None:
    table = tables.layers(made_up()).set_index(["row", "layer", "t_inference"])
    assert len(table) == 11 * 2 * 2
    a, b = table.loc[("pairs", "a", YEAR)], table.loc[("pairs", "b", YEAR)]
    assert (a.chips, b["mean"]) == (4, pytest.approx(2 * a["mean"]))


def test_text_says_means_changes_and_which_are_sure() -> None:
    text = page.study_text(made_up(), FACTS)
    assert "1,234 test samples, 4 chips, digital accuracy 95.00 %. Accuracy, %:" in text
    lines = text.splitlines()
    assert "| 1 | scalar drift, oracle | 75.00 | 75.00 |" in lines
    assert "| 2 | measured compensation | 75.00 (0) | 75.00 (0) |" in lines
    spread = next(line for line in lines if line.startswith("| 4 | spread of exponents"))
    assert "(**−2.00 ± 0.29**)" in spread
    assert "| `rasch2023` | accuracy | change |" in lines
    assert "| 0.50 (0.13 to 1.96) |" in text
    assert page._change(-0.00012, -0.00022, -0.00002, "accuracy") == "−0.01 ± 0.01"
    assert page._change(1e-6, 0.0, 2e-6, "perplexity") == "+0.000001 ± 0.000001"
    assert page._change(0.25, math.nan, math.nan, "loss") == "+0.250"


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIMC_BRIDGE_DATA", raising=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded WideResNet, untrained."""
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(tasks.get("wrn").build(0), str(file))
    return file.parent


QUICK = ["wrn", "--times", "1s", "1y", "--chips", "2", "--repeats", "2", "--subset", "30"]


@pytest.fixture(scope="module")
def finished(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ladder") / "run"
    words = ["--ladder", *QUICK, "--checkpoint", str(checkpoint), "--out", str(out)]
    assert crosscheck.main(words) == 0
    return out


def test_the_command_climbs_and_writes(finished: Path, checkpoint: Path) -> None:
    results = pd.read_csv(finished / "results.csv")
    assert list(results.columns) == tables.COLUMNS
    assert list(results.row.unique()) == ["digital", *KEYS, *(s.key for s in sides.SIDES)]
    rungs = results[results.row.isin(KEYS)]
    assert set(rungs.t_inference) == {1.0, YEAR} and set(rungs.chip) == {0, 1}
    assert set(results[~results.row.isin([*KEYS, "digital"])].t_inference) == {YEAR}
    about = json.loads((finished / "run.json").read_text())
    assert about["command"].startswith("python -m benchmarks.ladder wrn --times 1s 1y")
    facts = about["studies"]["wrn"]
    assert facts["samples"] == 30 and facts["metric"] == "accuracy"
    matrices = matrices_of(convert(tasks.get("wrn").build(0), ideal))
    assert facts["layers"] == list(matrices)
    assert facts["tiles"]["ir_drop"] == len(matrices) <= facts["tiles"]["tiles"]
    assert set(about["arguments"]["presets"]) == set(KEYS)
    mvm = rungs[rungs.metric == "mvm"]
    parts = rungs[rungs.metric.str.startswith("mvm ")]
    means = parts.groupby(["row", "t_inference", "chip"]).value.mean()
    expected = mvm.set_index(["row", "t_inference", "chip"]).value.reindex(means.index)
    assert np.allclose(means, expected)
    redrawn = results[(results.row == "replication redrawn") & (results.metric == "draws")]
    assert set(redrawn.value) == {2.0}  # 30 images, 25 at a time
    for name in ("ladder.csv", "layers.csv", "flaws.csv", "less-one.csv", "summary.md"):
        assert (finished / name).stat().st_size > 0
    text = (finished / "summary.md").read_text()
    assert page.ladder_text(tables.steps(results, "accuracy"), "mvm") in text
    assert (finished / "figures" / "ladder.png").read_bytes().startswith(b"\x89PNG")


def test_a_rung_is_the_sweep_of_its_preset(finished: Path, checkpoint: Path) -> None:
    """The last one: same chips, noise and ranges as the preset alone, the layers' errors aside."""
    task = tasks.get("wrn")
    analog = convert(task.load(checkpoint), rasch2023).eval()
    calibrate(analog, task.calibration_batches(8), "percentile")
    torch.set_num_threads(1)
    table = sweep(
        analog, lambda m: task.evaluate(m, 30), times=("1s", "1y"), chips=2, progress=False
    )
    results = tables.read_results(finished / "results.csv")
    keys = ["metric", "chip", "t_inference"]
    mine = results[(results.row == "tiles") & results.metric.isin(["accuracy", "error", "loss"])]
    mine = mine.sort_values(keys, ignore_index=True)
    assert mine.value.tolist() == table.sort_values(keys, ignore_index=True).value.tolist()


def test_an_interrupted_ladder_goes_on(
    finished: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*QUICK, "--checkpoint", str(checkpoint), "--out", str(tmp_path / "run")]
    true, calls = sides.Chips.__call__, [0]

    def stopped(self: sides.Chips, model: nn.Module) -> dict[str, float]:
        calls[0] += 1
        if calls[0] == 12:  # in the second chip of the third rung
            raise KeyboardInterrupt
        return true(self, model)

    monkeypatch.setattr(sides.Chips, "__call__", stopped)
    assert command.main(words) == 130
    work = tmp_path / "run" / "work" / "wrn"
    assert sorted(p.name for p in work.glob("*.csv")) == [
        *("exponent.csv", "measured.csv", "scalar.csv")
    ]
    assert command.main(words) == 2  # not without --resume
    assert command.main([*words, "--resume", "--chips", "3"]) == 2
    calls[0] = -(10**6)
    assert command.main([*words, "--resume"]) == 0
    assert calls[0] + 10**6 == 2 * 2 * 11 - 10 + 2 * 2 + 7 * 2  # a whole chip again, no more
    for name in ("results", "ladder", "flaws"):
        same = [pd.read_csv(out / f"{name}.csv") for out in (finished, tmp_path / "run")]
        pd.testing.assert_frame_equal(*same, check_exact=True)
    calls[0] = -(10**6)
    assert command.main([*words, "--resume"]) == 0
    assert calls[0] == -(10**6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gpt"], "unknown task 'gpt'; one of wrn, bert, lstm"),
        (["wrn", "--profile", "tiny"], "unknown profile 'tiny'"),
        (["wrn", "--times"], "--times names no time"),
        (["wrn", "--times", "soon"], "time 'soon' is not understood"),
        (["wrn", "--chips", "1"], "--chips 1; allowed: 2 or more: an interval needs two"),
        (["wrn", "--repeats", "0"], "--repeats 0; allowed: 2 or more"),
        (["wrn", "--threads", "0"], "--threads 0; allowed: 1 or more"),
        (["wrn", "--subset", "few"], "--subset few; allowed: a whole number"),
        (["wrn", "--subset", "lstm=5"], "--subset lstm=5: 'lstm' is not among wrn"),
        (["--subset", "5"], "--subset 5: which task?"),
        (["wrn", "--checkpoint", "nowhere"], "no checkpoint at nowhere"),
        (["wrn", "--device", "tpu"], "unknown device 'tpu'"),
        (["wrn", "--data-dir", "nowhere"], "no data folder nowhere"),
        (["wrn", "--chip", "5"], "unrecognized arguments: --chip"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_is_one_line_and_leaves_nothing(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert crosscheck.main(["--ladder", *words, "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and said in line
    assert not out.exists()


def test_a_folder_of_something_else_is_refused(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*QUICK, "--checkpoint", str(checkpoint), "--out"]
    (tmp_path / "file").write_text("x")
    assert command.main([*words, str(tmp_path / "file")]) == 2
    assert command.main([*words, str(tmp_path)]) == 2
    assert command.main([*words, str(tmp_path), "--resume"]) == 2
    said = capsys.readouterr().err
    for part in ("is a file", "is not empty", "no record of a run to resume"):
        assert part in said


def test_a_digital_model_is_trained_where_none_is_given(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: a resumed ladder takes the one it has."""
    seen = []

    def fit(task: tasks.Task, out: Path, **options: Any) -> nn.Module:
        seen.append(options)
        out.mkdir(parents=True)
        (out / "info.json").write_text('{"steps": 3}')
        return task.load(checkpoint)

    monkeypatch.setattr(climb.digital, "fit", fit)
    one = climb.Climb(
        tasks.get("wrn"),
        30,
        command._settings(command.parser().parse_args(["wrn"]))[0],
        tmp_path,
        command.Console(stderr=True),
        None,
    )
    assert isinstance(one._digital(), nn.Module)
    assert one.facts["digital"] == {"steps": 3}
    assert seen[0]["resume"] is False and seen[0]["seed"] == 0


# --- records --------------------------------------------------------------------------------------


def test_a_record_gives_the_tables_of_its_run(finished: Path, tmp_path: Path) -> None:
    file = run_records.write(records.record_of(finished, "wrn"), tmp_path)
    assert file.name == "ladder-wrn.json"
    record = run_records.read(file)
    results, facts = records.results_of(record)
    run = tables.read_results(finished / "results.csv")
    assert facts == json.loads((finished / "run.json").read_text())["studies"]["wrn"]
    assert page.study_text(results, facts) == page.study_text(run, facts)
    for table in (tables.steps, tables.flaws, tables.less_one):
        pd.testing.assert_frame_equal(table(results, "accuracy"), table(run, "accuracy"))
    kept, true = tables.layers(results), tables.layers(run)
    merged = kept.merge(true, on=["row", "layer", "t_inference"])
    assert len(merged) == len(kept) == len(true)
    assert np.allclose(merged.mean_x, merged.mean_y, rtol=1e-4)
    assert len(record["rows"]) == 1 + 11 * 2 * 2 + 2 * len(sides.SIDES)
    assert records.files(tmp_path) == [file]
    assert run_records.table(tmp_path) == ""  # not a run's record: no line in the README's table


def test_a_ladder_that_is_not_finished_gives_no_record(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished ladder of wrn"):
        records.record_of(tmp_path, "wrn")
    with pytest.raises(DataError, match="no finished ladder of lstm"):
        records.record_of(finished, "lstm")
    with pytest.raises(DataError, match="no records"):
        records.section([])
    done = CliRunner().invoke(records.app, ["add", str(tmp_path)])
    assert done.exit_code == 2 and len(done.stderr.strip().splitlines()) == 1


def description(png: Path) -> str:
    """The text chunk "Description" of a PNG."""
    data, at = png.read_bytes(), 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert (
            zlib.crc32(kind + body) == struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0]
        )
        if kind == b"tEXt" and body.startswith(b"Description\0"):
            return body.partition(b"\0")[2].decode("latin-1")
        at += 12 + size
    raise AssertionError("no description")


def test_the_page_is_made_from_records(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "DOCS", tmp_path / "docs")
    monkeypatch.setattr(run_records, "FOLDER", tmp_path / "records")
    (tmp_path / "docs").mkdir()
    before = f"# Ladder\n\n{records.MARKS[0]}\nold\n{records.MARKS[1]}\nend\n"
    (tmp_path / "docs" / "ladder.md").write_text(before)
    invoke = CliRunner().invoke
    assert invoke(records.app, ["add", str(finished)]).exit_code == 0
    done = invoke(records.app, ["write"])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "docs" / "ladder.md").read_text()
    (file,) = records.files(tmp_path / "records")
    assert text.startswith("# Ladder\n\n") and text.endswith(f"{records.MARKS[1]}\nend\n")
    assert records.section([file]) in text and "\nold\n" not in text
    assert description(tmp_path / "docs" / "ladder.png") == records.digest([file])
    (tmp_path / "docs" / "ladder.md").write_text("no marks")
    assert invoke(records.app, ["write"]).exit_code == 2


def committed() -> dict[str, pd.DataFrame]:
    return {
        file.stem.removeprefix("ladder-"): records.results_of(run_records.read(file))[0]
        for file in records.files()
    }


def test_docs_ladder_shows_the_committed_records_and_nothing_else() -> None:
    """`python -m benchmarks.ladder.records write` makes what belongs there."""
    text = (ROOT / "docs" / "ladder.md").read_text(encoding="utf-8")
    shown = text.partition(records.MARKS[0])[2].partition(records.MARKS[1])[0].strip()
    assert shown == records.section(records.files())
    assert description(ROOT / "docs" / "ladder.png") == records.digest(records.files())
    for rung in ladder:
        assert f"| {rung.number} | {rung.title} | {rung.what} |" in text and "|" not in rung.what
    for file in records.files():
        record = run_records.read(file)
        assert "/root" not in json.dumps(record) and "/work" not in json.dumps(record)
        results, facts = records.results_of(record)
        assert set(KEYS) <= set(results.row) and len(facts["layers"]) > 1


def test_the_prose_of_docs_ladder_has_the_records_numbers() -> None:
    text = (ROOT / "docs" / "ladder.md").read_text(encoding="utf-8")
    prose = " ".join(text.partition("**In short.**")[2].partition("## How")[0].split())
    found = committed()
    said = [(t, r, YEAR) for t in found for r in ("scalar", "read_noise", "out_noise", "tiles")]
    for task, row, t_s in [*said, *((t, "scalar", 1.0) for t in found), ("lstm", "tiles", 1.0)]:
        metric = "perplexity" if task == "lstm" else "accuracy"
        mean = float(tables.values_of(found[task], row, metric, t_s).mean())
        assert page._number(mean, metric) in prose, (task, row, t_s)
    for task, row in (
        *(("lstm", "spread of exponents"), ("wrn", "spread of exponents")),
        *(("wrn", "output noise"), ("bert", "DAC and ADC")),
    ):
        metric = "perplexity" if task == "lstm" else "accuracy"
        less = tables.less_one(found[task], metric)
        one = less[(less.row == f"without {row}") & (less.metric == metric)].iloc[0]
        assert page._change(one.change, one.low, one.high, metric) in prose, (task, row)
        assert one.p < 0.05
    flawed = {
        task: tables.flaws(results, "accuracy") for task, results in found.items() if task != "lstm"
    }
    for task, flaw, physics in (
        ("bert", "no noise in the evaluation", "scalar_drift"),
        ("wrn", "oracle compensation instead of measured", "rasch2023"),
    ):
        mine = flawed[task][flawed[task].metric == "accuracy"]
        one = mine[(mine.flaw == flaw) & (mine.physics == physics)].iloc[0]
        step = page._change(one.difference, one.low, one.high, "accuracy").removeprefix("+")
        assert step in prose, (task, flaw)


def test_the_steps_of_a_preset_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ladder[0].key = "other"  # type: ignore[misc]
    assert isinstance(ladder, tuple)


def test_exponents_and_drift_take_a_signed_cell_as_they_take_a_device() -> None:
    g = torch.tensor([-25.0, -5.0, 5.0, 25.0], dtype=torch.float64)
    nu = drift_exponent(g, RUNGS["exponent"].preset.pcm, torch.zeros_like(g))
    assert torch.equal(nu, nu.flip(0))
    now = drifted(g, nu, YEAR, PCM)
    assert torch.equal(now, -now.flip(0))


def test_the_readme_tells_what_the_page_shows() -> None:
    """Every figure of the README's finding is in the page's tables, which are the records'."""
    root = Path(__file__).parents[1]
    readme = (root / "README.md").read_text(encoding="utf-8")
    finding = readme.split("**What the simplifications cost.**")[1].split("300 images")[0]
    figures = set(re.findall(r"\b\d+\.\d\d\b", finding)) - {"0.00"}  # what the replication reports
    assert len(figures) >= 15
    page = (root / "docs" / "ladder.md").read_text(encoding="utf-8").split("<!-- ladder -->")[1]
    assert not {figure for figure in figures if figure not in page}
