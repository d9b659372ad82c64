"""Chips: seeds, times, states."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from aimc_bridge import (
    HWATraining,
    calibrate,
    convert,
    drift,
    program,
    restore,
    save_chip,
    train,
)
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import CapabilityError, StateError, UsageError
from presets import hermes, ideal, rasch2023, scalar_drift
from tests.models import DEVICES, QUIET, assert_close, linear, mlp, only, random
from tests.stats import assert_mean, assert_sd

YEAR = 365 * 86400.0
# These are devices alone, without 1/f noise: a held weight follows the power law exactly.
SMOOTH = DEVICES.change(read_noise_scale=0.0, drift_compensation="none", why="power law alone")


def effective(model: nn.Module) -> dict[str, Tensor]:
    return {name: matrix.effective_weight().clone() for name, matrix in matrices_of(model).items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    assert a and b
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def now(model: nn.Module) -> dict[str, Tensor]:
    """Return what the crossbars hold, and the compensation factors."""
    alphas = {f"{name}/alpha": m.alpha().clone() for name, m in matrices_of(model).items()}
    return {**effective(model), **alphas}


def chip(model: nn.Module) -> dict[str, Tensor]:
    """Return every tensor of the chip, and what follows from it."""
    tensors = now(model)
    for name, matrix in matrices_of(model).items():
        tensors |= {f"{name}/{k}": v.clone() for k, v in matrix.chip_state().items()}
    return tensors


# --- seeds ---


def test_a_seed_is_a_chip(engine: str) -> None:
    """A seed gives the same chip on every run and for every copy of the model.

    It does not matter what was drawn before.
    """
    a, b = (convert(mlp(), DEVICES, engine=engine) for _ in range(2))
    program(a, 7)
    first = effective(a)
    torch.manual_seed(99)
    drift(a, 100.0)
    program(a, 8)
    assert not same(effective(a), first)
    program(a, 7)
    program(b, 7)
    assert same(effective(a), first) and same(effective(b), first)
    drift(a, 3600.0)
    drift(b, 3600.0)
    assert same(effective(a), effective(b))


def test_global_generator_is_left_alone(engine: str) -> None:
    if engine != "native":
        pytest.skip("aihwkit draws from the default generator, which is given back")
    analog = convert(mlp(), DEVICES)
    state = torch.get_rng_state()
    program(analog, 1)
    drift(analog, 60.0)
    assert torch.equal(state, torch.get_rng_state())


def test_a_layer_is_the_same_among_others(engine: str) -> None:
    """Other layers, before or after it, converted or not, do not change it."""

    def net(before: int, after: int) -> nn.ModuleDict:
        layers: dict[str, nn.Module] = {f"a{i}": linear(5, 6) for i in range(before)}
        layers["fc"] = linear(20, 8, seed=3)
        return nn.ModuleDict(layers | {f"z{i}": linear(5, 6) for i in range(after)})

    weights = []
    for model in (net(0, 0), net(2, 0), net(1, 3)):
        analog = convert(model, rasch2023 if engine == "native" else DEVICES, engine=engine)
        program(analog, 5)
        drift(analog, 3600.0)
        weights.append(matrices_of(analog)["fc"].effective_weight())
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])


def test_layers_of_one_chip_are_independent(engine: str) -> None:
    """Two equal layers have independent noise."""
    model = nn.Sequential(linear(20, 20), linear(20, 20))
    analog = convert(model, DEVICES, engine=engine)
    program(analog, 5)
    noise = [m.effective_weight() - m.clean_weight() for m in matrices_of(analog).values()]
    correlation = torch.corrcoef(torch.stack([n.flatten() for n in noise]))[0, 1]
    assert abs(float(correlation)) < 4.9 / 20.0  # The false-alarm rate is 1e-6 for 400 pairs.


def strong(n: int = 400) -> nn.Linear:
    """Return weights with |w| in [1/2, 1].

    There, nu is |N(0.049, 0.008)| and no pair changes its sign.
    """
    layer = nn.Linear(n, n, bias=False)
    with torch.no_grad():
        size = 0.5 + 0.5 * torch.rand(n, n, generator=torch.Generator().manual_seed(1))
        size[:, 0] = 1.0
        layer.weight.copy_(size * random(n, n).sign())
    return layer


def test_seeds_differ_in_programming_and_exponents(engine: str) -> None:
    """Both follow their laws on each chip, and two chips share neither."""
    analog = convert(strong(), SMOOTH, engine=engine)
    matrix = only(analog)
    clean = matrix.clean_weight()
    errors, exponents = [], []
    for seed in range(3):
        program(analog, seed)
        programmed = matrix.effective_weight()
        drift(analog, YEAR)
        ratio = matrix.effective_weight() / programmed
        exponents.append(-ratio.log() / torch.tensor((YEAR + 20.0) / 20.0).log())
        x = clean.abs()
        leg = (0.26348 + 1.9650 * x - 1.1731 * x**2) / 25.0
        errors.append((programmed - clean) * clean.sign())
        # The other leg has target 0 and keeps the positive half of its noise.
        zero = 0.26348 / 25.0
        mean, variance = zero / (2 * torch.pi) ** 0.5, zero**2 * (0.5 - 0.5 / torch.pi)
        z = (errors[-1] + mean) / (leg**2 + variance).sqrt()
        assert_sd(z, 1.0, "programming noise")
        assert_mean(z + 1.0, 1.0, "programming noise")
        assert_mean(exponents[-1], 0.049, "exponent")
        assert_sd(exponents[-1], 0.008, "exponent")
    bound = 4.9 / clean.numel() ** 0.5
    for values in (errors, exponents):
        table = torch.corrcoef(torch.stack([v.flatten() for v in values]))
        assert float(table.triu(1).abs().max()) < bound
    assert (
        abs(float(torch.corrcoef(torch.stack([errors[0].flatten(), exponents[0].flatten()]))[0, 1]))
        < bound
    )


@pytest.mark.parametrize("seed", [-3, 0, 2**70])
def test_any_integer_is_a_seed(engine: str, seed: int) -> None:
    analog = convert(mlp(), DEVICES, engine=engine)
    program(analog, seed)
    first = effective(analog)
    program(analog, seed + 1)
    assert not same(effective(analog), first)


def test_draw_on_device_repeats() -> None:
    a, b = (convert(mlp(), DEVICES) for _ in range(2))
    for model in (a, b):
        program(model, 3, draw_on="device")
        drift(model, 60.0)
    assert same(effective(a), effective(b))


@pytest.mark.cuda
def test_cpu_and_cuda_share_a_chip() -> None:
    a, b = convert(mlp(), rasch2023), convert(mlp().cuda(), rasch2023)
    for model in (a, b):
        program(model, 3)
        drift(model, 86400.0)
    for name, weight in effective(a).items():
        assert_close(effective(b)[name].cpu(), weight, name, 1e-6)


# --- times ---


@pytest.mark.parametrize("preset", [QUIET, hermes, scalar_drift], ids=lambda p: p.name)
def test_any_order_of_times_gives_the_same_chip(engine: str, preset) -> None:  # type: ignore
    """Weights and alpha are computed from the programmed state each time."""
    if engine != "native":
        preset = DEVICES
    a, b, c = (convert(mlp(), preset, engine=engine) for _ in range(3))
    for model in (a, b, c):
        program(model, 4)
    times = (1.0, 3600.0, YEAR)
    chips = {}
    for t in times:
        drift(a, t)
        chips[t] = now(a)
    for t in reversed(times):
        drift(b, t)
        drift(b, t)
        assert same(now(b), chips[t])
    drift(c, "1h")
    assert same(now(c), chips[3600.0])
    if preset is not scalar_drift:
        size = {t: float(chips[t]["0"].abs().mean()) for t in times}
        assert size[1.0] > size[3600.0] > size[YEAR]


def test_read_noise_is_drawn_anew_at_each_time(engine: str) -> None:
    """Read noise is uncorrelated between two times and has the law's size."""
    preset = DEVICES.change(drift_scale=0.0, drift_compensation="none", why="read noise alone")
    analog = convert(strong(), preset, engine=engine)
    program(analog, 1)
    programmed = only(analog).effective_weight()
    # The weights are rescaled to the programmed maximum.
    x = programmed.abs() / programmed.abs().max()
    noise = []
    for t in (1.0, 86400.0):
        drift(analog, t)
        q = (0.0088 / x**0.65).clamp(max=0.2)
        growth = torch.tensor((t + 20.0 + 250e-9) / (2 * 250e-9)).log().sqrt()
        noise.append((only(analog).effective_weight() / programmed - 1.0) / (q * growth))
        assert_sd(noise[-1], 1.0, f"read noise at {t}")
    correlation = torch.corrcoef(torch.stack([n.flatten() for n in noise]))[0, 1]
    assert abs(float(correlation)) < 4.9 / programmed.numel() ** 0.5


