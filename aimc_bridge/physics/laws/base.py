"""What a device law answers: the questions that the rest of the library asks of a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from aimc_bridge.spec import DeviceSpec, TrainingSpec

D = TypeVar("D", bound=DeviceSpec)
"""The class of a device's data."""

Numbers = Sequence[float | Tensor]
"""What `Law.moment` made of a time; as tensors of shape () in a compiled pass."""


@lru_cache(maxsize=1024)
def _log(value: float) -> float:
    """Return torch's logarithm, whose last bit is not always that of `math.log`."""
    return torch.tensor(value, dtype=torch.float64).log().item()


class Law(ABC, Generic[D]):
    """A device law: pure functions of conductances, of the device's data and of noise.

    A law keeps nothing. Its functions return new tensors and leave their arguments as they are.
    Conductances are in microsiemens, times in seconds after programming. `g_us` has the shape
    `(*cells)`, `eps` is N(0, 1) of the shape `(*chips, *cells)`, and a result that depends on `eps`
    has that shape. The callers have checked shapes and times.

    A law must say how far programming misses its target (`sigma_prog_us`) and how a device drifts
    (`nu_mean`). The rest follows, by the definitions below, for a device whose conductance falls as
    a power of time and that is read without noise; a law replaces what is different.

    Attributes:
        read_noise: Whether a reading has noise of its own, with the standard deviation
            `read_sigma`.
        keeps_sign: Whether `drifted` and `read` can be given conductances with a sign. If not, they
            are given sizes, and the sign is put back afterwards.
        compiled: Whether torch.compile can trace the functions, and `moment` gives them all that
            they need of a time. The native engine's compiled passes serve such a law if its device
            is a netted pair; every other one is programmed and read by plain PyTorch.
    """

    read_noise: ClassVar[bool] = False
    keeps_sign: ClassVar[bool] = False
    compiled: ClassVar[bool] = False

    # --- programming ---

    def target_us(self, g_us: Tensor, pcm: D) -> Tensor:
        """Return what is written if `g_us` is asked for; `g_us` itself on a device without grid."""
        return g_us

    @abstractmethod
    def sigma_prog_us(self, g_us: Tensor, pcm: D) -> Tensor:
        """Return the standard deviation of the programmed conductance, microsiemens, `(*cells)`."""

    def programmed(self, g_us: Tensor, pcm: D, eps: Tensor) -> Tensor:
        """Return the conductance right after programming: target + sigma eps.

        A device of a pair does not go below 0; a cell that holds a signed weight may.
        """
        target = self.target_us(g_us, pcm)
        g = target + self.sigma_prog_us(target, pcm) * eps
        return g.clamp_min(0.0) if pcm.pairs else g

    # --- drift ---

    @abstractmethod
    def nu_mean(self, g_us: Tensor, pcm: D) -> Tensor:
        """Return the mean of the device's drift exponent, `(*cells)`.

        If `drift_exponent` folds a Gaussian, this is the mean before it is folded. Where `drifted`
        is no power law, the exponent is whatever number of a device `drifted` needs, such as a
        rate.
        """

    def nu_sd(self, g_us: Tensor, pcm: D) -> Tensor:
        """Return the standard deviation of the drift exponent, `(*cells)`; here 0."""
        return torch.zeros_like(g_us)

    def drift_exponent(self, g_us: Tensor, pcm: D, eps: Tensor) -> Tensor:
        """Return each device's drift exponent, drawn once, when its target `g_us` is programmed.

        Here it is the mean, for all devices of one target alike; see `spread_exponent`.
        """
        return self.nu_mean(g_us, pcm).expand_as(eps).clone()

    def spread_exponent(self, g_us: Tensor, pcm: D, eps: Tensor) -> Tensor:
        """Return |mean + sd eps|, the exponent of a law whose devices differ."""
        return (self.nu_mean(g_us, pcm) + self.nu_sd(g_us, pcm) * eps).abs_()

    def age(self, t_s: float, pcm: D) -> float:
        """Return the base of the power law at `t_s`, here (t + t0) / t0."""
        return (t_s + pcm.t0_s) / pcm.t0_s

    def moment(self, t_s: float, pcm: D) -> tuple[float, ...]:
        """Return the numbers that `drifted`, `read_sigma` and `read` need of the time `t_s`.

        Here they are one, the logarithm of `age`.
        """
        return (_log(self.age(t_s, pcm)),)

    def drifted(self, g_prog_us: Tensor, nu: Tensor, moment: Numbers, pcm: D) -> Tensor:
        """Return the drifted conductance without read noise, here g age^-nu.

        Args:
            g_prog_us: Programmed conductance, `(*chips, *cells)`.
            nu: Drift exponents, of that shape or broadcastable to it.
            moment: What `moment` returned.
            pcm: The device.
        """
        return (nu * -moment[0]).exp_().mul(g_prog_us)

    def mean_drift_factor(self, g_us: Tensor, moment: Numbers, pcm: D) -> Tensor:
        """Return the drift factor of a device with the mean exponent of its target, `(*cells)`."""
        return self.drifted(torch.ones_like(g_us), self.nu_mean(g_us, pcm), moment, pcm)

    def common_factor(self, t_s: float, pcm: D) -> float | None:
        """Return the factor that undoes the drift of every device; None if devices differ."""
        return None

    # --- reading ---

    def read_coefficient(self, g_prog_us: Tensor, pcm: D) -> Tensor:
        """Return the part of `read_sigma` that does not grow with time, `(*cells)`; here 0."""
        return torch.zeros_like(g_prog_us)

    def read_sigma(self, g_prog_us: Tensor, moment: Numbers, pcm: D) -> Tensor:
        """Return the standard deviation of a reading as a share of the conductance, `(*cells)`.

        It is asked for only if `read_noise` is true.
        """
        return self.read_coefficient(g_prog_us, pcm)

    def read(
        self, g_drift_us: Tensor, g_prog_us: Tensor, moment: Numbers, pcm: D, eps: Tensor
    ) -> Tensor:
        """Return the conductance as read: max(0, g + |g| sigma eps).

        It is asked for only if `read_noise` is true.
        """
        sigma = self.read_sigma(g_prog_us, moment, pcm)
        return (g_drift_us + g_drift_us.abs() * sigma * eps).clamp_min_(0.0)

    # --- training ---

    def injected(
        self,
        g_us: Tensor,
        pcm: D,
        recipe: TrainingSpec,
        scale: float | Tensor,
        eps: Tensor,
        eps_read: Tensor,
    ) -> Tensor:
        """Return conductances with the noise of one mini-batch of hardware-aware training.

        Args:
            g_us: Sizes of the clean weights as conductances, `(*cells)`.
            pcm: The device.
            recipe: Its `noise_type` is "programming", or "pcm" for a reading on top.
            scale: Factor on every standard deviation.
            eps: N(0, 1) for the programming noise, `(*cells)`.
            eps_read: N(0, 1) for the reading, `(*cells)`.

        Returns:
            Conductances, `(*cells)`. A negative one stands for its size: the caller keeps the
            weight's sign.
        """
        g = g_us + self.sigma_prog_us(g_us, pcm) * eps * scale
        if recipe.noise_type == "pcm" and self.read_noise:
            sigma = self.read_sigma(g, self.moment(recipe.noise_t_s, pcm), pcm)
            g = g + g.abs() * sigma * eps_read * scale
        return g
