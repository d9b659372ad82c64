"""The speed benchmark: its statistics, targets, and that every row runs.

No test asserts a time: what is slow here says nothing about what is slow at full size.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import CapabilityError
from benchmarks.speed import sides, targets, works
from benchmarks.speed.goals import MEASURES
from benchmarks.speed.groups import Collected
from benchmarks.speed.targets import TARGETS, Target
from benchmarks.speed.timing import (
    OTHERS,
    PASSES,
    PRODUCTS,
    Measured,
    Side,
    alternate,
    at_size,
    kind_of,
    quartiles,
    ratios,
)
from benchmarks.speed.works import FULL, QUICK, TINY

CPU = torch.device("cpu")
# --- statistics -----------------------------------------------------------------------------------


def test_quartiles_by_hand() -> None:
    assert quartiles([5.0]) == (5.0, 5.0, 5.0)
    assert quartiles([3.0, 1.0]) == (1.5, 2.0, 2.5)
    # The order statistics 1, 2, 4, 8, 16 lie at 0, 1/4, 1/2, 3/4, 1.
    assert quartiles([8.0, 1.0, 16.0, 4.0, 2.0]) == (2.0, 4.0, 8.0)
    # For 1, 2, 4, 8, the quartile lies 3/4 of a step from the first.
    assert quartiles([8.0, 4.0, 2.0, 1.0]) == (1.75, 3.0, 5.0)


def test_ratios_are_taken_within_rounds() -> None:
    side, base = [2.0, None, 9.0, 8.0], [1.0, 2.0, None, 2.0]
    assert ratios(side, base) == [2.0, 4.0]
    # A machine that is twice as slow in the second round moves no ratio: medians would give 3 /
    # 1.5.
    assert ratios([3.0, 6.0], [1.0, 2.0]) == [3.0, 3.0]


def test_one_size_is_scaled_in_proportion_and_two_along_a_line() -> None:
    single = Measured("a", 4.0, seconds=[2.0, None, 3.0])
    assert at_size([single], 64.0) == [32.0, None, 48.0]
    # 1 s per call and 0.5 s per image make 33 s for 64; in proportion it would be 42.7 and 64.
    small = Measured("a", 2.0, seconds=[2.0, 2.0, None])
    large = Measured("a", 6.0, seconds=[4.0, 1.5, 4.0])
    assert at_size([large, small], 64.0) == [33.0, 1.5, None]  # The second line may not fall.


class Clock:
    """A clock that tells the time that sides say they took."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []

    def __call__(self) -> float:
        return self.now

    def side(self, name: str, taken: list[float], **more: Any) -> Side:
        left = iter(taken)

        def run() -> None:
            self.ran.append(name)
            self.now += next(left)

        return Side(name, run, memory=False, **more)


def test_sides_take_turns_and_every_repeat_is_kept() -> None:
    clock = Clock()
    sides = [
        clock.side("a", [9.0, 1.0, 2.0, 3.0]),
        clock.side("b", [5.0, 6.0, 7.0], warm=0, before=lambda: clock.ran.append("before b")),
        clock.side("c", [9.0, 9.0, 4.0], warm=2, most=1),
    ]
    lines: list[str] = []
    a, b, c = alternate(sides, 3, CPU, lines.append, clock)
    assert (a.seconds, b.seconds, c.seconds) == (
        [1.0, 2.0, 3.0],
        [5.0, 6.0, 7.0],
        [4.0, None, None],
    )
    assert clock.ran == [
        *("a", "c", "c"),  # These are the warm-up.
        *("a", "before b", "b", "c"),
        *("before b", "b", "a"),
        *("a", "before b", "b"),
    ]
    assert lines == [
        "  a: 2 s [1.5, 2.5], 3 repeats",
        "  b: 6 s [5.5, 6.5], 3 repeats",
        "  c: 4 s [4, 4], 1 repeats",
    ]


def test_peak_memory_is_of_a_run_of_its_own() -> None:
    x = torch.zeros(1000)
    (measured,) = alternate([Side("double", lambda: x * 2)], 1, CPU)
    assert measured.peak == pytest.approx(4000, abs=100)  # It is 4000 and a few numbers more.


