"""`hardware_aware` around a loop of one's own: what it injects and follows, and what it refuses."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import warnings
from contextlib import suppress
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from aimc_bridge import calibrate, convert, drift, hardware_aware, program, restore, train
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines import unaware
from aimc_bridge.errors import CapabilityError, StateError, TrainingError, UsageError
from aimc_bridge.training import accelerate_state, noisy_weight
from aimc_bridge.training.weights import clip_and_remap
from presets import ideal, rasch2023
from tests.models import DEVICES, QUIET, RANGED, linear, mlp, random
from tests.training.test_session import FIELDS
from tests.training.test_setup import everything
from tests.training.test_training import STILL, normalised, recipe

NOISY = {"noise_type": "pcm", "noise_scale": 2.0}
DATA = [random(8, 12, seed=seed) for seed in range(6)]


def model_of(engine: str, preset: Any = DEVICES, digital: nn.Module | None = None) -> nn.Module:
    """Return a converted network in training mode."""
    return convert(digital or mlp(), preset, engine=engine).train()


def sgd(model: nn.Module, lr: float = 0.01) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    value: Tensor = model(x).square().mean()
    return value


def weights(model: nn.Module) -> list[Tensor]:
    """Return the normalised weights that every matrix multiplies with now."""
    return [normalised(matrix).clone() for matrix in matrices_of(model).values()]


def drawn(model: nn.Module, how: Any, step: int, seed: int = 0) -> list[Tensor]:
    """Return the noisy weights of a mini-batch, from their streams."""
    scale = how.spec.noise_scale
    return [
        noisy_weight(matrix, how.spec, scale, seed, ("inject", name, step, 0))
        for name, matrix in matrices_of(model).items()
    ]


def same(got: list[Tensor], expected: list[Tensor]) -> bool:
    """Return whether weights agree up to the rounding of their scales."""
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(got, expected, strict=True))


def assert_same_state(first: nn.Module, second: nn.Module) -> None:
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


# --- it is train ---


@pytest.mark.parametrize("batches", [0, -3, 2.5, "ten", 2**62 + 1])
def test_a_length_that_is_none_is_refused(batches: Any) -> None:
    model = model_of("native")
    with (
        pytest.raises(
            UsageError,
            match=r"batches \(mini-batches of the whole training.*=.*; allowed: an integer",
        ),
        hardware_aware(model, recipe(), sgd(model), batches=batches),
    ):
        pass


def test_a_training_may_be_very_long() -> None:
    """The largest length is 2^62; whether it is trained to its end does not matter."""
    model = model_of("native")
    with hardware_aware(model, recipe(), sgd(model), batches=2**62):
        loss_of(model, DATA[0]).backward()


def test_a_training_may_be_one_mini_batch_long(engine: str) -> None:
    """A length of 1 is allowed, and the loop is `train` then too."""
    preset = QUIET if engine == "native" else RANGED
    expected, model = (convert(mlp(), preset, engine=engine) for _ in range(2))
    how = recipe(**FIELDS)
    train(
        expected, DATA[:1], loss_of, recipe=how, optimizer=sgd(expected), progress=False, cpu=True
    )
    optimizer = sgd(model.train())
    with hardware_aware(model, how, [optimizer], batches=1):
        loss_of(model, DATA[0]).backward()
        optimizer.step()
    assert_same_state(expected, model)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_the_loop_of_the_contract_gives_the_weights_of_train(engine: str, kind: Any) -> None:
    """They agree bit for bit: dropout and noise of products are drawn alike too."""
    digital = nn.Sequential(*mlp(), nn.Dropout(0.2), linear(5, 3))
    preset = rasch2023 if engine == "native" else RANGED  # aihwkit's products have no seed
    how = recipe(**FIELDS, dropout=0.3)
    expected, model = (convert(digital, preset, engine=engine) for _ in range(2))
    options = {"optimizer": kind(expected.parameters(), lr=0.01), "seed": 7}
    train(expected, DATA, loss_of, recipe=how, progress=False, cpu=True, **options)
    optimizer = kind(model.parameters(), lr=0.01)
    model.train()
    with hardware_aware(model, how, optimizers=[optimizer], seed=7) as session:
        for x in DATA:
            loss_of(model, x).backward()
            optimizer.step()
            optimizer.zero_grad()
        assert session.started == len(DATA)
    assert_same_state(expected, model)
    assert model[3].p == 0.2  # type: ignore[index,union-attr]


def test_a_loop_that_accumulates_gradients_is_train_too(engine: str) -> None:
    preset = QUIET if engine == "native" else RANGED
    expected, model = (convert(mlp(), preset, engine=engine) for _ in range(2))
    how = recipe(**FIELDS)
    train(
        expected, DATA, loss_of, recipe=how, optimizer=sgd(expected), progress=False, cpu=True,
        gradient_accumulation_steps=3,
    )  # fmt: skip
    optimizer = sgd(model.train())
    with hardware_aware(model, how, optimizers=[optimizer]):
        for step, x in enumerate(DATA):
            (loss_of(model, x) / 3).backward()
            if step % 3 == 2:
                optimizer.step()
                optimizer.zero_grad()
    assert_same_state(expected, model)


def test_a_loop_cut_short_goes_on_from_its_states(engine: str) -> None:
    """The states are the model's, the optimizer's and the session's, which JSON can hold."""
    preset = rasch2023 if engine == "native" else RANGED
    how = recipe(**{**FIELDS, "input_range_start": "data", "input_range_init_batches": 5})

    def go(batches: list[Tensor], states: Any = None) -> tuple[nn.Module, Any]:
        model = model_of(engine, preset, nn.Sequential(*mlp(), nn.Dropout(0.2)))
        optimizer = sgd(model)
        with hardware_aware(model, how, optimizers=[optimizer], seed=3) as session:
            if states is not None:
                model.load_state_dict(states[0])
                optimizer.load_state_dict(states[1])
                session.load_state_dict(json.loads(states[2]))
            for x in batches:
                loss_of(model, x).backward()
                optimizer.step()
                optimizer.zero_grad()
            saved = (model.state_dict(), optimizer.state_dict(), json.dumps(session.state_dict()))
            return model, copy.deepcopy(saved)

    whole, _ = go(DATA)
    _, states = go(DATA[:3])
    torch.randn(7)  # What ran in between does not matter.
    resumed, _ = go(DATA[3:], states)
    assert_same_state(whole, resumed)


