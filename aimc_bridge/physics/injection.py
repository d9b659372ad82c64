"""Noise that hardware-aware training adds to the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aimc_bridge.physics import unit_cell
from aimc_bridge.physics.laws import law_of
from aimc_bridge.physics.programming import check_noise
from aimc_bridge.spec import DeviceSpec, TrainingSpec


def injected(
    weight: Tensor,
    largest: Tensor | float,
    pcm: DeviceSpec,
    recipe: TrainingSpec,
    scale: float,
    eps: Tensor,
    eps_read: Tensor,
) -> Tensor:
    """Return the weights with the noise of one mini-batch.

    The `noise_type` of the recipe decides, with s = `scale` and independent N(0, 1):

    - "pcm": g_P = g + s sigma_prog N, then g_P + s |g_P| Q sqrt(ln((t + t_read) / (2 t_read))) N
      with t = `noise_t_s` of the recipe. This is for PCM; another device uses its own read noise.
    - "programming": g_P alone.
    - "gaussian": w + s gaussian_sd max|w| N, with the largest |w| of the tile.
    - "none": the weights.

    With "pcm" and "programming" a weight keeps its sign by reflection, and a weight that is exactly
    0 stays 0. This does not hold for one device that is read against a reference (ReRAM CMO, or
    `reference` of the device).

    Several pairs, and one device with a reference, have the spread of all their devices together:
    s times the standard deviation sqrt(sum F_k^2 (var plus_k + var minus_k)), where programming
    cuts each device at 0. The noise of a column of references is shared by the outputs of a chip's
    tile; here each weight draws its own.

    Args:
        weight: Normalised weights, shape (*cells).
        largest: The tile's largest |w|, broadcastable to (*cells).
        pcm: The device, `preset.pcm`.
        recipe: The recipe of the training.
        scale: Factor s on the noise, from `ramped`.
        eps: Standard normal noise for programming, shape (*cells).
        eps_read: Standard normal noise for reading, shape (*cells).

    Returns:
        Normalised weights, shape (*cells), a new tensor.

    Raises:
        ShapeError: If the shape of eps or eps_read does not end in the shape of the weights.
        SpecError: If the recipe reads sooner than a reading of the device takes.
        UsageError: If `pcm` is not a device, or if its law is not registered.

    Not modelled: the mean drift.

    Source: rasch2023 SI A.1.
    """
    check_noise(eps, weight)
    check_noise(eps_read, weight)
    if recipe.noise_type == "none" or scale == 0.0:
        return weight.clone()
    return noisy(weight, largest, pcm, recipe, scale, eps, eps_read)


def noisy(
    weight: Tensor,
    largest: Tensor | float,
    pcm: DeviceSpec,
    recipe: TrainingSpec,
    scale: float | Tensor,
    eps: Tensor,
    eps_read: Tensor,
) -> Tensor:
    """Return what `injected` returns for a recipe with noise, without checks.

    Args:
        weight: Normalised weights, shape (*cells).
        largest: The tile's largest |w|, broadcastable to (*cells).
        pcm: The device, `preset.pcm`.
        recipe: The recipe of the training. Its `noise_type` is not "none".
        scale: Factor on the noise, a number or a tensor of one number.
        eps: Standard normal noise for programming, shape (*cells).
        eps_read: Standard normal noise for reading, shape (*cells).

    Returns:
        Normalised weights, shape (*cells).

    Raises:
        SpecError: If the recipe reads sooner than a reading of the device takes.
        UsageError: If `pcm` is not a device, or if its law is not registered.

    Source: rasch2023 SI A.1.
    """
    if recipe.noise_type == "gaussian":
        return weight + eps * (largest * (scale * recipe.gaussian_sd))
    us_per_unit, law = pcm.full_scale_us / largest, law_of(pcm)
    if pcm.referenced or pcm.pairs > 1:
        programming, reading = _spreads(weight, us_per_unit, pcm, recipe, scale)
        noise = (programming * eps + reading * eps_read) / us_per_unit
        if pcm.referenced:
            return weight + noise
        return (weight.abs() + noise).abs() * weight.sign()
    if law.sign_counts:
        return law.injected(weight * us_per_unit, pcm, recipe, scale, eps, eps_read) / us_per_unit
    g_us = weight.abs() * us_per_unit
    g = law.injected(g_us, pcm, recipe, scale, eps, eps_read)
    return g.abs() * weight.sign() / us_per_unit


def _spreads(
    weight: Tensor,
    us_per_unit: Tensor | float,
    pcm: DeviceSpec,
    recipe: TrainingSpec,
    scale: float | Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the standard deviations of weights, by programming and by reading.

    They are those of all devices of a weight together, in microsiemens, shape (*cells).
    """
    if pcm.referenced:
        devices = [(1.0, weight * us_per_unit + pcm.reference_us)]
        if pcm.reference == "column":
            devices.append((1.0, torch.full_like(weight, pcm.reference_us)))
    else:
        parts = unit_cell.parts_of(weight, us_per_unit, pcm.factors, pcm.g_max_us)
        devices = [
            (factor, target)
            for factor, part in zip(pcm.factors, parts, strict=True)
            for target in (part.clamp_min(0.0), (-part).clamp_min(0.0))
        ]
    total = torch.zeros_like(weight), torch.zeros_like(weight)
    for factor, target in devices:
        variances = _variances(target, pcm, recipe, scale)
        total = tuple(t + factor**2 * v for t, v in zip(total, variances, strict=True))  # type: ignore[assignment]
    return total[0].sqrt(), total[1].sqrt()


def _variances(
    target_us: Tensor, pcm: DeviceSpec, recipe: TrainingSpec, scale: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Return the variances of single devices, by programming and by reading, in uS^2."""
    law, one, none = law_of(pcm), torch.ones_like(target_us), torch.zeros_like(target_us)
    sd, read_sd = (
        (law.injected(target_us, pcm, recipe, scale, *eps) - target_us).abs()
        for eps in ((one, none), (none, one))
    )
    if law.tabulated:  # measured, and so after the cut at 0
        return sd.square(), read_sd.square()
    return _cut_variance(target_us, sd), read_sd.square()


def _cut_variance(mean: Tensor, sd: Tensor) -> Tensor:
    """Return the variance of max(0, mean + sd N) with mean >= 0."""
    ratio = mean / sd.clamp_min(1e-30)
    below = 0.5 * torch.erfc(ratio * math.sqrt(0.5))
    density = (-0.5 * ratio.square()).exp() * (1 / math.sqrt(2 * math.pi))
    # in terms of what is cut off: the part of the mean below 0 is small where the ratio is large
    lost = ratio * below - density  # minus the mean of the values below 0
    share = 1 - below + ratio * lost - lost.square()
    return sd.square() * share.clamp_min(0.0)


def ramped(scale: float, batch: int, ramp_batches: int) -> float:
    """Return the noise scale of a mini-batch, which grows linearly over the ramp.

    The first mini-batch already has 1 / ramp_batches of the noise.

    Args:
        scale: The noise scale at the end of the ramp.
        batch: Number of the mini-batch, from 0 on.
        ramp_batches: Mini-batches of the ramp; 0 means no ramp.

    Returns:
        The noise scale, at most `scale`.
    """
    if ramp_batches <= 0:
        return scale
    return scale * min(1.0, (batch + 1) / ramp_batches)
