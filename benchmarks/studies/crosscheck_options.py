"""The options of a cross-check."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token

import presets
from aimc_bridge.equivalence.device import SAMPLES, TARGETS
from aimc_bridge.equivalence.measuring import AIHWKIT
from aimc_bridge.errors import UsageError
from aimc_bridge.spec import Preset
from aimc_bridge.times import seconds
from benchmarks import cli
from benchmarks.studies.settings import Settings

FREE = ("tasks", "preset", "against", "preset_data", "workers")
"""Arguments that may change when a cross-check is resumed; finished reports stay as they are."""

PRESETS = (presets.rasch2023, presets.scalar_drift, presets.hermes)


def _check_presets(_: Any, names: tuple[str, ...] | None) -> None:
    for name in names or ():
        cli.preset_of(name)


def _seconds(_: Any, tokens: Sequence[Token]) -> float:
    return seconds(tokens[0].value)


def _several(text: str, **options: Any) -> Parameter:
    return Parameter(consume_multiple=True, help=text, **options)


def _words(values: tuple[Any, ...]) -> str:
    return " ".join(map(str, values))


def _check_targets(_: Any, targets: tuple[float, ...]) -> None:
    if not targets or not all(0 <= target <= 1 for target in targets):
        given = " ".join(map(str, targets))
        raise UsageError(f"--targets {given}; allowed: one or more numbers in [0, 1]")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CrosscheckOptions:
    """The options of a cross-check: what is compared, and how thoroughly.

    An option that is None leaves the choice to `aimc_bridge.crosscheck`.

    Attributes:
        tasks: Names of the tasks, each once.
        preset: Presets under which the native engine is compared with aihwkit.
        against: Names of presets that are compared with the first preset on the native engine. None
            means scalar_drift if it is among the presets and rasch2023 is the first, else none
            (see `others`).
        reference: What the native engine is compared with under one preset. With "lightning" only
            layers are compared, and no two presets.
        budget: Wall time of all reports, in seconds.
    """

    tasks: Annotated[tuple[str, ...], Parameter(parse=False)] = ()
    profile: cli.Profile = "embedded"
    data_dir: cli.DataDir = None
    option: cli.Option = ()
    checkpoint: cli.Checkpoints = ()
    trained: cli.Trained = ()
    preset: cli.PresetNames = PRESETS
    against: Annotated[
        tuple[str, ...] | None,  # not Preset: cyclopts would make an option of each of its fields
        _several(
            "Presets compared with the first one natively; default: scalar_drift, if it and "
            "rasch2023 are among the presets.",
            validator=_check_presets,
        ),
    ] = None
    reference: Annotated[
        Literal["aihwkit", "lightning"],
        Parameter(
            help="What the native engine is compared with: aihwkit, or aihwkit-lightning, of "
            "layers alone."
        ),
    ] = "aihwkit"
    levels: Annotated[
        tuple[Literal["device", "layer", "task"], ...],
        _several("What is compared.", show_default=_words),
    ] = ("device", "layer")
    times: Annotated[
        cli.Times,
        Parameter(help="Times after programming, as 1s 1h 3600; default: those of each level."),
    ] = None
    targets: Annotated[
        tuple[float, ...],
        _several(
            "Conductances of devices over g_max, in [0, 1].",
            validator=_check_targets,
            show_default=_words,
        ),
    ] = TARGETS
    samples: Annotated[cli.Count, Parameter(help="Devices per cell.")] = SAMPLES
    chips: Annotated[
        int | None,
        Parameter(
            converter=cli.at_least(4),
            help="Chips of each side of every layer; default: as many as it needs.",
        ),
    ] = None
    task_chips: Annotated[
        tuple[int, ...] | None,
        _several("Chips of each side of the task level, or of the native side and of the other."),
    ] = None
    layers: Annotated[
        tuple[str, ...] | None, _several("Names or patterns; default: up to two of each kind.")
    ] = None
    subset: Annotated[cli.Count, Parameter(help="Test samples (words) of the task level.")] = 200
    metrics: Annotated[
        tuple[str, ...] | None,
        _several(
            "Of the task level: accuracy (the default; perplexity of lstm), error, loss, or "
            "probability, the mean of what the model gives the right class."
        ),
    ] = None
    budget: Annotated[
        float | None,
        Parameter(
            converter=_seconds,
            help="Wall time of all reports, as 20m, digital training not counted: what it pays "
            "for is done, and named.",
        ),
    ] = None
    compiled: cli.Compiled = False
    device: Annotated[cli.Device, Parameter(help="Where the native engine runs.")] = "cpu"
    workers: Annotated[cli.Count, Parameter(help="Processes.")] = 2
    seed: cli.Seed = 0

    @property
    def others(self) -> tuple[Preset, ...]:
        """The presets that are compared with the first preset on the native engine."""
        if self.against is not None:
            return tuple(cli.preset_of(name) for name in dict.fromkeys(self.against))
        chosen = self.preset if self.reference == AIHWKIT else ()
        usual = bool(chosen) and chosen[0] == presets.rasch2023 and presets.scalar_drift in chosen
        return (presets.scalar_drift,) if usual else ()

    def of_models(self) -> Settings:
        """Return the settings of the digital models, which are trained and stay on the CPU."""
        names = ("tasks", "profile", "data_dir", "option", "checkpoint", "trained", "seed")
        return Settings(**{name: getattr(self, name) for name in names})

    def claim(self) -> dict[str, Any]:
        """Return the record's arguments; all but `FREE` must be the same when it is resumed."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            **{name: list(v) if isinstance(v, tuple) else v for name, v in values.items()},
            "data_dir": None if self.data_dir is None else str(self.data_dir),
            "preset": [preset.name for preset in self.preset],
            "against": [preset.name for preset in self.others],
            "task_chips": one_or_two(self.task_chips),
            "preset_data": {p.name: p.identity() for p in (*self.preset, *self.others)},
        }


def one_or_two(numbers: Sequence[int] | None) -> int | list[int] | None:
    """Return one number for both sides, or a list with one number per side.

    Args:
        numbers: One or two numbers, or None.
    """
    if numbers is None:
        return None
    return numbers[0] if len(numbers) == 1 else list(numbers)
