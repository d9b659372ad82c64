"""Plans: how much of a task each profile, and the ladder, runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aimc_bridge.spec import Preset
from aimc_bridge.training import HWATraining

DEFAULT = "default"  # the recipe for any model
LENGTHS = ("batch_size", "epochs")
SMALL = "embedded benchmark: small model, a minute of training"
CLIPPED = (
    "two CPU cores: a shorter training than the paper's, columns clipped: a short training gains "
    "more by weights that all conduct well"
)

ON_A_GPU = (
    "one GPU, minutes: a shorter training than the paper's, columns clipped: a short training "
    "gains more by weights that all conduct well"
)


@dataclass(frozen=True)
class Plan:
    """The amount of work that one profile of a task runs.

    Attributes:
        why: The reason for `overrides`; it becomes their source in the records.
        overrides: Fields of the preset's training recipe that differ from it.
        hwa_batches: Mini-batches of hardware-aware training; None runs all epochs of the recipe.
        validate_every: Mini-batches between two looks at the validation split; None looks after
            each epoch.
        validation_subset: Validation samples (lstm: words) of each look; None takes all.
        keep: Which weights of the training are used: the "last", or the "best" on validation data.
            "last" is the default, because with one chip and a part of the data chance decides which
            of two steps of a falling learning rate looks better.
        digital_epochs: Epochs of the digital training; None takes the task's own number.
        calibration: Batches that set the input ranges before direct conversion.
        method: How they set them: "percentile" (99.9 %), "std" (3 standard deviations), "max". Each
            real task has the method that is best of the three on its validation data.
        out_percentile: Percentage of outputs that the ADC must hold: input ranges are raised until
            it does. None does not raise them.
        recalibrate: Whether data set the input ranges again after hardware-aware training. When
            clipped columns are scaled again, the outputs that the ADC must hold become larger.
        subset: Test samples (lstm: words) on the native engine; None takes all.
        chips: Chips on the native engine.
        slow_subset: Test samples on the aihwkit engine, which is far slower on large models.
        slow_chips: Chips on the aihwkit engine.
    """

    why: str = ""
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


@dataclass(frozen=True)
class LadderSizes:
    """The amount of work that the ladder of simplifications runs of a task.

    Attributes:
        subset: Test samples (lstm: words) of the profiles on real data; None takes all. Embedded
            data are small and always taken whole.
        probe_samples: Validation samples that the inputs of the layers are taken from.
        probe_inputs: Inputs that are kept of each layer.
        redrawn: Samples between two draws, for the flaw that draws a new chip for each batch; None
            is the whole batch of an evaluation.
    """

    subset: int | None = 300
    probe_samples: int = 16
    probe_inputs: int = 128
    redrawn: int | None = None


def recipe_for(preset: Preset, name: str, plan: Plan, changes: dict[str, Any]) -> HWATraining:
    """Return a preset's training recipe with the changes of the plan and of the user.

    Args:
        preset: The chip. If it has no recipe of that name (an ideal or a Hermes device), the recipe
            of the paper's standard model is taken, and the recipe's name says so.
        name: The recipe, such as "wrn16"; of the plan, "default" takes batch size and epochs alone.
        plan: The plan, for its `overrides`.
        changes: Fields that the user changes.

    Returns:
        The recipe.

    Raises:
        UnknownNameError: If the paper's standard model has no such recipe either.
        SpecError: For a field that a recipe does not have, or a value out of its range.
    """
    overrides = plan.overrides
    if name == DEFAULT:
        overrides = {key: overrides[key] for key in LENGTHS if key in overrides}
    elif name not in preset.training:
        import presets

        preset = presets.get("rasch2023")
    recipe = HWATraining.for_(preset, name)
    if overrides:
        recipe = recipe.override(why=plan.why, **overrides)
    return recipe.override(why="command line", **changes) if changes else recipe
