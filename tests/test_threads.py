"""Threads of one process: sweeps and trainings give what they give one after another."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional

from aimc_bridge import HWATraining, calibrate, convert, program, rng, sweep, train
from aimc_bridge.converted import matrices_of
from presets import rasch2023
from tests.models import DEVICES, mlp, random

ROUNDS = 5


def at_once(works: list[Callable[[], Any]]) -> list[Any]:
    """Return what functions give that start in threads at the same time."""
    results: list[Any] = [None] * len(works)
    barrier = threading.Barrier(len(works))

    def run(number: int) -> None:
        barrier.wait()
        results[number] = works[number]()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def size(model: nn.Module) -> float:
    with torch.no_grad():
        return float(sum(model(random(20, 12)).abs().mean() for _ in range(5)))


def make(engine: str) -> nn.Module:
    """Return a model; its products are noisy if they follow torch's generator."""
    analog = convert(mlp(), rasch2023 if engine == "native" else DEVICES, engine=engine).eval()
    calibrate(analog, [random(20, 12)])
    return analog


def table(model: nn.Module, seed: int, **options: Any) -> pd.DataFrame:
    return sweep(model, size, ("1s", "1h"), chips=4, seed=seed, progress=False, **options)


@pytest.mark.parametrize("shared", [False, True], ids=["two models", "one model"])
def test_sweeps(engine: str, shared: bool) -> None:
    serial = [table(make(engine), seed) for seed in (0, 100)]
    for _ in range(ROUNDS):
        models = [make(engine)] * 2 if shared else [make(engine), make(engine)]
        works = [lambda m=m, s=s: table(m, s) for m, s in zip(models, (0, 100), strict=True)]
        for got, expected in zip(at_once(works), serial, strict=True):
            pd.testing.assert_frame_equal(got, expected, check_exact=True)


def digital() -> nn.Module:
    """Return a network with dropout.

    Its layers draw their first weights from the generator that all threads share, so it is made
    before the threads start.
    """
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(12, 16), nn.Dropout(0.3), nn.Linear(16, 3))


def trained(engine: str, layers: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Convert a network, train it with dropout and noise, and return its weights."""
    analog = convert(layers, rasch2023 if engine == "native" else DEVICES, engine=engine)
    calibrate(analog, [random(20, 12)])
    batches = [(random(8, 12, seed=n), torch.arange(8) % 3) for n in range(4)]
    recipe = HWATraining.for_(rasch2023, "wrn16").override(
        ramp_batches=4, epochs=2, distill_weight=0.0
    )

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1])

    train(analog, batches, loss, recipe=recipe, seed=seed, progress=False, cpu=True)
    return {name: matrix.clean_weight() for name, matrix in matrices_of(analog).items()}


def test_trainings_and_a_sweep(engine: str) -> None:
    """Accelerate's state is one per process, and torch's generator, too: they take turns."""
    layers = digital()
    serial = [trained(engine, layers, 0), trained(engine, layers, 1), table(make(engine), 0)]
    for _ in range(2):
        model = make(engine)
        one, other, chips = at_once(
            [
                lambda: trained(engine, layers, 0),
                lambda: trained(engine, layers, 1),
                lambda m=model: table(m, 0),
            ]
        )
        for got, expected in zip((one, other), serial, strict=False):
            assert all(torch.equal(got[name], expected[name]) for name in expected)
        pd.testing.assert_frame_equal(chips, serial[2], check_exact=True)


@pytest.mark.aihwkit
def test_conversions_while_another_thread_draws() -> None:
    """aihwkit's layers draw weights when they are made; the state before that is put back.

    It must not be put back while another thread draws.
    """
    layers = nn.Sequential(*[nn.Linear(3, 3) for _ in range(20)])

    def draws() -> torch.Tensor:
        with rng.seeded(3, "draws"):
            return torch.cat([torch.randn(5) for _ in range(20_000)])

    serial = draws()
    drawn, _ = at_once([draws, lambda: convert(layers, DEVICES, engine="aihwkit")])
    assert torch.equal(drawn, serial)


@pytest.mark.aihwkit
def test_chips_of_aihwkit_programmed_at_once() -> None:
    """aihwkit draws from torch's default generator, which all threads share."""

    def chip(seed: int) -> torch.Tensor:
        model = make("aihwkit")
        program(model, seed)
        with torch.no_grad():
            return model(random(5, 12))

    serial = [chip(seed) for seed in range(4)]
    got = at_once([lambda seed=seed: chip(seed) for seed in range(4)])
    assert all(map(torch.equal, got, serial))


def test_threads_of_an_executor_inside_an_evaluation() -> None:
    """A sweep inside a sweep has the generator already, and its threads do not wait for it."""
    inner = make("native")

    def nested(model: nn.Module) -> float:
        return float(table(inner, 7, executor="threading", workers=2).value.mean())

    outer = sweep(make("native"), nested, "1s", chips=1, progress=False)
    assert outer.value[0] == table(inner, 7).value.mean()


def test_a_thread_that_waits_for_long_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation and its thread that wait for each other get a warning."""
    monkeypatch.setattr(rng, "WARN_AFTER_S", 0.05)
    said: list[str] = []

    def other() -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with rng.alone():
                said.extend(str(warning.message) for warning in caught)

    thread = threading.Thread(target=other)
    with rng.alone():
        thread.start()
        thread.join(1.0)
        assert thread.is_alive()
    thread.join()
    assert len(said) == 1
    assert "another thread that sweeps, trains or draws a chip" in said[0]


def test_whoever_seeds_the_generator_has_it_alone() -> None:
    """A seeded block draws its own stream although another thread wants to draw another one."""

    def draws(name: int) -> torch.Tensor:
        with rng.seeded(3, name):
            return torch.cat([torch.randn(1000) for _ in range(50)])

    before = torch.get_rng_state()
    serial = [draws(name) for name in range(4)]
    assert all(map(torch.equal, at_once([lambda n=n: draws(n) for n in range(4)]), serial))
    assert torch.equal(torch.get_rng_state(), before)
