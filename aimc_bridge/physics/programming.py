"""Programming: the conductance that a device gets when a target is written."""

from __future__ import annotations

import torch
from torch import Tensor

from aimc_bridge.errors import ShapeError, UsageError
from aimc_bridge.physics.laws import law_of
from aimc_bridge.spec import DeviceSpec


def check_tensors(**tensors: Tensor) -> None:
    """Check that arguments are tensors of real numbers.

    Args:
        **tensors: The arguments by name.

    Raises:
        UsageError: If one is something else.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise UsageError(f"{name} is a {type(tensor).__name__}; allowed: a tensor")
        if tensor.is_complex() or tensor.dtype == torch.bool:
            raise UsageError(f"{name} is a tensor of {tensor.dtype}; allowed: real numbers")


def check_together(**tensors: Tensor) -> None:
    """Check that two tensors of real numbers have shapes that can be computed together.

    Args:
        **tensors: The two tensors by name.

    Raises:
        ShapeError: If they do not.
        UsageError: If one is no tensor of real numbers.
    """
    check_tensors(**tensors)
    first, second = (tuple(tensor.shape) for tensor in tensors.values())
    for a, b in zip(reversed(first), reversed(second), strict=False):
        if a != b and a != 1 and b != 1:
            raise ShapeError(
                f"{' and '.join(tensors)} of shapes {first} and {second}; "
                "allowed: (*chips, *cells), the same or broadcastable"
            )


def check_noise(eps: Tensor, cells: Tensor) -> None:
    """Check that the shape of a noise ends in the shape of the cells.

    Args:
        eps: The noise, shape (*chips, *cells).
        cells: A tensor of shape (*cells).

    Raises:
        ShapeError: If it does not.
        UsageError: If one of them is no tensor of real numbers.
    """
    check_tensors(eps=eps, cells=cells)
    if eps.shape[eps.ndim - cells.ndim :] != cells.shape:
        raise ShapeError(
            f"noise of shape {tuple(eps.shape)} for cells of shape {tuple(cells.shape)}; "
            "allowed: (*chips, *cells)"
        )


def sigma_prog_us(g_us: Tensor, pcm: DeviceSpec) -> Tensor:
    """Return the standard deviation of the programmed conductance.

    For PCM and the scalar device it is prog_noise_scale * sum c_k x^k with x = |g| / g_max, where
    the c_k are `prog_coeff_us`. For the ideal device it is 0.

    Args:
        g_us: Target conductance in microsiemens, shape (*cells), between 0 and g_max (between
            -g_max and g_max for a cell that holds a signed weight). Only its size counts.
        pcm: The device, `preset.pcm`.

    Returns:
        Standard deviation in microsiemens, shape (*cells).

    Raises:
        UsageError: If `pcm` is not a device, or if its law is not registered.

    Not modelled: temperature, the steps of an iterative write.

    Source: rasch2023 SI, nandakumar2019; Hermes: legallo2023.
    """
    check_tensors(g_us=g_us)
    return law_of(pcm).sigma_prog_us(g_us, pcm)


def target_us(g_us: Tensor, pcm: DeviceSpec) -> Tensor:
    """Return the conductance that is written for a target.

    It is the target on the device's grid of `weight_bits`, or the target itself if the device has
    no grid.

    Args:
        g_us: Target conductance in microsiemens, shape (*cells), with the sign of the weight.
        pcm: The device, `preset.pcm`.

    Returns:
        Conductance in microsiemens, shape (*cells); `g_us` itself, not a copy, if the device has
        no grid.

    Raises:
        UsageError: If `pcm` is not a device, or if its law is not registered.
    """
    return law_of(pcm).target_us(g_us, pcm)


def programmed(g_us: Tensor, pcm: DeviceSpec, eps: Tensor) -> Tensor:
    """Return the conductance right after programming, max(0, g + sigma(g) eps).

    A cell that holds a signed weight (scalar device, signed PCM) is not clipped at 0, and its
    target is rounded to its grid of bits first. The ideal device gets its target exactly.

    Args:
        g_us: Target conductance in microsiemens, shape (*cells), between 0 and g_max (between
            -g_max and g_max for a cell that holds a signed weight).
        pcm: The device, `preset.pcm`.
        eps: Standard normal noise, shape (*chips, *cells).

    Returns:
        Conductance in microsiemens, shape (*chips, *cells). It may exceed g_max.

    Raises:
        ShapeError: If the shape of eps does not end in the shape of g_us.
        UsageError: If `pcm` is not a device, or if its law is not registered.

    Not modelled: stuck cells, temperature.

    Source: rasch2023 SI, nandakumar2019; Hermes: legallo2023.
    """
    check_noise(eps, g_us)
    return law_of(pcm).programmed(g_us, pcm, eps)
