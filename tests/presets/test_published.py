"""The other published devices: their laws against aihwkit's own classes and published formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from aihwkit.inference import BaseNoiseModel
from aihwkit.inference.noise.custom import StateIndependentNoiseModel
from aihwkit.inference.noise.hermes import HermesNoiseModel
from aihwkit.inference.noise.reram import ReRamCMONoiseModel, ReRamWan2022NoiseModel
from torch import Tensor, nn

from aimc_bridge import HWATraining, calibrate, convert, devices, drift, physics, program
from aimc_bridge.engines.aihwkit.builtin import cell_model, own_model
from aimc_bridge.engines.aihwkit.noise import LawNoiseModel
from aimc_bridge.equivalence import device, device_laws, device_level
from aimc_bridge.equivalence.report import Findings, Report
from aimc_bridge.errors import SpecError, UsageError
from aimc_bridge.physics.injection import injected
from aimc_bridge.spec import Preset, StatisticalSpec
from aimc_bridge.times import seconds
from presets import (
    hermes_single,
    pcm_afm,
    pcm_state_independent,
    rasch2023,
    reram_cmo,
    reram_wan2022,
)
from tests import stats
from tests.models import DEVICES, ENGINES, only, random
from tests.stats import FALSE_ALARM

PUBLISHED = [hermes_single, pcm_state_independent, reram_wan2022, reram_cmo, pcm_afm]
DAY, YEAR = 86400.0, 31536000.0
GRID = torch.linspace(0.0, 1.0, 401)
BREAKS = torch.tensor([0.0945, 0.3039, 0.1591])


def answered(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Make aihwkit's models draw `value` instead of N(0, 1): their laws become functions."""
    for module in ("hermes", "custom", "reram"):
        name = f"aihwkit.inference.noise.{module}.randn_like"
        monkeypatch.setattr(name, lambda like: torch.full_like(like, value))


def behind_ideal_periphery(preset: Preset) -> Preset:
    """Return the preset with exact products, so that outputs are those of the weights."""
    periphery = DEVICES.crossbar.values()
    return preset.change(**periphery, drift_compensation="none", why="the weights alone, in tests")


@pytest.mark.parametrize("preset", PUBLISHED, ids=str)
def test_they_stand_behind_the_papers_periphery(preset: Preset) -> None:
    assert preset.crossbar == rasch2023.crossbar
    assert preset.compensation == rasch2023.compensation
    assert devices.get(preset.name) == preset.pcm and preset.name in devices.names()
    own = rasch2023.with_device(preset.name, name="own", why="test")
    assert own.pcm == preset.pcm and f"with the device {preset.name}" in own.description
    for name, recipe in preset.training.items():
        same = recipe.change(why="test", noise_type="pcm").values()
        assert same == rasch2023.training[name].values()


# --- PCM with exponents ---

