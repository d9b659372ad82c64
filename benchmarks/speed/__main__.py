"""The speed benchmark: `python -m benchmarks.speed`.

It runs digital, native and aihwkit in one process, alternated, and prints ratios against their
targets. The folder `--out` then holds speed.json, summary.md and, with --growth, growth.png;
`python -m benchmarks.record add` keeps it.

Exit codes: 0 done; 1 a target was not met at full size, or a cost grows faster than linearly; 2 bad
usage.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import Parameter

from aimc_bridge.engines import versions
from aimc_bridge.engines.native import onednn
from aimc_bridge.errors import UsageError, VersionError
from benchmarks import cli, machine
from benchmarks.report import speed as report
from benchmarks.report import speed_records, speed_tables, terminal
from benchmarks.report.record import Record, read
from benchmarks.speed import goals, sides
from benchmarks.speed import growth as growing
from benchmarks.speed.goals import MEASURES
from benchmarks.speed.groups import Group, Setting, chosen
from benchmarks.speed.targets import GROUPS
from benchmarks.speed.works import SIZES
from benchmarks.studies.claims import changes
from benchmarks.studies.folder import alone, holds_a_run
from benchmarks.studies.steps import Step, Steps

PRESETS = {
    "native": str(sides.ALL),
    "weight physics only": str(sides.WEIGHTS),
    "DAC/ADC only": str(sides.CONVERTERS),
    "DAC/ADC and output noise": str(sides.OUTPUT),
}


def _goal(name: str, text: str) -> Parameter:
    return Parameter(help=f"{text}; default: {goals.SIZES[name]:,}.")


def speed(
    *,
    quick: Annotated[bool, cli.flag("Reduced sizes and repeats, under two minutes.")] = False,
    size: Annotated[
        Literal["full", "quick", "tiny"] | None, Parameter(help="Sizes; default: full.")
    ] = None,
    only: Annotated[
        tuple[str, ...] | None,
        Parameter(
            name=("--only", "--rows"),
            consume_multiple=True,
            help=f"Groups, by names or patterns: {', '.join(GROUPS)}.",
        ),
    ] = None,
    growth: Annotated[
        bool, cli.flag("Measure cost against width, tiles, batch, chips, times instead.")
    ] = False,
    threads: Annotated[
        cli.Count | None, Parameter(help="Threads of torch; default: all cores.")
    ] = None,
    device: cli.Device = "cpu",
    rounds: Annotated[cli.Count | None, Parameter(help="Repeats of every side.")] = None,
    compiled: cli.Compiled = False,
    no_aihwkit: Annotated[
        bool, cli.flag("Leave aihwkit and aihwkit-lightning out.", "--no-aihwkit")
    ] = False,
    chips: cli.Chips = None,
    times: cli.Times = None,
    images: Annotated[cli.Count | None, _goal("images", "Images of goal-wrn")] = None,
    sentences: Annotated[cli.Count | None, _goal("sentences", "Sentences of goal-bert")] = None,
    train_images: Annotated[cli.Count | None, _goal("train_images", "Images of goal-epoch")] = None,
    batch: Annotated[cli.Count | None, _goal("batch", "Batch of goal-wrn, goal-bert")] = None,
    train_batch: Annotated[cli.Count | None, _goal("train_batch", "Batch of goal-epoch")] = None,
    out: cli.Out = None,
    resume: cli.Resume = False,
    output: cli.Output = cli.Output(),
    words: cli.Words = (),
) -> int:
    """Measure digital : native : aihwkit side by side, in one process, against stated targets.

    Exit code 1: a target is not met, or a cost grows faster than linearly (full size only).
    """
    if quick and size not in (None, "quick"):
        raise UsageError(f"--quick and --size {size} contradict each other; give one")
    if growth and only is not None:
        raise UsageError("--growth measures other things than --only chooses from; give one")
    if not no_aihwkit:
        try:
            versions.check()
        except VersionError as error:
            raise VersionError(f"{error}; or leave it out: --no-aihwkit") from None
    names = [name for name in GROUPS if device == "cuda" or not name.startswith("goal-")]
    if only is not None:
        names = chosen(only, GROUPS)
        if not names:
            raise UsageError(f"--only names no group; there are: {', '.join(GROUPS)}")
    amounts = {
        "images": images,
        "sentences": sentences,
        "train_images": train_images,
        "batch": batch,
        "train_batch": train_batch,
        "chips": chips,
        "times": None if times is None else len(times),
    }
    setting = _setting("quick" if quick else size or "full", device, rounds, amounts, times)
    setting.aihwkit, setting.say = not no_aihwkit, output.say
    arguments: dict[str, Any] = {
        "size": setting.sizes.name,
        "device": device,
        "compiled": compiled,
        "aihwkit": setting.aihwkit,
        "threads": threads or machine.cores(),
        "rounds": setting.sizes.rounds,
        "times": None if times is None else list(times),
        "goals": setting.goals,
        "measured": "growth" if growth else names,
    }
    folder = out or Path("runs") / f"speed-{time.strftime('%Y%m%d-%H%M%S')}"
    begun = _begun(folder, resume, arguments)
    what = ["growth", "holdings"] if growth else names
    cost = json.dumps({**arguments, "measured": None})
    steps = Steps(
        [Step(name, f"timing {name}", ((f"speed {name}: {cost}", 1.0),)) for name in what], output
    )
    if output.dry_run:
        estimate = steps.estimate()
        output.result(
            "\n".join([*what, estimate.text(), f"into {folder}"]),
            {"plan": what, "estimate": estimate.to_dict(), "folder": folder},
        )
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder), _threads(arguments["threads"]):
        about = {
            "name": folder.name,
            "command": shlex.join(["python", "-m", "benchmarks.speed", *words]),
            "arguments": arguments,
            "versions": machine.versions(),
            "hardware": {**machine.hardware(), "load_before": round(os.getloadavg()[0], 2)},
            "extra": {
                "sizes": asdict(setting.sizes),
                "presets": PRESETS,
                "integers": not setting.on_gpu and onednn.multiplies_integers(),
            },
        }
        with sides.compiled(compiled):
            measure = _growth if growth else _groups
            record = measure(
                names,
                setting,
                about,
                begun,
                lambda record: speed_tables.save(folder, record),
                steps,
            )
    failed = report.failures(record)
    data = {
        "folder": folder,
        "rows": report.rows_of(record),
        "growth": report.growth_rows(record),
        "failed": failed,
    }
    output.result(terminal.of_summary(speed_tables.summary(record), folder), data)
    if failed:
        output.say(f"not met: {', '.join(failed)}", style="red")
    return 1 if failed else 0


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Give torch a number of threads while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _setting(
    size: str,
    device: str,
    rounds: int | None,
    amounts: dict[str, int | None],
    times: tuple[float, ...] | None,
) -> Setting:
    sizes = SIZES[size]
    chips, count = sizes.sweep
    sizes = replace(sizes, sweep=(amounts["chips"] or chips, amounts["times"] or count))
    if rounds is not None:
        slow = min(rounds, sizes.slow_rounds)
        sizes = replace(sizes, rounds=rounds, slow_rounds=slow)
    known = {name: value for name, value in amounts.items() if value is not None}
    setting = Setting(sizes, torch.device(device), goals=known)
    return setting if times is None else replace(setting, times=times)


def _begun(folder: Path, resume: bool, arguments: dict[str, Any]) -> Record | None:
    """Return the record of an interrupted measurement in a folder, or None.

    Args:
        folder: The folder.
        resume: Whether the user goes on with a measurement.
        arguments: The arguments of this measurement; the interrupted one must have the same.

    Raises:
        UsageError: If the folder holds something else, or a measurement with other arguments.
    """
    if not holds_a_run(folder, resume):
        return None
    if not (folder / speed_records.FILE).exists():
        raise UsageError(f"{folder}: no measurement to go on with; name another --out")
    record = read(folder / speed_records.FILE)
    differs = sorted(key for key, value in arguments.items() if record.arguments.get(key) != value)
    if differs:
        told = changes(differs, record.arguments, arguments)
        raise UsageError(
            f"{folder} holds a measurement with other arguments ({told}); "
            "name another --out, or repeat them"
        )
    return record


def _groups(
    names: Sequence[str],
    setting: Setting,
    about: dict[str, Any],
    begun: Record | None,
    save: Callable[[Record], None],
    steps: Steps,
) -> Record:
    """Measure groups.

    Args:
        names: The groups.
        setting: How to measure.
        about: The other fields of the record.
        begun: The record of an interrupted measurement; its groups are not measured again.
        save: Called after each group, so that what is measured is not lost.
        steps: The steps of the command: the groups.

    Returns:
        The record.
    """
    groups: list[Group] = []
    if begun is not None:  # the record states the machine and load of the first groups
        groups = speed_records.groups_of(begun)
        about |= {key: getattr(begun, key) for key in ("versions", "hardware", "command")}
        save(begun)  # a process that died may have written a part of the files
    record = begun
    for name in names[: len(groups)]:
        steps.skip(name)
    for name in names[len(groups) :]:
        with steps.doing(name):
            groups.append(MEASURES[name](setting))
        finished = len(groups) == len(names)
        extra = about["extra"] if finished else {**about["extra"], "finished": False}
        record = speed_records.record_of_groups(groups, **{**about, "extra": extra})
        save(record)
    assert record is not None  # there is at least one group
    return record


def _growth(
    names: Sequence[str],
    setting: Setting,
    about: dict[str, Any],
    begun: Record | None,
    save: Callable[[Record], None],
    steps: Steps,
) -> Record:
    """Measure cost against size, all of it at once; see `_groups` for the arguments."""
    if begun is not None:
        save(begun)  # a process that died may have written a part of the files
        return begun
    with steps.doing("growth"):
        curves = growing.growth(setting)
    with steps.doing("holdings"):
        holdings = growing.holdings(setting)
    record = speed_records.record_of_curves(curves, holdings, **about)
    save(record)
    return record


app = cli.command("speed", speed)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        words: The words after the command's name; None takes those of the process.

    Returns:
        The exit code.
    """
    advice = "interrupted; the groups that were measured are in speed.json; to go on: --resume"
    return cli.execute(app, words, on_interrupt=advice)


if __name__ == "__main__":
    sys.exit(main())
