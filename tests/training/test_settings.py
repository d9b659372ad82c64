"""Hardware-aware training: what it depends on, what it leaves behind, and what it refuses."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aimc_bridge import HWATraining, convert
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.base import Matrix
from aimc_bridge.errors import SpecError, TrainingError, UnknownNameError, UsageError
from presets import ideal, rasch2023
from tests.models import DEVICES, QUIET, assert_close, linear, mlp, random
from tests.training.test_training import STILL, recipe, run

# --- seeds, state, settings ---


def test_a_seed_is_a_training(engine: str) -> None:
    how = recipe(noise_type="pcm", noise_scale=3.0, drop_connect=0.1, learning_rate=0.05)
    preset = rasch2023 if engine == "native" else DEVICES
    trained = []
    for seed in (1, 1, 2):
        analog = convert(mlp(), preset, engine=engine)
        torch.manual_seed(len(trained))
        run(analog, [random(8, 12, seed=i) for i in range(4)], how, seed=seed)
        trained.append({name: m.clean_weight() for name, m in matrices_of(analog).items()})
    for name in trained[0]:
        assert torch.equal(trained[0][name], trained[1][name])
        assert not torch.equal(trained[0][name], trained[2][name])


def test_a_layer_s_noise_does_not_depend_on_others(engine: str) -> None:
    weights = []
    for extra in (0, 2):
        layers = {f"a{i}": linear(12, 12, seed=i) for i in range(extra)}
        model = nn.ModuleDict({**layers, "fc": linear(12, 12, seed=9)})
        analog = convert(model, DEVICES, engine=engine)
        matrix = matrices_of(analog)["fc"]

        def loss(m: nn.Module, batch: Tensor, matrix: Matrix = matrix) -> Tensor:
            weights.append(matrix.effective_weight().clone())
            return m["fc"](batch).sum()  # type: ignore[index]

        run(analog, [random(2, 12)], recipe(noise_type="pcm", learning_rate=STILL), loss=loss)
    assert torch.equal(weights[0], weights[1])


def test_the_model_comes_back_clean(engine: str) -> None:
    """Modes are as before, and nothing is injected.

    Effective weights are those trained; all this holds after an error too.
    """
    analog = convert(mlp(), DEVICES, engine=engine).eval()
    how = recipe(noise_type="pcm", noise_scale=3.0, learning_rate=0.05)
    seen = []

    def loss(m: nn.Module, batch: Tensor) -> Tensor:
        seen.append(m.training)
        if len(seen) == 3:
            raise OSError("disk")
        return m(batch).square().mean()

    with pytest.raises(OSError, match="disk"):
        run(analog, [random(2, 12)] * 9, how, loss=loss)
    run(analog, [random(2, 12)] * 3, how)
    assert seen == [True] * 3 and not any(m.training for m in analog.modules())
    for name, matrix in matrices_of(analog).items():
        learned = matrix.grid.expand_columns(matrix.learned_scale())
        assert_close(matrix.effective_weight(), matrix.clean_weight() * learned, name, 1e-6)


def test_max_batches(engine: str) -> None:
    analog = convert(mlp(), ideal, engine=engine)
    history = run(analog, [random(2, 12)] * 5, recipe(epochs=3), max_batches=7)
    assert list(history.epoch) == [0] * 5 + [1] * 2


def test_mixed_precision_and_then_another_setting() -> None:
    """Accelerate's wrapper is taken off again.

    The model can be pickled and trained with other settings.
    """
    analog = convert(mlp(), QUIET)
    how = recipe(learn_input_ranges=True, learning_rate=0.01)
    run(analog, [random(4, 12)] * 3, how, mixed_precision="bf16")
    assert {p.dtype for p in analog.parameters()} == {torch.float32}
    assert "forward" not in analog.__dict__
    copied = pickle.loads(pickle.dumps(analog))
    x = random(4, 12)
    assert torch.equal(copied.eval()(x), analog.eval()(x))
    run(copy.deepcopy(analog), [random(4, 12)] * 3, how, mixed_precision="no")


def test_data_loader_of_torch() -> None:
    data = torch.utils.data.TensorDataset(random(10, 12))
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
    analog = convert(mlp(), ideal)
    loss = lambda m, b: m(b[0]).square().mean()  # noqa: E731
    history = run(analog, loader, recipe(epochs=9, learning_rate=0.05), loss=loss)
    assert len(history) == 27
    assert history.loss[-3:].mean() < 0.5 * history.loss[:3].mean()


# --- errors ---


def test_loaders_that_end_too_soon(engine: str) -> None:
    analog = convert(mlp(), ideal, engine=engine)
    with pytest.raises(TrainingError, match="no mini-batch in epoch 0; pass one that is not empty"):
        run(analog, [], recipe())
    with pytest.raises(TrainingError, match="no mini-batch in epoch 1; .* not a generator"):
        run(analog, (random(2, 12) for _ in range(3)), recipe(epochs=2))


def test_losses_that_cannot_train(engine: str) -> None:
    analog = convert(mlp(), ideal, engine=engine)
    data = [random(2, 12)] * 3
    before = {name: m.clean_weight() for name, m in matrices_of(analog).items()}
    bad: dict[str, tuple[Callable[..., Any], type[Exception]]] = {
        "loss is nan in mini-batch 0": (lambda m, b: m(b).sum() * float("nan"), TrainingError),
        "loss is inf in mini-batch 0": (lambda m, b: m(b).sum() * float("inf"), TrainingError),
        "allowed: a tensor of one number": (lambda m, b: m(b), UsageError),
        r"float.*allowed: a tensor of one number": (lambda m, b: 1.0, UsageError),
    }
    for match, (loss, error) in bad.items():
        with pytest.raises(error, match=match.replace("inf", "-?inf")):
            run(analog, data, recipe(), loss=loss)
    for name, matrix in matrices_of(analog).items():
        assert torch.equal(matrix.clean_weight(), before[name])


def test_recipes_that_cannot_be() -> None:
    with pytest.raises(UnknownNameError, match="has no recipe 'wrn17'; there are: wrn16"):
        HWATraining.for_(rasch2023, "wrn17")
    with pytest.raises(SpecError, match="TrainingSpec has no field noise; fields: noise_type"):
        recipe(noise=1.0)
    with pytest.raises(SpecError, match="noise_scale = -1"):
        recipe(noise_scale=-1.0)
    analog = convert(mlp(), ideal)
    with pytest.raises(SpecError, match="pass teacher=digital_model or recipe.override"):
        run(analog, [random(2, 12)], recipe(distill_weight=0.5))
    with pytest.raises(UsageError, match=r"allowed: HWATraining.for_\(preset\), or"):
        run(analog, [random(2, 12)], "wrn16")  # type: ignore[arg-type]


def test_override_keeps_the_source() -> None:
    changed = HWATraining.for_(rasch2023, "wrn16").override(noise_scale=2.0, why="less noise")
    assert changed.spec.noise_scale == 2.0 and changed.name == "rasch2023/wrn16"
    assert "less noise" in str(changed.spec.sources["noise_scale"])
    assert HWATraining.for_(rasch2023, "wrn16").spec.noise_scale == 3.0
