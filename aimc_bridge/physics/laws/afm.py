"""The law of PCM as in the evaluation of IBM's analog foundation models."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from aimc_bridge.physics.laws.base import Law
from aimc_bridge.physics.laws.formulas import polynomial
from aimc_bridge.physics.laws.registry import register
from aimc_bridge.spec import AfmPcmSpec


class AfmPcmLaw(Law[AfmPcmSpec]):
    """The law "afm pcm": noise on the signed weight, once, and no drift.

    The source rounds the standard deviation to half precision, which belongs to its code and not to
    the device. Here it has the precision of the weights.

    Source: afm2025.
    """

    keeps_sign: ClassVar[bool] = True

    def target_us(self, g_us: Tensor, pcm: AfmPcmSpec) -> Tensor:
        """Return the target; 0 if it is smaller than the smallest conductance."""
        return torch.where(g_us.abs() < pcm.smallest_us, 0.0, g_us)

    def sigma_prog_us(self, g_us: Tensor, pcm: AfmPcmSpec) -> Tensor:
        """Return prog_noise_scale sum c_k |w|^k, of one or of two devices; 0 for small weights."""
        size = g_us.abs()
        one, two = (polynomial(size, c) for c in (pcm.prog_coeff_us, pcm.prog_coeff_two_us))
        sigma = torch.where(size > pcm.one_device_us, two, one).mul_(pcm.prog_noise_scale)
        return torch.where(size < pcm.smallest_us, 0.0, sigma)

    def nu_mean(self, g_us: Tensor, pcm: AfmPcmSpec) -> Tensor:
        """Return 0."""
        return torch.zeros_like(g_us)


register(AfmPcmSpec, AfmPcmLaw())
