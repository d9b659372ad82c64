"""Small models and presets that several tests share, and the engines that the tests run on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.base import Matrix
from presets import ideal, rasch2023

ENGINES = ("native", "aihwkit")
TOLERANCE = 1e-5  # relative to the largest value: float32 sums in another order

# The paper's periphery without its Gaussian noise: products repeat exactly.
QUIET = rasch2023.change(out_noise=0.0, w_noise=0.0, why="exact products in tests")
# The paper's devices behind an ideal periphery: outputs are the products of the effective weights.
DEVICES = rasch2023.change(
    **{name: value for name, value in ideal.crossbar.values().items() if name != "ir_drop_g_ratio"},
    why="the weights alone, in tests",
)
# Exact products behind input ranges; aihwkit requires a DAC if there are ranges.
RANGED = ideal.change(input_range="learned", dac_bits=20, why="ranges alone, in tests")


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return samples of N(0, 1), the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def linear(n_in: int, n_out: int, seed: int = 0, bias: bool = True) -> nn.Linear:
    """Return a linear layer with N(0, 1) / sqrt(n_in) weights and N(0, 1) biases."""
    layer = nn.Linear(n_in, n_out, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(random(n_out, n_in, seed=seed) / n_in**0.5)
        if bias:
            layer.bias.copy_(random(n_out, seed=seed + 1))
    return layer


def mlp() -> nn.Sequential:
    """Return a 12 -> 16 -> 5 network in eval mode."""
    return nn.Sequential(linear(12, 16), nn.ReLU(), linear(16, 5, seed=2)).eval()


def small_net() -> nn.Sequential:
    """Return a convolution, a batch normalisation and a linear layer, for 2 x 4 x 4 images."""
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)
    )


def plain_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return a model's parameters without the contexts of aihwkit's tiles (read-only)."""
    return [parameter for parameter in model.parameters() if type(parameter) is nn.Parameter]


def only(model: nn.Module) -> Matrix:
    """Return the one matrix of a converted model."""
    (matrix,) = matrices_of(model).values()
    return matrix


def floats(value: Any) -> Iterator[Tensor]:
    """Yield all floating point tensors of nested outputs, in order."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        yield from floats(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from floats(part)


def assert_close(got: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    """Assert equality up to `tolerance` times the largest expected value."""
    got, expected = got.detach(), expected.detach()
    assert got.shape == expected.shape and got.dtype == expected.dtype, what
    bound = tolerance * max(float(expected.abs().max()), 1e-30)
    worst = float((got - expected).abs().max())
    assert worst <= bound, f"{what}: off by {worst:.2e}, allowed {bound:.2e}"


def assert_same_function(
    model: nn.Module, analog: nn.Module, *inputs: Tensor, weights: bool = True
) -> None:
    """Assert that outputs, input gradients and, if `weights`, all gradients by name agree."""
    results = []
    for module in (model, analog):
        module.zero_grad()
        leaves = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
        outputs = list(floats(module(*leaves)))
        loss = sum((y * random(*y.shape, seed=i).to(y.dtype)).sum() for i, y in enumerate(outputs))
        assert isinstance(loss, Tensor)
        loss.backward()
        results.append((outputs, [x.grad for x in leaves if x.grad is not None]))
    for index, what in enumerate(("output", "input gradient")):
        assert len(results[0][index]) == len(results[1][index])
        for expected, got in zip(results[0][index], results[1][index], strict=True):
            assert_close(got.detach(), expected.detach(), what)
    if weights:
        theirs = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        ours = {n: p.grad for n, p in analog.named_parameters() if p.grad is not None}
        assert set(ours) == set(theirs) and theirs
        scale = max(float(grad.abs().max()) for grad in theirs.values())
        for name, grad in theirs.items():
            # The bound is relative to the largest gradient of all: some are 0 but for rounding (a
            # softmax does not see a bias).
            worst = float((ours[name] - grad).abs().max())
            bound = TOLERANCE * max(float(grad.abs().max()), 1e-3 * scale)
            assert worst <= bound, f"gradient of {name}: off by {worst:.2e}, allowed {bound:.2e}"
