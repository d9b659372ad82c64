"""Noise injected into the weights in hardware-aware training."""

from __future__ import annotations

import math

from torch import Tensor

from aimc_bridge.errors import SpecError
from aimc_bridge.physics.programming import check_noise, sigma_prog_us
from aimc_bridge.physics.reading import read_coefficient
from aimc_bridge.spec import DeviceSpec, StatisticalSpec, TrainingSpec


def injected(
    weight: Tensor,
    largest: Tensor | float,
    pcm: DeviceSpec,
    recipe: TrainingSpec,
    scale: float,
    eps: Tensor,
    eps_read: Tensor,
) -> Tensor:
    """Weights of one mini-batch.

    "pcm": g_P = g + s sigma_prog N, g = g_P + s |g_P| Q sqrt(ln((t + t_read) / (2 t_read))) N, the
    sign kept by reflection, an exactly zero weight stays zero, no mean drift. "programming": the
    first of the two. "gaussian": a constant sigma. "none": the weights.

    Args:    weight  `(*cells)`, normalised.    largest  the tile's largest |w|, broadcastable.
             scale  s.    eps, eps_read  N(0, 1), `(*cells)`.
    Returns: `(*cells)`, normalised.    Source: rasch2023 SI A.1.
    Raises:  ShapeError; SpecError where the recipe reads sooner than a reading of the device takes.
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
    """`injected` of a recipe with noise, unchecked; `scale` may be a tensor of one number.

    Raises:  SpecError as `injected`.
    """
    if recipe.noise_type == "gaussian":
        return weight + eps * (largest * (scale * recipe.gaussian_sd))
    us_per_unit = pcm.g_max_us / largest
    g_us = weight.abs() * us_per_unit
    g = g_us + sigma_prog_us(g_us, pcm) * eps * scale
    if recipe.noise_type == "pcm" and isinstance(pcm, StatisticalSpec):
        ratio = (recipe.noise_t_s + pcm.t_read_s) / (2 * pcm.t_read_s)
        if ratio < 1.0:
            raise SpecError(
                f"noise_t_s = {recipe.noise_t_s!r} of the recipe; allowed: >= {pcm.t_read_s!r} s, "
                "the duration of one reading of this device"
            )
        strength = scale * (pcm.read_noise_scale * math.sqrt(math.log(ratio)))
        g = g + g.abs() * read_coefficient(g, pcm) * eps_read * strength
    return g.abs() * weight.sign() / us_per_unit


def ramped(scale: float, batch: int, ramp_batches: int) -> float:
    """The noise scale in mini-batch `batch` (0 first): linear up to `scale` over the ramp.

    The first mini-batch has noise: 1 / ramp_batches of it.
    """
    if ramp_batches <= 0:
        return scale
    return scale * min(1.0, (batch + 1) / ramp_batches)
