"""What a cross-check is asked: everything checked before anything is done."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from aimc_bridge.chip import restore
from aimc_bridge.conversion import convert
from aimc_bridge.converted import record_of
from aimc_bridge.engines.base import engine as find_engine
from aimc_bridge.equivalence import capture, custom, device, layer, task
from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.report import LEVELS
from aimc_bridge.equivalence.side import COMPILED, NATIVE
from aimc_bridge.equivalence.store import digest
from aimc_bridge.errors import UsageError
from aimc_bridge.spec import Preset
from aimc_bridge.sweeps import Evaluate
from aimc_bridge.times import seconds

Times = Iterable[str | float] | str | float


class Question:
    """What a cross-check is asked, each part checked when it is given."""

    def __init__(
        self,
        preset: Preset,
        against: Preset | None,
        physics: object | None,
        evaluate: Evaluate | None,
        seed: int,
        samples: int,
        workers: int,
        progress: bool,
    ) -> None:
        for name, given in (("preset", preset), ("against", against)):
            if given is not None and not isinstance(given, Preset):
                raise UsageError(
                    f"{name} is {given!r}; allowed: a Preset, such as presets.get('rasch2023')"
                )
        if against is not None and physics is not None:
            raise UsageError("against and physics are two questions; give one of them")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise UsageError(f"seed={seed!r}; allowed: an integer")
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise UsageError(f"workers={workers!r}; allowed: an integer >= 1")
        self.preset, self.against, self.evaluate = preset, against, evaluate
        self.physics = None if physics is None else custom.checked(physics)
        self.seed, self.samples, self.workers, self.progress = seed, samples, workers, progress
        if against is None:
            cpu = torch.device("cpu")
            find_engine("aihwkit").check(preset, cpu, torch.float32)

    def ours(self, compiled: bool, where: str = "cpu") -> None:
        """How the native side runs, and where."""
        if not isinstance(compiled, bool):
            raise UsageError(f"compiled={compiled!r}; allowed: True or False")
        if compiled and self.physics is not None:
            raise UsageError("compiled is of the native engine; physics is compared without it")
        self.native_side = COMPILED if compiled else NATIVE
        if where not in ("cpu", "cuda"):
            raise UsageError(f"device={where!r}; allowed: 'cpu', 'cuda'")
        if where == "cuda" and not torch.cuda.is_available():
            raise UsageError("device='cuda': torch sees no CUDA device here; leave it at 'cpu'")
        if where != "cpu" and self.physics is not None:
            raise UsageError("device is of the native engine; physics is compared on the CPU")
        self.where = where

    def levels(self, levels: Sequence[str] | str | None, model: Any, inputs: Any) -> None:
        """Which levels; None is all that can be done."""
        if levels is None:
            chosen = ["device"] + (["layer"] if model is not None else [])
            chosen += ["task"] if self.evaluate is not None and self.physics is None else []
        else:
            chosen = [levels] if isinstance(levels, str) else list(levels)
        unknown = [name for name in chosen if name not in LEVELS]
        if unknown or not chosen:
            raise UsageError(f"levels={levels!r}; allowed: some of {', '.join(LEVELS)}")
        if "task" in chosen and self.physics is not None:
            raise UsageError(
                "physics has no task level: it holds weights only; levels=('device', 'layer')"
            )
        if "task" in chosen and self.evaluate is None:
            raise UsageError("the task level needs evaluate=: model -> a number, or a dict of them")
        if model is None and chosen != ["device"]:
            raise UsageError(f"levels {', '.join(chosen)} need a model; without: levels='device'")
        if model is not None and inputs is None and chosen != ["device"]:
            raise UsageError("a model needs inputs: one batch as it takes them, or a list of those")
        self.chosen = [name for name in LEVELS if name in chosen]

    def numbers(
        self,
        times: Times | None,
        chips: int | None,
        task_chips: int | Sequence[int] | None,
        targets: Sequence[float],
        budget: str | float | None,
    ) -> None:
        """Times of each level, chips, device targets and the wall time."""
        usual: dict[str, Sequence[str]] = {
            "device": device.TIMES,
            "layer": layer.TIMES,
            "task": task.TIMES,
        }
        self.times: dict[str, tuple[float, ...]] = {}
        for level in LEVELS:
            given = usual[level] if times is None else times
            listed = (given,) if isinstance(given, str | float | int) else tuple(given)
            self.times[level] = tuple(sorted({seconds(t) for t in listed}))
        if not self.times["device"]:
            raise UsageError("no times; allowed: one or more, such as times=('1s', '1y')")
        if chips is not None and not _whole(chips, 4):
            raise UsageError(
                f"chips={chips!r}; allowed: an integer >= 4, or None for as many as are needed"
            )
        self.chips, self.task_chips = chips, _sides(task_chips)
        self.targets = list(dict.fromkeys(float(x) for x in targets))
        device.check(self.targets, self.samples)
        if "device" in self.chosen and not self.targets:
            raise UsageError("targets is empty; allowed: one or more numbers in [0, 1]")
        self.budget = None if budget is None else seconds(budget)

    def model(
        self,
        model: nn.Module | None,
        trained: nn.Module | None,
        inputs: Any,
        exclude: Sequence[str] | str,
        wanted: Sequence[str] | str | None,
    ) -> None:
        """The digital model, its calibrated native conversions, and the layers to compare."""
        self.layers: list[Layer] = []
        self.digital, self.exclude = model, exclude
        if trained is not None and (model is None or self.against is not None):
            raise UsageError(
                "trained is compared on two engines under one preset: give the digital model that "
                "it was converted from, and no `against`"
            )
        if model is None or self.chosen == ["device"]:
            return
        self.batches = capture.batches_of(inputs)
        presets = [self.preset] + ([self.against] if self.against is not None else [])
        self.native = []
        for preset in presets:
            if trained is not None:
                native = self._copy_of(trained)
            else:
                native = convert(model, preset, exclude=exclude).eval()
                capture.calibrated(native, self.batches)
            self.native.append(native)
        if self.against is None:
            parameter = next(model.parameters())
            find_engine("aihwkit").check(self.preset, parameter.device, parameter.dtype)
        if "layer" in self.chosen:
            # input ranges of the preset that has some
            ranged = [p.crossbar.input_range != "none" for p in presets]
            base = self.native[ranged.index(True) if any(ranged) else 0]
            every = capture.layers_of(base, model, self.batches)
            names = [wanted] if isinstance(wanted, str) else wanted
            self.layers = capture.chosen(every, names)

    def _copy_of(self, trained: nn.Module) -> nn.Module:
        """The trained model, clean.

        Raises:  UsageError where it is not of the native engine or of another preset.
        """
        record = record_of(trained)
        if record.engine != "native" or record.preset != self.preset:
            raise UsageError(
                f"trained is on engine {record.engine!r}, preset {record.preset}; allowed: "
                f"converted to the native engine under {self.preset}"
            )
        native = copy.deepcopy(trained).eval()
        restore(native)
        return native

    def claim(
        self, model: nn.Module | None, inputs: Any, exclude: Any, layers: Any
    ) -> dict[str, Any]:
        """What must be the same for a cross-check to go on."""
        state = {} if model is None else model.state_dict()
        return {
            "preset": self.preset.to_dict(),
            "against": None if self.against is None else self.against.to_dict(),
            "physics": None if self.physics is None else custom.name_of(self.physics),
            "model": digest(state),
            "inputs": digest(inputs),
            "levels": self.chosen,
            "times": {name: list(at) for name, at in self.times.items()},
            "targets": self.targets,
            "samples": self.samples,
            "chips": [self.chips, _as_given(self.task_chips)],
            "seed": self.seed,
            "native side": [self.native_side, self.where],
            "evaluate": None if "task" not in self.chosen else _told(self.evaluate),
            "exclude": [exclude] if isinstance(exclude, str) else list(exclude),
            "layers": layers if layers is None or isinstance(layers, str) else list(layers),
            "budget": self.budget,
        }


def _whole(count: object, fewest: int) -> bool:
    return isinstance(count, int) and not isinstance(count, bool) and count >= fewest


def _sides(chips: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Chips of the task's first and second side."""
    if chips is None:
        return None
    pair = tuple(chips) if isinstance(chips, Sequence) else (chips, chips)
    if len(pair) != 2 or not all(_whole(count, 2) for count in pair):
        raise UsageError(
            f"task_chips={chips!r}; allowed: an integer >= 2, two of them (first side, second "
            "side), or None for as many as are needed"
        )
    return pair[0], pair[1]


def _as_given(sides: tuple[int, int] | None) -> int | list[int] | None:
    return None if sides is None else sides[0] if sides[0] == sides[1] else list(sides)


def _told(function: object) -> list[Any]:
    """What tells a function from another between two runs: its name, and of a partial the plain
    arguments and the types of the rest."""
    if isinstance(function, functools.partial):
        keywords = sorted(function.keywords.items())
        bound = [*function.args, *(part for pair in keywords for part in pair)]
        return [*_told(function.func), *map(_plain, bound)]
    return [getattr(function, "__qualname__", type(function).__qualname__)]


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return type(value).__qualname__
