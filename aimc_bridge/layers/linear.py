"""Linear layers, from which layers of several weight matrices are made."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

MakeLinear = Callable[[Tensor, Tensor | None], nn.Module]
"""Makes an analog linear layer with copies of a weight [out, in] and a bias [out] or None."""


def linear_around(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a digital linear layer that holds these very tensors.

    The layer is created on the meta device, so that no weights are drawn and no memory is
    allocated.

    Args:
        weight: The weight, shape [out, in].
        bias: The bias, shape [out], or None.

    Returns:
        The layer; its parameters share memory with the tensors and have their gradient flags.
    """
    rows, columns = weight.shape
    linear = nn.Linear(columns, rows, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=bias.requires_grad)
    return linear
