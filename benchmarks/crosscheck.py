"""The cross-check of the two engines: `python -m benchmarks.crosscheck [wrn] [bert] [lstm]`.

For each preset, the native engine is compared with aihwkit: first on single devices, then on the
layers (and the metric) of each task's trained model. Two presets are also compared on the native
engine; these may differ. The folder `--out` gets summary.md (the overall verdict, one row per
report, what failed), crosscheck.json (the same as data) and one folder per report.

Exit codes: 0 if no row that should agree is different, 1 if one is, 2 bad usage, 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
import time
from functools import partial
from pathlib import Path

from aimc_bridge.engines import versions
from benchmarks import cli
from benchmarks.report import folders
from benchmarks.report.verdict import lines, verdict_of
from benchmarks.studies import folder
from benchmarks.studies.crosscheck import BUDGET, Crosscheck
from benchmarks.studies.crosscheck_options import FREE, CrosscheckOptions
from benchmarks.studies.settings import task_names


def run(
    *names: cli.TaskNames,
    options: CrosscheckOptions = CrosscheckOptions(),
    out: cli.Out = None,
    resume: cli.Resume = False,
    record: cli.Record = None,
    output: cli.Output = cli.Output(),
    words: cli.Words = (),
) -> int:
    """Compare the native engine with aihwkit, with statistics and one overall verdict.

    Exit code 1: a row that should agree is different. An undecided row fails nothing.
    """
    cli.check_alone("benchmarks.crosscheck")
    check = Crosscheck(
        dataclasses.replace(options, tasks=task_names(names, options.profile)), output
    )
    out = out or Path("runs") / f"crosscheck-{time.strftime('%Y%m%d-%H%M%S')}"
    resumed = folder.holds_a_run(out, resume)
    budget = check.budget(out / BUDGET if resumed else None)
    if output.dry_run:
        plan = check.plan(budget)
        output.result("\n".join([*plan, f"into {out}"]), {"plan": plan, "out": out})
        return 0
    if any(report.should_agree for report in check.reports()):
        versions.check()  # before any model is trained
    folder.enter(out, check.options.claim(), resume, free=FREE)
    with folder.resumable(out, output):
        command = shlex.join(["python", "-m", "benchmarks.crosscheck", *words])
        done = check.run(out, budget, command)
    if record is not None:
        folders.keep(out, record)
    verdict = verdict_of(done, len(done))
    text = "\n".join([f"summary: {out / 'summary.md'}", *lines(done, len(done))])
    data = {"verdict": verdict.word, "text": verdict.text, "reports": done, "out": out}
    output.result(text, data)
    return verdict.exit_code


app = cli.command("crosscheck", run, "[TASK ...]")
main = partial(cli.execute, app)


if __name__ == "__main__":
    sys.exit(main())
