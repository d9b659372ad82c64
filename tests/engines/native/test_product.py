"""The native product against a float64 re-implementation, noise against closed forms, gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge import HWATraining, calibrate, convert, drift, program
from aimc_bridge.engines.base import Matrix
from aimc_bridge.engines.native.crossbar import Crossbar
from aimc_bridge.spec import CrossbarSpec, Preset, TrainingSpec
from presets import rasch2023
from tests.models import QUIET, assert_close, linear, mlp, only, random
from tests.stats import assert_mean, assert_sd

DOUBLE = torch.float64

# --- a second version of the product ---


def slices(sizes: tuple[int, ...]) -> list[slice]:
    return [slice(sum(sizes[:i]), sum(sizes[: i + 1])) for i in range(len(sizes))]


def rounded(values: Tensor, bits: int | None, bound: float) -> Tensor:
    if bits is None:
        return values
    step = 2.0 * bound / (2**bits - 2)
    return torch.clamp(torch.round(values / step) * step, -bound, bound)


def tile_product(x: Tensor, w: Tensor, spec: CrossbarSpec) -> Tensor:
    """Return the product of `[samples, n]` in [-1, 1] with a tile `[out, n]`, without noise.

    Source: rasch2023 SI Table 1.
    """
    n = w.shape[1]
    x = rounded(x.clamp(-1.0, 1.0), spec.dac_bits, 1.0)
    y = x @ w.T
    if spec.ir_drop > 0.0:
        j = torch.arange(n, dtype=w.dtype)
        a = n / spec.ir_drop_g_ratio * (x.abs() @ w.abs().T)
        c = a * (a * (0.05 * a - 0.2) + 0.5)
        y = y - spec.ir_drop * c * (x @ (w * (1.0 - (1.0 - j / n) ** 2)).T)
    return rounded(y, spec.adc_bits, spec.out_bound)


def layer_product(x: Tensor, matrix: Matrix, alpha: Tensor) -> Tensor:
    """Return `[samples, out]` of `[samples, in]`: tile by tile, summed digitally, no bias."""
    grid, weight = matrix.grid, matrix.effective_weight().double()
    ranges = matrix.input_ranges()
    assert ranges is not None
    y = x.new_zeros(x.shape[0], weight.shape[0])
    for i, rows in enumerate(slices(grid.rows)):
        for j, columns in enumerate(slices(grid.columns)):
            scale = matrix.column_scale()[i, columns] * matrix.learned_scale()[i, columns]
            w = weight[columns, rows] / scale[:, None]
            out = tile_product(x[:, rows] / ranges[i, j], w, matrix.preset.crossbar)
            y[:, columns] += out * ranges[i, j] * scale * alpha[i, columns]
    return y


def set_ranges(matrix: Matrix, x: Tensor, same: bool) -> None:
    """Set ranges that clip some inputs; unless `same`, a different one for every tile."""
    rows, columns = len(matrix.grid.rows), len(matrix.grid.columns)
    factor = torch.ones(rows, columns, dtype=DOUBLE)
    if not same:
        factor += 0.1 * torch.arange(rows * columns).view(rows, columns)
    matrix.set_input_ranges(factor * 2.0 * x.std())


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(700, 600), (8, 700)),
    "one tile": (lambda: nn.Linear(50, 30), (8, 50)),
    # 57 * 9 = 513 rows lie on 257 + 256, so the second tile begins inside a channel.
    "conv": (lambda: nn.Conv2d(57, 520, 3, padding=1, stride=2), (2, 57, 5, 6)),
    "groups": (lambda: nn.Conv2d(2 * 57, 2 * 520, 3, groups=2), (2, 114, 4, 5)),
    "three dimensions": (
        lambda: nn.Conv3d(30, 20, (3, 2, 3), dilation=(1, 2, 1)),
        (2, 30, 4, 4, 4),
    ),
}


def windows(x: Tensor, conv: nn.Module) -> Tensor:
    """Map `[batch, channels, *space]` to `[batch, positions, channels, kernel]`, by indices."""
    assert isinstance(conv, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    pad = [int(p) for p in reversed(conv.padding) for _ in (0, 1)]  # type: ignore[arg-type]
    x = functional.pad(x, pad)
    dims = len(conv.kernel_size)
    starts = []
    for d in range(dims):
        reach = conv.dilation[d] * (conv.kernel_size[d] - 1) + 1
        starts.append(range(0, x.shape[2 + d] - reach + 1, conv.stride[d]))
    offsets = [
        range(0, conv.dilation[d] * conv.kernel_size[d], conv.dilation[d]) for d in range(dims)
    ]
    places = torch.cartesian_prod(*(torch.tensor(list(s)) for s in starts)).view(-1, dims)
    kernel = torch.cartesian_prod(*(torch.tensor(list(o)) for o in offsets)).view(-1, dims)
    at = (places[:, None] + kernel[None]).unbind(-1)
    return x[(slice(None), slice(None), *at)].transpose(1, 2)


def check_against_naive(model: nn.Module, analog: nn.Module, x: Tensor, alpha: Tensor) -> None:
    matrix = only(analog)
    got = analog(x)
    bias = model.bias
    assert isinstance(bias, Tensor)
    if isinstance(model, nn.Linear):
        assert_close(got, layer_product(x, matrix, alpha) + bias, "linear", 1e-12)
        return
    rows = windows(x, model)  # [batch, positions, channels, kernel]
    groups = matrix.grid.groups
    outs = []
    for group, part in enumerate(rows.chunk(groups, dim=2)):
        # Every group gets the same rows; the columns of one group are taken.
        y = layer_product(part.flatten(2).flatten(0, 1), matrix, alpha)
        outs.append(y.chunk(groups, dim=1)[group])
    expected = (torch.cat(outs, dim=1) + bias).view(*rows.shape[:2], -1).transpose(1, 2)
    assert_close(got, expected.reshape(got.shape), "convolution", 1e-12)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("case", LAYERS)
@torch.no_grad()
def test_product_equals_naive(case: str, held: bool, same: bool) -> None:
    """DAC, IR drop, ADC, column scales, learned scales and compensation act on all tiles."""
    make, shape = LAYERS[case]
    torch.manual_seed(0)
    model, x = make().double().eval(), random(*shape, dtype=DOUBLE)
    preset = QUIET.change(ir_drop=30.0, out_bound=4.0, why="so that both act on small tiles")
    analog = convert(model, preset)
    matrix = only(analog)
    assert isinstance(matrix, Crossbar)
    set_ranges(matrix, x, same)
    matrix.out_scale.mul_(1.0 + 0.1 * random(*matrix.out_scale.shape, dtype=DOUBLE))
    if held:
        program(analog, 3)
        drift(analog, 86400.0)
        assert float((matrix.alpha() - 1.0).abs().min()) > 0.1
    check_against_naive(model, analog, x, matrix.alpha())


@pytest.mark.parametrize("without", [{"dac_bits": None}, {"adc_bits": None}, {"ir_drop": 0.0}])
@torch.no_grad()
def test_naive_product_sees_every_part(without: dict[str, object]) -> None:
    """This is the power of the test above: each part left out alone is found."""
    model, x = linear(700, 600).double().eval(), random(8, 700, dtype=DOUBLE)
    preset = QUIET.change(ir_drop=30.0, out_bound=4.0, why="as above")
    analog = convert(model, preset.change(**without, why="test"))
    set_ranges(only(analog), x, same=True)
    # This preset is for the naive product; the layer's product has the other one.
    only(analog).preset = preset
    expected = layer_product(x, only(analog), only(analog).alpha()) + model.bias
    only(analog).preset = preset.change(**without, why="test")
    with pytest.raises(AssertionError):
        assert_close(analog(x), expected, "linear", 1e-4)


@torch.no_grad()
def test_training_without_ir_drop_only_there() -> None:
    model, x = linear(300, 20).double().eval(), random(9, 300, dtype=DOUBLE)
    preset = QUIET.change(ir_drop=30.0, why="test")
    analog = convert(model, preset)
    set_ranges(only(analog), x, same=True)
    with_drop = analog(x)
    only(analog).prepare_training(spec_of(ir_drop_in_training=False))
    assert torch.equal(analog(x), with_drop)
    analog.train()
    other = convert(model, preset.change(ir_drop=0.0, why="test"))
    set_ranges(only(other), x, same=True)
    assert torch.equal(analog(x), other(x)) and not torch.equal(other(x), with_drop)


# --- noise ---


def noisy(preset: Preset, n_in: int = 600, n_out: int = 64, samples: int = 4096) -> Tensor:
    """Return errors of many products of one input, `[samples, out]`.

    They are in units of the closed form's sd.
    """
    model, x = linear(n_in, n_out).eval(), random(1, n_in)
    analog = convert(model, preset)
    matrix = only(analog)
    rows = matrix.grid.rows
    ranges = torch.linspace(4.0, 5.0, len(rows))[:, None]
    matrix.set_input_ranges(ranges)
    variance = torch.zeros(n_out)
    weight = matrix.normalised_weight()
    for i, part in enumerate(slices(rows)):
        size = weight[:, part].abs() @ (x[0, part] / ranges[i]).square()
        spec = preset.crossbar
        tile = spec.out_noise**2 + spec.w_noise**2 * size
        variance += tile * (ranges[i] * matrix.column_scale()[i]) ** 2
    torch.manual_seed(1)
    with torch.no_grad():
        return (analog(x.expand(samples, -1)) - model(x)) / variance.sqrt()


NOISES = {
    "output": {"out_noise": 0.04, "w_noise": 0.0},
    "read": {"out_noise": 0.0, "w_noise": 0.0175},
    "both": {"out_noise": 0.04, "w_noise": 0.0175},
}


@pytest.mark.parametrize("kind", NOISES)
def test_noise_has_the_variance_of_the_law(kind: str) -> None:
    """Both sources act, on two row tiles.

    Samples and outputs are independent of each other.
    """
    smooth = {"dac_bits": None, "adc_bits": None, "ir_drop": 0.0}
    z = noisy(rasch2023.change(**smooth, **NOISES[kind], why="noise alone"))
    assert z.shape == (4096, 64)
    assert_sd(z, 1.0, "noise")
    # Sums of pairs have twice the variance only if the pair is not correlated.
    assert_sd((z[:, ::2] + z[:, 1::2]) / 2**0.5, 1.0, "pairs of outputs")
    assert_sd((z[::2] + z[1::2]) / 2**0.5, 1.0, "pairs of samples")
    assert_sd((z[:2048] + z[2048:]) / 2**0.5, 1.0, "pairs of distant samples")
    assert_mean(z + 1.0, 1.0, "unbiased")


def test_noise_of_a_convolution_has_the_variance_of_the_law() -> None:
    """Each position's read noise comes from its own window.

    The convolution is grouped and takes the path of shared ranges.
    """
    preset = rasch2023.change(dac_bits=None, adc_bits=None, ir_drop=0.0, why="noise alone")
    model, x = nn.Conv2d(4, 6, 3, groups=2, padding=1).eval(), random(1, 4, 8, 8)
    analog = convert(model, preset)
    matrix = only(analog)
    matrix.set_input_ranges(torch.full((1, 2), 4.0))
    weight = matrix.normalised_weight().abs().view(6, 2, 3, 3)
    size = functional.conv2d((x / 4.0).square(), weight, padding=1, groups=2)
    scale = 4.0 * matrix.column_scale()[0].view(-1, 1, 1)
    sd = (0.04**2 + 0.0175**2 * size).sqrt() * scale
    torch.manual_seed(1)
    with torch.no_grad():
        z = (analog(x.expand(1500, -1, -1, -1)) - model(x)) / sd
    assert_sd(z, 1.0, "noise")


def test_noise_follows_the_default_generator() -> None:
    analog = convert(mlp(), rasch2023)
    x = random(4, 12)
    calibrate(analog, [x])
    outs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(analog(x))
    assert torch.equal(outs[0], outs[1]) and not torch.equal(outs[0], outs[2])
    assert not torch.equal(analog(x), analog(x))


# --- gradients ---


def spec_of(**fields: object) -> TrainingSpec:
    """Return the paper's recipe for the LSTM with other fields."""
    return HWATraining.for_(rasch2023, "lstm").override(**fields).spec


