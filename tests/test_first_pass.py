"""The first real pass of a converted model is measured, whoever runs it, and judged."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as nn_module
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.checkpoint import checkpoint

from aimc_bridge import (
    HWATraining,
    calibrate,
    convert,
    coverage,
    crosscheck,
    drift,
    hardware_aware,
    program,
    reestimate_batchnorm,
    sweep,
    train,
)
from aimc_bridge.converted import record_of
from aimc_bridge.errors import CalibrationError, ConversionError, UsageError
from presets import ideal, rasch2023, scalar_drift
from tests.models import QUIET, linear, mlp, random
from tests.test_products import WAYS, Holding, Uses

RECIPE = HWATraining.for_(rasch2023, "wrn16").override(
    epochs=1, learning_rate=0.01, distill_weight=0.0
)


class Decoder(nn.Module):
    """A converted layer, and a product with the table of an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = linear(8, 8)
        self.embedding = nn.Embedding(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.scored(self.layer(x))

    def scored(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.embedding.weight)

    def method(self, x: Tensor) -> Tensor:
        """Do what `forward` does, without `forward`."""
        return self.scored(self.layer(x))


def decoder(x: Tensor | None = None, **options: Any) -> nn.Module:
    return convert(Decoder(), options.pop("preset", ideal), **options)


def squares(model: nn.Module, x: Tensor) -> Tensor:
    value: Tensor = model(x).square().mean()
    return value


def left_nothing(model: nn.Module) -> bool:
    """Return whether no hook of a pass and no mode is left."""
    assert not nn_module._global_forward_hooks and not nn_module._global_forward_pre_hooks
    return _get_current_dispatch_mode() is None


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


X = random(5, 8)
NAMED = r"(mm|linear) with 'embedding.weight' \((8 x 6|6 x 8)\), an? \w+ \(test_first_pass.py:\d+\)"
ENDS = r'exclude=\["embedding.weight"\]$'


# --- what is caught -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_hidden_layer_is_an_error_of_the_first_pass(way: Any, engine: str) -> None:
    analog = convert(Holding(way), ideal, engine=engine, strict=True)
    with pytest.raises(ConversionError, match="multiplied outside of the tiles") as caught:
        analog(X)
    assert "addmm with a constant (8 x 8), a Linear (test_products.py:" in str(caught.value)
    assert "keep layers in the module tree" in str(caught.value) and left_nothing(analog)


def test_a_layer_reached_by_a_closure_and_by_a_call(engine: str) -> None:
    layer = linear(8, 8)
    model = Uses(lambda m, x: m.again(layer(x)), again=layer)
    with pytest.raises(ConversionError, match="addmm with a constant"):
        convert(model, ideal, engine=engine)(X)


@pytest.mark.parametrize("preset", [ideal, scalar_drift, rasch2023], ids=str)
def test_a_weight_that_is_used_without_calling_its_layer(preset: Any, engine: str) -> None:
    model = Uses(lambda m, x: functional.linear(x, m.other.weight), other=linear(8, 6))
    analog = convert(model, preset, engine=engine)
    with pytest.raises(ConversionError, match=r'exclude=\["other"\]$'):
        train(analog, [X], squares, recipe=RECIPE, progress=False)
    with pytest.raises(ConversionError, match="mm with 'other[.]"):
        calibrate(analog, [X])
    if preset.crossbar.input_range == "none":
        with pytest.raises(ConversionError, match="mm with 'other[.]"):
            analog(X)
    digital = convert(model, preset, engine=engine, exclude=["other"])
    calibrate(digital, [X])
    assert digital(X).shape == (5, 6)


def test_every_pass_is_an_error_until_the_product_is_excluded(engine: str) -> None:
    analog = decoder(engine=engine)
    for _ in range(2):
        with pytest.raises(ConversionError, match=NAMED) as caught:
            analog(X)
    assert caught.match(ENDS)
    assert "pass strict=False to convert" in str(caught.value)
    for pattern in ("embedding.weight", "embedding", "emb*"):
        decoder(engine=engine, exclude=pattern)(X)


def test_a_conversion_that_is_not_strict_warns_once(engine: str) -> None:
    analog = decoder(engine=engine, strict=False)
    with pytest.warns(UserWarning, match=NAMED):
        first = analog(X)
    assert record_of(analog).measured and hooks(analog) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(analog(X), first)


# --- whoever runs it ------------------------------------------------------------------------------

LIST_OF_RUNS: dict[str, Callable[[nn.Module], Any]] = {
    "a call": lambda model: model(X),
    "a call in training mode": lambda model: model.train()(X),
    "keyword arguments": lambda model: model(x=X),
    "calibrate": lambda model: calibrate(model, [X]),
    "train": lambda model: train(model, [X], squares, recipe=RECIPE, progress=False),
    "train, by a method": lambda model: train(
        model, [X], lambda m, x: m.method(x).square().mean(), recipe=RECIPE, progress=False
    ),
    "sweep": lambda model: sweep(
        model, lambda m: float(m.eval()(X).detach().sum()), times=1.0, chips=1, progress=False
    ),
    "sweep, by a method": lambda model: sweep(
        model,
        lambda m: float(m.eval().method(X).detach().sum()),
        times=1.0,
        chips=1,
        progress=False,
    ),
    "no gradients": torch.no_grad()(lambda model: model(X)),
    "inference mode": torch.inference_mode()(lambda model: model(X)),
    "a copy": lambda model: copy.deepcopy(model)(X),
}


@pytest.mark.parametrize("run", LIST_OF_RUNS)
def test_every_way_to_run_a_model_measures_it(run: str, engine: str) -> None:
    analog = decoder(engine=engine)
    with pytest.raises(ConversionError, match=NAMED):
        LIST_OF_RUNS[run](analog)
    assert left_nothing(analog)


def test_crosscheck_measures() -> None:
    with pytest.raises(ConversionError, match=NAMED):
        crosscheck(Decoder(), rasch2023, [X], times=["1d"], chips=4)


def test_reestimation_measures() -> None:
    model = Uses(lambda m, x: m.norm(x) @ m.table, norm=nn.BatchNorm1d(8), table=random(8, 3))
    with pytest.raises(ConversionError, match="'table'"):
        reestimate_batchnorm(convert(model, ideal), [X])


def test_pickles_keep_strictness(engine: str) -> None:
    analog = decoder(engine=engine)
    file = io.BytesIO()
    torch.save(analog, file)
    file.seek(0)
    copies = (pickle.loads(pickle.dumps(analog)), torch.load(file, weights_only=False))
    for copied in copies:
        with pytest.raises(ConversionError, match=NAMED):
            copied(X)
    assert not record_of(analog).measured
    measured = convert(mlp(), ideal, engine=engine)
    measured(random(2, 12))
    assert hooks(copy.deepcopy(measured)) == 0 and record_of(copy.deepcopy(measured)).measured


def test_a_part_that_is_called_alone_is_measured() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part, self.head = Decoder(), linear(6, 2)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.part(x))

    analog = convert(Whole(), ideal)
    with pytest.raises(ConversionError, match=r"'part.embedding.weight' .* in 'part', a Decoder"):
        analog.part(X)
    with pytest.raises(ConversionError, match=r'exclude=\["part.embedding.weight"\]$'):
        copy.deepcopy(analog.part)(X)
    analog.part.layer(X)  # nothing wrong here: from now on it is not watched
    assert not analog.part.layer._forward_hooks and analog.part._forward_hooks


