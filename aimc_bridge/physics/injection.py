"""Noise injected into the weights in hardware-aware training."""

from __future__ import annotations

from torch import Tensor

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
    g = law_of(pcm).injected(g_us, pcm, recipe, scale, eps, eps_read)
    return g.abs() * weight.sign() / us_per_unit


def ramped(scale: float, batch: int, ramp_batches: int) -> float:
    """The noise scale in mini-batch `batch` (0 first): linear up to `scale` over the ramp.

    The first mini-batch has noise: 1 / ramp_batches of it.
    """
    if ramp_batches <= 0:
        return scale
    return scale * min(1.0, (batch + 1) / ramp_batches)
