"""Chips in compiled passes: the eager laws for the same draws; a function of seed and time."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._functorch import config as functorch
from torch._inductor import config as inductor
from torch._inductor.graph import GraphLowering

from aimc_bridge import convert, drift, load_chip, program, save_chip, sweep
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.base import Matrix
from aimc_bridge.engines.native import compiled, compiled_chip, draws, kernels
from aimc_bridge.errors import CapabilityError
from aimc_bridge.physics import cells as cell_law
from aimc_bridge.physics import compensation, mvm
from aimc_bridge.physics.injection import injected
from aimc_bridge.spec import Preset
from aimc_bridge.training import HWATraining, noisy_weight
from benchmarks.studies.ladder.rungs import LADDER
from presets import hermes, ideal, rasch2023, scalar_drift
from tests.engines.native.test_fused import needs_compiler
from tests.models import assert_close, linear, mlp, only
from tests.stats import FALSE_ALARM
from tests.test_chip import YEAR, chip, same

HOUR = 3600.0
SIGNED = next(rung.preset for rung in LADDER if rung.key == "read_noise")


def drawn(matrix: Matrix, seed: int, shape: tuple[int, ...], *names: object) -> Tensor:
    """Return the numbers of a stream, by the generator's definition."""
    key = draws.key_of(torch.device("cpu"), seed, names)[0]
    return draws.normal(key, math.prod(shape)).view(shape).to(matrix.column_scale().dtype)


def by_eager_laws(matrix: Matrix, seed: int, name: str, t_s: float) -> dict[str, Tensor]:
    """Return the chip that the same draws make: as programmed, and at `t_s`."""
    grid, preset, weight = matrix.grid, matrix.preset, matrix.normalised_weight()
    shapes, cells = cell_law.noise_shapes(grid, preset.pcm), tuple(weight.shape)
    if cell_law.netted(preset.pcm) and compiled_chip.suits(grid):
        eps = torch.stack([drawn(matrix, seed, cells, "program", name, leg) for leg in "+-"])
    else:
        eps = drawn(matrix, seed, shapes[0], "program", name)
    eps_nu = drawn(matrix, seed, shapes[1], "exponent", name)
    device = cell_law.program_cells(weight, grid, preset.pcm, eps, eps_nu)
    held = cell_law.held_weight(device, grid)
    state = tuple(device.conductance_us.shape)
    eps = drawn(matrix, seed, state, "read", name, t_s)
    now = cell_law.read_cells(device, grid, preset.pcm, t_s, eps)
    means = []
    for weights, when in ((held, "reference"), (now, t_s)):
        position, count = grid.row_position(weight), grid.row_count(weight)
        eps = drawn(matrix, seed, cells, "compensation", name, when)
        outputs = mvm.identity_readout(weights, position, count, preset.crossbar, eps)
        means.append(compensation.readout(outputs, grid, preset.compensation))
    chip = {
        "conductance_us": device.conductance_us,
        "nu": device.nu,
        "us_per_unit": device.us_per_unit,
    }
    chip |= {"programmed": held, "held": now}
    if preset.compensation.drift_compensation in ("global", "per_column"):
        chip |= {"reference": means[0], "compensation": means[0] / means[1]}
    return chip


def chip_of_passes(model: nn.Module, seed: int, t_s: float) -> dict[str, dict[str, Tensor]]:
    """Return each layer's chip tensors at `t_s`, and the weights it held before."""
    program(model, seed, draw_on="compiled")
    matrices = matrices_of(model)
    before = {name: matrix.chip_state()["held"].clone() for name, matrix in matrices.items()}
    drift(model, t_s)
    return {n: {**m.chip_state(), "programmed": before[n]} for n, m in matrices.items()}


# --- the laws -------------------------------------------------------------------------------------

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "one tile": lambda: linear(300, 200),
    "even row tiles": lambda: linear(800, 60),
    "uneven row tiles": lambda: linear(1153, 90),
    "column tiles": lambda: linear(40, 1100),
    "groups": lambda: nn.Conv2d(60, 40, 3, groups=2),
    "one output": lambda: linear(400, 1),
    "one input": lambda: linear(1, 30),
    "double precision": lambda: linear(300, 200).double(),
}
# Devices that the passes know, and devices that go through eager laws with compiled draws.
KINDS = {
    "hermes": (hermes, "even row tiles"),
    "by column": (rasch2023.change(drift_compensation="per_column", why="test"), "one tile"),
    "exact": (
        rasch2023.change(drift_compensation="global_exact_reference", why="test"),
        "one tile",
    ),
    "two devices": (rasch2023.change(netting=False, why="test"), "uneven row tiles"),
    "signed": (SIGNED, "one tile"),
    "scalar": (scalar_drift, "one tile"),
    "ideal": (ideal, "one tile"),
}


