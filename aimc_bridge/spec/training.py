"""A recipe of hardware-aware training."""

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
    """A recipe of hardware-aware training. Weights are in units of their column scale.

    noise_type       "pcm" (programming and 1/f noise, PCM_NOISE), "programming", "gaussian", "none"
    noise_scale      factor on the noise, reached after ramp_batches mini-batches, linearly
    noise_t_s        time after programming of the 1/f noise, seconds, counted as t0
    gaussian_sd      sd of "gaussian", in units of the tile's largest weight
    drop_connect     probability that a weight is zero in a mini-batch
    dropout          rate of all of the model's dropout layers meanwhile; None leaves them alone
    clip_type, clip_value    "fixed": |w| <= clip_value; "layer_gaussian": clip_value sd of the
                     tile's weights, "column_gaussian" of each of its columns'
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
