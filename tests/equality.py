"""Composite layers against their digital originals: outputs, gradients, and which layers ran."""

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

TOLERANCE = 1e-5  # of the largest value: float32 sums in another order


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of a nest of outputs, in order."""
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
    """Equal to `TOLERANCE` of the largest value wanted, or of `largest` where that is more."""
    ours, theirs = list(tensors(got)), list(tensors(expected))
    assert len(ours) == len(theirs), what
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype and a.device == b.device, what
        a, b = a.detach(), b.detach()
        bound = TOLERANCE * max(float(b.abs().max()), largest)
        worst = float((a - b).abs().max())
        assert worst <= bound, f"{what}: off by {worst:.2e}, allowed {bound:.2e}"


def analog_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Gradients of a digital model under the names that its native counterpart gives them."""
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
    """Outputs, input gradients and (native) every weight's and bias's gradient equal digital's."""
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
            if name.endswith("k.bias"):  # 0 but for rounding: a softmax does not see it
                scale = float(theirs[name.replace("k.bias", "k.weight")].abs().max())
            assert_close(ours[name].grad, gradient, name, scale)
    return analog


def calls_of(model: nn.Module, run: Callable[[], Any]) -> set[str]:
    """The layers with a matrix whose forward runs."""
    called: set[str] = set()
    handles = [
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name))
        for name in matrices_of(model)
    ]
    run()
    for handle in handles:
        handle.remove()
    return called
