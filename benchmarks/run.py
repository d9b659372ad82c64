"""The benchmark: `python -m benchmarks.run [wrn] [bert] [lstm]`.

Converts each model with a preset, trains it hardware-aware, programs chips, drifts them, and writes
results.csv, summary.md, figures and run.json. Exit codes: 0 done, 1 a check failed, 2 bad usage.

Started by torchrun or `accelerate launch`, all processes train; the first one does the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from aimc_bridge.errors import AimcError, TrainingError, UsageError
from aimc_bridge.times import label
from benchmarks import tasks
from benchmarks.arguments import (
    GROWING,
    claim_of,
    grow,
    options_of,
    parser,
    plan_of,
    settings_of,
)
from benchmarks.command import enter, holds_a_run, paths_of
from benchmarks.files import replace_file
from benchmarks.machine import hardware, versions
from benchmarks.report import tables
from benchmarks.studies.study import Replica, Settings, Study
from benchmarks.studies.weights import Weights, trained_model
from benchmarks.tasks.data import data_dir
from benchmarks.tasks.plan import Plan

if TYPE_CHECKING:
    import pandas as pd

CHIPS_BETWEEN = 10_000  # seeds between the chips of two trainings


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    console = Console(stderr=True)

    def fail(text: str, code: int) -> int:
        console.print(
            f"error: {' '.join(text.split())}",
            style="red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return code

    try:
        # intermixed: tasks may stand between options
        given = parser().parse_intermixed_args(words)
        with replicas(given.device) as replica:
            quiet = Console(stderr=True, quiet=True)
            run(given, words, quiet if replica.index else console, replica)
    except TrainingError as error:
        return fail(str(error), 1)
    except AimcError as error:
        return fail(str(error), 2)
    except OSError as error:  # a folder that cannot be written, a full disk
        return fail(f"{error.filename or 'a file'}: {error.strerror or error}", 2)
    except KeyboardInterrupt:
        console.print("interrupted", soft_wrap=True)
        return 130
    return 0


@contextlib.contextmanager
def replicas(device: str) -> Iterator[Replica]:
    """Which process this is of those that a launcher started; the only one where none did."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield Replica()
        return
    from accelerate import PartialState

    # a replica waits for the first process's sweeps: hours, where the default is minutes
    state = PartialState(cpu=device == "cpu", timeout=timedelta(days=7))
    try:
        yield Replica(state.process_index, state.num_processes)
    finally:
        state.destroy_process_group()


