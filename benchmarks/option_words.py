"""The words of options: presets, changes of a recipe, and values by task."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclopts import Token

import presets
from aimc_bridge.errors import SpecError, UnknownNameError, UsageError
from aimc_bridge.spec import Preset, TrainingSpec

MADE = "package.module:NAME or path/to/file.py:NAME in Python, or a .toml or .json file"


def preset_of(text: str) -> Preset:
    """Return the preset with a name, the preset in a file, or a preset that Python code makes.

    Args:
        text: A name from `presets.names()`; a path that ends in .toml or .json; or
            `package.module:NAME` or `path/to/file.py:NAME`, a variable that holds a preset. Such a
            preset can have a device that is a Python object.

    Raises:
        UsageError: If no preset has this name (the error lists the names), or if the file or the
            module cannot be read.
        SpecError: If the file's data are not a preset.
    """
    place, _, variable = text.rpartition(":")
    if place and Path(text).suffix not in (".toml", ".json"):
        return _preset_in(text, place, variable)
    if Path(text).suffix in (".toml", ".json") or os.sep in text:
        return presets.load(text)
    try:
        return presets.get(text)
    except UnknownNameError as error:
        raise UsageError(f"--preset: {error}; or name {MADE}") from None


def _preset_in(text: str, place: str, variable: str) -> Preset:
    """Return the preset that a variable of a module or of a file holds."""
    from benchmarks.tasks.registry import imported

    values = vars(imported(f"preset {text!r}", place))
    preset = values.get(variable)
    if not isinstance(preset, Preset):
        has = ", ".join(name for name, value in values.items() if isinstance(value, Preset))
        raise UsageError(
            f"preset {text!r}: {place} has no preset {variable!r}; "
            + (f"its presets: {has}" if has else "it has none")
        )
    return preset


def read_preset(_: Any, tokens: Sequence[Token]) -> Preset:
    """Read the word of an option with one preset; a converter for `cyclopts.Parameter`.

    Args:
        tokens: The word.

    Raises:
        AimcError: As `preset_of`.
    """
    return preset_of(tokens[0].value)


def read_presets(_: Any, tokens: Sequence[Token]) -> tuple[Preset, ...]:
    """Read the words of an option with several presets; a converter for `cyclopts.Parameter`.

    Args:
        tokens: The words.

    Returns:
        The presets, each once.

    Raises:
        AimcError: As `preset_of`, and if two presets have the same name.
    """
    chosen: dict[str, Preset] = {}
    for token in tokens:
        preset = preset_of(token.value)
        if chosen.setdefault(preset.name, preset) != preset:
            raise UsageError(
                f"{token.keyword} {token.value}: a second preset with the name {preset.name!r}; "
                "give it a name of its own"
            )
    return tuple(chosen.values())


def changes_of(words: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a training recipe that --set changes.

    Args:
        words: FIELD=VALUE words. A value is read as JSON; if it is not JSON, it is text.

    Returns:
        Field -> new value; a JSON list becomes a tuple.

    Raises:
        SpecError: If a word has no "=" or names a field that a recipe does not have.
    """
    known = TrainingSpec.field_names()
    changes: dict[str, Any] = {}
    for word in words:
        key, separator, text = word.partition("=")
        if not separator or key not in known:
            raise SpecError(f"--set {word!r}; allowed: FIELD=VALUE, fields: {', '.join(known)}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        changes[key] = tuple(value) if isinstance(value, list) else value
    return changes


def by_task(option: str, words: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Read the TASK=VALUE words of an option; VALUE alone is enough if the command has one task.

    Args:
        option: The name of the option, for errors.
        words: The words of the option.
        names: The tasks of the command.

    Returns:
        Task -> value.

    Raises:
        UsageError: If a value names no task although there are several, or an unknown task.
    """
    values: dict[str, str] = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not separator:
            if len(names) != 1:
                raise UsageError(f"{option} {word}: which task? name one, or write TASK={word}")
            name, value = names[0], word
        if name not in names:
            raise UsageError(f"{option} {word}: {name!r} is not among {', '.join(names)}")
        values[name] = value
    return values


def checkpoints_of(words: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    """Read the [TASK=]PATH words of --checkpoint.

    Args:
        words: The words of the option.
        names: The tasks of the command.

    Returns:
        Task -> path of the digital model. For the folder of a `benchmarks.run` that is the model
        which was trained in it.

    Raises:
        UsageError: See `by_task`.
    """
    paths = paths_of("--checkpoint", words, names)
    for name, path in paths.items():
        trained = path / "work" / name / "digital"
        if (trained / MODEL).is_file() and not (path / MODEL).exists():
            paths[name] = trained
    return paths


MODEL = "model.safetensors"
"""The file of a trained digital model, in the folder of its training."""


def paths_of(option: str, words: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    """Read the [TASK=]PATH words of an option.

    Args:
        option: The name of the option, for errors.
        words: The words of the option.
        names: The tasks of the command.

    Returns:
        Task -> path.

    Raises:
        UsageError: See `by_task`.
    """
    return {name: Path(path) for name, path in by_task(option, words, names).items()}
