"""Reading: 1/f noise that grows with time, drawn again at each reading time."""

from __future__ import annotations

import torch
from torch import Tensor

from aimc_bridge.physics.drift import Moment, numbers_at
from aimc_bridge.physics.laws import law_of
from aimc_bridge.physics.programming import check_noise, check_tensors, check_together
from aimc_bridge.spec import DeviceSpec


def read_coefficient(g_prog_us: Tensor, pcm: DeviceSpec) -> Tensor:
    """Return Q, the part of the 1/f noise that does not depend on time.

    For PCM with the paper's numbers it is min(0.0088 / max(x^0.65, 1e-3), 0.2) with
    x = g_prog / g_max.

    Args:
        g_prog_us: Programmed conductance in microsiemens, shape (*cells).
        pcm: The device, `preset.pcm`.

    Returns:
        A ratio, shape (*cells); 0 for devices without read noise.

    Raises:
        UsageError: If `pcm` is not a device, or if its law is not registered.

    Source: rasch2023 SI; Hermes: legallo2023.
    """
    return law_of(pcm).read_coefficient(g_prog_us, pcm)


def read_sigma(g_prog_us: Tensor, t_s: float | Moment, pcm: DeviceSpec) -> Tensor:
    """Return the relative standard deviation of the 1/f noise at a reading time.

    For PCM it is read_noise_scale * Q(g_prog) * sqrt(ln((t + t0 + t_read) / (2 t_read))).

    Args:
        g_prog_us: Programmed conductance in microsiemens, shape (*cells).
        t_s: Seconds after the end of programming, or a `Moment` in compiled passes.
        pcm: The device, `preset.pcm`.

    Returns:
        A share of the drifted conductance, shape (*cells); 0 for devices without read noise.

    Raises:
        UsageError: If `pcm` is not a device, if its law is not registered, or if it has read noise
            and t_s is negative or not finite.

    Not modelled: temperature. The short-term noise of a single product is `w_noise` of the
    crossbar and not part of it.

    Source: rasch2023 SI, aihwkit PCMLikeNoiseModel; Hermes: legallo2023.
    """
    check_tensors(g_prog_us=g_prog_us)
    law = law_of(pcm)
    if not law.read_noise:
        return torch.zeros_like(g_prog_us)
    return law.read_sigma(g_prog_us, numbers_at(t_s, law, pcm), pcm)


def read(
    g_drift_us: Tensor, g_prog_us: Tensor, t_s: float | Moment, pcm: DeviceSpec, eps: Tensor
) -> Tensor:
    """Return the conductance as read, max(0, g + |g| sigma eps).

    Here g is the drifted conductance, and sigma is `read_sigma` of the programmed conductance. A
    device without read noise returns g itself with its sign.

    Args:
        g_drift_us: Drifted conductance from `drifted`, in microsiemens, shape (*chips, *cells).
        g_prog_us: Programmed conductance in microsiemens, shape (*chips, *cells).
        t_s: Seconds after the end of programming, or a `Moment` in compiled passes.
        pcm: The device, `preset.pcm`.
        eps: Standard normal noise, of that shape or with further dimensions in front.

    Returns:
        Conductance in microsiemens, in the shape of eps.

    Raises:
        ShapeError: If the shape of eps does not end in the shape of g_drift_us.
        UsageError: If `pcm` is not a device, if its law is not registered, or if it has read noise
            and t_s is negative or not finite.

    Not modelled: a correlation of the noise between two reading times, temperature.

    Source: rasch2023 SI, aihwkit PCMLikeNoiseModel; Hermes: legallo2023.
    """
    check_noise(eps, g_drift_us)
    check_together(g_drift_us=g_drift_us, g_prog_us=g_prog_us)
    law = law_of(pcm)
    if not law.read_noise:
        return g_drift_us.expand_as(eps).clone()
    return law.read(g_drift_us, g_prog_us, numbers_at(t_s, law, pcm), pcm, eps)


def read_after_drift(
    g_prog_us: Tensor, nu: Tensor, t_s: float | Moment, pcm: DeviceSpec, eps: Tensor
) -> Tensor:
    """Return the conductance as read some time after programming: `drifted`, then `read`.

    Args:
        g_prog_us: Programmed conductance in microsiemens, shape (*chips, *cells).
        nu: The result of `drift_exponent`.
        t_s: Seconds after the end of programming, or a `Moment` in compiled passes.
        pcm: The device, `preset.pcm`.
        eps: Standard normal noise, of the conductances' shape.

    Returns:
        Conductance in microsiemens, in the shape of eps.

    Raises:
        ShapeError: If the shape of eps does not end in the shape of g_prog_us.
        UsageError: If t_s is not a time that the device is known at.
    """
    check_noise(eps, g_prog_us)
    law = law_of(pcm)
    return law.read_after_drift(g_prog_us, nu, numbers_at(t_s, law, pcm), pcm, eps)
