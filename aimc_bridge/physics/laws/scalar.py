"""The law of a simplified device: one drift exponent for all cells."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from aimc_bridge.physics.laws.base import Law
from aimc_bridge.physics.laws.formulas import on_grid, polynomial, relative
from aimc_bridge.physics.laws.registry import register
from aimc_bridge.spec import ScalarDriftSpec


class ScalarDriftLaw(Law[ScalarDriftSpec]):
    """The law "scalar": one drift exponent for all cells, and no read noise.

    The programming noise is added to the signed weight.

    Source: the description of the public replication.
    """

    keeps_sign: ClassVar[bool] = True

    def target_us(self, g_us: Tensor, pcm: ScalarDriftSpec) -> Tensor:
        """Return the target on the grid of `weight_bits`."""
        return on_grid(g_us, pcm, pcm.weight_bits)

    def sigma_prog_us(self, g_us: Tensor, pcm: ScalarDriftSpec) -> Tensor:
        """Return prog_noise_scale sum c_k x^k, x = |g| / g_max."""
        return polynomial(relative(g_us, pcm), pcm.prog_coeff_us).mul_(pcm.prog_noise_scale)

    def nu_mean(self, g_us: Tensor, pcm: ScalarDriftSpec) -> Tensor:
        """Return the one exponent of all cells."""
        return torch.full_like(g_us, pcm.nu)

    def age(self, t_s: float, pcm: ScalarDriftSpec) -> float:
        """Return max(t, t0) / t0: nothing drifts before t0."""
        return max(t_s, pcm.t0_s) / pcm.t0_s

    def common_factor(self, t_s: float, pcm: ScalarDriftSpec) -> float | None:
        """Return age^nu, the exact inverse of the drift of every cell."""
        return float(self.age(t_s, pcm) ** pcm.nu)


register(ScalarDriftSpec, ScalarDriftLaw())