def test_a_state_of_another_training_is_refused() -> None:
    model = model_of("native")
    optimizer = sgd(model)
    with hardware_aware(model, recipe(**NOISY), [optimizer], seed=3) as session:
        state = session.state_dict()
    with hardware_aware(model, recipe(noise_scale=1.0), [optimizer], seed=4) as session:
        match = "seed 3, now 4; noise_type 'pcm', now 'none'; noise_scale 2.0, now 1.0"
        with pytest.raises(UsageError, match=match):
            session.load_state_dict(state)
        with pytest.raises(UsageError, match="no state of a session: it has epoch"):
            session.load_state_dict({"epoch": 3})
    with (
        hardware_aware(model, recipe(**NOISY), [optimizer, optimizer], seed=3) as session,
        pytest.raises(UsageError, match="number of optimizers 1, now 2"),
    ):
        session.load_state_dict(state)


# --- which passes have which noise ---


def test_a_mini_batch_begins_after_a_backward_pass_or_a_step(engine: str) -> None:
    """Passes before one backward pass share the noise, whatever they are for."""
    model, how = model_of(engine), recipe(**NOISY)
    clean = weights(model)
    optimizer = sgd(model, STILL)
    first, second, third = (drawn(model, how, step) for step in range(3))
    assert not same(first, clean) and not same(first, second)
    with hardware_aware(model, how, [optimizer]) as session:
        assert same(weights(model), clean)
        with torch.no_grad():
            model(DATA[0])
        assert same(weights(model), first)
        loss = loss_of(model, DATA[0]) + loss_of(model, DATA[1])
        loss.backward(retain_graph=True)
        loss.backward()
        assert same(weights(model), first) and session.started == 1
        loss_of(model, DATA[2])  # This pass gets no backward pass: the next one shares its noise.
        loss_of(model, DATA[2]).backward()
        assert same(weights(model), second) and session.started == 2
        optimizer.step()
        assert same(weights(model), clean)
        model(DATA[0])
        assert same(weights(model), third) and session.started == 3
    assert same(weights(model), clean)


