"""The question that a cross-check answers, checked before anything is done."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import nn

from aimc_bridge.arguments import choice, flag, function, integer, iterable, number, texts
from aimc_bridge.arguments import module as module_of
from aimc_bridge.chip import restore
from aimc_bridge.conversion import convert
from aimc_bridge.converted import record_of
from aimc_bridge.equivalence import capture, custom_law, device, layer, lightning_side, task
from aimc_bridge.equivalence.against_lightning import AgainstLightning
from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.comparison import Comparison
from aimc_bridge.equivalence.custom_law import CustomLaw
from aimc_bridge.equivalence.lightning_side import LIGHTNING
from aimc_bridge.equivalence.measuring import AIHWKIT, COMPILED, NATIVE, Sampling
from aimc_bridge.equivalence.report import LEVELS
from aimc_bridge.equivalence.store import digest
from aimc_bridge.equivalence.task import TaskModel
from aimc_bridge.equivalence.two_engines import TwoEngines
from aimc_bridge.equivalence.two_presets import TwoPresets
from aimc_bridge.errors import CapabilityError, UsageError, shown
from aimc_bridge.physics.drift import check_known
from aimc_bridge.spec import Preset
from aimc_bridge.sweeps import MOST_CHIPS, MOST_WORKERS, Evaluate
from aimc_bridge.times import seconds

Times = Iterable[str | float] | str | float

_TIMES: dict[str, Sequence[str]] = {
    "device": device.TIMES,
    "layer": layer.TIMES,
    "task": task.TIMES,
}


@dataclass(frozen=True)
class TaskQuestion:
    """What is asked at the task level.

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
    native_engine = _native_engine(compiled, device, physics)
    if times is not None and isinstance(comparison, AgainstLightning):
        raise UsageError(
            f"times={times!r}: aihwkit-lightning has no chips that drift; leave times out"
        )
    chosen = _levels(levels, comparison, model, inputs, evaluate)
    times_of = {level: _times(times, level, comparison.presets) for level in LEVELS}
    if empty := [level for level in chosen if not times_of[level]]:
        raise UsageError(
            f"a device is known at none of the usual times of the {empty[0]} level; give times="
        )
    if chips is not None:
        _check_chips(chips)
    pair = _task_chips(task_chips)
    listed = iterable("targets", targets, "one or more numbers in [0, 1]")
    all_targets = tuple(dict.fromkeys(number("targets", x, least=0, most=1) for x in listed))
    samples = integer("samples", samples, least=4, most=2**40)
    _check_targets(all_targets, samples, chosen)
    all_margins = _margins(margins)
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
        "evaluate": None if "task" not in chosen else _description(evaluate),
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


def comparison_of(
    preset: Preset, against: Preset | None, physics: object | None, reference: str = AIHWKIT
) -> Comparison:
    """Return what is compared: two presets, a user's physics, or else two engines.

    Raises:
        UsageError: If a preset is none, if the physics lacks a function, if two questions are asked
            at once, or if the reference is unknown.
    """
    choice("reference", reference, (AIHWKIT, LIGHTNING))
    if reference == LIGHTNING and (against is not None or physics is not None):
        raise UsageError(
            f"reference={LIGHTNING!r} compares the native engine under one preset; leave against "
            "and physics out"
        )
    for name, value in (("preset", preset), ("against", against)):
        if (value is not None or name == "preset") and not isinstance(value, Preset):
            raise UsageError(
                f"{name} is {shown(value)}; allowed: a Preset, such as presets.get('rasch2023')"
            )
    if against is not None and physics is not None:
        raise UsageError("against and physics are two questions; give one of them")
    if against is not None:
        return TwoPresets(preset, against)
    if physics is not None:
        return CustomLaw(custom_law.checked(physics), preset)
    return AgainstLightning(preset) if reference == LIGHTNING else TwoEngines(preset)


