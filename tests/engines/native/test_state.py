"""State of a native crossbar, and when it sees a change: input ranges, tiles, weights."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aimc_bridge import calibrate, convert, drift, program, restore
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.native.crossbar import Crossbar
from aimc_bridge.engines.native.tiles import TileWeights
from aimc_bridge.errors import CalibrationError
from aimc_bridge.layers import recurrent
from aimc_bridge.layers.steps import kept_between_steps, time_steps
from presets import ideal, rasch2023
from tests.engines.native.test_product import spec_of
from tests.models import QUIET, RANGED, assert_close, linear, mlp, only, random

# --- input ranges ---


def test_ranges_never_set_are_an_error() -> None:
    for model in (convert(mlp(), rasch2023).eval(), convert(mlp(), rasch2023).train()):
        with pytest.raises(CalibrationError, match=r"layer '0' were never set; call calibrate\("):
            model(random(2, 12))
    convert(mlp(), ideal)(random(2, 12))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranges_start_from_data(dtype: torch.dtype) -> None:
    """A range is three standard deviations of its tile's inputs.

    It is the mean over the first batches; zeros do not count.
    """
    preset = QUIET.change(max_rows=20, why="several tiles")
    analog = convert(linear(40, 30).to(dtype), preset).train()
    matrix = only(analog)
    matrix.prepare_training(spec_of(input_range_init_batches=3, input_range_init_sd=3.0))
    batches = [random(50, 40, seed=s, dtype=dtype) * (s + 1) for s in range(5)]
    batches[1][:, 20:] = 0.0
    for batch in batches:
        analog(batch)
    expected = torch.stack(
        [
            torch.stack([b[:, :20].std(correction=0) for b in batches[:3]]).mean() * 3.0,
            torch.stack([b[:, 20:].std(correction=0) for b in (batches[0], *batches[2:4])]).mean()
            * 3.0,
        ]
    )
    ranges = matrix.input_ranges()
    assert ranges is not None
    assert_close(ranges[:, 0], expected, "ranges", 1e-5 if dtype == torch.float32 else 1e-12)
    analog.eval()(batches[0])


def test_ranges_start_inside_a_recurrent_layer() -> None:
    """One batch is many products of one graph.

    The first product has a state of zeros.
    """
    analog = convert(nn.LSTM(5, 7), rasch2023).train()
    matrices = matrices_of(analog)
    for matrix in matrices.values():
        matrix.prepare_training(spec_of(input_range_init_batches=100))
    out, _ = analog(random(6, 3, 5))
    out.sum().backward()
    hidden = matrices["hh_l0"].input_ranges()
    # h is within +-1, and the initial range of 1 left no trace.
    assert hidden is not None and 0.0 < float(hidden) < 0.9
    assert int(matrices["hh_l0"].range_batches) == 5  # type: ignore[attr-defined]


# --- state between products ---


def count_tiles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    count = [0]
    init = TileWeights.__init__

    def counted(self: TileWeights, *args: object) -> None:
        count[0] += 1
        init(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(TileWeights, "__init__", counted)
    return count


LAYER_KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: linear(30, 20), (4, 30)),
    "conv": (lambda: nn.Conv2d(3, 5, 3), (2, 3, 6, 6)),
}


def stages(analog: nn.Module) -> Iterator[str]:
    """Put a model into each of its states, and yield the state's name."""
    yield "clean"
    program(analog, 1)
    drift(analog, 3600.0)
    yield "on a chip"
    restore(analog)
    analog.train()
    yield "in training"
    for matrix in matrices_of(analog).values():
        matrix.inject(matrix.normalised_weight() * 1.1)
    yield "in training with noise"
    analog.eval()
    for matrix in matrices_of(analog).values():
        matrix.inject(None)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("kind", LAYER_KINDS)
