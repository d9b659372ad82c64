"""What a study does, as the command line says it: one frozen object from there to the results."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import Parameter

import presets
from aimc_bridge.engines.base import engine as find_engine
from aimc_bridge.training import HWATraining
from benchmarks import cli, tasks
from benchmarks.tasks import Task
from benchmarks.tasks.data import data_dir
from benchmarks.tasks.plan import Plan, recipe_for

NOT_CLAIMED = ("checkpoint_every",)
"""Settings that may differ between a run and its continuation: they change no result."""

Phase = Literal["direct", "control", "hwa"]

_POSITIVE = cli.at_least(1)
_PER_CENT = cli.number(float, lambda value: 0 <= value <= 100, "0 to 100")
_EPOCHS = cli.number(float, lambda value: 0 < value < math.inf, "more than 0")
_OR_NEVER = cli.number(int, lambda value: bool(value >= 0), "0 (never) or more")


DigitalEpochs = Annotated[
    float | None, Parameter(converter=_EPOCHS, help="Epochs of digital training.")
]


def _count(text: str) -> Parameter:
    return Parameter(converter=_POSITIVE, help=text)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of a study; a command line with fewer options leaves the others as they are.

    An option that is None leaves a value of the task's plan as it is (`plan_of`).

    Attributes:
        tasks: Names of the tasks, each once.
        times: Seconds after programming; None stands for 1s 1h 1d 1y (`at`).
        phases: None stands for direct and hwa, or direct alone with a checkpoint (`measured`).
    """

    tasks: Annotated[tuple[str, ...], Parameter(parse=False)] = ()
    profile: cli.Profile = "embedded"
    data_dir: cli.DataDir = None
    option: cli.Option = ()
    checkpoint: cli.Checkpoints = ()
    trained: cli.Trained = ()
    preset: cli.PresetName = presets.rasch2023
    engine: Annotated[
        Literal["both", "native", "aihwkit"], Parameter(help="The engines that run the chips.")
    ] = "both"
    times: Annotated[
        cli.Times,
        Parameter(help="Times after programming, as 1s 1h '1 day' 3600; default: 1s 1h 1d 1y."),
    ] = None
    chips: Annotated[int | None, _count("Chips on the native engine; default: the task's.")] = None
    aihwkit_chips: Annotated[
        int | None, _count("Chips on the aihwkit engine; default: the task's.")
    ] = None
    subset: Annotated[
        int | None, _count("Test samples (words) on the native engine; default: the task's.")
    ] = None
    aihwkit_subset: Annotated[
        int | None, _count("Test samples (words) on the aihwkit engine; default: the task's.")
    ] = None
    phases: Annotated[
        tuple[Phase, ...] | None,
        Parameter(
            consume_multiple=True,
            help="direct conversion, control (the same training without noise), hwa; default: "
            "direct and hwa, or direct alone with --checkpoint.",
        ),
    ] = None
    calibration: Annotated[
        Literal["max", "percentile", "std"] | None, Parameter(help="How data set input ranges.")
    ] = None
    out_percentile: Annotated[
        float | None,
        Parameter(
            converter=_PER_CENT,
            help="Per cent of outputs that the ADC must hold: input ranges are raised for it; "
            "0 leaves them.",
        ),
    ] = None
    recalibrate: Annotated[
        bool, cli.flag("Set the input ranges again after hardware-aware training.")
    ] = False
    hwa_batches: Annotated[
        int | None, _count("Mini-batches of hardware-aware training and of its control.")
    ] = None
    digital_epochs: DigitalEpochs = None
    recipe: Annotated[
        str | None, Parameter(help="A recipe of the preset, as wrn16; default: the task's own.")
    ] = None
    changes: cli.Set = ()
    validate_every: Annotated[
        int | None, _count("Mini-batches between two looks at validation data.")
    ] = None
    keep: Annotated[
        Literal["last", "best"] | None,
        Parameter(help="Weights of a training that are kept: the last, or validation's best."),
    ] = None
    reestimate_bn: Annotated[
        int,
        Parameter(
            converter=_OR_NEVER,
            help="Batches of training data that batch-norm statistics are re-estimated from, on "
            "each chip at each time; 0: never.",
        ),
    ] = 0
    accumulate: Annotated[int, _count("Mini-batches per step of the optimizer.")] = 1
    precision: cli.Precision = "fp32"
    compile: Annotated[bool, cli.flag("torch.compile the trainings.")] = False
    compiled: cli.Compiled = False
    checkpoint_every: Annotated[int, _count("Mini-batches between two checkpoints.")] = 500
    device: cli.Device = "cpu"
    seed: cli.Seed = 0
    seeds: cli.Seeds = 1

    # --- what the options stand for ---

    @property
    def at(self) -> tuple[float, ...]:
        """The times, in seconds after programming."""
        return cli.TIMES if self.times is None else self.times

    @property
    def measured(self) -> tuple[str, ...]:
        """The phases."""
        if self.phases is None:
            return ("direct",) if self.checkpoint and not self.trained else ("direct", "hwa")
        return tuple(dict.fromkeys(self.phases))

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines, the native one first."""
        return ("native", "aihwkit") if self.engine == "both" else (self.engine,)

    @property
    def place(self) -> torch.device:
        """The device."""
        return torch.device(self.device)

    def checkpoints(self) -> dict[str, Path]:
        """Task -> its digital model, for tasks whose digital model is given."""
        return cli.paths_of("--checkpoint", self.checkpoint, self.tasks)

    def trained_files(self) -> dict[str, Path]:
        """Task -> its hardware-aware model, for tasks whose hardware-aware model is given."""
        return cli.paths_of("--trained", self.trained, self.tasks)

    def plan_of(self, name: str) -> Plan:
        """Return how much of a task is run: the profile's plan with the options' changes."""
        changes = {
            "chips": self.chips,
            "slow_chips": self.aihwkit_chips,
            "subset": self.subset,
            "slow_subset": self.aihwkit_subset,
            "hwa_batches": self.hwa_batches,
            "method": self.calibration,
            "validate_every": self.validate_every,
            "keep": self.keep,
            "digital_epochs": self.digital_epochs,
            "recalibrate": self.recalibrate or None,
        }
        known: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
        if self.out_percentile is not None:
            known["out_percentile"] = self.out_percentile or None
        return dataclasses.replace(tasks.find(name).plan_of(self.profile), **known)

    def recipe_of(self, task: Task) -> HWATraining:
        """Return what a task is trained by: the preset's recipe with the plan's and --set's
        changes."""
        plan = self.plan_of(task.name)
        changes = cli.changes_of(self.changes)
        return recipe_for(self.preset, self.recipe or task.recipe, plan, changes)

    def training_options(self) -> dict[str, Any]:
        """Return the arguments of `train` that say how trainings run on this machine."""
        return {
            "cpu": self.device == "cpu",
            "mixed_precision": "bf16" if self.precision == "bf16" else "no",
            "compile": self.compile,
            "gradient_accumulation_steps": self.accumulate,
            "checkpoint_every": self.checkpoint_every,
        }

    def claim(self) -> dict[str, Any]:
        """Return what must be the same for a run to be continued: the record's `arguments`."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in NOT_CLAIMED:
            del values[name]
        return {
            **{key: str(v) if isinstance(v, Path) else v for key, v in values.items()},
            "preset": self.preset.name,
            "times": list(self.at),
            "phases": list(self.measured),
            "preset_data": self.preset.to_dict(),
        }

    # --- checks ---

    def check_engines(self) -> None:
        """Raise a CapabilityError if an engine cannot run the preset on the device."""
        for name in self.engines:
            find_engine(name).check(self.preset, self.place, torch.float32)

    def make_tasks(self) -> dict[str, Task]:
        """Make the tasks, each with those of the options that it has.

        Raises:
            UsageError: For an unknown task or option.
            DataError: For data that are missing or damaged.
        """
        data_dir(self.data_dir)
        options = tasks.parse_options(list(self.option))
        return {
            name: tasks.get(
                name, self.profile, self.data_dir, **_options_of(name, options, self.tasks)
            )
            for name in self.tasks
        }


def task_names(words: Sequence[str], profile: str) -> tuple[str, ...]:
    """Return the names of the tasks that words name, each once.

    Args:
        words: TASK words, as `tasks.find` takes them; none are all tasks that have the profile.
        profile: The profile that they are run with.

    Raises:
        UsageError: For a task that does not exist, or that does not have the profile.
    """
    kinds = [tasks.find(word) for word in words]
    for kind in kinds:
        kind.plan_of(profile)
    return tuple(dict.fromkeys(kind.name for kind in kinds)) or tasks.names(profile)


def set_threads(threads: int | None, profile: str) -> None:
    """Set the number of torch's threads.

    Args:
        threads: How many; None: 1 for the embedded profile, else torch's own number.
        profile: The profile. A model as small as the embedded ones spends a second thread on
            waiting for it.
    """
    threads = threads or (1 if profile == "embedded" else None)
    if threads:
        torch.set_num_threads(threads)


def _options_of(name: str, options: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Options that this task has; one that no named task has is left in, for its error."""
    known = {n: set(tasks.find(n).option_types) for n in names}
    return {
        key: value
        for key, value in options.items()
        if key in known[name] or not any(key in keys for keys in known.values())
    }
