"""Reading: 1/f noise accumulated since programming, drawn anew at each reading time."""

from __future__ import annotations

import torch
from torch import Tensor

from aimc_bridge.physics.drift import Moment, numbers_at
from aimc_bridge.physics.laws import law_of
from aimc_bridge.physics.programming import check_noise
from aimc_bridge.spec import DeviceSpec


def read_coefficient(g_prog_us: Tensor, pcm: DeviceSpec) -> Tensor:
    """Return Q of the 1/f noise of a programmed conductance: (*cells) uS -> (*cells), ratio.

    PCM: min(0.0088 / max(x^0.65, 1e-3), 0.2), x = g_P / g_max. Source: rasch2023 SI.
    """
    return law_of(pcm).read_coefficient(g_prog_us, pcm)


def read_sigma(g_prog_us: Tensor, t_s: float | Moment, pcm: DeviceSpec) -> Tensor:
    """Return the relative standard deviation of the 1/f noise at `t_s`.

    Args:
        g_prog_us: Programmed conductance in microsiemens, shape (*cells).
        t_s: Seconds after the end of programming.
        pcm: The device, `preset.pcm`.

    Returns:
        Shape (*cells), a share of the drifted conductance; 0 for devices without read noise.

    Raises:
        UsageError: If `pcm` is no device, or has read noise and t_s is no time.

    Source: rasch2023 SI, aihwkit PCMLikeNoiseModel.
    """
    law = law_of(pcm)
    if not law.read_noise:
        return torch.zeros_like(g_prog_us)
    return law.read_sigma(g_prog_us, numbers_at(t_s, law, pcm), pcm)


def read(
    g_drift_us: Tensor, g_prog_us: Tensor, t_s: float | Moment, pcm: DeviceSpec, eps: Tensor
) -> Tensor:
    """Return the conductance as read at `t_s`, max(0, g + |g| sigma eps).

    Args:
        g_drift_us: Drifted conductance in microsiemens, shape (*chips, *cells).
        g_prog_us: Programmed conductance in microsiemens, shape (*chips, *cells).
        t_s: Seconds after the end of programming.
        pcm: The device, `preset.pcm`.
        eps: N(0, 1), of a shape that ends in theirs.

    Returns:
        Microsiemens, in the shape of eps. Devices without read noise: g_drift_us, signs kept.

    Raises:
        ShapeError: If eps does not end in the shape of g_drift_us.
        UsageError: As `read_sigma`.
    """
    check_noise(eps, g_drift_us)
    law = law_of(pcm)
    if not law.read_noise:
        return g_drift_us.expand_as(eps).clone()
    return law.read(g_drift_us, g_prog_us, numbers_at(t_s, law, pcm), pcm, eps)
