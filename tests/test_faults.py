"""Faults: stuck devices, dead rows and columns, on every device and both engines.

Counts are held against the exact binomial law at a false-alarm rate of 1e-6. Each test also shows
its power: the same count fails for a rate that is 10 % off.
"""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import presets
from aimc_bridge import (
    HWATraining,
    convert,
    devices,
    drift,
    load_chip,
    physics,
    program,
    save_chip,
    train,
)
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.base import Matrix
from aimc_bridge.engines.native import draws, kernels
from aimc_bridge.errors import CapabilityError, SpecError
from aimc_bridge.physics import faults
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.spec import Preset
from aimc_bridge.training.weights import noisy_weight
from presets import hermes, ideal, rasch2023, scalar_drift
from tests.models import ENGINES
from tests.stats import FALSE_ALARM

CSV = Path(__file__).parent.parent / "examples" / "pcm_table.csv"
TILES = {"max_rows": 40, "max_columns": 30}
SOME = devices.Faults(stuck_at_gmax=0.1, stuck_at_zero=0.15, dead_rows=0.05, dead_columns=0.05)
PERFECT = {"prog_noise_scale": 0.0, "read_noise_scale": 0.0, "drift_scale": 0.0}


class Relaxing:
    """A user's device: noise at programming and at reading, and drift."""

    def program(self, weights: Tensor, generator: torch.Generator) -> Tensor:
        return weights + 0.02 * torch.randn(weights.shape, generator=generator)

    def read(self, state: Tensor, t_inference: float, generator: torch.Generator) -> Tensor:
        noise = 0.01 * torch.randn(state.shape, generator=generator)
        return state * (1 + t_inference) ** -0.05 + noise


TABLE = rasch2023.with_device(
    devices.TableDevice.from_csv(CSV, g_max_us=25.0, source="sampled"), name="table", why="test"
)
DEVICES: dict[str, Preset] = {
    "pcm": rasch2023,
    "two devices": rasch2023.change(netting=False, why="test"),
    "hermes": hermes,
    "scalar": scalar_drift,
    "ideal": ideal,
    "table": TABLE,
    "own": rasch2023.with_device(Relaxing(), name="own", why="test"),
}


def layer(preset: Preset, engine: str = "native", **change: Any) -> tuple[nn.Module, Matrix]:
    """Return a converted 50 x 60 layer, on 2 x 2 tiles if the preset splits, and its matrix."""
    torch.manual_seed(3)
    values = {**TILES, **change}
    if preset.crossbar.weight_scaling == "layer" and engine == "aihwkit":
        values = change
    if values:
        preset = preset.change(why="test", **values)
    analog = convert(nn.Sequential(nn.Linear(60, 50, bias=False)), preset, engine=engine).eval()
    return analog, matrices_of(analog)["0"]


def normalised(matrix: Matrix) -> Tensor:
    return matrix.effective_weight() / matrix.grid.expand_columns(matrix.column_scale())


def map_of(matrix: Matrix, seed: int) -> faults.FaultMap:
    return faults.draw(matrix.grid, matrix.preset.pcm, faults.generators(seed, matrix.name))


def largest(matrix: Matrix) -> Tensor:
    grid = matrix.grid
    return grid.expand_columns(grid.expand_tiles(grid.tile_amax(matrix.normalised_weight())))


def closed(matrix: Matrix, seed: int) -> Tensor:
    """Return the normalised weights of a chip whose working devices are perfect."""
    weight, (broken, at) = matrix.normalised_weight(), map_of(matrix, seed)
    stuck = at * largest(matrix)
    if broken.ndim == 2:
        return torch.where(broken, stuck, weight)
    plus = torch.where(broken[0], stuck[0], weight.clamp_min(0))
    return plus - torch.where(broken[1], stuck[1], (-weight).clamp_min(0))


# --- how often -----------------------------------------------------------------------------------