def test_a_gradient_that_is_only_asked_for_begins_nothing(engine: str) -> None:
    """A gradient penalty is part of the mini-batch."""
    model = model_of(engine)
    optimizer = sgd(model)
    with hardware_aware(model, recipe(**NOISY), [optimizer]) as session:
        x = DATA[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=engine == "native")
        (loss_of(model, DATA[1]) + slope.detach().square().mean()).backward()
        assert session.started == 1


@pytest.mark.parametrize("reentrant", [False, True])
def test_passes_repeated_by_checkpointing_have_the_noise_of_the_first(
    engine: str, reentrant: bool
) -> None:
    class Net(nn.Module):
        def __init__(self, saving: bool) -> None:
            super().__init__()
            self.first, self.second, self.saving = mlp(), linear(5, 3), saving

        def forward(self, x: Tensor) -> Tensor:
            h = x
            for part in (self.first, self.second):
                h = checkpoint(part, h, use_reentrant=reentrant) if self.saving else part(h)
            return h

    grads = []
    for saving in (False, True):
        model = model_of(engine, digital=Net(saving))
        optimizer = sgd(model)
        with hardware_aware(model, recipe(**NOISY), [optimizer]) as session:
            for x in DATA[:2]:
                x = x.clone().requires_grad_()
                loss_of(model, x).backward()
            assert session.started == 2
            grads.append([p.grad for p in model.parameters() if p.grad is not None])
    for expected, got in zip(*grads, strict=True):
        torch.testing.assert_close(got, expected)


def test_passes_in_eval_mode_are_clean_at_any_moment(engine: str) -> None:
    """The gradients of the pass around them are those of its noise."""
    model, how = model_of(engine), recipe(**NOISY)
    digital_output = model.eval()(DATA[1])
    grads: list[Any] = []
    for evaluate in (False, True):
        model.zero_grad()
        with hardware_aware(model.train(), how, [sgd(model, STILL)]):
            loss = loss_of(model, DATA[0])
            if evaluate:
                assert torch.equal(model.eval()(DATA[1]), digital_output)
                model.train()
            assert same(weights(model), drawn(model, how, 0))
            loss.backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        assert torch.equal(model.eval()(DATA[1]), digital_output)
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_parts_that_are_called_alone_have_noise_too(engine: str) -> None:
    model, how = model_of(engine), recipe(**NOISY)
    with hardware_aware(model, how, [sgd(model, STILL)]):
        expected = drawn(model, how, 0)
        model[2](torch.relu(model[0](DATA[0]))).sum().backward()  # type: ignore[index,operator]
        assert same(weights(model), expected)


def test_a_layer_that_is_trained_in_eval_mode_is_named(engine: str) -> None:
    model = model_of(engine)
    model[0].eval()  # type: ignore[index,union-attr]
    optimizer = sgd(model)
    with hardware_aware(model, recipe(**NOISY), [optimizer]):
        for _ in range(2):  # It warns once.
            loss_of(model, DATA[0]).backward()
            with (
                pytest.warns(UserWarning, match=r"1 analog layers are trained in eval mode \('0'\)")
                if _ == 0
                else warnings.catch_warnings()
            ):
                optimizer.step()
            optimizer.zero_grad()


def test_a_chip_can_be_tried_between_two_steps(engine: str) -> None:
    """It is a chip of the clean weights, also of frozen ones."""
    model = model_of(engine)
    model[0].requires_grad_(False)  # type: ignore[index,union-attr]
    optimizer = sgd(model, STILL)
    program(model.eval(), seed=1)
    drift(model, 100.0)
    expected = weights(model)
    restore(model)
    with hardware_aware(model.train(), recipe(**NOISY), [optimizer]):
        loss_of(model, DATA[0]).backward()
        optimizer.step()
        program(model.eval(), seed=1)
        drift(model, 100.0)
        assert same(weights(model), expected)
        restore(model)
        loss_of(model.train(), DATA[1]).backward()


