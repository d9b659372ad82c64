"""Native layers at the edges of their use.

These are no inputs, second-order gradients, layers made in inference mode, and weights of another
precision.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from aimc_bridge import calibrate, convert, drift, program, restore
from aimc_bridge.engines.native.crossbar import Crossbar
from aimc_bridge.errors import CalibrationError, CapabilityError
from aimc_bridge.spec import Preset
from presets import ideal, rasch2023
from tests.engines.native.test_product import spec_of
from tests.models import QUIET, assert_close, linear, mlp, only, random

# --- no inputs ------------------------------------------------------------------------------------

TILED = rasch2023.change(max_rows=5, max_columns=3, why="several tiles")
EMPTY: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    # Each case has a layer, inputs that set its ranges, and no inputs.
    "vectors": (lambda: linear(7, 5), (8, 7), (0, 7)),
    "no sequences": (lambda: linear(7, 5), (8, 7), (0, 3, 7)),
    "sequences of nothing": (lambda: linear(7, 5), (8, 7), (3, 0, 7)),
    "images": (lambda: nn.Conv2d(3, 4, 3, padding=1), (2, 3, 8, 8), (0, 3, 8, 8)),
    "padded first": (
        lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        (2, 3, 8, 8),
        (0, 3, 8, 8),
    ),
    "groups": (lambda: nn.Conv1d(4, 8, 3, groups=2, stride=2), (2, 4, 9), (0, 4, 9)),
}


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    """Return the gradients of a sum of the outputs, by parameter and for the inputs."""
    x = x.clone().requires_grad_()
    model(x).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()} | {"x": x.grad}


@pytest.mark.parametrize("preset", [ideal, rasch2023, TILED], ids=["ideal", "rasch2023", "tiled"])
@pytest.mark.parametrize("case", EMPTY)
def test_no_inputs_give_no_outputs_and_gradients_of_zeros(case: str, preset: Preset) -> None:
    """The digital layer does the same.

    This holds in evaluation, in training and on a chip.
    """
    make, some, none = EMPTY[case]
    model, x = make(), torch.zeros(none)
    expected = model(x).shape
    digital = gradients(model, x)
    analog = convert(model, preset).eval()
    calibrate(analog, [random(*some)])
    only(analog).prepare_training(spec_of(learn_input_ranges=True, learn_out_scales=True))
    with torch.no_grad():
        assert analog(x).shape == expected
    for training in (False, True):
        analog.train(training).zero_grad()
        assert analog(x).shape == expected
        slopes = gradients(analog, x)
        for name, value in digital.items():
            got = slopes.pop(name)
            assert got is not None and value is not None and torch.equal(got, value), name
        for name, parameter in analog.named_parameters():
            if parameter.requires_grad and name in slopes:
                got = slopes[name]
                assert got is not None and torch.equal(got, torch.zeros_like(parameter)), name
    program(analog.eval(), 1)
    drift(analog, 3600.0)
    assert analog(x).shape == expected
    got = gradients(analog, x)["x"]
    assert got is not None and torch.equal(got, x)


def test_no_inputs_start_no_range() -> None:
    """In training the first batch with inputs starts it.

    Without such a batch, evaluation is still an error.
    """
    analog = convert(linear(12, 5), QUIET).train()
    matrix = only(analog)
    assert isinstance(matrix, Crossbar)
    matrix.prepare_training(spec_of(input_range_init_batches=3, input_range_init_sd=3.0))
    assert analog(torch.zeros(0, 12)).shape == (0, 5)
    assert matrix.range_batches.tolist() == [[0]] and matrix.input_ranges() is None
    with pytest.raises(CalibrationError, match="were never set"):
        analog.eval()(torch.zeros(0, 12))
    x = random(50, 12)
    analog.train()(x)
    ranges = matrix.input_ranges()
    assert matrix.range_batches.tolist() == [[1]] and ranges is not None
    assert_close(ranges, 3.0 * x.std(correction=0).view(1, 1), "range")


# --- gradients of gradients -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["grad", "unused allowed", "backward"])
@pytest.mark.parametrize("layer", ["0", "2"])
@pytest.mark.parametrize("preset", [QUIET, ideal.change(out_noise=1e-7, why="test")], ids=str)
def test_second_order_gradients_are_an_error(preset: Preset, layer: str, how: str) -> None:
    """There is never a wrong number.

    This holds for all weights and all ways to ask for the gradients.
    """
    analog, x = convert(mlp(), preset), random(4, 12)
    calibrate(analog, [x])
    x.requires_grad_()
    (slope,) = torch.autograd.grad(analog(x).square().sum(), x, create_graph=True)
    penalty, weight = slope.square().sum(), analog.get_parameter(f"{layer}.weight")
    with pytest.raises(CapabilityError, match="second-order gradients through an analog layer"):
        if how == "backward":
            penalty.backward()
        else:
            torch.autograd.grad(penalty, [weight], allow_unused=how == "unused allowed")


def test_second_order_gradients_behind_a_digital_layer_are_an_error() -> None:
    """Its own part alone would be a wrong number."""
    model = nn.Sequential(linear(12, 16), nn.Tanh(), linear(16, 5, seed=2))
    analog, x = convert(model, QUIET, exclude=["0"]), random(4, 12)
    calibrate(analog, [x])
    x.requires_grad_()
    (slope,) = torch.autograd.grad(analog(x).square().sum(), x, create_graph=True)
    with pytest.raises(CapabilityError, match="second-order"):
        torch.autograd.grad(slope.square().sum(), [analog.get_parameter("0.weight")])


def test_a_graph_of_gradients_leaves_them_as_they_are() -> None:
    """Gradients are equal with and without create_graph=True.

    The second order exists if the periphery changes nothing.
    """
    analog, x = convert(mlp(), QUIET), random(4, 12)
    calibrate(analog, [x])
    for matrix in (analog[0].crossbar, analog[2].crossbar):  # type: ignore[union-attr]
        matrix.prepare_training(spec_of(learn_input_ranges=True, learn_out_scales=True))
    x.requires_grad_()
    leaves = [x, *(p for p in analog.parameters() if p.requires_grad)]
    assert len(leaves) == 9
    plain, graph = (
        torch.autograd.grad(analog(x).square().sum(), leaves, create_graph=create)
        for create in (False, True)
    )
    for a, b in zip(plain, graph, strict=True):
        assert torch.equal(a, b)
    second_order = []
    for model in (mlp(), convert(mlp(), ideal)):
        (slope,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        weight = model.get_parameter("0.weight")
        second_order.append(torch.autograd.grad(slope.square().sum(), [weight])[0])
    assert_close(second_order[1], second_order[0], "second order")


# --- inference mode -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, shape",
    [(mlp, (4, 12)), (lambda: nn.Conv2d(3, 5, 3), (2, 3, 6, 6)), (lambda: nn.GRU(5, 6), (7, 3, 5))],
    ids=["mlp", "convolution", "gru"],
)
def test_a_model_made_in_inference_mode(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    """A model converted, calibrated and programmed in it is the same chip.

    Its analog layers train outside of it.
    """

    def first(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
        return outputs[0] if isinstance(outputs, tuple) else outputs

    torch.manual_seed(0)
    model, x = make().eval(), random(*shape)
    outs = []
    for inference in (False, True):
        with torch.inference_mode(inference):
            analog = convert(model, QUIET)
            calibrate(analog, [x])
            program(analog, 1)
            drift(analog, 3600.0)
            outs.append(first(analog(x)).clone())
    assert torch.equal(outs[0], outs[1])
    calibrate(analog, [2.0 * x])
    restore(analog)
    first(analog.train()(x)).sum().backward()
    weights = [p for n, p in analog.named_parameters() if n.endswith("weight")]
    assert weights and all(not p.is_inference() and p.grad is not None for p in weights)


# --- outputs that the model writes to -------------------------------------------------------------


@pytest.mark.parametrize("preset", [ideal, rasch2023, TILED], ids=["ideal", "rasch2023", "tiled"])
@pytest.mark.parametrize("shape", [(4, 7), (2, 4, 7)], ids=["vectors", "sequences"])
def test_outputs_without_a_bias_can_be_written_to(shape: tuple[int, ...], preset: Preset) -> None:
    """Falcon adds its residual in place; the gradients are those of a plain sum."""
    model = convert(linear(7, 5, bias=False), preset).train()
    x = random(*shape)
    calibrate(model, [x])
    grads = []
    for in_place in (False, True):
        inputs = x.clone().requires_grad_()
        torch.manual_seed(0)
        y = model(inputs)
        weights = random(*y.shape, seed=1)
        y = y.mul_(weights).add_(1.0) if in_place else y * weights + 1.0
        y.sum().backward()
        grads.append(inputs.grad)
    assert torch.equal(grads[0], grads[1]) and bool(grads[0].abs().sum() > 0)
