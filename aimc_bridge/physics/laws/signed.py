"""PCM in cells that hold a signed weight each: what lies between a scalar drift and pairs."""

from __future__ import annotations

from torch import Tensor

from aimc_bridge.physics.laws.formulas import on_grid
from aimc_bridge.physics.laws.pcm import PcmLaw
from aimc_bridge.physics.laws.registry import register
from aimc_bridge.spec import SignedPcmSpec


class SignedPcmLaw(PcmLaw[SignedPcmSpec]):
    """The law "signed pcm": targets on a grid, noise of |w| on the signed weight, no clip at 0."""

    def target_us(self, g_us: Tensor, pcm: SignedPcmSpec) -> Tensor:
        return on_grid(g_us, pcm, pcm.weight_bits)


register(SignedPcmSpec, SignedPcmLaw())
