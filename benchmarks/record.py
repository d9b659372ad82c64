"""Keep records of finished work and make pages from them: `python -m benchmarks.record COMMAND`.

add runs/NAME         keep a finished run, ablation, ladder, cross-check or speed measurement
keep runs/NAME wrn    keep the trained models of a run with the project
write                 write the tables and figures of all records into README.md and docs/
check                 list damaged records and pages that do not show the records; exit code 1 if
                      there are any
table KIND            print the table of all records of a kind
compare               print this project's results beside those that others published
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from aimc_bridge import commands
from aimc_bridge.errors import DataError
from benchmarks import cli
from benchmarks.report import (
    ablation,
    crosscheck,
    folders,
    ladder,
    pages,
    run,
    speed_tables,
    trained,
)
from benchmarks.report import record as records

HELP = "Keep results as records, and write the tables and figures of the pages from them."
PROGRAM = "python -m benchmarks.record"
app = commands.application("record", usage=f"Usage: {PROGRAM} COMMAND [OPTIONS]", help=HELP)

Replace = Annotated[bool, cli.flag("Take the place of what has this name.")]


@app.command
def add(
    folder: Annotated[Path, Parameter(help="The --out of a finished command.")],
    /,
    *,
    name: Annotated[
        str | None, Parameter(help="Name of the record; default: the folder's.")
    ] = None,
    replace: Replace = False,
    output: cli.Output = cli.Output(),
) -> None:
    """Keep what a finished folder holds as a record: a run, ablation, ladder, cross-check, speed.

    Names of all but runs begin with their kind: ablation-NAME. A ladder has a record per task.
    """
    finished = folders.records_of(folder, name)
    paths = [records.add(record, replace=replace, dry_run=output.dry_run) for record in finished]
    output.result("\n".join(map(str, paths)), {"files": paths})
    output.say(f"`{PROGRAM} write` puts what the pages show of it into the pages")


@app.command
def keep(
    folder: Annotated[Path, Parameter(help="The --out of a finished run.")],
    task: Annotated[str, Parameter(help="A task of the run, as wrn.")],
    /,
    *,
    replace: Replace = False,
    output: cli.Output = cli.Output(),
) -> None:
    """Keep the trained models of a run with the project, in half precision."""
    paths = trained.keep(folder, task, replace=replace, dry_run=output.dry_run)
    output.result("\n".join(map(str, paths)), {"files": paths})


@app.command
def write(*, output: cli.Output = cli.Output()) -> None:
    """Write all generated tables and figures into README.md and docs/."""
    if damaged := pages.damage():
        raise DataError(f"no page can be made: {'; '.join(damaged)}")
    if output.dry_run:
        problems = list(pages.problems())
        output.result("\n".join(problems) or "every page shows the records", {"problems": problems})
        return
    paths = pages.write()
    output.result("\n".join(map(str, paths)), {"files": paths})


@app.command
def check(*, output: cli.Output = cli.Output()) -> int:
    """Say which records are damaged and which pages do not show them; exit code 1 if any."""
    problems = list(pages.problems())
    for problem in problems:
        output.say(problem, style="red")
    text = f"{len(problems)} problems; `{PROGRAM} write` writes the pages"
    output.result(text if problems else "every page shows the records", {"problems": problems})
    return 1 if problems else 0


Recorded = Literal["run", "ablation", "ladder", "crosscheck", "speed"]
_TABLES: dict[Recorded, Callable[[], str]] = {
    "run": lambda: run.table(records.of_kind("run")),
    "ablation": ablation.section,
    "ladder": ladder.section,
    "crosscheck": lambda: crosscheck.counts_table(records.of_kind("crosscheck")),
    "speed": speed_tables.details,
}


@app.command
def table(
    kind: Annotated[Recorded, Parameter(help="Which records.")] = "run",
    /,
    *,
    output: cli.Output = cli.Output(),
) -> None:
    """Print the table of all records of a kind."""
    text = _TABLES[kind]()
    output.result(text or pages.NOTHING, {"kind": kind, "markdown": text})


@app.command
def compare(*, output: cli.Output = cli.Output()) -> None:
    """Print this project's results beside those that others published."""
    text = run.compare()
    output.result(text, {"markdown": text})


main = partial(commands.execute, app, program=PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
