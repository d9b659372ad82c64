"""Specs of memory devices: the parameters of their laws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeVar

from aimc_bridge.spec.base import Source, Spec
from aimc_bridge.spec.faults import Faults

D = TypeVar("D", bound="DeviceSpec")

REFERENCES = ("none", "digital", "column")
"""What a weight of one device can be read against."""


@dataclass(frozen=True, kw_only=True)
class DeviceSpec(Spec):
    """Base of the specs of memory devices.

    The data are here; what a device does with them is its law, see `aimc_bridge.physics.laws`.

    Attributes:
        law: Name of the law in the table of `aimc_bridge.physics.laws`, one per kind of device.
        g_max_us: Largest conductance of one device, in microsiemens.
        t0_s: Time between programming and the first reading of the fit, in seconds.
        netting: What a reading starts from. True: the two programmed devices of a pair count as one
            device with their difference, rescaled to the largest weight of its tile (aihwkit's
            way). False: each device by itself.
        pairs: Pairs of devices per weight. The default of a kind of device is 1 if its law is that
            of single devices, and 0 if a cell holds a signed weight, which cannot change.
        significance: Factor of each pair: a weight is the sum of factor times pair. Pairs are
            filled in this order: a pair is used only if those before it are full. Empty: 1 each.
        reference: "none", or what a weight of one device is read against: "digital", a number that
            is subtracted after the conversion, or "column", a column of such devices on each tile,
            one per row, which are programmed, drift and are noisy as well. Both are in the middle
            of the range, which is a weight of 0. There is nothing to net then, whatever `netting`
            says.
        g_min_us: Smallest conductance of a device that is read against a reference, in
            microsiemens. It holds the weight -1, and g_max_us holds 1.
        stuck_at_gmax: Probability that a device is stuck at g_max, see `devices.Faults`.
        stuck_at_zero: Probability that a device is stuck at 0.
        dead_rows: Probability that a row of a tile is dead.
        dead_columns: Probability that a column of a tile is dead.
    """

    law: ClassVar[str] = ""
    g_max_us: float
    t0_s: float
    netting: bool
    pairs: int = 0
    significance: tuple[float, ...] = ()
    reference: str = "none"
    g_min_us: float = 0.0
    stuck_at_gmax: float = 0.0
    stuck_at_zero: float = 0.0
    dead_rows: float = 0.0
    dead_columns: float = 0.0

    def __init_subclass__(cls) -> None:
        """Take `pairs: ClassVar[bool]` of a class as the default of the field `pairs`.

        Devices of users were written in that way when a weight had one pair at most.
        """
        super().__init_subclass__()
        if isinstance(given := vars(cls).get("pairs"), bool):
            cls.pairs = int(given)
            cls.__annotations__["pairs"] = "int"

    @property
    def factors(self) -> tuple[float, ...]:
        """Return the factor of each pair; (1.0,) if there are not several."""
        if self.pairs < 2:
            return (1.0,)
        return self.significance or (1.0,) * self.pairs

    @property
    def referenced(self) -> bool:
        """Return whether a weight is one device that is read against a reference."""
        return self.reference != "none"

    @property
    def reference_us(self) -> float:
        """Conductance of a weight of 0 on one device with a reference; 0 without a reference."""
        return (self.g_max_us + self.g_min_us) / 2 if self.referenced else 0.0

    @property
    def faults(self) -> Faults:
        """Return the four rates of faults; false if all of them are 0."""
        return Faults(
            stuck_at_gmax=self.stuck_at_gmax,
            stuck_at_zero=self.stuck_at_zero,
            dead_rows=self.dead_rows,
            dead_columns=self.dead_columns,
        )

    def with_faults(self: D, faults: Faults, why: str | Source) -> D:
        """Return a copy with other faults.

        Args:
            faults: The rates. `Faults()` takes all faults away.
            why: The reason, which becomes the source of the rates; or a `Source`.

        Returns:
            The copy; this device itself if the rates are its own.
        """
        own = self.faults.rates()
        rates = {name: rate for name, rate in faults.rates().items() if rate != own[name]}
        return self.change(why=why, **rates) if rates else self

    @property
    def full_scale_us(self) -> float:
        """Microsiemens that the largest weight of a tile stands for.

        It is `g_max_us` times the sum of the factors of all pairs. With a reference it is half of
        the range, the largest difference to the reference.
        """
        if self.referenced:
            return (self.g_max_us - self.g_min_us) / 2
        return self.g_max_us * sum(self.factors)

    def label(self) -> str:
        """Return what a report calls the device; here the name of its law."""
        return self.law

    def check(self) -> None:
        """Raise SpecError if g_max_us or t0_s is not positive, or cells or faults impossible."""
        self.require(self.g_max_us > 0, "g_max_us", "> 0 uS")
        self.require(self.t0_s > 0, "t0_s", "> 0 s")
        self._check_cells()
        self.faults.rates()  # an impossible rate raises here

    def _check_cells(self) -> None:
        """Raise SpecError if pairs, their factors or the reference are impossible."""
        if type(self).pairs == 0:
            cannot = (
                f"the default, because the law {self.law!r} is that of whole weights and not of "
                "single devices; pairs and references need a device such as pcm, hermes or a "
                "TableDevice"
            )
            self.require(self.pairs == 0, "pairs", cannot)
            self.require(self.significance == (), "significance", cannot)
            self.require(not self.referenced, "reference", cannot)
            return
        self.require(self.pairs >= 1, "pairs", "an integer >= 1, the pairs of devices per weight")
        self.require(
            len(self.significance) in (0, self.pairs),
            "significance",
            f"one factor for each of the {self.pairs} pairs (pairs={self.pairs}), or () for 1 each",
        )
        self.require(all(factor > 0 for factor in self.significance), "significance", "factors > 0")
        self.require(self.reference in REFERENCES, "reference", ", ".join(map(repr, REFERENCES)))
        if self.referenced:
            self.require(
                self.pairs == 1, "pairs", f"1 with reference={self.reference!r}, one device"
            )
            self.require(0 <= self.g_min_us < self.g_max_us, "g_min_us", ">= 0 uS, below g_max_us")
        else:
            self.require(
                self.g_min_us == 0,
                "g_min_us",
                'a number other than 0 only with reference="digital" or "column"',
            )


def lowest(coefficients: tuple[float, ...]) -> float:
    """Return the lowest value of a polynomial at 1,001 points of [0, 1].

    Args:
        coefficients: c_0, c_1 and so on of sum c_k x^k.
    """
    grid = (i / 1000 for i in range(1001))
    return min(sum(c * x**k for k, c in enumerate(coefficients)) for x in grid)


@dataclass(frozen=True, kw_only=True)
class StatisticalSpec(DeviceSpec):
    """A device with programming noise, spread of drift exponents and read noise.

    The read noise is 1/f noise, which grows with time.

    Attributes:
        prog_coeff_us: Coefficients c_k of the standard deviation of programming, in microsiemens:
            sum c_k x^k with x = g / g_max.
        t_read_s: Duration of one reading, in seconds.
        prog_noise_scale: Factor on the programming noise, for what-ifs; 1 is the device itself.
        read_noise_scale: Factor on the read noise, for what-ifs; 1 is the device itself.
        drift_scale: Factor on the drift exponents, for what-ifs; 1 is the device itself.
    """

    pairs: int = 1
    prog_coeff_us: tuple[float, ...]
    t_read_s: float
    prog_noise_scale: float
    read_noise_scale: float
    drift_scale: float

    def check(self) -> None:
        """Raise SpecError also if a time or factor is out of bounds, or a sigma < 0."""
        super().check()
        self.require(self.t_read_s > 0, "t_read_s", "> 0 s")
        self.require(self.t0_s > self.t_read_s, "t0_s", f"> t_read_s = {self.t_read_s}")
        self.require(
            len(self.prog_coeff_us) > 0 and lowest(self.prog_coeff_us) >= 0,
            "prog_coeff_us",
            "a polynomial that is not negative on [0, g_max]",
        )
        for name in ("prog_noise_scale", "read_noise_scale", "drift_scale"):
            self.require(getattr(self, name) >= 0, name, ">= 0")


@dataclass(frozen=True, kw_only=True)
class PcmSpec(StatisticalSpec):
    """PCM after Nandakumar et al. 2019, as in Rasch et al. 2023.

    The standard deviation of programming is a polynomial of x = g / g_max; mean and spread of the
    drift exponent are clamped logarithms of x.

    Attributes:
        nu_mean: (slope, intercept, lowest, highest) of the mean drift exponent:
            clamp(slope ln x + intercept, lowest, highest).
        nu_sd: The same four of its standard deviation.
        read_coeff: (scale, exponent, floor, highest) of the read noise:
            min(scale / max(x^exponent, floor), highest).
    """

    law: ClassVar[str] = "pcm"
    nu_mean: tuple[float, float, float, float]
    nu_sd: tuple[float, float, float, float]
    read_coeff: tuple[float, float, float, float]

    def check(self) -> None:
        """Raise SpecError also if exponents or read noise have impossible bounds."""
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
    """PCM with one cell per weight, which holds the sign.

    It lies between a scalar drift and pairs of devices. The programming noise of |w| is added to
    the signed weight, which is not clipped at 0. Exponent and read noise are as for a device
    with that conductance.

    Attributes:
        weight_bits: Bits of the grid to which weights are rounded before programming; None means
            no rounding.
    """

    law: ClassVar[str] = "signed pcm"
    pairs: int = 0
    weight_bits: int | None

    def check(self) -> None:
        """Raise SpecError also if netting is off or weight_bits is below 2."""
        super().check()
        self.require(self.netting, "netting", "True (the signed weight is one cell)")
        self.require(
            self.weight_bits is None or self.weight_bits >= 2, "weight_bits", "None or >= 2"
        )


@dataclass(frozen=True, kw_only=True)
class StateIndependentSpec(StatisticalSpec):
    """PCM whose exponents and relative read noise do not depend on the conductance.

    Attributes:
        nu_mean: Mean of the Gaussian behind the drift exponents.
        nu_sd: Its standard deviation.
        read_us: Read noise of a device at g_max without its growth with time, in microsiemens; in
            proportion for smaller conductances.
    """

    law: ClassVar[str] = "state independent"
    nu_mean: float
    nu_sd: float
    read_us: float

    def check(self) -> None:
        """Raise SpecError also if an exponent, its spread or the read noise is negative."""
        super().check()
        for name in ("nu_mean", "nu_sd", "read_us"):
            self.require(getattr(self, name) >= 0, name, ">= 0")


@dataclass(frozen=True, kw_only=True)
class HermesSpec(StatisticalSpec):
    """PCM of the HERMES chip, after Le Gallo et al. 2023.

    The standard deviation of programming is a cubic polynomial of x = g / g_max. Mean and spread of
    the exponent and the read noise have two pieces each: below a break a clamped logarithm
    (slope, intercept, lowest, highest), from the break on a polynomial (c_0, c_1, ...).

    Attributes:
        nu_mean_break: The x from which on the mean exponent is a polynomial.
        nu_mean_low: Logarithm of the mean exponent below that.
        nu_mean_high: Polynomial of the mean exponent from there on.
        nu_sd_break: The x from which on the exponent's standard deviation is a polynomial.
        nu_sd_low: Logarithm of the standard deviation below that.
        nu_sd_high: Polynomial of the standard deviation from there on.
        read_break: The x from which on the read noise is a polynomial.
        read_low: Logarithm of the read noise below that.
        read_high: Polynomial of the read noise from there on.
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
        """Raise SpecError also if a piece has impossible bounds or can be negative.

        The polynomial of the mean exponent may be negative: the exponent is an absolute value.
        """
        super().check()
        for piece in ("nu_mean", "nu_sd", "read"):
            low, high = getattr(self, f"{piece}_low")[2:]
            self.require(0 <= low <= high, f"{piece}_low", "0 <= lowest <= highest")
            self.require(0 <= getattr(self, f"{piece}_break") <= 1, f"{piece}_break", "[0, 1]")
            self.require(
                lowest(getattr(self, f"{piece}_high")) >= 0 or piece == "nu_mean",
                f"{piece}_high",
                "a polynomial that is not negative on [0, 1]",
            )


