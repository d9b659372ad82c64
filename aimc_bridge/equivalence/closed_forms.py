"""The formulas of the device laws, written a second time.

This module uses nothing of `aimc_bridge.physics`: it writes the formulas of each law again, in
double precision. `aimc_bridge.equivalence.closed` finds them by the name of the law.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def _clamped_log(x: Array, law: tuple[float, float, float, float]) -> Array:
    """Return clamp(slope ln x + intercept, lowest, highest); `law` has the four."""
    slope, intercept, low, high = law
    return np.clip(slope * np.log(np.maximum(x, 1e-7)) + intercept, low, high)


def _pieces(x: Array, at: float, low: tuple[float, ...], high: tuple[float, ...]) -> Array:
    """Return the clamped logarithm `low` below `at`, else the polynomial `high`."""
    below = _clamped_log(x, (low[0], low[1], low[2], low[3]))
    return np.where(x < at, below, np.polynomial.polynomial.polyval(x, high))


class ClosedLaw:
    """The formulas of one device law.

    This class itself is a device without noise and without drift; a subclass replaces what is
    different and is registered under the name of its law. All results have the shape of the
    argument `x` or `nu`.

    Attributes:
        programming_noise: Whether `sigma_us` is not 0.
        read_noise: Whether readings have noise.
        signed: Whether the sign of a conductance decides how it is read.
        pcm: The device, `preset.pcm`.
    """

    programming_noise: ClassVar[bool] = False
    read_noise: ClassVar[bool] = False
    signed: ClassVar[bool] = False

    def __init__(self, pcm: Any) -> None:
        """Keep the device.

        Args:
            pcm: The device, `preset.pcm`, of the kind that the law is for.
        """
        self.pcm = pcm

    def sigma_us(self, x: Array) -> Array:
        """Return the standard deviation of programming, in microsiemens.

        Args:
            x: |g| / g_max of the target.
        """
        return np.zeros_like(x)

    def exponent_mean(self, x: Array) -> Array:
        """Return the mean of the Gaussian behind the exponent.

        Args:
            x: |g| / g_max of the target.
        """
        return np.zeros_like(x)

    def exponent_sd(self, x: Array) -> Array:
        """Return the standard deviation of the Gaussian behind the exponent.

        Args:
            x: |g| / g_max of the target.
        """
        return np.zeros_like(x)

    def age(self, t_s: float) -> float:
        """Return the base of the power law of the drift.

        Args:
            t_s: Seconds after programming.
        """
        return float((t_s + self.pcm.t0_s) / self.pcm.t0_s)

    def decay(self, nu: Array, t_s: float) -> Array:
        """Return the factor by which devices have drifted.

        Args:
            nu: Their drift exponents.
            t_s: Seconds after programming.
        """
        return np.asarray(self.age(t_s) ** -nu)

    def read_sigma(self, x: Array, t_s: float) -> Array:
        """Return the standard deviation of a reading, as a share of the conductance.

        Args:
            x: |g| / g_max of the programmed conductance.
            t_s: Seconds after programming.
        """
        return np.zeros_like(x)

    def programmed(self, target: Array, eps: Array) -> Array:
        """Return conductances right after programming, before any cut at 0.

        Args:
            target: Target conductances in microsiemens.
            eps: Standard normal numbers.
        """
        return np.asarray(target + self.sigma_us(np.abs(target) / self.pcm.g_max_us) * eps)

    def exponent(self, target: Array, eps: Array) -> Array:
        """Return the drift exponents |mean + sd eps|, or what a device has instead.

        Args:
            target: Target conductances in microsiemens.
            eps: Standard normal numbers.
        """
        x = np.abs(target) / self.pcm.g_max_us
        return np.abs(self.exponent_mean(x) + self.exponent_sd(x) * eps)

    def drifted(self, g: Array, nu: Array, t_s: float) -> Array:
        """Return drifted conductances without read noise.

        Args:
            g: Programmed conductances in microsiemens.
            nu: The result of `exponent`.
            t_s: Seconds after programming.
        """
        return np.asarray(g * self.decay(nu, t_s))

    def read_share(self, g: Array, nu: Array, t_s: float) -> Array:
        """Return the standard deviation of a reading, as a share of the drifted conductance.

        Args:
            g: Programmed conductances in microsiemens.
            nu: The result of `exponent`.
            t_s: Seconds after programming.
        """
        return self.read_sigma(np.abs(g) / self.pcm.g_max_us, t_s)

    def noisy(self, now: Array, g: Array, nu: Array, t_s: float, eps: Array) -> Array:
        """Return conductances as read: with read noise, not below 0.

        Args:
            now: The result of `drifted`.
            g: Programmed conductances in microsiemens.
            nu: The result of `exponent`.
            t_s: Seconds after programming.
            eps: Standard normal numbers.
        """
        return np.asarray(np.maximum(now + np.abs(now) * self.read_share(g, nu, t_s) * eps, 0.0))

    def mean_decay(self, x: Array, t_s: float) -> Array:
        """Return the factor by which devices have drifted on average.

        Args:
            x: |g| / g_max of the target.
            t_s: Seconds after programming.
        """
        return self.decay(self.exponent_mean(x), t_s)


class _Polynomial(ClosedLaw):
    """A law whose standard deviation of programming is a polynomial of x."""

    programming_noise = True

    def sigma_us(self, x: Array) -> Array:
        """Return prog_noise_scale sum c_k x^k, in microsiemens."""
        sigma = np.polynomial.polynomial.polyval(x, self.pcm.prog_coeff_us)
        return np.asarray(sigma * self.pcm.prog_noise_scale)


class _Statistical(_Polynomial, ABC):
    """A law with 1/f read noise, which grows with time."""

    read_noise = True

    @abstractmethod
    def _q(self, x: Array) -> Array:
        """Return the part of the read noise that does not depend on time."""

    def read_sigma(self, x: Array, t_s: float) -> Array:
        """Return read_noise_scale Q(x) sqrt(ln((t + t0 + t_read) / (2 t_read)))."""
        pcm = self.pcm
        growth = np.sqrt(np.log((t_s + pcm.t0_s + pcm.t_read_s) / (2 * pcm.t_read_s)))
        return np.asarray(self._q(x) * growth * pcm.read_noise_scale)


class ClosedPcm(_Statistical):
    """The law "pcm": clamped logarithms, and a clamped power for the read noise."""

    def exponent_mean(self, x: Array) -> Array:
        """Return a clamped logarithm of x, times drift_scale."""
        return np.asarray(_clamped_log(x, self.pcm.nu_mean) * self.pcm.drift_scale)

    def exponent_sd(self, x: Array) -> Array:
        """Return a clamped logarithm of x, times drift_scale."""
        return np.asarray(_clamped_log(x, self.pcm.nu_sd) * self.pcm.drift_scale)

    def _q(self, x: Array) -> Array:
        """Return min(scale / max(x^power, floor), highest)."""
        scale, power, floor, highest = self.pcm.read_coeff
        return np.asarray(np.minimum(scale / np.maximum(x**power, floor), highest))


class ClosedHermes(_Statistical):
    """The law "hermes": two pieces of x each for the exponent and for the read noise."""

    def exponent_mean(self, x: Array) -> Array:
        """Return two pieces, times drift_scale."""
        pcm = self.pcm
        mean = _pieces(x, pcm.nu_mean_break, pcm.nu_mean_low, pcm.nu_mean_high)
        return np.asarray(mean * pcm.drift_scale)

    def exponent_sd(self, x: Array) -> Array:
        """Return two pieces, times drift_scale."""
        pcm = self.pcm
        sd = _pieces(x, pcm.nu_sd_break, pcm.nu_sd_low, pcm.nu_sd_high)
        return np.asarray(sd * pcm.drift_scale)

    def _q(self, x: Array) -> Array:
        """Return two pieces."""
        return _pieces(x, self.pcm.read_break, self.pcm.read_low, self.pcm.read_high)


class ClosedStateIndependent(_Statistical):
    """The law "state independent": constants."""

    def exponent_mean(self, x: Array) -> Array:
        """Return the one mean, times drift_scale."""
        return np.full_like(x, self.pcm.nu_mean * self.pcm.drift_scale)

    def exponent_sd(self, x: Array) -> Array:
        """Return the one standard deviation, times drift_scale."""
        return np.full_like(x, self.pcm.nu_sd * self.pcm.drift_scale)

    def _q(self, x: Array) -> Array:
        """Return read_us over g_max."""
        return np.full_like(x, self.pcm.read_us / self.pcm.g_max_us)


class ClosedReramWan(ClosedLaw):
    """The law "reram wan2022": Gaussians around the target, at the known times alone."""

    programming_noise = True
    read_noise = True

    def _sd_us(self, target: Array, place: int) -> Array:
        """Return the standard deviation at one of the known times."""
        rows = np.reshape(self.pcm.deviation_us, (len(self.pcm.times_s), -1))
        x = np.abs(target) / self.pcm.g_max_us
        return np.asarray(np.polynomial.polynomial.polyval(x, rows[place]) * self.pcm.noise_scale)

    def sigma_us(self, x: Array) -> Array:
        """Return the standard deviation at the first time."""
        return self._sd_us(x * self.pcm.g_max_us, 0)

    def exponent(self, target: Array, eps: Array) -> Array:
        """Return the targets."""
        return target

    def drifted(self, g: Array, nu: Array, t_s: float) -> Array:
        """Return the targets."""
        return nu

    def noisy(self, now: Array, g: Array, nu: Array, t_s: float, eps: Array) -> Array:
        """Return max(0, target + sigma eps)."""
        sigma = self._sd_us(nu, list(self.pcm.times_s).index(t_s))
        return np.asarray(np.maximum(nu + sigma * eps, 0.0))


class ClosedReramCmo(ClosedLaw):
    """The law "reram cmo": one Gaussian for the relaxation and the noise of the reading."""

    programming_noise = True
    read_noise = True
    signed = True

    def programmed(self, target: Array, eps: Array) -> Array:
        """Return conductances right after programming."""
        c_0, c_1 = self.pcm.prog_coeff_us
        sd = (c_0 + c_1 * (target + self.pcm.reference_us)) * self.pcm.prog_noise_scale
        return np.asarray(target + sd * eps)

    def exponent(self, target: Array, eps: Array) -> Array:
        """Return 0."""
        return np.zeros_like(target)

    def drifted(self, g: Array, nu: Array, t_s: float) -> Array:
        """Return the mean of a device."""
        return g if t_s == 0 else g + self.pcm.decay_mean_us * self.pcm.drift_scale * np.log(t_s)

    def noisy(self, now: Array, g: Array, nu: Array, t_s: float, eps: Array) -> Array:
        """Return readings within the range of the device, as they are at time 0."""
        pcm = self.pcm
        if t_s == 0:
            return now
        slope, intercept = pcm.decay_sd_us
        relaxed = (slope * np.log(t_s) + intercept) * pcm.drift_scale
        whole = now + pcm.reference_us
        growth = np.sqrt(np.log((t_s + pcm.t_read_s) / (2 * pcm.t_read_s)))
        reading = pcm.read_us * pcm.read_noise_scale * np.log10(whole) * growth
        read = whole + np.hypot(relaxed, reading) * eps
        return np.asarray(np.clip(read, pcm.g_min_us, pcm.g_max_us) - pcm.reference_us)


class ClosedAfm(ClosedLaw):
    """The law "afm pcm": noise on the signed weight; small ones become 0."""

    programming_noise = True

    def programmed(self, target: Array, eps: Array) -> Array:
        """Return w + sigma(|w|) eps, or 0."""
        pcm, size = self.pcm, np.abs(target)
        one, two = (
            sum(c * size**k for k, c in enumerate(terms))
            for terms in (pcm.prog_coeff_us, pcm.prog_coeff_two_us)
        )
        sigma = np.where(size <= pcm.one_device_us, one, two) * pcm.prog_noise_scale
        return np.where(size >= pcm.smallest_us, target + sigma * eps, 0.0)


class ClosedTable(ClosedLaw):
    """The law "table": the rows at the times of the table, PCHIP between targets.

    The Gaussians before the cut at 0 are found one by one, by a general root finder.
    """

    programming_noise = True
    read_noise = True

    def _now(self, target: Array, t_s: float) -> tuple[Array, Array, Array]:
        """Return mean, sd between devices and sd of readings of targets."""
        from scipy.interpolate import PchipInterpolator

        pcm, values = self.pcm, []
        times = np.array(pcm.times_s)
        axis = np.where(times > 0, np.log(np.where(times > 0, times, 1.0)), -np.inf)
        for name in ("mean_us", "prog_sd_us", "read_sd_us"):
            rows = np.array(getattr(pcm, name)).reshape(len(pcm.targets_us), -1)
            if t_s in times:
                now = rows[:, list(times).index(t_s)]
            elif len(times) > 1 and times[0] == 0 and t_s < times[1]:
                now = rows[:, 0] + (rows[:, 1] - rows[:, 0]) * t_s / times[1]
            else:
                now = np.array([np.interp(np.log(t_s), axis, row) for row in rows])
            values.append(np.asarray(PchipInterpolator(pcm.targets_us, now)(target)))
        return values[0], values[1], values[2]

    def _gaussians(self, mean: Array, sd: Array) -> tuple[Array, Array]:
        """Return mu and sigma whose values, cut at 0, have these means and deviations."""
        pairs, places = np.unique(mean.ravel() + 1j * sd.ravel(), return_inverse=True)
        found = np.array([_uncut(pair.real, pair.imag) for pair in pairs])
        both = found[places.reshape(mean.shape)]
        return both[..., 0], both[..., 1]

    def _quiet(self, mean: Array, device: Array, reading: Array) -> tuple[Array, Array]:
        """Return the noiseless share of a mean reading, and sigma over it."""
        share = reading / np.maximum(np.sqrt(mean**2 + device**2), 1e-12)
        mu, sigma = self._gaussians(np.ones_like(share), share)
        return mu, sigma / mu

    def programmed(self, target: Array, eps: Array) -> Array:
        """Return the Gaussian of the first time."""
        mean, device, reading = self._now(target, self.pcm.times_s[0])
        mu, sigma = self._gaussians(mean, device)
        return np.asarray(self._quiet(mean, device, reading)[0] * (mu + sigma * eps))

    def exponent(self, target: Array, eps: Array) -> Array:
        """Return the target and the number of the device's own drift."""
        return np.stack([target, eps])

    def drifted(self, g: Array, nu: Array, t_s: float) -> Array:
        """Return the mean, times the kept deviation, times a log-normal loss."""
        target, z = nu
        start, start_device, start_reading = self._now(target, self.pcm.times_s[0])
        mean, device, reading = self._now(target, t_s)
        first, now = start_device / start, device / mean
        kept = np.where(first > now, now / np.where(first > 0, first, 1.0), 1.0)
        own = np.sqrt(np.log(np.maximum((1 + now**2) / (1 + (kept * first) ** 2), 1.0)))
        deviation = g / self._quiet(start, start_device, start_reading)[0] / start - 1
        loss = np.exp(own * z - own**2 / 2)
        return np.asarray(
            self._quiet(mean, device, reading)[0] * mean * (1 + kept * deviation) * loss
        )

    def read_share(self, g: Array, nu: Array, t_s: float) -> Array:
        """Return sigma at the target."""
        return self._quiet(*self._now(nu[0], t_s))[1]

    def mean_decay(self, x: Array, t_s: float) -> Array:
        """Return the mean over the mean at the first time."""
        target = x * self.pcm.g_max_us
        return np.asarray(self._now(target, t_s)[0] / self._now(target, self.pcm.times_s[0])[0])


def _uncut(mean: float, sd: float) -> tuple[float, float]:
    """Return the Gaussian that has a mean and a sd after a cut at 0."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    def moments(mu: float) -> tuple[float, float]:
        first = mu * norm.cdf(mu) + norm.pdf(mu)
        return first, math.sqrt((mu * mu + 1) * norm.cdf(mu) + mu * norm.pdf(mu) - first**2)

    if mean > 8 * sd:
        return mean, sd
    mu = brentq(lambda m: moments(m)[0] / moments(m)[1] - mean / sd, -5.0, 10.0)
    return mu * sd / moments(mu)[1], sd / moments(mu)[1]


class ClosedScalar(_Polynomial):
    """The law "scalar": one exponent for all devices; nothing drifts before t0."""

    def exponent_mean(self, x: Array) -> Array:
        """Return the one exponent of all devices."""
        return np.full_like(x, self.pcm.nu)

    def age(self, t_s: float) -> float:
        """Return max(t, t0) / t0."""
        return float(max(t_s, self.pcm.t0_s) / self.pcm.t0_s)
