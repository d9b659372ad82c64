"""Measure what simplified physics costs: `python -m benchmarks.ladder [wrn] [bert] [lstm]`.

The ladder leads from the replication's physics to the paper's, one change at a time, with the same
chips on every rung. Beside it, the flaws of the replication's evaluation are measured one by one.
The folder `--out` gets results.csv, ladder.csv, layers.csv, flaws.csv, less-one.csv, summary.md,
figures and run.json. Exit codes: 0 done, 1 a digital training diverged, 2 bad usage, 130
interrupted.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks import cli
from benchmarks.report import terminal
from benchmarks.studies import folder
from benchmarks.studies.ladder.ascent import Ascent, LadderOptions
from benchmarks.studies.settings import set_threads, task_names
from benchmarks.studies.whole_run import as_table


def run(
    *names: cli.TaskNames,
    options: LadderOptions = LadderOptions(),
    out: cli.Out = None,
    resume: cli.Resume = False,
    threads: cli.Threads = None,
    output: cli.Output = cli.Output(),
    words: cli.Words = (),
) -> None:
    """Measure what each simplification of the replication's physics costs, one at a time."""
    cli.check_alone("benchmarks.ladder")
    out = out or Path("runs") / f"ladder-{options.profile}-{time.strftime('%Y%m%d-%H%M%S')}"
    ascent = Ascent(
        dataclasses.replace(options, tasks=task_names(names, options.profile)), out, output
    )
    folder.holds_a_run(out, resume)
    if output.dry_run:
        output.result("\n".join(ascent.plan()), {"plan": ascent.plan(), "out": out})
        return
    set_threads(threads, options.profile)
    folder.enter(out, ascent.options.claim(), resume)
    with folder.resumable(out, output):
        rows = ascent.run(shlex.join(["python", "-m", "benchmarks.ladder", *words]))
    text = (out / "summary.md").read_text(encoding="utf-8")
    output.result(terminal.of_summary(text, out), {"out": out, **as_table(rows)})


app = cli.command("ladder", run, "[TASK ...]")
main = partial(cli.execute, app)


if __name__ == "__main__":
    sys.exit(main())
