"""Comparison of composite layers with their digital originals: outputs, gradients, calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from aimc_bridge import convert
from aimc_bridge.converted import matrices_of
from presets import ideal

TOLERANCE = 1e-5  # relative to the largest value: float32 sums in another order


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield all tensors of nested outputs, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, PackedSequence):
        yield value.data
        yield value.batch_sizes
        for indices in (value.sorted_indices, value.unsorted_indices):
            if indices is not None:
                yield indices
    elif value is not None:
        for part in value:
            yield from tensors(part)


def assert_close(got: Any, expected: Any, what: str = "output", largest: float = 1e-6) -> None:
    """Assert that nested tensors are equal up to rounding.

    Args:
        got: The nested tensors to check.
        expected: The nested tensors that they must equal, in shape, dtype and device too.
        what: The name used in the failure message.
        largest: The bound is `TOLERANCE` times the largest expected value, or times this number if
            that is more.
    """
    ours, theirs = list(tensors(got)), list(tensors(expected))
    assert len(ours) == len(theirs), what
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype and a.device == b.device, what
        a, b = a.detach(), b.detach()
        bound = TOLERANCE * max(float(b.abs().max()), largest)
        worst = float((a - b).abs().max())
        assert worst <= bound, f"{what}: off by {worst:.2e}, allowed {bound:.2e}"


def analog_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return a digital model's gradients under the names that its native counterpart uses."""
    gradients = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        prefix, dot, last = name.rpartition(".")
        if last in ("in_proj_weight", "in_proj_bias"):
            kind = last.removeprefix("in_proj_")
            for child, part in zip("qkv", parameter.grad.chunk(3), strict=True):
                gradients[f"{prefix}{dot}{child}.{kind}"] = part
            continue
        last = re.sub(r"^([qkv])_proj_weight$", r"\1.weight", last)
        last = re.sub(r"^(weight|bias)_(ih|hh|hr)(.*)$", r"\2\3.\1", last)
        gradients[f"{prefix}{dot}{last}".replace("out_proj.", "out.")] = parameter.grad
    return gradients


def check_equal(
    model: nn.Module, engine: str, call: Callable[[nn.Module, list[Tensor]], Any], *inputs: Tensor
) -> nn.Module:
    """Convert a model and assert that it computes what the digital model computes.

    Outputs and input gradients must be equal; on the native engine the gradients of all weights and
    biases too.

    Args:
        model: The digital model.
        engine: The engine to convert to, with the preset `ideal`.
        call: Computes the outputs of a model from a list of inputs.
        *inputs: The inputs.

    Returns:
        The converted model.
    """
    analog = convert(model, ideal, engine=engine)
    assert analog.training == model.training
    results = []
    for module in (model, analog):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = call(module, leaves)
        floats = [y for y in tensors(out) if y.is_floating_point()]
        generator = torch.Generator().manual_seed(1)
        loss = sum(
            (y * torch.randn(y.shape, generator=generator, dtype=y.dtype)).sum() for y in floats
        )
        assert isinstance(loss, Tensor)
        loss.backward()
        results.append((out, [x.grad for x in leaves]))
    (expected, wanted_grads), (got, got_grads) = results
    assert type(got) is type(expected)
    assert_close(got, expected)
    assert_close(got_grads, wanted_grads, "input gradient")
    if engine == "native":
        theirs = analog_gradients(model)
        ours = {n: p for n, p in analog.named_parameters() if p.requires_grad}
        assert set(ours) == set(theirs)
        for name, gradient in theirs.items():
            scale = 0.0
            # The gradient is 0 but for rounding, because a softmax does not see this bias.
            if name.endswith("k.bias"):
                scale = float(theirs[name.replace("k.bias", "k.weight")].abs().max())
            assert_close(ours[name].grad, gradient, name, scale)
    return analog


def calls_of(model: nn.Module, run: Callable[[], Any]) -> set[str]:
    """Return the names of the layers with a matrix whose forward pass runs during `run`."""
    called: set[str] = set()
    handles = [
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name))
        for name in matrices_of(model)
    ]
    run()
    for handle in handles:
        handle.remove()
    return called
