"""The border of an analog layer: the inputs that it takes, and the dtype of what it returns.

Products are computed in float32, or in float64 if the layer's weights are float64. Inputs of any
other floating-point dtype are cast on their way in, and outputs to the dtype of the inputs on their
way out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aimc_bridge.errors import CapabilityError, UsageError

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""The dtypes that the weights, the inputs and the outputs of a layer may have."""

SMALLEST_RANGE = 1e-30
"""The smallest input range that divides inputs.

The steps of a DAC, 127 over the range, are finite then, and 0 times their number is 0.
"""

_NAMES = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)


def check_dtype(dtype: torch.dtype, engine: str) -> None:
    """Check that layers with weights of a dtype can be converted.

    Args:
        dtype: The dtype of the weights.
        engine: Name of the engine, for the message.

    Raises:
        CapabilityError: If it is not one of `DTYPES`.
    """
    if dtype not in DTYPES:
        raise CapabilityError(
            f"{engine} engine: weights of {dtype}; allowed: {_NAMES} (model.float() first)"
        )


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which a layer computes its products.

    Args:
        dtype: The dtype of the layer's weights.
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


def admitted(x: Tensor, like: Tensor) -> Tensor:
    """Return inputs in the dtype in which a layer computes.

    Args:
        x: The inputs, as the user gives them.
        like: A tensor on the layer's device, in the dtype in which it computes.

    Raises:
        UsageError: If the inputs are no dense tensor of floating-point numbers on that device.
    """
    if (
        isinstance(x, Tensor)
        and x.dtype is like.dtype
        and x.device == like.device
        and x.layout is torch.strided
        and not x.is_nested
    ):
        return x
    return _cast(x, like)


def _cast(x: Tensor, like: Tensor) -> Tensor:
    """Return inputs of another dtype as `admitted` does, or raise its errors."""
    _check(x)
    if x.device != like.device:
        raise UsageError(f"input on {x.device}; allowed: {like.device}, where the layer is")
    return x.to(like.dtype)


def widened(x: Tensor) -> Tensor:
    """Return inputs of a layer of several matrices in the dtype in which it computes.

    Args:
        x: The inputs, as the user gives them.

    Raises:
        UsageError: If the inputs are no dense tensor of floating-point numbers.
    """
    _check(x)
    return x.to(product_dtype(x.dtype))


def _check(x: Tensor) -> None:
    """Raise UsageError if inputs are no dense tensor of floating-point numbers."""
    if not isinstance(x, Tensor):
        raise UsageError(f"input is a {type(x).__name__}; allowed: a torch.Tensor")
    if x.is_nested:
        raise UsageError(
            "input is a nested tensor; allowed: a padded one (torch.nested.to_padded_tensor)"
        )
    if x.layout is not torch.strided:
        raise UsageError(f"input of layout {x.layout}; allowed: a dense tensor (x.to_dense())")
    if x.dtype not in DTYPES:
        raise UsageError(f"input of {x.dtype}; allowed: {_NAMES} (x.float() first)")


def returned(y: Tensor, x: Tensor) -> Tensor:
    """Return outputs in the dtype of the inputs.

    Under autocast they keep the dtype in which they were computed, because the grid of an ADC is as
    fine as bfloat16's.

    Args:
        y: The outputs, in the dtype in which the layer computes.
        x: The inputs, as the user gave them.
    """
    if y.dtype is x.dtype or torch.is_autocast_enabled(x.device.type):
        return y
    return y.to(x.dtype)