@dataclass(frozen=True, kw_only=True)
class ScalarDriftSpec(DeviceSpec):
    """A simplified device, with one drift exponent for all cells.

    A cell holds the signed weight and has programming noise; there is no read noise.

    Attributes:
        prog_coeff_us: Coefficients c_k of the standard deviation of programming, in microsiemens:
            sum c_k |w|^k, added to the signed weight.
        prog_noise_scale: Factor on the programming noise, for what-ifs; 1 is the device itself.
        weight_bits: Bits of the grid to which weights are rounded before programming; None means
            no rounding.
        nu: The drift exponent of every device.
    """

    law: ClassVar[str] = "scalar"
    prog_coeff_us: tuple[float, ...]
    prog_noise_scale: float
    weight_bits: int | None
    nu: float

    def check(self) -> None:
        """Raise SpecError also if a standard deviation or the exponent can be negative."""
        super().check()
        self.require(
            len(self.prog_coeff_us) > 0 and lowest(self.prog_coeff_us) >= 0,
            "prog_coeff_us",
            "a polynomial that is not negative on [0, g_max]",
        )
        self.require(self.prog_noise_scale >= 0, "prog_noise_scale", ">= 0")
        self.require(self.nu >= 0, "nu", ">= 0")
        self.require(
            self.weight_bits is None or self.weight_bits >= 2, "weight_bits", "None or >= 2"
        )


