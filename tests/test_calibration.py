"""Input ranges from data: statistics of each tile's inputs, computed a second time by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aimc_bridge import calibrate, calibration, convert, coverage
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import CalibrationError, CapabilityError, ShapeError, UsageError
from presets import ideal, rasch2023
from tests.models import QUIET, RANGED, assert_close, linear, mlp, only, random

# The layer takes several tiles, on every engine's tiles.
TILED = RANGED.change(max_rows=25, max_columns=20, why="ranges of tiles")


def by_max(parts: list[Tensor]) -> float:
    return max(float(part.abs().max()) for part in parts)


def by_percentile(parts: list[Tensor]) -> float:
    """Return the mean over batches of the smallest value that 90 % of |x| do not exceed."""
    percentiles = []
    for part in parts:
        size = part.abs().flatten().sort().values
        percentiles.append(float(size[round(0.9 * len(size)) - 1]))
    return sum(percentiles) / len(percentiles)


def by_sd(parts: list[Tensor]) -> float:
    return 2.5 * float(torch.cat([p.flatten() for p in parts]).double().std(correction=0))


METHODS: dict[str, tuple[Callable[[list[Tensor]], float], dict[str, float]]] = {
    "max": (by_max, {}),
    "percentile": (by_percentile, {"percentile": 90.0}),
    "std": (by_sd, {"sd": 2.5}),
}


def batches(*shape: int) -> list[Tensor]:
    """Return three batches of different sizes, means and spreads."""
    return [random(n, *shape, seed=n) * (1.0 + 0.3 * i) + 0.2 * i for i, n in enumerate((8, 20, 5))]


def check(analog: nn.Module, seen: Callable[[int, int], list[Tensor]], method: str) -> None:
    """Assert that every tile's range is the statistic of the inputs `seen(row, column)`."""
    matrix = only(analog)
    ranges = matrix.input_ranges()
    assert ranges is not None
    for row in range(len(matrix.grid.rows)):
        for column in range(len(matrix.grid.columns)):
            expected = METHODS[method][0](seen(row, column))
            assert abs(float(ranges[row, column]) / expected - 1.0) < 1e-6, (row, column)


@pytest.mark.parametrize("method", METHODS)
def test_linear_ranges(engine: str, method: str) -> None:
    """Tile rows are 20, 20, 20 of 60 inputs; the column tiles of a row have one range."""
    data = batches(60)
    data[1][:, 20:40] *= 5.0
    analog = convert(linear(60, 50), TILED, engine=engine)
    calibrate(analog, data, method=method, **METHODS[method][1])
    assert only(analog).grid.rows == (20, 20, 20) and len(only(analog).grid.columns) == 3
    check(analog, lambda row, _: [x[:, 20 * row : 20 * row + 20] for x in data], method)


@pytest.mark.parametrize("method", METHODS)
def test_convolution_ranges(method: str) -> None:
    """A tile's range is the range of the channels that it touches.

    The rows of (channel, kernel) are 7 * 9 = 63 on 21 + 21 + 21, cut inside channels 2 and 4.
    """
    data = [x * torch.linspace(0.5, 3.0, 7)[:, None, None] for x in batches(7, 5, 6)]
    analog = convert(nn.Conv2d(7, 30, 3, padding=1), TILED)
    calibrate(analog, data, method=method, **METHODS[method][1])
    assert only(analog).grid.rows == (21, 21, 21)
    channels = [slice(0, 3), slice(2, 5), slice(4, 7)]
    check(analog, lambda row, _: [x[:, channels[row]] for x in data], method)


