"""Models under torch's transforms: they work, or one error says what to do."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.utils.checkpoint import checkpoint

from aimc_bridge import calibrate, convert, drift, program
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import CapabilityError, UsageError
from presets import ideal, rasch2023
from tests.models import DEVICES, QUIET, assert_close, linear, random
from tests.stats import assert_sd

NOISY = ideal.change(out_noise=0.1, why="output noise alone, in tests")


def net() -> nn.Sequential:
    """Return a convolution and a linear layer, for 3 x 5 x 5 images."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), linear(36, 4)).eval()


def converted(preset: Any, engine: str = "native") -> tuple[nn.Module, nn.Module, Tensor]:
    digital, x = net(), random(7, 3, 5, 5)
    analog = convert(digital, preset, engine=engine).eval()
    calibrate(analog, [x])
    return digital, analog, x


# --- torch.func -----------------------------------------------------------------------------------


def test_functions_of_an_ideal_model() -> None:
    """The preset ideal is one digital product: every transform gives the digital result."""
    digital, analog, x = converted(ideal)
    one = x[:1]

    def results(model: nn.Module) -> list[Tensor]:
        parameters = {name: p.detach() for name, p in model.named_parameters()}

        def loss(values: dict[str, Tensor], sample: Tensor) -> Tensor:
            return functional_call(model, values, (sample[None],)).square().sum()

        per_sample = vmap(grad(loss), (None, 0))(parameters, x)
        return [
            vmap(lambda sample: model(sample[None])[0])(x),
            jacrev(model)(one),
            grad(lambda sample: model(sample).sum())(one),
            jvp(model, (x,), (x,))[1],
            hessian(lambda sample: model(sample).square().sum())(one),
            per_sample["0.weight"],
            per_sample["3.bias"],
        ]

    for got, expected in zip(results(analog), results(digital), strict=True):
        assert_close(got, expected, "result")


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_vmap_over_inputs(kind: str) -> None:
    """It is the product of one large batch, with gradients, for nested maps too."""
    digital = linear(6, 4) if kind == "linear" else nn.Conv2d(3, 4, 3)
    x = random(2, 3, 5, 6) if kind == "linear" else random(2, 3, 5, 3, 6, 6)
    analog = convert(digital, QUIET).eval()
    calibrate(analog, [x.flatten(0, 1).flatten(0, 1) if kind == "conv" else x])
    leaf = x.clone().requires_grad_()
    out = vmap(vmap(analog), in_dims=1, out_dims=1)(leaf)
    expected = torch.stack([torch.stack([analog(b) for b in a]) for a in x])
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    assert leaf.grad is not None and analog.weight.grad is not None
    gradient, analog.weight.grad = analog.weight.grad, None
    expected.square().sum().backward()
    torch.testing.assert_close(gradient, analog.weight.grad)


def test_vmap_draws_noise_for_every_sample() -> None:
    """Two samples that are equal get independent noise of the preset's sigma."""
    analog = convert(linear(6, 4000, bias=False), NOISY).eval()
    with torch.no_grad():
        scale = matrices_of(analog)[""].column_scale()[0]
        x = random(6).expand(40, 6)
        noise = vmap(analog, randomness="different")(x) - x @ analog.weight.T
    noise = noise / scale
    assert_sd(noise, 0.1, "noise")
    first, second = noise[:20].flatten(), noise[20:].flatten()
    # 80,000 pairs: the correlation of independent noise has sigma 0.0035, 5 sigma are 6e-7
    assert abs(float((first * second).mean()) / 0.01) < 5 * 0.0035
    assert not torch.equal(noise[0], noise[1])


def test_what_vmap_cannot_do() -> None:
    analog, x = convert(linear(6, 4), NOISY).eval(), random(3, 6)
    with pytest.raises(UsageError, match=r"vmap\(randomness='error'\) of a noisy analog layer"):
        vmap(analog)(x)
    with pytest.raises(UsageError, match="randomness='same'.*every sample has noise of its own"):
        vmap(analog, randomness="same")(x)
    with pytest.raises(CapabilityError, match="vmap does not map the inputs"):
        vmap(lambda scale: analog(x) * scale, randomness="different")(torch.ones(3))
    stacked = {"weight": random(2, 4, 6)}
    with pytest.raises(CapabilityError, match="vmap over the weights of an analog layer"):
        vmap(lambda values: functional_call(analog, values, (x,)), randomness="different")(stacked)


