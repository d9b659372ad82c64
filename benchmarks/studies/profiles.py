"""How much of each benchmark a profile runs: hardware-aware training, subsets, chips."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aimc_bridge.errors import SpecError
from aimc_bridge.spec import Preset
from aimc_bridge.training import HWATraining


@dataclass(frozen=True)
class Plan:
    """One task of a profile.

    overrides    fields of the preset's recipe that differ, with `why`
    hwa_batches  mini-batches of hardware-aware training; None is all epochs of the recipe
    validate_every, validation_subset    mini-batches between two looks at the validation split, and
                 how many of its samples (words); None is each epoch, and all
    keep         which weights of the training: "last", or validation's "best". Last, for one chip
                 and a part of the data rank two steps of a decaying rate by chance
    digital_epochs    of the digital training; None is the task's own number
    calibration  batches that set the input ranges before direct conversion
    method       how they do: "percentile" (99.9 %), "std" (3 standard deviations), "max"; for each
                 real task the best of the three on its validation data
    out_percentile  of outputs that the ADC must hold, for which ranges are raised; None does not
    recalibrate  whether data set the input ranges anew after hardware-aware training: scaling
                 clipped columns anew makes the outputs that the ADC must hold larger
    subset       test samples (words) on the native engine; None is all
    chips        chips on the native engine
    slow_subset, slow_chips    the same on the aihwkit engine, far slower on large models
    """

    why: str
    overrides: dict[str, Any] = field(default_factory=dict)
    hwa_batches: int | None = None
    validate_every: int | None = None
    validation_subset: int | None = None
    keep: str = "last"
    digital_epochs: float | None = None
    calibration: int = 8
    method: str = "percentile"
    out_percentile: float | None = None
    recalibrate: bool = False
    subset: int | None = None
    chips: int = 25
    slow_subset: int | None = None
    slow_chips: int = 1


_SMALL = "embedded benchmark: small model, a minute of training"
_CLIP = (
    "two CPU cores: a shorter training than the paper's, columns clipped: a short training gains "
    "more by weights that all conduct well"
)
_TAUGHT = f"{_CLIP}, and by a teacher (docs/ablation.md)"

PLANS: dict[tuple[str, str], Plan] = {
    ("embedded", "wrn"): Plan(
        why=_SMALL,
        overrides={
            "batch_size": 50,
            "ramp_batches": 20,
            "epochs": 100,
            "learning_rate": 0.1,
            "warmup_batches": 0,
            "lr_drop_epochs": (9,),
            "remap_every": 50,
            "input_range_init_batches": 10,
        },
        hwa_batches=250,
        validate_every=50,
        chips=10,
        slow_chips=3,
    ),
    ("embedded", "bert"): Plan(
        why=_SMALL,
        overrides={
            "batch_size": 32,
            "ramp_batches": 20,
            "epochs": 100,
            "learning_rate": 2e-4,
            "input_range_init_batches": 10,
            "optimizer": "adamw",
            "weight_decay": 0.0,
        },
        hwa_batches=80,
        validate_every=40,
        chips=5,
        slow_chips=3,
    ),
    ("embedded", "lstm"): Plan(
        why=_SMALL,
        overrides={
            "batch_size": 20,
            "ramp_batches": 20,
            "epochs": 100,
            "learning_rate": 1e-3,
            "noise_scale": 1.5,
            "dropout": 0.0,
            "lr_drop_on_stall": False,
            "input_range_init_batches": 10,
            "optimizer": "adamw",
            "weight_decay": 0.0,
        },
        hwa_batches=200,
        validate_every=100,
        validation_subset=2000,
        chips=5,
        slow_chips=3,
    ),
    ("real", "wrn"): Plan(
        why=_CLIP,
        overrides={
            "batch_size": 64,
            "ramp_batches": 100,
            "epochs": 100,
            "learning_rate": 5e-3,
            "warmup_batches": 0,
            "lr_drop_epochs": (),
            "clip_type": "column_gaussian",
            "clip_value": 2.5,
            "remap_every": 100,
            "input_range_init_batches": 20,
        },
        hwa_batches=400,
        validate_every=200,
        validation_subset=500,
        subset=1000,
        chips=5,
        slow_subset=64,
    ),
    ("real", "bert"): Plan(
        why=_CLIP,
        overrides={
            "batch_size": 32,
            "ramp_batches": 100,
            "epochs": 100,
            "learning_rate": 1e-4,
            "lr_schedule": "linear",
            "distill_weight": 0.9,
            "distill_temperature": 2.0,
            "clip_type": "column_gaussian",
            "clip_value": 2.5,
            "remap_every": 100,
            "input_range_init_batches": 20,
            "optimizer": "adamw",
            "weight_decay": 0.0,
        },
        hwa_batches=1855,
        validate_every=600,
        validation_subset=500,
        chips=5,
        slow_subset=64,
    ),
    ("real", "lstm"): Plan(
        why=_TAUGHT,
        overrides={
            "batch_size": 20,
            "ramp_batches": 50,
            "epochs": 100,
            "learning_rate": 1e-3,
            "lr_schedule": "linear",
            "ir_drop_in_training": False,
            "noise_scale": 1.0,
            "dropout": 0.0,
            "distill_weight": 0.9,
            "distill_temperature": 1.0,
            "clip_type": "column_gaussian",
            "clip_value": 2.25,
            "remap_every": 20,
            "lr_drop_on_stall": False,
            "input_range_init_batches": 20,
            "optimizer": "adamw",
            "weight_decay": 0.0,
        },
        method="std",
        out_percentile=99.99,
        recalibrate=True,
        hwa_batches=1000,
        validate_every=250,
        validation_subset=5000,
        subset=10000,
        chips=5,
        slow_subset=700,
    ),
    ("paper", "wrn"): Plan(why="", slow_subset=64),
    ("paper", "bert"): Plan(why="", slow_subset=32),
    ("paper", "lstm"): Plan(why="", slow_subset=700),
}


def recipe_for(preset: Preset, name: str, plan: Plan, changes: dict[str, Any]) -> HWATraining:
    """The preset's recipe of that name with the plan's and the user's changes.

    Where the preset has no recipe of that name (an ideal or a Hermes device), the paper's standard
    model lends its own, and the recipe's name says so.
    """
    if name not in preset.training:
        import presets

        preset = presets.get("rasch2023")
    recipe = HWATraining.for_(preset, name)
    if plan.overrides:
        recipe = recipe.override(why=plan.why, **plan.overrides)
    return recipe.override(why="command line", **changes) if changes else recipe


def parse_changes(pairs: list[str], known: tuple[str, ...]) -> dict[str, Any]:
    """`--set` words KEY=VALUE; values are JSON, or text where they are not.

    Raises:  SpecError for a word without "=" or a field that a recipe does not have.
    """
    import json

    changes: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or key not in known:
            raise SpecError(f"--set {pair!r}; allowed: FIELD=VALUE, fields: {', '.join(known)}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        changes[key] = tuple(value) if isinstance(value, list) else value
    return changes
