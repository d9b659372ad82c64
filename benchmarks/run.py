"""The benchmark: `python -m benchmarks.run [wrn] [bert] [lstm]`.

Converts each model with a preset, trains it hardware-aware, programs chips, drifts them, and writes
results.csv, summary.md, figures and run.json. Exit codes: 0 done, 1 a check failed, 2 bad usage.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import shlex
import sys
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

import presets
from aimc_bridge import report
from aimc_bridge.calibration import METHODS
from aimc_bridge.errors import AimcError, TrainingError, UsageError
from aimc_bridge.registry import engine as find_engine
from aimc_bridge.spec import TrainingSpec
from aimc_bridge.times import label, seconds
from benchmarks import tasks
from benchmarks.command import Parser
from benchmarks.data import data_dir
from benchmarks.digital import replace_file
from benchmarks.profiles import PLANS, Plan, parse_changes, recipe_for
from benchmarks.study import Settings, Study

if TYPE_CHECKING:
    import pandas as pd

_PACKAGES = (
    *("aimc-bridge", "aihwkit", "torch", "torchvision", "transformers", "datasets"),
    *("accelerate", "numpy", "scikit-learn"),
)


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog="python -m benchmarks.run",
        description="Convert, train hardware-aware, program, drift, report.",
        allow_abbrev=False,
    )
    add = made.add_argument
    add("tasks", nargs="*", metavar="TASK", help="wrn, bert, lstm; all three when none is named")
    add("--profile", default="embedded", help="embedded (no files), real (--data-dir), paper")
    add("--data-dir", type=Path, help="folder with the data; default $AIMC_BRIDGE_DATA")
    add("--preset", default="rasch2023", help=f"one of {', '.join(presets.names())}")
    add("--engine", default="both", help="native, aihwkit or both")
    add("--times", nargs="*", default=["1s", "1h", "1d", "1y"], help="as 1s 1h '1 day' 3600")
    add("--chips", type=int, help="chips on the native engine")
    add("--aihwkit-chips", type=int, help="chips on the aihwkit engine")
    add("--subset", type=int, help="test samples (words) on the native engine")
    add("--aihwkit-subset", type=int, help="test samples (words) on the aihwkit engine")
    add("--phases", nargs="*", help="direct, hwa; both, or direct alone with --checkpoint")
    add(
        "--checkpoint",
        action="append",
        default=[],
        metavar="[TASK=]PATH",
        help="a trained digital model: a run's folder or its model.safetensors; no training",
    )
    add("--calibration", help="how data set the input ranges: std, max or percentile")
    add("--hwa-batches", type=int, help="mini-batches of hardware-aware training")
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
    add("--device", default="cpu", help="cpu or cuda")
    add("--threads", type=int, help="threads of torch; default 1 for embedded, else all cores")
    add("--seed", type=int, default=0)
    add("--out", type=Path, help="folder of the results; default runs/PROFILE-TIME")
    add("--resume", action="store_true", help="go on with the run in --out")
    return made


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
        run(parser().parse_intermixed_args(words), words, console)
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


def run(given: argparse.Namespace, words: list[str], console: Console) -> Path:
    """Check everything, then do it. Returns the folder of the results."""
    settings, names = _settings(given)
    plans = {name: _plan(given, name) for name in names}
    data_dir(given.data_dir)
    if given.out is not None:
        _refuse(given.out, given.resume)
    options = tasks.parse_options(given.option)
    checkpoints = _checkpoints(given.checkpoint, names)
    made = {
        name: tasks.get(name, given.profile, given.data_dir, **_options_of(name, options, names))
        for name in names
    }
    for name, task in made.items():  # what cannot work is found before any work
        recipe = recipe_for(settings.preset, task.recipe, plans[name], dict(settings.changes))
        if name in checkpoints:
            task.load(checkpoints[name])
        else:
            task.digital_loader(task.digital.batch_size, settings.seed)
        if "hwa" in settings.phases:
            task.train_loader(recipe.spec.batch_size, settings.seed)
    out = given.out or Path("runs") / f"{given.profile}-{time.strftime('%Y%m%d-%H%M%S')}"
    claim = {"arguments": _claim(given, settings, names)}
    _enter(out, claim, given.resume)
    threads = given.threads or (1 if given.profile == "embedded" else None)
    if threads:  # models as small as the embedded ones spend a second thread on waiting for it
        torch.set_num_threads(threads)
    _announce(console, made, settings, plans, given.profile, out)

    studies, parts = [], []
    try:
        for name, task in made.items():
            study = Study(
                task, plans[name], settings, out / "work" / name, console, checkpoints.get(name)
            )
            parts.append(study.run())
            studies.append(study)
            _write(out, claim, words, studies, parts)
    except BaseException:
        if not _leave(out):
            again = "" if given.out is not None else f" --out {out}"
            console.print(
                f"what is done is kept; to go on: the same command with{again} --resume",
                soft_wrap=True,
            )
        raise
    print((out / "summary.md").read_text())
    console.print(f"results in {out}", markup=False, soft_wrap=True)
    return out


def _settings(given: argparse.Namespace) -> tuple[Settings, list[str]]:
    names = list(dict.fromkeys(given.tasks)) or list(tasks.NAMES)
    for name in names:
        if name not in tasks.NAMES:
            raise UsageError(f"unknown task {name!r}; one of {', '.join(tasks.NAMES)}")
    if given.profile not in tasks.PROFILES:
        raise UsageError(f"unknown profile {given.profile!r}; one of {', '.join(tasks.PROFILES)}")
    if given.engine not in ("native", "aihwkit", "both"):
        raise UsageError(f"unknown engine {given.engine!r}; one of native, aihwkit, both")
    if not given.times:
        raise UsageError("--times names no time; allowed: one or more, as 1s 1h '1 day' 3600")
    phases = ["direct"] if given.checkpoint else ["direct", "hwa"]
    if given.phases is not None:
        phases = list(dict.fromkeys(given.phases))
    if not phases:
        raise UsageError("--phases names no phase; one of direct, hwa")
    for phase in phases:
        if phase not in ("direct", "hwa"):
            raise UsageError(f"unknown phase {phase!r}; one of direct, hwa")
    if given.calibration not in (None, *METHODS):
        raise UsageError(f"unknown calibration {given.calibration!r}; one of {', '.join(METHODS)}")
    for field in ("chips", "aihwkit_chips", "subset", "aihwkit_subset", "hwa_batches", "threads"):
        value = getattr(given, field)
        if value is not None and value < 1:
            raise UsageError(f"--{field.replace('_', '-')} {value}; allowed: 1 or more")
    if given.device not in ("cpu", "cuda"):
        raise UsageError(f"unknown device {given.device!r}; one of cpu, cuda")
    if given.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here; use --device cpu")
    engines = ("native", "aihwkit") if given.engine == "both" else (given.engine,)
    settings = Settings(
        preset=presets.get(given.preset),
        engines=engines,
        phases=tuple(phases),
        times=tuple(sorted({seconds(word) for word in given.times})),
        seed=given.seed,
        device=torch.device(given.device),
        changes=parse_changes(given.changes, TrainingSpec.field_names()),
    )
    for engine in engines:
        find_engine(engine).check(settings.preset, settings.device, torch.float32)
    return settings, names


def _plan(given: argparse.Namespace, name: str) -> Plan:
    changes = {
        "chips": given.chips,
        "slow_chips": given.aihwkit_chips,
        "subset": given.subset,
        "slow_subset": given.aihwkit_subset,
        "hwa_batches": given.hwa_batches,
        "method": given.calibration,
    }
    known = {key: value for key, value in changes.items() if value is not None}
    return dataclasses.replace(PLANS[given.profile, name], **known)


def _options_of(name: str, options: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Options that this task has; one that no named task has is left in, for its error."""
    known = {n: set(import_module(f"benchmarks.tasks.{n}").OPTIONS) for n in names}
    return {
        key: value
        for key, value in options.items()
        if key in known[name] or not any(key in keys for keys in known.values())
    }


