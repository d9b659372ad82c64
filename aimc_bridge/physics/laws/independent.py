"""The law of PCM whose drift and read noise do not depend on the conductance."""

from __future__ import annotations

import torch
from torch import Tensor

from aimc_bridge.physics.laws.registry import register
from aimc_bridge.physics.laws.statistical import StatisticalLaw
from aimc_bridge.spec import StateIndependentSpec


class StateIndependentLaw(StatisticalLaw[StateIndependentSpec]):
    """The law "state independent": the same statistics for every conductance.

    Source: aihwkit StateIndependentNoiseModel.
    """

    def nu_mean(self, g_us: Tensor, pcm: StateIndependentSpec) -> Tensor:
        """Return the one mean of all devices."""
        return torch.full_like(g_us, pcm.nu_mean)

    def nu_sd(self, g_us: Tensor, pcm: StateIndependentSpec) -> Tensor:
        """Return the one standard deviation of all devices."""
        return torch.full_like(g_us, pcm.nu_sd)

    def read_coefficient(self, g_prog_us: Tensor, pcm: StateIndependentSpec) -> Tensor:
        """Return read_us / g_max, the same share for every conductance."""
        return torch.full_like(g_prog_us, pcm.read_us / pcm.g_max_us)


register(StateIndependentSpec, StateIndependentLaw())
