"""Drift: the decay of a conductance and the spread of its exponent."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from aimc_bridge.errors import UsageError
from aimc_bridge.physics.laws import Law, law_of
from aimc_bridge.physics.programming import check_noise
from aimc_bridge.spec import DeviceSpec


class Moment(NamedTuple):
    """A time as what a law makes of it, for a compiled pass that must not know the number.

    Attributes:
        numbers: What the law's `moment` returned, as tensors of shape ().
    """

    numbers: tuple[Tensor, ...]


def check_time(t_s: float) -> float:
    """Return `t_s` as a float; raise UsageError if it is not a finite number of seconds >= 0."""
    t = float(t_s)
    if not 0.0 <= t < float("inf"):
        raise UsageError(f"time {t_s!r}; allowed: finite seconds after programming, >= 0")
    return t


def numbers_at(t_s: float | Moment, law: Law[Any], pcm: DeviceSpec) -> tuple[float | Tensor, ...]:
    """Return what the law needs of a time; raise UsageError as `check_time`."""
    if isinstance(t_s, Moment):
        return t_s.numbers
    return law.moment(check_time(t_s), pcm)


def nu_mean(g_us: Tensor, pcm: DeviceSpec) -> Tensor:
    """Return the mean of the Gaussian behind the drift exponent: (*cells) uS -> (*cells)."""
    return law_of(pcm).nu_mean(g_us, pcm)


def nu_sd(g_us: Tensor, pcm: DeviceSpec) -> Tensor:
    """Return the standard deviation of that Gaussian: (*cells) uS -> (*cells)."""
    return law_of(pcm).nu_sd(g_us, pcm)


def drift_exponent(g_us: Tensor, pcm: DeviceSpec, eps: Tensor) -> Tensor:
    """Return the drift exponent that a device gets when it is programmed, nu = |mean + sd eps|.

    Args:
        g_us: The target (not the programmed) conductance in microsiemens, shape (*cells).
        pcm: The device, `preset.pcm`.
        eps: N(0, 1), shape (*chips, *cells).

    Returns:
        Shape (*chips, *cells), times drift_scale; one number for all cells on the scalar device.

    Raises:
        ShapeError: If eps does not end in the shape of g_us.
        UsageError: If `pcm` is no device.

    Source: rasch2023 SI, aihwkit PCMLikeNoiseModel; Hermes: legallo2023.
    """
    check_noise(eps, g_us)
    return law_of(pcm).drift_exponent(g_us, pcm, eps)


def age(t_s: float, pcm: DeviceSpec) -> float:
    """Return the base of the power law at `t_s` seconds after programming: (t + t0) / t0.

    The scalar device counts differently: max(t, t0) / t0.

    Raises:
        UsageError: If `t_s` is no time or `pcm` is no device.
    """
    t = check_time(t_s)
    return law_of(pcm).age(t, pcm)


def drifted(g_prog_us: Tensor, nu: Tensor, t_s: float | Moment, pcm: DeviceSpec) -> Tensor:
    """Return the drifted conductance without read noise, g ((t + t0) / t0)^-nu.

    Args:
        g_prog_us: Programmed conductance in microsiemens, shape (*chips, *cells).
        nu: Drift exponents, of the same shape or broadcastable to it.
        t_s: Seconds after the end of programming.
        pcm: The device, `preset.pcm`.

    Returns:
        Microsiemens, shape (*chips, *cells).

    Raises:
        UsageError: If t_s is negative or not finite, or `pcm` is no device.

    Source: rasch2023 SI. One second is already a small drift: t + t0, not t.
    """
    law = law_of(pcm)
    return law.drifted(g_prog_us, nu, numbers_at(t_s, law, pcm), pcm)


def mean_drift_factor(g_us: Tensor, t_s: float, pcm: DeviceSpec) -> Tensor:
    """Return the drift factor at the mean exponent of each target: (*cells) uS -> (*cells)."""
    law = law_of(pcm)
    return law.mean_drift_factor(g_us, numbers_at(t_s, law, pcm), pcm)
