"""Reading: 1/f noise accumulated since programming, drawn anew at each reading time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aimc_bridge.physics.drift import Moment, check_time, clamped_log
from aimc_bridge.physics.programming import check_device, check_noise, polynomial, relative
from aimc_bridge.spec import DeviceSpec, HermesSpec, PcmSpec, StatisticalSpec


def read_coefficient(g_prog_us: Tensor, pcm: DeviceSpec) -> Tensor:
    """Q of the 1/f noise from the programmed conductance: (*cells) uS -> (*cells), ratio.

    PCM: min(0.0088 / max(x^0.65, 1e-3), 0.2), x = g_P / g_max. Source: rasch2023 SI.
    """
    x = relative(g_prog_us, pcm)
    if isinstance(pcm, PcmSpec):
        scale, exponent, floor, highest = pcm.read_coeff
        return x.pow_(exponent).clamp_min_(floor).reciprocal_().mul_(scale).clamp_max_(highest)
    if isinstance(pcm, HermesSpec):
        low, high = clamped_log(x, pcm.read_low), polynomial(x, pcm.read_high)
        return torch.where(x < pcm.read_break, low, high)
    return torch.zeros_like(x)


def time_factor(t_s: float, pcm: StatisticalSpec) -> float:
    """sqrt(ln((t + t0 + t_read) / (2 t_read))), the growth of 1/f noise with time."""
    t = check_time(t_s)
    return math.sqrt(math.log((t + pcm.t0_s + pcm.t_read_s) / (2 * pcm.t_read_s)))


def growth(t_s: float | Moment, pcm: StatisticalSpec) -> float | Tensor:
    """What Q is multiplied by: `time_factor`, and the factor for what-ifs."""
    if isinstance(t_s, Moment):
        return t_s.read_growth
    return time_factor(t_s, pcm) * pcm.read_noise_scale


def read_sigma(g_prog_us: Tensor, t_s: float | Moment, pcm: DeviceSpec) -> Tensor:
    """Relative standard deviation of the 1/f noise at `t_s`.

    Args:    g_prog_us  programmed conductance, microsiemens, (*cells).    t_s  seconds after the
             end of programming.
    Returns: (*cells), a share of the drifted conductance; 0 for devices without read noise.
    Source:  rasch2023 SI, aihwkit PCMLikeNoiseModel.
    """
    if not isinstance(pcm, StatisticalSpec):
        check_device(pcm)
        return torch.zeros_like(g_prog_us)
    return read_coefficient(g_prog_us, pcm).mul_(growth(t_s, pcm))


def read(
    g_drift_us: Tensor, g_prog_us: Tensor, t_s: float | Moment, pcm: DeviceSpec, eps: Tensor
) -> Tensor:
    """Conductance as read at `t_s`: max(0, g + |g| sigma eps).

    Args:    g_drift_us  drifted, g_prog_us  programmed, microsiemens, (*chips, *cells).
             eps  N(0, 1), of a shape that ends in theirs.
    Returns: microsiemens, shape of eps. Devices without read noise: g_drift_us, signs kept.
    Raises:  ShapeError, UsageError.
    """
    check_noise(eps, g_drift_us)
    if not isinstance(pcm, StatisticalSpec):
        check_device(pcm)
        return g_drift_us.expand_as(eps).clone()
    sigma = read_sigma(g_prog_us, t_s, pcm)
    return (g_drift_us + g_drift_us.abs() * sigma * eps).clamp_min_(0.0)
