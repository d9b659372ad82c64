"""The law of a device that keeps its target exactly and for ever."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from aimc_bridge.physics.laws.base import Law
from aimc_bridge.physics.laws.registry import register
from aimc_bridge.spec import IdealSpec


class IdealLaw(Law[IdealSpec]):
    """The law "ideal": no programming noise, no drift, no read noise."""

    keeps_sign: ClassVar[bool] = True
    noise_free: ClassVar[bool] = True

    def sigma_prog_us(self, g_us: Tensor, pcm: IdealSpec) -> Tensor:
        """Return 0."""
        return torch.zeros_like(g_us)

    def programmed(self, g_us: Tensor, pcm: IdealSpec, eps: Tensor) -> Tensor:
        """Return the target, the same for all chips."""
        return g_us.expand_as(eps).clone()

    def nu_mean(self, g_us: Tensor, pcm: IdealSpec) -> Tensor:
        """Return 0."""
        return torch.zeros_like(g_us)


register(IdealSpec, IdealLaw())
