"""Runs of training: pace, validation, progress, the control, compiled."""

from __future__ import annotations

import copy
import dataclasses
import importlib.machinery
import inspect
import math
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from aimc_bridge import HWATraining, calibrate, convert, train
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import CapabilityError, TrainingError, UsageError
from aimc_bridge.training import learning_rate_factor, progress, train_digital
from aimc_bridge.training.options import Options
from presets import ideal, rasch2023
from tests.models import QUIET, RANGED, assert_close, linear, mlp, only, random, small_net
from tests.training.test_resume import EVERYTHING, cross_entropy, dropping_net
from tests.training.test_training import PLAIN, STILL, recipe

# --- the optimizer's pace ---


def test_schedules_end_at_zero() -> None:
    """Linear and cosine after the warm-up are computed by hand; stalls and drops multiply."""
    base = {"warmup_batches": 2, "warmup_factor": 0.5}
    linear = recipe(**base, lr_schedule="linear").spec
    cosine = recipe(**base, lr_schedule="cosine").spec
    for step, expected in {0: 0.5, 1: 0.5, 2: 1.0, 6: 0.5, 9: 0.125}.items():
        assert learning_rate_factor(linear, step, 0, 10) == pytest.approx(expected)
    for step in range(2, 10):
        expected = (1 + math.cos(math.pi * (step - 2) / 8)) / 2
        assert learning_rate_factor(cosine, step, 0, 10) == pytest.approx(expected)
    stalling = recipe(lr_drop_on_stall=True, lr_drop_factor=0.9, lr_drop_epochs=(2,)).spec
    assert learning_rate_factor(stalling, 5, 2, 10, stalls=3) == pytest.approx(0.9**4)
    assert learning_rate_factor(recipe().spec, 5, 2, 10, stalls=3) == 1.0


def test_a_schedule_needs_an_end() -> None:
    """A training that cannot begin leaves the model as it was."""
    analog = convert(mlp(), ideal).eval()
    batches = (random(2, 12) for _ in range(3))
    with pytest.raises(UsageError, match="lr_schedule='cosine' ends with the run.*max_batches="):
        quick(analog, batches, recipe(lr_schedule="cosine"), compile="eager")
    assert not any(module.training for module in analog.modules())
    assert not any("forward" in module.__dict__ for module in analog.modules())
    history = quick(convert(mlp(), ideal), batches, recipe(lr_schedule="linear"), max_batches=2)
    assert list(history.learning_rate / recipe().spec.learning_rate) == [1.0, 0.5]


def quick(model: nn.Module, loader: Any, how: HWATraining, **options: Any) -> Any:
    """Call `train` with a mean square as loss, on the CPU."""
    loss = options.pop("loss", lambda m, b: m(b).square().mean())
    return train(model, loader, loss, recipe=how, progress=False, cpu=True, **options)


@pytest.mark.parametrize("validated", [True, False])
def test_the_rate_drops_when_validation_stalls(validated: bool) -> None:
    """It drops once for each value no better than the best before.

    Without validation, the values are the losses of epochs.
    """
    values = iter([3.0, 2.0, 2.0, 2.5, 1.0, 1.0])
    stalls = [0, 0, 0, 1, 2, 2]  # These are the stalls before each epoch.
    how = recipe(lr_drop_on_stall=True, lr_drop_factor=0.5, learning_rate=1e-12, epochs=6)
    if validated:
        options: dict[str, Any] = {"validate": lambda m: next(values)}
    else:
        losses = iter([3.0, 2.0, 2.0, 2.5, 1.0, 1.0])
        options = {"loss": lambda m, b: m(b).sum() * 0 + next(losses)}
    history = quick(convert(mlp(), ideal), [random(2, 12)], how, **options)
    assert list(history.learning_rate) == pytest.approx([1e-12 * 0.5**n for n in stalls])


def test_the_recipes_optimizer() -> None:
    """AdamW is torch's own, with decay on weight matrices alone."""
    model = mlp()
    analog = convert(model, ideal)
    how = recipe(optimizer="adamw", learning_rate=0.01, weight_decay=0.1)
    data = [random(4, 12, seed=i) for i in range(5)]
    quick(analog, data, how)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    for batch in data:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert_close(dict(analog.named_parameters())[name], parameter, name)


