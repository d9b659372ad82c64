"""Measure how often the intervals hold the truth: `python -m benchmarks.intervals`.

Answers are drawn with known effects of chips, test samples, trainings and digital models, and the
intervals at 95 % of the mean error and of A* are made of them as in every report. `--record NAME`
keeps the result for docs/a-star.md. Exit codes: 0 done, 1 where the tables claim to cover a
scenario, its intervals hold the truth in fewer than 93 % or more than 97 % of all data sets, 2 bad
usage, 130 interrupted.
"""

from __future__ import annotations

import shlex
import sys
from functools import partial
from typing import Annotated

from cyclopts import Parameter

from benchmarks import cli
from benchmarks.machine import hardware, versions
from benchmarks.report import coverage_page
from benchmarks.report import record as records
from benchmarks.studies.interval_coverage import SCENARIOS, coverage


def intervals(
    *,
    sets: Annotated[cli.Count, Parameter(help="Data sets of each scenario.")] = 2000,
    seed: cli.Seed = 0,
    record: cli.Record = None,
    output: cli.Output = cli.Output(),
    words: cli.Words = (),
) -> int:
    """Measure how often intervals at 95 % hold the truth, on answers with known effects.

    Exit code 1: not in 93 to 97 % of the data sets of a scenario that the tables claim to cover.
    """
    if output.dry_run:
        names = [scenario.name for scenario in SCENARIOS]
        output.result("\n".join(names), {"plan": names})
        return 0
    measured = []
    for index, scenario in enumerate(SCENARIOS):
        measured.append(coverage(scenario, sets, seed + index))
        output.say(f"{index + 1} of {len(SCENARIOS)}, {scenario.name}: {measured[-1]}")
    found = coverage_page.record_of(
        SCENARIOS,
        measured,
        name=record or "intervals",
        command=shlex.join(["python", "-m", "benchmarks.intervals", *words]),
        arguments={"sets": sets, "seed": seed},
        versions=versions(),
        hardware=hardware(),
    )
    if record is not None:
        output.say(str(records.add(found, replace=True)))
    outside = coverage_page.outside(found)
    output.result(coverage_page.tables(found), {"measured": found.to_dict(), "outside": outside})
    return 1 if outside else 0


app = cli.command("intervals", intervals)
main = partial(cli.execute, app)


if __name__ == "__main__":
    sys.exit(main())
