"""Drift: the decay of a conductance and the spread of its exponent."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor

from aimc_bridge.errors import UsageError, shown
from aimc_bridge.physics.laws import Law, law_of
from aimc_bridge.physics.programming import check_noise, check_together
from aimc_bridge.spec import DeviceSpec


class Moment(NamedTuple):
    """A time, as the numbers that a law needs of it.

    Compiled passes take it instead of seconds: its numbers are tensors, so that a pass is not
    compiled again for every time.

    Attributes:
        numbers: The result of the law's `moment`, as tensors of shape ().
    """

    numbers: tuple[Tensor, ...]


def check_time(t_s: float) -> float:
    """Check a time and return it as a float.

    Args:
        t_s: Seconds after the end of programming.

    Returns:
        The same number of seconds.

    Raises:
        UsageError: If it is negative or not finite.
    """
    try:
        t = math.nan if isinstance(t_s, bool | str | bytes) else float(t_s)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last one is torch's
        t = math.nan
    if not 0.0 <= t < math.inf:
        raise UsageError(f"time {shown(t_s)}; allowed: finite seconds after programming, >= 0")
    return t


def numbers_at(t_s: float | Moment, law: Law[Any], pcm: DeviceSpec) -> tuple[float | Tensor, ...]:
    """Return the numbers that a law needs of a time.

    Args:
        t_s: Seconds after the end of programming, or a `Moment`.
        law: The law of the device.
        pcm: The device, `preset.pcm`.

    Returns:
        The result of the law's `moment`: floats, or tensors of shape () if `t_s` is a `Moment`.

    Raises:
        UsageError: If the number of seconds is negative or not finite.
    """
    if isinstance(t_s, Moment):
        return t_s.numbers
    return law.moment(check_time(t_s), pcm)


def check_known(t_s: float, pcm: DeviceSpec) -> None:
    """Check that a device is known at a time.

    Args:
        t_s: Seconds after the end of programming.
        pcm: The device, `preset.pcm`.

    Raises:
        UsageError: If t_s is negative or not finite, or outside of what was measured.
    """
    numbers_at(t_s, law_of(pcm), pcm)


def nu_mean(g_us: Tensor, pcm: DeviceSpec) -> Tensor:
    """Return the mean of the Gaussian behind the drift exponent.

    The factor `drift_scale` is not part of it.

    Args:
        g_us: Target conductance in microsiemens, shape (*cells).
        pcm: The device, `preset.pcm`.

    Returns:
        A ratio, shape (*cells).

    Raises:
        UsageError: If `pcm` is not a device, or if its law is not registered.

    Source: rasch2023 SI, aihwkit PCMLikeNoiseModel; Hermes: legallo2023.
    """
    return law_of(pcm).nu_mean(g_us, pcm)


def nu_sd(g_us: Tensor, pcm: DeviceSpec) -> Tensor:
    """Return the standard deviation of the Gaussian behind the drift exponent.

    The factor `drift_scale` is not part of it.

    Args:
        g_us: Target conductance in microsiemens, shape (*cells).
        pcm: The device, `preset.pcm`.

    Returns:
        A ratio, shape (*cells); 0 for devices whose exponents do not spread.

    Raises:
        UsageError: If `pcm` is not a device, or if its law is not registered.

    Source: rasch2023 SI, aihwkit PCMLikeNoiseModel; Hermes: legallo2023.
    """
    return law_of(pcm).nu_sd(g_us, pcm)


def drift_exponent(g_us: Tensor, pcm: DeviceSpec, eps: Tensor) -> Tensor:
    """Return the drift exponent that a device gets when it is programmed.

    For PCM it is nu = |mean + sd eps| * drift_scale, with mean and sd that depend on the target.
    The scalar device has one exponent for all cells, the ideal device has 0.

    Args:
        g_us: The target (not the programmed) conductance in microsiemens, shape (*cells).
        pcm: The device, `preset.pcm`.
        eps: Standard normal noise, shape (*chips, *cells).

    Returns:
        The exponents, ratios without a unit, shape (*chips, *cells).

    Raises:
        ShapeError: If the shape of eps does not end in the shape of g_us.
        UsageError: If `pcm` is not a device, or if its law is not registered.

    Not modelled: a dependence of the exponent on the programming error, on time or on temperature.

    Source: rasch2023 SI, aihwkit PCMLikeNoiseModel; Hermes: legallo2023.
    """
    check_noise(eps, g_us)
    return law_of(pcm).drift_exponent(g_us, pcm, eps)


def age(t_s: float, pcm: DeviceSpec) -> float:
    """Return the base of the power law of the drift, (t + t0) / t0.

    On the scalar device it is max(t, t0) / t0.

    Args:
        t_s: Seconds after the end of programming.
        pcm: The device, `preset.pcm`.

    Returns:
        A ratio, 1 or more.

    Raises:
        UsageError: If t_s is negative or not finite, if `pcm` is not a device, or if its law is not
            registered.

    Source: rasch2023 SI; scalar device: the description of the public replication.
    """
    t = check_time(t_s)
    return law_of(pcm).age(t, pcm)


def drifted(g_prog_us: Tensor, nu: Tensor, t_s: float | Moment, pcm: DeviceSpec) -> Tensor:
    """Return the drifted conductance without read noise, g ((t + t0) / t0)^-nu.

    There is no drift at t = 0, and already a small one after a second, because the base is t + t0
    and not t. On the scalar device the base is max(t, t0): it does not drift before t0.

    Args:
        g_prog_us: Programmed conductance in microsiemens, shape (*chips, *cells).
        nu: Drift exponents from `drift_exponent`, of the same shape or broadcastable to it.
        t_s: Seconds after the end of programming, or a `Moment` in compiled passes.
        pcm: The device, `preset.pcm`.

    Returns:
        Conductance in microsiemens, shape (*chips, *cells).

    Raises:
        ShapeError: If the shapes of conductances and exponents do not fit.
        UsageError: If t_s is negative or not finite, if `pcm` is not a device, or if its law is not
            registered.

    Not modelled: temperature, a change of the exponent with time.

    Source: rasch2023 SI; Hermes: legallo2023; scalar device: the description of the public
    replication.
    """
    check_together(g_prog_us=g_prog_us, nu=nu)
    law = law_of(pcm)
    return law.drifted(g_prog_us, nu, numbers_at(t_s, law, pcm), pcm)


def mean_drift_factor(g_us: Tensor, t_s: float, pcm: DeviceSpec) -> Tensor:
    """Return the drift factor of devices with the mean exponent of their target.

    Args:
        g_us: Target conductance in microsiemens, shape (*cells).
        t_s: Seconds after the end of programming.
        pcm: The device, `preset.pcm`.

    Returns:
        A ratio, shape (*cells).

    Raises:
        UsageError: If t_s is negative or not finite, if `pcm` is not a device, or if its law is not
            registered.
    """
    law = law_of(pcm)
    return law.mean_drift_factor(g_us, numbers_at(t_s, law, pcm), pcm)
