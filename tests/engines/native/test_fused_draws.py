"""Draws of compiled passes: closed forms and independence."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn

from aimc_bridge import convert, drift, program
from aimc_bridge.engines.native import compiled_chip, draws
from aimc_bridge.physics import mvm
from presets import rasch2023
from tests.engines.native.test_fused import correlated, needs_compiler
from tests.engines.native.test_fused_chip import HOUR, chip_of_passes
from tests.models import mlp, only
from tests.stats import FALSE_ALARM, assert_mean, assert_sd, quantile
from tests.test_chip import YEAR, strong


@pytest.fixture(scope="module")
def readings() -> dict[tuple[int, float], dict[str, Tensor]]:
    """Return z values, each N(0, 1), of two chips of one layer at an hour and a year.

    The weights have |w| in [1/2, 1].
    """
    analog = convert(strong(), rasch2023)
    clean = only(analog).clean_weight()
    x = clean.abs()
    leg = (0.26348 + 1.9650 * x - 1.1731 * x**2) / 25.0
    # The other leg has target 0 and keeps the positive half of its noise.
    zero = 0.26348 / 25.0
    mean, variance = zero / (2 * torch.pi) ** 0.5, zero**2 * (0.5 - 0.5 / torch.pi)
    scores = {}
    for seed in (0, 1):
        for t_s in (HOUR, YEAR):
            (got,) = chip_of_passes(analog, seed, t_s).values()
            error = (got["programmed"] - clean) * clean.sign()
            g = got["conductance_us"].abs()
            decayed = g * ((t_s + 20.0) / 20.0) ** -got["nu"] / got["us_per_unit"]
            sigma = (0.0088 / (g / 25.0) ** 0.65).clamp_max(0.2)
            sigma *= math.log((t_s + 20.0 + 250e-9) / 500e-9) ** 0.5
            scores[seed, t_s] = {
                "programmed": (error + mean) / (leg**2 + variance).sqrt(),
                "exponent": (got["nu"] - 0.049) / 0.008,
                "read": (got["held"].abs() / decayed - 1.0) / sigma,
                "held": got["held"],
                "before": got["programmed"],
                "alpha": got["compensation"],
            }
    return scores


@needs_compiler
@pytest.mark.parametrize("what", ["programmed", "exponent", "read"])
def test_every_law_has_its_mean_and_sd(
    readings: dict[tuple[int, float], dict[str, Tensor]], what: str
) -> None:
    for (seed, t_s), values in readings.items():
        assert_mean(1.0 + values[what], 1.0, f"{what}, seed {seed}, {t_s:g} s")
        assert_sd(values[what], 1.0, f"{what}, seed {seed}, {t_s:g} s")


@needs_compiler
def test_alpha_is_the_ratio_of_what_was_held(
    readings: dict[tuple[int, float], dict[str, Tensor]],
) -> None:
    """Alpha is the ratio of outputs without noise and ADC.

    Their noise makes a standard error of 2e-4.
    """
    spec = rasch2023.crossbar
    step = spec.out_bound / 127.0
    for (seed, t_s), values in readings.items():
        means, variance = [], 0.0
        for weight in (values["before"], values["held"]):
            grid = only(convert(strong(), rasch2023)).grid
            quiet = rasch2023.change(out_noise=0.0, w_noise=0.0, adc_bits=None, why="mean")
            y = mvm.identity_readout(
                weight,
                grid.row_position(weight),
                grid.row_count(weight),
                quiet.crossbar,
                torch.zeros_like(weight),
            ).abs()
            means.append(float(y.mean()))
            noise = spec.w_noise**2 * weight.abs() + spec.out_noise**2 + step**2 / 12.0
            variance += float(noise.mean()) / weight.numel() / means[-1] ** 2
        expected, got = means[0] / means[1], float(values["alpha"][0, 0])
        bound = quantile() * variance**0.5 * expected
        assert abs(got - expected) < bound, f"seed {seed}, {t_s:g} s"
        assert abs(1.02 * got - expected) > bound and abs(0.98 * got - expected) > bound


@needs_compiler
def test_everything_drawn_is_independent(
    readings: dict[tuple[int, float], dict[str, Tensor]],
) -> None:
    """Draws of two seeds and two times are independent.

    They are programming, exponents and readings, compared by values, sizes and squares.
    """
    first, later = readings[0, HOUR], readings[0, YEAR]
    assert torch.equal(first["programmed"], later["programmed"])  # Times share the chip.
    assert torch.equal(first["exponent"], later["exponent"])
    drawn_once = {
        f"{what}, seed {seed}, {t_s:g} s": values[what].flatten()
        for (seed, t_s), values in readings.items()
        for what in (("programmed", "exponent", "read") if t_s == HOUR else ("read",))
    }
    names = list(drawn_once)
    assert len(names) == 8
    for at, name in enumerate(names):
        for other in names[:at]:
            assert correlated(drawn_once[name], drawn_once[other]) < quantile(), (name, other)
    leaked = 0.98 * drawn_once[names[0]] + 0.02 * drawn_once[names[1]]
    assert correlated(leaked, drawn_once[names[1]]) > quantile()


@needs_compiler
def test_both_devices_of_a_pair_have_noise_of_their_own() -> None:
    """A weight of 0 is two targets of 0.

    One pair in four has both below 0, and stays 0.
    """
    layer = nn.Linear(500, 1000)
    with torch.no_grad():
        layer.weight.zero_()[0, 0] = 1.0
    analog = convert(layer, rasch2023)
    program(analog, 3, draw_on="compiled")
    count = int((only(analog).effective_weight() == 0.0).sum())
    low, high = binom.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], 499_999, 0.25)
    assert low <= count <= high
    assert not low <= 1.02 * count <= high and not low <= 0.98 * count <= high


@needs_compiler
def test_no_two_draws_have_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stream of layer, seed, time and purpose is used once.

    Their keys differ.
    """
    names_used: list[tuple[object, ...]] = []
    keys: list[tuple[int, ...]] = []
    inner = draws.key_of

    def key_of(device: torch.device, seed: int, *streams: tuple[object, ...]) -> Tensor:
        new_keys = inner(device, seed, *streams)
        names_used.extend((seed, *names) for names in streams)
        keys.extend(tuple(row) for row in new_keys.tolist())
        return new_keys

    monkeypatch.setattr(compiled_chip, "key_of", key_of)
    analog = convert(mlp(), rasch2023)
    for seed in (1, 2):
        program(analog, seed, draw_on="compiled")
        for t_s in (1.0, HOUR, YEAR):
            drift(analog, t_s)
    assert len(names_used) == 2 * 2 * (4 + 3 * 2)
    assert len(set(names_used)) == len(names_used) == len(set(keys))
    words = list(zip(*keys, strict=True))
    assert all(len(set(word)) == len(word) for word in words)
