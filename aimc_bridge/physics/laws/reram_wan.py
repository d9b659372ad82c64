"""The law of ReRAM after Wan et al. 2022."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from aimc_bridge.errors import UsageError
from aimc_bridge.physics.laws.base import Law, Numbers
from aimc_bridge.physics.laws.formulas import relative
from aimc_bridge.physics.laws.registry import register
from aimc_bridge.spec import ReramWanSpec, TrainingSpec

_SMALLEST = 1e-7  # of g_max: a share of a target of 0 is not defined


class ReramWanLaw(Law[ReramWanSpec]):
    """The law "reram wan2022": a Gaussian around the target, at a few known times.

    The number of each device that reading needs is its target. It is where other laws have
    exponents.

    Source: wan2022, aihwkit ReRamWan2022NoiseModel.
    """

    read_noise: ClassVar[bool] = True
    redrawn: ClassVar[bool] = True

    # --- programming ---

    def sigma_prog_us(self, g_us: Tensor, pcm: ReramWanSpec) -> Tensor:
        """Return the standard deviation at the first known time."""
        return _deviation_us(g_us, self.moment(pcm.times_s[0], pcm), pcm)

    # --- drift ---

    def nu_mean(self, g_us: Tensor, pcm: ReramWanSpec) -> Tensor:
        """Return the target."""
        return g_us.clone()

    def moment(self, t_s: float, pcm: ReramWanSpec) -> tuple[float, ...]:
        """Return the coefficients of the standard deviation at a time, in microsiemens.

        Raises:
            UsageError: If the device is not known at this time.
        """
        if t_s not in pcm.times_s:
            known = ", ".join(f"{t:g}" for t in pcm.times_s)
            raise UsageError(
                f"time {t_s:g} s; this ReRAM was measured at {known} s after programming only; "
                "allowed: these times (nothing is interpolated)"
            )
        coefficients = pcm.coefficients_us(pcm.times_s.index(t_s))
        return tuple(c * pcm.noise_scale for c in coefficients)

    def drifted(self, g_prog_us: Tensor, nu: Tensor, moment: Numbers, pcm: ReramWanSpec) -> Tensor:
        """Return the target, which is the mean at every known time."""
        return nu.expand_as(g_prog_us).clone()

    def mean_drift_factor(self, g_us: Tensor, moment: Numbers, pcm: ReramWanSpec) -> Tensor:
        """Return 1: the mean does not drift."""
        return torch.ones_like(g_us)

    # --- reading ---

    def read_basis(self, g_prog_us: Tensor, nu: Tensor) -> Tensor:
        """Return the target."""
        return nu

    def read_sigma(self, g_prog_us: Tensor, moment: Numbers, pcm: ReramWanSpec) -> Tensor:
        """Return the standard deviation as a share; the argument `g_prog_us` is the target."""
        size = g_prog_us.abs().clamp_min(_SMALLEST * pcm.g_max_us)
        return _deviation_us(g_prog_us, moment, pcm) / size

    def read(
        self, g_drift_us: Tensor, g_prog_us: Tensor, moment: Numbers, pcm: ReramWanSpec, eps: Tensor
    ) -> Tensor:
        """Return max(0, target + sigma eps); the argument `g_prog_us` is the target."""
        return (g_drift_us + _deviation_us(g_prog_us, moment, pcm) * eps).clamp_min_(0.0)

    # --- training ---

    def injected(
        self,
        g_us: Tensor,
        pcm: ReramWanSpec,
        recipe: TrainingSpec,
        scale: float | Tensor,
        eps: Tensor,
        eps_read: Tensor,
    ) -> Tensor:
        """Return conductances with the noise of one mini-batch, as `Law.injected`.

        With "pcm" it is the deviation at the recipe's time, of which programming is a part.

        Raises:
            UsageError: If the device is not known at the recipe's time.
        """
        if recipe.noise_type != "pcm":
            return g_us + self.sigma_prog_us(g_us, pcm) * eps * scale
        moment = self.moment(recipe.noise_t_s, pcm)
        return g_us + _deviation_us(g_us, moment, pcm) * eps * scale


def _deviation_us(g_us: Tensor, coefficients: Numbers, pcm: ReramWanSpec) -> Tensor:
    """Return sum c_k x^k in microsiemens, x = |g| / g_max."""
    x = relative(g_us, pcm)
    value = torch.zeros_like(x)
    for coefficient in reversed(coefficients):
        value = value.mul_(x).add_(coefficient)
    return value


register(ReramWanSpec, ReramWanLaw())
