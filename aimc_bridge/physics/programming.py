"""Programming: the conductance a device gets when a target is written."""

from __future__ import annotations

from torch import Tensor

from aimc_bridge.errors import ShapeError
from aimc_bridge.physics.laws import law_of
from aimc_bridge.spec import DeviceSpec


def check_noise(eps: Tensor, cells: Tensor) -> None:
    """Raise ShapeError where the noise's shape does not end in the cells' shape."""
    if eps.shape[eps.ndim - cells.ndim :] != cells.shape:
        raise ShapeError(
            f"noise of shape {tuple(eps.shape)} for cells of shape {tuple(cells.shape)}; "
            "allowed: (*chips, *cells)"
        )


def sigma_prog_us(g_us: Tensor, pcm: DeviceSpec) -> Tensor:
    """Return the standard deviation of the programmed conductance.

    Args:
        g_us: Target in microsiemens, shape (*cells). The sign of a signed weight does not matter.
        pcm: The device, `preset.pcm`.

    Returns:
        Microsiemens, shape (*cells), such as prog_noise_scale * sum c_k x^k with x = |g| / g_max
        for PCM; 0 for a device without noise.

    Raises:
        UsageError: If `pcm` is no device.

    Source: rasch2023 SI, nandakumar2019; Hermes: legallo2023.
    """
    return law_of(pcm).sigma_prog_us(g_us, pcm)


def target_us(g_us: Tensor, pcm: DeviceSpec) -> Tensor:
    """Return what is written if `g_us` is asked for.

    Args:
        g_us: Microsiemens, shape (*cells), with the weight's sign.
        pcm: The device, `preset.pcm`.

    Returns:
        Shape (*cells), on the grid of weight_bits; `g_us` itself if the device has no grid.

    Raises:
        UsageError: If `pcm` is no device.
    """
    return law_of(pcm).target_us(g_us, pcm)


def programmed(g_us: Tensor, pcm: DeviceSpec, eps: Tensor) -> Tensor:
    """Return the conductance right after programming, max(0, g + sigma(g) eps).

    A cell that holds a signed weight (scalar, signed PCM) is not clipped at 0, and its target is
    rounded to its grid of bits first.

    Args:
        g_us: Target in microsiemens, shape (*cells), 0..g_max (signed: -g_max..g_max).
        pcm: The device, `preset.pcm`.
        eps: N(0, 1), shape (*chips, *cells).

    Returns:
        Microsiemens, shape (*chips, *cells).

    Raises:
        ShapeError: If eps does not end in the shape of g_us.
        UsageError: If `pcm` is no device.

    Not modelled: stuck cells. Source: rasch2023 SI, nandakumar2019.
    """
    check_noise(eps, g_us)
    return law_of(pcm).programmed(g_us, pcm, eps)
