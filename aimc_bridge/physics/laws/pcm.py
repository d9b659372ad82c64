"""The law of PCM after Nandakumar et al. 2019, as in rasch2023."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

from aimc_bridge.physics.laws.formulas import clamped_log, relative
from aimc_bridge.physics.laws.registry import register
from aimc_bridge.physics.laws.statistical import StatisticalLaw
from aimc_bridge.spec import PcmSpec

P = TypeVar("P", bound=PcmSpec)


class PcmLaw(StatisticalLaw[P]):
    """The law "pcm": a polynomial sigma, and clamped logarithms for the exponent.

    Source: rasch2023 SI, nandakumar2019, aihwkit PCMLikeNoiseModel.
    """

    def nu_mean(self, g_us: Tensor, pcm: P) -> Tensor:
        """Return the clamped logarithm of `pcm.nu_mean` at x = g / g_max."""
        return clamped_log(relative(g_us, pcm), pcm.nu_mean)

    def nu_sd(self, g_us: Tensor, pcm: P) -> Tensor:
        """Return the clamped logarithm of `pcm.nu_sd` at x = g / g_max."""
        return clamped_log(relative(g_us, pcm), pcm.nu_sd)

    def read_coefficient(self, g_prog_us: Tensor, pcm: P) -> Tensor:
        """Return min(scale / max(x^exponent, floor), highest), x = g_prog / g_max."""
        scale, exponent, floor, highest = pcm.read_coeff
        x = relative(g_prog_us, pcm).pow_(exponent)
        return x.clamp_min_(floor).reciprocal_().mul_(scale).clamp_max_(highest)


register(PcmSpec, PcmLaw[PcmSpec]())
