"""What layers of several matrices are built with: analog linear layers of any engine."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

MakeLinear = Callable[[Tensor, Tensor | None], nn.Module]
"""(weight `[out, in]`, bias `[out]` or None) -> an analog linear layer that holds copies."""


def linear_around(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A digital layer around these very tensors: born on meta, nothing is drawn or allocated."""
    rows, columns = weight.shape
    linear = nn.Linear(columns, rows, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=bias.requires_grad)
    return linear
