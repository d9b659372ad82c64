"""The laws once more, from their formulas in double precision: a reference where aihwkit has none.

aihwkit's noise models have two sets of numbers. A device with others, or of another kind, runs on
its tiles through our own laws: comparing those with themselves would prove nothing. Nothing here
uses `aimc_bridge.physics`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aimc_bridge.spec import DeviceSpec, HermesSpec, PcmSpec, ScalarDriftSpec, StatisticalSpec

Array = NDArray[np.float64]


def _clamped_log(x: Array, law: tuple[float, float, float, float]) -> Array:
    slope, intercept, low, high = law
    return np.clip(slope * np.log(np.maximum(x, 1e-7)) + intercept, low, high)


def _pieces(x: Array, at: float, low: tuple[float, ...], high: tuple[float, ...]) -> Array:
    below = _clamped_log(x, (low[0], low[1], low[2], low[3]))
    return np.where(x < at, below, np.polynomial.polynomial.polyval(x, high))


def exponent_mean(x: Array, pcm: DeviceSpec) -> Array:
    """Mean of the Gaussian behind the exponent, x = |target| / g_max."""
    if isinstance(pcm, PcmSpec):
        return _clamped_log(x, pcm.nu_mean) * pcm.drift_scale
    if isinstance(pcm, HermesSpec):
        mean = _pieces(x, pcm.nu_mean_break, pcm.nu_mean_low, pcm.nu_mean_high)
        return mean * pcm.drift_scale
    return np.full_like(x, pcm.nu if isinstance(pcm, ScalarDriftSpec) else 0.0)


def _exponent_sd(x: Array, pcm: DeviceSpec) -> Array:
    if isinstance(pcm, PcmSpec):
        return _clamped_log(x, pcm.nu_sd) * pcm.drift_scale
    if isinstance(pcm, HermesSpec):
        sd = _pieces(x, pcm.nu_sd_break, pcm.nu_sd_low, pcm.nu_sd_high)
        return sd * pcm.drift_scale
    return np.zeros_like(x)


def _read_q(x: Array, pcm: DeviceSpec) -> Array:
    if isinstance(pcm, PcmSpec):
        scale, power, floor, highest = pcm.read_coeff
        return np.minimum(scale / np.maximum(x**power, floor), highest)
    if isinstance(pcm, HermesSpec):
        return _pieces(x, pcm.read_break, pcm.read_low, pcm.read_high)
    return np.zeros_like(x)


def _age(t_s: float, pcm: DeviceSpec) -> float:
    if isinstance(pcm, ScalarDriftSpec):
        return max(t_s, pcm.t0_s) / pcm.t0_s
    return (t_s + pcm.t0_s) / pcm.t0_s


def oracle(parts: list[Array], pcm: DeviceSpec, t_s: float) -> Array:
    """Compensation factor by the known mean drift, of normalised weights tile by tile."""
    found = []
    for weight in parts:
        size = np.abs(weight)
        x = size / (size.max() or 1.0)
        after = (size * _age(t_s, pcm) ** -exponent_mean(x, pcm)).sum()
        found.append(size.sum() / after if after > 0 else 1.0)
    return np.array(found)


@dataclass(frozen=True)
class ClosedLaws:
    """Devices and weights of a tile by the formulas; draws from a numpy generator. Microsiemens."""

    pcm: DeviceSpec
    draws: np.random.Generator

    def _normal(self, like: Array) -> Array:
        return self.draws.standard_normal(like.shape)

    def programmed(self, target: Array) -> Array:
        """max(0, g + sigma N); a cell that holds a sign is rounded to its grid and not clipped."""
        pcm = self.pcm
        if not isinstance(pcm, StatisticalSpec | ScalarDriftSpec):
            return target.copy()
        target = self._on_grid(target)
        x = np.abs(target) / pcm.g_max_us
        sigma = np.polynomial.polynomial.polyval(x, pcm.prog_coeff_us) * pcm.prog_noise_scale
        g = target + sigma * self._normal(target)
        return np.asarray(np.maximum(g, 0.0)) if pcm.pairs else g

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
        return np.abs(exponent_mean(x, self.pcm) + _exponent_sd(x, self.pcm) * self._normal(x))

    def drifted(self, g: Array, nu: Array, t_s: float) -> Array:
        """g ((t + t0) / t0)^-nu."""
        return np.asarray(g * _age(t_s, self.pcm) ** -nu)

    def read(self, g: Array, nu: Array, t_s: float) -> Array:
        """Drifted, with 1/f noise of the programmed conductance, not below 0."""
        now, pcm = self.drifted(g, nu, t_s), self.pcm
        if not isinstance(pcm, StatisticalSpec):
            return now
        growth = np.sqrt(np.log((t_s + pcm.t0_s + pcm.t_read_s) / (2 * pcm.t_read_s)))
        sigma = _read_q(np.abs(g) / pcm.g_max_us, pcm) * growth * pcm.read_noise_scale
        return np.asarray(np.maximum(now + np.abs(now) * sigma * self._normal(now), 0.0))

    def program_weights(self, weight: Array) -> tuple[Array, tuple[Array, Array, float]]:
        """Normalised weights of one tile as programmed, and the state that `read_weights` takes."""
        unit = self.pcm.g_max_us / np.abs(weight).max()
        if not self.pcm.pairs:
            g = self.programmed(weight * unit)
            return g / unit, (g, self.exponent(weight * unit), unit)
        targets = [np.maximum(sign * weight, 0.0) * unit for sign in (1.0, -1.0)]
        plus, minus = (self.programmed(target) for target in targets)
        net = (plus - minus) / unit
        nu = np.where(net > 0, *(self.exponent(target) for target in targets))
        again = self.pcm.g_max_us / np.abs(net).max()
        return net, (net * again, nu, again)

    def read_weights(self, state: tuple[Array, Array, float], t_s: float) -> Array:
        """Normalised weights at `t_s`."""
        g, nu, unit = state
        return np.asarray(np.sign(g) * self.read(np.abs(g), nu, t_s) / unit)
