"""Drift: the power law of a conductance's decay and the spread of its exponent."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from aimc_bridge.errors import UsageError
from aimc_bridge.physics.programming import check_device, check_noise, polynomial, relative
from aimc_bridge.spec import DeviceSpec, HermesSpec, PcmSpec, ScalarDriftSpec, StatisticalSpec

_SMALLEST = 1e-7  # aihwkit's lower limit of g / g_max in the logarithm


def clamped_log(x: Tensor, law: tuple[float, float, float, float]) -> Tensor:
    """clamp(slope ln x + intercept, lowest, highest), elementwise."""
    slope, intercept, low, high = law
    return x.clamp_min(_SMALLEST).log_().mul_(slope).add_(intercept).clamp_(low, high)


def nu_mean(g_us: Tensor, pcm: DeviceSpec) -> Tensor:
    """Mean of the Gaussian behind the drift exponent: (*cells) uS -> (*cells)."""
    x = relative(g_us, pcm)
    if isinstance(pcm, PcmSpec):
        return clamped_log(x, pcm.nu_mean)
    if isinstance(pcm, HermesSpec):
        low, high = clamped_log(x, pcm.nu_mean_low), polynomial(x, pcm.nu_mean_high)
        return torch.where(x < pcm.nu_mean_break, low, high)
    return torch.full_like(x, pcm.nu if isinstance(pcm, ScalarDriftSpec) else 0.0)


def nu_sd(g_us: Tensor, pcm: DeviceSpec) -> Tensor:
    """Standard deviation of the Gaussian behind the drift exponent: (*cells) uS -> (*cells)."""
    x = relative(g_us, pcm)
    if isinstance(pcm, PcmSpec):
        return clamped_log(x, pcm.nu_sd)
    if isinstance(pcm, HermesSpec):
        low, high = clamped_log(x, pcm.nu_sd_low), polynomial(x, pcm.nu_sd_high)
        return torch.where(x < pcm.nu_sd_break, low, high)
    return torch.zeros_like(x)


def drift_exponent(g_us: Tensor, pcm: DeviceSpec, eps: Tensor) -> Tensor:
    """Drift exponent, drawn once when a device is programmed: nu = |mean + sd eps|.

    Args:    g_us  the target (not the programmed) conductance, microsiemens, (*cells).
             eps  N(0, 1), (*chips, *cells).
    Returns: (*chips, *cells), times drift_scale; one number for all cells on the scalar device.
    Raises:  ShapeError where eps does not end in g_us's shape.
    Source:  rasch2023 SI, aihwkit PCMLikeNoiseModel; Hermes: legallo2023.
    """
    check_noise(eps, g_us)
    if isinstance(pcm, StatisticalSpec):
        nu = (nu_mean(g_us, pcm) + nu_sd(g_us, pcm) * eps).abs_()
        return nu.mul_(pcm.drift_scale)
    return nu_mean(g_us, pcm).expand_as(eps).clone()


class Moment(NamedTuple):
    """A time as what the laws make of it, where a compiled law must not know the number.

    log_age     logarithm of the power law's base
    read_growth    of the 1/f noise; both of shape `()`
    """

    log_age: Tensor
    read_growth: Tensor


def check_time(t_s: float) -> float:
    """`t_s` as a float; UsageError where it is not a finite number of seconds >= 0."""
    t = float(t_s)
    if not 0.0 <= t < float("inf"):
        raise UsageError(f"time {t_s!r}; allowed: finite seconds after programming, >= 0")
    return t


def age(t_s: float, pcm: DeviceSpec) -> float:
    """The power law's base at `t_s` seconds after programming: (t + t0) / t0.

    The scalar device counts differently: max(t, t0) / t0.
    """
    t = check_time(t_s)
    check_device(pcm)
    if isinstance(pcm, ScalarDriftSpec):
        return max(t, pcm.t0_s) / pcm.t0_s
    return (t + pcm.t0_s) / pcm.t0_s


def log_age(t_s: float | Moment, pcm: DeviceSpec) -> float | Tensor:
    """Natural logarithm of `age`."""
    if isinstance(t_s, Moment):
        return t_s.log_age
    return torch.tensor(age(t_s, pcm), dtype=torch.float64).log().item()


def drifted(g_prog_us: Tensor, nu: Tensor, t_s: float | Moment, pcm: DeviceSpec) -> Tensor:
    """Drifted conductance without read noise: g ((t + t0) / t0)^-nu.

    Args:    g_prog_us  programmed, microsiemens, (*chips, *cells).    nu  same shape or
             broadcastable.    t_s  seconds after the end of programming.
    Returns: microsiemens, (*chips, *cells).
    Raises:  UsageError where t_s is negative or not finite.
    Source:  rasch2023 SI. One second is already a small drift: t + t0, not t.
    """
    return (nu * -log_age(t_s, pcm)).exp_().mul(g_prog_us)


def mean_drift_factor(g_us: Tensor, t_s: float, pcm: DeviceSpec) -> Tensor:
    """Drift factor at the mean exponent of each target: (*cells) uS -> (*cells), ratio."""
    nu = nu_mean(g_us, pcm)
    if isinstance(pcm, StatisticalSpec):
        nu = nu * pcm.drift_scale
    return drifted(torch.ones_like(g_us), nu, t_s, pcm)