@pytest.mark.parametrize("method", METHODS)
def test_grouped_convolution_ranges(method: str) -> None:
    """Each group has tiles of its own: 2 x 30 outputs on 2 x (15 + 15) columns."""
    data = [x * torch.linspace(0.5, 3.0, 6)[:, None] for x in batches(6, 9)]
    preset = TILED.change(max_rows=9, why="one row tile")
    analog = convert(nn.Conv1d(6, 60, 3, groups=2), preset)
    calibrate(analog, data, method=method, **METHODS[method][1])
    assert only(analog).grid.columns == (15,) * 4
    check(analog, lambda _, column: [x[:, column // 2 * 3 :][:, :3] for x in data], method)


def test_transposed_convolution_of_hugging_face(engine: str) -> None:
    from transformers.pytorch_utils import Conv1D

    x = random(4, 60)
    analog = convert(Conv1D(50, 60), TILED, engine=engine)
    calibrate(analog, [x])
    check(analog, lambda row, _: [x[:, 20 * row : 20 * row + 20]], "max")


def test_large_inputs_are_sampled_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many inputs are sampled: the percentile is taken of every n-th.

    n has no common factor with their number, and is 1 for fewer than 2^21 inputs.
    """
    assert calibration._step(2**21 - 1) == 1 and calibration._step(2**21) == 3
    monkeypatch.setattr(calibration, "_SAMPLE", 100)
    x = random(50, 20)
    analog = convert(linear(20, 3), TILED)
    calibrate(analog, [x], "percentile", percentile=90.0)
    check(analog, lambda *_: [x.flatten()[::11]], "percentile")


# There are 1000 inputs, and the percentile is taken of 91 of them: 4 or 5 of each of 20 features,
# 11 or 12 of each of 8 channels.
SAMPLED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[float, float]]] = {
    "features": (lambda: linear(20, 3), (50, 20), (94.0, 98.0)),
    "steps of sequences": (lambda: linear(20, 3), (5, 10, 20), (94.0, 98.0)),
    "channels": (lambda: nn.Conv2d(8, 3, 1), (25, 8, 1, 5), (85.0, 92.0)),
    "channels of single pixels": (lambda: nn.Conv2d(8, 3, 1), (125, 8, 1, 1), (85.0, 92.0)),
}


@pytest.mark.parametrize("case", SAMPLED)
def test_a_sample_sees_every_feature(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A feature twice as large as the rest is seen, whichever it is.

    The percentile below its share is the rest's value, and the percentile above it is its own.
    """
    make, shape, (below, above) = SAMPLED[case]
    monkeypatch.setattr(calibration, "_SAMPLE", 100)
    axis = 1 if len(shape) == 4 else -1
    for feature in range(shape[axis]):
        x = torch.ones(shape)
        x.select(axis, feature).fill_(2.0)
        for percentile, expected in ((below, 1.0), (above, 2.0)):
            analog = convert(make(), TILED)
            calibrate(analog, [x], "percentile", percentile=percentile)
            ranges = only(analog).input_ranges()
            assert ranges is not None and ranges.tolist() == [[expected]], feature


def test_products_are_exact_meanwhile(engine: str) -> None:
    """The ranges of a second layer come from a digital first layer's outputs."""
    preset = rasch2023 if engine == "native" else TILED
    model, x = mlp(), random(30, 12)
    analog = convert(model, preset, engine=engine)
    calibrate(analog, [x])
    with torch.no_grad():
        hidden = model[1](model[0](x))
    ranges = matrices_of(analog)["2"].input_ranges()
    assert ranges is not None
    assert_close(ranges, hidden.max().view(1, 1).expand_as(ranges), "range", 1e-6)


def test_learned_scales_count_meanwhile(engine: str) -> None:
    """The second layer sees the first one's outputs, with its learned column scales."""
    model = mlp()
    model[0].bias.data.zero_()  # type: ignore[union-attr]
    analog = convert(model, RANGED, engine=engine)
    for name, parameter in analog.named_parameters():
        if name.startswith("0.") and name.endswith(("out_scale", "out_scaling_alpha")):
            parameter.data.fill_(3.0)
    x = random(20, 12)
    calibrate(analog, [x])
    ranges = matrices_of(analog)["2"].input_ranges()
    assert ranges is not None
    expected = 3.0 * float(model[:2](x).detach().max())  # type: ignore[index]
    assert float(ranges) == pytest.approx(expected, rel=1e-5)


def test_modes_gradients_and_products_are_as_before(engine: str) -> None:
    analog = convert(nn.Sequential(mlp(), nn.Dropout(), linear(5, 3)), TILED, engine=engine)
    analog.train()
    analog[2].eval()
    modes = [m.training for m in analog.modules()]
    flags = [p.requires_grad for p in analog.parameters()]
    calibrate(analog, [random(8, 12)])
    assert [m.training for m in analog.modules()] == modes
    assert [p.requires_grad for p in analog.parameters()] == flags
    assert all(p.grad is None for p in analog.parameters())

    def broken() -> Any:
        yield random(8, 12)
        raise OSError("disk")

    before = [m.input_ranges() for m in matrices_of(analog).values()]
    with pytest.raises(OSError, match="disk"):
        calibrate(analog, broken())
    assert [m.training for m in analog.modules()] == modes
    for matrix, ranges in zip(matrices_of(analog).values(), before, strict=True):
        now = matrix.input_ranges()
        assert now is not None and ranges is not None and torch.equal(now, ranges)


class Two(nn.Module):
    """A model with two arguments, one of them optional."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.side = linear(12, 5), linear(4, 5)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        out: Tensor = self.fc(x)
        return out if y is None else out + self.side(y)


def test_kinds_of_batches(engine: str) -> None:
    x, y = random(6, 12), random(6, 4)
    by_kind = []
    for batch in ((x, y), [x, y], {"x": x, "y": y}):
        analog = convert(Two(), TILED, engine=engine)
        calibrate(analog, (b for b in [batch]))
        ranges = [m.input_ranges() for m in matrices_of(analog).values()]
        by_kind.append(torch.stack([r[0, 0] for r in ranges if r is not None]))
    assert torch.equal(by_kind[0], by_kind[1]) and torch.equal(by_kind[0], by_kind[2])
    assert_close(by_kind[0], torch.stack([x.abs().max(), y.abs().max()]), "ranges", 1e-6)


def test_again_replaces(engine: str) -> None:
    analog = convert(linear(12, 5), TILED, engine=engine)
    for factor in (5.0, 1.0):
        calibrate(analog, [random(9, 12) * factor])
        check(analog, lambda *_, f=factor: [random(9, 12) * f], "max")


def test_a_tile_that_sees_only_zeros_takes_any_range(engine: str) -> None:
    analog = convert(linear(60, 5), TILED, engine=engine).eval()
    x = random(9, 60)
    x[:, 20:40] = 0.0
    calibrate(analog, [x])
    ranges = only(analog).input_ranges()
    assert ranges is not None and bool((ranges[1] == 1.0).all())
    with torch.no_grad():
        assert_close(analog(x), linear(60, 5)(x), "output")


# --- errors ---


def test_data_that_cannot_set_ranges(engine: str) -> None:
    analog = convert(Two(), TILED, engine=engine)
    with pytest.raises(CalibrationError, match="no batches"):
        calibrate(analog, [])
    with pytest.raises(CalibrationError, match=r"never reached layer 'side'; pass batches"):
        calibrate(analog, [random(3, 12)])
    with pytest.raises(CalibrationError, match="never reached layer 'fc'"):
        calibrate(analog, [random(0, 12)])
    for value in (float("nan"), float("inf")):
        bad = random(3, 12)
        bad[1, 4] = value
        with pytest.raises(CalibrationError, match="NaN or infinite"):
            calibrate(analog, [(bad, random(3, 4))])
    for matrix in matrices_of(analog).values():
        assert matrix.input_ranges() is None  # No range was set before the error.
    calibrate(analog, [(random(3, 12), random(3, 4)), (random(0, 12), random(0, 4))])


# --- outputs that the ADC must hold ---


def output_ranges(weight: Tensor, data: list[Tensor], percentile: float, bound: float) -> Tensor:
    """Return the ranges that outputs need, for tiles of 20 x 20 (17 and 16 columns).

    A tile needs the percentile of |w / max|w| x| over the bound; a row of tiles needs the largest
    need of its column tiles.
    """
    largest = torch.zeros(3)
    for row in range(3):
        rows = slice(20 * row, 20 * row + 20)
        part = weight[:, rows]
        normalised = part / part.abs().amax(1, keepdim=True)
        for columns in (slice(0, 17), slice(17, 34), slice(34, 50)):
            each = []
            for x in data:
                size = (x[:, rows] @ normalised[columns].T).abs().flatten().sort().values
                each.append(float(size[max(1, round(percentile / 100 * len(size))) - 1]))
            largest[row] = max(largest[row], sum(each) / len(each) / bound)
    return largest


def test_ranges_are_raised_until_the_adc_holds_the_outputs(engine: str) -> None:
    """A range is the larger of what inputs and outputs need.

    Middle rows see inputs ten times as small, so they are left alone.
    """
    data = batches(60)
    for x in data:
        x[:, 20:40] = 0.3 * x[:, 20:40].sign()
    model, preset = linear(60, 50), TILED.change(adc_bits=8, out_bound=1.0, why="clips")
    analog = convert(model, preset, engine=engine)
    assert only(analog).grid.columns == (17, 17, 16)
    calibrate(analog, data, "max")
    before = only(analog).input_ranges()
    calibrate(analog, data, "max", out_percentile=80.0)
    after = only(analog).input_ranges()
    assert before is not None and after is not None
    needed = output_ranges(model.weight.detach(), data, 80.0, 1.0)
    expected = torch.maximum(before, needed[:, None])
    assert_close(after, expected, "ranges", 1e-5)
    assert (after > 1.2 * before).any()
    calibrate(analog, data, "max", out_percentile=1.0)
    ranges_after = only(analog).input_ranges()
    assert ranges_after is not None and torch.equal(ranges_after, before)


def test_an_adc_clips_the_share_that_is_left(engine: str) -> None:
    """An ADC clips what lies over the percentile.

    This holds for the data that set the ranges, if they are one batch and one tile.
    """
    preset = QUIET.change(out_bound=0.5, dac_bits=16, why="an ADC that clips")
    model, x = linear(20, 16), random(200, 20)
    analog = convert(model, preset, engine=engine)
    shares = {}
    for percentile in (None, 90.0, 99.0):
        calibrate(analog, [x], "max", out_percentile=percentile)
        ranges = only(analog).input_ranges()
        assert ranges is not None
        with torch.no_grad():
            y = analog(x) - (0.0 if model.bias is None else model.bias)
        bound = 0.5 * float(ranges) * only(analog).column_scale()[0]
        shares[percentile] = float((y.abs() >= bound * (1 - 1e-4)).double().mean())
    assert shares[None] > 0.2
    # An output within half an ADC step of the bound is counted as clipped too.
    assert abs(shares[90.0] - 0.10) < 0.01 and abs(shares[99.0] - 0.01) < 0.005


def test_no_adc_no_bound() -> None:
    x = random(30, 60)
    analog = convert(linear(60, 50), TILED.change(adc_bits=None, out_bound=0.01, why="none"))
    calibrate(analog, [x], out_percentile=99.0)
    check(analog, lambda row, _: [x[:, 20 * row : 20 * row + 20]], "max")


def test_grouped_convolutions_have_ranges_of_their_own_for_outputs() -> None:
    data = random(8, 6, 9)
    data[:, 3:] *= 10.0
    preset = TILED.change(max_rows=9, adc_bits=8, out_bound=0.5, why="clips")
    conv = nn.Conv1d(6, 60, 3, groups=2, bias=False)
    analog = convert(conv, preset)
    calibrate(analog, [data], "max", out_percentile=70.0)
    ranges = only(analog).input_ranges()
    assert ranges is not None
    weight = conv.weight.detach()
    scale = weight.abs().amax((1, 2), keepdim=True)
    y = nn.functional.conv1d(data, weight / scale, groups=2)
    for column in range(4):
        size = y[:, 15 * column : 15 * column + 15].abs().flatten().sort().values
        needed = float(size[round(0.7 * len(size)) - 1]) / 0.5
        for_inputs = float(data[:, column // 2 * 3 :][:, :3].abs().max())
        assert abs(float(ranges[0, column]) / max(needed, for_inputs) - 1.0) < 1e-5


def test_wrong_arguments(engine: str) -> None:
    analog = convert(mlp(), TILED, engine=engine)
    x = random(3, 12)
    with pytest.raises(UsageError, match="method='mean'; allowed: 'max', 'percentile', 'std'"):
        calibrate(analog, [x], method="mean")
    for value in (0.0, 101.0):
        with pytest.raises(UsageError, match=f"percentile={value}; allowed: .* > 0 and <= 100"):
            calibrate(analog, [x], percentile=value)
    for value in (0.0, -1.0):
        with pytest.raises(UsageError, match=f"sd={value}; allowed: a finite number > 0"):
            calibrate(analog, [x], sd=value)
    for value in (0.0, -1.0, 100.5):
        with pytest.raises(
            UsageError, match=r"out_percentile \(or None\)=.*; allowed: .* > 0 and <= 100"
        ):
            calibrate(analog, [x], out_percentile=value)
    for batch in (x, {"input": x}):
        with pytest.raises(UsageError, match="allowed: an iterable of batches"):
            calibrate(analog, batch)
    with pytest.raises(UsageError, match="a batch is a str"):
        calibrate(analog, ["text"])
    with pytest.raises(CapabilityError, match="not a converted model"):
        calibrate(mlp(), [x])
    matrix = only(convert(linear(60, 50), TILED, engine=engine))
    with pytest.raises(ShapeError, match="row tiles, column tiles"):
        matrix.set_input_ranges(torch.ones(2, 3))
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(CalibrationError, match="finite and > 0"):
            matrix.set_input_ranges(torch.full((3, 3), value))


class Failing(nn.Module):
    """A model whose forward pass raises a TypeError of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear(12, 5)

    def forward(self, x: Tensor, *rest: Tensor, **named: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        raise TypeError(f"{len(rest)} more, {len(named)} by name, {tuple(y.shape)}")


def test_batches_that_the_model_does_not_take(engine: str) -> None:
    """The error for labels or other names says how a batch is taken.

    A TypeError from inside the model is not replaced.
    """
    x, y = random(6, 12), torch.arange(6)
    analog = convert(mlp(), TILED, engine=engine)
    batches: list[tuple[Any, str]] = [
        ((x, y), "tuple that .*forward does not take .too many positional arguments"),
        ([x, y], "list that .*forward does not take .too many positional arguments"),
        ((), "tuple that .*forward does not take .missing a required argument: 'input'"),
        ({"pixels": x}, "dict that .*forward does not take .missing a required argument: 'input'"),
    ]
    for batch, problem in batches:
        with pytest.raises(UsageError, match=f"{problem}.*leave labels out, as in .x for x, _ in"):
            calibrate(analog, [batch])
    two = convert(Two(), TILED, engine=engine)
    with pytest.raises(UsageError, match="Two.*'labels'"):
        calibrate(two, [{"x": x, "labels": y}])
    calibrate(analog, (x for x, _ in [(x, y)]))
    with pytest.raises(TypeError, match=r"1 more, 0 by name, \(6, 5\)"):
        calibrate(convert(Failing(), TILED, engine=engine), [(x, y)])


def test_a_preset_without_ranges_needs_none(engine: str) -> None:
    analog = convert(mlp(), ideal, engine=engine)
    calibrate(analog, [random(3, 12)])
    assert all(m.input_ranges() is None for m in matrices_of(analog).values())
    assert coverage(analog)["where"].eq("analog").all()


def test_float64_ranges_are_exact() -> None:
    x = random(9, 12, dtype=torch.float64)
    analog = convert(linear(12, 5).double(), QUIET)
    calibrate(analog, [x])
    ranges = only(analog).input_ranges()
    assert ranges is not None and float(ranges) == float(x.abs().max())
