"""Specs of tiles with their periphery, and of drift compensation."""

from __future__ import annotations

from dataclasses import dataclass

from aimc_bridge.spec.base import Spec


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

    def check(self) -> None:
        """Raise SpecError if a value is out of bounds, or if a DAC has no input range."""
        for name in ("dac_bits", "adc_bits"):
            bits = getattr(self, name)
            self.require(bits is None or 2 <= bits <= 24, name, "None or 2..24 bits")
        for name in ("max_rows", "max_columns"):
            size = getattr(self, name)
            self.require(size is None or size >= 1, name, "None or >= 1")
        for name in ("out_noise", "w_noise", "ir_drop"):
            self.require(getattr(self, name) >= 0, name, ">= 0")
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