def test_every_product_takes_the_weights_as_they_are(
    kind: str, grad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next product uses nothing derived by the one before, unless both read the same chip."""
    make, shape = LAYER_KINDS[kind]
    analog, x = convert(make(), QUIET).eval(), random(*shape)
    calibrate(analog, [x])
    count = count_tiles(monkeypatch)
    for stage in stages(analog):
        count[0] = 0
        with torch.set_grad_enabled(grad):
            outs = [analog(x) for _ in range(3)]
        assert count[0] == (1 if stage == "on a chip" else 3), stage
        assert torch.equal(outs[0], outs[2]), stage


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("steps", [1, 9])
def test_time_steps_share_what_the_first_derived(
    steps: int, grad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each matrix is cut into tiles once per pass, and once per chip.

    This includes projections, whatever the number of steps.
    """
    analog = convert(nn.LSTM(6, 8, proj_size=3, bidirectional=True), QUIET).eval()
    x = random(steps, 20, 6)
    calibrate(analog, [x])
    count = count_tiles(monkeypatch)
    for stage in stages(analog):
        for again in range(2):
            count[0] = 0
            with torch.set_grad_enabled(grad):
                analog(x)
            cut = 0 if again and stage == "on a chip" else len(matrices_of(analog))
            assert count[0] == cut and len(matrices_of(analog)) == 6, stage
            assert kept_between_steps() is None


@torch.no_grad()
def test_steps_that_share_tiles_give_what_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps with their own tiles give the same bits.

    This holds on oneDNN's path too.
    """
    analog = convert(nn.LSTM(6, 8, num_layers=2), QUIET).eval()
    x = random(9, 20, 6)
    calibrate(analog, [x])
    shared = [analog(x)[0] for _ in stages(analog)]
    monkeypatch.setattr(recurrent, "time_steps", nullcontext)
    for output, stage in zip(shared, stages(analog), strict=True):
        assert torch.equal(analog(x)[0], output), stage


@pytest.mark.parametrize("what", ["forward", "restore"])
@torch.no_grad()
def test_another_threads_tiles_are_not_taken(what: str) -> None:
    """Another model runs, or is restored, between any two time steps."""
    x, models = random(5, 2, 6), []
    for seed in (1, 5):
        torch.manual_seed(seed)
        models.append(convert(nn.LSTM(6, 8), QUIET).eval())
        calibrate(models[-1], [x])
    expected = [model(x)[0] for model in models]
    seen: list[Any] = []
    actions: dict[str, Callable[[], object]] = {
        "forward": lambda: seen.append(models[1](x)[0]),
        "restore": lambda: seen.append(restore(models[1])),
    }

    def meanwhile(*_: object) -> None:
        with torch.no_grad():  # Gradient mode is a setting of each thread.
            actions[what]()

    def interrupt(*_: object) -> None:
        other = threading.Thread(target=meanwhile)
        other.start()
        other.join()

    models[0].get_submodule("hh_l0").register_forward_hook(interrupt)
    assert torch.equal(models[0](x)[0], expected[0])
    assert len(seen) == 5
    if what == "forward":
        assert all(torch.equal(output, expected[1]) for output in seen)


def test_a_time_loop_that_fails_leaves_nothing() -> None:
    analog = convert(nn.LSTM(6, 8), QUIET).eval()
    calibrate(analog, [random(4, 2, 6)])

    def fail(*_: object) -> None:
        assert kept_between_steps()
        raise RuntimeError

    analog.get_submodule("hh_l0").register_forward_hook(fail)
    with pytest.raises(RuntimeError):
        analog(random(4, 2, 6))
    assert kept_between_steps() is None
    with time_steps():
        outer = kept_between_steps()
        with time_steps():
            assert kept_between_steps() is not outer
        assert kept_between_steps() is outer


WRITES: dict[str, Callable[[nn.Parameter], object]] = {
    "data.mul_": lambda weight: weight.data.mul_(2.0),
    "data.copy_": lambda weight: weight.data.copy_(weight.detach() * 2.0),
    "set_": lambda weight: weight.set_(weight.detach() * 2.0),
    "data =": lambda weight: setattr(weight, "data", weight.data * 2.0),
    "numpy": lambda weight: np.multiply(weight.detach().numpy(), 2.0, out=weight.detach().numpy()),
    "in place": lambda weight: weight.detach().mul_(2.0),
}
"""Ways to double a parameter. Torch counts up its version for `set_` and "in place" alone."""


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("kind", ["linear", "conv", "lstm"])
@torch.no_grad()
def test_weights_written_through_data_are_seen(engine: str, kind: str, write: str) -> None:
    """Weights are doubled between two evaluations.

    All outputs double too, to the last bit.
    """
    torch.manual_seed(0)
    model: nn.Module
    if kind == "linear":
        model, x = nn.Linear(30, 20, bias=False), random(20, 30)
    elif kind == "conv":
        model, x = nn.Conv2d(3, 5, 3, bias=False), random(2, 3, 6, 6)
    else:
        model, x = nn.LSTM(6, 8, bias=False), random(5, 20, 6)
    preset = RANGED if engine == "native" else ideal
    analog = convert(model, preset, engine=engine).eval()
    calibrate(analog, [x])
    twin = copy.deepcopy(analog)
    before = [analog(x) for _ in range(2)][-1]
    for name, weight in analog.named_parameters():
        if name.endswith("weight") or name.endswith("shared_weights"):
            WRITES[write](weight)
    after = analog(x)
    if kind != "lstm":
        assert torch.equal(after, 2.0 * before)
        return
    # This is the way an engine is asked to change weights.
    for matrix in matrices_of(twin).values():
        matrix.set_clean_weight(matrix.clean_weight() * 2.0, matrix.column_scale())
    assert torch.equal(after[0], twin(x)[0])
    assert not torch.equal(after[0], before[0])


@torch.no_grad()
def test_input_ranges_written_through_data_are_seen() -> None:
    """The ranges of two column tiles were one range before.

    This is on a CPU.
    """
    analog = convert(linear(8, 6), QUIET.change(max_columns=3, why="two column tiles")).eval()
    matrix = only(analog)
    assert isinstance(matrix, Crossbar) and matrix.input_range is not None
    matrix.set_input_ranges(torch.full((1, 2), 2.0))
    x = random(4, 8)
    analog(x)
    matrix.input_range.data[0, 1] = 0.5
    after = analog(x)
    matrix.set_input_ranges(torch.tensor([[2.0, 0.5]]))
    assert torch.equal(analog(x), after)
    matrix.range_batches.data.zero_()
    with pytest.raises(CalibrationError, match="were never set"):
        analog(x)


@pytest.mark.parametrize("kind", LAYER_KINDS)
@torch.no_grad()
def test_changed_weights_are_seen(kind: str) -> None:
    """The optimizer, loading and an engine's own methods change weights.

    So do a new tensor and a new dtype.
    """
    make, shape = LAYER_KINDS[kind]
    model, x = make(), random(*shape)
    analog = convert(model, QUIET).eval()
    calibrate(analog, [x])
    matrix = only(analog)
    expected = analog(x)
    state = copy.deepcopy(analog.state_dict())

    def changed(change: Callable[[], object]) -> None:
        change()
        assert not torch.equal(analog(x), expected)
        analog.load_state_dict(state)
        assert torch.equal(analog(x), expected)

    weight = analog.weight
    assert isinstance(weight, nn.Parameter)
    changed(lambda: weight.mul_(1.5))
    changed(lambda: setattr(weight, "data", weight.data * 1.5))
    changed(lambda: matrix.set_clean_weight(matrix.clean_weight() * 1.5))
    changed(lambda: matrix.clip(torch.tensor(0.3)))
    changed(lambda: matrix.column_scale().mul_(1.5))
    changed(lambda: matrix.set_input_ranges(torch.full((1, 1), 0.5)))
    assert_close(analog.double()(x.double()).float(), expected, "float64", 0.05)
    analog.float()
    analog(x)
    assert isinstance(matrix, Crossbar)
    assert matrix.ranges._state is not None
    copied = pickle.loads(pickle.dumps(analog))
    # Identities and versions mean nothing in a copy: it must not trust what was derived.
    assert copied.crossbar.ranges._state is None and copied.crossbar.ranges._shared is None
    assert copied.crossbar.ranges.decay == matrix.ranges.decay
    copied.weight.mul_(1.5)
    assert not torch.equal(copied(x), analog(x))


def test_inference_mode() -> None:
    """A chip made and used in inference mode is the same chip, and serves outside of it too."""
    x = random(4, 12)
    outs = []
    for inference in (True, False):
        analog = convert(mlp(), QUIET).eval()
        with torch.inference_mode(inference):
            calibrate(analog, [x])
            clean = analog(x)
            program(analog, 1)
            drift(analog, 3600.0)
            outs.append((clean.clone(), analog(x).clone()))
        leaf = x.clone().requires_grad_()
        analog(leaf).sum().backward()
        assert leaf.grad is not None
        restore(analog)
        analog(x).sum().backward()
    assert torch.equal(outs[0][0], outs[1][0]) and torch.equal(outs[0][1], outs[1][1])


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("inference", [False, True])
def test_what_a_crossbar_is_told_in_inference_mode(inference: bool, moved: bool) -> None:
    """Weights, ranges and scales are written as outside of it; what was made there is written too.

    A model that is moved in inference mode has a scale that only inference mode can write.
    """
    preset = RANGED.change(max_rows=5, why="three tiles")
    analog = convert(linear(12, 9), preset).eval()
    matrix, x = only(analog), random(4, 12, dtype=torch.float64)
    values = random(9, 12, seed=1, dtype=torch.float64)
    if not moved:
        analog.double()
    with torch.inference_mode(inference or moved):
        if moved:
            analog.double()
        matrix.set_clean_weight(values, torch.ones(3, 9, dtype=torch.float64))
        matrix.remap()
        remapped = matrix.column_scale().clone()
        matrix.clip(torch.tensor(0.5))
        matrix.set_learned_scale(torch.full((3, 9), 1.25))
        matrix.set_input_ranges(torch.full((3, 1), 4.0))
        got = analog(x).clone()
    parts = values.split(list(matrix.grid.rows), dim=1)
    largest = torch.stack([part.abs().amax(1) for part in parts])
    assert torch.equal(remapped, largest) and torch.equal(matrix.column_scale(), largest)
    half = [
        part.clamp(-0.5 * m[:, None], 0.5 * m[:, None])
        for part, m in zip(parts, largest, strict=True)
    ]
    assert_close(matrix.clean_weight(), torch.cat(half, dim=1), "clipped weights")
    assert_close(got, 1.25 * x @ torch.cat(half, dim=1).T + analog.bias, "outputs")  # type: ignore
    if not moved:
        analog(x).sum().backward()
        assert_close(analog.weight.grad, 1.25 * x.sum(0).expand(9, -1), "gradients")  # type: ignore


def test_autocast_leaves_products_in_full_precision() -> None:
    analog = convert(mlp(), QUIET).eval()
    x = random(4, 12).requires_grad_()
    calibrate(analog, [x.detach()])
    expected = analog(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = analog(x)
    assert got.dtype == torch.float32 and torch.equal(got, expected)
    got.sum().backward()
    assert analog[0].weight.grad.dtype == torch.float32  # type: ignore[union-attr]


def test_unbatched_input_has_gradients() -> None:
    analog = convert(linear(12, 3), ideal)
    x = random(12)
    analog(x).sum().backward()
    assert_close(analog.weight.grad, x.expand(3, -1), "weights")  # type: ignore


def test_chip_operations_do_not_loop_over_tiles() -> None:
    """The number of operations of program and drift grows with row tiles only."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore
            self.count += 1
            return func(*args, **(kwargs or {}))

    counts = []
    for columns in (2, 8):
        preset = rasch2023.change(max_rows=16, max_columns=64 // columns, why="many tiles")
        analog = convert(linear(64, 64), preset).eval()
        assert len(only(analog).grid.columns) == columns
        program(analog, 1)
        drift(analog, 60.0)  # Indices, and what depends on the time alone, are made once.
        with Counter() as counter:
            program(analog, 1)
            drift(analog, 60.0)
        counts.append(counter.count)
    assert counts[0] == counts[1]
