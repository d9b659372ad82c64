"""The options that a command line of `benchmarks.run` gives."""

from __future__ import annotations

import dataclasses
import shlex

from benchmarks import run
from benchmarks.studies.settings import Settings, task_names


def settings_of(command: str) -> Settings:
    """Return the options of a command; nothing is run.

    Args:
        command: Such as "python -m benchmarks.run wrn --chips 5".
    """
    program, words = shlex.split(command)[:3], shlex.split(command)[3:]
    assert program == ["python", "-m", "benchmarks.run"]
    _, bound, _ = run.app.parse_args(words, exit_on_error=False, print_error=False)
    settings: Settings = bound.arguments.get("settings", Settings())
    names = task_names(bound.arguments.get("names", ()), settings.profile)
    return dataclasses.replace(settings, tasks=names)
