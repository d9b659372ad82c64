"""The spec of a recipe of hardware-aware training."""

from __future__ import annotations

from dataclasses import dataclass

from aimc_bridge.spec.base import Spec

NOISE_TYPES = ("none", "pcm", "programming", "gaussian")
CLIP_TYPES = ("none", "fixed", "layer_gaussian", "column_gaussian")
OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("constant", "linear", "cosine")
RANGE_STARTS = ("calibrated", "data")


@dataclass(frozen=True, kw_only=True)
class TrainingSpec(Spec):
    """A recipe of hardware-aware training.

    Weights are in units of their column's scale.

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
        """Raise SpecError if a word is unknown or a number is out of bounds."""
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
