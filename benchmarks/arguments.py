"""The command line of the benchmark, checked and turned into plans and settings."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import presets
from aimc_bridge.calibration import METHODS
from aimc_bridge.engines.base import engine as find_engine
from aimc_bridge.errors import UsageError
from aimc_bridge.spec import TrainingSpec
from aimc_bridge.times import seconds
from benchmarks import digital, tasks
from benchmarks.command import Parser, add_tasks, add_trained, check_device, task_names
from benchmarks.report.tables import PHASES
from benchmarks.studies.study import Replica, Settings
from benchmarks.studies.trainings import How
from benchmarks.tasks.plan import Plan, parse_changes

_COUNTS = (
    *("chips", "aihwkit_chips", "subset", "aihwkit_subset", "hwa_batches", "threads"),
    *("seeds", "validate_every", "accumulate", "checkpoint_every"),
)

TIMES = ("1s", "1h", "1d", "1y")
_CHIPS = {"chips": "chips", "slow_chips": "aihwkit_chips"}  # the plan's name: the option's
GROWING = ("times", "chips", "aihwkit_chips", "phases", "seeds")
"""What a run that is gone on with may be asked for more of: what it has is not done again."""


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog="python -m benchmarks.run",
        description="Convert, train hardware-aware, program, drift, report.",
        allow_abbrev=False,
    )
    add = made.add_argument
    add_tasks(add)
    add("--preset", default="rasch2023", help=f"one of {', '.join(presets.names())}")
    add("--engine", default="both", help="native, aihwkit or both")
    add("--times", nargs="*", help=f"as 1s 1h '1 day' 3600; default {' '.join(TIMES)}")
    add("--chips", type=int, help="chips on the native engine")
    add("--aihwkit-chips", type=int, help="chips on the aihwkit engine")
    add("--subset", type=int, help="test samples (words) on the native engine")
    add("--aihwkit-subset", type=int, help="test samples (words) on the aihwkit engine")
    add(
        "--phases",
        nargs="*",
        help="direct, control (the same training without noise), hwa; "
        "direct and hwa, or direct alone with --checkpoint",
    )
    add_trained(add)
    add("--calibration", help="how data set the input ranges: std, max or percentile")
    add(
        "--out-percentile",
        type=float,
        help="of outputs that the ADC must hold: input ranges are raised for it; 0 leaves them",
    )
    add(
        "--recalibrate",
        action="store_true",
        help="set the input ranges anew after hardware-aware training, as before it",
    )
    add("--hwa-batches", type=int, help="mini-batches of hardware-aware training and its control")
    add("--digital-epochs", type=float, help="epochs of digital training")
    add("--recipe", help="a recipe of the preset, as wrn16; default: the task's own")
    add(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="changes",
        help="a field of the training recipe, as noise_scale=4",
    )
    add(
        "--option",
        "-o",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the task, as size=paper (lstm), encoder=PATH (bert)",
    )
    add("--validate-every", type=int, help="mini-batches between two looks at validation data")
    add("--keep", help="weights of a training that are kept: last, or best on validation data")
    add(
        "--reestimate-bn",
        type=int,
        default=0,
        metavar="N",
        help="batch-norm statistics from N batches of training data, on each chip at each time",
    )
    add("--accumulate", type=int, default=1, help="mini-batches of one optimizer step")
    add("--precision", default="fp32", help="of trainings: fp32 or bf16 (autocast)")
    add("--compile", action="store_true", help="torch.compile the trainings")
    add("--compiled", action="store_true", help="the native engine as native.compiled runs it")
    add("--checkpoint-every", type=int, default=500, help="mini-batches between checkpoints")
    add("--device", default="cpu", help="cpu or cuda")
    add("--threads", type=int, help="threads of torch; default 1 for embedded, else all cores")
    add("--seed", type=int, default=0)
    add("--seeds", type=int, default=1, help="so many trainings a task, from --seed on")
    add("--out", type=Path, help="folder of the results; default runs/PROFILE-TIME")
    more = "more --times, --chips, --phases or --seeds add to it, and what it has stays"
    add("--resume", action="store_true", help=f"go on with the run in --out; {more}")
    return made


def grow(given: argparse.Namespace) -> None:
    """Add what the run in `--out` has to what is asked for, where `--resume` goes on with it.

    Raises:  UsageError where fewer chips are asked for by number than it has.
    """
    if not given.resume or given.out is None:
        return
    try:
        kept = json.loads((given.out / "run.json").read_text())["arguments"]
        before = {field: kept[field] for field in GROWING}
    except (OSError, ValueError, KeyError, TypeError):
        return  # no run's folder: said where it is entered
    if kept.get("profile") != given.profile:
        return  # another run: said there too
    given.times = [*before["times"], *(given.times or [])]
    phases = [*before["phases"], *(given.phases or [])]
    given.phases = [phase for phase in PHASES if phase in phases] + [
        phase for phase in phases if phase not in PHASES
    ]
    given.seeds = max(before["seeds"], given.seeds)
    for field in ("chips", "aihwkit_chips"):
        if getattr(given, field) is None:
            setattr(given, field, before[field])
    task_names(given.tasks, given.profile)  # one from outside is known by its name from here on
    former = argparse.Namespace(**{**vars(given), **{f: before[f] for f in _CHIPS.values()}})
    for name in kept.get("tasks", []):
        now, then = plan_of(given, name), plan_of(former, name)
        for part, field in _CHIPS.items():
            has = getattr(then, part)
            if getattr(now, part) < has:
                option = field.replace("_", "-")
                raise UsageError(
                    f"--{option} {getattr(given, field)}: the run has {has} of {name}; "
                    "give as many or more, or another --out"
                )


def settings_of(
    given: argparse.Namespace, replica: Replica | None = None
) -> tuple[Settings, list[str]]:
    names = task_names(given.tasks, given.profile)
    if given.engine not in ("native", "aihwkit", "both"):
        raise UsageError(f"unknown engine {given.engine!r}; one of native, aihwkit, both")
    times = TIMES if given.times is None else given.times
    if not times:
        raise UsageError("--times names no time; allowed: one or more, as 1s 1h '1 day' 3600")
    phases = ["direct"] if given.checkpoint and not given.trained else ["direct", "hwa"]
    if given.phases is not None:
        phases = list(dict.fromkeys(given.phases))
    if not phases:
        raise UsageError(f"--phases names no phase; one of {', '.join(PHASES[1:])}")
    for phase in phases:
        if phase not in PHASES[1:]:
            raise UsageError(f"unknown phase {phase!r}; one of {', '.join(PHASES[1:])}")
    if given.calibration not in (None, *METHODS):
        raise UsageError(f"unknown calibration {given.calibration!r}; one of {', '.join(METHODS)}")
    if given.out_percentile is not None and not 0 <= given.out_percentile <= 100:
        raise UsageError(f"--out-percentile {given.out_percentile}; allowed: 0 to 100")
    if given.precision not in digital.PRECISIONS:
        raise UsageError(
            f"unknown precision {given.precision!r}; one of {', '.join(digital.PRECISIONS)}"
        )
    if given.keep not in (None, "last", "best"):
        raise UsageError(f"--keep {given.keep!r}; one of last, best")
    if given.reestimate_bn < 0:
        raise UsageError(f"--reestimate-bn {given.reestimate_bn}; allowed: 0 (never) or more")
    if given.digital_epochs is not None and not 0 < given.digital_epochs < math.inf:
        raise UsageError(f"--digital-epochs {given.digital_epochs}; allowed: more than 0")
    for field in _COUNTS:
        value = getattr(given, field)
        if value is not None and value < 1:
            raise UsageError(f"--{field.replace('_', '-')} {value}; allowed: 1 or more")
    check_device(given.device)
    engines = ("native", "aihwkit") if given.engine == "both" else (given.engine,)
    settings = Settings(
        preset=presets.get(given.preset),
        engines=engines,
        phases=tuple(phases),
        times=tuple(sorted({seconds(word) for word in times})),
        seed=given.seed,
        device=torch.device(given.device),
        changes=parse_changes(given.changes, TrainingSpec.field_names()),
        recipe=given.recipe,
        how=How(
            given.seed,
            torch.device(given.device),
            precision=given.precision,
            compile=given.compile,
            accumulate=given.accumulate,
            checkpoint_every=given.checkpoint_every,
            show=Console(stderr=True).is_terminal,
        ),
        compiled=given.compiled,
        reestimate_bn=given.reestimate_bn,
        seeds=given.seeds,
        replica=replica or Replica(),
    )
    for engine in engines:
        find_engine(engine).check(settings.preset, settings.device, torch.float32)
    return settings, names


def plan_of(given: argparse.Namespace, name: str) -> Plan:
    changes = {
        "chips": given.chips,
        "slow_chips": given.aihwkit_chips,
        "subset": given.subset,
        "slow_subset": given.aihwkit_subset,
        "hwa_batches": given.hwa_batches,
        "method": given.calibration,
        "validate_every": given.validate_every,
        "keep": given.keep,
        "digital_epochs": given.digital_epochs,
        "recalibrate": given.recalibrate or None,
    }
    known = {key: value for key, value in changes.items() if value is not None}
    if given.out_percentile is not None:
        known["out_percentile"] = given.out_percentile or None
    return dataclasses.replace(tasks.find(name).plan_of(given.profile), **known)


def options_of(name: str, options: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Options that this task has; one that no named task has is left in, for its error."""
    known = {n: set(tasks.find(n).option_types) for n in names}
    return {
        key: value
        for key, value in options.items()
        if key in known[name] or not any(key in keys for keys in known.values())
    }


def claim_of(given: argparse.Namespace, settings: Settings, names: list[str]) -> dict[str, Any]:
    """What must be the same for a run to be gone on with."""
    kept = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(given).items()
        if key not in ("out", "resume", "threads", "tasks", "times", "phases", "checkpoint_every")
    }
    return {
        **kept,
        "tasks": names,
        "times": list(settings.times),
        "phases": list(settings.phases),
        "preset_data": settings.preset.to_dict(),
    }
