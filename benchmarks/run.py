"""The main benchmark: `python -m benchmarks.run [wrn] [bert] [lstm]`.

It converts each model with a preset, trains it hardware-aware, programs chips, drifts them, and
writes results.csv, summary.md, figures and run.json. Exit codes: 0 done, 1 a training diverged, 2
bad usage, 130 interrupted.

If torchrun or `accelerate launch` starts it, all processes train and the first one does the rest.
"""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from pathlib import Path

from aimc_bridge.commands import Output
from aimc_bridge.errors import UsageError
from benchmarks import cli
from benchmarks.report import terminal
from benchmarks.report.conclusions import conclude
from benchmarks.studies.replicas import replicas
from benchmarks.studies.settings import Settings, set_threads, task_names
from benchmarks.studies.shards import folder_of, share_trainings
from benchmarks.studies.whole_run import WholeRun, as_table, default_folder, prepare


def run(
    *names: cli.TaskNames,
    settings: Settings = Settings(),
    out: cli.Out = None,
    resume: cli.Resume = False,
    threads: cli.Threads = None,
    workers: cli.Workers = None,
    output: Output = Output(),
    words: cli.Words = (),
) -> None:
    """Convert, train hardware-aware, program, drift, report.

    --shard 3/25 measures the third of 25 parts of the chips, into --out DIR/shard-3-of-25; all
    parts share the trainings in DIR/trained. benchmarks.report --merge joins the parts.

    --resume goes on with the run in --out: more --times, --chips, --phases or --seeds add to it,
    and what it has stays. --json prints {"out": folder, "report": file, "conclusions": [...],
    "columns": [...], "rows": [[...], ...]}; the rows are those of results.csv.
    """
    settings = dataclasses.replace(settings, tasks=task_names(names, settings.profile))
    carry_out("run", settings, out, resume, threads, output, words, workers)


def carry_out(
    program: str,
    settings: Settings,
    out: Path | None,
    resume: bool,
    threads: int | None,
    output: Output,
    words: tuple[str, ...],
    workers: int | None = 1,
) -> None:
    """Do a run and print its result.

    Args:
        program: The command, for the record and for the folder's name: "run" or "demo".
        settings: The options.
        out: The folder of the results; None makes one.
        resume: Whether --resume was given.
        threads: The number of torch's threads; None decides by the profile.
        output: Where notes and the result go.
        words: The words of the command line, for the record.
        workers: How many trainings run side by side; None decides by the machine and the profile.

    Raises:
        AimcError: If something is wrong with the options, the data or a training.
    """
    with replicas(settings.device) as replica:
        whole = out
        if settings.shard is not None:
            whole, out = _shared(out, settings.shard, replica.count)
        settings, tasks = prepare(settings, out, resume)
        if out is None and replica.count > 1:
            raise UsageError("several processes need --out, the folder that they share")
        if workers is not None and workers > 1 and replica.count > 1:
            raise UsageError("--workers in one process; start it without torchrun or accelerate")
        set_threads(threads, settings.profile)
        if whole is not None and settings.shard is not None and not output.dry_run:
            share_trainings(settings, tasks, whole, output, words, resume=resume)
            resume = True
        first = replica.index == 0
        notes = output if first else Output(quiet=True)
        out = out or default_folder(settings.profile if program == "run" else program)
        work = WholeRun(settings, tasks, out, notes, (program, *words), replica, workers)
        if output.dry_run:
            if first:
                data = {"plan": work.plan(), "estimate": work.steps.estimate().to_dict()}
                output.result("\n".join(work.plan()), data)
        elif first:
            rows = work.measure(resume)
            studies = work.studies()
            found = conclude(rows, studies)
            output.say("")
            output.result(
                terminal.of_run(rows, studies, found, out),
                {
                    "out": out,
                    "report": terminal.report_of(out),
                    "conclusions": [conclusion.to_dict() for conclusion in found],
                    **as_table(rows),
                },
                short="\n".join(conclusion.text for conclusion in found),
            )
        else:
            work.assist()


def _shared(out: Path | None, shard: str, processes: int) -> tuple[Path, Path]:
    """Return the folder that all shards share, and that of one shard."""
    if out is None:
        raise UsageError("--shard needs --out, the folder that all shards share")
    if processes > 1:
        raise UsageError("--shard in one process each; start it without torchrun or accelerate")
    return out, folder_of(out, shard)


app = cli.command("run", run, "[TASK ...]")
main = partial(cli.execute, app)


if __name__ == "__main__":
    sys.exit(main())