def test_a_model_in_another_one_is_measured() -> None:
    with pytest.raises(ConversionError, match=NAMED):
        nn.Sequential(nn.Identity(), decoder())(X)
    inner = convert(mlp(), ideal)  # its tiles are no digital products of the outer one
    outer = Uses(lambda m, x: inner(torch.cat([x, x[:, :4]], 1)))
    convert(outer, ideal)(X)
    assert record_of(inner).measured


# --- the measured pass is like any other ----------------------------------------------------------


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.rnn = nn.Conv1d(4, 8, 3), nn.LSTM(8, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=True)
        self.head = linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.dropout(self.first(x).transpose(1, 2), 0.1, self.training)
        y = self.rnn(y)[0]
        scores: Tensor = self.head(self.attention(y, y, y, need_weights=False)[0])
        return scores


def one_pass(analog: nn.Module, seed: int) -> list[Tensor]:
    """Return outputs, all gradients, and the generator's state after a pass."""
    x = random(3, 4, 9).requires_grad_(True)
    analog.zero_grad()
    torch.manual_seed(seed)
    y = analog(x)
    after = torch.get_rng_state()
    y.square().sum().backward()
    grads = [p.grad for p in analog.parameters() if p.grad is not None]
    assert x.grad is not None and len(grads) > 6
    return [y.detach(), x.grad, *grads, after]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_outputs_gradients_and_random_numbers_are_those_of_any_pass(
    training: bool, engine: str
) -> None:
    preset = rasch2023 if engine == "native" else QUIET  # no seed reaches aihwkit's products
    analog = convert(Noisy(), preset, engine=engine).train(training)
    other = copy.deepcopy(analog)
    for model in (analog, other):
        calibrate(model, [random(3, 4, 9)])
    assert record_of(other).measured
    fresh = convert(Noisy(), preset, engine=engine).train(training)
    fresh.load_state_dict(analog.state_dict())
    assert hooks(fresh) and not hooks(other)
    pairs = zip(one_pass(fresh, 7), one_pass(other, 7), strict=True)
    assert all(torch.equal(first, later) for first, later in pairs)
    assert not hooks(fresh) and record_of(fresh).measured