# --- steps ---


def test_each_optimizer_clips_and_remaps_what_it_trains(engine: str) -> None:
    model = model_of(engine)
    how = recipe(noise_type="none", clip_type="fixed", clip_value=0.4, remap_every=2)
    matrices = matrices_of(model)
    twins = matrices_of(copy.deepcopy(model))
    largest = {name: float(matrix.clean_weight().abs().max()) for name, matrix in matrices.items()}
    optimizers = [torch.optim.SGD(model[i].parameters(), lr=STILL) for i in (0, 2)]  # type: ignore[index,union-attr]
    steps = [(0, 1), (0,), (1,), (0, 1)]  # which optimizers step after each mini-batch
    last = [0, 0]
    with hardware_aware(model, how, optimizers):
        for done, stepping in enumerate(steps, 1):
            loss_of(model, DATA[done]).backward()
            for index in stepping:
                optimizers[index].step()
                name = "02"[index]
                clip_and_remap({name: twins[name]}, how.spec, last[index], done)
                last[index] = done
            for name, matrix in matrices.items():
                assert torch.equal(matrix.clean_weight(), twins[name].clean_weight())
                assert torch.equal(matrix.column_scale(), twins[name].column_scale())
    for name, matrix in matrices.items():
        assert float(matrix.clean_weight().abs().max()) < 0.5 * largest[name]


@accelerate_state()
def test_optimizers_that_accelerate_wraps_with_a_schedule(engine: str) -> None:
    expected, model = (model_of(engine) for _ in range(2))
    how = recipe(**NOISY, clip_type="fixed", clip_value=0.8, remap_every=2)

    def go(net: nn.Module, optimizer: Any, schedule: Any, backward: Any) -> None:
        with hardware_aware(net, how, [optimizer]):
            for x in DATA:
                backward(loss_of(net, x))
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()

    plain = sgd(expected)
    go(expected, plain, torch.optim.lr_scheduler.ExponentialLR(plain, 0.9), lambda x: x.backward())
    accelerator = Accelerator(cpu=True)
    bare = sgd(model)
    net, wrapped, schedule = accelerator.prepare(
        model, bare, torch.optim.lr_scheduler.ExponentialLR(bare, 0.9)
    )
    go(net, wrapped, schedule, accelerator.backward)
    assert_same_state(expected, model)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_clips_nothing(fused: bool) -> None:
    """After an overflow of float16 the optimizer does not step; fused ones skip by themselves."""
    model = model_of("native")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    how = recipe(**NOISY, clip_type="layer_gaussian", clip_value=1.0)
    before = copy.deepcopy(model.state_dict())
    with hardware_aware(model, how, [optimizer]) as session:
        scaler.scale(loss_of(model, DATA[0]) * float("inf")).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert session.followed == [0]
        for name, value in before.items():
            assert torch.equal(model.state_dict()[name], value), name
        scaler.scale(loss_of(model, DATA[0])).backward()
        scaler.step(optimizer)
        assert session.followed == [2]


# --- what is refused ---


def refused(model: nn.Module, error: Any, match: str, optimizers: Any, how: Any = None) -> None:
    """Assert an error, and that nothing of the session is left."""
    before = everything(model)
    state = copy.deepcopy(model.state_dict())
    with (
        pytest.raises(error, match=match),
        hardware_aware(model, how or recipe(**FIELDS), optimizers),
    ):
        pytest.fail("the session was opened")
    assert everything(model) == before
    for name, value in state.items():
        assert torch.equal(model.state_dict()[name], value), name


class NeedsClosure(torch.optim.SGD):
    def step(self, closure: Any) -> Any:  # type: ignore[override]
        return super().step(closure)