STATISTICAL: dict[Preset, BaseNoiseModel] = {
    hermes_single: lambda **scales: HermesNoiseModel(num_devices=1, **scales),
    pcm_state_independent: StateIndependentNoiseModel,
}


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # in aihwkit's Hermes model
@pytest.mark.parametrize("preset", STATISTICAL, ids=str)
class TestExponents:
    """The same draw gives the same number as aihwkit's class, on a grid of targets."""

    def test_constants(self, preset: Preset) -> None:
        pcm, model = preset.pcm, STATISTICAL[preset]()
        assert isinstance(pcm, StatisticalSpec)
        assert (pcm.g_max_us, pcm.t0_s, pcm.t_read_s) == (model.g_max, model.t_0, model.t_read)
        assert list(pcm.prog_coeff_us) == model.prog_coeff
        assert type(preset.rpu_config().noise_model) is type(model)
        assert vars(own_model(pcm).g_converter) == vars(model.g_converter)

    @pytest.mark.parametrize("draw", [0.0, 1.0, -3.0])
    @pytest.mark.parametrize(
        "scales",
        [{}, {"prog_noise_scale": 2.0}, {"read_noise_scale": 0.5}, {"drift_scale": 3.0}],
        ids=str,
    )
    def test_laws(
        self, preset: Preset, draw: float, scales: dict[str, float], monkeypatch: Any
    ) -> None:
        answered(monkeypatch, draw)
        pcm = preset.change(**scales, why="test").pcm if scales else preset.pcm
        model = STATISTICAL[preset](**scales)
        x = GRID[((GRID[:, None] - BREAKS).abs() > 1e-6).all(1)]
        target, eps = x * pcm.g_max_us, torch.full_like(x, draw)
        theirs = model.apply_programming_noise_to_conductance(target)
        ours = physics.programmed(target, pcm, eps)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        nu = physics.drift_exponent(target, pcm, eps)
        theirs = model.generate_drift_coefficients(target)
        torch.testing.assert_close(nu, theirs, rtol=1e-5, atol=1e-7)
        for t_s in (0.0, 1.0, DAY, YEAR):
            theirs = model.apply_drift_noise_to_conductance(target, nu, t_s)
            now = physics.drifted(target, nu, t_s, pcm)
            ours = physics.read(now, target, t_s, pcm, eps)
            torch.testing.assert_close(ours, theirs, rtol=3e-5, atol=1e-6)


# --- ReRAM ---


@pytest.mark.parametrize("draw", [0.0, 1.0, -3.0])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_wan_is_aihwkits(draw: float, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch, draw)
    pcm = (
        reram_wan2022.change(noise_scale=scale, why="test").pcm if scale < 1 else reram_wan2022.pcm
    )
    model = ReRamWan2022NoiseModel(g_max=40.0, noise_scale=scale)
    target, eps = GRID * pcm.g_max_us, torch.full_like(GRID, draw)
    theirs = model.apply_programming_noise_to_conductance(target)
    torch.testing.assert_close(physics.programmed(target, pcm, eps), theirs, rtol=1e-5, atol=1e-5)
    nu = physics.drift_exponent(target, pcm, eps)
    assert torch.equal(nu, model.generate_drift_coefficients(target))
    for t_s in model.coeff_dic:
        theirs = model.apply_drift_noise_to_conductance(17.0 * eps, nu, t_s)
        ours = physics.reading.read_after_drift(17.0 * eps, nu, t_s, pcm, eps)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert tuple(model.coeff_dic) == pcm.times_s  # type: ignore[attr-defined]


@pytest.mark.parametrize("engine", ENGINES)
def test_wan_is_known_at_three_times_only(engine: str) -> None:
    """Another time is an error that lists them, and leaves the chip as it is."""
    analog = convert(nn.Linear(12, 7), behind_ideal_periphery(reram_wan2022), engine=engine).eval()
    program(analog, 1)
    x = random(5, 12)
    for t_s in ("1s", "1d", "2d"):
        drift(analog, t_s)
    before = analog(x)
    for t_s in (0.0, 20.0, 3600.0, YEAR):
        with pytest.raises(UsageError, match="measured at 1, 86400, 172800 s after programming"):
            drift(analog, t_s)
        assert torch.equal(analog(x), before)
    with pytest.raises(SpecError, match="each device is read around its own target"):
        reram_wan2022.change(netting=True, why="test")


def test_wan_is_drawn_anew_around_its_targets() -> None:
    """The deviations of a chip at two times have nothing in common; the scale stays."""
    analog = convert(nn.Linear(200, 400, bias=False), behind_ideal_periphery(reram_wan2022))
    matrix = only(analog)
    clean = matrix.effective_weight().clone()
    scale = matrix.grid.expand_columns(matrix.column_scale())
    program(analog.eval(), 5)
    deviations = []
    for t_s in (1.0, DAY):
        drift(analog, t_s)
        deviations.append(((matrix.effective_weight() - clean) / scale).flatten())
    correlation = np.corrcoef(*(d.numpy() for d in deviations))[0, 1]
    assert abs(correlation) < 6 / len(deviations[0]) ** 0.5
    large = (clean / scale).flatten().abs() > 0.9
    expected = reram_wan2022.pcm.deviation_us[0]  # type: ignore[attr-defined]
    small = deviations[0][~large].std()
    assert small > expected / 40.0  # at a target of 0 the deviation is smallest


