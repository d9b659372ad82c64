"""Specs of ReRAM devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from aimc_bridge.spec.device import DeviceSpec, lowest


@dataclass(frozen=True, kw_only=True)
class ReramWanSpec(DeviceSpec):
    """ReRAM after Wan et al. 2022: how far devices are from their target, at a few times.

    A weight is a pair of devices. The conductance at each known time is Gaussian around the target,
    and drawn again at every reading. Nothing is known of other times, nor of how the deviations of
    a device at two times belong together.

    Attributes:
        times_s: The known times, ascending, in seconds after programming.
        deviation_us: For each time all coefficients c_0 to c_n of the standard deviation, in
            microsiemens: sum c_k x^k with x = target / g_max.
        noise_scale: Factor on the standard deviations, for what-ifs; 1 is the device itself.
    """

    law: ClassVar[str] = "reram wan2022"
    pairs: int = 1
    times_s: tuple[float, ...]
    deviation_us: tuple[float, ...]
    noise_scale: float

    def coefficients_us(self, place: int) -> tuple[float, ...]:
        """Return the coefficients at one of the known times.

        Args:
            place: The place of the time in `times_s`.

        Returns:
            c_0 to c_n in microsiemens.
        """
        size = len(self.deviation_us) // len(self.times_s)
        return self.deviation_us[place * size : (place + 1) * size]

    def check(self) -> None:
        """Raise SpecError also if times or deviations are impossible, or if netting is on."""
        super().check()
        times = self.times_s
        self.require(
            len(times) > 0
            and times[0] >= 0
            and all(a < b for a, b in zip(times, times[1:], strict=False)),
            "times_s",
            "one or more times >= 0 s, ascending, each once",
        )
        count = len(self.deviation_us)
        self.require(
            count > 0 and count % len(times) == 0,
            "deviation_us",
            f"as many coefficients for each of the {len(times)} times",
        )
        self.require(
            all(lowest(self.coefficients_us(place)) >= 0 for place in range(len(times))),
            "deviation_us",
            "polynomials that are not negative on [0, g_max]",
        )
        self.require(self.noise_scale >= 0, "noise_scale", ">= 0")
        self.require(
            not self.netting, "netting", "False (each device is read around its own target)"
        )


@dataclass(frozen=True, kw_only=True)
class ReramCmoSpec(DeviceSpec):
    """CMO/HfOx ReRAM of IBM Research Zurich: one device per weight, read against a reference.

    The device has conductances from g_min to g_max. A weight of 0 is the middle of the two, which
    the reference has, so that the weight is the difference to it. All devices relax alike: mean and
    standard deviation of the change are linear in the logarithm of the time. The relaxation and the
    noise of a reading are drawn again at every reading.

    Attributes:
        g_min_us: Smallest conductance of a device, in microsiemens.
        prog_coeff_us: Intercept in microsiemens and slope per microsiemens of the standard
            deviation of programming: c_0 + c_1 g.
        decay_mean_us: Slope of the mean change, in microsiemens: slope ln t, t in seconds.
        decay_sd_us: Slope and intercept of the standard deviation of the change, in microsiemens:
            slope ln t + intercept.
        read_us: Factor K of the noise of a reading, in microsiemens: its standard deviation is
            K log10(g) sqrt(ln((t + t_read) / (2 t_read))), g in microsiemens.
        t_read_s: Duration of one reading, in seconds.
        prog_noise_scale: Factor on the programming noise, for what-ifs; 1 is the device itself.
        read_noise_scale: Factor on the noise of a reading, for what-ifs; 1 is the device itself.
        drift_scale: Factor on the relaxation, for what-ifs; 1 is the device itself.
    """

    law: ClassVar[str] = "reram cmo"
    g_min_us: float = field()  # not optional here
    prog_coeff_us: tuple[float, float]
    decay_mean_us: float
    decay_sd_us: tuple[float, float]
    read_us: float
    t_read_s: float
    prog_noise_scale: float
    read_noise_scale: float
    drift_scale: float

    @property
    def full_scale_us(self) -> float:
        """Half of the range of a device: the largest difference to the reference."""
        return (self.g_max_us - self.g_min_us) / 2

    @property
    def reference_us(self) -> float:
        """Conductance of the reference, the middle of the range."""
        return (self.g_max_us + self.g_min_us) / 2

    def check(self) -> None:
        """Raise SpecError also if a range, a time or a standard deviation is impossible."""
        super().check()
        self.require(1 <= self.g_min_us < self.g_max_us, "g_min_us", "1 uS or more, below g_max_us")
        low = min(self.prog_coeff_us[0] + self.prog_coeff_us[1] * g for g in self._ends())
        self.require(low >= 0, "prog_coeff_us", "a line that is not negative on [g_min, g_max]")
        self.require(self.decay_sd_us[1] >= 0, "decay_sd_us", "an intercept >= 0 uS")
        self.require(self.read_us >= 0, "read_us", ">= 0 uS")
        self.require(self.t_read_s > 0, "t_read_s", "> 0 s")
        for name in ("prog_noise_scale", "read_noise_scale", "drift_scale"):
            self.require(getattr(self, name) >= 0, name, ">= 0")
        self.require(self.netting, "netting", "True (the signed weight is one cell)")

    def _ends(self) -> tuple[float, float]:
        """Return the smallest and the largest conductance."""
        return self.g_min_us, self.g_max_us
