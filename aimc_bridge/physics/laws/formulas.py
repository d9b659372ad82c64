"""Formulas that several device laws use. All of them work element by element."""

from __future__ import annotations

import torch
from torch import Tensor

from aimc_bridge.physics.mapping import levels
from aimc_bridge.spec import DeviceSpec

_SMALLEST = 1e-7  # aihwkit's lower limit of g / g_max in the logarithm


def relative(g_us: Tensor, pcm: DeviceSpec) -> Tensor:
    """Return |g| / g_max.

    Args:
        g_us: Conductance in microsiemens, any shape.
        pcm: The device.

    Returns:
        A ratio, in the shape of `g_us`.
    """
    return g_us.abs() / pcm.g_max_us


def polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Return sum c_k x^k.

    Args:
        x: Values of any shape.
        coefficients: c_0, c_1 and so on.

    Returns:
        The sum, in the shape of `x`.
    """
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value.mul_(x).add_(coefficient)
    return value


def clamped_log(x: Tensor, terms: tuple[float, float, float, float]) -> Tensor:
    """Return clamp(slope ln x + intercept, lowest, highest).

    Args:
        x: Values of any shape. One below 1e-7 counts as 1e-7.
        terms: (slope, intercept, lowest, highest).

    Returns:
        The clamped logarithm, in the shape of `x`.
    """
    slope, intercept, low, high = terms
    return x.clamp_min(_SMALLEST).log_().mul_(slope).add_(intercept).clamp_(low, high)


def two_pieces(
    x: Tensor, at: float, low: tuple[float, float, float, float], high: tuple[float, ...]
) -> Tensor:
    """Return a clamped logarithm below a break, and a polynomial from the break on.

    Args:
        x: Values of any shape.
        at: The break.
        low: (slope, intercept, lowest, highest) of the logarithm.
        high: Coefficients of the polynomial.

    Returns:
        The values of the two pieces, in the shape of `x`.
    """
    below, above = clamped_log(x, low), polynomial(x, high)
    return torch.where(x < at, below, above)


def on_grid(g_us: Tensor, pcm: DeviceSpec, weight_bits: int | None) -> Tensor:
    """Round conductances to the grid of `weight_bits` over [-g_max, g_max].

    Args:
        g_us: Conductance in microsiemens, any shape.
        pcm: The device.
        weight_bits: Resolution, sign included; None returns `g_us` itself.

    Returns:
        Conductance in microsiemens, in the shape of `g_us`.
    """
    if weight_bits is None:
        return g_us
    step = pcm.g_max_us / levels(weight_bits)
    rounded: Tensor = (g_us / step).round().mul(step)
    return rounded