@pytest.mark.parametrize("acceptance", [0.2, 2])
@pytest.mark.parametrize("draw", [0.0, 1.0, -2.0])
def test_cmo_is_aihwkits(draw: float, acceptance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programming, relaxation and the noise of a reading, one at a time: the same numbers."""
    answered(monkeypatch, draw)
    ranges = {0.2: (0.00081107, 0.00106879), 2: (0.0112185391, 0.01129027418)}
    preset = reram_cmo.change(prog_coeff_us=ranges[acceptance], why="the other acceptance range")
    pcm = preset.pcm
    middle = pcm.reference_us  # type: ignore[attr-defined]
    assert middle == pytest.approx((88.199997 + 9.0) / 2)
    target, eps = (2 * GRID - 1) * pcm.full_scale_us, torch.full_like(GRID, draw)
    model = ReRamCMONoiseModel(acceptance_range=acceptance)
    theirs = model.apply_programming_noise_to_conductance(target + middle) - middle
    torch.testing.assert_close(physics.programmed(target, pcm, eps), theirs, rtol=1e-5, atol=1e-5)
    for off in ("read_noise_scale", "drift_scale"):
        model = ReRamCMONoiseModel(acceptance_range=acceptance, **{off: 0.0})
        quiet = preset.change(**{off: 0.0}, why="test").pcm
        for t_s in (0.0, 0.01, 1.0, DAY, YEAR):
            theirs = model.apply_drift_noise_to_conductance(target + middle, None, t_s) - middle
            ours = physics.reading.read_after_drift(target, 0 * target, t_s, quiet, eps)
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)
    assert cell_model(pcm).acceptance_range == acceptance


def test_cmo_has_one_device_per_weight() -> None:
    """Weights relax by the same offset; those of the largest size cannot leave the range."""
    preset = behind_ideal_periphery(reram_cmo)
    analog = convert(nn.Linear(400, 1200, bias=False), preset).eval()
    matrix = only(analog)
    scale = matrix.grid.expand_columns(matrix.column_scale())
    clean = matrix.effective_weight() / scale
    program(analog, 2)
    drift(analog, DAY)
    now = matrix.effective_weight() / scale
    pcm = preset.pcm
    unit = (88.199997 - 9.0) / 2
    assert pcm.full_scale_us == pytest.approx(unit)
    assert float(now.abs().max()) <= 1.0 + 1e-6
    inner = clean.abs() < 0.8
    change = (now - clean)[inner] * unit
    offset = -0.08900206 * np.log(DAY)
    stats.assert_mean(change, float(offset))
    assert not pcm.pairs
    with pytest.raises(UsageError, match="allowed: 0, or 1e-06 s and more"):
        drift(analog, 1e-7)


# --- the device level of the cross-check ---

CERTIFIED = {
    "hermes_single": (0.5, "1h"),
    "pcm_state_independent": (0.5, "1h"),
    "reram_wan2022": (0.5, "2d"),
    "reram_cmo": (0.5, "1y"),
    "pcm_afm": (0.5, "1h"),
}
SAMPLES = 120_000  # decides standard deviations with their margin of 2 %
MOMENTS = {"programmed mean", "programmed sd", "read mean", "read sd"}


def decided(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that must be equivalent if nothing differs (the seeds are fixed)."""
    assert table["p_different"].min() > FALSE_ALARM
    return table[table["power"] >= 0.99]


@pytest.mark.parametrize("preset", PUBLISHED, ids=str)
def test_native_agrees_at_device_level(preset: Preset) -> None:
    """Nothing is different, and what has enough power is equivalent."""
    x, time = CERTIFIED[preset.name]
    table = device_level(preset, (time,), (x,), samples=SAMPLES, seed=3).table
    reference = "closed form" if preset is pcm_afm else "aihwkit"
    assert set(table["reference"]) == {reference}
    rows = decided(table)
    assert set(rows["verdict"]) == {"equivalent"} and MOMENTS - set(rows["quantity"]) == set()
    assert ("read weight of two devices mean" in set(table["quantity"])) == preset.pcm.pairs
    assert ("read weight mean" in set(table["quantity"])) == (preset is not reram_wan2022)


def single_devices(preset: Preset, first: device_laws.Laws) -> pd.DataFrame:
    """Compare devices of some laws with the reference of the cross-check."""
    x, time = CERTIFIED[preset.name]
    at, scale = (seconds(time),), preset.pcm.full_scale_us
    readings = not isinstance(preset.pcm, StatisticalSpec)
    second, reference = device_laws.reference_laws(preset, 5)
    sides = [device.devices(laws, x, at, SAMPLES, scale, readings) for laws in (first, second)]
    part = Findings()
    device.compare(part, sides[0], sides[1], reference)
    return Report.of([part]).table


@pytest.mark.parametrize("preset", [reram_wan2022, reram_cmo, pcm_afm], ids=str)
def test_noise_five_percent_off_is_different(
    preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verdicts() -> dict[str, str]:
        table = single_devices(preset, device_laws.Native(preset, True, 3))
        return dict(zip(table["quantity"], table["verdict"], strict=True))

    assert verdicts()["read sd"] == "equivalent"
    draw = device_laws.Native._eps
    monkeypatch.setattr(device_laws.Native, "_eps", lambda self, *shape: 1.05 * draw(self, *shape))
    assert verdicts()["read sd"] == verdicts()["programmed sd"] == "different"


@pytest.mark.parametrize(
    "preset", [hermes_single, pcm_state_independent, reram_wan2022, reram_cmo], ids=str
)
def test_the_closed_form_is_aihwkits_too(preset: Preset) -> None:
    table = single_devices(preset, device_laws.Closed(preset, 5))
    assert set(table["reference"]) == {"aihwkit"}
    rows = decided(table)
    assert set(rows["verdict"]) == {"equivalent"} and MOMENTS - set(rows["quantity"]) == set()


def test_one_gaussian_of_cmo_spreads_as_aihwkits_two() -> None:
    """Gauss-Hermite quadrature over the first draw, on which the size of the second depends."""
    pcm, nodes = reram_cmo.pcm, np.polynomial.hermite_e.hermegauss(40)
    share = nodes[1] / nodes[1].sum()
    model = ReRamCMONoiseModel(acceptance_range=0.2)
    g = torch.linspace(9.0, 88.199997, 200, dtype=torch.float64)
    worst = 0.0
    for t_s in (1e-6, 1.0, 3600.0, DAY, YEAR, 10 * YEAR):
        log_t = np.log(t_s)
        relaxation = abs(model.decay_dict["std"][0] * log_t + model.decay_dict["std"][1])
        g_drift = g[:, None].numpy() + model.decay_dict["mean"][0] * log_t + relaxation * nodes[0]
        t_read = model.read_dict["t_read"]
        growth = np.sqrt(np.log((t_s + t_read) / (2 * t_read)))
        noise = model.read_dict["K"] * np.log10(np.maximum(g_drift, 1.0)) * growth
        theirs = np.sqrt(relaxation**2 + (noise**2 * share).sum(1))
        offset = g - (9.0 + 88.199997) / 2
        ours = physics.read_sigma(offset, t_s, pcm) * g
        worst = max(worst, float(np.abs(ours.numpy() / theirs - 1).max()))
    assert worst < 5e-5


# --- PCM of analog foundation models ---


def monte_carlo(weight: Tensor, chips: int) -> Tensor:
    """Return noisy weights as the published code makes them, in float32.

    Each column (output) of the tile is scaled to g_max = 180; no more is shared with the library.
    """
    draws = np.random.default_rng(7)
    unit = np.abs(weight.numpy()).max(1, keepdims=True) / np.float32(180.0)
    w = weight.numpy() / unit
    size = np.abs(w)
    one = 2.939751381126213e-05 * size**3 - 0.00371581208142707 * size**2
    one += 0.22419685954327148 * size + 2.5797410660159494
    two = 1.2329755395573392e-05 * size**3 - 0.003054993405157235 * size**2
    two += 0.2453487119885723 * size + 2.110295720240385
    sigma = np.where(size > 52.5, two, one)
    eps = draws.standard_normal((chips, *w.shape), dtype=np.float32)
    noisy = np.where(size >= 0.6, w + sigma * eps, 0.0)
    return torch.from_numpy((noisy * unit).astype(np.float32))


@pytest.mark.parametrize("engine", ENGINES)
def test_afm_is_the_published_formula(engine: str) -> None:
    """Chips agree with the Monte Carlo, by the size of the weight; small weights are exactly 0."""
    sizes = torch.tensor([0.0, 0.0032, 0.0035, 0.05, 0.28, 0.30, 0.7, 1.0])
    row = torch.cat([sizes, -sizes]).repeat_interleave(400)
    weight = torch.stack([row, 0.1 * row, 3.0 * row])  # each output has a largest weight of its own
    layer = nn.Linear(len(row), 3, bias=False)
    layer.weight.data = weight.clone()
    preset = behind_ideal_periphery(pcm_afm).change(max_rows=None, why="one tile, in tests")
    analog = convert(layer, preset, engine=engine).eval()
    ours = []
    for chip in range(100):
        program(analog, chip)
        ours.append(only(analog).effective_weight().clone())
    start = ours[-1]
    drift(analog, YEAR)
    torch.testing.assert_close(only(analog).effective_weight(), start)  # no drift, no read noise
    largest = weight.abs().amax(1)
    got = torch.stack(ours) / largest[:, None]
    expected = monte_carlo(weight, 150) / largest[:, None]
    for x in sizes:
        for sign in (1.0, -1.0):
            here = row == sign * x
            a, b = got[..., here], expected[..., here]
            if x < 0.6 / 180:
                assert not a.any() and not b.any()
                continue
            if x >= 0.28:
                stats.assert_same_mean(a, b, f"mean of {sign * x:g}")
            stats.assert_same_sd(a, b, f"sd of {sign * x:g}")


# --- training ---


def test_training_injects_what_a_device_has() -> None:
    kinds = {p.name: HWATraining.for_(p).spec for p in PUBLISHED}
    assert {name: (spec.noise_type, spec.noise_t_s) for name, spec in kinds.items()} == {
        "hermes_single": ("pcm", 200.0),
        "pcm_state_independent": ("pcm", 20.0),
        "reram_wan2022": ("programming", 1.0),
        "reram_cmo": ("pcm", 1.0),
        "pcm_afm": ("programming", 1.0),
    }
    for preset in PUBLISHED:
        noise = {recipe.noise_type for recipe in preset.training.values()}
        programming = preset in (reram_wan2022, pcm_afm)
        assert noise == {"programming" if programming else "pcm"}


def spread(preset: Preset, weight: float, **recipe: Any) -> float:
    """Return the standard deviation of injected weights, in microsiemens."""
    spec = preset.training["wrn16"].change(why="test", **recipe)
    count = 100_000
    noisy = injected(
        torch.full((count,), weight),
        1.0,
        preset.pcm,
        spec,
        1.0,
        random(count, seed=1),
        random(count, seed=2),
    )
    return float(noisy.std()) * preset.pcm.full_scale_us


def test_injected_noise_is_that_of_the_device() -> None:
    """Sizes of the noise, by the published formulas."""
    near = {"rel": 0.02}
    growth = np.sqrt(np.log((20.0 + 250e-9) / 500e-9))
    expected = np.hypot(0.2, 0.5 * 1.0 * growth)
    assert spread(pcm_state_independent, 0.5) == pytest.approx(expected, **near)
    first = np.polyval((-16.815, 45.393, -43.853, 16.030, 0.348), 0.8)
    assert spread(reram_wan2022, 0.8) == pytest.approx(first, **near)
    later = np.polyval((-16.458, 47.095, -50.773, 22.086, 0.701), 0.8)
    at_day = {"noise_type": "pcm", "noise_t_s": DAY}
    assert spread(reram_wan2022, 0.8, **at_day) == pytest.approx(later, **near)
    with pytest.raises(UsageError, match="measured at 1, 86400, 172800 s"):
        spread(reram_wan2022, 0.8, noise_type="pcm")
    for weight in (0.5, -0.5):  # the conductance, and with it the noise, differs
        g = 48.6 + 39.6 * weight
        programming = 0.00081107 + 0.00106879 * g
        only_that = spread(reram_cmo, weight, noise_type="programming")
        assert only_that == pytest.approx(programming, **near)
        relaxed = 0.04201137 * np.log(20.0) + 0.41183342
        read = 0.0277316483 * np.log10(g) * np.sqrt(np.log(20.0 / 2e-6))
        whole = np.sqrt(programming**2 + relaxed**2 + read**2)
        assert spread(reram_cmo, weight) == pytest.approx(whole, **near)
    w = 0.25 * 180
    one = np.polyval(
        (2.939751381126213e-05, -0.00371581208142707, 0.22419685954327148, 2.5797410660159494), w
    )
    assert spread(pcm_afm, -0.25) == pytest.approx(one, **near)


# --- on aihwkit's tiles ---


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("preset", PUBLISHED, ids=str)
def test_they_run_on_both_engines(preset: Preset, engine: str) -> None:
    """The same seed gives the same chip; ReRAM and signed cells run by our laws on aihwkit."""
    analog = convert(nn.Linear(12, 7), preset, engine=engine).eval()
    calibrate(analog, [random(8, 12)])
    weights = []
    for seed in (1, 2, 1):
        program(analog, seed)
        drift(analog, "1d")
        weights.append(only(analog).effective_weight().clone())
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])
    ours = type(preset.rpu_config().noise_model) is LawNoiseModel
    assert ours == (not isinstance(preset.pcm, StatisticalSpec))