DERIVATIVES: dict[str, Any] = {
    "grad": lambda model, x: grad(lambda v: model(v).sum())(x),
    "jacrev": lambda model, x: jacrev(model)(x),
    "jvp": lambda model, x: jvp(model, (x,), (x,)),
    "per sample": lambda model, x: vmap(grad(lambda v: model(v[None]).sum()))(x),
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_through_tiles_are_refused(name: str, engine: str) -> None:
    _, analog, x = converted(QUIET, engine)
    message = "torch.func derivatives" if engine == "native" else "aihwkit engine: torch.func"
    with pytest.raises(CapabilityError, match=f"{message}.*allowed: .*torch.autograd"):
        DERIVATIVES[name](analog, x)
    jacobian = torch.autograd.functional.jacobian(analog, x[:1])  # as the error suggests
    leaf = x[:1].clone().requires_grad_()
    analog(leaf)[0, 2].backward()
    assert leaf.grad is not None
    torch.testing.assert_close(jacobian[0, 2], leaf.grad)


def test_vmap_on_aihwkit_is_refused() -> None:
    _, analog, x = converted(ideal, "aihwkit")
    with pytest.raises(CapabilityError, match='allowed: calls with a batch.*engine="native"'):
        vmap(lambda sample: analog(sample[None])[0])(x)


# --- graphs ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_graphs_of_an_ideal_model() -> None:
    digital, analog, x = converted(ideal)
    with torch.no_grad():  # torch traces again without gradients, and compares the graphs
        assert_close(torch.jit.trace(analog, x)(x[:3]), digital(x[:3]), "traced")
    assert_close(torch.export.export(analog, (x,)).module()(x), digital(x), "exported")
    compiled = torch.compile(analog, backend="eager", fullgraph=True)
    assert_close(compiled(x), digital(x), "compiled")


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("preset", [QUIET, rasch2023], ids=["quiet", "noisy"])
def test_graphs_with_tiles_are_refused(preset: Any, engine: str) -> None:
    _, analog, x = converted(preset, engine)
    with pytest.raises(CapabilityError, match=r"torch.jit.trace of an analog layer would record"):
        torch.jit.trace(analog, x)
    with pytest.raises(CapabilityError, match=r"torch.export of an analog layer: .*allowed"):
        torch.export.export(analog, (x,), strict=False)
    with pytest.raises(CapabilityError, match=r"torch.jit.script cannot compile .*allowed"):
        torch.jit.script(analog)
    with pytest.raises(RuntimeError, match=r"keeps a chip, which no graph can hold: torch.compile"):
        torch.compile(analog, backend="eager", fullgraph=True)(x)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_aihwkits_tiles_are_never_traced() -> None:
    """Its C++ products would be constants of the trace, whatever the preset."""
    _, analog, x = converted(ideal, "aihwkit")
    with pytest.raises(CapabilityError, match=r"torch.jit.trace of an analog layer would record"):
        torch.jit.trace(analog, x)
    with pytest.raises(UsageError, match="input is a Proxy; allowed: a torch.Tensor"):
        torch.fx.symbolic_trace(analog)


@torch.no_grad()
@pytest.mark.parametrize("preset", [QUIET, DEVICES], ids=["tiles", "devices"])
def test_a_compiled_model_follows_its_chip(preset: Any, engine: str) -> None:
    """Outputs are those of the model itself, whatever was programmed since it was compiled."""
    torch._dynamo.reset()
    _, analog, x = converted(preset, engine)
    compiled = torch.compile(analog, backend="eager")
    outs = [(compiled(x), analog(x))]
    program(analog, 1)
    outs.append((compiled(x), analog(x)))
    for seconds in (60.0, 3.2e7):
        drift(analog, seconds)
        outs.append((compiled(x), analog(x)))
    for got, expected in outs:
        assert_close(got, expected, "compiled")
    assert not torch.allclose(outs[1][0], outs[3][0])


@torch.no_grad()
def test_a_compiled_model_draws_new_noise() -> None:
    torch._dynamo.reset()
    analog, x = convert(linear(6, 4000, bias=False), NOISY).eval(), random(60, 6)
    compiled = torch.compile(analog, backend="eager")
    scale = matrices_of(analog)[""].column_scale()[0]
    difference = (compiled(x) - compiled(x)).detach() / scale
    assert_sd(difference, 0.1 * 2**0.5, "difference of two passes")


# --- copies ---------------------------------------------------------------------------------------


COPIES: dict[str, Any] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "save": lambda model: _saved(model),
    "share_memory": lambda model: copy.deepcopy(model).share_memory(),
    "averaged": lambda model: torch.optim.swa_utils.AveragedModel(model).module,
}


def _saved(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded: nn.Module = torch.load(buffer, weights_only=False)
    return loaded


@pytest.mark.parametrize("way", COPIES)
def test_copies_hold_the_chip_and_train_alone(way: str, engine: str) -> None:
    _, analog, x = converted(QUIET, engine)
    program(analog, 1)
    drift(analog, 60.0)
    expected = analog(x)
    other = COPIES[way](analog)
    assert torch.equal(other(x), expected)
    drift(other, 3.2e7)
    assert not torch.allclose(other(x), expected) and torch.equal(analog(x), expected)


def test_data_parallel(engine: str) -> None:
    """Without a second device it calls the model; replicas would read the first one's weights."""
    _, analog, x = converted(QUIET, engine)
    assert torch.equal(nn.DataParallel(analog)(x), analog(x))
    if engine == "native":
        with pytest.raises(CapabilityError, match=r"nn.DataParallel.*DistributedDataParallel"):
            analog[3].crossbar._replicate_for_data_parallel()


@pytest.mark.parametrize("preset", [QUIET, rasch2023], ids=["quiet", "noisy"])
def test_checkpointed_passes_repeat_their_noise(preset: Any) -> None:
    """The second forward pass of `checkpoint` draws the first one's noise: equal gradients."""
    _, analog, x = converted(preset)
    grads = []
    for through in (False, True):
        torch.manual_seed(3)
        leaf = x.clone().requires_grad_()
        out = checkpoint(analog, leaf, use_reentrant=False) if through else analog(leaf)
        out.square().sum().backward()
        grads.append((leaf.grad, analog[0].weight.grad.clone()))
        analog.zero_grad()
    for plain, again in zip(*grads, strict=True):
        assert torch.equal(plain, again)