class StepsTwice(torch.optim.SGD):
    """An optimizer that calls its closure twice in a step."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        return super().step(closure)


def test_optimizers_that_cannot_be_followed(engine: str) -> None:
    model = model_of(engine, RANGED)
    parameters = list(model.parameters())
    for kind in (torch.optim.LBFGS, NeedsClosure):
        match = f"{kind.__name__} runs several forward and backward passes in one step"
        refused(model, UsageError, match, [kind(parameters)])
        with pytest.raises(UsageError, match=match):
            train(
                model, DATA, loss_of, recipe=recipe(), optimizer=kind(parameters), progress=False,
                cpu=True,
            )  # fmt: skip
    refused(model, UsageError, "none of its 4 parameters", [sgd(mlp())])
    refused(model, UsageError, "optimizers is empty", [])
    refused(model, UsageError, "optimizers holds a str", ["adam"])
    some = [p for p in parameters if p.requires_grad]
    match = "2 input ranges and 2 column scales that the recipe learns are in none"
    refused(model, UsageError, match, [torch.optim.SGD(some)])
    refused(model, UsageError, "recipe is 'wrn16'", [sgd(model)], "wrn16")
    refused(mlp(), CapabilityError, "not a converted model", [sgd(mlp())])


def test_an_optimizer_that_calls_its_closure_twice(engine: str) -> None:
    model = model_of(engine)
    optimizer = StepsTwice(model.parameters(), lr=0.01)
    with hardware_aware(model, recipe(**NOISY), [optimizer]):

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, DATA[0])
            loss.backward()
            return loss

        with pytest.raises(UsageError, match="StepsTwice runs several forward and backward"):
            optimizer.step(closure)


def test_steps_that_are_not_seen_are_an_error(engine: str) -> None:
    """The optimizer given is not the one that steps."""
    model = model_of(engine)
    given, stepping = sgd(model), sgd(model)
    with (
        hardware_aware(model, recipe(**NOISY), [given]),
        pytest.raises(TrainingError, match="none of the optimizers given has stepped"),
    ):
        for x in DATA:
            loss_of(model, x).backward()
            stepping.step()
            stepping.zero_grad()


def test_a_session_in_a_session_and_a_chip_are_refused(engine: str) -> None:
    model = model_of(engine)
    optimizer = sgd(model)
    with hardware_aware(model, recipe(**NOISY), [optimizer]) as session:
        refused(model, StateError, "is in a training already", [optimizer])
        with pytest.raises(StateError, match="is in a training already"):
            train(model, DATA, loss_of, recipe=recipe(), progress=False, cpu=True)
        loss_of(model, DATA[0]).backward()  # The first session goes on.
        assert session.started == 1 and same(weights(model), drawn(model, recipe(**NOISY), 0))
    program(model, seed=1)
    refused(model, StateError, r"call restore\(model\)", [optimizer])


def test_an_error_in_the_loop_leaves_a_model_without_hooks(engine: str) -> None:
    model = model_of(engine)
    loss_of(model, DATA[0])  # the first pass is measured, by hooks that are gone afterwards
    clean, before = weights(model), everything(model)
    with suppress(ZeroDivisionError), hardware_aware(model, recipe(**NOISY), [sgd(model)]):
        loss_of(model, DATA[0])
        _ = 1 / 0
    assert same(weights(model), clean) and everything(model) == before
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    with hardware_aware(model, recipe(**NOISY), [sgd(model)]):
        pass


def test_copies_made_in_a_session_are_not_part_of_it(engine: str) -> None:
    """An average of weights is such a copy."""
    model = model_of(engine)
    optimizer = sgd(model, STILL)
    with hardware_aware(model, recipe(**NOISY), [optimizer]) as session:
        loss_of(model, DATA[0]).backward()
        optimizer.step()
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            clean = weights(twin)
            twin(DATA[0])
            assert same(weights(twin), clean) and session.started == 1


# --- trained without noise ---


def step_once(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    loss_of(model, DATA[0]).backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_model_that_is_trained_without_noise_warns_once(engine: str) -> None:
    """So does each copy of it; every other model warns by itself."""
    model = model_of(engine)
    for net in (model, copy.deepcopy(model), model_of(engine)):
        optimizer = sgd(net)
        with pytest.warns(UserWarning, match="trains 2 weight matrices .* no weight noise") as seen:
            for _ in range(3):
                step_once(net, optimizer)
        assert len(seen) == 1 and seen[0].filename == __file__
    gc.collect()


def test_a_model_that_is_trained_in_eval_mode_without_noise_warns(engine: str) -> None:
    """Hugging Face gives models in eval mode, and a loop may forget `train()`."""
    model = model_of(engine).eval()
    calibrate(model, DATA)
    optimizer = sgd(model)
    with hardware_aware(model, recipe(**NOISY), [optimizer]):
        loss_of(model, DATA[0])  # an evaluation that keeps gradients
        step_once(model.train(), optimizer)
    model.eval()
    step_once(head := linear(12, 5), sgd(head))
    with pytest.warns(UserWarning, match="no weight noise is injected") as seen:
        for _ in range(2):
            step_once(model, optimizer)
    assert len(seen) == 1


def test_what_is_no_training_without_noise_does_not_warn(engine: str) -> None:
    """Warnings are errors in these tests."""
    model = model_of(engine)
    train(model, DATA[:1], loss_of, recipe=recipe(), progress=False, cpu=True)
    optimizer = sgd(model)
    with hardware_aware(model, recipe(), [optimizer]):
        step_once(model, optimizer)
    loss_of(model, DATA[0]).backward()  # Gradients alone are no training.
    model.zero_grad()
    step_once(mlp(), sgd(head := linear(12, 5)))
    step_once(head, sgd(head))
    step_once(perfect := model_of(engine, ideal), sgd(perfect))
    frozen = nn.Sequential(model_of(engine).requires_grad_(False), linear(5, 3))
    step_once(frozen, sgd(frozen))
    chip = model_of(engine)
    program(chip.eval(), seed=1)
    adapted = nn.Sequential(chip, linear(5, 3))
    adapted[1].train()
    step_once(adapted, sgd(adapted[1]))


def test_a_training_without_noise_is_noticed_after_a_session_too(engine: str) -> None:
    model = model_of(engine)
    optimizer = sgd(model)
    with hardware_aware(model, recipe(**NOISY), [optimizer]):
        step_once(model, optimizer)
    with pytest.warns(UserWarning, match="no weight noise is injected"):
        step_once(model, optimizer)


def test_a_pass_without_gradients_is_no_training(engine: str) -> None:
    """An optimizer that follows a penalty of the weights alone does not warn after one."""
    model = model_of(engine)
    with torch.no_grad():
        model(DATA[0])
    torch.stack([p.square().sum() for p in model.parameters() if p.requires_grad]).sum().backward()
    sgd(model).step()


def test_nothing_is_watched_once_nothing_is_noted() -> None:
    """No hook of all optimizers stays behind."""
    gc.collect()
    model = model_of("native")
    loss_of(model, DATA[0]).backward()
    assert unaware._handle
    with hardware_aware(model, recipe(**NOISY), [sgd(model)]):
        pass
    head = linear(12, 5)
    del model
    gc.collect()
    step_once(head, sgd(head))
    assert not unaware._handle or unaware._noted


def test_uncalibrated_ranges_start_in_a_loop_of_ones_own(engine: str) -> None:
    """A calibrated model keeps its ranges."""
    preset = QUIET if engine == "native" else RANGED
    model = model_of(engine, preset)
    how = recipe(learn_input_ranges=True, input_range_init_batches=2, learning_rate=STILL)
    optimizer = sgd(model, STILL)
    with hardware_aware(model, how, [optimizer]):
        for x in DATA[:3]:
            step_once_with = loss_of(model, x)
            step_once_with.backward()
            optimizer.step()
    expected = torch.stack([x.std(correction=0) for x in DATA[:2]]).mean() * 3.0
    ranges = matrices_of(model)["0"].input_ranges()
    assert ranges is not None
    if how.spec.input_range_init_sd == 3.0:
        torch.testing.assert_close(ranges, expected.expand_as(ranges), rtol=0.02, atol=0.0)
    calibrate(model.eval(), [DATA[0]])
