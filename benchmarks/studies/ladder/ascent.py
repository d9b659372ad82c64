"""Climb the ladders of several tasks in one folder, and write their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import presets
from aimc_bridge.commands import Output
from aimc_bridge.errors import UsageError
from aimc_bridge.spec import Preset
from aimc_bridge.times import label
from benchmarks import cli, tasks
from benchmarks.machine import hardware, versions
from benchmarks.report.html import build, page
from benchmarks.report.ladder_page import save
from benchmarks.report.record import write_run
from benchmarks.studies.base import Study
from benchmarks.studies.claims import DIRECTORY
from benchmarks.studies.ladder.climb import Climb
from benchmarks.studies.ladder.rungs import with_top
from benchmarks.studies.ladder.sides import SIDES
from benchmarks.studies.settings import DigitalEpochs, Settings
from benchmarks.studies.steps import Steps

if TYPE_CHECKING:
    import pandas as pd

_TWO = cli.at_least(2, "an interval needs two")


def _check_subset(_: Any, words: tuple[str, ...]) -> None:
    for word in words:
        count = word.rpartition("=")[2]
        if not count.isdecimal() or int(count) < 1:
            raise UsageError(f"--subset {count}; allowed: a whole number, 1 or more")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class LadderOptions:
    """The options of the ladder.

    Attributes:
        tasks: Names of the tasks, each once.
        preset: The last rung, after rasch2023 if it is another preset.
        subset: [TASK=]N words; a task without one uses its default number (see `subsets`).
    """

    tasks: Annotated[tuple[str, ...], Parameter(parse=False)] = ()
    profile: cli.Profile = "embedded"
    data_dir: cli.DataDir = None
    option: cli.Option = ()
    checkpoint: cli.Checkpoints = ()
    digital_epochs: DigitalEpochs = None
    preset: Annotated[
        cli.PresetName,
        Parameter(help="A preset on top of the ladder, as your own device; default: none."),
    ] = presets.rasch2023
    times: cli.Times = cli.TIMES
    chips: Annotated[int, Parameter(converter=_TWO, help="Chips per rung.")] = 5
    repeats: Annotated[
        int, Parameter(converter=_TWO, help="Repeats of the rows that show a flaw.")
    ] = 10
    subset: Annotated[
        tuple[str, ...],
        Parameter(
            validator=_check_subset,
            show_default=False,
            help="[TASK=]N: test samples (words); default: the task's own number for the ladder "
            "with real and paper, all with embedded.",
        ),
    ] = ()
    device: cli.Device = "cpu"
    seed: cli.Seed = 0

    def settings(self) -> Settings:
        """Return the settings of the tasks' studies."""
        return Settings(
            tasks=self.tasks,
            profile=self.profile,
            data_dir=self.data_dir,
            option=self.option,
            checkpoint=self.checkpoint,
            digital_epochs=self.digital_epochs,
            preset=self.preset,
            times=self.times,
            chips=self.chips,
            device=self.device,
            seed=self.seed,
        )

    def subsets(self) -> dict[str, int | None]:
        """Return task -> the number of test samples (words); None means all."""
        whole = self.profile == "embedded"
        usual = {name: None if whole else tasks.find(name).ladder.subset for name in self.tasks}
        named = cli.by_task("--subset", self.subset, self.tasks)
        return usual | {name: int(count) for name, count in named.items()}

    def claim(self) -> dict[str, Any]:
        """Return the record's arguments; they must be the same when a ladder is resumed."""
        settings = self.settings()
        paths = settings.checkpoints()
        return {
            "tasks": list(self.tasks),
            "profile": self.profile,
            "data_dir": None if self.data_dir is None else str(self.data_dir),
            "option": list(self.option),
            "checkpoint": {name: str(path) for name, path in paths.items()},
            "digital_epochs": self.digital_epochs,
            "times": list(settings.at),
            "chips": self.chips,
            "repeats": self.repeats,
            "subset": self.subsets(),
            "device": self.device,
            "seed": self.seed,
            "presets": {rung.key: _values(rung.preset) for rung in with_top(self.preset)},
        }


def _values(preset: Preset) -> dict[str, Any]:
    known = preset.identity()
    return {
        part: known[part] if part == "pcm" and "values" not in known[part] else spec.values()
        for part in Preset.PARTS
        for spec in [getattr(preset, part)]
    }


class Ascent:
    """The ladders of all tasks; results are written after each task.

    Attributes:
        options: The options.
        out: The folder of the results.
        output: Where notes go.
        climbs: The ladders, one per task.
    """

    def __init__(self, options: LadderOptions, out: Path, output: Output = Output()) -> None:
        """Check the options; nothing is written yet.

        Args:
            options: The options.
            out: The folder of the results.
            output: Where notes go.

        Raises:
            AimcError: If a name, the data or a checkpoint is wrong.
        """
        self.options, self.out, self.output = options, out, output
        settings, subsets = options.settings(), options.subsets()
        settings.check_times()
        checkpoints = settings.checkpoints()
        self.climbs = []
        for name, task in settings.make_tasks().items():
            if name in checkpoints:
                task.load(checkpoints[name])
            study = Study(task, settings, out / "work" / name, output)
            rungs = with_top(options.preset)
            self.climbs.append(Climb(study, subsets[name], options.repeats, rungs))

    def plan(self) -> list[str]:
        """Describe what will be measured: one line per task, then what all have in common."""
        options = self.options
        times = ", ".join(label(t_s) for t_s in options.settings().at)
        lines = [
            f"{climb.task.model_name} on {climb.subset or 'all'} test {climb.task.unit} of "
            f"{climb.task.dataset}"
            for climb in self.climbs
        ]
        return [
            *lines,
            f"{len(with_top(options.preset))} rungs, {options.chips} chips each, at {times}",
            f"{len(SIDES)} rows beside them, up to {options.repeats} repeats, at the last time",
            self.steps().estimate().text(),
            f"into {self.out}",
        ]

    def steps(self) -> Steps:
        """Return the parts that take time, over all tasks."""
        return Steps([step for climb in self.climbs for step in climb.steps()], self.output)

    def run(self, command: str) -> pd.DataFrame:
        """Climb all ladders; write results.csv, the tables, summary.md, figures and run.json.

        Args:
            command: The command line, for the record.

        Returns:
            The rows of results.csv.
        """
        import pandas as pd

        parts: list[pd.DataFrame] = []
        studies: dict[str, Any] = {}
        steps = self.steps()
        for climb in self.climbs:
            parts.append(climb.run(steps))
            studies[climb.task.name] = climb.facts
            self._write(parts, studies, command)
        return pd.concat(parts, ignore_index=True)

    def _write(
        self, parts: Sequence[pd.DataFrame], studies: Mapping[str, Any], command: str
    ) -> None:
        import pandas as pd

        about = {
            "kind": "ladder",
            "arguments": self.options.claim(),
            DIRECTORY: str(Path.cwd()),
            "command": command,
            "versions": versions(),
            "hardware": hardware(),
            "studies": studies,
        }
        results = pd.concat(parts, ignore_index=True)
        save(self.out, results, dict(studies), command)
        page.write(build.of_ladder(self.out, results, about), self.out / page.FILE)
        write_run(self.out, about)