def assert_laws(layer: Callable[[], nn.Module], preset: Preset) -> None:
    torch.manual_seed(0)
    analog = convert(layer().eval(), preset)
    matrix = only(analog)
    (name,) = matrices_of(analog)
    (got,) = chip_of_passes(analog, 5, HOUR).values()
    expected = by_eager_laws(matrix, 5, name, HOUR)
    if preset.compensation.drift_compensation == "global_exact_reference":
        clean = matrix.normalised_weight()
        reference = compensation.readout(clean, matrix.grid, preset.compensation)
        assert torch.equal(got["reference"], reference)
        assert "compensation" in got
    for what, values in expected.items():
        assert_close(got[what], values, f"{preset}, {what}")


@needs_compiler
@pytest.mark.parametrize("layer", LAYERS)
def test_it_is_the_eager_chip_of_the_same_draws(layer: str) -> None:
    assert_laws(LAYERS[layer], rasch2023)


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
def test_every_device_and_compensation(kind: str) -> None:
    preset, layer = KINDS[kind]
    assert_laws(LAYERS[layer], preset)


@needs_compiler
def test_oracle_is_the_eager_one() -> None:
    analog = convert(linear(300, 200), rasch2023.change(drift_compensation="oracle", why="test"))
    program(analog, 1, draw_on="compiled")
    drift(analog, HOUR)
    matrix = only(analog)
    expected = compensation.oracle(matrix.normalised_weight(), matrix.grid, matrix.preset.pcm, HOUR)
    assert torch.equal(matrix.alpha(), expected)


@pytest.mark.cuda
@needs_compiler
def test_a_gpu_makes_the_same_chip() -> None:
    """It agrees to float error: its draws come from the same bits."""
    analog = convert(linear(800, 60).cuda(), rasch2023)
    cpu = convert(linear(800, 60), rasch2023)
    (got,) = chip_of_passes(analog, 5, HOUR).values()
    (name,) = matrices_of(cpu)
    for what, values in by_eager_laws(only(cpu), 5, name, HOUR).items():
        assert_close(got[what].cpu(), values, what)


@needs_compiler
def test_nothing_is_compiled_for_a_shape_or_a_time() -> None:
    """Some shapes have equal sizes.

    Others have sizes that are equal to sizes inside the passes.
    """
    warm = convert(nn.Sequential(linear(300, 200), linear(1153, 90)), rasch2023)
    program(warm, 1, draw_on="compiled")
    drift(warm, HOUR)
    before = dict(counters["stats"])
    sizes = ((2, 2), (3, 3), (7, 5), (600, 600), (1024, 2), (1025, 64), (1153, 385), (514, 257))
    other = convert(nn.Sequential(*(linear(*size) for size in sizes)), rasch2023)
    program(other, 2, draw_on="compiled")
    for t_s in (0.0, 1.0, YEAR):
        drift(other, t_s)
    assert counters["stats"] == before