def run(
    given: argparse.Namespace, words: list[str], console: Console, replica: Replica | None = None
) -> Path:
    """Check everything, then do it. Returns the folder of the results."""
    replica = replica or Replica()
    grow(given)
    settings, names = settings_of(given, replica)
    plans = {name: plan_of(given, name) for name in names}
    data_dir(given.data_dir)
    if given.out is not None and replica.index == 0:
        holds_a_run(given.out, given.resume)
    options = tasks.parse_options(given.option)
    checkpoints = paths_of("--checkpoint", given.checkpoint, names)
    trained = paths_of("--trained", given.trained, names)
    if trained and ("hwa" not in settings.phases or settings.seeds > 1):
        raise UsageError("--trained is the model of the phase hwa, of one training: no --seeds")
    for name in trained:
        if name not in checkpoints:
            raise UsageError(
                f"--trained of {name} without --checkpoint: name the digital model that it was "
                "trained from, which it is compared with"
            )
    if settings.seeds > 1 and checkpoints and settings.phases == ("direct",):
        raise UsageError(
            f"--seeds {settings.seeds}: with --checkpoint and the phase direct nothing is trained; "
            "more chips of one model: --chips"
        )
    made = {
        name: tasks.get(name, given.profile, given.data_dir, **options_of(name, options, names))
        for name in names
    }
    weights = {name: Weights(checkpoints.get(name), trained.get(name)) for name in names}
    for name, task in made.items():  # what cannot work is found before any work
        recipe = settings.recipe_of(task, plans[name])
        if name in checkpoints:
            task.load(checkpoints[name])
        else:
            task.digital_loader(task.digital.batch_size, settings.seed)
        if name in trained:
            trained_model(task, settings.preset, trained[name])
        if {"hwa", "control"} & set(settings.phases):
            task.train_loader(recipe.spec.batch_size, settings.seed)
    if given.out is None and replica.count > 1:
        raise UsageError("several processes need --out, the folder that they share")
    out = given.out or Path("runs") / f"{given.profile}-{time.strftime('%Y%m%d-%H%M%S')}"
    threads = given.threads or (1 if given.profile == "embedded" else None)
    if threads:  # models as small as the embedded ones spend a second thread on waiting for it
        torch.set_num_threads(threads)
    if replica.index:
        replica.meet()
        for name, task in made.items():
            for study in _studies(task, plans[name], settings, out, console, weights[name]):
                study.assist()
        replica.meet()  # the group ends for all at once: a process that left early can abort
        return out
    claim = {"arguments": claim_of(given, settings, names)}
    enter(out, claim["arguments"], given.resume, free=GROWING)
    replica.meet()
    _announce(console, made, settings, plans, given, out)

    studies: list[list[Study]] = []
    parts: list[pd.DataFrame] = []
    try:
        for name, task in made.items():
            mine = _studies(task, plans[name], settings, out, console, weights[name])
            parts.append(_run_all(mine))
            studies.append(mine)
            _write(out, claim, words, studies, parts)
    except BaseException:
        if not _leave(out):
            again = "" if given.out is not None else f" --out {out}"
            console.print(
                f"what is done is kept; to go on: the same command with{again} --resume",
                soft_wrap=True,
            )
        raise
    replica.meet()
    print((out / "summary.md").read_text())
    console.print(f"results in {out}", markup=False, soft_wrap=True)
    return out


def _studies(
    task: tasks.Task,
    plan: Plan,
    settings: Settings,
    out: Path,
    console: Console,
    weights: Weights,
) -> list[Study]:
    """One a training seed. Chips differ between trainings too: 10,000 seeds lie between them.

    A digital model that was given is one for all, and is converted directly once.
    """
    found = []
    trained = tuple(phase for phase in settings.phases if phase != "direct")
    for index in range(settings.seeds):
        seed = settings.seed + index
        mine = dataclasses.replace(
            settings,
            phases=trained if index and weights.digital is not None else settings.phases,
            seed=seed,
            chip_seed=settings.seed + CHIPS_BETWEEN * index,
            how=dataclasses.replace(settings.training(), seed=seed),
        )
        folder = out / "work" / (task.name if index == 0 else f"{task.name}-seed-{seed}")
        found.append(Study(task, plan, mine, folder, console, weights))
    return found


def _run_all(studies: list[Study]) -> pd.DataFrame:
    """The rows of all; where there are several trainings a last column says which."""
    import pandas as pd

    rows = [study.run() for study in studies]
    if len(rows) == 1:
        return rows[0]
    seeds = [study.settings.seed for study in studies]
    marked = [part.assign(training_seed=seed) for part, seed in zip(rows, seeds, strict=True)]
    return pd.concat(marked, ignore_index=True)


def _leave(out: Path) -> bool:
    """Take back what `_enter` made, where nothing has been done since."""
    if any(path.is_file() for path in out.glob("work/**/*")):
        return False
    (out / "run.json").unlink(missing_ok=True)
    folders = [path for path in out.rglob("*") if path.is_dir()]
    for folder in [*sorted(folders, reverse=True), out]:
        with contextlib.suppress(OSError):  # not ours: it holds something
            folder.rmdir()
    return True