@pytest.mark.parametrize("injected", [False, True])
def test_gradients_follow_the_formulas(injected: bool) -> None:
    """Backward is the transpose product with the forward weights.

    It has no DAC, IR drop or noise.
    """
    preset = rasch2023.change(out_bound=2.0, ir_drop=30.0, why="so that outputs saturate")
    model = linear(40, 30).double()
    analog = convert(model, preset).train()
    matrix = only(analog)
    assert isinstance(matrix, Crossbar) and matrix.input_range is not None
    matrix.set_input_ranges(torch.tensor([[1.3]], dtype=DOUBLE))
    spec = spec_of(input_range_decay=0.001, input_range_min_unclipped=0.5)
    matrix.prepare_training(spec)
    with torch.no_grad():
        matrix.out_scale.mul_(1.0 + 0.1 * random(1, 30, dtype=DOUBLE))
    used = matrix.normalised_weight()
    if injected:
        used = used + 0.1 * random(30, 40, seed=5, dtype=DOUBLE)
        matrix.inject(used)
    x = random(64, 40, dtype=DOUBLE).requires_grad_()
    upstream = random(64, 30, seed=7, dtype=DOUBLE)
    torch.manual_seed(3)
    y = analog(x)
    (y * upstream).sum().backward()

    scale, learned = matrix.column_scale()[0], matrix.out_scale.detach()[0]
    adc = (y.detach() - model.bias.detach()) / (1.3 * scale * learned)
    saturated = adc.abs() > 2.0 - 1e-9
    assert 0.05 < float(saturated.double().mean()) < 0.95
    grad = (upstream * scale * learned).masked_fill(saturated, 0.0)
    for_x = grad @ used
    clipped = x.detach().clamp(-1.3, 1.3)
    for_w = grad.T @ clipped / scale[:, None]
    assert_close(x.grad, for_x, "inputs, clipped ones in full", 1e-12)  # type: ignore[arg-type]
    weight_grad = analog.weight.grad  # type: ignore[union-attr]
    assert_close(weight_grad, for_w, "clean weights", 1e-12)  # type: ignore[arg-type]
    assert_close(analog.bias.grad, upstream.sum(0), "bias", 1e-12)  # type: ignore
    above = (for_x * (x.detach() >= 1.3)).clamp(max=0.0).sum()
    below = (for_x * (x.detach() <= -1.3)).clamp(min=0.0).sum()
    inside = (x.detach().abs() < 1.3).double().mean()
    assert 0.5 < float(inside) < 0.95
    for_range = 1.3 * (above - below + 0.001)
    assert matrix.input_range.grad is not None and matrix.out_scale.grad is not None
    assert_close(matrix.input_range.grad[0, 0], for_range, "range", 1e-12)
    for_scale = (upstream * adc * 1.3 * scale).sum(0)
    assert_close(matrix.out_scale.grad[0], for_scale, "learned scales", 1e-12)