@dataclass(frozen=True, kw_only=True)
class AfmPcmSpec(DeviceSpec):
    """PCM as in the evaluation of IBM's analog foundation models.

    A cell holds the signed weight. It has programming noise, no drift and no read noise. The
    standard deviation of the noise is one polynomial of |w| for weights that one device can hold,
    and another for those that need two.

    Attributes:
        smallest_us: Weights whose size is below this, in microsiemens, become exactly 0.
        one_device_us: Largest |w| that one device holds, in microsiemens.
        prog_coeff_us: Coefficients c_k of the standard deviation up to there: sum c_k |w|^k with
            |w| and the result in microsiemens.
        prog_coeff_two_us: The same for two devices.
        prog_noise_scale: Factor on the programming noise, for what-ifs; 1 is the device itself.
    """

    law: ClassVar[str] = "afm pcm"
    smallest_us: float
    one_device_us: float
    prog_coeff_us: tuple[float, ...]
    prog_coeff_two_us: tuple[float, ...]
    prog_noise_scale: float

    def check(self) -> None:
        """Raise SpecError also if the ranges overlap, or if a standard deviation is negative."""
        super().check()
        self.require(
            0 <= self.smallest_us <= self.one_device_us, "smallest_us", "0 <= it <= one_device_us"
        )
        for name in ("prog_coeff_us", "prog_coeff_two_us"):
            scaled = tuple(c * self.g_max_us**k for k, c in enumerate(getattr(self, name)))
            self.require(
                len(scaled) > 0 and lowest(scaled) >= 0,
                name,
                "a polynomial that is not negative on [0, g_max]",
            )
        self.require(self.prog_noise_scale >= 0, "prog_noise_scale", ">= 0")
        self.require(self.netting, "netting", "True (the signed weight is one cell)")


@dataclass(frozen=True, kw_only=True)
class IdealSpec(DeviceSpec):
    """A device that keeps its target exactly and for ever."""

    law: ClassVar[str] = "ideal"
