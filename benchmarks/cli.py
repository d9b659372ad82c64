"""The command line that all programs of this folder share: their options, and how they run.

A command is a function whose parameters are its options:

    def ablation(task: cli.TaskName, *, out: cli.Out = None, seed: cli.Seed = 0,
                 output: cli.Output = cli.Output(), words: cli.Words = ()) -> int | None:
        \"\"\"Train a recipe with each technique switched off once; compare the chips.\"\"\"

    app = cli.command("ablation", ablation, "TASK")

    main = partial(cli.execute, app, on_interrupt="interrupted; --resume goes on")

An option's name means the same thing in every command; its type in this module says what. A command
has an option only if its function has the parameter. This module imports torch only when an option
needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter, Token

import presets
from aimc_bridge import commands
from aimc_bridge.commands import DataDir, Output, Words, flag
from aimc_bridge.errors import UsageError
from aimc_bridge.interruption import INTERRUPTED
from aimc_bridge.spec import Preset
from aimc_bridge.times import label, seconds
from benchmarks.option_words import (
    MADE,
    by_task,
    changes_of,
    checkpoints_of,
    paths_of,
    preset_of,
    read_preset,
    read_presets,
)

__all__ = [
    "TIMES",
    "Checkpoints",
    "Chips",
    "Compiled",
    "Count",
    "DataDir",
    "Device",
    "Option",
    "Out",
    "Output",
    "Precision",
    "PresetName",
    "PresetNames",
    "Profile",
    "Record",
    "Resume",
    "Seed",
    "Seeds",
    "Set",
    "TaskName",
    "TaskNames",
    "Threads",
    "Times",
    "Trained",
    "Words",
    "Workers",
    "at_least",
    "by_task",
    "changes_of",
    "check_alone",
    "checkpoints_of",
    "command",
    "count",
    "execute",
    "flag",
    "number",
    "paths_of",
    "preset_of",
    "processes",
]


def command(name: str, function: Callable[..., int | None], arguments: str = "") -> App:
    """Make a command that is started as `python -m benchmarks.NAME`.

    Args:
        name: The name of the command.
        function: The function that does the work; see `aimc_bridge.commands.command`.
        arguments: The positional words, for the usage line, such as "TASK" or "[TASK ...]".
    """
    return commands.command(name, function, program=_program(name), arguments=arguments)


def execute(
    app: App, words: Sequence[str] | None = None, *, on_interrupt: str = INTERRUPTED
) -> int:
    """Run a command of this folder; see `aimc_bridge.commands.execute`.

    Args:
        app: The command, from `command`.
        words: The words of the command line after its name; None means those of this process.
        on_interrupt: The text that is printed after Ctrl-C; it says how to continue.

    Returns:
        The exit code.
    """
    return commands.execute(app, words, program=_program(app.name[0]), on_interrupt=on_interrupt)


def _program(name: str) -> str:
    return f"python -m benchmarks.{name}"


# --- numbers --------------------------------------------------------------------------------------


def number(
    kind: type[int] | type[float], fits: Callable[[Any], bool], allowed: str
) -> Callable[[Any, Sequence[Token]], Any]:
    """Make a converter for a number within bounds.

    Args:
        kind: int or float.
        fits: A function that says whether a number is allowed.
        allowed: The allowed values in words, for the error, such as "1 or more".

    Returns:
        A converter for `cyclopts.Parameter`. It raises a UsageError for a word that is no number or
        not allowed.
    """

    def convert(_: Any, tokens: Sequence[Token]) -> Any:
        token = tokens[0]
        try:
            value = kind(token.value)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise UsageError(f"{token.keyword} {token.value}; allowed: {what}, {allowed}") from None
        if not fits(value):
            raise UsageError(f"{token.keyword} {token.value}; allowed: {allowed}")
        return value

    return convert


def at_least(least: int, why: str = "") -> Callable[[Any, Sequence[Token]], Any]:
    """Make a converter for a whole number that is not below `least`.

    Args:
        least: The lowest number that is allowed.
        why: The reason for the limit; the error gives it.

    Returns:
        A converter for `cyclopts.Parameter`.
    """
    reason = f": {why}" if why else ""
    return number(int, lambda value: bool(value >= least), f"{least} or more{reason}")


def count(text: str) -> Parameter:
    """Describe an option that is a whole number >= 1.

    Args:
        text: Its help text.
    """
    return Parameter(converter=at_least(1), help=text)


Count = Annotated[int, Parameter(converter=at_least(1))]
"""A whole number >= 1. `Annotated[Count | None, Parameter(help=...)]` adds the help text."""

Seed = Annotated[
    int,
    Parameter(
        converter=number(int, lambda value: abs(value) < 2**62, "between -2^62 and 2^62"),
        help="First random seed; the same seed gives the same result.",
    ),
]
"""Default: 0."""

Seeds = Annotated[int, count("Trainings, with the seeds from --seed on.")]
"""Default: 1."""

Chips = Annotated[int | None, count("Chips that are programmed and measured.")]
Threads = Annotated[
    int | None, count("Threads of torch; default: 1 with --profile embedded, else all cores.")
]
Workers = Annotated[
    int | None,
    count(
        "Trainings (one per task and seed) that run side by side, a process each; default: as many "
        "as cores with --profile embedded, else 1. It changes no result."
    ),
]

# --- times ----------------------------------------------------------------------------------------


def _seconds(_: Any, tokens: Sequence[Token]) -> tuple[float, ...]:
    return tuple(sorted({seconds(token.value) for token in tokens}))


def _some(_: Any, times: tuple[float, ...] | None) -> None:
    if times is not None and not times:
        raise UsageError("--times names no time; allowed: one or more, as 1s 1h '1 day' 3600")


def _labels(times: tuple[float, ...] | None) -> str | None:
    return None if times is None else " ".join(map(label, times))


Times = Annotated[
    tuple[float, ...] | None,
    Parameter(
        consume_multiple=True,
        converter=_seconds,
        validator=_some,
        show_default=_labels,
        help="Times after programming: 1s 1h '1 day' 3600.",
    ),
]
"""Seconds after programming, without repeats, in ascending order."""

TIMES = (1.0, 3600.0, 86400.0, 365 * 86400.0)
"""The default times of most commands, in seconds: 1s 1h 1d 1y."""


# --- chips, recipes -------------------------------------------------------------------------------

_PRESETS = f"{', '.join(presets.names())}, or {MADE}"

PresetName = Annotated[
    Preset,
    Parameter(
        name="--preset",
        converter=read_preset,
        n_tokens=1,
        accepts_keys=False,
        show_default=str,
        help=f"Chip: {_PRESETS}.",
    ),
]
"""Default: presets.rasch2023."""

PresetNames = Annotated[
    tuple[Preset, ...],
    Parameter(
        name="--preset",
        consume_multiple=True,
        converter=read_presets,
        n_tokens=1,
        accepts_keys=False,
        show_default=lambda chosen: " ".join(map(str, chosen)),
        help=f"Chips: {_PRESETS}.",
    ),
]


def _check_changes(_: Any, words: tuple[str, ...]) -> None:
    changes_of(words)


Set = Annotated[
    tuple[str, ...],
    Parameter(
        name="--set",
        validator=_check_changes,
        show_default=False,
        help="A field of the training recipe, FIELD=VALUE, as noise_scale=4; may be repeated.",
    ),
]
"""Words for `changes_of`. Default: ()."""


# --- tasks ----------------------------------------------------------------------------------------

_OWN = "or your own: package.module:Class, path/to/file.py:Class"
_BUILT_IN = "wrn, bert, lstm, resnet32, mlp"
TaskName = Annotated[str, Parameter(help=f"{_BUILT_IN}, {_OWN}.")]
TaskNames = Annotated[
    str,
    Parameter(name="TASK", help=f"{_BUILT_IN}, {_OWN}; none: all that have the profile, but mlp."),
]
"""The type of a parameter `*names`."""

Profile = Annotated[
    Literal["embedded", "real", "gpu", "paper"],
    Parameter(
        help="embedded: small, needs no files; real: real data (--data-dir), what two CPU cores "
        "can train; gpu: the same, what one GPU trains in minutes; paper: the paper's models, data "
        "and recipes."
    ),
]
"""Default: "embedded"."""

Option = Annotated[
    tuple[str, ...],
    Parameter(
        name=("--option", "-o"),
        show_default=False,
        help="An option of the task, KEY=VALUE, as size=paper (lstm), encoder=PATH (bert); "
        "may be repeated.",
    ),
]
"""Words for `tasks.parse_options`. Default: ()."""

Checkpoints = Annotated[
    tuple[str, ...],
    Parameter(
        name="--checkpoint",
        show_default=False,
        help="[TASK=]PATH: a trained digital model: the folder of benchmarks.digital or of "
        "benchmarks.run, or a model.safetensors; "
        "it is not trained then.",
    ),
]
"""Words for `paths_of`. Default: ()."""

Trained = Annotated[
    tuple[str, ...],
    Parameter(
        name="--trained",
        show_default=False,
        help="[TASK=]PATH: hwa.safetensors of a run, the hardware-aware model as trained there.",
    ),
]
"""Words for `paths_of`. Default: ()."""


# --- machine, folders -----------------------------------------------------------------------------


def _check_record(_: Any, name: str | None) -> None:
    if name is not None:
        from benchmarks.report.record import check_name

        check_name(name, "--record")


def _check_device(_: Any, name: str) -> None:
    if name == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UsageError("--device cuda: torch sees no CUDA device here; use --device cpu")


Device = Annotated[
    Literal["cpu", "cuda"],
    Parameter(validator=_check_device, help="Where models are trained and chips are simulated."),
]
"""Default: "cpu"."""

Precision = Annotated[
    Literal["fp32", "bf16"], Parameter(help="Of trainings; bf16 is autocast, weights stay fp32.")
]
"""Default: "fp32"."""

Compiled = Annotated[bool, flag("Run the native engine's compiled passes (native.compiled).")]

Out = Annotated[Path | None, Parameter(help="Folder of the results; default: runs/NAME-TIME.")]
Record = Annotated[
    str | None,
    Parameter(
        validator=_check_record,
        help="Keep the result among benchmarks/records/, under this name.",
    ),
]
Resume = Annotated[bool, flag("Go on with the run in --out.")]


def processes() -> int:
    """Return how many processes a launcher started; 1 without a launcher.

    Raises:
        UsageError: If the launcher's variable is not a number.
    """
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal():
        raise UsageError(f"WORLD_SIZE={text!r} in the environment; allowed: a whole number")
    return int(text)


def check_alone(program: str) -> None:
    """Refuse to run as one of several processes that a launcher started.

    Only `benchmarks.run` shares its work among processes.

    Args:
        program: The name of the program, for the error.

    Raises:
        UsageError: If a launcher started several processes.
    """
    if processes() > 1:
        raise UsageError(
            f"{program} runs in one process; start it without a launcher "
            "(benchmarks.run is the program that several processes train for)"
        )