def test_parts_of_a_run() -> None:
    """Products, compiled passes and others are each counted once.

    Their kinds are listed by hand.
    """
    kinds = {
        "aten::mkldnn_convolution": PRODUCTS,
        "aten::convolution_backward": PRODUCTS,
        "mkldnn::_linear_pointwise": PRODUCTS,
        "aten::addmm": PRODUCTS,
        "aten::mkldnn_rnn_layer": PRODUCTS,
        "onednn::qconv2d_pointwise": PRODUCTS,
        "onednn::qlinear_pointwise": PRODUCTS,
        "aten::native_batch_norm": OTHERS,
        "aten::addcmul_": OTHERS,
        "## Call CompiledFxGraph fabc ##": PASSES,
        "CrossbarProduct": None,
        "TorchDynamo Cache Lookup": None,
    }
    assert {name: kind_of(name) for name in kinds} == kinds
    x = torch.ones(1500, 1500)  # so that a busy machine does not turn the order round
    (measured,) = alternate([Side("product", lambda: (x @ x).add_(1.0))], 3, CPU)
    assert measured.parts is not None and measured.parts[PASSES] == 0.0
    assert 0.0 < measured.parts[OTHERS] < measured.parts[PRODUCTS]


# --- targets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value", "verdict"),
    [
        (targets.RATIO, 2.0, "aim reached"),
        (targets.RATIO, 2.1, "met"),
        (targets.RATIO, 3.1, "not met"),
        (targets.SECONDS, 3.0, "met"),
        (targets.SUM, 3.1, "not met"),
    ],
)
def test_verdicts_of_what_must_be_small(kind: str, value: float, verdict: str) -> None:
    assert Target("r", "g", "s", "w", kind, must=3.0, aim=2.0).verdict(value) == verdict


def test_verdicts_of_what_must_be_large_or_is_only_shown() -> None:
    faster = Target("r", "g", "s", "w", targets.FASTER, "b", must=50.0, aim=100.0)
    assert [faster.verdict(v) for v in (120.0, 50.0, 49.0)] == ["aim reached", "met", "not met"]
    assert Target("r", "g", "s", "w").verdict(1e9) == ""


def test_runs_that_are_not_compiled_may_have_promises_of_their_own() -> None:
    target = Target("r", "g", "s", "w", must=3.0, aim=2.0, eager=(5.0, 4.0))
    assert [target.verdict(4.5, compiled=on) for on in (True, False)] == ["not met", "met"]
    same = Target("r", "g", "s", "w", must=3.0, aim=2.0)
    assert [same.verdict(2.5, compiled=on) for on in (True, False)] == ["met", "met"]


def test_targets_are_distinct_and_each_has_a_measurement() -> None:
    names = [target.row for target in TARGETS]
    assert len(set(names)) == len(names)
    assert set(targets.GROUPS) == set(MEASURES)
    for target in TARGETS:
        if target.must is not None and target.aim is not None:
            harder = target.aim > target.must
            assert harder == (target.kind == targets.FASTER), target.row


# --- works and sides ------------------------------------------------------------------------------


def test_full_sizes_are_the_stated_ones() -> None:
    models = {
        "wrn": (works.wrn(FULL), "WRN-16-4", 64),
        "lstm": (works.lstm(FULL), "LSTM 2 x 650", 35),
    }
    for work, name, size in models.values():
        assert (work.name, work.size) == (name, size)
    convolutions = [m for m in models["wrn"][0].model.modules() if isinstance(m, nn.Conv2d)]
    # Each group has four 3 x 3 and one 1 x 1 convolutions.
    groups = ((16, 64), (64, 128), (128, 256))
    expected = 3 * 16 * 9 + sum(9 * (a * b + 3 * b * b) + a * b for a, b in groups)
    assert sum(m.weight.numel() for m in convolutions) == expected
    assert QUICK.wrn_batch < FULL.wrn_batch and FULL.sweep == (25, 4)
    assert (FULL.bert_layers, FULL.bert_width, FULL.bert_tokens) == (12, 768, 64)


