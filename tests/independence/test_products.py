"""No two layers, outputs, calls, chips or times share the noise of products, nor of training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from aimc_bridge import convert, drift, program, rng, sweep
from aimc_bridge.converted import matrices_of
from aimc_bridge.training.session import Session
from tests.independence.correlation import assert_independent, assert_shared
from tests.independence.fields import LAYERS, PRESETS, SEEDS, SILENT, TIMES, Parallel, forget, tiles
from tests.models import ENGINES
from tests.stats import assert_sd
from tests.training.test_training import recipe

SAMPLES = 2048
ROWS, COLUMNS = 8, 4  # of a layer; a tile has half of each
NOISES = {"output": {"out_noise": 0.04}, "read": {"w_noise": 0.02}}
CHIP, TIME = 3, 4  # places in the name of a field


def model_of(engine: str, noise: str) -> torch.nn.Module:
    """Return three layers of two by two tiles, whose products alone are noisy."""
    why = "noise of products alone, in tests"
    tile = {"max_rows": ROWS // 2, "max_columns": COLUMNS // 2}
    preset = SILENT.change(**NOISES[noise], **tile, why=why)
    return convert(Parallel(ROWS, COLUMNS), preset, engine=engine).eval()


def noted(
    fields: dict[tuple[object, ...], Tensor], outputs: dict[str, Tensor], *names: object
) -> None:
    """Add the deviations of every output from its mean, under (layer, output, *names)."""
    for layer, y in outputs.items():
        for column, values in enumerate(y.detach().T):
            fields[("product", layer, column, *names)] = values.clone()


def swept(engine: str, noise: str) -> dict[tuple[object, ...], Tensor]:
    """Return the noise of the products of a sweep, twice per chip and time."""
    fields: dict[tuple[object, ...], Tensor] = {}
    places = iter([(seed, t_s) for seed in SEEDS for t_s in TIMES])
    x = torch.ones(SAMPLES, ROWS)

    def evaluate(model: torch.nn.Module) -> float:
        seed, t_s = next(places)
        for call in range(2):
            noted(fields, model(x), seed, t_s, call)
        return 0.0

    model = model_of(engine, noise)
    sweep(model, evaluate, times=TIMES, chips=len(SEEDS), seed=SEEDS[0], progress=False)
    return fields


@pytest.fixture(scope="module", params=[(e, n) for e in ENGINES for n in NOISES], ids="-".join)
def products(request: pytest.FixtureRequest) -> tuple[str, dict[tuple[object, ...], Tensor]]:
    """Return the kind of noise and the noise of a sweep's products, for each engine and kind."""
    engine, noise = request.param
    return noise, swept(engine, noise)


def test_products_share_no_noise(
    products: tuple[str, dict[tuple[object, ...], Tensor]],
) -> None:
    """Every output of every layer, in two calls for each chip and time of a sweep."""
    _, fields = products
    assert len(fields) == len(LAYERS) * COLUMNS * len(SEEDS) * len(TIMES) * 2
    assert_independent(fields)