def assert_rate(count: int, trials: int, rate: float) -> None:
    """Assert a binomial rate, and that the count is not that of a rate 10 % off."""
    assert stats.binomtest(count, trials, rate).pvalue > FALSE_ALARM
    for off in (0.9, 1.1):
        assert stats.binomtest(count, trials, off * rate).pvalue < FALSE_ALARM


def one_tile(pcm: Any, seed: int, outs: int = 700, ins: int = 800) -> faults.FaultMap:
    return faults.draw(TileGrid((ins,), (outs,)), pcm, faults.generators(seed, "layer"))


@pytest.mark.parametrize("name", ["pcm", "scalar"])
def test_stuck_devices_are_binomial(name: str) -> None:
    rates = devices.Faults(stuck_at_gmax=0.02, stuck_at_zero=0.05)
    pcm = DEVICES[name].change(faults=rates, why="test").pcm
    broken, at = one_tile(pcm, 1)
    n = broken.numel()
    assert n == (1_120_000 if pcm.pairs else 560_000)
    assert_rate(int((at != 0).sum()), n, 0.02)
    assert_rate(int((broken & (at == 0)).sum()), n, 0.05)
    assert not at[~broken].any()
    if pcm.pairs:  # a conductance has no sign
        assert bool((at >= 0).all())
    else:
        assert_rate(int((at == 1).sum()), n, 0.01)


def test_dead_rows_and_columns_are_binomial_in_every_tile() -> None:
    rates = devices.Faults(dead_rows=0.1, dead_columns=0.2)
    pcm = rasch2023.change(faults=rates, why="test").pcm
    grid = TileGrid((64, 63), (32, 32, 31))
    rows = columns = 0
    for seed in range(400):
        broken, at = faults.draw(grid, pcm, faults.generators(seed, "layer"))
        assert torch.equal(broken[0], broken[1]) and not at.any()
        for outs in grid.column_slices():
            for ins in grid.row_slices():
                dead = broken[0, outs, ins]
                row, column = dead.all(0), dead.all(1)
                assert torch.equal(dead, row[None] | column[:, None])  # and nothing else
                rows, columns = rows + int(row.sum()), columns + int(column.sum())
    assert_rate(rows, 400 * 3 * 127, 0.1)
    assert_rate(columns, 400 * 2 * 95, 0.2)


