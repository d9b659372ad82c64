"""The law of PCM of the HERMES chip."""

from __future__ import annotations

from torch import Tensor

from aimc_bridge.physics.laws.formulas import relative, two_pieces
from aimc_bridge.physics.laws.registry import register
from aimc_bridge.physics.laws.statistical import StatisticalLaw
from aimc_bridge.spec import HermesSpec


class HermesLaw(StatisticalLaw[HermesSpec]):
    """The law "hermes": exponents and read noise in two pieces of g / g_max.

    Source: legallo2023, aihwkit HermesNoiseModel.
    """

    def nu_mean(self, g_us: Tensor, pcm: HermesSpec) -> Tensor:
        """Return two pieces of x = g / g_max."""
        x = relative(g_us, pcm)
        return two_pieces(x, pcm.nu_mean_break, pcm.nu_mean_low, pcm.nu_mean_high)

    def nu_sd(self, g_us: Tensor, pcm: HermesSpec) -> Tensor:
        """Return two pieces of x = g / g_max."""
        x = relative(g_us, pcm)
        return two_pieces(x, pcm.nu_sd_break, pcm.nu_sd_low, pcm.nu_sd_high)

    def read_coefficient(self, g_prog_us: Tensor, pcm: HermesSpec) -> Tensor:
        """Return two pieces of x = g_prog / g_max."""
        x = relative(g_prog_us, pcm)
        return two_pieces(x, pcm.read_break, pcm.read_low, pcm.read_high)


register(HermesSpec, HermesLaw())
