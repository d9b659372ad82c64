"""What a memory device is: the parameters of its laws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aimc_bridge.spec.base import Spec


@dataclass(frozen=True, kw_only=True)
class DeviceSpec(Spec):
    """What every memory device has. `law` names what it does, see `aimc_bridge.physics.laws`.

    law          name of the law in the table of `physics.laws`, one for each kind of device
    g_max_us     largest conductance of one device, microsiemens
    t0_s         time between programming and the first reading of the fit, seconds
    netting      what a reading starts from: True, the programmed pair netted to one device and
                 rescaled to its tile's maximum (aihwkit's way); False, each device by itself
    pairs        whether a weight is a pair of devices; else it is one cell that holds a sign
    """

    law: ClassVar[str] = ""
    pairs: ClassVar[bool] = False
    g_max_us: float
    t0_s: float
    netting: bool

    def check(self) -> None:
        self.require(self.g_max_us > 0, "g_max_us", "> 0 uS")
        self.require(self.t0_s > 0, "t0_s", "> 0 s")


def _lowest(coefficients: tuple[float, ...]) -> float:
    """Lowest value of sum c_k x^k on a fine grid of [0, 1]."""
    grid = (i / 1000 for i in range(1001))
    return min(sum(c * x**k for k, c in enumerate(coefficients)) for x in grid)


@dataclass(frozen=True, kw_only=True)
class StatisticalSpec(DeviceSpec):
    """A device with programming noise, a spread of drift exponents and 1/f read noise.

    prog_coeff_us      programming sigma, microsiemens: sum c_k x^k, x = g / g_max
    t_read_s           duration of one reading, seconds
    prog_noise_scale, read_noise_scale, drift_scale    factors for what-ifs; 1 is the device
    """

    pairs: ClassVar[bool] = True
    prog_coeff_us: tuple[float, ...]
    t_read_s: float
    prog_noise_scale: float
    read_noise_scale: float
    drift_scale: float

    def check(self) -> None:
        super().check()
        self.require(self.t_read_s > 0, "t_read_s", "> 0 s")
        self.require(self.t0_s > self.t_read_s, "t0_s", f"> t_read_s = {self.t_read_s}")
        self.require(
            len(self.prog_coeff_us) > 0 and _lowest(self.prog_coeff_us) >= 0,
            "prog_coeff_us",
            "a polynomial that is not negative on [0, g_max]",
        )
        for name in ("prog_noise_scale", "read_noise_scale", "drift_scale"):
            self.require(getattr(self, name) >= 0, name, ">= 0")


@dataclass(frozen=True, kw_only=True)
class PcmSpec(StatisticalSpec):
    """PCM after Nandakumar et al. 2019: polynomial sigma, clamped logarithms for the exponent.

    nu_mean, nu_sd      (slope, intercept, lowest, highest): clamp(slope ln x + intercept)
    read_coeff          (scale, exponent, floor, highest): min(scale / max(x^exponent, floor),
                        highest)
    """

    law: ClassVar[str] = "pcm"
    nu_mean: tuple[float, float, float, float]
    nu_sd: tuple[float, float, float, float]
    read_coeff: tuple[float, float, float, float]

    def check(self) -> None:
        super().check()
        for name in ("nu_mean", "nu_sd"):
            low, high = getattr(self, name)[2:]
            self.require(0 <= low <= high, name, "0 <= lowest <= highest")
        self.require(
            min(self.read_coeff) >= 0 and self.read_coeff[2] > 0,
            "read_coeff",
            "no negative entry, floor > 0",
        )


@dataclass(frozen=True, kw_only=True)
class SignedPcmSpec(PcmSpec):
    """The laws of PCM on one cell a weight, which holds the sign: what lies between a scalar drift
    and pairs of devices.

    Programming noise is that of |w| on the signed weight, not clipped at 0; exponent and read noise
    are those of a device with that conductance.

    weight_bits    grid the weights are rounded to before programming; None is no rounding
    """

    law: ClassVar[str] = "signed pcm"
    pairs: ClassVar[bool] = False
    weight_bits: int | None

    def check(self) -> None:
        super().check()
        self.require(self.netting, "netting", "True (the signed weight is one cell)")
        self.require(
            self.weight_bits is None or self.weight_bits >= 2, "weight_bits", "None or >= 2"
        )


@dataclass(frozen=True, kw_only=True)
class HermesSpec(StatisticalSpec):
    """PCM of the HERMES chip: cubic sigma, exponents and read noise in two pieces of x = g / g_max.

    Below its break a piece is a clamped logarithm (slope, intercept, lowest, highest); from the
    break on it is a polynomial (c_0, c_1, ...).
    """

    law: ClassVar[str] = "hermes"
    nu_mean_break: float
    nu_mean_low: tuple[float, float, float, float]
    nu_mean_high: tuple[float, ...]
    nu_sd_break: float
    nu_sd_low: tuple[float, float, float, float]
    nu_sd_high: tuple[float, ...]
    read_break: float
    read_low: tuple[float, float, float, float]
    read_high: tuple[float, ...]

    def check(self) -> None:
        super().check()
        for piece in ("nu_mean", "nu_sd", "read"):
            low, high = getattr(self, f"{piece}_low")[2:]
            self.require(0 <= low <= high, f"{piece}_low", "0 <= lowest <= highest")
            self.require(0 <= getattr(self, f"{piece}_break") <= 1, f"{piece}_break", "[0, 1]")
            self.require(
                _lowest(getattr(self, f"{piece}_high")) >= 0 or piece == "nu_mean",
                f"{piece}_high",
                "a polynomial that is not negative on [0, 1]",
            )


@dataclass(frozen=True, kw_only=True)
class ScalarDriftSpec(DeviceSpec):
    """A simplified device: noise on the signed weight, one drift exponent for all, no read noise.

    prog_coeff_us    sigma of the signed weight, microsiemens: sum c_k |w|^k
    weight_bits      grid the weights are rounded to before programming; None is no rounding
    nu               the drift exponent of every device
    """

    law: ClassVar[str] = "scalar"
    prog_coeff_us: tuple[float, ...]
    prog_noise_scale: float
    weight_bits: int | None
    nu: float

    def check(self) -> None:
        super().check()
        self.require(
            len(self.prog_coeff_us) > 0 and _lowest(self.prog_coeff_us) >= 0,
            "prog_coeff_us",
            "a polynomial that is not negative on [0, g_max]",
        )
        self.require(self.prog_noise_scale >= 0, "prog_noise_scale", ">= 0")
        self.require(self.nu >= 0, "nu", ">= 0")
        self.require(
            self.weight_bits is None or self.weight_bits >= 2, "weight_bits", "None or >= 2"
        )


@dataclass(frozen=True, kw_only=True)
class IdealSpec(DeviceSpec):
    """A device that holds its target exactly, for ever."""

    law: ClassVar[str] = "ideal"