def _announce(
    console: Console,
    made: dict[str, tasks.Task],
    settings: Settings,
    plans: dict[str, Plan],
    given: argparse.Namespace,
    out: Path,
) -> None:
    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    if given.profile != "paper":
        say(
            f"profile {given.profile}: these data, model sizes and training lengths are not the "
            "paper's; compare no number with it",
            "yellow",
        )
    for name, task in made.items():
        say(f"  {name}: {_size(task)}")
    times = ", ".join(label(t) for t in settings.times)
    say(f"preset {settings.preset}; phases {', '.join(settings.phases)}; times {times}")
    if settings.seeds > 1:
        say(f"{settings.seeds} trainings of each, seeds from {settings.seed} on")
    for name, plan in plans.items():
        parts = {
            "native": f"{plan.chips} chips on {plan.subset or 'all'} test {made[name].unit}",
            "aihwkit": f"{plan.slow_chips} on {plan.slow_subset or 'all'}",
        }
        chips = "; ".join(f"{engine} {parts[engine]}" for engine in settings.engines)
        say(f"  {name}: {chips}")
    say(f"into {out}")


def _size(task: tasks.Task) -> str:
    weights = sum(parameter.numel() for parameter in task.skeleton().parameters())
    counts = ", ".join(f"{task.count(split):,} {split}" for split in ("train", "test"))
    return f"{task.model_name} ({weights:,} parameters) on {task.dataset} ({counts} {task.unit})"


def _write(
    out: Path,
    claim: dict[str, Any],
    words: list[str],
    studies: list[list[Study]],
    parts: list[pd.DataFrame],
) -> None:
    import pandas as pd

    results = pd.concat(parts, ignore_index=True)
    partial = out / "results.csv.partial"
    results.to_csv(partial, index=False)
    os.replace(partial, out / "results.csv")
    figures = out / "figures"
    figures.mkdir(exist_ok=True)
    text = [
        "# Results",
        f"`{_command(words)}`, preset {studies[0][0].settings.preset}. "
        f"Means ± standard deviations over chips{_of_trainings(studies)}; digital: the same model "
        "before conversion, on the same samples; "
        "A* = 1 - (err - err_digital) / (err_chance - err_digital), with the 95 % interval of its "
        f"mean over {'trainings' if len(studies[0]) > 1 else 'chips'}.",
    ]
    panels = []
    for (study, *_), rows in zip(studies, parts, strict=True):
        task = study.task
        tables.figure(rows, task.metric, figures / f"{task.name}.png")
        panels.append((rows, task.metric))
        text.append(f"## {task.model_name}, {task.dataset}, {task.metric}")
        text.append(tables.markdown(tables.summary(rows, task.metric)))
        of = "words" if task.metric == "perplexity" else "classes"
        text.append(f"A*, with chance at 1/{task.n_classes} ({of}):")
        text.append(tables.markdown(tables.a_star_summary(rows, task.chance_error)))
        text.append(f"![{task.model_name}](figures/{task.name}.png)")
    tables.dashboard(panels, figures / "dashboard.png")
    replace_file(out / "summary.md", "\n\n".join(text) + "\n")
    record = {
        **claim,
        "command": _command(words),
        "versions": versions(),
        "hardware": hardware(),
        "studies": {mine[0].task.name: _facts(mine) for mine in studies},
    }
    replace_file(out / "run.json", json.dumps(record, indent=1) + "\n")


def _of_trainings(studies: list[list[Study]]) -> str:
    count = len(studies[0])
    return f" of all {count} trainings" if count > 1 else ""


def _facts(studies: list[Study]) -> dict[str, Any]:
    """What is known of a task's trainings: the first one's, and beside it the others'."""
    first, *others = studies
    if not others:
        return first.facts
    more = {str(study.settings.seed): study.facts for study in others}
    return {**first.facts, "training_seeds": [s.settings.seed for s in studies], "others": more}


def _command(words: list[str]) -> str:
    return shlex.join(["python", "-m", "benchmarks.run", *words])


if __name__ == "__main__":
    sys.exit(main())
