"""What a native crossbar keeps and when it sees a change: input ranges, tiles cut, weights."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from aimc_bridge import calibrate, convert, drift, program, restore
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.native import crossbar
from aimc_bridge.engines.native.tiles import TileWeights
from aimc_bridge.errors import CalibrationError
from presets import ideal, rasch2023
from tests.models import QUIET, assert_close, linear, mlp, only, random
from tests.test_native import spec_of

# --- input ranges ---


def test_ranges_never_set_are_an_error() -> None:
    for model in (convert(mlp(), rasch2023).eval(), convert(mlp(), rasch2023).train()):
        with pytest.raises(CalibrationError, match=r"layer '0' were never set; call calibrate\("):
            model(random(2, 12))
    convert(mlp(), ideal)(random(2, 12))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranges_start_from_data(dtype: torch.dtype) -> None:
    """Three standard deviations of each tile's inputs, mean over the first batches; zeros do not
    count."""
    preset = QUIET.change(max_rows=20, why="several tiles")
    analog = convert(linear(40, 30).to(dtype), preset).train()
    matrix = only(analog)
    matrix.prepare_training(spec_of(input_range_init_batches=3, input_range_init_sd=3.0))
    batches = [random(50, 40, seed=s, dtype=dtype) * (s + 1) for s in range(5)]
    batches[1][:, 20:] = 0.0
    for batch in batches:
        analog(batch)
    wanted = torch.stack(
        [
            torch.stack([b[:, :20].std(correction=0) for b in batches[:3]]).mean() * 3.0,
            torch.stack([b[:, 20:].std(correction=0) for b in (batches[0], *batches[2:4])]).mean()
            * 3.0,
        ]
    )
    ranges = matrix.input_ranges()
    assert ranges is not None
    assert_close(ranges[:, 0], wanted, "ranges", 1e-5 if dtype == torch.float32 else 1e-12)
    analog.eval()(batches[0])


def test_ranges_start_inside_a_recurrent_layer() -> None:
    """One batch is many products of one graph, the first with a state of zeros."""
    analog = convert(nn.LSTM(5, 7), rasch2023).train()
    matrices = matrices_of(analog)
    for matrix in matrices.values():
        matrix.prepare_training(spec_of(input_range_init_batches=100))
    out, _ = analog(random(6, 3, 5))
    out.sum().backward()
    hidden = matrices["hh_l0"].input_ranges()
    assert hidden is not None and 0.0 < float(hidden) < 0.9  # h is within +-1: no trace of the 1
    assert int(matrices["hh_l0"].range_batches) == 5  # type: ignore[attr-defined]


# --- what is kept between products ---


def count_tiles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made = [0]
    init = TileWeights.__init__

    def counted(self: TileWeights, *args: object) -> None:
        made[0] += 1
        init(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(TileWeights, "__init__", counted)
    return made


LAYER_KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: linear(30, 20), (4, 30)),
    "conv": (lambda: nn.Conv2d(3, 5, 3), (2, 3, 6, 6)),
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("kind", LAYER_KINDS)
def test_evaluation_derives_weights_once(
    kind: str, grad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a chip and, without gradients, on the clean weights; training derives them each time."""
    make, shape = LAYER_KINDS[kind]
    analog, x = convert(make(), QUIET).eval(), random(*shape)
    calibrate(analog, [x])
    made = count_tiles(monkeypatch)
    with torch.set_grad_enabled(grad):
        for _ in range(3):
            analog(x)
        assert made[0] == (3 if grad else 1)
        program(analog, 1)
        for i, t in enumerate((1.0, 3600.0)):
            drift(analog, t)
            made[0] = 0
            outs = [analog(x) for _ in range(3)]
            assert made[0] == 1 and torch.equal(outs[0], outs[2]), i
    restore(analog)
    made[0] = 0
    analog.train()
    analog(x)
    analog(x)
    assert made[0] == 2


class Interrupted(list[Any]):
    """A list whose every use is followed by what another thread does."""

    def __init__(self) -> None:
        super().__init__()
        self.owner = threading.current_thread()
        self.meanwhile: Callable[[], object] = lambda: None

    def _interrupt(self) -> None:
        if threading.current_thread() is self.owner:
            other = threading.Thread(target=self.meanwhile)
            other.start()
            other.join()

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        self._interrupt()
        return found

    def __setitem__(self, at: Any, value: Any) -> None:
        super().__setitem__(at, value)
        self._interrupt()


@pytest.mark.parametrize("what", ["forward", "restore"])
@torch.no_grad()
def test_another_threads_tiles_are_not_taken(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another model runs, or is restored, between any two looks at the tiles that were kept."""
    x, models = random(1, 40), [convert(linear(40, 40, seed=s), QUIET).eval() for s in (1, 5)]
    for model in models:
        calibrate(model, [random(50, 40)])
    wanted = [model(x) for model in models]
    recent, seen = Interrupted(), []
    actions: dict[str, Callable[[], object]] = {
        "forward": lambda: seen.append(models[1](x)),
        "restore": lambda: seen.append(restore(models[1])),
    }

    def meanwhile() -> None:
        with torch.no_grad():  # a thread has its own
            actions[what]()

    recent.meanwhile = meanwhile
    monkeypatch.setattr(crossbar, "_recent", recent)
    for _ in range(4):
        assert torch.equal(models[0](x), wanted[0])
    assert len(seen) >= 4
    if what == "forward":
        assert all(torch.equal(one, wanted[1]) for one in seen)
    restore(models[0])
    assert len(recent) == 0


@pytest.mark.parametrize("kind", LAYER_KINDS)
@torch.no_grad()
def test_changed_weights_are_seen(kind: str) -> None:
    """By the optimizer, by loading, by an engine's own doors, by a new tensor, by a new dtype."""
    make, shape = LAYER_KINDS[kind]
    model, x = make(), random(*shape)
    analog = convert(model, QUIET).eval()
    calibrate(analog, [x])
    matrix = only(analog)
    wanted = analog(x)
    state = copy.deepcopy(analog.state_dict())

    def changed(change: Callable[[], object]) -> None:
        change()
        assert not torch.equal(analog(x), wanted)
        analog.load_state_dict(state)
        assert torch.equal(analog(x), wanted)

    weight = analog.weight
    assert isinstance(weight, nn.Parameter)
    changed(lambda: weight.mul_(1.5))
    changed(lambda: setattr(weight, "data", weight.data * 1.5))
    changed(lambda: matrix.set_clean_weight(matrix.clean_weight() * 1.5))
    changed(lambda: matrix.clip(torch.tensor(0.3)))
    changed(lambda: matrix.column_scale().mul_(1.5))
    changed(lambda: matrix.set_input_ranges(torch.full((1, 1), 0.5)))
    assert_close(analog.double()(x.double()).float(), wanted, "float64", 0.05)
    analog.float()
    analog(x)
    assert any(vars(matrix._known).values())  # type: ignore[attr-defined]
    copied = pickle.loads(pickle.dumps(analog))
    # identities and versions mean nothing in a copy: it must not trust what was derived
    assert not any(vars(copied.crossbar._known).values())
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


def test_autocast_leaves_products_in_full_precision() -> None:
    analog = convert(mlp(), QUIET).eval()
    x = random(4, 12).requires_grad_()
    calibrate(analog, [x.detach()])
    wanted = analog(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = analog(x)
    assert got.dtype == torch.float32 and torch.equal(got, wanted)
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
        drift(analog, 1.0)  # indices are made once
        with Counter() as counter:
            program(analog, 1)
            drift(analog, 60.0)
        counts.append(counter.count)
    assert counts[0] == counts[1]
