"""Frozen descriptions of a device, a crossbar, its drift compensation and a training recipe.

Every value carries its source (`aimc_bridge.sourced`). A unit is in the name (`_us` microsiemens,
`_s` seconds); no suffix is a ratio.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from aimc_bridge.errors import SpecError
from aimc_bridge.sourced import Source, Spec, Table, V, cite

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Change",
    "CompensationSpec",
    "CrossbarSpec",
    "DeviceSpec",
    "HermesSpec",
    "IdealSpec",
    "PcmSpec",
    "Preset",
    "ScalarDriftSpec",
    "SignedPcmSpec",
    "Source",
    "Spec",
    "StatisticalSpec",
    "Table",
    "TrainingSpec",
    "V",
    "cite",
]


# --- devices ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DeviceSpec(Spec):
    """What every memory device has. Its subclass decides the laws.

    g_max_us     largest conductance of one device, microsiemens
    t0_s         time between programming and the first reading of the fit, seconds
    netting      what a reading starts from: True, the programmed pair netted to one device and
                 rescaled to its tile's maximum (aihwkit's way); False, each device by itself
    pairs        whether a weight is a pair of devices; else it is one cell that holds a sign
    """

    law: ClassVar[str]
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


# --- crossbar, compensation, training -----------------------------------------------------------


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


NOISE_TYPES = ("none", "pcm", "programming", "gaussian")
CLIP_TYPES = ("none", "fixed", "layer_gaussian")
OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("constant", "linear", "cosine")
RANGE_STARTS = ("calibrated", "data")


@dataclass(frozen=True, kw_only=True)
class TrainingSpec(Spec):
    """A recipe of hardware-aware training. Weights are in units of their column scale.

    noise_type       "pcm" (programming and 1/f noise, PCM_NOISE), "programming", "gaussian", "none"
    noise_scale      factor on the noise, reached after ramp_batches mini-batches, linearly
    noise_t_s        time after programming of the 1/f noise, seconds, counted as t0
    gaussian_sd      sd of "gaussian", in units of the tile's largest weight
    drop_connect     probability that a weight is zero in a mini-batch
    dropout          rate of all of the model's dropout layers meanwhile; None leaves them alone
    clip_type, clip_value    "fixed": |w| <= clip_value; "layer_gaussian": clip_value sd of the tile
    remap_every      mini-batches between two re-scalings of the columns; 0 is never
    learn_input_ranges, input_range_decay, input_range_min_unclipped, input_range_init_batches,
    input_range_init_sd    ranges start from data (init_sd standard deviations, running mean over
                     init_batches) and are learned, with decay while over min_unclipped of the
                     inputs are not clipped
    input_range_start    which start from data: "calibrated", those that nothing has set yet (a
                     calibration, a state dict or a training before is kept); "data", all, anew
    learn_out_scales    train the column scales' second factor
    ir_drop_in_training    IR drop on in the forward pass of training
    optimizer        "sgd" (with momentum) or "adamw"
    epochs, batch_size, learning_rate, momentum, weight_decay, grad_clip (None is off)
    warmup_batches, warmup_factor    learning rate times factor for the first mini-batches
    lr_schedule      from there on: "constant", or "linear" or "cosine" to zero at the run's end
    lr_drop_epochs, lr_drop_factor   learning rate times factor from these epochs on
    lr_drop_on_stall    and each time that validation is no better than its best before
    distill_weight, distill_temperature    share of the loss that follows the teacher's outputs
    """

    noise_type: str
    noise_scale: float
    noise_t_s: float
    gaussian_sd: float
    ramp_batches: int
    drop_connect: float
    dropout: float | None
    clip_type: str
    clip_value: float
    remap_every: int
    learn_input_ranges: bool
    input_range_decay: float
    input_range_min_unclipped: float
    input_range_init_batches: int
    input_range_init_sd: float
    input_range_start: str
    learn_out_scales: bool
    ir_drop_in_training: bool
    optimizer: str
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    grad_clip: float | None
    warmup_batches: int
    warmup_factor: float
    lr_schedule: str
    lr_drop_epochs: tuple[int, ...]
    lr_drop_factor: float
    lr_drop_on_stall: bool
    distill_weight: float
    distill_temperature: float

    def check(self) -> None:
        for name, words in (
            ("noise_type", NOISE_TYPES),
            ("clip_type", CLIP_TYPES),
            ("input_range_start", RANGE_STARTS),
            ("optimizer", OPTIMIZERS),
            ("lr_schedule", SCHEDULES),
        ):
            self.require(getattr(self, name) in words, name, ", ".join(repr(n) for n in words))
        for name in ("noise_scale", "gaussian_sd", "weight_decay", "input_range_decay"):
            self.require(getattr(self, name) >= 0, name, ">= 0")
        for name in ("ramp_batches", "remap_every", "warmup_batches", "input_range_init_batches"):
            self.require(getattr(self, name) >= 0, name, ">= 0 mini-batches")
        for name in ("drop_connect", "momentum"):
            self.require(0 <= getattr(self, name) < 1, name, "[0, 1)")
        for name in ("distill_weight", "input_range_min_unclipped"):
            self.require(0 <= getattr(self, name) <= 1, name, "[0, 1]")
        for name in ("epochs", "batch_size"):
            self.require(getattr(self, name) >= 1, name, ">= 1")
        for name in ("noise_t_s", "clip_value", "learning_rate", "warmup_factor"):
            self.require(getattr(self, name) > 0, name, "> 0")
        for name in ("lr_drop_factor", "distill_temperature", "input_range_init_sd"):
            self.require(getattr(self, name) > 0, name, "> 0")
        self.require(self.grad_clip is None or self.grad_clip > 0, "grad_clip", "None or > 0")
        self.require(self.dropout is None or 0 <= self.dropout < 1, "dropout", "None or [0, 1)")


# --- preset -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One field of a changed preset, and why."""

    field: str
    old: Any
    new: Any
    why: str


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A device, a crossbar, a compensation and recipes, under one name."""

    name: str
    description: str
    pcm: DeviceSpec
    crossbar: CrossbarSpec
    compensation: CompensationSpec
    training: Table = field(default_factory=Table)
    changes: tuple[Change, ...] = ()

    PARTS: ClassVar[tuple[str, ...]] = ("pcm", "crossbar", "compensation")

    def __post_init__(self) -> None:
        kinds = {"pcm": DeviceSpec, "crossbar": CrossbarSpec, "compensation": CompensationSpec}
        given = {part: (getattr(self, part), kind) for part, kind in kinds.items()}
        given |= {f"training[{k!r}]": (v, TrainingSpec) for k, v in self.training.items()}
        for part, (spec, kind) in given.items():
            if not isinstance(spec, kind):
                raise SpecError(
                    f"{part} of preset {self.name!r} is a {type(spec).__name__}; "
                    f"allowed: a {kind.__name__}"
                )

    def __str__(self) -> str:
        changed = ", ".join(f"{c.field}={c.new!r}" for c in self.changes)
        return f"{self.name} with {changed}" if changed else self.name

    def change(self, *, why: str, **values: Any) -> Preset:
        """A copy with other values that says so in `changes` and in the sources.

        Args:    why  the reason, kept as the source of the new values.    values  field=value,
                 fields of pcm, crossbar and compensation.
        Raises:  SpecError where a field does not exist (it lists those that do) or a value is not
                 physical.
        """
        if not why.strip():
            raise SpecError("change needs why=: one line that says what the change is for")
        parts = {part: getattr(self, part) for part in self.PARTS}
        owner = {name: part for part, spec in parts.items() for name in spec.field_names()}
        unknown = [name for name in values if name not in owner]
        if unknown:
            raise SpecError(
                f"preset {self.name!r} has no field {', '.join(unknown)}; "
                f"fields: {', '.join(owner)}"
            )
        source = Source("changed", why, f"preset {self.name}")
        changes = tuple(
            Change(name, getattr(parts[owner[name]], name), value, why)
            for name, value in values.items()
        )
        for part in self.PARTS:
            mine = {name: value for name, value in values.items() if owner[name] == part}
            if mine:
                parts[part] = parts[part].replace(source, **mine)
        return dataclasses.replace(self, **parts, changes=self.changes + changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-safe; `Preset.from_dict` gives an equal preset back."""
        return {
            "name": self.name,
            "description": self.description,
            **{part: getattr(self, part).to_dict() for part in self.PARTS},
            "training": {name: spec.to_dict() for name, spec in self.training.items()},
            "changes": [[c.field, _plain(c.old), _plain(c.new), c.why] for c in self.changes],
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Preset:
        """The preset that `to_dict` described.

        Raises:  SpecError where a part or a field is missing or unknown.
        """
        try:
            parts = {part: Spec.from_dict(data[part]) for part in Preset.PARTS}
            training = Table({k: Spec.from_dict(v) for k, v in data["training"].items()})
            changes = tuple(
                Change(f, _frozen(old), _frozen(new), why) for f, old, new, why in data["changes"]
            )
            name, description = str(data["name"]), str(data["description"])
        except SpecError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as cause:
            raise SpecError(f"not a preset's data: {cause!r}") from cause
        return Preset(
            name=name,
            description=description,
            training=training,
            changes=changes,
            **typing.cast(Any, parts),
        )

    def rpu_config(
        self, tile: str = "auto", training: str | None = None, drop: tuple[str, ...] = ()
    ) -> Any:
        """The aihwkit RPU config of this preset; see `aimc_bridge.reference.config.rpu_config`."""
        from aimc_bridge.reference.config import rpu_config  # the one upward import

        return rpu_config(self, tile=tile, training=training, drop=drop)

    def explain(self) -> pd.DataFrame:
        """A table of every number: part, field, value, unit, source."""
        import pandas as pd

        specs: dict[str, Spec] = {part: getattr(self, part) for part in self.PARTS}
        specs |= {f"training.{name}": spec for name, spec in self.training.items()}
        rows = [
            {
                "part": part,
                "field": name,
                "value": value,
                "unit": next((u for end, u in _UNITS.items() if name.endswith(end)), ""),
                "source": str(spec.sources[name]),
            }
            for part, spec in specs.items()
            for name, value in spec.values().items()
        ]
        return pd.DataFrame(rows, dtype=object)  # a None stays None, not NaN


_UNITS = {"_us": "uS", "_s": "s", "_bits": "bit"}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