def test_range_decays_only_while_inputs_are_inside() -> None:
    for share, decays in ((0.9, True), (0.99, False)):
        analog = convert(linear(40, 3).double(), QUIET).train()
        matrix = only(analog)
        matrix.set_input_ranges(torch.tensor([[2.0]]))
        matrix.prepare_training(spec_of(input_range_decay=0.25, input_range_min_unclipped=share))
        x = random(200, 40, dtype=DOUBLE)
        assert 0.9 < float((x.abs() < 2.0).double().mean()) < 0.99
        (analog(x) * 0.0).sum().backward()
        grad = matrix.input_range.grad  # type: ignore[attr-defined]
        assert float(grad[0, 0]) == (0.25 * 2.0 if decays else 0.0)


def test_ranges_of_column_tiles_have_gradients_of_their_own() -> None:
    preset = QUIET.change(max_rows=20, max_columns=10, why="several tiles")
    analog = convert(linear(40, 30).double(), preset).train()
    matrix = only(analog)
    matrix.set_input_ranges(torch.full((2, 3), 1.0))
    matrix.prepare_training(spec_of(input_range_decay=0.0))
    x, upstream = random(16, 40, dtype=DOUBLE), random(16, 30, seed=7, dtype=DOUBLE)
    y = analog(x)
    (y * upstream).sum().backward()
    weight = analog.weight.detach()  # type: ignore[union-attr]
    for i, rows in enumerate(slices((20, 20))):
        for j, columns in enumerate(slices((10, 10, 10))):
            for_x = upstream[:, columns] @ weight[columns, rows]  # Nothing saturates.
            above = (for_x * (x[:, rows] >= 1.0)).clamp(max=0.0).sum()
            below = (for_x * (x[:, rows] <= -1.0)).clamp(min=0.0).sum()
            got = matrix.input_range.grad[i, j]  # type: ignore[attr-defined]
            assert_close(got, above - below, f"range {i}, {j}", 1e-12)


def test_a_held_chip_passes_gradients_to_inputs_only() -> None:
    """The input gradient is the product with the held weights.

    It includes alpha.
    """
    preset = QUIET.change(dac_bits=None, adc_bits=None, ir_drop=0.0, why="a linear product")
    analog = convert(linear(40, 30).double(), preset).eval()
    matrix = only(analog)
    x = random(7, 40, dtype=DOUBLE).requires_grad_()
    calibrate(analog, [x.detach()])
    program(analog, 2)
    drift(analog, 3600.0)
    upstream = random(7, 30, seed=7, dtype=DOUBLE)
    (analog(x) * upstream).sum().backward()
    expected = (upstream * matrix.alpha()[0]) @ matrix.effective_weight()
    assert_close(x.grad, expected, "input gradient", 1e-12)  # type: ignore[arg-type]
    assert analog.weight.grad is None  # type: ignore[union-attr]
