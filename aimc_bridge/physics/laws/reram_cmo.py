"""The law of CMO/HfOx ReRAM: one device per weight, read against a reference."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from aimc_bridge.errors import UsageError
from aimc_bridge.physics.laws.base import Law, Numbers
from aimc_bridge.physics.laws.registry import register
from aimc_bridge.spec import ReramCmoSpec, TrainingSpec


class ReramCmoLaw(Law[ReramCmoSpec]):
    """The law "reram cmo": all devices relax alike.

    Conductances in the arguments and results are differences to the reference, with a sign; they
    are g - reference for a device with the conductance g.

    aihwkit draws two Gaussians per reading: the relaxation, and a noise whose size depends on the
    relaxed conductance. Here they are one Gaussian with the sum of the two variances, and the size
    of the noise is that of the mean. The standard deviation is that of aihwkit's two draws within
    0.005 % (tests/presets/test_published.py integrates them).

    Source: falcone_cmo, aihwkit ReRamCMONoiseModel.
    """

    read_noise: ClassVar[bool] = True
    redrawn: ClassVar[bool] = True
    keeps_sign: ClassVar[bool] = True
    sign_counts: ClassVar[bool] = True

    # --- programming ---

    def sigma_prog_us(self, g_us: Tensor, pcm: ReramCmoSpec) -> Tensor:
        """Return prog_noise_scale (c_0 + c_1 g)."""
        intercept, slope = pcm.prog_coeff_us
        return (g_us + pcm.reference_us).mul_(slope).add_(intercept).mul_(pcm.prog_noise_scale)

    # --- drift ---

    def nu_mean(self, g_us: Tensor, pcm: ReramCmoSpec) -> Tensor:
        """Return 0: devices have no exponents."""
        return torch.zeros_like(g_us)

    def moment(self, t_s: float, pcm: ReramCmoSpec) -> tuple[float, ...]:
        """Return the mean and the sd of the change, the factor of the read noise, and two bounds.

        The last two are the lowest and the highest difference to the reference.

        Raises:
            UsageError: If the time is shorter than one reading, but not 0.
        """
        if t_s == 0:  # right after programming, nothing has changed and nothing is cut
            return (0.0, 0.0, 0.0, -math.inf, math.inf)
        if t_s < pcm.t_read_s:
            raise UsageError(
                f"time {t_s:g} s; allowed: 0, or {pcm.t_read_s:g} s and more, the duration of one "
                "reading of this device"
            )
        change = math.log(t_s) * pcm.drift_scale
        slope, intercept = pcm.decay_sd_us
        growth = math.sqrt(math.log((t_s + pcm.t_read_s) / (2 * pcm.t_read_s)))
        return (
            pcm.decay_mean_us * change,
            abs(slope * change + intercept * pcm.drift_scale),
            pcm.read_us * pcm.read_noise_scale * growth,
            -pcm.full_scale_us,
            pcm.full_scale_us,
        )

    def drifted(self, g_prog_us: Tensor, nu: Tensor, moment: Numbers, pcm: ReramCmoSpec) -> Tensor:
        """Return the programmed conductance with the mean change."""
        return g_prog_us + moment[0]

    def mean_drift_factor(self, g_us: Tensor, moment: Numbers, pcm: ReramCmoSpec) -> Tensor:
        """Return 1: the mean change is an offset, the same for weights of both signs."""
        return torch.ones_like(g_us)

    # --- reading ---

    def read_sigma(self, g_prog_us: Tensor, moment: Numbers, pcm: ReramCmoSpec) -> Tensor:
        """Return the standard deviation as a share of the device's conductance."""
        g = g_prog_us + pcm.reference_us
        return _spread_us(g + moment[0], moment) / g

    def read(
        self, g_drift_us: Tensor, g_prog_us: Tensor, moment: Numbers, pcm: ReramCmoSpec, eps: Tensor
    ) -> Tensor:
        """Return g + sigma eps within the range of the device."""
        sigma = _spread_us(g_drift_us + pcm.reference_us, moment)
        return (g_drift_us + sigma * eps).clamp_(float(moment[3]), float(moment[4]))

    # --- training ---

    def injected(
        self,
        g_us: Tensor,
        pcm: ReramCmoSpec,
        recipe: TrainingSpec,
        scale: float | Tensor,
        eps: Tensor,
        eps_read: Tensor,
    ) -> Tensor:
        """Return conductances with the noise of one mini-batch, as `Law.injected`.

        With "pcm" it is programming, relaxation and read noise at the recipe's time, without the
        mean change.

        Raises:
            UsageError: If the recipe's time is shorter than one reading, but not 0.
        """
        g = g_us + self.sigma_prog_us(g_us, pcm) * eps * scale
        if recipe.noise_type == "pcm":
            moment = self.moment(recipe.noise_t_s, pcm)
            g = g + _spread_us(g_us + pcm.reference_us, moment) * eps_read * scale
        return g


def _spread_us(g_us: Tensor, moment: Numbers) -> Tensor:
    """Return the standard deviation of a reading of conductances, without a reference."""
    noise = g_us.clamp_min(1.0).log10_().mul_(moment[2])
    return noise.square_().add_(moment[1] ** 2).sqrt_()


register(ReramCmoSpec, ReramCmoLaw())
