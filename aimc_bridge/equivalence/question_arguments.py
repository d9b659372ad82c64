"""Checks of the arguments of `crosscheck`, each by itself."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import nn

from aimc_bridge.arguments import choice, flag, iterable, texts
from aimc_bridge.equivalence import custom_law, device, layer, task
from aimc_bridge.equivalence.against_lightning import AgainstLightning
from aimc_bridge.equivalence.comparison import Comparison
from aimc_bridge.equivalence.custom_law import CustomLaw
from aimc_bridge.equivalence.lightning_side import LIGHTNING
from aimc_bridge.equivalence.measuring import AIHWKIT, COMPILED, NATIVE
from aimc_bridge.equivalence.report import LEVELS
from aimc_bridge.equivalence.two_engines import TwoEngines
from aimc_bridge.equivalence.two_presets import TwoPresets
from aimc_bridge.errors import CapabilityError, UsageError, shown
from aimc_bridge.physics.drift import check_known
from aimc_bridge.spec import Preset
from aimc_bridge.sweeps import MOST_CHIPS, Evaluate
from aimc_bridge.times import seconds

Times = Iterable[str | float] | str | float

_TIMES: dict[str, Sequence[str]] = {
    "device": device.TIMES,
    "layer": layer.TIMES,
    "task": task.TIMES,
}


def comparison_of(
    preset: Preset, against: Preset | None, physics: object | None, reference: str = AIHWKIT
) -> Comparison:
    """Return what is compared: two presets, a user's physics, or else two engines.

    Args:
        preset: The preset of the first side.
        against: The preset of the second side, or None.
        physics: A user's physics, or None.
        reference: "aihwkit" or "lightning", for two engines.

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


def native_engine_of(compiled: bool, device: str, physics: object | None) -> str:
    """Check how and where the native engine runs; return NATIVE or COMPILED.

    Args:
        compiled: Whether its compiled passes are used.
        device: "cpu" or "cuda".
        physics: A user's physics, or None.

    Raises:
        UsageError: If a value is not allowed, or does not fit the physics.
    """
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


def checked_levels(
    levels: Sequence[str] | str | None,
    comparison: Comparison,
    model: nn.Module | None,
    inputs: Any,
    evaluate: Evaluate | None,
) -> tuple[str, ...]:
    """Check the levels; None is all that can be done.

    Args:
        levels: The levels that were asked for; None is all that can be done.
        comparison: The two sides.
        model: The digital model, or None.
        inputs: Its inputs, or None.
        evaluate: The metric of the task level, or None.

    Raises:
        UsageError: If a level is unknown or lacks what it needs.
        CapabilityError: If a level was asked for and its device has no reference.

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


def checked_times(times: Times | None, level: str, presets: Sequence[Preset]) -> tuple[float, ...]:
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


def check_chips(chips: int) -> None:
    """Check the chips of each side of a layer.

    Args:
        chips: The number of chips.

    Raises:
        UsageError: If it is not allowed.
    """
    if not _is_count(chips, 4):
        raise UsageError(
            f"chips={shown(chips)}; allowed: an integer >= 4, or None for as many as are needed"
        )


def checked_task_chips(chips: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Check the chips of the task's first and second side.

    Args:
        chips: One number for both sides, two numbers, or None for a pilot's choice.

    Raises:
        UsageError: If the value is not allowed.
    """
    if chips is None:
        return None
    pair = tuple(chips) if isinstance(chips, Sequence) else (chips, chips)
    if len(pair) != 2 or not all(_is_count(count, 2) for count in pair):
        raise UsageError(
            f"task_chips={shown(chips)}; allowed: an integer >= 2, two of them (first side, second "
            "side), or None for as many as are needed"
        )
    return pair[0], pair[1]


def check_targets(targets: tuple[float, ...], samples: int, levels: tuple[str, ...]) -> None:
    """Check the targets of devices and the number of samples.

    Args:
        targets: Targets over g_max.
        samples: Devices per cell.
        levels: The levels that are compared.

    Raises:
        UsageError: If the value is not allowed.
    """
    device.check(targets, samples)
    if "device" in levels and not targets:
        raise UsageError("targets is empty; allowed: one or more numbers in [0, 1]")


def checked_margins(margins: Mapping[str, float] | None) -> dict[str, float]:
    """Check the margins of the device level and return all of them.

    Args:
        margins: Margins by name, as shares; None takes the usual ones.

    Raises:
        UsageError: If the value is not allowed.
    """
    chosen = {} if margins is None else margins
    known = isinstance(chosen, Mapping) and set(chosen) <= set(device.MARGINS)
    if not known or not all(isinstance(value, Real) and 0 < value < 1 for value in chosen.values()):
        raise UsageError(
            f"margins={shown(margins)}; allowed: shares between 0 and 1 of "
            f"{', '.join(device.MARGINS)}, such as {{'sd': 0.01}}"
        )
    return {**device.MARGINS, **chosen}


def description(function: object) -> list[Any]:
    """Return what tells a function from another between two runs.

    That is its name, and of a functools.partial the plain arguments and the types of the rest.

    Args:
        function: The function, or a functools.partial of one.
    """
    if isinstance(function, functools.partial):
        keywords = sorted(function.keywords.items())
        bound = [*function.args, *(part for pair in keywords for part in pair)]
        return [*description(function.func), *map(_plain, bound)]
    return [getattr(function, "__qualname__", type(function).__qualname__)]


def _plain(value: Any) -> Any:
    """Return a plain value as it is, and the name of the type of any other."""
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return type(value).__qualname__