def test_a_checkpointed_block_has_the_same_gradients() -> None:
    from torch.utils.checkpoint import checkpoint

    class Blocks(Noisy):
        def forward(self, x: Tensor) -> Tensor:
            run: Tensor = checkpoint(super().forward, x, use_reentrant=False)
            return run

    analog = convert(Blocks(), ideal).train()
    other = copy.deepcopy(analog)
    other(random(3, 4, 9))
    assert record_of(other).measured
    pairs = zip(one_pass(analog, 7), one_pass(other, 7), strict=True)
    assert all(torch.equal(first, later) for first, later in pairs)


def test_training_is_bit_equal_whether_it_measures_or_not(engine: str) -> None:
    preset = rasch2023 if engine == "native" else QUIET
    weights = []
    for first in (True, False):
        torch.manual_seed(0)
        analog = convert(mlp(), preset, engine=engine)
        calibrate(analog, [random(8, 12)])
        if first:  # as before any pass
            analog = convert(mlp(), preset, engine=engine)
            state = weights.pop() if weights else None
            assert state is None and not record_of(analog).measured
            other = convert(mlp(), preset, engine=engine)
            calibrate(other, [random(8, 12)])
            analog.load_state_dict(other.state_dict())
        batches = [random(8, 12, seed=i) for i in range(3)]
        train(analog, batches, squares, recipe=RECIPE, progress=False)
        weights.append([p.detach().clone() for p in analog.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_autocast_and_mixed_precision() -> None:
    analog = decoder()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ConversionError) as caught:
        analog(X)
    assert "mm with 'embedding.weight'" in str(caught.value)
    options: Any = {"recipe": RECIPE, "progress": False, "mixed_precision": "bf16"}
    with pytest.raises(ConversionError, match="'embedding.weight'"):
        train(analog, [X], squares, **options)
    train(decoder(exclude=["embedding"]), [X], squares, **options)


# --- passes that fail, and passes that are no passes ----------------------------------------------


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt], ids=lambda kind: kind.__name__)
def test_a_pass_that_fails_leaves_nothing_and_is_tried_again(kind: Any, engine: str) -> None:
    fail = [True]

    def rest(model: Any, x: Tensor) -> Any:
        if fail:
            raise kind("mine")
        return model.other(x) @ model.table

    parts = {"other": linear(8, 8), "table": random(8, 3)}
    analog = convert(Uses(rest, **parts), ideal, engine=engine)
    for _ in range(2):
        with pytest.raises(kind, match="mine"):
            analog(X)
    nn.Identity()(X)  # no hook runs after KeyboardInterrupt: the next call of a module cleans up
    assert left_nothing(analog)
    fail.clear()
    with pytest.raises(ConversionError, match=r'exclude=\["table"\]$'):
        analog(X)


