"""The speed benchmark: `python -m benchmarks.speed`.

Digital, native and aihwkit in one process, alternated; prints ratios against their targets and
writes speed.json and summary.md. Exit codes: 0 done, 1 a target was not met at full size or a cost
grows faster than linearly, 2 bad usage.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from aimc_bridge.errors import AimcError, UsageError
from benchmarks.command import Parser, holds_a_run
from benchmarks.report import speed as record
from benchmarks.speed import goals, growth, machine, sides
from benchmarks.speed.goals import MEASURES
from benchmarks.speed.groups import Group, Setting, chosen
from benchmarks.speed.targets import GROUPS
from benchmarks.speed.works import SIZES

_GOALS = ("images", "sentences", "train_images", "batch", "train_batch")


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog="python -m benchmarks.speed",
        description="Measure digital : native : aihwkit side by side.",
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--quick", action="store_true", help="reduced sizes and repeats, under two minutes")
    add("--size", choices=list(SIZES), help="full (default), quick, tiny")
    add("--only", "--rows", nargs="*", metavar="GROUP", help=f"patterns of {', '.join(GROUPS)}")
    add("--growth", action="store_true", help="cost against width, tiles, batch, chips, times")
    add("--threads", type=int, help="threads of torch; default all cores")
    add("--device", default="cpu", help="cpu or cuda")
    add("--rounds", type=int, help="repeats of every side")
    add("--compiled", action="store_true", help="native models with torch.compile, in all rows")
    add("--no-aihwkit", action="store_true", help="leave aihwkit and aihwkit-lightning out")
    add("--chips", type=int, help="chips of the sweep and the goals, default 25")
    add("--times", type=int, help="times of the sweep and the goals, default 4")
    for name in _GOALS:
        default = goals.SIZES[name]
        add(f"--{name.replace('_', '-')}", type=int, help=f"of the goals, default {default:,}")
    add("--out", type=Path, help="folder of the results; default runs/speed-TIME")
    add("--record", metavar="NAME", help="keep the record as benchmarks/records/speed-NAME.json")
    add("--docs", action="store_true", help="only rewrite docs/speed.md from the records")
    return made


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    threads = torch.get_num_threads()
    try:
        given = parser().parse_args(words)
        if given.docs:
            print(record.write_docs())
            return 0
        made, out = run(given, words, console)
    except AimcError as error:
        console.print(f"error: {' '.join(str(error).split())}", style="red")
        return 2
    except OSError as error:
        console.print(f"error: {error.filename}: {error.strerror}", style="red")
        return 2
    except KeyboardInterrupt:
        console.print("interrupted; the groups that were measured are in speed.json")
        return 130
    finally:
        torch.set_num_threads(threads)
    print(record.summary(made))
    console.print(f"{out}")
    failed = record.failures(made)
    if failed:
        console.print(f"not met: {', '.join(failed)}", style="red")
    return 1 if failed else 0


def run(
    given: argparse.Namespace, words: list[str], console: Console
) -> tuple[record.Record, Path]:
    """Check everything, measure, write. Returns the record and the folder."""
    setting, names = _setting(given, console)
    kept = None if given.record is None else record.record_file(given.record)
    out: Path = given.out or Path("runs") / f"speed-{time.strftime('%Y%m%d-%H%M%S')}"
    holds_a_run(out, resume=None)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(given.threads or machine.cores())
    about = {
        "name": out.name if kept is None else kept.stem,
        "kind": "speed",
        "command": shlex.join(["python", "-m", "benchmarks.speed", *words]),
        "size": setting.sizes.name,
        "device": setting.device.type,
        "compiled": given.compiled,
        "versions": machine.versions(),
        "hardware": machine.hardware(),
        "sizes": asdict(setting.sizes),
        "presets": {
            "native": str(sides.ALL),
            "weight physics only": str(sides.WEIGHTS),
            "DAC/ADC only": str(sides.CONVERTERS),
            "DAC/ADC and output noise": str(sides.OUTPUT),
        },
    }
    groups: list[Group] = []
    made: record.Record = about
    if given.growth:
        with sides.compiled(given.compiled):
            curves = [curve.to_dict() for curve in growth.growth(setting)]
            made = {**about, "growth": curves, "held": growth.holdings(setting)}
    else:
        for name in names:
            console.print(name)
            with sides.compiled(given.compiled):
                groups.append(MEASURES[name](setting))
            made = {**about, "groups": [group.to_dict() for group in groups]}
            record.write(made, out / "speed.json")  # what is measured is not lost
    record.write(made, out / "speed.json")
    image = None
    if given.growth:
        image = "growth.png"
        record.figure(made, out / image)
    (out / "summary.md").write_text(f"# Speed\n\n{record.summary(made, image)}\n")
    if kept is not None:
        record.write(made, kept)
    return made, out


def _setting(given: argparse.Namespace, console: Console) -> tuple[Setting, list[str]]:
    for name in ("threads", "rounds", "chips", "times", *_GOALS):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} {value}; allowed: 1 or more")
    if given.device not in ("cpu", "cuda"):
        raise UsageError(f"unknown device {given.device!r}; one of cpu, cuda")
    if given.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here; use --device cpu")
    if given.quick and given.size not in (None, "quick"):
        raise UsageError(f"--quick and --size {given.size} contradict each other; give one")
    if given.times is not None and given.times > 8:
        raise UsageError(f"--times {given.times}; allowed: 1 to 8")
    if given.growth and given.only is not None:
        raise UsageError("--growth measures other things than --only chooses from; give one")
    device = torch.device(given.device)
    sizes = SIZES["quick" if given.quick else given.size or "full"]
    chips, times = sizes.sweep
    sizes = replace(sizes, sweep=(given.chips or chips, given.times or times))
    if given.rounds is not None:
        slow = min(given.rounds, sizes.slow_rounds)
        sizes = replace(sizes, rounds=given.rounds, slow_rounds=slow)
    asked: dict[str, Any] = {name: getattr(given, name) for name in (*_GOALS, "chips", "times")}
    names = [name for name in GROUPS if device.type == "cuda" or not name.startswith("goal-")]
    if given.only is not None:
        names = chosen(given.only, GROUPS)
        if not names:
            raise UsageError(f"--only names no group; there are: {', '.join(GROUPS)}")
    setting = Setting(
        sizes,
        device,
        aihwkit=not given.no_aihwkit,
        goals={name: value for name, value in asked.items() if value is not None},
        say=console.print,
    )
    return setting, names


if __name__ == "__main__":
    sys.exit(main())
