"""Hardware-aware training: noise injection, ramp, clipping, learned ranges, distillation."""

from aimc_bridge.training.distillation import distilled, logits_of
from aimc_bridge.training.own_loop import hardware_aware
from aimc_bridge.training.schedule import HWATraining, default_optimizer, learning_rate_factor
from aimc_bridge.training.start import accelerate_state, train, train_digital
from aimc_bridge.training.weights import clip_and_remap, noisy_weight

__all__ = [
    "HWATraining",
    "accelerate_state",
    "clip_and_remap",
    "default_optimizer",
    "distilled",
    "hardware_aware",
    "learning_rate_factor",
    "logits_of",
    "noisy_weight",
    "train",
    "train_digital",
]