def _checkpoints(words: list[str], names: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for word in words:
        name, separator, path = word.partition("=")
        if not separator:
            if len(names) != 1:
                raise UsageError(
                    f"--checkpoint {word}: which task? name one task, or write TASK={word}"
                )
            name, path = names[0], word
        if name not in names:
            raise UsageError(f"--checkpoint {word}: {name!r} is not among {', '.join(names)}")
        found[name] = Path(path)
    return found


def _claim(given: argparse.Namespace, settings: Settings, names: list[str]) -> dict[str, Any]:
    """What must be the same for a run to be gone on with."""
    kept = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(given).items()
        if key not in ("out", "resume", "threads", "tasks", "times", "phases")
    }
    return {
        **kept,
        "tasks": names,
        "times": list(settings.times),
        "phases": list(settings.phases),
        "preset_data": settings.preset.to_dict(),
    }


def _refuse(out: Path, resume: bool) -> bool:
    """Whether the folder holds a run to go on with; an error where it cannot be used."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder")
    if not out.exists() or not any(out.iterdir()):
        return False
    if not resume:
        raise UsageError(f"--out {out} is not empty; name another folder, or add --resume")
    return True


def _enter(out: Path, claim: dict[str, Any], resume: bool) -> None:
    """Take the folder, or refuse it."""
    record = out / "run.json"
    if _refuse(out, resume):
        try:
            before = json.loads(record.read_text())["arguments"]
        except (OSError, ValueError, KeyError):
            raise UsageError(
                f"{record}: no record of a run to resume; name another --out"
            ) from None
        now = json.loads(json.dumps(claim["arguments"]))
        differs = sorted(key for key in now if before.get(key) != now[key])
        if differs:
            raise UsageError(
                f"{out} holds a run with other arguments ({', '.join(differs)}); "
                "name another --out, or repeat them"
            )
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        replace_file(record, json.dumps(claim, indent=1) + "\n")
    except OSError as error:
        raise UsageError(
            f"--out {out} cannot be written ({error.strerror}); name another folder"
        ) from None


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
    profile: str,
    out: Path,
) -> None:
    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    if profile != "paper":
        say(
            f"profile {profile}: these data, model sizes and training lengths are not the paper's; "
            "compare no number with it",
            "yellow",
        )
    for name, task in made.items():
        say(f"  {name}: {_size(task)}")
    times = ", ".join(label(t) for t in settings.times)
    say(f"preset {settings.preset}; phases {', '.join(settings.phases)}; times {times}")
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
    studies: list[Study],
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
        f"`{_command(words)}`, preset {studies[0].settings.preset}. "
        "Means ± standard deviations over chips; digital: the same model before conversion, on the "
        "same samples; A* = 1 - (err - err_digital) / (err_chance - err_digital).",
    ]
    panels = []
    for study, rows in zip(studies, parts, strict=True):
        task = study.task
        report.figure(rows, task.metric, figures / f"{task.name}.png")
        panels.append((rows, task.metric))
        text.append(f"## {task.model_name}, {task.dataset}, {task.metric}")
        text.append(report.markdown(report.summary(rows, task.metric)))
        of = "words" if task.metric == "perplexity" else "classes"
        text.append(f"A*, with chance at 1/{task.n_classes} ({of}):")
        text.append(report.markdown(report.a_star_summary(rows, task.chance_error)))
        text.append(f"![{task.model_name}](figures/{task.name}.png)")
    report.dashboard(panels, figures / "dashboard.png")
    replace_file(out / "summary.md", "\n\n".join(text) + "\n")
    record = {
        **claim,
        "command": _command(words),
        "versions": {"python": platform.python_version(), **_versions()},
        "hardware": {
            "machine": platform.machine(),
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "studies": {study.task.name: study.facts for study in studies},
    }
    replace_file(out / "run.json", json.dumps(record, indent=1) + "\n")


def _command(words: list[str]) -> str:
    return shlex.join(["python", "-m", "benchmarks.run", *words])


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "?"
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "?")


if __name__ == "__main__":
    sys.exit(main())
