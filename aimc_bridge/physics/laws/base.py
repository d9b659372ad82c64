"""The base class of device laws: what the library asks about a device."""

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
"""The result of `Law.moment`: floats, or tensors of shape () in a compiled pass."""


@lru_cache(maxsize=1024)
def _log(value: float) -> float:
    """Return torch's logarithm, whose last bit can differ from `math.log`'s."""
    return torch.tensor(value, dtype=torch.float64).log().item()


class Law(ABC, Generic[D]):
    """A device law: pure functions of conductances, of a device's data and of noise.

    A law keeps no state. Its functions return new tensors and leave their arguments as they are.
    The callers have checked shapes and times. The same names mean the same things everywhere:

    - `pcm` is the device, a spec of the class that the law is registered for.
    - `g_us` is a target conductance and `g_prog_us` a programmed one, in microsiemens, of shape
      (*cells) unless the function says otherwise.
    - `eps` is standard normal noise of shape (*chips, *cells). A result that depends on it has that
      shape.
    - `t_s` is a time in seconds after programming, and `moment` the result of the function `moment`
      for such a time.

    A law must define how far programming misses its target (`sigma_prog_us`) and how a device
    drifts (`nu_mean`). The other definitions below are for a device whose conductance falls as a
    power of time and which is read without noise. A law replaces those that differ.

    Attributes:
        read_noise: Whether a reading has noise of its own, with the standard deviation
            `read_sigma`.
        tabulated: Whether the law says means and standard deviations of readings and no more:
            devices then have no exponents, and the cross-check does not compare shapes of
            distributions.
        redrawn: Whether every reading is drawn anew around a mean that the target alone decides, or
            the programmed conductance: devices then have no exponents and no drift of their own,
            and two of them are not netted. The cross-check compares readings.
        by_tile: Whether whole tiles are programmed and read by `aimc_bridge.physics.own`, and not
            single cells by the functions here.
        keeps_sign: Whether `drifted` and `read` accept conductances with a sign. If not, they get
            absolute values, and the caller puts the sign back afterwards.
        noise_free: Whether a device keeps what is written to it, without any noise or drift.
        sign_counts: Whether `injected` needs the signs of weights and returns signed conductances.
        compiled: Whether torch.compile can trace the functions, and they need nothing of a time but
            the result of `moment`. The native engine's compiled passes serve such a law if its
            device is a netted pair. Every other law runs in plain PyTorch.
    """

    read_noise: ClassVar[bool] = False
    tabulated: ClassVar[bool] = False
    redrawn: ClassVar[bool] = False
    by_tile: ClassVar[bool] = False
    keeps_sign: ClassVar[bool] = False
    noise_free: ClassVar[bool] = False
    sign_counts: ClassVar[bool] = False
    compiled: ClassVar[bool] = False

    # --- programming ---

    def target_us(self, g_us: Tensor, pcm: D) -> Tensor:
        """Return the conductance that is written for a target; here the target itself."""
        return g_us

    @abstractmethod
    def sigma_prog_us(self, g_us: Tensor, pcm: D) -> Tensor:
        """Return the standard deviation of programming, in microsiemens, shape (*cells)."""

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
        """Return the mean of the device's drift exponent, shape (*cells).

        If `drift_exponent` is the absolute value of a Gaussian, this is the mean of that Gaussian.
        If `drifted` is not a power law, the exponent is the number of each device that `drifted`
        needs, such as a rate.
        """

    def nu_sd(self, g_us: Tensor, pcm: D) -> Tensor:
        """Return the standard deviation of the drift exponent, shape (*cells); here 0."""
        return torch.zeros_like(g_us)

    def drift_exponent(self, g_us: Tensor, pcm: D, eps: Tensor) -> Tensor:
        """Return the drift exponent of each device.

        It is drawn once, when the target is programmed. Here it is the mean, the same for all
        devices with one target. A law whose devices differ returns `spread_exponent`.
        """
        return self.nu_mean(g_us, pcm).expand_as(eps).clone()

    def spread_exponent(self, g_us: Tensor, pcm: D, eps: Tensor) -> Tensor:
        """Return |mean + sd eps|, for laws whose devices differ."""
        return (self.nu_mean(g_us, pcm) + self.nu_sd(g_us, pcm) * eps).abs_()

    def age(self, t_s: float, pcm: D) -> float:
        """Return the base of the power law, here (t + t0) / t0."""
        return (t_s + pcm.t0_s) / pcm.t0_s

    def moment(self, t_s: float, pcm: D) -> tuple[float, ...]:
        """Return the numbers that `drifted`, `read_sigma` and `read` need of a time.

        Here it is one number, the logarithm of `age`.
        """
        return (_log(self.age(t_s, pcm)),)

    def drifted(self, g_prog_us: Tensor, nu: Tensor, moment: Numbers, pcm: D) -> Tensor:
        """Return the drifted conductance without read noise, here g age^-nu.

        Args:
            g_prog_us: Programmed conductance in microsiemens, shape (*chips, *cells).
            nu: Drift exponents, of that shape or broadcastable to it.
            moment: The result of the function `moment`.
            pcm: The device.

        Returns:
            Conductance in microsiemens, shape (*chips, *cells).
        """
        return (nu * -moment[0]).exp_().mul(g_prog_us)

    def mean_drift_factor(self, g_us: Tensor, moment: Numbers, pcm: D) -> Tensor:
        """Return the drift factor at the mean exponent of each target, shape (*cells)."""
        return self.drifted(torch.ones_like(g_us), self.nu_mean(g_us, pcm), moment, pcm)

    def common_factor(self, t_s: float, pcm: D) -> float | None:
        """Return the factor that undoes the drift of all devices; None if devices differ."""
        return None

    # --- reading ---

    def read_basis(self, g_prog_us: Tensor, nu: Tensor) -> Tensor:
        """Return the conductance that decides the size of the read noise.

        Args:
            g_prog_us: Programmed conductance in microsiemens, shape (*chips, *cells).
            nu: The result of `drift_exponent`.

        Returns:
            What `read_sigma` and `read` get as `g_prog_us`; here the programmed conductance.
        """
        return g_prog_us

    def read_coefficient(self, g_prog_us: Tensor, pcm: D) -> Tensor:
        """Return the constant part of `read_sigma`, shape (*cells); here 0."""
        return torch.zeros_like(g_prog_us)

    def read_sigma(self, g_prog_us: Tensor, moment: Numbers, pcm: D) -> Tensor:
        """Return the relative standard deviation of a reading.

        It is a share of the drifted conductance, of shape (*cells). It is called only if
        `read_noise` is true.
        """
        return self.read_coefficient(g_prog_us, pcm)

    def read(
        self, g_drift_us: Tensor, g_prog_us: Tensor, moment: Numbers, pcm: D, eps: Tensor
    ) -> Tensor:
        """Return the conductance as read: max(0, g + |g| sigma eps).

        It is called only if `read_noise` is true.

        Args:
            g_drift_us: Drifted conductance in microsiemens, shape (*chips, *cells).
            g_prog_us: Programmed conductance in microsiemens, shape (*chips, *cells).
            moment: The result of the function `moment`.
            pcm: The device.
            eps: Standard normal noise, of that shape or with further dimensions in front.

        Returns:
            Conductance in microsiemens, in the shape of eps.
        """
        sigma = self.read_sigma(g_prog_us, moment, pcm)
        return (g_drift_us + g_drift_us.abs() * sigma * eps).clamp_min_(0.0)

    def read_after_drift(
        self, g_prog_us: Tensor, nu: Tensor, moment: Numbers, pcm: D, eps: Tensor
    ) -> Tensor:
        """Return conductances as read some time after programming: `drifted`, then `read`.

        A law replaces it only if it can do both in fewer steps.

        Args:
            g_prog_us: Programmed conductance in microsiemens, shape (*chips, *cells).
            nu: The result of `drift_exponent`.
            moment: The result of the function `moment`.
            pcm: The device.
            eps: Standard normal noise, of the conductances' shape.

        Returns:
            Conductance in microsiemens, in the shape of eps.
        """
        now = self.drifted(g_prog_us, nu, moment, pcm)
        if not self.read_noise:
            return now.expand_as(eps).clone()
        return self.read(now, self.read_basis(g_prog_us, nu), moment, pcm, eps)

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
        """Return conductances with the training noise of one mini-batch.

        Args:
            g_us: Absolute values of the clean weights as conductances in microsiemens, shape
                (*cells); the signed values if `sign_counts`.
            pcm: The device.
            recipe: The recipe. Its `noise_type` is "programming", or "pcm" for the noise of a
                reading in addition.
            scale: Factor on every standard deviation.
            eps: Standard normal noise for programming, shape (*cells).
            eps_read: Standard normal noise for the reading, shape (*cells).

        Returns:
            Conductances in microsiemens, shape (*cells). The caller uses their absolute values and
            keeps the sign of the weight, unless `sign_counts`.
        """
        g = g_us + self.sigma_prog_us(g_us, pcm) * eps * scale
        if recipe.noise_type == "pcm" and self.read_noise:
            sigma = self.read_sigma(g, self.moment(recipe.noise_t_s, pcm), pcm)
            g = g + g.abs() * sigma * eps_read * scale
        return g