@needs_compiler
def test_a_first_call_that_is_small_does_not_rule_out_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The generated code has threads for all sizes.

    torch.compile decides on threads by the first sizes.
    """
    written: list[str] = []
    monkeypatch.setattr(GraphLowering, "save_output_code", written.append)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        kernel = kernels.kernel(draws._drawn, "a kind of its own")
        with inductor.patch(fx_graph_cache=False), functorch.patch(enable_autograd_cache=False):
            kernel(torch.empty(40), draws.new_key(torch.device("cpu")))
    finally:
        torch.set_num_threads(threads)
    (code,) = written
    assert "#pragma omp parallel num_threads(2)" in code


# --- noise injected in training -------------------------------------------------------------------

NOISE = {
    "pcm": ("pcm", rasch2023, "even row tiles"),
    "hermes": ("pcm", hermes, "uneven row tiles"),
    "programming": ("programming", rasch2023, "groups"),
    "gaussian": ("gaussian", rasch2023, "column tiles"),
    "two devices": ("pcm", rasch2023.change(netting=False, why="test"), "one tile"),
    "none": ("none", rasch2023, "one tile"),
}


@needs_compiler
@pytest.mark.parametrize("kind", NOISE)
def test_injected_noise_is_the_eager_law_of_the_same_draws(kind: str) -> None:
    noise_type, preset, layer = NOISE[kind]
    torch.manual_seed(0)
    analog = convert(LAYERS[layer](), preset)
    compiled(analog)
    matrix = only(analog)
    recipe = HWATraining.for_(rasch2023, "wrn16")
    recipe = recipe.override(noise_type=noise_type, drop_connect=0.2, why="test")
    weight, grid, cpu = matrix.normalised_weight(), matrix.grid, torch.device("cpu")
    for scale, names in ((3.0, ("inject", 0, 1)), (0.0, ("inject", 0, 2))):
        got = noisy_weight(matrix, recipe.spec, scale, 5, names)
        first, second = (
            drawn(matrix, 5, tuple(weight.shape), *names, device) for device in ("first", "second")
        )
        largest = grid.expand_columns(grid.expand_tiles(grid.tile_amax(weight)))
        expected = injected(weight, largest, preset.pcm, recipe.spec, scale, first, second)
        index = torch.arange(weight.numel(), dtype=torch.int32).view_as(weight)
        stays = draws.uniform_at(draws.key_of(cpu, 5, (*names, "kept"))[0], index) >= 0.2
        assert_close(got, expected * stays, f"{kind}, scale {scale}", 1e-5)
        dropped = binom.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], weight.numel(), 0.2)
        assert dropped[0] <= int((~stays).sum()) <= dropped[1]


@needs_compiler
def test_a_device_without_such_noise_draws_it_eagerly() -> None:
    analog = convert(linear(30, 20), scalar_drift)
    recipe = HWATraining.for_(rasch2023, "wrn16")
    recipe = recipe.override(noise_type="programming", why="test").spec
    eager = noisy_weight(only(analog), recipe, 3.0, 5, ("inject", 1))
    compiled(analog)
    assert torch.equal(noisy_weight(only(analog), recipe, 3.0, 5, ("inject", 1)), eager)


# --- a chip is a function of preset, seed and time ------------------------------------------------


@needs_compiler
def test_it_repeats_on_any_number_of_threads() -> None:
    threads = torch.get_num_threads()
    chips = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            analog = convert(nn.Sequential(linear(300, 200), linear(400, 1)), rasch2023)
            program(analog, 3, draw_on="compiled")
            drift(analog, HOUR)
            chips.append(chip(analog))
    finally:
        torch.set_num_threads(threads)
    assert same(*chips)


@needs_compiler
def test_times_in_any_order_and_the_global_generator_do_not_matter() -> None:
    a, b = (convert(nn.Sequential(linear(300, 200)), rasch2023) for _ in range(2))
    state = torch.get_rng_state()
    for model, times in ((a, (HOUR, 1.0, YEAR)), (b, (YEAR,))):
        program(model, 3, draw_on="compiled")
        for t_s in times:
            drift(model, t_s)
    assert torch.equal(state, torch.get_rng_state())
    assert same(chip(a), chip(b))
    program(a, 4, draw_on="compiled")
    drift(a, YEAR)
    assert not same(chip(a), chip(b))
    program(b, 3, draw_on="cpu")
    drift(b, YEAR)
    assert not same(chip(a), chip(b))


@needs_compiler
def test_a_layer_is_the_same_among_others() -> None:
    alone = convert(nn.ModuleDict({"fc": linear(300, 200)}), rasch2023)
    among = convert(
        nn.ModuleDict({"a": linear(300, 200), "fc": linear(300, 200), "z": linear(5, 6)}), rasch2023
    )
    chips = [chip_of_passes(model, 3, HOUR)["fc"] for model in (alone, among)]
    assert same(*chips)
    assert not torch.equal(chips[1]["nu"], matrices_of(among)["a"].chip_state()["nu"])


@needs_compiler
def test_a_saved_chip_goes_on_drifting_as_it_was(tmp_path: Path) -> None:
    a, b = (convert(nn.Sequential(linear(300, 200)), rasch2023) for _ in range(2))
    program(a, 3, draw_on="compiled")
    drift(a, HOUR)
    save_chip(a, tmp_path / "chip.safetensors")
    load_chip(b, tmp_path / "chip.safetensors")
    assert same(chip(a), chip(b))
    for model in (a, b):
        drift(model, YEAR)
    assert same(chip(a), chip(b))


@needs_compiler
def test_a_new_chip_leaves_the_one_before_as_it_was() -> None:
    """Tensors that someone took from a chip do not change."""
    analog = convert(linear(300, 200), rasch2023)
    (tensors,) = chip_of_passes(analog, 3, HOUR).values()
    copies = {name: value.clone() for name, value in tensors.items()}
    chip_of_passes(analog, 4, YEAR)
    assert same(tensors, copies)


@needs_compiler
def test_a_sweep_draws_them() -> None:
    analog = convert(nn.Sequential(linear(300, 200)), rasch2023)

    def evaluate(model: nn.Module) -> float:
        (matrix,) = matrices_of(model).values()
        return float(matrix.effective_weight().double().sum())

    table = sweep(
        analog, evaluate, ("1s", "1h"), chips=2, seed=3, draw_on="compiled", progress=False
    )
    program(analog, 4, draw_on="compiled")
    drift(analog, HOUR)
    assert float(table["value"].iloc[-1]) == evaluate(analog)
    assert table["value"].nunique() == 4


# --- messages -------------------------------------------------------------------------------------


def test_aihwkit_ignores_it() -> None:
    weights = []
    for draw_on in ("cpu", "compiled"):
        analog = convert(linear(20, 8), rasch2023, engine="aihwkit")
        program(analog, 3, draw_on=draw_on)
        drift(analog, HOUR)
        weights.append(only(analog).effective_weight())
    assert torch.equal(*weights)


def test_without_a_compiler_it_says_so_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    analog = convert(mlp(), rasch2023)
    program(analog, 3)
    drift(analog, HOUR)
    before = chip(analog)

    def fails(*args: object, **options: object) -> None:
        raise RuntimeError("no compiler found")

    monkeypatch.setattr(torch, "compile", fails)
    kernels.check.cache_clear()
    try:
        with pytest.raises(CapabilityError, match=r"no compiler found.*C\+\+"):
            program(analog, 4, draw_on="compiled")
    finally:
        kernels.check.cache_clear()
    assert same(chip(analog), before)
    drift(analog, HOUR)  # This is the chip of seed 3, drawn on the CPU.
    assert same(chip(analog), before)
