"""Hardware-aware training: noise injection, ramp, clipping, learned ranges, distillation."""

from aimc_bridge.training.distillation import logits_of
from aimc_bridge.training.recipe import HWATraining
from aimc_bridge.training.schedule import default_optimizer, learning_rate_factor
from aimc_bridge.training.start import accelerate_state, train, train_digital
from aimc_bridge.training.weights import noisy_weight

__all__ = [
    "HWATraining",
    "accelerate_state",
    "default_optimizer",
    "learning_rate_factor",
    "logits_of",
    "noisy_weight",
    "train",
    "train_digital",
]
