"""What the command lines of this folder share: options of several words, tasks, folders."""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from aimc_bridge.errors import UsageError
from benchmarks import tasks
from benchmarks.files import replace_file


class Parser(argparse.ArgumentParser):
    """argparse with our errors; typer has no option of several words as in `--times 1s 1h 1d`."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def check_alone(program: str) -> None:
    """UsageError where a launcher started several processes of a program that shares no work."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            f"{program} runs in one process; start it without a launcher "
            "(benchmarks.run is the program that several processes train for)"
        )


# --- tasks ----------------------------------------------------------------------------------------

TASKS = f"{', '.join(tasks.names())}, package.module:Class or path/to/file.py:Class"
"""What a TASK on a command line may be, for help texts."""


def add_tasks(add: Callable[..., Any]) -> None:
    """The options that say which models, on which data."""
    add("tasks", nargs="*", metavar="TASK", help=f"{TASKS}; none: all of the profile")
    add("--profile", default="embedded", help="embedded (no files), real (--data-dir), paper")
    add("--data-dir", type=Path, help="folder with the data; default $AIMC_BRIDGE_DATA")
    add(
        "--checkpoint",
        action="append",
        default=[],
        metavar="[TASK=]PATH",
        help="a trained digital model: a run's folder or its model.safetensors; no training",
    )


def add_trained(add: Callable[..., Any]) -> None:
    """The option that names a hardware-aware training's result."""
    add(
        "--trained",
        action="append",
        default=[],
        metavar="[TASK=]PATH",
        help="hwa.safetensors of a run: the hardware-aware model as it was trained there",
    )


def task_names(words: list[str], profile: str) -> list[str]:
    """Return the names of the tasks that words name, each once.

    Args:
        words: TASK words, as `tasks.find` takes them. None are all tasks that have the profile.
        profile: The profile that they are run with.

    Raises:
        UsageError: For a task that is not there, or that does not have the profile.
    """
    names = list(dict.fromkeys(tasks.find(word).name for word in words))
    for name in names:
        tasks.find(name).plan_of(profile)
    if profile not in tasks.PROFILES:
        raise UsageError(f"unknown profile {profile!r}; one of {', '.join(tasks.PROFILES)}")
    return names or list(tasks.names(profile))


def by_task(option: str, words: list[str], names: list[str]) -> dict[str, str]:
    """TASK=VALUE words of an option, or a lone VALUE where one task is named."""
    found: dict[str, str] = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not separator:
            if len(names) != 1:
                raise UsageError(f"{option} {word}: which task? name one, or write TASK={word}")
            name, value = names[0], word
        if name not in names:
            raise UsageError(f"{option} {word}: {name!r} is not among {', '.join(names)}")
        found[name] = value
    return found


def paths_of(option: str, words: list[str], names: list[str]) -> dict[str, Path]:
    """`by_task`, paths."""
    return {name: Path(path) for name, path in by_task(option, words, names).items()}


def check_device(name: str) -> None:
    """UsageError where there is no such device."""
    if name not in ("cpu", "cuda"):
        raise UsageError(f"unknown device {name!r}; one of cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here; use --device cpu")


# --- folders --------------------------------------------------------------------------------------


def holds_a_run(out: Path, resume: bool | None) -> bool:
    """Whether the folder holds a run to go on with; an error where it cannot be used.

    Args:    resume  None where the command cannot go on with a run.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder")
    if not out.exists() or not any(out.iterdir()):
        return False
    if not resume:
        more = "" if resume is None else ", or add --resume"
        raise UsageError(f"--out {out} is not empty; name another folder{more}")
    return True


def enter(out: Path, arguments: dict[str, Any], resume: bool, free: tuple[str, ...] = ()) -> None:
    """Take the folder for a run with these arguments, or refuse it: run.json says whose it is.

    Those named in `free` may differ from the run's own, and take their place.
    """
    record = out / "run.json"
    if holds_a_run(out, resume):
        try:
            kept = json.loads(record.read_text())
            before = kept["arguments"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UsageError(
                f"{record}: no record of a run to resume; name another --out"
            ) from None
        now = json.loads(json.dumps(arguments))
        differs = sorted(key for key in now if before.get(key) != now[key])
        wrong = [key for key in differs if key not in free]
        if wrong:
            raise UsageError(
                f"{out} holds a run with other arguments ({', '.join(wrong)}); "
                "name another --out, or repeat them"
            )
        if differs:  # what it says of its results is of fewer: not finished until it is again
            replace_file(record, json.dumps({"arguments": arguments}, indent=1) + "\n")
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        replace_file(record, json.dumps({"arguments": arguments}, indent=1) + "\n")
    except OSError as error:
        raise UsageError(
            f"--out {out} cannot be written ({error.strerror}); name another folder"
        ) from None
