"""The recipe for any model: a default whose lengths are shares of the training's length."""

from __future__ import annotations

import torch

from aimc_bridge.physics.laws import law_of
from aimc_bridge.spec import DeviceSpec, Preset, Source, TrainingSpec, V, cite

NAME = "default"
"""The name that stands for this recipe; a preset may have a recipe of its own under it."""

_PAGE = "docs/recipes.md"


def _paper(value: object, where: str = "SI A.1") -> V:
    """Return a value that the paper gives for all of its models."""
    return V(value, "rasch2023", where)


def _aihwkit(value: object) -> V:
    """Return a value of aihwkit's own preset for hardware-aware training."""
    return V(value, "aihwkit", "StandardHWATrainingPreset", "from code")


def _choice(value: object, what: str) -> V:
    """Return a value that this project chose; `what` is the reason."""
    return V(value, "choice", what)


_RECIPE = {
    "noise_scale": _choice(3.0, "three of the paper's five recipes have 3 (SI Table 3)"),
    "gaussian_sd": _choice(0.04, "not used: the noise is the device's own"),
    "ramp_batches": _choice(0, "ramp_share sets it"),
    "ramp_share": _choice(
        0.1, "full noise in nine tenths of the training; the paper counts batches, 1,000 to 40,000"
    ),
    "drop_connect": _choice(0.0, "two of the paper's five recipes have none (SI Table 3)"),
    "dropout": _choice(None, "the model keeps the rates that it was built with"),
    "clip_type": _choice(
        "column_gaussian", f"a short training gains more by it than by the paper's limit; {_PAGE}"
    ),
    "clip_value": _choice(2.5, "the plans of the real tasks have 2.25 and 2.5; docs/ablation.md"),
    "remap_every": _choice(0, "remap_share sets it"),
    "remap_share": _choice(
        0.05, "20 times: clipped columns use the whole conductance again; wrn16 of the paper: 80"
    ),
    "learn_input_ranges": _paper(True),
    "input_range_decay": _aihwkit(0.001),
    "input_range_min_unclipped": _aihwkit(0.95),
    "input_range_init_batches": _choice(
        20, "how many batches a range needs does not depend on the length; aihwkit's preset: 100"
    ),
    "input_range_init_sd": _aihwkit(3.0),
    "input_range_start": _choice("calibrated", "a calibration done before is not thrown away"),
    "learn_out_scales": _paper(True),
    "ir_drop_in_training": _paper(True, "SI Table 3: all but one of its recipes"),
    "optimizer": _choice("adamw", "its steps do not grow with the loss or the gradient"),
    "epochs": _choice(10, "override it: it is the length that all shares refer to"),
    "batch_size": _choice(32, "for loaders that are built from the recipe; `train` takes yours"),
    "learning_rate": _choice(
        2e-3, f"best on validation data of a Mixer, among 5e-4 to 2e-3; {_PAGE}"
    ),
    "momentum": _choice(0.9, "not used by adamw"),
    "weight_decay": _choice(0.0, "clipping bounds the weights already"),
    "grad_clip": _choice(1.0, "one odd batch or draw of noise does not throw the model off"),
    "warmup_batches": _choice(0, "warmup_share sets it"),
    "warmup_share": _choice(0.05, "AdamW's second moments settle before it takes full steps"),
    "warmup_factor": _choice(0.1, "steps of the warm-up move the trained weights little"),
    "lr_schedule": _choice("linear", "ends with the training, however long it is"),
    "lr_drop_epochs": _choice((), "the schedule falls by itself"),
    "lr_drop_factor": _choice(0.1, "not used: no drops"),
    "lr_drop_on_stall": _choice(False, "needs a validation, which not every training has"),
    "distill_weight": _choice(
        0.0, "works without a teacher and for every kind of output; see docs/recipes.md"
    ),
    "distill_temperature": _choice(1.0, "no distillation in this recipe"),
}


def recipe_for_any_model(preset: Preset) -> TrainingSpec:
    """Return the recipe for any model on a preset's device.

    Args:
        preset: The preset. Its device decides what kind of noise there is, and its t0 is the time
            of the read noise.
    """
    recipe = cite(
        TrainingSpec,
        noise_type=_choice("pcm", "asked of the device's law below"),
        noise_t_s=_paper(preset.pcm.t0_s, "SI A.1: 20 s, which is t0 of its device"),
        **_RECIPE,
    )
    kind, what = _noise_of(preset.pcm, recipe)
    return recipe.change(why=Source("choice", what), noise_type=kind)


def _noise_of(pcm: DeviceSpec, recipe: TrainingSpec) -> tuple[str, str]:
    """Return the kind of noise that training can inject for a device, and the reason.

    The device's law is asked what it injects, so that this holds for a user's own law too. An
    object with two functions is not asked: it knows tiles of weights, and its times are its own.
    """
    if law_of(pcm).by_tile:
        return "pcm", "all that the object does to weights until the recipe's time"
    g_us = torch.linspace(0.0, pcm.full_scale_us, 17)
    none, some = torch.zeros_like(g_us), torch.ones_like(g_us)
    clean = law_of(pcm).injected(g_us, pcm, recipe, 1.0, none, none)
    read = law_of(pcm).injected(g_us, pcm, recipe, 1.0, none, some)
    programmed = law_of(pcm).injected(g_us, pcm, recipe, 1.0, some, none)
    if not torch.equal(read, clean):
        return "pcm", "all the noise that the device has: of programming and of reading"
    if not torch.equal(programmed, clean):
        return "programming", "all the noise that the device has: its readings have none"
    return "none", "the device has no noise"