# --- validation, and the weights that stay ---


def test_validation_sees_a_clean_model_in_eval_mode_and_changes_no_training() -> None:
    """Nothing is injected.

    There is no dropout, and float32 under autocast; the run is the one without validation.
    """
    how = recipe(noise_type="pcm", noise_scale=3.0, learning_rate=0.01, learn_input_ranges=True)
    data = [random(4, 12, seed=i) for i in range(4)]
    states, seen = [], []

    def validate(m: nn.Module) -> float:
        matrix = matrices_of(m)["0"]
        assert not any(module.training for module in m.modules())
        assert_close(matrix.effective_weight(), matrix.clean_weight(), "clean", 1e-6)
        torch.rand(7)
        output = m(random(3, 12))
        seen.append(output.dtype)
        return float(output.square().mean())

    for check in (None, validate):
        analog = convert(mlp(), QUIET)
        calibrate(analog, data)
        options = {"validate": check, "validate_every": 2, "mixed_precision": "bf16"}
        history = quick(analog, data, how, **(options if check else {"mixed_precision": "bf16"}))
        states.append(analog.state_dict())
    assert seen == [torch.float32] * 2
    assert history.validation_loss.notna().tolist() == [False, True, False, True]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


@pytest.mark.parametrize("keep", ["last", "best"])
def test_which_weights_are_kept(keep: str) -> None:
    """The best is the first of the lowest."""
    seen: list[Tensor] = []
    values = iter([3.0, 1.0, 2.0, 1.0])

    def validate(m: nn.Module) -> float:
        seen.append(only(m).clean_weight())
        return next(values)

    analog = convert(nn.Linear(12, 5), ideal)
    data = [random(2, 12, seed=i) for i in range(4)]
    quick(analog, data, recipe(learning_rate=0.1), validate=validate, validate_every=1, keep=keep)
    assert len({float(w.sum()) for w in seen}) == 4
    assert torch.equal(only(analog).clean_weight(), seen[1 if keep == "best" else 3])


def test_options_that_cannot_be(tmp_path: Path) -> None:
    analog = convert(mlp(), ideal)
    bad: dict[str, dict[str, Any]] = {
        "keep='first'; allowed: 'last', 'best'": {"keep": "first"},
        'keep="best" needs validate=': {"keep": "best"},
        "resume=True needs folder=": {"resume": True},
        r"max_batches \(mini-batches\)=0; allowed: an integer >= 1": {"max_batches": 0},
        r"checkpoint_every \(mini-batches\)=0; allowed: an integer >= 1": {"checkpoint_every": 0},
        'validate returned accuracy; allowed: .*"loss" in it': {
            "validate": lambda m: {"accuracy": 1.0}
        },
    }
    for match, options in bad.items():
        with pytest.raises(UsageError, match=match):
            quick(analog, [random(2, 12)], recipe(), **options)
    with pytest.raises(TrainingError, match="validation's loss is nan after 1 mini-batches"):
        quick(analog, [random(2, 12)], recipe(), validate=lambda m: math.nan)


# --- progress ---


def test_an_epoch_at_chance_stops_with_advice() -> None:
    """A guess costs ln K.

    At least 50 mini-batches are needed to tell it from a bad start.
    """
    guess = math.log(5)

    def loss_of(value: float) -> Any:
        return lambda m, b: m(b).sum() * 0 + value

    data = [random(2, 12)] * 50
    how = recipe(learning_rate=1e-9)
    with pytest.raises(TrainingError, match="epoch 0 is 1.6094 in the mean of 50.*lower the"):
        quick(convert(mlp(), ideal), data, how, loss=loss_of(guess), chance_loss=guess)
    quick(convert(mlp(), ideal), data, how, loss=loss_of(0.98 * guess), chance_loss=guess)
    quick(convert(mlp(), ideal), data[:49], how, loss=loss_of(guess), chance_loss=guess)
    with pytest.raises(TrainingError, match="epoch 0 is 1.0000"):  # 99 % of a guess is no better
        quick(convert(mlp(), ideal), data, how, loss=loss_of(1.0), chance_loss=1.0 / 0.99)
    # A distilling student is judged by its own loss.
    teacher = mlp()
    with pytest.raises(TrainingError, match="no|forgotten"):
        quick(
            convert(mlp(), ideal), data, recipe(learning_rate=1e-9, distill_weight=0.9),
            loss=loss_of(guess), chance_loss=guess, teacher=teacher,
        )  # fmt: skip


