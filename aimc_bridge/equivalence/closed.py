"""Devices and tiles by the closed forms of their laws, for devices that aihwkit has no model of.

aihwkit has noise models for some sets of numbers. A device with other numbers, or of another kind,
runs on its tiles through our own laws, and to compare those with themselves would prove nothing.
The formulas of `closed_forms` are therefore independent of `aimc_bridge.physics`; here they are
found by the name of the law.
"""

from __future__ import annotations

import numpy as np

from aimc_bridge.equivalence.closed_forms import (
    Array,
    ClosedAfm,
    ClosedHermes,
    ClosedLaw,
    ClosedPcm,
    ClosedReramCmo,
    ClosedReramWan,
    ClosedScalar,
    ClosedStateIndependent,
    ClosedTable,
)
from aimc_bridge.errors import CapabilityError
from aimc_bridge.spec import DeviceSpec

__all__ = ["ClosedLaw", "ClosedLaws", "closed_law", "has_closed_form", "oracle", "register"]

_CLOSED: dict[str, type[ClosedLaw]] = {
    "pcm": ClosedPcm,
    "signed pcm": ClosedPcm,
    "hermes": ClosedHermes,
    "scalar": ClosedScalar,
    "ideal": ClosedLaw,
    "state independent": ClosedStateIndependent,
    "reram wan2022": ClosedReramWan,
    "reram cmo": ClosedReramCmo,
    "afm pcm": ClosedAfm,
    "table": ClosedTable,
}


def register(name: str, law: type[ClosedLaw]) -> None:
    """Register the closed form of a law, so that its devices can be cross-checked.

    Args:
        name: Name of the law, as the device's spec has it in `law`.
        law: The formulas, written independently of the law itself.
    """
    _CLOSED[name] = law


def has_closed_form(pcm: DeviceSpec) -> bool:
    """Return whether the law of a device has a closed form here.

    Args:
        pcm: The device, `preset.pcm`.
    """
    return pcm.law in _CLOSED


