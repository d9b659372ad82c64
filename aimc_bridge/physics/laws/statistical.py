"""What PCM devices with a spread have in common: a drawn exponent and 1/f read noise."""

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
    """Return sqrt(ln((t + t0 + t_read) / (2 t_read))), the growth of 1/f noise with time."""
    return math.sqrt(math.log((t_s + pcm.t0_s + pcm.t_read_s) / (2 * pcm.t_read_s)))


class StatisticalLaw(Law[S]):
    """The law of a `StatisticalSpec`; a subclass says mean and spread of the exponent, and Q.

    Programming noise is a polynomial of g / g_max, the exponent |mean + sd eps|, the read noise
    Q(g_prog) times `time_factor`; each has the spec's factor for what-ifs.
    """

    read_noise: ClassVar[bool] = True
    compiled: ClassVar[bool] = True

    def sigma_prog_us(self, g_us: Tensor, pcm: S) -> Tensor:
        return polynomial(relative(g_us, pcm), pcm.prog_coeff_us).mul_(pcm.prog_noise_scale)

    def drift_exponent(self, g_us: Tensor, pcm: S, eps: Tensor) -> Tensor:
        return self.spread_exponent(g_us, pcm, eps).mul_(pcm.drift_scale)

    def moment(self, t_s: float, pcm: S) -> tuple[float, ...]:
        """Return (logarithm of the age, growth of the read noise)."""
        return (*super().moment(t_s, pcm), time_factor(t_s, pcm) * pcm.read_noise_scale)

    def mean_drift_factor(self, g_us: Tensor, moment: Numbers, pcm: S) -> Tensor:
        nu = self.nu_mean(g_us, pcm) * pcm.drift_scale
        return self.drifted(torch.ones_like(g_us), nu, moment, pcm)

    def read_sigma(self, g_prog_us: Tensor, moment: Numbers, pcm: S) -> Tensor:
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
        """As `Law.injected`; a recipe's time counts from the start of a reading, t0 included.

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