def test_tensorboard_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []
    options: dict[str, Any] = {}

    class Writer:
        def __init__(self, log_dir: str, purge_step: int) -> None:
            options.update(log_dir=log_dir, purge_step=purge_step)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            options["closed"] = True

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    package = types.ModuleType("tensorboard")
    package.__spec__ = importlib.machinery.ModuleSpec("tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard", package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    analog = convert(mlp(), ideal)
    history = quick(analog, [random(2, 12)] * 2, recipe(), folder=tmp_path, validate=lambda m: 1)
    assert options == {"log_dir": str(tmp_path / "tensorboard"), "purge_step": 0, "closed": True}
    assert ("loss", history.loss[1], 1) in written
    assert ("validation_loss", 1.0, 1) in written


@pytest.mark.parametrize("width", [80, 200])
def test_the_bar_says_loss_metric_and_time_left(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is on standard error.

    A narrow terminal breaks the line, and loses nothing.
    """
    monkeypatch.setenv("COLUMNS", str(width))
    with progress.TrainingLog(10, [], None, True) as log:
        row = {"step": 0, "epoch": 0, "loss": 2.5, "noise_scale": 1.5, "learning_rate": 1e-3}
        log.add({k: float(v) for k, v in row.items()}, {"accuracy": 0.8, "loss": 0.7})
    out, err = capsys.readouterr()
    note = "epoch 0, loss 2.5, validation accuracy 80.0 %"
    assert out == "" and err.startswith("training ")
    assert re.search(r"\s1/10\s", err) and re.search(r"\s(-:--:--|\d:\d\d:\d\d)\s", err)
    if width == 200:
        assert note in err
    assert all(f" {word} " in err.replace("\n", " ") for word in note.split())


def test_the_options_are_those_of_the_signature() -> None:
    """`train` has the same names and defaults as the options.

    It spells them out for its users, and none is forgotten.
    """
    signature = inspect.signature(train).parameters
    others = {"model", "loader", "loss", "recipe", "accelerate"}
    assert {n: p.default for n, p in signature.items() if n not in others} == {
        field.name: field.default for field in dataclasses.fields(Options)
    }
    documented = re.findall(r"\w+", str(train.__doc__))
    assert not set(signature) - set(documented)


# --- ranges after a calibration ---


@pytest.mark.parametrize("start", ["calibrated", "data"])
def test_ranges_after_a_calibration(engine: str, start: str) -> None:
    """With "calibrated" ranges stay; with "data" they start again.

    They start from the first mini-batches.
    """
    preset = QUIET if engine == "native" else RANGED
    analog = convert(nn.Linear(60, 50), preset, engine=engine)
    calibrate(analog, [random(20, 60)])
    before = only(analog).input_ranges()
    data = [random(20, 60, seed=i) * (2 + i) for i in range(4)]
    how = recipe(
        learn_input_ranges=True, input_range_init_batches=3, learning_rate=STILL,
        input_range_start=start,
    )  # fmt: skip
    quick(analog, data, how)
    after = only(analog).input_ranges()
    assert before is not None and after is not None
    from_data = sum(float(x.std(correction=0)) * 3.0 for x in data[:3]) / 3
    expected = float(before[0, 0]) if start == "calibrated" else from_data
    assert float(after[0, 0]) == pytest.approx(expected, rel=1e-3)
    assert abs(from_data / float(before[0, 0]) - 1) > 0.5


# --- the control ---


def test_the_control_is_plain_training_of_the_digital_model() -> None:
    """It is computed by hand, with a noisy recipe.

    The recipe's noise, clip and remap are not for the digital model.
    """
    model, twin = dropping_net(), dropping_net()
    fields = {**EVERYTHING, "optimizer": "sgd", "lr_schedule": "linear", "lr_drop_on_stall": False}
    data = [(random(8, 2, 4, 4, seed=i), torch.arange(8) % 3) for i in range(4)]
    teacher = small_net().eval()
    model[4].p = twin[4].p = 0.0
    history = train_digital(
        model, data, cross_entropy, recipe=recipe(**fields), teacher=teacher, max_batches=9,
        progress=False, cpu=True,
    )  # fmt: skip
    assert list(history.noise_scale) == [0.0] * 9
    groups = [
        {"params": [p for p in twin.parameters() if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in twin.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=recipe().spec.momentum)
    for step in range(9):
        rate = 0.1 if step < 3 else (9 - step) / 6
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * rate
        x, y = data[step % 4]
        scores = twin(x)
        with torch.no_grad():
            target = (teacher(x) / 2.0).softmax(1)
        follow = (target * (target.log() - (scores / 2.0).log_softmax(1))).sum(1).mean()
        value = 0.7 * functional.cross_entropy(scores, y) + 0.3 * 4.0 * follow
        assert float(history.loss[step]) == pytest.approx(float(value.detach()), rel=1e-4)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
    for (name, got), expected in zip(
        model.state_dict().items(), twin.state_dict().values(), strict=True
    ):
        assert_close(got, expected, name, 1e-4)


def test_the_control_sees_the_same_data_in_the_same_order() -> None:
    orders: list[list[float]] = []
    for kind in ("train", "digital"):
        seen: list[float] = []

        def loss(m: nn.Module, batch: list[Tensor], seen: list[float] = seen) -> Tensor:
            seen.append(float(batch[0].sum()))
            return m(batch[0]).square().mean()

        data = torch.utils.data.TensorDataset(random(12, 12))
        loader = DataLoader(data, batch_size=3, shuffle=True)
        how = recipe(noise_type="pcm", noise_scale=1.0, learning_rate=STILL, epochs=2)
        if kind == "train":
            train(convert(mlp(), rasch2023.change(input_range="none", dac_bits=None, why="test")),
                  loader, loss, recipe=how, progress=False, cpu=True)  # fmt: skip
        else:
            train_digital(mlp(), loader, loss, recipe=how, progress=False, cpu=True)
        orders.append(seen)
    assert orders[0] == orders[1]
    # The order is shuffled again.
    assert sorted(orders[0][:4]) != pytest.approx(sorted(orders[0][4:]))


# --- compiled ---


@pytest.mark.filterwarnings("ignore")  # The warnings are torch's own, while it compiles.
def test_a_compiled_training_is_the_same() -> None:
    """The backend is the one that needs no C++ compiler.

    Inductor takes half a minute to start.
    """
    states = []
    how = recipe(
        noise_type="pcm", noise_scale=2.0, learn_input_ranges=True, input_range_init_batches=1,
        learning_rate=0.01, distill_weight=0.5,
    )  # fmt: skip
    for compiled in (False, "aot_eager"):
        analog = convert(nn.Sequential(linear(12, 5), nn.Tanh()), rasch2023)
        data = [random(4, 12, seed=i) for i in range(3)]
        kinds = set()

        def loss(m: nn.Module, batch: Tensor, kinds: set[str] = kinds) -> Tensor:
            kinds.add(type(m).__name__)
            return m(batch).square().mean()

        teacher = linear(12, 5, seed=3)
        quick(analog, data, how, compile=compiled, teacher=teacher, loss=loss)
        assert kinds == {"OptimizedModule" if compiled else "Sequential"}
        assert all("forward" not in module.__dict__ for module in analog.modules())
        states.append(analog.state_dict())
    for name, value in states[0].items():
        assert_close(states[1][name], value, name, 1e-5)


def test_aihwkits_tiles_are_not_compiled() -> None:
    analog = convert(mlp(), ideal, engine="aihwkit")
    with pytest.raises(CapabilityError, match='compile=True.*engine="native"'):
        quick(analog, [random(2, 12)], recipe(), compile=True)


def test_a_copy_of_a_model_under_training_options_is_plain() -> None:
    """After a training the model can be copied and pickled.

    Nothing of the run is left on it.
    """
    analog = convert(mlp(), QUIET)
    quick(analog, [random(4, 12)] * 2, recipe(learn_input_ranges=True), validate=lambda m: 1.0)
    again = copy.deepcopy(analog)
    assert torch.equal(again(random(2, 12)), analog(random(2, 12)))
    assert PLAIN["noise_type"] == "none"
