"""The question that a cross-check answers, checked before anything is done."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from aimc_bridge.arguments import flag, function, integer, iterable, number, texts
from aimc_bridge.arguments import module as module_of
from aimc_bridge.chip import restore
from aimc_bridge.conversion import convert
from aimc_bridge.converted import record_of
from aimc_bridge.equivalence import capture, lightning_side
from aimc_bridge.equivalence.against_lightning import AgainstLightning
from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.comparison import Comparison
from aimc_bridge.equivalence.measuring import Sampling
from aimc_bridge.equivalence.question_arguments import (
    Times,
    check_chips,
    check_targets,
    checked_levels,
    checked_margins,
    checked_task_chips,
    checked_times,
    comparison_of,
    description,
    native_engine_of,
)
from aimc_bridge.equivalence.report import LEVELS
from aimc_bridge.equivalence.store import digest
from aimc_bridge.equivalence.task import TaskModel
from aimc_bridge.errors import CapabilityError, UsageError
from aimc_bridge.spec import Preset
from aimc_bridge.sweeps import MOST_WORKERS, Evaluate
from aimc_bridge.times import seconds


@dataclass(frozen=True)
class TaskQuestion:
    """The models, metric and chips of the task level.

    Attributes:
        models: The model on both sides.
        evaluate: The metric, or metrics by name, of a model.
        batch: One batch of inputs, to predict what an evaluation costs.
        chips: Chips of the first and of the second side; None if a pilot decides.
    """

    models: tuple[TaskModel, TaskModel]
    evaluate: Evaluate
    batch: Any
    chips: tuple[int, int] | None


@dataclass(frozen=True)
class Question:
    """Everything that a cross-check is asked, checked and ready.

    Attributes:
        comparison: The two sides.
        levels: The levels to compare, in the order of `LEVELS`.
        times: Seconds after programming, ascending, by level.
        targets: Targets of devices over g_max; empty without the device level.
        samples: Devices per cell.
        margins: Margins of devices, as shares.
        layers: The layers to compare; empty without the layer level.
        chips: Chips of each side of every layer; None if a pilot decides.
        task: What is asked at the task level; None without it.
        native_engine: NATIVE or COMPILED.
        device: Where the native engine runs layers and task.
        seed: Decides all random numbers.
        budget: Seconds of wall time, or None.
        workers: How many processes work.
        progress: Whether a progress bar is shown.
        identity: Plain data that must be the same for an interrupted cross-check to go on.
    """

    comparison: Comparison
    levels: tuple[str, ...]
    times: Mapping[str, tuple[float, ...]]
    targets: tuple[float, ...]
    samples: int
    margins: Mapping[str, float]
    layers: tuple[Layer, ...]
    chips: int | None
    task: TaskQuestion | None
    native_engine: str
    device: str
    seed: int
    budget: float | None
    workers: int
    progress: bool
    identity: Mapping[str, Any]

    def sampling(self, chips: int) -> Sampling:
        """Return what a layer is measured with, for a number of chips."""
        times = self.times["layer"]
        return Sampling(
            times, chips, self.seed, native_engine=self.native_engine, device=self.device
        )


def ask(
    model: nn.Module | None,
    preset: Preset,
    inputs: Any,
    *,
    times: Times | None,
    chips: int | None,
    against: Preset | None,
    physics: object | None,
    reference: str,
    trained: nn.Module | None,
    evaluate: Evaluate | None,
    task_chips: int | Sequence[int] | None,
    seed: int,
    levels: Sequence[str] | str | None,
    layers: Sequence[str] | str | None,
    exclude: Sequence[str] | str,
    targets: Sequence[float],
    samples: int,
    margins: Mapping[str, float] | None,
    budget: str | float | None,
    compiled: bool,
    device: str,
    workers: int,
    progress: bool,
) -> Question:
    """Check the arguments of `crosscheck`, convert the model and find its layers.

    The arguments are those of `crosscheck`, without its defaults.

    Returns:
        The question.

    Raises:
        UsageError: If an argument is not understood, or two of them do not fit.
        ShapeError: If the model does not take the inputs.
        ConversionError: If the model has no analog layer.
        CapabilityError: If aihwkit cannot run the preset.
        VersionError: If there is no working aihwkit.
    """
    if model is not None:
        module_of("model (or None)", model)
    if trained is not None:
        module_of("trained (or None)", trained)
    if evaluate is not None:
        function("evaluate (or None)", evaluate, "a function of the model")
    seed, workers = integer("seed", seed), integer("workers", workers, least=1, most=MOST_WORKERS)
    progress = flag("progress", progress)
    exclude = texts("exclude", exclude)
    layers = layers if layers is None or isinstance(layers, str) else texts("layers", layers)
    comparison = comparison_of(preset, against, physics, reference)
    comparison.check(torch.device("cpu"), torch.float32)
    native_engine = native_engine_of(compiled, device, physics)
    if times is not None and isinstance(comparison, AgainstLightning):
        raise UsageError(
            f"times={times!r}: aihwkit-lightning has no chips that drift; leave times out"
        )
    chosen = checked_levels(levels, comparison, model, inputs, evaluate)
    times_of = {level: checked_times(times, level, comparison.presets) for level in LEVELS}
    if empty := [level for level in chosen if not times_of[level]]:
        raise UsageError(
            f"a device is known at none of the usual times of the {empty[0]} level; give times="
        )
    if chips is not None:
        check_chips(chips)
    pair = checked_task_chips(task_chips)
    listed = iterable("targets", targets, "one or more numbers in [0, 1]")
    all_targets = tuple(dict.fromkeys(number("targets", x, least=0, most=1) for x in listed))
    samples = integer("samples", samples, least=4, most=2**40)
    check_targets(all_targets, samples, chosen)
    all_margins = checked_margins(margins)
    budget_s = None if budget is None else seconds(budget)
    if trained is not None and (model is None or len(comparison.presets) > 1):
        raise UsageError(
            "trained is compared on two engines under one preset: give the digital model that "
            "it was converted from, and no `against`"
        )
    chosen_layers: tuple[Layer, ...] = ()
    task_question = None
    if model is not None and chosen != ("device",):
        batches = capture.batches_of(inputs)
        native = _natives(model, trained, comparison, batches, exclude)
        parameter = next(model.parameters())
        comparison.check(parameter.device, parameter.dtype)
        if "layer" in chosen:
            chosen_layers = _layers(model, native, comparison, batches, layers)
        if "task" in chosen and evaluate is not None:
            models = comparison.task_models(model, native, exclude, native_engine, device)
            task_question = TaskQuestion(models, evaluate, batches[0], pair)
    compared = model if trained is None else trained
    identity = {
        **{"preset": None, "against": None, "physics": None},
        **comparison.identity(),
        "model": digest({} if compared is None else compared.state_dict()),
        "inputs": digest(inputs),
        "levels": list(chosen),
        "times": {level: list(at) for level, at in times_of.items()},
        "targets": list(all_targets),
        "samples": samples,
        **({} if margins is None else {"margins": all_margins}),
        "chips": [chips, None if pair is None else pair[0] if pair[0] == pair[1] else list(pair)],
        "seed": seed,
        "native side": [native_engine, device],
        "evaluate": None if "task" not in chosen else description(evaluate),
        "exclude": exclude,
        "layers": layers if layers is None or isinstance(layers, str) else list(layers),
        "budget": budget_s,
    }
    return Question(
        comparison=comparison,
        levels=chosen,
        times=times_of,
        targets=all_targets if "device" in chosen else (),
        samples=samples,
        margins=all_margins,
        layers=chosen_layers,
        chips=chips,
        task=task_question,
        native_engine=native_engine,
        device=device,
        seed=seed,
        budget=budget_s,
        workers=workers,
        progress=progress,
        identity=identity,
    )


def _natives(
    model: nn.Module,
    trained: nn.Module | None,
    comparison: Comparison,
    batches: list[Any],
    exclude: Sequence[str] | str,
) -> list[nn.Module]:
    """Return the native conversions of a model, one per preset: calibrated, or as trained."""
    if trained is not None:
        return [_copy_of(trained, comparison.presets[0])]
    native = []
    for preset in comparison.presets:
        converted = convert(model, preset, exclude=exclude).eval()
        capture.calibrated(converted, batches)
        native.append(converted)
    return native


def _copy_of(trained: nn.Module, preset: Preset) -> nn.Module:
    """Return a copy of the trained model, restored to its clean weights.

    Raises:
        UsageError: If it is not of the native engine, or of another preset.
    """
    record = record_of(trained)
    if record.engine != "native" or record.preset != preset:
        raise UsageError(
            f"trained is on engine {record.engine!r}, preset {record.preset}; allowed: "
            f"converted to the native engine under {preset}"
        )
    native = copy.deepcopy(trained).eval()
    restore(native)
    return native


def _layers(
    model: nn.Module,
    native: list[nn.Module],
    comparison: Comparison,
    batches: list[Any],
    layers: Sequence[str] | str | None,
) -> tuple[Layer, ...]:
    """Return the layers that some names or patterns mean, or those of each kind."""
    # one of two presets may have no input ranges: take the layers of the other
    ranged = [preset.crossbar.input_range != "none" for preset in comparison.presets]
    base = native[ranged.index(True) if any(ranged) else 0]
    every = capture.layers_of(base, model, batches)
    if isinstance(comparison, AgainstLightning):
        every = _on_lightning(every)
    return tuple(capture.chosen(every, [layers] if isinstance(layers, str) else layers))


def _on_lightning(layers: list[Layer]) -> list[Layer]:
    """Return the layers that aihwkit-lightning has.

    Raises:
        CapabilityError: If it has none of them.

    Warns:
        UserWarning: If it lacks some; the warning says why.
    """
    reasons = {one.name: lightning_side.refusal(one.module) for one in layers}
    lacking = [f"{name} ({reason})" for name, reason in reasons.items() if reason]
    if not lacking:
        return layers
    text = f"aihwkit-lightning has no such layers: {', '.join(lacking)}"
    if len(lacking) == len(layers):
        raise CapabilityError(f"{text}; there is nothing to compare")
    warnings.warn(f"{text}; they are left out", UserWarning, stacklevel=5)
    return [one for one in layers if not reasons[one.name]]
