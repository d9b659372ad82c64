"""Specs of tiles with their periphery, and of drift compensation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from aimc_bridge.spec.base import Spec

INPUT_PASSES = ("one", "two_analog_sum", "two_digital_sum")
_EFFECTS = (
    *("out_nonlinearity", "r_series", "v_offset_std", "input_passes"),
    *("inp_asymmetry", "out_asymmetry"),
)
_SIZES = (
    *("out_nonlinearity", "out_nonlinearity_std", "r_series", "v_offset_std"),
    *("w_read_asymmetry_dtod", "out_noise_std"),
)


@dataclass(frozen=True, kw_only=True)
class CrossbarSpec(Spec):
    """Tiles and the periphery of one analog matrix-vector product.

    Attributes:
        dac_bits: Resolution of the inputs in bits, sign included; None means no rounding and no
            bound on the inputs.
        adc_bits: Resolution of the outputs in bits, sign included; None means no rounding and no
            bound on the outputs.
        out_bound: Bound of the ADC, in units of one fully-on input on one fully-on weight.
        out_noise: Standard deviation of the output noise, in the same units.
        w_noise: Short-term read noise (PCM_READ): an output has Gaussian noise with the standard
            deviation w_noise sqrt(sum |w| x^2).
        ir_drop: Factor on the IR drop; 0 means none.
        ir_drop_g_ratio: Conductance of the wires over g_max.
        max_rows: Largest number of inputs of a tile; None means no limit.
        max_columns: Largest number of outputs of a tile; None means no limit. Without both limits a
            layer is one tile.
        weight_scaling: What the weights are normalised by: "column" is the largest |w| of each
            column of each tile, "tile" of each tile, "layer" of the whole layer.
        digital_bias: True: biases are added digitally. aihwkit's alternative, a bias row on the
            tile, is refused.
        learned_out_scales: Whether each column has a second, trained digital factor, which is 1 at
            first.
        input_range: "learned" (one fixed range per tile, set from data or trained) or "none".
        out_nonlinearity: S-shape of the outputs in front of the ADC, y / (1 + n |y|): n is this
            number over `out_bound`. With 1, an output as large as the bound is halved.
        out_nonlinearity_std: Spread of n over the outputs of a chip, relative to its mean.
        slope_calibration: The output, in units of `out_bound`, at which the slope of the S-shape
            and of the series resistance is 1 on average over a tile, because the ADC was calibrated
            there; 0 is no calibration.
        r_series: Series resistance of an output line: a current y becomes y / (1 + r_series |y|).
        v_offset_std: Size of the voltage offsets of the output lines, each a share of the read
            voltage.
        v_offset_w_min: Weight of the reference that an output is read against, in units of the
            largest weight. Its current has the series resistance and the voltage offset, too. 0 is
            no reference.
        input_passes: "one" for inputs of both signs together; "two_analog_sum" for the negative and
            the positive inputs one after the other, added in front of the ADC; "two_digital_sum"
            for an ADC conversion, with its output noise, for each of the two.
        w_read_asymmetry_dtod: Spread of the factor, with mean 1, by which each weight differs if
            its input is negative (polarity of the read voltage). It needs two input passes.
        inp_asymmetry: Share by which negative inputs are smaller behind the DAC.
        out_asymmetry: Share by which negative outputs are smaller in front of the ADC.
        out_noise_std: Spread of the output noise's standard deviation over the outputs of a chip,
            relative to `out_noise`.

    The fields from `out_nonlinearity` on are optional: they are off unless a preset sets them. What
    has a spread is drawn once for each chip.
    """

    dac_bits: int | None
    adc_bits: int | None
    out_bound: float
    out_noise: float
    w_noise: float
    ir_drop: float
    ir_drop_g_ratio: float
    max_rows: int | None
    max_columns: int | None
    weight_scaling: str
    digital_bias: bool
    learned_out_scales: bool
    input_range: str
    out_nonlinearity: float = 0.0
    out_nonlinearity_std: float = 0.0
    slope_calibration: float = 0.0
    r_series: float = 0.0
    v_offset_std: float = 0.0
    v_offset_w_min: float = -1.0
    input_passes: str = "one"
    w_read_asymmetry_dtod: float = 0.0
    inp_asymmetry: float = 0.0
    out_asymmetry: float = 0.0
    out_noise_std: float = 0.0

    @property
    def two_passes(self) -> bool:
        """True if negative and positive inputs come one after the other."""
        return self.input_passes != "one"

    @cached_property
    def line_effects(self) -> tuple[str, ...]:
        """Names of the optional effects of the periphery that are on."""
        unset = self.optional()
        on = [name for name in _EFFECTS if getattr(self, name) != unset[name]]
        if self.out_noise_std > 0 and self.out_noise > 0:
            on.append("out_noise_std")
        return tuple(on)

    def check(self) -> None:
        """Raise SpecError if a value is out of bounds, or if two values do not fit."""
        for name in ("dac_bits", "adc_bits"):
            bits = getattr(self, name)
            self.require(bits is None or 2 <= bits <= 24, name, "None or 2..24 bits")
        for name in ("max_rows", "max_columns"):
            size = getattr(self, name)
            self.require(size is None or size >= 1, name, "None or >= 1")
        for name in ("out_noise", "w_noise", "ir_drop", *_SIZES):
            self.require(getattr(self, name) >= 0, name, ">= 0")
        for name in ("inp_asymmetry", "out_asymmetry"):
            self.require(0 <= getattr(self, name) < 1, name, "0 <= share < 1")
        self.require(0 <= self.slope_calibration <= 1, "slope_calibration", "0 to 1")
        self.require(self.v_offset_w_min <= 0, "v_offset_w_min", "<= 0, -1 for the lowest weight")
        self.require(self.out_bound > 0, "out_bound", "> 0")
        self.require(self.ir_drop_g_ratio > 0, "ir_drop_g_ratio", "> 0")
        self.require(
            self.weight_scaling in ("column", "tile", "layer"),
            "weight_scaling",
            "'column', 'tile', 'layer'",
        )
        self.require(self.digital_bias, "digital_bias", "True (an analog bias row is not modelled)")
        self.require(self.input_range in ("learned", "none"), "input_range", "'learned' or 'none'")
        self.require(
            self.input_range == "learned" or self.dac_bits is None,
            "input_range",
            "'learned' where dac_bits is set: a DAC needs a range",
        )
        passes = ", ".join(repr(name) for name in INPUT_PASSES)
        self.require(self.input_passes in INPUT_PASSES, "input_passes", passes)
        self.require(
            self.two_passes or self.w_read_asymmetry_dtod == 0,
            "w_read_asymmetry_dtod",
            "0, or input_passes='two_analog_sum' or 'two_digital_sum' with it: in one pass no "
            "device sees the sign of its input alone",
        )


COMPENSATIONS = ("none", "global", "global_exact_reference", "per_column", "oracle")


@dataclass(frozen=True, kw_only=True)
class CompensationSpec(Spec):
    """Drift compensation: a digital factor alpha at the output of each tile.

    Attributes:
        drift_compensation: How alpha is found. "global": the mean |output| of a tile for the
            identity matrix as inputs, right after programming, over the same mean now.
            "global_exact_reference": the first of these means comes from the clean weights, without
            noise. "per_column": as "global", with one mean per column. "oracle": the inverse of the
            known mean drift. "none": no compensation.
        alpha_floor: Lowest mean that a readout can give, in units of the tile's outputs.
    """

    drift_compensation: str
    alpha_floor: float

    def check(self) -> None:
        """Raise SpecError if the compensation is unknown or the floor is not positive."""
        self.require(
            self.drift_compensation in COMPENSATIONS,
            "drift_compensation",
            ", ".join(repr(name) for name in COMPENSATIONS),
        )
        self.require(self.alpha_floor > 0, "alpha_floor", "> 0")
