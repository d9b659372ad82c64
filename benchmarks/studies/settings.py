"""The options of a study: one frozen object, from the command line to the results."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import Parameter

import presets
from aimc_bridge.engines.base import engine as find_engine
from aimc_bridge.errors import AimcError, UsageError, VersionError
from aimc_bridge.physics.drift import check_known
from aimc_bridge.physics.injection import injected
from aimc_bridge.physics.laws import law_of
from aimc_bridge.shards import shard_of, share_of
from aimc_bridge.sweep_files import Share
from aimc_bridge.times import label
from aimc_bridge.training import HWATraining
from benchmarks import cli, tasks
from benchmarks.tasks import Task
from benchmarks.tasks.data import data_dir
from benchmarks.tasks.plan import Plan, recipe_for

NOT_CLAIMED = ("checkpoint_every",)
"""Settings that may differ when a run is resumed, because they change no result."""

Phase = Literal["direct", "finetune", "control", "hwa"]

_PER_CENT = cli.number(float, lambda value: 0 <= value <= 100, "0 to 100")
_EPOCHS = cli.number(float, lambda value: 0 < value < math.inf, "more than 0")
_OR_NEVER = cli.number(int, lambda value: bool(value >= 0), "0 (never) or more")


DigitalEpochs = Annotated[
    float | None, Parameter(converter=_EPOCHS, help="Epochs of digital training.")
]


def _check_shard(_: Any, shard: str | None) -> None:
    if shard is not None:
        shard_of(shard)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of a study; commands that have fewer of them keep the other defaults.

    An option that is None leaves the value in the task's plan as it is (see `plan_of`).

    Attributes:
        tasks: Names of the tasks, each once.
        times: Seconds after programming; None means 1s 1h 1d 1y (see `at`).
        phases: None means direct and hwa, or direct alone if a checkpoint is given (see
            `measured`).
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
    chips: Annotated[int | None, cli.count("Chips on the native engine; default: the task's.")] = (
        None
    )
    aihwkit_chips: Annotated[
        int | None, cli.count("Chips on the aihwkit engine; default: the task's.")
    ] = None
    subset: Annotated[
        int | None, cli.count("Test samples (words) on the native engine; default: the task's.")
    ] = None
    aihwkit_subset: Annotated[
        int | None, cli.count("Test samples (words) on the aihwkit engine; default: the task's.")
    ] = None
    phases: Annotated[
        tuple[Phase, ...] | None,
        Parameter(
            consume_multiple=True,
            help="direct conversion; finetune: the digital model trained on without a chip; "
            "control: the hardware-aware training with noise and drop-connect off; hwa. Default: "
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
        int | None,
        cli.count("Mini-batches of hardware-aware training, control and fine-tuning."),
    ] = None
    digital_epochs: DigitalEpochs = None
    recipe: Annotated[
        str | None,
        Parameter(help="One of the preset, as wrn16, or default, for any model; else the task's."),
    ] = None
    changes: cli.Set = ()
    validate_every: Annotated[
        int | None, cli.count("Mini-batches between two looks at validation data.")
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
    accumulate: Annotated[int, cli.count("Mini-batches per step of the optimizer.")] = 1
    precision: cli.Precision = "fp32"
    compile: Annotated[bool, cli.flag("torch.compile the trainings.")] = False
    compiled: cli.Compiled = False
    checkpoint_every: Annotated[int, cli.count("Mini-batches between two checkpoints.")] = 500
    device: cli.Device = "cpu"
    seed: cli.Seed = 0
    seeds: cli.Seeds = 1
    shard: Annotated[
        str | None,
        Parameter(
            validator=_check_shard,
            help="Measure one part of the chips alone, as 3/25; benchmarks.report --merge joins "
            "all parts.",
        ),
    ] = None

    # --- what the options mean ---

    @property
    def at(self) -> tuple[float, ...]:
        """The times, in seconds after programming."""
        return cli.TIMES if self.times is None else self.times

    @property
    def measured(self) -> tuple[str, ...]:
        """The phases that are measured, each once."""
        if self.phases is None:
            return ("direct",) if self.checkpoint and not self.trained else ("direct", "hwa")
        return tuple(dict.fromkeys(self.phases))

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that run the chips; the native engine comes first."""
        return ("native", "aihwkit") if self.engine == "both" else (self.engine,)

    def share(self, chips: int) -> Share | None:
        """Return the part of a number of chips that is measured; None means all of them.

        Args:
            chips: The number of chips of a sweep.
        """
        return None if self.shard is None else share_of(self.shard, chips)

    @property
    def place(self) -> torch.device:
        """The device that models are trained and chips are simulated on."""
        return torch.device(self.device)

    def checkpoints(self) -> dict[str, Path]:
        """Return task -> path of its digital model, for the tasks of --checkpoint."""
        return cli.checkpoints_of(self.checkpoint, self.tasks)

    def trained_files(self) -> dict[str, Path]:
        """Return task -> path of its hardware-aware model, for the tasks of --trained."""
        return cli.paths_of("--trained", self.trained, self.tasks)

    def plan_of(self, name: str) -> Plan:
        """Return how much of a task is run: the plan of the profile, changed by the options.

        Args:
            name: The name of the task.
        """
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
        options = _options_of(name, tasks.parse_options(list(self.option)), self.tasks or (name,))
        plan = tasks.find(name).plan_of(self.profile, options)
        return dataclasses.replace(plan, **known)

    def recipe_of(self, task: Task) -> HWATraining:
        """Return the recipe of a task: the preset's, with the changes of the plan and of --set.

        Args:
            task: The task.
        """
        plan = self.plan_of(task.name)
        changes = cli.changes_of(self.changes)
        return recipe_for(self.preset, self.recipe or task.recipe, plan, changes)

    def training_options(self) -> dict[str, Any]:
        """Return the arguments of `train` that decide how a training runs on this machine."""
        return {
            "cpu": self.device == "cpu",
            "mixed_precision": "bf16" if self.precision == "bf16" else "no",
            "compile": self.compile,
            "gradient_accumulation_steps": self.accumulate,
            "checkpoint_every": self.checkpoint_every,
        }

    def claim(self) -> dict[str, Any]:
        """Return the record's arguments; they must be the same when a run is resumed."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in NOT_CLAIMED:
            del values[name]
        return {
            **{key: str(v) if isinstance(v, Path) else v for key, v in values.items()},
            "preset": str(self.preset),
            "times": list(self.at),
            "phases": list(self.measured),
            "preset_data": self.preset.identity(),
            "shard": None if self.shard is None else "{}/{}".format(*shard_of(self.shard)),
        }

    # --- checks ---

    def check_engines(self) -> None:
        """Check that every engine is installed and can run the preset on the device, at the times.

        Raises:
            VersionError: If aihwkit is missing, or does not work with the installed torch.
            CapabilityError: If an engine cannot run the preset.
            UsageError: If the memory device is not known at a time.
        """
        for name in self.engines:
            try:
                engine = find_engine(name)
            except VersionError as error:
                raise VersionError(f"{error}; or leave it out: --engine native") from None
            engine.check(self.preset, self.place, torch.float32)
        self.check_times()

    def check_times(self) -> None:
        """Check that the memory device of the preset is known at the times.

        Raises:
            UsageError: If it is not.
        """
        for t_s in self.at:
            _known(f"--times {label(t_s)}", functools.partial(check_known, t_s, self.preset.pcm))

    def check_recipe(self, recipe: HWATraining) -> None:
        """Check that the memory device is known at the time of a recipe's noise.

        Args:
            recipe: The recipe of a training under the preset.

        Raises:
            UsageError: If it is not.
        """
        pcm, spec = self.preset.pcm, recipe.spec
        if law_of(pcm).by_tile or spec.noise_type != "pcm":
            return
        one = torch.ones(1)
        _known(
            f"the recipe's noise_t_s = {spec.noise_t_s:g} s (--set noise_t_s=SECONDS)",
            lambda: injected(one, 1.0, pcm, spec, 1.0, one, one),
        )

    def make_tasks(self) -> dict[str, Task]:
        """Make the tasks, each with the options of --option that it knows.

        Raises:
            UsageError: If a task or an option is unknown.
            DataError: If data are missing or damaged.
        """
        data_dir(self.data_dir)
        options = tasks.parse_options(list(self.option))
        return {
            name: tasks.get(
                name, self.profile, self.data_dir, **_options_of(name, options, self.tasks)
            )
            for name in self.tasks
        }


def _known(what: str, ask: Callable[[], object]) -> None:
    """Ask a device about a time; its error then says where the time is from."""
    try:
        ask()
    except AimcError as problem:
        raise UsageError(f"{what}: {problem}") from problem


def task_names(words: Sequence[str], profile: str) -> tuple[str, ...]:
    """Return the names of tasks, each once.

    Args:
        words: The TASK words, as `tasks.find` takes them. If there are none, all tasks that have
            the profile are meant, except for those that are run only by name.
        profile: The profile that the tasks are run with.

    Raises:
        UsageError: If a task does not exist or does not have the profile.
    """
    kinds = [tasks.find(word) for word in words]
    for kind in kinds:
        kind.plan_of(profile)
    if kinds:
        return tuple(dict.fromkeys(kind.name for kind in kinds))
    return tuple(name for name in tasks.names(profile) if not tasks.find(name).only_by_name)


def set_threads(threads: int | None, profile: str) -> None:
    """Set the number of torch's threads.

    Args:
        threads: How many; None means 1 for the embedded profile, else torch's own number.
        profile: The profile. The embedded models are so small that a second thread costs more time
            than it saves.
    """
    threads = threads or (1 if profile == "embedded" else None)
    if threads:
        torch.set_num_threads(threads)


def _options_of(name: str, options: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return the options that a task has, and those that no task has: they must be an error."""
    known = {n: set(tasks.find(n).option_types) for n in names}
    return {
        key: value
        for key, value in options.items()
        if key in known[name] or not any(key in keys for keys in known.values())
    }
