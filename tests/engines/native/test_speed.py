"""Methods that make the native engine fast and change no number.

They are pieces, thin products, one product for a perfect periphery, and side products in half
precision.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aimc_bridge import convert, drift, program
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.native import (
    backward,
    crossbar,
    forward,
    linear_product,
    onednn,
    product,
    side_precision,
    tiles,
)
from aimc_bridge.engines.native.crossbar import Crossbar
from aimc_bridge.engines.native.linear_product import LinearProduct
from aimc_bridge.errors import CapabilityError, UsageError
from aimc_bridge.layers.steps import kept_between_steps, time_steps
from presets import ideal, rasch2023, scalar_drift
from tests.models import QUIET, assert_close, linear, only, random
from tests.stats import assert_sd

DOUBLE = torch.float64

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(700, 600), (600, 700)),
    "conv": (lambda: nn.Conv2d(60, 40, 3, padding=1, stride=2), (7, 60, 8, 8)),
    "groups": (lambda: nn.Conv2d(8, 12, 3, groups=2), (7, 8, 6, 6)),
}


def trainable(kind: str, apart: bool) -> tuple[nn.Module, Tensor]:
    """Return a layer whose ranges, column scales, weights and inputs have gradients."""
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    preset = QUIET.change(ir_drop=30.0, out_bound=4.0, why="both act on small tiles")
    analog = convert(make().double(), preset).train()
    matrix = only(analog)
    assert isinstance(matrix, Crossbar) and matrix.input_range is not None
    ranges = torch.full(matrix.input_range.shape, 2.0, dtype=DOUBLE)
    if apart:
        ranges += 0.1 * torch.arange(ranges.numel()).view_as(ranges)
    matrix.set_input_ranges(ranges)
    matrix.input_range.requires_grad_(True)
    matrix.out_scale.requires_grad_(True)
    matrix.ranges.decay = (0.01, 0.5)
    return analog, random(*shape, dtype=DOUBLE).requires_grad_(True)


def set_all_ranges(analog: nn.Module, value: float) -> None:
    grid = only(analog).grid
    only(analog).set_input_ranges(torch.full((len(grid.rows), len(grid.columns)), value))


def everything(analog: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the output and every gradient."""
    x = x.detach().requires_grad_(True)
    analog.zero_grad()
    y = analog(x)
    (y * torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    grads = [p.grad for p in analog.parameters()]
    assert x.grad is not None and all(g is not None for g in grads)
    return [y.detach(), x.grad, *(g.clone() for g in grads if g is not None)]


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("kind", [*LAYERS, "one column"])
def test_rows_of_tiles_that_do_not_saturate_pass_back_as_one_product(
    kind: str, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All gradients equal each tile's own.

    Saturated tiles go one by one; so do groups and column tiles, which have ranges of their own.
    """
    monkeypatch.setitem(LAYERS, "one column", (lambda: nn.Linear(700, 300), (600, 700)))
    monkeypatch.setattr(forward, "_PIECE", 1 << 11)
    analog, x = trainable(kind, apart)
    matrix = only(analog)
    assert isinstance(matrix, Crossbar)
    at_once: list[bool] = []
    rows, look = backward.Gradients._add_rows, backward.Gradients._look

    def counted(self: backward.Gradients, *args: Any) -> None:
        at_once.append(True)
        rows(self, *args)

    monkeypatch.setattr(backward.Gradients, "_add_rows", counted)
    everything(analog, x)
    alone = kind in ("linear", "groups")
    saturated = len(at_once)
    matrix.preset = matrix.preset.change(out_bound=400.0, why="none saturates")
    together = everything(analog, x)
    assert (len(at_once) > saturated) == (not alone)
    assert saturated < len(at_once) - saturated or alone

    def one_by_one(self: backward.Gradients, *args: Any) -> bool:
        look(self, *args)
        return True

    monkeypatch.setattr(backward.Gradients, "_look", one_by_one)
    before = len(at_once)
    for got, expected in zip(together, everything(analog, x), strict=True):
        assert_close(got, expected, kind, 1e-12)
    assert len(at_once) == before


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_pieces_of_a_batch_equal_the_whole(
    kind: str, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs and all gradients are equal.

    The ranges have their decay, which counts clipped inputs.
    """
    analog, x = trainable(kind, apart)
    monkeypatch.setattr(forward, "_PIECE", 1 << 40)
    whole = everything(analog, x)
    matrix = only(analog)
    assert isinstance(matrix, Crossbar)
    monkeypatch.setattr(forward, "_PIECE", 1)
    assert len(forward._pieces(x, matrix.product)) == (3 if kind == "linear" else 7)
    for got, expected in zip(everything(analog, x), whole, strict=True):
        assert_close(got, expected, kind, 1e-11)


def test_pieces_cover_a_batch_once() -> None:
    grid = only(convert(linear(5, 3), QUIET)).grid
    for samples in (1, 255, 256, 257, 1000, 100_000):
        pieces = forward._pieces(torch.zeros(samples, 5), LinearProduct(grid))
        seen = [i for piece in pieces for i in range(samples)[piece]]
        assert seen == list(range(samples))


def test_noise_of_pieces_is_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal samples in two pieces have independent noise."""
    monkeypatch.setattr(forward, "_PIECE", 1)
    preset = rasch2023.change(
        dac_bits=None, adc_bits=None, ir_drop=0.0, w_noise=0.0, why="output noise alone"
    )
    model = linear(16, 64).eval()
    analog = convert(model, preset)
    only(analog).set_input_ranges(torch.full((1, 1), 3.0))
    x = random(1, 16).expand(4096, -1)
    torch.manual_seed(2)
    with torch.no_grad():
        z = (analog(x) - model(x)) / (0.04 * 3.0 * only(analog).column_scale()[0])
    assert_sd((z[:2048] + z[2048:]) / 2**0.5, 1.0, "pieces")


@torch.no_grad()
def test_thin_products_equal_wide_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few vectors share one reading of the weights; many do not."""
    analog = convert(linear(700, 600).double().eval(), QUIET.change(ir_drop=30.0, why="test"))
    matrix = only(analog)
    matrix.set_input_ranges(torch.full((2, 2), 3.0, dtype=DOUBLE))
    program(analog, 1)
    x = random(300, 700, dtype=DOUBLE)
    wide = analog(x)
    monkeypatch.setattr(linear_product, "MANY", 10**9)
    assert_close(analog(x), wide, "stacked", 1e-12)
    monkeypatch.setattr(crossbar, "MANY", 10**9)
    with time_steps():  # Derived weights are stored between products, too.
        assert_close(analog(x), wide, "kept", 1e-12)
        assert_close(analog(x), wide, "kept again", 1e-12)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("held", [False, True])
def test_a_perfect_periphery_is_one_product(
    kind: str, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs and gradients are those of the sum over tiles."""
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    preset = rasch2023.change(
        dac_bits=None,
        adc_bits=None,
        input_range="none",
        out_noise=0.0,
        w_noise=0.0,
        ir_drop=0.0,
        why="weights alone",
    )
    analog = convert(make().double().eval(), preset)
    matrix = only(analog)
    assert isinstance(matrix, Crossbar)
    with torch.no_grad():
        matrix.out_scale += 0.2 * random(*matrix.out_scale.shape, dtype=DOUBLE)
    matrix.out_scale.requires_grad_(True)
    x = random(*shape, dtype=DOUBLE)
    if held:
        program(analog, 2)
        drift(analog, "1d")
        for parameter in analog.parameters():
            parameter.requires_grad_(parameter is matrix.out_scale)
    else:
        matrix.inject(matrix.normalised_weight() * 1.25)

    def found() -> list[Tensor]:
        leaf = x.clone().requires_grad_(True)
        analog.zero_grad()
        y = analog(leaf)
        (y * torch.linspace(0.5, 1.5, y.numel(), dtype=DOUBLE).view_as(y)).sum().backward()
        assert leaf.grad is not None
        grads = [p.grad.clone() for p in analog.parameters() if p.grad is not None]
        assert len(grads) == (1 if held else 3)
        return [y.detach(), leaf.grad, *grads]

    once = found()
    monkeypatch.setattr(crossbar, "perfect", lambda spec, ir_drop: False)
    for got, expected in zip(once, found(), strict=True):
        assert_close(got, expected, kind, 1e-11)


def test_which_periphery_is_perfect() -> None:
    for preset in (ideal, scalar_drift):
        assert tiles.perfect(preset.crossbar, ir_drop=False)
    for change in (
        {"adc_bits": 8},
        {"out_noise": 0.1},
        {"w_noise": 0.1},
        {"input_range": "learned"},
    ):
        changed = ideal.change(**change, why="test")
        assert not tiles.perfect(changed.crossbar, ir_drop=False)
    assert not tiles.perfect(ideal.crossbar, ir_drop=True)


# --- side products in half precision ---


@pytest.mark.parametrize("kind", LAYERS)
@torch.no_grad()
def test_half_precision_changes_the_ir_drop_by_less_than_a_hundredth(kind: str) -> None:
    """The bound is relative to the largest drop.

    Without an IR drop nothing changes.
    """
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    model, x = make().eval(), random(*shape)
    smooth = {"dac_bits": None, "adc_bits": None, "out_noise": 0.0, "w_noise": 0.0}
    outs = {}
    for drop in (0.0, 1.0):
        analog = convert(model, rasch2023.change(**smooth, ir_drop=drop, why="no noise"))
        set_all_ranges(analog, 3.0)
        for dtype in (None, torch.bfloat16):
            side_precision(analog, dtype)
            outs[drop, dtype] = analog(x)
    assert torch.equal(outs[0.0, None], outs[0.0, torch.bfloat16])
    lost = (outs[0.0, None] - outs[1.0, None]).abs().max()
    error = (outs[1.0, None] - outs[1.0, torch.bfloat16]).abs().max()
    assert 0.0 < float(error / lost) < 0.01


def test_half_precision_noise_has_the_variance_of_the_law() -> None:
    preset = rasch2023.change(
        dac_bits=None, adc_bits=None, ir_drop=0.0, out_noise=0.0, why="read noise alone"
    )
    model, x = linear(400, 64).eval(), random(1, 400)
    analog = convert(model, preset)
    matrix = only(analog)
    matrix.set_input_ranges(torch.full((1, 1), 4.0))
    side_precision(analog, torch.bfloat16)
    size = matrix.normalised_weight().abs() @ (x[0] / 4.0).square()
    sd = 0.0175 * size.sqrt() * 4.0 * matrix.column_scale()[0]
    torch.manual_seed(1)
    with torch.no_grad():
        z = (analog(x.expand(4096, -1)) - model(x)) / sd
    assert_sd(z, 1.0, "read noise in half precision")


def test_half_precision_is_undone() -> None:
    analog = convert(linear(30, 20).eval(), QUIET)
    only(analog).set_input_ranges(torch.full((1, 1), 3.0))
    x = random(4, 30)
    with torch.no_grad():
        before = analog(x)
        side_precision(analog, torch.bfloat16)
        analog(x)
        side_precision(copy.deepcopy(analog), None)  # This setting belongs to the copy alone.
        side_precision(analog, None)
        assert torch.equal(analog(x), before)


def test_half_precision_of_what_cannot() -> None:
    analog = convert(linear(4, 3), QUIET)
    with pytest.raises(UsageError, match="bfloat16"):
        side_precision(analog, torch.float16)
    with pytest.raises(CapabilityError, match="native"):
        side_precision(convert(linear(4, 3), rasch2023, engine="aihwkit"), torch.bfloat16)
    assert matrices_of(analog)


def test_both_matrix_products_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN's and torch's own products agree to float error.

    The first is really used if it is there.
    """
    x, weight = random(300, 70), random(50, 70)
    expected = (x.double() @ weight.double().T + 0.5).float()
    with torch.no_grad():
        for there in (onednn._THERE, False):
            monkeypatch.setattr(onednn, "_THERE", there)
            got = onednn.linear(x, weight, torch.full((50,), 0.5))
            assert_close(got, expected, f"oneDNN {there}", 1e-6)
    assert onednn.linear(x.requires_grad_(True), weight, None).requires_grad


@pytest.mark.skipif(not onednn._THERE, reason="torch was built without oneDNN")
@pytest.mark.parametrize("inference", [False, True])
def test_weights_of_a_time_loop_are_kept_in_onednns_order(inference: bool) -> None:
    """The numbers are the same in oneDNN's order.

    Nothing outlives the weights, and outside of a loop nothing is stored at all.
    """
    with torch.inference_mode(inference), torch.no_grad():
        x, weight = random(20, 70), random(50, 70).abs()
        first = onednn.linear(x, weight, None)
        with time_steps():
            packed = [onednn.linear(x, weight, None) for _ in range(3)]
            assert all(torch.equal(each, first) for each in packed)
            cache = kept_between_steps()
            assert cache is not None
            uses = cache[onednn._prepared]
            ready = uses[weight][20]
            assert ready is not None and ready.is_mkldnn
            for _ in range(3):  # This is another number of vectors.
                assert torch.equal(onednn.linear(x[:17], weight, None), first[:17])
            assert torch.equal(onednn.linear(x, weight, None), first)
            many = random(product.MANY, 70)
            for _ in range(2):
                onednn.linear(many, weight, None)
            assert set(uses[weight]) == {17, 20}
            held = len(uses)
            onednn.linear(x, weight * 2.0, None)  # These weights belong to one step alone.
            assert len(uses) == held
        weight.data.mul_(2.0)
        assert_close(onednn.linear(x, weight, None), 2.0 * first, "after a change", 1e-6)