def test_a_call_while_an_exception_is_handled_is_measured() -> None:
    analog = decoder()
    with pytest.raises(ConversionError, match=NAMED):
        try:
            raise MemoryError
        except MemoryError:
            analog(X)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_tracers_and_transforms_are_no_first_pass() -> None:
    analog = convert(mlp(), ideal)
    x = random(2, 12)
    torch.compile(analog, backend="eager")(x)
    torch.vmap(lambda row: row)(x)
    replica = analog._replicate_for_data_parallel()
    replica(x)
    assert not record_of(analog).measured and hooks(analog)
    analog(x)
    assert record_of(analog).measured and not hooks(analog)
    assert torch.equal(torch.compile(analog, backend="eager")(x), analog(x))


def test_training_with_compiled_code_measures() -> None:
    with pytest.raises(ConversionError, match="'embedding.weight'"):
        train(decoder(), [X], squares, recipe=RECIPE, progress=False, compile="eager")


def test_coverage_is_no_first_pass() -> None:
    analog = decoder()
    reason = coverage(analog, X).iloc[-1]["reason"]
    assert reason.startswith("mm with 'embedding.weight'") and not record_of(analog).measured
    with pytest.raises(ConversionError, match=NAMED):
        analog(X)


# --- exclude --------------------------------------------------------------------------------------


class Blur(nn.Module):
    """A fixed filter, which is no parameter."""

    def __init__(self, of_buffer: bool) -> None:
        super().__init__()
        if of_buffer:
            self.register_buffer("filter", torch.ones(1, 1, 3) / 3)
        self.of_buffer = of_buffer

    def forward(self, x: Tensor) -> Tensor:
        fixed = self.filter if self.of_buffer else torch.ones(1, 1, 3) / 3
        assert isinstance(fixed, Tensor)
        return functional.conv1d(x[:, None], fixed)[:, 0]


class Blurred(nn.Module):
    def __init__(self, of_buffer: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(linear(8, 8), Blur(of_buffer), linear(6, 8)) for _ in range(3)
        )
        self.same = self.blocks[0][1]

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("of_buffer", [True, False], ids=["buffer", "constant"])
def test_a_fixed_filter_is_excluded_by_the_module_that_multiplies(of_buffer: bool) -> None:
    model = Blurred(of_buffer)
    with pytest.raises(ConversionError, match=r'exclude=\["blocks.\*.1"\]$') as caught:
        convert(model, ideal)(X)
    what = "'blocks.2.1.filter'" if of_buffer else "a constant"
    assert f"convolution with {what} (1 x 1 x 3) in 'blocks.2.1', a Blur" in str(caught.value)
    analog = convert(model, ideal, exclude=["blocks.*.1"])
    analog(X)
    with pytest.raises(ConversionError, match=r'exclude=\["same", "blocks.1.1", "blocks.2.1"\]$'):
        convert(model, ideal, exclude=["same"])(X)  # another name of the first one
    rows = coverage(analog, X)
    assert list(rows.reason)[-1].endswith("excluded by 'blocks.*.1'")
    if of_buffer:
        convert(model, ideal, exclude=["*.filter"])(X)
    with pytest.raises(UsageError, match="matches no module"):
        convert(model, ideal, exclude=["blur"])
    with pytest.raises(UsageError, match="a layer that is converted whole"):
        convert(model, ideal, exclude=["blocks.0.0.weight"])


def test_a_module_that_also_holds_analog_layers_is_not_proposed() -> None:
    model = nn.Sequential(Uses(lambda m, x: x @ m.table, table=random(8, 3)), linear(3, 2))
    with pytest.raises(ConversionError, match=r'exclude=\["0.table"\]$'):
        convert(model, ideal)(X)
    model = nn.Sequential(Uses(lambda m, x: x @ torch.ones(8, 3)), linear(3, 2))
    with pytest.raises(ConversionError, match="constants in buffers.*strict=False to convert$"):
        convert(model, ideal)(X)


def test_inputs_may_lie_in_objects() -> None:
    class Batch:
        def __init__(self, x: Tensor) -> None:
            self.fields = [{"x": x}]
            self.itself = self

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear(3, 8)
            self.register_buffer("table", random(8, 3))

        def forward(self, batch: Any) -> Any:
            return self.layer(batch.fields[0]["x"] @ self.table)

    with pytest.raises(ConversionError, match="mm with 'table'"):
        convert(Graph(), ideal)(Batch(X))


