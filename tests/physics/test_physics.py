"""Device laws: laws of shape and state over every preset, golden values, compensation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from scipy.special import erf, ndtr
from torch import Tensor

from aimc_bridge import physics
from aimc_bridge.errors import ShapeError, UsageError
from aimc_bridge.physics import cells as cell_law
from aimc_bridge.physics import compensation
from aimc_bridge.physics.drift import age, mean_drift_factor, nu_mean, nu_sd
from aimc_bridge.physics.laws.statistical import time_factor
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.physics.reading import read_coefficient
from aimc_bridge.spec import DeviceSpec, Preset, StatisticalSpec
from presets import (
    hermes,
    hermes_single,
    ideal,
    pcm_state_independent,
    rasch2023,
    scalar_drift,
)
from tests import stats

STATISTICAL = [rasch2023, hermes, hermes_single, pcm_state_independent]
# Power laws; devices without drift or without exponents are in tests/presets/test_published.py.
ALL = [*STATISTICAL, scalar_drift, ideal]
PCM = rasch2023.pcm
DAY, YEAR = 86400.0, 365 * 86400.0
TIMES = {"1s": 1.0, "1h": 3600.0, "1d": DAY, "1y": YEAR}
DEVICES = ["cpu", "meta", *(["cuda"] if torch.cuda.is_available() else [])]
every_preset = pytest.mark.parametrize("preset", ALL, ids=str)
every_statistical = pytest.mark.parametrize("preset", STATISTICAL, ids=str)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(20230802)


# --- laws as tables, over every preset ------------------------------------------------------------


class Law(NamedTuple):
    """A law as a function of cells `[*cells]` in uS, and N(0, 1) `[*chips, *cells]`."""

    call: Callable[[Tensor, DeviceSpec, Tensor], Tensor]
    has_chips: bool = True


LAWS = {
    "programmed": Law(physics.programmed),
    "drift_exponent": Law(physics.drift_exponent),
    "drifted": Law(
        lambda g, pcm, eps: physics.drifted(g.expand_as(eps), eps.abs() * 0.05, 3600.0, pcm)
    ),
    "read": Law(lambda g, pcm, eps: physics.read(g, g, 3600.0, pcm, eps)),
    "sigma_prog_us": Law(lambda g, pcm, eps: physics.sigma_prog_us(g, pcm), False),
    "read_sigma": Law(lambda g, pcm, eps: physics.read_sigma(g, 3600.0, pcm), False),
    "nu_mean": Law(lambda g, pcm, eps: nu_mean(g, pcm), False),
    "nu_sd": Law(lambda g, pcm, eps: nu_sd(g, pcm), False),
    "mean_drift_factor": Law(lambda g, pcm, eps: mean_drift_factor(g, 3600.0, pcm), False),
}
every_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


@every_law
@every_preset
def test_shape(law: Law, preset: Preset) -> None:
    """The result has shape `(*chips, *cells)`, whatever the chips and the cells."""
    for chips in ((), (1,), (3,), (2, 3)):
        for cells in ((), (5,), (4, 6), (2, 1, 3)):
            g = torch.rand(cells) * preset.pcm.g_max_us
            got = law.call(g, preset.pcm, torch.randn((*chips, *cells)))
            assert got.shape == ((*chips, *cells) if law.has_chips else cells)
            assert bool(got.isfinite().all())


@every_law
@every_preset
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_dtype_and_device_are_kept(
    law: Law, preset: Preset, dtype: torch.dtype, device: str
) -> None:
    """The meta device computes nothing.

    It refuses a tensor of another device.
    """
    g = torch.linspace(0.0, preset.pcm.g_max_us, 7, dtype=dtype, device=device)
    got = law.call(g, preset.pcm, torch.zeros(3, 7, dtype=dtype, device=device))
    assert (got.dtype, got.device.type) == (dtype, device)


@every_law
@every_preset
def test_input_is_untouched(law: Law, preset: Preset) -> None:
    g, eps = torch.rand(4, 5) * preset.pcm.g_max_us, torch.randn(3, 4, 5)
    before = g.clone(), eps.clone()
    got = law.call(g, preset.pcm, eps)
    assert torch.equal(g, before[0]) and torch.equal(eps, before[1])
    got.add_(1.0)  # The result has its own memory.
    assert torch.equal(g, before[0]) and torch.equal(eps, before[1])


@every_law
@every_preset
def test_chips_are_independent(law: Law, preset: Preset) -> None:
    """A chip is the same alone or among twenty-five."""
    g, eps = torch.rand(4, 5) * preset.pcm.g_max_us, torch.randn(25, 4, 5)
    together = law.call(g, preset.pcm, eps)
    for chip in (0, 24):
        alone = law.call(g, preset.pcm, eps[chip])
        assert torch.equal(together[chip] if law.has_chips else together, alone)


@every_preset
def test_no_noise_is_identity(preset: Preset) -> None:
    """eps = 0, or scales of 0 with any eps, give the target, then drift alone."""
    pcm = preset.pcm
    # These values lie on the 8-bit grid.
    g = torch.linspace(0.0, 1.0, 128, dtype=torch.float64) * pcm.g_max_us
    zero = torch.zeros(3, 128, dtype=torch.float64)
    expected = g.expand(3, 128)
    torch.testing.assert_close(physics.programmed(g, pcm, zero), expected, rtol=1e-12, atol=0.0)
    assert torch.equal(physics.read(g, g, 3600.0, pcm, zero), expected)
    assert torch.equal(physics.drifted(g, torch.zeros_like(g), YEAR, pcm), g)
    assert torch.equal(physics.drifted(g, torch.full_like(g, 0.05), 0.0, pcm), g)
    if not isinstance(pcm, StatisticalSpec):
        return
    off = {"prog_noise_scale": 0.0, "read_noise_scale": 0.0, "drift_scale": 0.0}
    quiet = preset.change(**off, why="test").pcm
    eps = torch.randn(3, 128, dtype=torch.float64)
    assert torch.equal(physics.programmed(g, quiet, eps), expected)
    assert torch.equal(physics.read(g, g, 3600.0, quiet, eps), expected)
    assert not physics.drift_exponent(g, quiet, eps).any()


@every_preset
def test_mean_falls_with_time(preset: Preset) -> None:
    pcm = preset.pcm
    g = torch.linspace(0.02, 1.0, 50) * pcm.g_max_us
    nu = physics.drift_exponent(g, pcm, torch.randn(400, 50))
    means = [physics.drifted(g, nu, t, pcm).mean().item() for t in (0.0, *TIMES.values())]
    factors = [mean_drift_factor(g, t, pcm).mean().item() for t in (0.0, *TIMES.values())]
    if preset is ideal:
        assert len(set(means)) == 1 and set(factors) == {1.0}
        return
    assert means[0] == pytest.approx(g.mean().item(), rel=1e-6)
    flat = 1 if preset is scalar_drift else 0  # (t / t0)^-nu is 1 up to its t0 of one second.
    for values in (means, factors):
        assert all(a > b for a, b in zip(values[flat:], values[flat + 1 :], strict=False))


@every_statistical
def test_read_noise_grows_with_time(preset: Preset) -> None:
    g = torch.linspace(0.0, 1.0, 50) * preset.pcm.g_max_us
    sigmas = [physics.read_sigma(g, t, preset.pcm) for t in (0.0, *TIMES.values())]
    for earlier, later in zip(sigmas, sigmas[1:], strict=False):
        assert bool((later > earlier).all())


@every_statistical
def test_conductances_are_not_negative(preset: Preset) -> None:
    pcm = preset.pcm
    g, eps = torch.linspace(0.0, pcm.g_max_us, 50), torch.randn(1000, 50) * 3
    g_prog = physics.programmed(g, pcm, eps)
    nu = physics.drift_exponent(g, pcm, eps.flip(0))
    now = physics.read(physics.drifted(g_prog, nu, DAY, pcm), g_prog, DAY, pcm, eps.flip(1))
    for values in (g_prog, nu, now):
        assert bool((values >= 0.0).all())
    assert bool((g_prog == 0.0).any()) and bool((now == 0.0).any())


@every_preset
def test_wrong_noise_is_a_shape_error(preset: Preset) -> None:
    g = torch.ones(4, 5)
    for shape in ((4,), (5,), (5, 4), (4, 5, 3), (1, 5), ()):
        eps = torch.zeros(shape)
        with pytest.raises(ShapeError, match=r"\(\*chips, \*cells\)"):
            physics.programmed(g, preset.pcm, eps)
        with pytest.raises(ShapeError):
            physics.drift_exponent(g, preset.pcm, eps)
        with pytest.raises(ShapeError):
            physics.read(g, g, 1.0, preset.pcm, eps)


@every_preset
@pytest.mark.parametrize("t_s", [-1.0, -1e-9, math.nan, math.inf, -math.inf])
def test_wrong_times_are_errors(preset: Preset, t_s: float) -> None:
    g = torch.ones(4)
    with pytest.raises(UsageError, match="allowed: finite seconds"):
        physics.drifted(g, g, t_s, preset.pcm)
    with pytest.raises(UsageError):
        age(t_s, preset.pcm)
    if isinstance(preset.pcm, StatisticalSpec):
        with pytest.raises(UsageError):
            physics.read(g, g, t_s, preset.pcm, g)


# --- closed forms ---------------------------------------------------------------------------------


def rectified(mean: float, sd: float) -> tuple[float, float]:
    """Return mean and sd of max(N(mean, sd), 0)."""
    z = mean / sd
    density = math.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi)
    first = mean * float(ndtr(z)) + sd * density
    second = (mean**2 + sd**2) * float(ndtr(z)) + mean * sd * density
    return first, math.sqrt(second - first**2)


def folded(mean: float, sd: float) -> tuple[float, float]:
    """Return mean and sd of |N(mean, sd)|."""
    first = sd * math.sqrt(2.0 / math.pi) * math.exp(-((mean / sd) ** 2) / 2.0)
    first += mean * float(erf(mean / (sd * math.sqrt(2.0))))
    return first, math.sqrt(mean**2 + sd**2 - first**2)


def folded_power(base: float, mean: float, sd: float) -> float:
    """Return E[base^-|N(mean, sd)|]."""
    rate, z = math.log(base), mean / sd
    both = [
        math.exp(sign * mean * rate + (sd * rate) ** 2 / 2.0) * float(ndtr(-sign * z - sd * rate))
        for sign in (-1.0, 1.0)
    ]
    return sum(both)


# PCM statistics: g / g_max; programming sigma in % of g_max; nu mean and sd; relative read sigma at
# 1 s, 1 h, 1 d, 1 y; mean drift factor at 1 h, 1 d, 1 y.
GOLDEN = [
    (0.00, 1.05, 0.100, 0.044, (0.838, 0.953, 1.017, 1.127), (0.609, 0.461, 0.289)),
    (0.05, 1.44, 0.071, 0.031, (0.258, 0.294, 0.314, 0.348), (0.700, 0.570, 0.399)),
    (0.10, 1.79, 0.060, 0.023, (0.165, 0.187, 0.200, 0.222), (0.737, 0.615, 0.447)),
    (0.25, 2.73, 0.049, 0.011, (0.091, 0.103, 0.110, 0.122), (0.776, 0.667, 0.504)),
    (0.50, 3.81, 0.049, 0.008, (0.058, 0.066, 0.070, 0.078), (0.776, 0.665, 0.500)),
    (0.75, 4.31, 0.049, 0.008, (0.044, 0.051, 0.054, 0.060), (0.776, 0.665, 0.500)),
    (1.00, 4.22, 0.049, 0.008, (0.037, 0.042, 0.045, 0.050), (0.776, 0.665, 0.500)),
]
golden = pytest.mark.parametrize(
    ("x", "sigma", "mean", "sd", "reads", "factors"), GOLDEN, ids=[str(row[0]) for row in GOLDEN]
)
HALF = 0.5001  # half of the table's last digit


def scalar(values: Tensor) -> float:
    return float(values.double())


class TestGolden:
    """The table, by closed form to its last digit and by sampling."""

    @golden
    def test_closed_form(
        self, x: float, sigma: float, mean: float, sd: float, reads: Any, factors: Any
    ) -> None:
        g = torch.tensor(x * 25.0, dtype=torch.float64)
        assert scalar(physics.sigma_prog_us(g, PCM)) / 0.25 == pytest.approx(sigma, abs=HALF / 100)
        centre, spread = scalar(nu_mean(g, PCM)), scalar(nu_sd(g, PCM))
        assert folded(centre, spread) == pytest.approx((mean, sd), abs=HALF / 1000)
        got = [scalar(physics.read_sigma(g, t, PCM)) for t in TIMES.values()]
        assert got == pytest.approx(reads, abs=HALF / 1000)
        late = [folded_power((t + 20.0) / 20.0, centre, spread) for t in (3600.0, DAY, YEAR)]
        assert late == pytest.approx(factors, abs=HALF / 1000)

    @golden
    def test_sampled(
        self, x: float, sigma: float, mean: float, sd: float, reads: Any, factors: Any
    ) -> None:
        """Samples have the exact moments, which `test_closed_form` holds to the table."""
        count = 250_000
        g = torch.tensor(x * 25.0)
        exact = torch.tensor(x * 25.0, dtype=torch.float64)
        first, spread = rectified(x * 25.0, scalar(physics.sigma_prog_us(exact, PCM)))
        programmed = physics.programmed(g, PCM, torch.randn(count))
        stats.assert_mean(programmed, first, "programmed mean")
        stats.assert_sd(programmed, spread, "programmed sd")
        centre, width = scalar(nu_mean(exact, PCM)), scalar(nu_sd(exact, PCM))
        nu = physics.drift_exponent(g, PCM, torch.randn(count))
        first, spread = folded(centre, width)
        stats.assert_mean(nu, first, "nu mean")
        stats.assert_sd(nu, spread, "nu sd")
        for t_s in (3600.0, DAY, YEAR):
            drifted = physics.drifted(torch.ones(count), nu, t_s, PCM)
            expected = folded_power((t_s + 20.0) / 20.0, centre, width)
            stats.assert_mean(drifted, expected, f"drift factor at {t_s}")
        # The read conductance is 1 uS; the noise is that of this cell's programmed conductance.
        for t_s in TIMES.values():
            relative = scalar(physics.read_sigma(exact, t_s, PCM))
            first, spread = rectified(1.0, relative)
            read = physics.read(torch.ones(()), g, t_s, PCM, torch.randn(count))
            stats.assert_mean(read, first, f"read mean at {t_s}")
            stats.assert_sd(read, spread, f"read sd at {t_s}")


def test_formulas_between_the_points_of_the_table() -> None:
    """A second version of the laws agrees.

    It is evaluated between and beyond the table's points.
    """
    g = torch.linspace(0.0, 30.0, 601, dtype=torch.float64)  # A programmed cell may exceed g_max.
    x = g / 25.0
    log = x.clamp_min(1e-7).log()
    close = {"rtol": 1e-12, "atol": 0.0}
    sigma = 0.26348 + 1.9650 * x - 1.1731 * x**2
    torch.testing.assert_close(physics.sigma_prog_us(g, PCM), sigma, **close)
    torch.testing.assert_close(nu_mean(g, PCM), (-0.0155 * log + 0.0244).clamp(0.049, 0.1), **close)
    torch.testing.assert_close(nu_sd(g, PCM), (-0.0125 * log - 0.0059).clamp(0.008, 0.045), **close)
    q = (0.0088 / (x**0.65).clamp_min(1e-3)).clamp_max(0.2)
    torch.testing.assert_close(read_coefficient(g, PCM), q, **close)
    for t_s in (0.0, *TIMES.values()):
        growth = math.sqrt(math.log((t_s + 20.0 + 250e-9) / (2 * 250e-9)))
        assert time_factor(t_s, PCM) == pytest.approx(growth, rel=1e-12)
        torch.testing.assert_close(physics.read_sigma(g, t_s, PCM), q * growth, **close)
        assert age(t_s, PCM) == (t_s + 20.0) / 20.0
    nu = torch.full_like(g, 0.07)
    factor = ((3600.0 + 20.0) / 20.0) ** -0.07
    torch.testing.assert_close(physics.drifted(g, nu, 3600.0, PCM), g * factor, **close)


def test_one_second_is_already_a_drift() -> None:
    """The law has t + t0, not t."""
    g = torch.ones((), dtype=torch.float64)
    assert scalar(physics.drifted(g, g * 0.05, 1.0, PCM)) == pytest.approx((21 / 20) ** -0.05)


# --- drift compensation ---------------------------------------------------------------------------


class TestCompensation:
    grid = TileGrid((3, 2), (4, 3))
    weight = torch.linspace(-1.0, 1.0, 35, dtype=torch.float64).reshape(7, 5)

    @pytest.mark.parametrize("kind", ["global", "global_exact_reference", "per_column"])
    def test_readout(self, kind: str) -> None:
        spec = rasch2023.change(drift_compensation=kind, why="test").compensation
        outputs = torch.randn(2, 7, 5, dtype=torch.float64)
        outputs[:, 4] = 0.0
        got = compensation.readout(outputs, self.grid, spec)
        assert got.shape == (2, 2, 7)
        for chip in range(2):
            for row, rows in enumerate((slice(0, 3), slice(3, 5))):
                for column, columns in enumerate((slice(0, 4), slice(4, 7))):
                    tile = outputs[chip, columns, rows].abs()
                    by_column = tile.mean(1) if kind == "per_column" else tile.mean()
                    expected = by_column.clamp_min(1e-4).expand(tile.shape[0])
                    torch.testing.assert_close(got[chip, row, columns], expected)
                    assert column in (0, 1)

    def test_readout_has_a_floor(self) -> None:
        for kind in ("global", "per_column"):
            spec = rasch2023.change(drift_compensation=kind, why="test").compensation
            got = compensation.readout(torch.zeros(7, 5), self.grid, spec)
            assert torch.equal(got, torch.full((2, 7), 1e-4))

    def test_oracle_of_the_scalar_device_is_exact(self) -> None:
        """The layer times the oracle's factor is the layer as programmed."""
        grid = TileGrid((5,), (7,))
        weight = (self.weight * 127).round() / 127
        zeros = torch.zeros_like(weight)
        cells = cell_law.program_cells(weight, grid, scalar_drift.pcm, zeros, zeros)
        for t_s in (0.0, 1.0, 3600.0, YEAR):
            now = cell_law.read_cells(cells, grid, scalar_drift.pcm, t_s, zeros)
            alpha = compensation.oracle(weight, grid, scalar_drift.pcm, t_s)
            assert alpha.shape == (1, 7)
            assert alpha[0, 0].item() == pytest.approx(max(t_s, 1.0) ** 0.06, rel=1e-12)
            torch.testing.assert_close(now * alpha.T, weight, rtol=1e-9, atol=1e-12)

    @every_statistical
    def test_oracle_is_the_inverse_of_the_mean_drift(self, preset: Preset) -> None:
        pcm = preset.pcm
        got = compensation.oracle(self.weight, self.grid, pcm, YEAR)
        base = (YEAR + pcm.t0_s) / pcm.t0_s
        for row, rows in enumerate((slice(0, 3), slice(3, 5))):
            for columns in (slice(0, 4), slice(4, 7)):
                size = self.weight[columns, rows].abs()
                nu = nu_mean(size / size.max() * pcm.g_max_us, pcm)
                expected = size.sum() / (size * base**-nu).sum()
                torch.testing.assert_close(
                    got[row, columns], expected.expand(len(got[row, columns]))
                )

    def test_oracle_knows_the_drift_scale_and_empty_tiles(self) -> None:
        still = rasch2023.change(drift_scale=0.0, why="test").pcm
        for pcm, weight in ((still, self.weight), (ideal.pcm, self.weight), (PCM, self.weight * 0)):
            got = compensation.oracle(weight, self.grid, pcm, YEAR)
            torch.testing.assert_close(got, torch.ones(2, 7, dtype=torch.float64))