def _native_engine(compiled: bool, device: str, physics: object | None) -> str:
    """Check how and where the native engine runs; return NATIVE or COMPILED."""
    flag("compiled", compiled)
    choice("device", device, ("cpu", "cuda"))
    if physics is not None and (compiled or device != "cpu"):
        raise UsageError(
            "compiled and device are of the native engine; physics is compared without it, on the "
            "CPU: leave both out"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device='cuda': torch sees no CUDA device here; leave it at 'cpu'")
    return COMPILED if compiled else NATIVE


def _levels(
    levels: Sequence[str] | str | None,
    comparison: Comparison,
    model: nn.Module | None,
    inputs: Any,
    evaluate: Evaluate | None,
) -> tuple[str, ...]:
    """Check the levels; None is all that can be done.

    Warns:
        UserWarning: If the device has no reference, so that the device level, and the oracle's
            factor at the layer level, are left out.
    """
    lacks = _missing_reference(comparison)
    if levels is None:
        devices = lacks is None or model is None
        can = {"device": devices, "layer": model is not None, "task": evaluate is not None}
        chosen = [level for level in comparison.levels if can[level]]
    else:
        chosen = texts("levels", levels)
    unknown = [name for name in chosen if name not in LEVELS]
    if unknown or not chosen:
        raise UsageError(f"levels={shown(levels)}; allowed: some of {', '.join(LEVELS)}")
    if missing := [name for name in chosen if name not in comparison.levels]:
        raise UsageError(
            f"{' against '.join(comparison.names)} has no {missing[0]} level; "
            f"allowed: levels={comparison.levels}"
        )
    if "task" in chosen and evaluate is None:
        raise UsageError("the task level needs evaluate=: model -> a number, or a dict of them")
    if model is None and chosen != ["device"]:
        raise UsageError(f"levels {', '.join(chosen)} need a model; without: levels='device'")
    if model is not None and inputs is None and chosen != ["device"]:
        raise UsageError("a model needs inputs: one batch as it takes them, or a list of those")
    if lacks is not None:
        if "device" in chosen or isinstance(comparison, CustomLaw):
            raise lacks
        warnings.warn(
            f"{lacks}: the device level and the oracle's factor are left out",
            UserWarning,
            stacklevel=4,
        )
    return tuple(name for name in LEVELS if name in chosen)


def _missing_reference(comparison: Comparison) -> CapabilityError | None:
    """Return why nothing can tell whether the first side's devices are right, or None."""
    try:
        comparison.device_reference()
    except CapabilityError as problem:
        return problem
    return None


def _times(times: Times | None, level: str, presets: Sequence[Preset]) -> tuple[float, ...]:
    """Check times and return them in seconds, ascending.

    Args:
        times: The times; None takes the usual ones of a level, as far as all devices are known at
            them.
        level: The level.
        presets: The presets.

    Raises:
        UsageError: If there are no times, or if a device is not known at one of them.
    """
    if times is None:
        usual = (seconds(t) for t in _TIMES[level])
        return tuple(t_s for t_s in usual if _are_known(t_s, presets))
    single = isinstance(times, str | Real)
    listed = (times,) if single else tuple(iterable("times", times, "times=('1s', '1y')"))
    if not listed:
        raise UsageError("no times; allowed: one or more, such as times=('1s', '1y')")
    in_seconds = tuple(sorted({seconds(t) for t in listed}))
    for t_s in in_seconds:
        for preset in presets:
            check_known(t_s, preset.pcm)
    return in_seconds


def _are_known(t_s: float, presets: Sequence[Preset]) -> bool:
    """Return whether the devices of all presets are known at a time."""
    try:
        for preset in presets:
            check_known(t_s, preset.pcm)
    except UsageError:
        return False
    return True


def _is_count(count: object, least: int) -> bool:
    """Return whether something is a whole number, and large enough."""
    return isinstance(count, int) and not isinstance(count, bool) and least <= count <= MOST_CHIPS


def _check_chips(chips: int) -> None:
    """Check the chips of each side of a layer."""
    if not _is_count(chips, 4):
        raise UsageError(
            f"chips={shown(chips)}; allowed: an integer >= 4, or None for as many as are needed"
        )


def _task_chips(chips: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Check the chips of the task's first and second side."""
    if chips is None:
        return None
    pair = tuple(chips) if isinstance(chips, Sequence) else (chips, chips)
    if len(pair) != 2 or not all(_is_count(count, 2) for count in pair):
        raise UsageError(
            f"task_chips={shown(chips)}; allowed: an integer >= 2, two of them (first side, second "
            "side), or None for as many as are needed"
        )
    return pair[0], pair[1]


def _check_targets(targets: tuple[float, ...], samples: int, levels: tuple[str, ...]) -> None:
    """Check the targets of devices and the number of samples."""
    device.check(targets, samples)
    if "device" in levels and not targets:
        raise UsageError("targets is empty; allowed: one or more numbers in [0, 1]")


def _margins(margins: Mapping[str, float] | None) -> dict[str, float]:
    """Check the margins of the device level and return all of them."""
    chosen = {} if margins is None else margins
    known = isinstance(chosen, Mapping) and set(chosen) <= set(device.MARGINS)
    if not known or not all(isinstance(value, Real) and 0 < value < 1 for value in chosen.values()):
        raise UsageError(
            f"margins={shown(margins)}; allowed: shares between 0 and 1 of "
            f"{', '.join(device.MARGINS)}, such as {{'sd': 0.01}}"
        )
    return {**device.MARGINS, **chosen}


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


def _description(function: object) -> list[Any]:
    """Return what tells a function from another between two runs.

    That is its name, and of a functools.partial the plain arguments and the types of the rest.
    """
    if isinstance(function, functools.partial):
        keywords = sorted(function.keywords.items())
        bound = [*function.args, *(part for pair in keywords for part in pair)]
        return [*_description(function.func), *map(_plain, bound)]
    return [getattr(function, "__qualname__", type(function).__qualname__)]


def _plain(value: Any) -> Any:
    """Return a plain value as it is, and the name of the type of any other."""
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return type(value).__qualname__
