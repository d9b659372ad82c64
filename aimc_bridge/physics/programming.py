"""Programming: the conductance a device gets when a target is written."""

from __future__ import annotations

import torch
from torch import Tensor

from aimc_bridge.errors import ShapeError, UsageError
from aimc_bridge.spec import DeviceSpec, ScalarDriftSpec, SignedPcmSpec, StatisticalSpec


def check_device(pcm: object) -> None:
    """Raise UsageError where `pcm` is no device, such as the preset that has one."""
    if not isinstance(pcm, DeviceSpec):
        raise UsageError(
            f"pcm is a {type(pcm).__name__}; allowed: a device, such as preset.pcm of a preset"
        )


def relative(g_us: Tensor, pcm: DeviceSpec) -> Tensor:
    """|g| / g_max, same shape."""
    check_device(pcm)
    return g_us.abs() / pcm.g_max_us


def polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """sum c_k x^k, elementwise."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value.mul_(x).add_(coefficient)
    return value


def check_noise(eps: Tensor, cells: Tensor) -> None:
    """Raise ShapeError where the noise's shape does not end in the cells' shape."""
    if eps.shape[eps.ndim - cells.ndim :] != cells.shape:
        raise ShapeError(
            f"noise of shape {tuple(eps.shape)} for cells of shape {tuple(cells.shape)}; "
            "allowed: (*chips, *cells)"
        )


def sigma_prog_us(g_us: Tensor, pcm: DeviceSpec) -> Tensor:
    """Standard deviation of the programmed conductance.

    Args:    g_us  target, microsiemens, (*cells); a signed weight's sign does not matter.
    Returns: microsiemens, (*cells): prog_noise_scale * sum c_k x^k, x = |g| / g_max; 0 for a
             device without noise.
    Raises:  UsageError where `pcm` is no device.
    Source:  rasch2023 SI, nandakumar2019; Hermes: legallo2023.
    """
    if not isinstance(pcm, StatisticalSpec | ScalarDriftSpec):
        check_device(pcm)
        return torch.zeros_like(g_us)
    return polynomial(relative(g_us, pcm), pcm.prog_coeff_us).mul_(pcm.prog_noise_scale)


def target_us(g_us: Tensor, pcm: DeviceSpec) -> Tensor:
    """What is written where `g_us` is asked for: on the grid of weight_bits, where there is one.

    Args:    g_us  microsiemens, (*cells), with the weight's sign.
    Returns: (*cells); the tensor given where the device has no grid.
    """
    if not isinstance(pcm, ScalarDriftSpec | SignedPcmSpec) or pcm.weight_bits is None:
        check_device(pcm)
        return g_us
    step = pcm.g_max_us / (2 ** (pcm.weight_bits - 1) - 1)
    rounded: Tensor = (g_us / step).round().mul(step)
    return rounded


def programmed(g_us: Tensor, pcm: DeviceSpec, eps: Tensor) -> Tensor:
    """Conductance right after programming: max(0, g + sigma(g) eps).

    A cell that holds a signed weight (scalar, signed PCM): no clip at 0, target rounded to its grid
    of bits first.

    Args:    g_us  target, microsiemens, (*cells), 0..g_max (signed: -g_max..g_max).
             eps  N(0, 1), (*chips, *cells).
    Returns: microsiemens, (*chips, *cells).
    Raises:  ShapeError where eps does not end in g_us's shape; UsageError.
    Not modelled: stuck cells.    Source: rasch2023 SI, nandakumar2019.
    """
    check_noise(eps, g_us)
    if isinstance(pcm, ScalarDriftSpec | SignedPcmSpec):
        target = target_us(g_us, pcm)
        return target + sigma_prog_us(target, pcm) * eps
    if isinstance(pcm, StatisticalSpec):
        return (g_us + sigma_prog_us(g_us, pcm) * eps).clamp_min(0.0)
    check_device(pcm)
    return g_us.expand_as(eps).clone()