def closed_law(pcm: DeviceSpec) -> ClosedLaw:
    """Return the formulas of a device.

    Args:
        pcm: The device, `preset.pcm`.

    Returns:
        A new object of the class that is registered for the device's law.

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
    """Return the compensation factors by the known mean drift.

    Args:
        parts: The normalised weights, one array per tile.
        pcm: The device, `preset.pcm`.
        t_s: Seconds after programming.

    Returns:
        One factor per tile: sum |w| over the sum of |w| drifted with mean exponents.

    Raises:
        CapabilityError: If the device's law has no closed form.
    """
    law = closed_law(pcm)
    factors = []
    for weight in parts:
        size = np.abs(weight)
        x = size / (size.max() or 1.0)
        after = (size * law.mean_decay(x, t_s)).sum()
        factors.append(size.sum() / after if after > 0 else 1.0)
    return np.array(factors)


class ClosedLaws:
    """Devices and weights of one tile, simulated by the formulas.

    Conductances are in microsiemens, times in seconds after programming. Arrays of any shape are
    allowed, and results have the shape of the argument.

    Attributes:
        pcm: The device, `preset.pcm`.
        draws: The numpy generator of all random numbers.
        law: The formulas of the device.
    """

    def __init__(self, pcm: DeviceSpec, draws: np.random.Generator) -> None:
        """Find the formulas of the device.

        Args:
            pcm: The device, `preset.pcm`.
            draws: The numpy generator of all random numbers.

        Raises:
            CapabilityError: If the device's law has no closed form.
        """
        self.pcm, self.draws = pcm, draws
        self.law = closed_law(pcm)

    def _normal(self, like: Array) -> Array:
        """Draw standard normal numbers of the shape of an array."""
        return self.draws.standard_normal(like.shape)

    def programmed(self, target: Array) -> Array:
        """Return conductances right after programming: max(0, g + sigma N).

        A cell that holds a sign is not clipped at 0, and its target is rounded to its grid first.

        Args:
            target: Target conductances.
        """
        if not self.law.programming_noise:
            return target.copy()
        target = self._on_grid(target)
        g = self.law.programmed(target, self._normal(target))
        return np.asarray(np.maximum(g, 0.0)) if self.pcm.pairs else g

    def _on_grid(self, target: Array) -> Array:
        """Return targets on the device's grid of bits, if it has one."""
        bits = self.pcm.values().get("weight_bits")
        if bits is None:
            return target
        levels = 2 ** (int(bits) - 1) - 1
        # a target half way between two levels goes to the even one, whatever its last bits are
        level = np.round(np.round(target / self.pcm.g_max_us * levels, 4))
        return np.asarray(level * (self.pcm.g_max_us / levels))

    def exponent(self, target: Array) -> Array:
        """Draw the drift exponents |N(mean, sd)| of devices.

        Args:
            target: Their target conductances.
        """
        target = self._on_grid(target)
        return self.law.exponent(target, self._normal(target))

    def drifted(self, g: Array, nu: Array, t_s: float) -> Array:
        """Return drifted conductances without read noise, g age^-nu.

        Args:
            g: Programmed conductances.
            nu: Their drift exponents.
            t_s: Seconds after programming.
        """
        return self.law.drifted(g, nu, t_s)

    def read(self, g: Array, nu: Array, t_s: float) -> Array:
        """Return conductances as read: drifted, with 1/f noise, not below 0.

        Args:
            g: Programmed conductances; they decide the size of the noise.
            nu: Their drift exponents.
            t_s: Seconds after programming.
        """
        now = self.drifted(g, nu, t_s)
        if not self.law.read_noise:
            return now
        return self.law.noisy(now, g, nu, t_s, self._normal(now))

    def program_weights(self, weight: Array) -> tuple[Array, tuple[Array, Array, float]]:
        """Program the weights of one tile.

        Args:
            weight: Normalised weights, not all zero.

        Returns:
            The normalised weights right after programming, and the state that `read_weights` takes:
            conductances, drift exponents, and microsiemens per weight of 1. A pair counts as one
            device with the difference of both, rescaled to the largest programmed weight.
        """
        us_per_unit = self.pcm.full_scale_us / np.abs(weight).max()
        if not self.pcm.pairs:
            g = self.programmed(weight * us_per_unit)
            return g / us_per_unit, (g, self.exponent(weight * us_per_unit), us_per_unit)
        if self.pcm.referenced:
            target = self.pcm.reference_us + weight * us_per_unit
            g = self.programmed(target)
            net = (g - self.pcm.reference_us) / us_per_unit
            return net, (g, self.exponent(target), us_per_unit)
        if self.pcm.pairs > 1:
            return self._program_pairs(weight, us_per_unit)
        targets = [np.maximum(sign * weight, 0.0) * us_per_unit for sign in (1.0, -1.0)]
        plus, minus = (self.programmed(target) for target in targets)
        net = (plus - minus) / us_per_unit
        nu = np.where(net > 0, *(self.exponent(target) for target in targets))
        rescale = self.pcm.g_max_us / np.abs(net).max()
        return net, (net * rescale, nu, rescale)

    def _program_pairs(
        self, weight: Array, us_per_unit: float
    ) -> tuple[Array, tuple[Array, Array, float]]:
        """Return what `program_weights` returns, for several pairs; they stand in front."""
        pairs_us = self._on_pairs(weight * us_per_unit)
        targets = [np.maximum(sign * pairs_us, 0.0) for sign in (1.0, -1.0)]
        plus, minus = (self.programmed(target) for target in targets)
        net = np.tensordot(self.pcm.factors, plus - minus, axes=1) / us_per_unit
        nu = np.where(net > 0, *(self.exponent(target) for target in targets))
        rescale = self.pcm.full_scale_us / np.abs(net).max()
        return net, (self._on_pairs(net * rescale), nu, rescale)

    def _on_pairs(self, weight_us: Array) -> Array:
        """Return what each pair holds of weights: the first takes all until it is full."""
        bounds = np.cumsum([0.0, *self.pcm.factors]) * self.pcm.g_max_us
        size, sign = np.abs(weight_us), np.sign(weight_us)
        parts = [
            np.clip(size, low, high) - low for low, high in zip(bounds, bounds[1:], strict=False)
        ]
        held = [part / factor for part, factor in zip(parts, self.pcm.factors, strict=True)]
        return np.stack([np.where(sign < 0, -part, part) for part in held])

    def read_weights(self, state: tuple[Array, Array, float], t_s: float) -> Array:
        """Return the normalised weights as read.

        Args:
            state: The state from `program_weights`.
            t_s: Seconds after programming.
        """
        g, nu, us_per_unit = state
        if self.pcm.referenced:
            return np.asarray((self.read(g, nu, t_s) - self.pcm.reference_us) / us_per_unit)
        if self.pcm.pairs > 1:
            pairs_us = np.sign(g) * self.read(np.abs(g), nu, t_s)
            return np.asarray(np.tensordot(self.pcm.factors, pairs_us, axes=1) / us_per_unit)
        if self.law.signed:
            return self.read(g, nu, t_s) / us_per_unit
        return np.asarray(np.sign(g) * self.read(np.abs(g), nu, t_s) / us_per_unit)