def test_presets_leave_out_what_their_names_say() -> None:
    full = sides.ALL.crossbar
    weights, converters, output = (
        p.crossbar for p in (sides.WEIGHTS, sides.CONVERTERS, sides.OUTPUT)
    )
    assert (weights.dac_bits, weights.adc_bits, weights.input_range) == (None, None, "none")
    assert weights.out_noise == weights.w_noise == weights.ir_drop == 0.0
    assert (converters.dac_bits, converters.adc_bits) == (full.dac_bits, full.adc_bits) == (8, 8)
    assert converters.out_noise == converters.w_noise == converters.ir_drop == 0.0
    assert output.out_noise == full.out_noise > 0 and output.w_noise == output.ir_drop == 0.0
    assert full.w_noise > 0 and full.ir_drop > 0
    assert sides.WEIGHTS.pcm == sides.ALL.pcm and sides.ALL.training["wrn16"].noise_type == "pcm"


@pytest.mark.parametrize("engine", ["native", "aihwkit"])
def test_the_training_step_is_hardware_aware(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every matrix computes with noisy weights.

    The optimizer changes the clean ones.
    """
    work = works.wrn(TINY)
    step = sides.analog_step(work, sides.ALL, 2, engine)
    before = {name: m.normalised_weight() for name, m in step.matrices.items()}
    injected: dict[str, list[Any]] = {name: [] for name in before}
    for name, matrix in step.matrices.items():
        real = matrix.inject

        def spy(weight: Any, name: str = name, real: Any = real) -> None:
            injected[name].append(weight if weight is None else weight.clone())
            real(weight)

        monkeypatch.setattr(matrix, "inject", spy)
    assert math.isfinite(step())
    for name, (noisy, after) in injected.items():
        assert after is None
        changed = (noisy != before[name]) & (before[name] != 0)
        assert changed.float().mean() > 0.9, name
    moved = [
        not torch.equal(before[name], m.normalised_weight()) for name, m in step.matrices.items()
    ]
    assert all(moved)
    bounds = [m.normalised_weight().abs().max() for m in step.matrices.values()]
    assert max(bounds) <= 1.0 + 1e-6  # This is the recipe's clipping.


def test_a_native_forward_side_runs_on_a_chip_an_hour_old() -> None:
    work = works.wrn(TINY)
    model = sides.analog(work, sides.ALL)
    (first, *_) = matrices_of(model).values()
    assert not torch.equal(first.alpha(), torch.ones_like(first.alpha()))
    assert not model.training
    scores = sides.forward(model, work, 3, CPU)()
    assert isinstance(scores, torch.Tensor)
    assert scores.shape == (3, 100) and not scores.requires_grad


def test_half_precision_reaches_every_matrix() -> None:
    quiet = sides.ALL.change(out_noise=0.0, w_noise=0.0, adc_bits=None, why="exact products")
    work = works.wrn(TINY)
    model = sides.analog(work, quiet)
    run = sides.forward(model, work, 4, CPU)
    exact, again = run(), run()
    assert isinstance(exact, torch.Tensor) and isinstance(again, torch.Tensor)
    assert torch.equal(exact, again)
    sides.halved(model)
    for matrix in matrices_of(model).values():
        assert matrix.side_precision == torch.bfloat16  # type: ignore[attr-defined]
    half = run()
    assert isinstance(half, torch.Tensor) and not torch.equal(half, exact)


def test_the_torch_tile_is_aihwkits_own_and_keeps_excluded_layers() -> None:
    work = works.bert(TINY)
    model = sides.torch_tile(work, training=False, device=CPU)
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    assert kinds["classifier"] == kinds["bert.pooler.dense"] == "Linear"
    assert kinds["bert.encoder.layer.0.attention.self.query"] == "AnalogLinear"
    with pytest.raises(CapabilityError, match="w_noise"):
        sides.stock(work.model, sides.ALL, "torch")


def test_ours_must_run_and_others_may_fail_with_a_line() -> None:
    lines: list[str] = []

    def broken() -> Side:
        raise RuntimeError("no such\nkernel")

    collected = Collected(lines.append)
    collected.add(targets.TORCH, broken)
    assert collected.skipped == [f"{targets.TORCH}: no such kernel"] and collected.found == []
    assert lines == [f"  skipped {targets.TORCH}: no such kernel"]
    with pytest.raises(RuntimeError, match="no such"):
        collected.add("native, DAC/ADC only", broken)