@pytest.mark.parametrize(
    ("field", "wrong", "smallest"),
    [
        ("g_min_us", 0.99, 1.0),
        ("prog_coeff_us", (-0.1, 0.0), (0.0, 0.0)),
        ("decay_sd_us", (0.0, -0.1), (0.0, 0.0)),
        ("read_us", -0.1, 0.0),
        ("t_read_s", 0.0, 1e-9),
        ("prog_noise_scale", -0.1, 0.0),
        ("read_noise_scale", -0.1, 0.0),
        ("drift_scale", -0.1, 0.0),
    ],
)
def test_the_numbers_of_a_reram_reach_their_bounds_and_no_further(
    field: str, wrong: object, smallest: object
) -> None:
    with pytest.raises(SpecError, match=rf"{field} = .*allowed"):
        reram_cmo.change(why="beyond", **{field: wrong})
    at_bound = reram_cmo.change(why="at the bound", **{field: smallest})
    assert at_bound.pcm.values()[field] == smallest


def test_the_programming_noise_of_a_reram_is_judged_at_both_ends() -> None:
    """The line falls: negative at g_max alone, and nowhere."""
    pcm = reram_cmo.pcm
    slope = -1.0 / pcm.g_max_us
    with pytest.raises(SpecError, match="not negative on"):
        reram_cmo.change(why="negative at g_max", prog_coeff_us=(0.99, slope))
    reram_cmo.change(why="positive everywhere", prog_coeff_us=(1.01, slope))