@pytest.mark.parametrize("time", [-5, float("nan"), float("inf"), "1 fortnight", "", None, True])
def test_bad_times(engine: str, time: object) -> None:
    analog = convert(mlp(), DEVICES, engine=engine)
    program(analog, 1)
    before = effective(analog)
    with pytest.raises(UsageError, match="is not understood; allowed: seconds >= 0"):
        drift(analog, time)  # type: ignore[arg-type]
    assert same(effective(analog), before)


# --- states ---


def test_restore_gives_the_clean_model_bit_for_bit(engine: str) -> None:
    analog = convert(mlp(), QUIET if engine == "native" else ideal, engine=engine).eval()
    x = random(6, 12)
    calibrate(analog, [x])
    with torch.no_grad():
        expected, weights = analog(x), effective(analog)
        program(analog, 1)
        drift(analog, "1y")
        if engine == "native":
            assert not torch.equal(analog(x), expected)
        restore(analog)
        assert torch.equal(analog(x), expected)
    assert same(effective(analog), weights)
    for matrix in matrices_of(analog).values():
        assert torch.equal(matrix.alpha(), torch.ones_like(matrix.alpha()))
    with pytest.raises(StateError):
        drift(analog, 1.0)


def test_trained_weights_stay_clean_on_a_chip(engine: str) -> None:
    analog = convert(mlp(), DEVICES, engine=engine)
    clean = {name: m.clean_weight() for name, m in matrices_of(analog).items()}
    program(analog, 1)
    drift(analog, 3600.0)
    assert same({name: m.clean_weight() for name, m in matrices_of(analog).items()}, clean)