def test_tiles_of_one_output_share_no_noise(
    products: tuple[str, dict[tuple[object, ...], Tensor]],
) -> None:
    """An output is the sum of two tiles: with shared noise, twice the variance would be four times.

    Per tile, output noise has the preset's sigma, and read noise its sigma times the norm of the
    inputs.
    """
    noise, fields = products
    deviations = torch.cat([values - values.mean() for values in fields.values()])
    (sigma,) = NOISES[noise].values()
    one = sigma if noise == "output" else sigma * (ROWS // 2) ** 0.5
    assert_sd(deviations, one * 2**0.5, "two tiles")
    with pytest.raises(AssertionError):  # the same noise on both tiles
        assert_sd(deviations * 2**0.5, one * 2**0.5, "two tiles")


@pytest.mark.parametrize(("word", "among"), [(1, CHIP), (2, TIME)], ids=["chips", "times"])
def test_shared_noise_of_a_sweep_is_found(
    monkeypatch: pytest.MonkeyPatch, word: int, among: int
) -> None:
    """Chips, or times, that begin with the same state of the generator are found."""
    forget(monkeypatch, "sweep", word)
    assert_shared(swept("native", "output"), among)


def test_layers_with_the_same_noise_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer whose products begin at the same state of the generator as another's is found."""
    true: Callable[[Tensor], Tensor] = rng.noise_like

    def noise_like(values: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            return true(values)

    monkeypatch.setattr(rng, "noise_like", noise_like)
    fields: dict[tuple[object, ...], Tensor] = {}
    model = model_of("native", "output")
    noted(fields, model(torch.ones(SAMPLES, ROWS)), 0, 0.0, 0)
    assert_shared(fields, 1)


@pytest.mark.parametrize("engine", ENGINES)
def test_noise_repeated_in_another_field_is_found(engine: str) -> None:
    """A tenth of one output's noise in another one is found, on either engine's own numbers."""
    fields = swept(engine, "output")
    first, other = list(fields)[0], list(fields)[-1]
    assert_independent(fields)
    fields[other] = 0.9 * fields[other] + 0.3 * fields[first].roll(7)
    with pytest.raises(AssertionError, match="shift 7"):
        assert_independent(fields)


# --- training ---

KINDS = {
    "pcm": {"noise_type": "pcm", "noise_scale": 1.0},
    "programming": {"noise_type": "programming", "noise_scale": 1.0},
    "gaussian": {"noise_type": "gaussian", "gaussian_sd": 0.05, "noise_scale": 1.0},
    "drop connect": {"drop_connect": 0.5},
}
STEPS = (0, 1, 2)
PROCESSES = (0, 1)


def injected(engine: str, kind: str) -> dict[tuple[object, ...], Tensor]:
    """Return the noise that training injects, by (layer, tile, seed, process, mini-batch)."""
    fields: dict[tuple[object, ...], Tensor] = {}
    for seed in SEEDS:
        for process in PROCESSES:
            model = convert(Parallel(), PRESETS["program"], engine=engine).train()
            matrices = matrices_of(model)
            session = Session(model, matrices, recipe(**KINDS[kind]).spec, seed, process)
            session.prepare()
            session.begin()
            for step in STEPS:
                session.start()
                for layer, matrix in matrices.items():
                    for tile, values in tiles(matrix.grid, matrix.effective_weight()).items():
                        fields["inject", layer, tile, seed, process, step] = values.clone()
                session.end()
            session.close()
    return fields


@pytest.mark.parametrize("kind", KINDS)
def test_training_injects_no_shared_noise(engine: str, kind: str) -> None:
    """Layers, tiles, seeds, processes and mini-batches have noise of their own."""
    fields = injected(engine, kind)
    assert len(fields) == len(LAYERS) * 4 * len(SEEDS) * len(PROCESSES) * len(STEPS)
    assert_independent(fields)


@pytest.mark.parametrize(
    ("word", "among"), [(1, 1), (2, 5), (3, 4), (None, 3)],
    ids=["layers", "mini-batches", "processes", "seeds"],
)  # fmt: skip
def test_shared_injection_is_found(
    monkeypatch: pytest.MonkeyPatch, engine: str, word: int | None, among: int
) -> None:
    """The same correlations find every part of a name that is forgotten."""
    forget(monkeypatch, "inject", word, seed=word is None)
    assert_shared(injected(engine, "gaussian"), among)


def trained(processes: tuple[int, ...] = PROCESSES) -> dict[tuple[object, ...], Tensor]:
    """Return the noise of products in mini-batches of a training on the native engine."""
    fields: dict[tuple[object, ...], Tensor] = {}
    for process in processes:
        model = model_of("native", "output").train()
        session = Session(model, matrices_of(model), recipe().spec, 0, process)
        session.prepare()
        session.begin()
        for step in STEPS:
            session.start()
            with torch.no_grad():
                noted(fields, model(torch.ones(SAMPLES, ROWS)), process, step)
            session.end()
        session.close()
    return fields


def test_products_in_training_share_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers, outputs, processes and mini-batches; what is forgotten is found."""
    assert_independent(trained())
    for word, among in ((1, 4), (2, 3)):
        with monkeypatch.context() as planted:
            forget(planted, "train", word)
            assert_shared(trained(), among)


def test_chips_drawn_alone_have_other_products_than_each_other(engine: str) -> None:
    """Without a sweep too, two chips and two times do not share the noise of products."""
    fields: dict[tuple[object, ...], Tensor] = {}
    model, x = model_of(engine, "output"), torch.ones(SAMPLES, ROWS)
    for seed in SEEDS:
        program(model, seed)
        for t_s in TIMES:
            drift(model, t_s)
            noted(fields, model(x), seed, t_s)
    assert_independent(fields)
