"""Measure what each technique of a recipe is worth: `python -m benchmarks.ablation bert`.

`--recipes default direct` compares whole recipes in place of techniques.

The folder `--out` gets results.csv, changes.csv, summary.md, figure.png and run.json. An ablation
that was cut short continues with `--resume`. `--record NAME` keeps the result under
benchmarks/records/. Exit codes: 0 done, 1 a training diverged, 2 bad usage, 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated

from benchmarks import cli
from benchmarks.report import folders, terminal
from benchmarks.studies import folder
from benchmarks.studies.ablation import Ablation, AblationOptions
from benchmarks.studies.settings import set_threads, task_names
from benchmarks.studies.whole_run import as_table


def run(
    task: cli.TaskName,
    /,
    *,
    options: AblationOptions = AblationOptions(),
    list_: Annotated[bool, cli.flag("Print the variants' names and end.", "--list")] = False,
    out: cli.Out = None,
    resume: cli.Resume = False,
    record: cli.Record = None,
    threads: cli.Threads = None,
    output: cli.Output = cli.Output(),
    words: cli.Words = (),
) -> None:
    """Train a recipe with each technique switched off once; compare the chips."""
    cli.check_alone("benchmarks.ablation")
    (name,) = task_names((task,), options.profile)
    out = out or Path("runs") / f"ablation-{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    ablation = Ablation(dataclasses.replace(options, task=name), out, output)
    if list_:
        names = [variant.name for variant in ablation.variants]
        output.result("\n".join(names), {"variants": names})
        return
    ablation.check()
    folder.holds_a_run(out, resume)
    if output.dry_run:
        output.result("\n".join(ablation.plan()), {"plan": ablation.plan(), "out": out})
        return
    set_threads(threads, options.profile)
    folder.enter(out, ablation.options.claim(), resume)
    with folder.resumable(out, output):
        rows = ablation.run(shlex.join(["python", "-m", "benchmarks.ablation", *words]))
    if record is not None:
        folders.keep(out, record)
    text = terminal.of_summary((out / "summary.md").read_text(encoding="utf-8"), out)
    output.result(text, {"out": out, **as_table(rows)})


app = cli.command("ablation", run, "TASK")
main = partial(cli.execute, app)


if __name__ == "__main__":
    sys.exit(main())