def test_states_that_do_not_allow_it_say_what_to_do(engine: str, tmp_path: Path) -> None:
    analog = convert(mlp(), DEVICES, engine=engine).eval()
    file = tmp_path / "chip.safetensors"
    with pytest.raises(StateError, match=r"no chip is programmed; call program\(model, seed\)"):
        drift(analog, 60.0)
    with pytest.raises(StateError, match=r"no chip is programmed; call program\(model, seed\)"):
        save_chip(analog, file)
    assert not file.exists()
    recipe = HWATraining.for_(rasch2023, "lstm").override(epochs=1)
    for after in (lambda: None, lambda: drift(analog, 60.0)):
        program(analog, 1)
        after()
        with pytest.raises(StateError, match=r"call restore\(model\) first"):
            train(analog, [random(2, 12)], lambda m, b: m(b).sum(), recipe=recipe, progress=False)
        if engine == "native":
            with pytest.raises(StateError, match=r"layer '0' holds a programmed chip .* restore"):
                analog.train()(random(2, 12))
        analog.eval()(random(2, 12))


def test_wrong_arguments() -> None:
    analog = convert(mlp(), DEVICES)
    for seed in (1.5, "7", True, None):
        with pytest.raises(UsageError, match="allowed: an integer"):
            program(analog, seed)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="allowed: 'cpu', 'device', 'compiled'"):
        program(analog, 1, draw_on="gpu")
    for door in (lambda m: program(m, 1), lambda m: drift(m, 1.0), restore):
        with pytest.raises(CapabilityError, match="not a converted model"):
            door(mlp())
        with pytest.raises(CapabilityError, match="not a converted model"):
            door(analog[0])
