"""The law of PCM with one cell per weight, which holds the sign."""

from __future__ import annotations

from torch import Tensor

from aimc_bridge.physics.laws.formulas import on_grid
from aimc_bridge.physics.laws.pcm import PcmLaw
from aimc_bridge.physics.laws.registry import register
from aimc_bridge.spec import SignedPcmSpec


class SignedPcmLaw(PcmLaw[SignedPcmSpec]):
    """The law "signed pcm", which lies between a scalar drift and pairs of devices.

    Targets are on a grid, the programming noise of |w| is added to the signed weight, and nothing
    is clipped at 0 after programming.
    """

    def target_us(self, g_us: Tensor, pcm: SignedPcmSpec) -> Tensor:
        """Return the target on the grid of `weight_bits`."""
        return on_grid(g_us, pcm, pcm.weight_bits)


register(SignedPcmSpec, SignedPcmLaw())
