"""The spec of a recipe of hardware-aware training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from aimc_bridge.errors import SpecError
from aimc_bridge.spec.base import Source, Spec, Table

NOISE_TYPES = ("none", "pcm", "programming", "gaussian")
CLIP_TYPES = ("none", "fixed", "layer_gaussian", "column_gaussian")
OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("constant", "linear", "cosine")
RANGE_STARTS = ("calibrated", "data")
FAULTS = ("none", "chip", "fresh")
SHARES = {
    "ramp_batches": "ramp_share",
    "remap_every": "remap_share",
    "warmup_batches": "warmup_share",
}
"""Counts of mini-batches, and the fields that give them as shares of the training's length."""


@dataclass(frozen=True, kw_only=True)
class TrainingSpec(Spec):
    """A recipe of hardware-aware training.

    Weights are in units of their column's scale. Ramp, remapping and warm-up are either counts of
    mini-batches or shares of the training's length; `of_length` turns the shares into counts. A
    change of one drops the other.

    Attributes:
        noise_type: Noise on the weights: "pcm" (programming and 1/f noise, PCM_NOISE),
            "programming", "gaussian" or "none".
        noise_scale: Factor on the noise at the end of the ramp.
        noise_t_s: Time after programming of the 1/f noise, in seconds; t0 is part of it.
        gaussian_sd: Standard deviation of "gaussian", in units of the tile's largest weight.
        ramp_batches: Mini-batches in which the noise grows linearly to noise_scale; 0 means that it
            has its full size from the start.
        drop_connect: Probability that a weight is zero in a mini-batch.
        dropout: Rate of all dropout layers of the model during the training; None leaves them as
            they are.
        clip_type: How weights are clipped: "fixed" to |w| <= clip_value, "layer_gaussian" to
            clip_value standard deviations of the tile's weights, "column_gaussian" to clip_value
            standard deviations of each of its columns, "none" not at all.
        clip_value: The limit of the clipping, or a number of standard deviations; see clip_type.
        remap_every: Mini-batches between two re-scalings of the columns; 0 means never.
        learn_input_ranges: Whether input ranges are trained.
        input_range_decay: Rate at which a trained range shrinks while enough of its inputs lie
            inside.
        input_range_min_unclipped: Share of the inputs that must lie inside for that.
        input_range_init_batches: Batches whose running mean sets a range that starts from data.
        input_range_init_sd: Standard deviations of the inputs at which such a range is set.
        input_range_start: Which ranges start from data: "calibrated" means those that nothing has
            set yet (a calibration, a state dict or an earlier training is kept), "data" means all,
            again.
        learn_out_scales: Whether the second factor of the column scales is trained.
        ir_drop_in_training: Whether the forward pass of the training has IR drop.
        optimizer: "sgd" (with momentum) or "adamw".
        epochs: Passes over the training data.
        batch_size: Samples per mini-batch.
        learning_rate: Learning rate after the warm-up.
        momentum: Momentum of "sgd".
        weight_decay: Weight decay of the optimizer.
        grad_clip: Largest norm of the gradient; None means no limit.
        warmup_batches: Mini-batches at the start with learning_rate times warmup_factor.
        warmup_factor: Factor on the learning rate in these mini-batches.
        lr_schedule: The learning rate after the warm-up: "constant", or "linear" or "cosine" down
            to zero at the end of the run.
        lr_drop_epochs: Epochs from which on the learning rate is multiplied by lr_drop_factor, once
            more for each.
        lr_drop_factor: Factor of such a drop.
        lr_drop_on_stall: Whether the learning rate also drops by that factor each time that the
            validation is not better than the best one before.
        distill_weight: Share of the loss that follows the outputs of the teacher.
        distill_temperature: Temperature that softens both outputs in that share.
        ramp_share: The ramp as a share of the training's mini-batches; ramp_batches is 0 then.
        remap_share: Mini-batches between two re-scalings as such a share; remap_every is 0 then.
        warmup_share: The warm-up as such a share; warmup_batches is 0 then.
        faults: The device's faults in training: "none"; "fresh", drawn again for each mini-batch;
            or "chip", the faults of one known chip in all of them.
        fault_chip: The seed of that chip, as `program(model, seed)` takes it.
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
    ramp_share: float | None = None
    remap_share: float | None = None
    warmup_share: float | None = None
    faults: str = "none"
    fault_chip: int = 0

    def check(self) -> None:
        """Raise SpecError if a word is unknown, a number out of bounds, or a length given twice."""
        for name, words in (
            ("noise_type", NOISE_TYPES),
            ("clip_type", CLIP_TYPES),
            ("input_range_start", RANGE_STARTS),
            ("faults", FAULTS),
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
        known = self.fault_chip == 0 or self.faults == "chip"
        self.require(known, "fault_chip", '0 unless faults = "chip"')
        for count, name in SHARES.items():
            share = getattr(self, name)
            self.require(share is None or 0 < share <= 1, name, "None or (0, 1]")
            twice = share is not None and getattr(self, count) != 0
            self.require(not twice, count, f"0 beside {name} = {share!r}, which says the same")

    def change(self, *, why: str | Source, **values: Any) -> TrainingSpec:
        """Return a copy with other values; a count drops its share, and a share its count.

        Args:
            why: As in `Spec.change`.
            **values: New values as field=value.

        Returns:
            The copy.

        Raises:
            SpecError: As in `Spec.change`, or if a count and its share are both given.
        """
        for count, share in SHARES.items():
            if count in values and share not in values and getattr(self, share) is not None:
                values[share] = None
            elif values.get(share) is not None and count not in values:
                values[count] = 0
        return super().change(why=why, **values)

    def of_length(self, batches: int | None) -> TrainingSpec:
        """Return the recipe for a training of a known length, with counts in place of shares.

        Args:
            batches: Number of mini-batches of the training; None if it is not known.

        Returns:
            The recipe with its shares as numbers of mini-batches, rounded, and at least 1 between
            two re-scalings. A recipe without shares is returned as it is.

        Raises:
            SpecError: If the recipe has shares and the length is not known.
        """
        shares = {c: s for c, s in SHARES.items() if getattr(self, s) is not None}
        if not shares:
            return self
        if batches is None:
            given = ", ".join(f"{share} = {getattr(self, share)!r}" for share in shares.values())
            counts = ", ".join(f"{count}=..." for count in shares)
            raise SpecError(
                f"{given}: a share of the training's length, which is not known; pass the number "
                f"of mini-batches (train: max_batches=), or counts: recipe.override({counts})"
            )
        sources = dict(self.sources)
        values: dict[str, Any] = {}
        for count, name in shares.items():
            share, source = getattr(self, name), sources.pop(name)
            least = 1 if count == "remap_every" else 0
            values |= {count: max(least, round(share * batches)), name: None}
            where = f"{name} = {share!r} of {batches:,} mini-batches"
            sources[count] = Source(
                source.key, f"{source.where}: {where}" if source.where else where, source.how
            )
        return dataclasses.replace(self, sources=Table(sources), **values)
