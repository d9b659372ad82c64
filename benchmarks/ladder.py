"""What the simplifications cost: `python -m benchmarks.ladder [wrn] [bert] [lstm]`.

Climbs from the replication's physics to the paper's, one change at a time (`presets.ladder`), with
the same chips on every rung, and measures the flaws of the replication's evaluation one by one.
Writes results.csv, ladder.csv, layers.csv, flaws.csv, less-one.csv, summary.md, figures and
run.json. Exit codes: 0 done, 2 bad usage.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from aimc_bridge.errors import AimcError, UsageError
from aimc_bridge.spec import Preset
from aimc_bridge.times import seconds
from benchmarks import tasks
from benchmarks.command import (
    Parser,
    add_tasks,
    by_task,
    check_device,
    enter,
    paths_of,
    task_names,
)
from benchmarks.files import replace_file
from benchmarks.machine import hardware, versions
from benchmarks.report.ladder_page import save
from benchmarks.studies.ladder.climb import Climb, Settings
from benchmarks.studies.ladder.rungs import LADDER
from benchmarks.tasks.data import data_dir

if TYPE_CHECKING:
    import pandas as pd


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog="python -m benchmarks.ladder",
        description="From the replication's physics to the paper's, one change at a time.",
        allow_abbrev=False,
    )
    add = made.add_argument
    add_tasks(add)
    add("--times", nargs="*", default=["1s", "1h", "1d", "1y"], help="as 1s 1h '1 day' 3600")
    add("--chips", type=int, default=5, help="chips a rung")
    add("--repeats", type=int, default=10, help="repeats of the flaws' rows")
    add(
        "--subset",
        action="append",
        default=[],
        metavar="[TASK=]N",
        help=f"test samples (words); real and paper: {_subsets()}; embedded: all",
    )
    add("--device", default="cpu", help="cpu or cuda")
    add("--threads", type=int, help="threads of torch; default 1 for embedded, else all cores")
    add("--seed", type=int, default=0)
    add("--out", type=Path, help="folder of the results; default runs/ladder-PROFILE")
    add("--resume", action="store_true", help="go on with the run in --out")
    return made


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        run(parser().parse_intermixed_args(words), words, console)
    except AimcError as error:
        console.print(f"error: {' '.join(str(error).split())}", style="red")
        return 2
    except OSError as error:
        console.print(
            f"error: {error.filename or 'a file'}: {error.strerror or error}", style="red"
        )
        return 2
    except KeyboardInterrupt:
        console.print("interrupted; to go on: the same command with --resume")
        return 130
    return 0


def run(given: argparse.Namespace, words: list[str], console: Console) -> Path:
    """Check everything, then climb. Returns the folder of the results."""
    settings, names = _settings(given)
    data_dir(given.data_dir)
    paths = paths_of("--checkpoint", given.checkpoint, names)
    counts = {n: _count(c) for n, c in by_task("--subset", given.subset, names).items()}
    made = {name: tasks.get(name, given.profile, given.data_dir) for name in names}
    for name, task in made.items():  # what cannot work is found before any work
        if name in paths:
            task.load(paths[name])
    whole = given.profile == "embedded"
    subsets: dict[str, int | None] = {
        name: counts.get(name, None if whole else task.ladder.subset) for name, task in made.items()
    }
    out = given.out or Path("runs") / f"ladder-{given.profile}"
    claim = {
        "tasks": names,
        "profile": given.profile,
        "data_dir": None if given.data_dir is None else str(given.data_dir),
        "checkpoint": {name: str(path) for name, path in paths.items()},
        "times": list(settings.times),
        "chips": settings.chips,
        "repeats": settings.repeats,
        "subset": subsets,
        "device": given.device,
        "seed": settings.seed,
        "presets": {rung.key: _values(rung.preset) for rung in LADDER},
    }
    enter(out, claim, given.resume)
    threads = given.threads or (1 if given.profile == "embedded" else None)
    if threads:
        torch.set_num_threads(threads)
    climbs, parts = [], []
    for name, task in made.items():
        folder = out / "work" / name
        climb = Climb(task, subsets[name], settings, folder, console, paths.get(name))
        parts.append(climb.run())
        climbs.append(climb)
        _write(out, claim, words, climbs, parts)
    print((out / "summary.md").read_text())
    console.print(f"results in {out}")
    return out


def _subsets() -> str:
    sizes = {name: tasks.find(name).ladder.subset for name in tasks.names()}
    return ", ".join(f"{name} {size or 'all'}" for name, size in sizes.items())


def _values(preset: Preset) -> dict[str, Any]:
    return {part: getattr(preset, part).values() for part in Preset.PARTS}


def _settings(given: argparse.Namespace) -> tuple[Settings, list[str]]:
    names = task_names(given.tasks, given.profile)
    if not given.times:
        raise UsageError("--times names no time; allowed: one or more, as 1s 1h '1 day' 3600")
    for name, least in (("chips", 2), ("repeats", 2), ("threads", 1)):
        value = getattr(given, name)
        if value is not None and value < least:
            why = "" if least == 1 else ": an interval needs two"
            raise UsageError(f"--{name} {value}; allowed: {least} or more{why}")
    check_device(given.device)
    settings = Settings(
        profile=given.profile,
        times=tuple(sorted({seconds(word) for word in given.times})),
        chips=given.chips,
        repeats=given.repeats,
        seed=given.seed,
        device=torch.device(given.device),
    )
    return settings, names


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--subset {text}; allowed: a whole number, 1 or more")
    return int(text)


def _write(
    out: Path,
    claim: dict[str, Any],
    words: list[str],
    climbs: list[Climb],
    parts: list[pd.DataFrame],
) -> None:
    import pandas as pd

    results = pd.concat(parts, ignore_index=True)
    studies = {climb.task.name: climb.facts for climb in climbs}
    command = shlex.join(["python", "-m", "benchmarks.ladder", *words])
    record = {
        "arguments": claim,
        "command": command,
        "versions": versions(),
        "hardware": hardware(),
        "studies": studies,
    }
    save(out, results, studies, command)
    replace_file(out / "run.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
