"""The results of a whole run, from the joined files of its shards.

Nothing is measured, so neither the model nor the data nor the file of a task is needed: what the
shards have in common is in their records, and chips and answers are in the joined files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge.errors import DataError
from benchmarks.option_words import paths_of
from benchmarks.report import run as report
from benchmarks.report import tables
from benchmarks.report.answer_intervals import changes, intervals
from benchmarks.report.answers import Files, Kept
from benchmarks.report.record import read_run
from benchmarks.studies import finished_parts, held_out
from benchmarks.studies.claims import DIRECTORY, Claim
from benchmarks.studies.phases import answers_of, sweep_name

if TYPE_CHECKING:
    import pandas as pd

_GROUP = ["dataset", "phase", "engine", "preset"]


def write(into: Path, part: Path, claim: Claim, command: str) -> None:
    """Write the results of the whole run, as `WholeRun.measure` does.

    Args:
        into: The folder of the whole run, with the joined files of all shards.
        part: The folder of a finished shard.
        claim: The claim of the whole run.
        command: The command line of the whole run, for the record.

    Raises:
        DataError: If the shard is not finished, or if a file lacks chips.
    """
    import pandas as pd

    about = read_run(part)
    rows = report.results_of(report.record_of(part, str(part)))
    parts: list[pd.DataFrame] = []
    studies: dict[str, Any] = {}
    arguments = claim.arguments
    given = paths_of("--checkpoint", arguments.get("checkpoint") or (), claim.tasks)
    for name in claim.tasks:
        facts = about["studies"][name]
        trainings = list(_trainings(into, name, facts, rows, arguments))
        answers = [training.answers for training in trainings]
        for training in trainings:
            table = training.table
            several = {"training_seed": training.seed} if len(trainings) > 1 else {}
            parts.append(table.assign(**several))
        own, times = name not in given, arguments["times"]
        stars = intervals(answers, times, facts["chance_error"], own_digital=own)
        studies[name] = {
            **facts,
            "intervals": stars,
            "changes": changes(answers, times, own_digital=own),
        }
    whole = {
        **about,
        "arguments": arguments,
        DIRECTORY: str(claim.directory),
        "command": command,
        "studies": studies,
    }
    report.write(into, pd.concat(parts, ignore_index=True), whole)


@dataclass(frozen=True)
class _Training:
    """The rows of one training, and the files of answers behind them.

    Attributes:
        seed: The seed of the training.
        table: The rows; their columns are `benchmarks.report.tables.COLUMNS`.
        answers: The files of answers.
    """

    seed: int
    table: pd.DataFrame
    answers: Files


def _trainings(
    into: Path,
    name: str,
    facts: Mapping[str, Any],
    rows: pd.DataFrame,
    arguments: Mapping[str, Any],
) -> Iterator[_Training]:
    """Yield the trainings of a task; the rows of a shard say what was measured, in which order."""
    seeds = facts.get("training_seeds", [arguments["seed"]])
    rows = rows[(rows.model == facts["model"]) & rows.dataset.isin(list(facts["samples"]))]
    for seed in seeds:
        place = into / "work" / (name if seed == arguments["seed"] else f"{name}-seed-{seed}")
        own = rows if len(seeds) == 1 else rows[rows.training_seed == seed]
        yield _training(place, seed, facts, own, arguments["times"])


def _training(
    place: Path, seed: int, facts: Mapping[str, Any], rows: pd.DataFrame, times: list[float]
) -> _Training:
    """Read the rows of a training from the joined files in its folder."""
    import pandas as pd

    parts: list[pd.DataFrame] = []
    answers: dict[tuple[str, str, str], Kept | None] = {}
    groups = rows[_GROUP].fillna({"preset": ""}).drop_duplicates()
    for data, phase, engine, preset in groups.itertuples(index=False, name=None):
        subset = data.removeprefix(facts["dataset"]).removeprefix(", subset of ")
        digital = place / f"digital-{subset or 'all'}.json"
        if phase == "digital":
            values = held_out.known_values(digital)
            if values is None:
                raise _in_no_shard(digital)
            table = pd.DataFrame(
                [{"metric": k, "value": v, "seed": seed} for k, v in values.items()]
            ).assign(t_inference=math.nan, chip=math.nan)
        else:
            path = place / sweep_name(phase, engine, subset)
            table = _chips(path, times)
            answers[phase, engine, data], _ = answers_of(digital, path, table)
        named = {"model": facts["model"], "dataset": data, "phase": phase, "engine": engine}
        parts.append(table.assign(**named, preset=preset))
    table = pd.concat(parts, ignore_index=True)[tables.COLUMNS].astype({"chip": "Int64"})
    return _Training(seed, table, answers)


def _chips(path: Path, times: list[float]) -> pd.DataFrame:
    """Return the rows of a joined sweep; raise DataError if it is missing or lacks some."""
    if not path.exists():
        raise _in_no_shard(path)
    rows = finished_parts.rows_of(path)
    table = rows[rows.t_inference.isin(times)]
    if table.empty or set(table.t_inference) != set(times):
        raise DataError(f"{path}: the shards lack some of the times; go on with them (--resume)")
    return table.sort_values(["metric", "chip", "t_inference"], ignore_index=True)


def _in_no_shard(path: Path) -> DataError:
    """Return the error for results that no shard has; a file of one is missed before."""
    return DataError(
        f"{Path('work', path.parent.name, path.name)} is missing in every shard; go on with the "
        "shards (--resume), which measures it again"
    )