def test_faults_are_independent() -> None:
    """Half of all devices break; two sets of them agree as often as coins do."""
    pcm = rasch2023.change(stuck_at_zero=0.5, why="test").pcm
    grid = TileGrid((500, 500), (500, 500))

    def broken(seed: int, name: str) -> Tensor:
        return faults.draw(grid, pcm, faults.generators(seed, name)).broken

    first = broken(1, "a")
    pairs = {
        "chips": (first, broken(2, "a")),
        "layers": (first, broken(1, "b")),
        "row tiles": (first[..., :500], first[..., 500:]),
        "column tiles": (first[:, :500], first[:, 500:]),
        "devices of a pair": (first[0], first[1]),
        "neighbours": (first[..., 1:], first[..., :-1]),
    }
    for what, (one, other) in pairs.items():
        n, agree = one.numel(), int((one == other).sum())
        assert stats.binomtest(agree, n).pvalue > FALSE_ALARM, what
        # power: a set that shares 2 % of its devices with the other one is seen
        assert stats.binomtest(agree + n // 100, n).pvalue < FALSE_ALARM, what


def test_a_higher_rate_breaks_the_same_devices_and_more() -> None:
    low, high = (
        one_tile(rasch2023.change(faults=f, why="test").pcm, 5, 90, 80)
        for f in (SOME, devices.Faults(**{k: 2 * v for k, v in SOME.rates().items()}))
    )
    assert bool((high.broken | ~low.broken).all()) and int(high.broken.sum()) > 0


# --- what a chip holds ---------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["pcm", "two devices", "ideal"])
def test_weights_of_perfect_devices_with_faults(name: str, engine: str) -> None:
    perfect = {} if name == "ideal" else PERFECT
    model, matrix = layer(DEVICES[name].change(faults=SOME, why="test"), engine, **perfect)
    for seed in (7, 8):
        program(model, seed)
        expected = closed(matrix, seed)
        torch.testing.assert_close(normalised(matrix), expected, rtol=0, atol=2e-6)
        drift(model, "1y")
        torch.testing.assert_close(normalised(matrix), expected, rtol=0, atol=2e-6)
    # with one device stuck at g_max and the other working, a weight is anything in [0, 1]
    assert int((expected != matrix.normalised_weight()).sum()) > 500


@pytest.mark.parametrize("name", ["pcm", "two devices"])
def test_the_other_device_of_a_pair_drifts_and_the_stuck_one_does_not(name: str) -> None:
    flat = {"prog_noise_scale": 0.0, "read_noise_scale": 0.0, "nu_sd": (0.0, 0.0, 0.0, 0.0)}
    preset = DEVICES[name].change(faults=devices.Faults(stuck_at_gmax=0.3), why="test")
    model, matrix = layer(preset, **flat)
    program(model, 7)
    drift(model, "1y")
    pcm, weight, (broken, _) = matrix.preset.pcm, matrix.normalised_weight(), map_of(matrix, 7)
    size, t_s = largest(matrix), 365.0 * 24 * 3600
    g = weight.abs() / size * pcm.g_max_us
    nu = physics.drift_exponent(g, pcm, torch.zeros_like(g))
    working = physics.drifted(g, nu, t_s, pcm) / pcm.g_max_us * size
    negative = weight < 0
    assert int((broken[0] & ~broken[1] & negative).sum()) > 100
    expected = torch.where(negative, size - working, size)[broken[0] & ~broken[1]]
    got = normalised(matrix)[broken[0] & ~broken[1]]
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", list(DEVICES))
def test_working_cells_are_those_of_the_chip_without_faults(name: str) -> None:
    whole, faultless = layer(DEVICES[name])
    model, matrix = layer(DEVICES[name].change(faults=SOME, why="test"))
    seen = []
    for t_s in (None, 3600.0):
        for each in (whole, model):
            if t_s is None:
                program(each, 7)
            else:
                drift(each, t_s)
        seen.append(normalised(matrix).clone())
        broken, at = map_of(matrix, 7)
        any_broken = broken.any(0) if broken.ndim == 3 else broken
        same = normalised(faultless)[~any_broken]
        assert torch.equal(seen[-1][~any_broken], same)
        # what is broken altogether holds 0 or g_max for ever, without noise
        gone = broken.all(0) if broken.ndim == 3 else broken
        stuck = (at[0] - at[1] if at.ndim == 3 else at) * largest(matrix)
        assert int(gone.sum()) > 200
        torch.testing.assert_close(seen[-1][gone], stuck[gone], rtol=0, atol=1e-6)
    assert torch.equal(seen[0][gone], seen[1][gone])


def test_compiled_draws_have_the_same_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Perfect devices do not care about noise, so that nothing needs to be compiled."""
    monkeypatch.setattr(kernels, "check", lambda device: None)
    monkeypatch.setattr(draws, "drawn", lambda key, count: torch.zeros(count))
    model, matrix = layer(rasch2023.change(faults=SOME, why="test"), **PERFECT)
    program(model, 7, draw_on="compiled")
    torch.testing.assert_close(normalised(matrix), closed(matrix, 7), rtol=0, atol=2e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["pcm", "two devices", "table", "own"])
def test_a_file_keeps_the_faults(name: str, engine: str, tmp_path: Path) -> None:
    preset = DEVICES[name].change(faults=SOME, why="test")
    model, matrix = layer(preset, engine, netting=name != "two devices")
    program(model, 7)
    drift(model, 3600.0)
    save_chip(model, tmp_path / "chip.safetensors")
    at_1h = matrix.effective_weight().clone()
    drift(model, "1y")
    at_1y = matrix.effective_weight().clone()
    again, other = layer(preset, engine, netting=name != "two devices")
    load_chip(again, tmp_path / "chip.safetensors")
    assert torch.equal(other.effective_weight(), at_1h)
    drift(again, "1y")
    assert torch.equal(other.effective_weight(), at_1y)
    dead = map_of(matrix, 7)
    gone = dead.broken.all(0) if dead.broken.ndim == 3 else dead.broken
    torch.testing.assert_close(at_1h[gone], at_1y[gone], rtol=0, atol=1e-6)


def test_an_aihwkit_config_alone_draws_faults_from_the_default_generator() -> None:
    preset = rasch2023.change(stuck_at_gmax=0.5, why="test", **PERFECT)
    model = preset.rpu_config().noise_model
    torch.manual_seed(1)
    held, state = model.apply_programming_noise(torch.ones(100, 100))
    torch.manual_seed(1)
    assert torch.equal(held, model.apply_programming_noise(torch.ones(100, 100))[0])
    assert not torch.equal(held, model.apply_programming_noise(torch.ones(100, 100))[0])
    assert stats.binomtest(int((held == 0).sum()), 10_000).pvalue > FALSE_ALARM
    assert set(held.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(model.apply_drift_noise(held, state, 3600.0), held)


# --- training ------------------------------------------------------------------------------------


def recipe(preset: Preset, **fields: Any) -> HWATraining:
    return HWATraining.for_(preset).override(**fields)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["pcm", "ideal"])
def test_training_on_one_known_chip_has_its_faults(name: str, engine: str) -> None:
    _, matrix = layer(DEVICES[name].change(faults=SOME, why="test"), engine)
    spec = recipe(matrix.preset, faults="chip", fault_chip=7, noise_type="none").spec
    for step in range(2):
        weight = noisy_weight(matrix, spec, 1.0, 99, ("inject", "0", step, 0))
        torch.testing.assert_close(weight, closed(matrix, 7), rtol=0, atol=1e-6)


def test_fresh_faults_are_drawn_for_every_mini_batch() -> None:
    _, matrix = layer(rasch2023.change(stuck_at_gmax=0.2, why="test"))
    spec = recipe(matrix.preset, faults="fresh", noise_type="none").spec
    clean = matrix.normalised_weight()
    maps = [
        noisy_weight(matrix, spec, 1.0, 99, ("inject", "0", step, 0)) != clean for step in range(40)
    ]
    changed = int(sum(int(each.sum()) for each in maps))
    # a weight changes if either device is stuck (none of these weights is at g_max but one a tile)
    assert_rate(changed, 40 * (clean.numel() - 4), 1 - 0.8**2)
    both = int(sum(int((a & b).sum()) for a, b in zip(maps[::2], maps[1::2], strict=True)))
    assert stats.binomtest(both, 20 * (clean.numel() - 4), 0.36**2).pvalue > FALSE_ALARM
    again = noisy_weight(matrix, spec, 1.0, 99, ("inject", "0", 0, 0)) != clean
    assert torch.equal(again, maps[0])


def test_noise_and_faults_come_together() -> None:
    _, matrix = layer(rasch2023.change(faults=SOME, why="test"))
    names = ("inject", "0", 0, 0)
    noise = noisy_weight(matrix, recipe(matrix.preset).spec, 1.0, 9, names)
    both = noisy_weight(matrix, recipe(matrix.preset, faults="chip").spec, 1.0, 9, names)
    broken = map_of(matrix, 0).broken
    works = ~broken.any(0)
    assert torch.equal(both[works], noise[works])
    assert torch.equal(both[broken.all(0)], closed(matrix, 0)[broken.all(0)])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_training_learns_around_the_faults_of_a_known_chip(engine: str) -> None:
    """Two inputs carry the same signal; on the known chip the first is dead."""
    preset = ideal.change(dead_rows=0.5, why="test")
    seed = next(
        s
        for s in range(99)
        if one_tile(preset.pcm, 0, 1, 2) is not None
        and faults.draw(TileGrid((2,), (1,)), preset.pcm, faults.generators(s, "0")).broken.tolist()
        == [[True, False]]
    )
    net = nn.Sequential(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.1]]))
    analog = convert(net, preset, engine=engine)
    signal = torch.randn(64, 1)
    batches = [(signal.expand(64, 2), signal)] * 60

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[0]) - batch[1]).square().mean()

    settings = recipe(
        preset,
        **{"faults": "chip", "fault_chip": seed, "noise_type": "none", "clip_type": "none"},
        **{"learning_rate": 0.1, "optimizer": "sgd", "epochs": 1, "drop_connect": 0.0},
        **{"weight_decay": 0.0, "momentum": 0.0, "lr_schedule": "constant"},
    )
    train(analog, batches, loss, recipe=settings, progress=False)
    program(analog.eval(), seed)
    with torch.no_grad():
        assert float(loss(analog, batches[0])) < 1e-3
    torch.testing.assert_close(
        matrices_of(analog)["0"].effective_weight(), torch.tensor([[0.0, 1.0]]), rtol=0, atol=0.05
    )


def test_a_recipe_with_faults_needs_a_device_with_faults() -> None:
    model, matrix = layer(rasch2023)
    batches = [(torch.randn(4, 60), torch.randn(4, 50))]
    with pytest.raises(SpecError, match=r"faults = 'fresh', but no device of the model has any"):
        train(
            model,
            batches,
            lambda m, b: m(b[0]).mean(),
            recipe=recipe(matrix.preset, faults="fresh"),
            progress=False,
        )
    with pytest.raises(SpecError, match=r"faults = 'some'; allowed: 'none', 'chip', 'fresh'"):
        recipe(rasch2023, faults="some")
    with pytest.raises(SpecError, match='fault_chip = 3; allowed: 0 unless faults = "chip"'):
        recipe(rasch2023, faults="fresh", fault_chip=3)


def test_aihwkits_own_training_cannot_inject_faults() -> None:
    spec = rasch2023.training["wrn16"].change(why="test", faults="fresh", noise_type="none")
    preset = Preset(
        name="t",
        description="t",
        pcm=rasch2023.pcm,
        crossbar=rasch2023.crossbar,
        compensation=rasch2023.compensation,
        training=type(rasch2023.training)({"mine": spec}),
    )
    with pytest.raises(CapabilityError, match="cannot run faults='fresh'"):
        preset.rpu_config(training="mine")
    preset.rpu_config(training="mine", drop=("faults",))


def test_the_yield_example_measures_every_rate(tmp_path: Path) -> None:
    example = runpy.run_path(str(CSV.with_name("yield.py")))
    table = example["main"](epochs=1, chips=1, rates=(0.0, 1.0), path=tmp_path / "yield.png")
    assert (tmp_path / "yield.png").stat().st_size > 1000
    cells = table.groupby(["kind", "model", "rate"]).value.first()
    assert len(cells) == 18  # kinds x models x rates
    # without any input the answer is chance; one pass over the data does better than that
    assert (cells.loc["dead_rows"].xs(1.0, level="rate") < 30.0).all()
    assert cells["dead_rows", "as it is", 0.0] > 50.0


# --- presets and bad input -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"stuck_at_gmax": -0.1}, r"Faults.stuck_at_gmax = -0.1; allowed: a probability from 0"),
        ({"dead_rows": 1.5}, r"Faults.dead_rows = 1.5; allowed"),
        ({"dead_columns": 2}, r"Faults.dead_columns = 2; allowed"),
        ({"stuck_at_zero": math.nan}, r"Faults.stuck_at_zero = nan; allowed"),
        ({"stuck_at_zero": "1 %"}, r"Faults.stuck_at_zero = '1 %'; allowed"),
        ({"dead_rows": True}, r"Faults.dead_rows = True; allowed"),
        ({"stuck_at_gmax": 0.6, "stuck_at_zero": 0.5}, r"0.6 \+ 0.5; allowed: at most 1"),
    ],
)
def test_impossible_rates(rates: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        devices.Faults(**rates)
    with pytest.raises(SpecError):
        rasch2023.change(why="test", **rates)


def test_rates_may_reach_their_bounds() -> None:
    """All devices may be stuck: the two kinds may sum to exactly 1."""
    rates = devices.Faults(stuck_at_gmax=0.25, stuck_at_zero=0.75, dead_rows=1.0, dead_columns=0)
    assert sum(rates.rates().values()) == 2.0


def test_faults_must_be_faults_and_given_once() -> None:
    with pytest.raises(SpecError, match=r"faults = 0.01; allowed: devices.Faults\("):
        rasch2023.change(faults=0.01, why="test")
    with pytest.raises(SpecError, match=r"faults = \{\}; allowed: devices.Faults\("):
        rasch2023.with_device("hermes", name="mine", why="test", faults={})  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="dead_rows beside faults="):
        rasch2023.change(faults=SOME, dead_rows=0.1, why="test")


@pytest.mark.parametrize("device", ["hermes", TABLE.pcm, Relaxing()])
def test_with_device_takes_faults(device: object) -> None:
    plain = rasch2023.with_device(device, name="mine", why="test")
    mine = rasch2023.with_device(device, name="mine", why="worn", faults=SOME)
    assert mine.pcm.faults == SOME and not plain.pcm.faults
    assert str(mine.pcm.sources["dead_rows"]) == "changed, worn, preset rasch2023"
    assert rasch2023.with_device(mine.pcm, name="mine", why="test").pcm.faults == SOME
    healed = rasch2023.with_device(mine.pcm, name="mine", why="t", faults=devices.Faults())
    assert healed.pcm.identity() == plain.pcm.identity()
    assert "dead_rows" not in healed.pcm.sources


def test_other_fields_change_together_with_faults() -> None:
    """Fields before and after the word "faults" in the alphabet, of both specs."""
    fields = {"adc_bits": 6, "drift_scale": 0.5, "out_noise": 0.02, "t0_s": 30.0}
    both = rasch2023.change(faults=SOME, **fields, why="test")  # type: ignore[arg-type]
    one_by_one = rasch2023.change(**fields, why="test").change(faults=SOME, why="test")  # type: ignore[arg-type]
    assert both.pcm == one_by_one.pcm and both.crossbar == one_by_one.crossbar
    assert (both.crossbar.adc_bits, both.pcm.drift_scale) == (6, 0.5)


def test_a_preset_without_faults_says_nothing_about_them(tmp_path: Path) -> None:
    for name in presets.names():
        data = presets.get(name).to_dict()
        assert "stuck_at_gmax" not in data["pcm"]["values"]
        assert all("faults" not in spec["values"] for spec in data["training"].values())
    healed = rasch2023.change(faults=SOME, why="a").change(faults=devices.Faults(), why="b")
    assert healed.pcm == rasch2023.pcm


def test_preset_files_hold_faults(tmp_path: Path) -> None:
    mine = rasch2023.change(name="mine", faults=SOME, why="test")
    for name in ("mine.toml", "mine.json"):
        presets.save(mine, tmp_path / name)
        assert presets.load(tmp_path / name) == mine
    text = 'base = "rasch2023"\nname = "mine"\nwhy = "test"\ndevice = "hermes"\n'
    (tmp_path / "short.toml").write_text(text + "[change]\nstuck_at_zero = 0.01\n")
    short = presets.load(tmp_path / "short.toml")
    assert short.pcm.law == "hermes" and short.pcm.faults == devices.Faults(stuck_at_zero=0.01)
