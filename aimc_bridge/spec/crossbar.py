"""Tiles with their periphery, and how drift is compensated at their outputs."""

from __future__ import annotations

from dataclasses import dataclass

from aimc_bridge.spec.base import Spec


@dataclass(frozen=True, kw_only=True)
class CrossbarSpec(Spec):
    """Tiles and the periphery of one analog matrix-vector product.

    dac_bits, adc_bits    resolution; None is no rounding and no bound on that side
    out_bound             ADC bound, in units of one fully-on input on one fully-on weight
    out_noise             sd of the output noise, in the same units
    w_noise               short-term read noise (PCM_READ): sd w_noise sqrt(sum |w| x^2)
    ir_drop, ir_drop_g_ratio    scale of the IR drop; wire conductance over g_max
    max_rows, max_columns       size of a tile; None is unlimited: one tile a layer
    weight_scaling        "column" (largest |w| of each column of each tile), "tile" or "layer"
    digital_bias          biases are added digitally; aihwkit's alternative, a bias row, is refused
    learned_out_scales    a second, trained digital factor a column, 1 at first
    input_range           "learned" (static per tile, set from data or trained) or "none"
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
    """Drift compensation, a digital factor alpha at the output of each tile.

    drift_compensation    "global": mean |MVM(identity)| right after programming over the same now;
                          "global_exact_reference": the first of the two from the clean weights,
                          without noise; "per_column": the means by column; "oracle": the inverse
                          of the known mean drift; "none"
    alpha_floor           lowest mean that a readout can give
    """

    drift_compensation: str
    alpha_floor: float

    def check(self) -> None:
        self.require(
            self.drift_compensation in COMPENSATIONS,
            "drift_compensation",
            ", ".join(repr(name) for name in COMPENSATIONS),
        )
        self.require(self.alpha_floor > 0, "alpha_floor", "> 0")
