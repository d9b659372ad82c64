"""The laws once more, from their formulas in double precision: a reference where aihwkit has none.

aihwkit's noise models have two sets of numbers. A device with others, or of another kind, runs on
its tiles through our own laws: comparing those with themselves would prove nothing. Nothing here
uses `aimc_bridge.physics`, on purpose: each law has its formulas here a second time, in a table of
its own, by name.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from aimc_bridge.errors import CapabilityError
from aimc_bridge.spec import DeviceSpec

Array = NDArray[np.float64]


def _clamped_log(x: Array, law: tuple[float, float, float, float]) -> Array:
    slope, intercept, low, high = law
    return np.clip(slope * np.log(np.maximum(x, 1e-7)) + intercept, low, high)


def _pieces(x: Array, at: float, low: tuple[float, ...], high: tuple[float, ...]) -> Array:
    below = _clamped_log(x, (low[0], low[1], low[2], low[3]))
    return np.where(x < at, below, np.polynomial.polynomial.polyval(x, high))


class ClosedLaw:
    """The formulas of one device law; here those of a device without noise and without drift.

    Arguments `x` are |g| / g_max. A subclass is registered under the name of its law.

    Attributes:
        programming_noise: Whether `sigma_us` is not 0.
        read_noise: Whether `read_sigma` is not 0.
    """

    programming_noise: ClassVar[bool] = False
    read_noise: ClassVar[bool] = False

    def __init__(self, pcm: Any) -> None:
        self.pcm = pcm

    def sigma_us(self, x: Array) -> Array:
        """Return the standard deviation of programming, microsiemens."""
        return np.zeros_like(x)

    def exponent_mean(self, x: Array) -> Array:
        """Return the mean of the Gaussian behind the exponent; `x` of the target."""
        return np.zeros_like(x)

    def exponent_sd(self, x: Array) -> Array:
        """Return the standard deviation of that Gaussian."""
        return np.zeros_like(x)

    def age(self, t_s: float) -> float:
        """Return the base of the power law."""
        return float((t_s + self.pcm.t0_s) / self.pcm.t0_s)

    def decay(self, nu: Array, t_s: float) -> Array:
        """Return the factor by which devices with exponents `nu` have drifted."""
        return np.asarray(self.age(t_s) ** -nu)

    def read_sigma(self, x: Array, t_s: float) -> Array:
        """Return the standard deviation of a reading, relative; `x` of what was programmed."""
        return np.zeros_like(x)


class _Polynomial(ClosedLaw):
    """Programming noise with a polynomial of x as its standard deviation."""

    programming_noise = True

    def sigma_us(self, x: Array) -> Array:
        sigma = np.polynomial.polynomial.polyval(x, self.pcm.prog_coeff_us)
        return np.asarray(sigma * self.pcm.prog_noise_scale)


class _Statistical(_Polynomial):
    """1/f read noise, which grows with time."""

    read_noise = True

    def _q(self, x: Array) -> Array:
        raise NotImplementedError

    def read_sigma(self, x: Array, t_s: float) -> Array:
        pcm = self.pcm
        growth = np.sqrt(np.log((t_s + pcm.t0_s + pcm.t_read_s) / (2 * pcm.t_read_s)))
        return np.asarray(self._q(x) * growth * pcm.read_noise_scale)


class ClosedPcm(_Statistical):
    """Clamped logarithms for the exponent, a clamped power for the read noise."""

    def exponent_mean(self, x: Array) -> Array:
        return np.asarray(_clamped_log(x, self.pcm.nu_mean) * self.pcm.drift_scale)

    def exponent_sd(self, x: Array) -> Array:
        return np.asarray(_clamped_log(x, self.pcm.nu_sd) * self.pcm.drift_scale)

    def _q(self, x: Array) -> Array:
        scale, power, floor, highest = self.pcm.read_coeff
        return np.asarray(np.minimum(scale / np.maximum(x**power, floor), highest))


class ClosedHermes(_Statistical):
    """Two pieces for the exponent and for the read noise."""

    def exponent_mean(self, x: Array) -> Array:
        pcm = self.pcm
        mean = _pieces(x, pcm.nu_mean_break, pcm.nu_mean_low, pcm.nu_mean_high)
        return np.asarray(mean * pcm.drift_scale)

    def exponent_sd(self, x: Array) -> Array:
        pcm = self.pcm
        sd = _pieces(x, pcm.nu_sd_break, pcm.nu_sd_low, pcm.nu_sd_high)
        return np.asarray(sd * pcm.drift_scale)

    def _q(self, x: Array) -> Array:
        return _pieces(x, self.pcm.read_break, self.pcm.read_low, self.pcm.read_high)


class ClosedScalar(_Polynomial):
    """One exponent for all; nothing drifts before t0."""

    def exponent_mean(self, x: Array) -> Array:
        return np.full_like(x, self.pcm.nu)

    def age(self, t_s: float) -> float:
        return float(max(t_s, self.pcm.t0_s) / self.pcm.t0_s)


_CLOSED: dict[str, type[ClosedLaw]] = {
    "pcm": ClosedPcm,
    "signed pcm": ClosedPcm,
    "hermes": ClosedHermes,
    "scalar": ClosedScalar,
    "ideal": ClosedLaw,
}


def register(name: str, law: type[ClosedLaw]) -> None:
    """Register the closed form of the law `name`, so that its devices can be cross-checked.

    Args:
        name: What the device's spec gives as `law`.
        law: The formulas, written independently of the law itself.
    """
    _CLOSED[name] = law


def has_closed_form(pcm: DeviceSpec) -> bool:
    """Return whether the device's law has a closed form here."""
    return pcm.law in _CLOSED