# --- layers that a chip's pass does not reach -----------------------------------------------------


def test_a_programmed_model_warns_once_of_layers_that_its_first_pass_misses(engine: str) -> None:
    analog = convert(Uses(lambda m, x: x, unused=linear(8, 6)), scalar_drift, engine=engine).eval()
    analog(X)
    program(analog, 0)
    with pytest.raises(CalibrationError, match="calibration never reached layer 'unused'"):
        calibrate(analog, [X])  # its products do not see the chip: no pass, no warning
    with pytest.warns(UserWarning, match="this pass never reached these analog layers: unused;"):
        analog(X)
    drift(analog, "1d")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analog(X)
        program(analog, 1)
        analog(X)
    assert hooks(analog) == 0


def test_a_programmed_model_that_reaches_all_says_nothing() -> None:
    analog = convert(mlp(), ideal)
    program(analog, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analog(random(2, 12))
    assert hooks(analog) == 0 and record_of(analog).reach_checked


# --- loops of one's own ---


class Parts(nn.Module):
    """A network whose loop may call its parts, and multiply with a weight that it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(linear(12, 16), nn.Tanh())
        self.middle = nn.Sequential(linear(16, 16, seed=2))
        self.head = linear(16, 3, seed=3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.middle(self.body(x)))
        return out

    def by_parts(self, x: Tensor) -> Tensor:
        return functional.linear(self.middle(self.body(x)), self.head.weight)

    def by_layers(self, x: Tensor) -> Tensor:
        return functional.linear(torch.relu(self.body[0](x)), self.middle[0].weight)

    def checkpointed(self, x: Tensor) -> Tensor:
        h = checkpoint(self.body, x, use_reentrant=False)
        out: Tensor = self.head(checkpoint(self.middle, h, use_reentrant=False))
        return out


def loop(analog: nn.Module, run: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Train for two mini-batches in a loop of one's own, and return the gradients."""
    optimizer = torch.optim.SGD(analog.parameters(), lr=0.01)
    grads = []
    with hardware_aware(analog.train(), RECIPE, [optimizer]):
        for _ in range(2):
            run(random(8, 12)).square().mean().backward()
            grads += [p.grad.clone() for p in analog.parameters() if p.grad is not None]
            optimizer.step()
            optimizer.zero_grad()
    assert _get_current_dispatch_mode() is None
    return grads


@pytest.mark.parametrize("way", ["by_parts", "by_layers"])
def test_a_loop_that_calls_parts_is_measured(way: str, engine: str) -> None:
    """So that what it multiplies between them is seen, as in `train`."""
    analog = convert(Parts(), QUIET, engine=engine)
    with pytest.raises(ConversionError, match="mm with .*, a function"):
        loop(analog, getattr(analog, way))
    assert _get_current_dispatch_mode() is None
    name = "head" if way == "by_parts" else "middle.0"
    analog = convert(Parts(), QUIET, engine=engine, exclude=[name])
    loop(analog, getattr(analog, way))
    analog = convert(Parts(), QUIET, engine=engine, strict=False)
    with pytest.warns(UserWarning, match="multiplied outside of the tiles") as seen:
        loop(analog, getattr(analog, way))
    assert len(seen) == 1


def test_a_loop_of_checkpointed_parts_has_the_same_gradients(engine: str) -> None:
    """Passes repeated by backward are not measured; the noise is not part of a checkpoint."""
    grads = []
    for way in ("forward", "checkpointed"):
        analog = convert(Parts(), QUIET, engine=engine)
        calibrate(analog, [random(8, 12)])
        grads.append(loop(analog, getattr(analog, way)))
    for expected, got in zip(*grads, strict=True):
        torch.testing.assert_close(got, expected)


class Forces(nn.Module):
    """The slope of an energy, which is a backward pass inside of the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = mlp()

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.energy(x).sum(), x)[0]


def test_a_backward_pass_in_a_forward_pass_multiplies_nothing_of_its_own(engine: str) -> None:
    analog, x = convert(Forces().eval(), ideal, engine=engine), random(4, 12)
    torch.testing.assert_close(analog(x), Forces()(x), rtol=1e-4, atol=1e-5)
