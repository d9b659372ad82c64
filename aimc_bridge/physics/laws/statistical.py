"""The common part of the laws of PCM.

It has a random drift exponent per device and 1/f read noise.
"""

from __future__ import annotations

import math
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from aimc_bridge.errors import SpecError
from aimc_bridge.physics.laws.base import Law, Numbers
from aimc_bridge.physics.laws.formulas import polynomial, relative
from aimc_bridge.spec import StatisticalSpec, TrainingSpec

S = TypeVar("S", bound=StatisticalSpec)


def time_factor(t_s: float, pcm: StatisticalSpec) -> float:
    """Return the growth of 1/f noise with time.

    Args:
        t_s: Seconds after programming.
        pcm: The device.

    Returns:
        sqrt(ln((t + t0 + t_read) / (2 t_read))).

    Source: rasch2023 SI.
    """
    return math.sqrt(math.log((t_s + pcm.t0_s + pcm.t_read_s) / (2 * pcm.t_read_s)))


class StatisticalLaw(Law[S]):
    """The common part of the laws of a `StatisticalSpec`.

    The programming noise is a polynomial of g / g_max, the exponent is |mean + sd eps|, and the
    read noise is Q(g_prog) times `time_factor`. The spec has a factor on each for what-ifs. A
    subclass defines `nu_mean`, `nu_sd` and, for Q, `read_coefficient`.
    """

    read_noise: ClassVar[bool] = True
    compiled: ClassVar[bool] = True

    def sigma_prog_us(self, g_us: Tensor, pcm: S) -> Tensor:
        """Return prog_noise_scale sum c_k x^k, x = |g| / g_max."""
        return polynomial(relative(g_us, pcm), pcm.prog_coeff_us).mul_(pcm.prog_noise_scale)

    def drift_exponent(self, g_us: Tensor, pcm: S, eps: Tensor) -> Tensor:
        """Return drift_scale |mean + sd eps|."""
        return self.spread_exponent(g_us, pcm, eps).mul_(pcm.drift_scale)

    def moment(self, t_s: float, pcm: S) -> tuple[float, ...]:
        """Return the logarithm of the age, and `time_factor` times read_noise_scale."""
        return (*super().moment(t_s, pcm), time_factor(t_s, pcm) * pcm.read_noise_scale)

    def mean_drift_factor(self, g_us: Tensor, moment: Numbers, pcm: S) -> Tensor:
        """Return age^-nu with nu = drift_scale mean."""
        nu = self.nu_mean(g_us, pcm) * pcm.drift_scale
        return self.drifted(torch.ones_like(g_us), nu, moment, pcm)

    def read_sigma(self, g_prog_us: Tensor, moment: Numbers, pcm: S) -> Tensor:
        """Return read_noise_scale Q(g_prog) times `time_factor`."""
        return self.read_coefficient(g_prog_us, pcm).mul_(moment[1])

    def injected(
        self,
        g_us: Tensor,
        pcm: S,
        recipe: TrainingSpec,
        scale: float | Tensor,
        eps: Tensor,
        eps_read: Tensor,
    ) -> Tensor:
        """Return conductances with the noise of one mini-batch, as `Law.injected`.

        The time of the recipe includes t0, so that the read noise grows as
        sqrt(ln((t + t_read) / (2 t_read))).

        Raises:
            SpecError: If the recipe reads sooner than a reading of the device takes.
        """
        g = g_us + self.sigma_prog_us(g_us, pcm) * eps * scale
        if recipe.noise_type == "pcm":
            ratio = (recipe.noise_t_s + pcm.t_read_s) / (2 * pcm.t_read_s)
            if ratio < 1.0:
                raise SpecError(
                    f"noise_t_s = {recipe.noise_t_s!r} of the recipe; allowed: >= "
                    f"{pcm.t_read_s!r} s, the duration of one reading of this device"
                )
            strength = scale * (pcm.read_noise_scale * math.sqrt(math.log(ratio)))
            g = g + g.abs() * self.read_coefficient(g, pcm) * eps_read * strength
        return g