def closed_law(pcm: DeviceSpec) -> ClosedLaw:
    """Return the formulas of a device.

    Raises:
        CapabilityError: If its law has no closed form.
    """
    if not has_closed_form(pcm):
        raise CapabilityError(
            f"the law {pcm.law!r} has no closed form, and aihwkit no noise model of this device: "
            "there is nothing to compare it with; register its formulas with "
            "aimc_bridge.equivalence.closed.register, or compare levels=('layer', 'task')"
        )
    return _CLOSED[pcm.law](pcm)


def oracle(parts: list[Array], pcm: DeviceSpec, t_s: float) -> Array:
    """Compensation factor by the known mean drift, of normalised weights tile by tile."""
    law = closed_law(pcm)
    factors = []
    for weight in parts:
        size = np.abs(weight)
        x = size / (size.max() or 1.0)
        after = (size * law.decay(law.exponent_mean(x), t_s)).sum()
        factors.append(size.sum() / after if after > 0 else 1.0)
    return np.array(factors)


class ClosedLaws:
    """Devices and weights of a tile by the formulas; draws from a numpy generator. Microsiemens.

    Raises:
        CapabilityError: If the device's law has no closed form.
    """

    def __init__(self, pcm: DeviceSpec, draws: np.random.Generator) -> None:
        self.pcm, self.draws = pcm, draws
        self.law = closed_law(pcm)

    def _normal(self, like: Array) -> Array:
        return self.draws.standard_normal(like.shape)

    def programmed(self, target: Array) -> Array:
        """max(0, g + sigma N); a cell that holds a sign is rounded to its grid and not clipped."""
        if not self.law.programming_noise:
            return target.copy()
        target = self._on_grid(target)
        sigma = self.law.sigma_us(np.abs(target) / self.pcm.g_max_us)
        g = target + sigma * self._normal(target)
        return np.asarray(np.maximum(g, 0.0)) if self.pcm.pairs else g

    def _on_grid(self, target: Array) -> Array:
        bits = self.pcm.values().get("weight_bits")
        if bits is None:
            return target
        levels = 2 ** (int(bits) - 1) - 1
        # a target half way between two levels goes to the even one, whatever its last bits are
        level = np.round(np.round(target / self.pcm.g_max_us * levels, 4))
        return np.asarray(level * (self.pcm.g_max_us / levels))

    def exponent(self, target: Array) -> Array:
        """|N(mean, sd)| of the target."""
        x = np.abs(self._on_grid(target)) / self.pcm.g_max_us
        return np.abs(self.law.exponent_mean(x) + self.law.exponent_sd(x) * self._normal(x))

    def drifted(self, g: Array, nu: Array, t_s: float) -> Array:
        """g ((t + t0) / t0)^-nu."""
        return np.asarray(g * self.law.decay(nu, t_s))

    def read(self, g: Array, nu: Array, t_s: float) -> Array:
        """Drifted, with 1/f noise of the programmed conductance, not below 0."""
        now = self.drifted(g, nu, t_s)
        if not self.law.read_noise:
            return now
        sigma = self.law.read_sigma(np.abs(g) / self.pcm.g_max_us, t_s)
        return np.asarray(np.maximum(now + np.abs(now) * sigma * self._normal(now), 0.0))

    def program_weights(self, weight: Array) -> tuple[Array, tuple[Array, Array, float]]:
        """Normalised weights of one tile as programmed, and the state that `read_weights` takes."""
        us_per_unit = self.pcm.g_max_us / np.abs(weight).max()
        if not self.pcm.pairs:
            g = self.programmed(weight * us_per_unit)
            return g / us_per_unit, (g, self.exponent(weight * us_per_unit), us_per_unit)
        targets = [np.maximum(sign * weight, 0.0) * us_per_unit for sign in (1.0, -1.0)]
        plus, minus = (self.programmed(target) for target in targets)
        net = (plus - minus) / us_per_unit
        nu = np.where(net > 0, *(self.exponent(target) for target in targets))
        rescale = self.pcm.g_max_us / np.abs(net).max()
        return net, (net * rescale, nu, rescale)

    def read_weights(self, state: tuple[Array, Array, float], t_s: float) -> Array:
        """Normalised weights at `t_s`."""
        g, nu, us_per_unit = state
        return np.asarray(np.sign(g) * self.read(np.abs(g), nu, t_s) / us_per_unit)
