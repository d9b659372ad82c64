"""Presets as TOML or JSON files: a whole preset, or changes to another one."""

from __future__ import annotations

import json
import os
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aimc_bridge import files
from aimc_bridge.errors import AimcError, SpecError, UsageError
from aimc_bridge.spec.preset import Preset, check_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SHORT = ("base", "name", "why", "change")
_WHOLE = ("name", "description", *Preset.PARTS, "training", "changes")


def read_preset(path: str | os.PathLike[str], find: Callable[[str], Preset]) -> Preset:
    """Read a preset from a file.

    Args:
        path: A file whose name ends in .toml or .json. It holds either what `Preset.to_dict`
            returns, or `base`, `name`, `why` and a table `change` with lines of field = value.
        find: A function that returns the preset of a name, for `base`.

    Returns:
        The preset, under the name that the file gives it.

    Raises:
        UsageError: If there is no such file, or if it cannot be read as TOML or JSON.
        SpecError: If the data are not a preset: a field or a name is missing or unknown, or a value
            is not physical.
    """
    path = Path(path)
    data = _parsed(path)
    try:
        return _changed(data, find) if "base" in data else _whole(data)
    except AimcError as problem:
        raise SpecError(f"{path}: {problem}") from problem


def write_preset(preset: Preset, path: str | os.PathLike[str]) -> None:
    """Write a preset to a file, from which `read_preset` makes an equal preset.

    Args:
        preset: The preset. It is written whole.
        path: A file whose name ends in .toml or .json.

    Raises:
        UsageError: If the name ends in something else, or if the file cannot be written.
    """
    path = Path(path)
    _check_suffix(path)
    data = preset.to_dict()
    text = json.dumps(data, indent=1) + "\n" if path.suffix == ".json" else _toml(data)
    try:
        files.write_text(path, text)
    except OSError as cause:
        raise UsageError(f"{path}: cannot be written ({cause})") from cause


# --- reading ---


def _check_suffix(path: Path) -> None:
    """Raise UsageError if the name of a file ends neither in .toml nor in .json."""
    if path.suffix not in (".toml", ".json"):
        raise UsageError(f"{path}: allowed: a file that ends in .toml or .json")


def _parsed(path: Path) -> dict[str, Any]:
    """Return the data of a file; raise UsageError or SpecError if it has none."""
    _check_suffix(path)
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError as cause:
        raise UsageError(f"{path}: no such file") from cause
    except OSError as cause:
        raise UsageError(f"{path}: cannot be read ({cause})") from cause
    except ValueError as cause:  # bad TOML, bad JSON, or not UTF-8
        kind = path.suffix[1:].upper()
        raise UsageError(f"{path}: not a {kind} file ({cause})") from cause
    if not isinstance(data, dict):
        raise SpecError(f"{path}: holds a {type(data).__name__}; allowed: a preset's data")
    return data


def _check_keys(data: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    """Raise SpecError if there is a key that is not allowed."""
    unknown = [key for key in data if key not in allowed]
    if unknown:
        raise SpecError(f"no entry {', '.join(unknown)}; allowed: {', '.join(allowed)}")


def _changed(data: Mapping[str, Any], find: Callable[[str], Preset]) -> Preset:
    """Return the preset that the data describe as changes to another preset."""
    _check_keys(data, _SHORT)
    missing = [key for key in _SHORT if key not in data]
    if missing:
        raise SpecError(f"no {', '.join(missing)}; with base it needs {', '.join(_SHORT)}")
    if not isinstance(data["base"], str):
        raise SpecError(f"base = {data['base']!r}; allowed: the name of a preset")
    if not isinstance(data["change"], Mapping):
        raise SpecError("change is no table; allowed: [change], with lines of field = value")
    base = find(data["base"])
    optional = {
        name
        for part in Preset.PARTS
        for name, kind in typing.get_type_hints(type(getattr(base, part))).items()
        if type(None) in typing.get_args(kind) and str not in typing.get_args(kind)
    }
    values = {
        # TOML has no null: "none" stands for it, in fields that can be None
        name: None if value == "none" and name in optional else _frozen(value)
        for name, value in data["change"].items()
    }
    if clash := [key for key in ("name", "why") if key in values]:
        raise SpecError(f"{', '.join(clash)} in [change]; allowed: above it")
    return base.change(name=data["name"], why=data["why"], **values)


def _whole(data: dict[str, Any]) -> Preset:
    """Return the preset that the data describe in full."""
    _check_keys(data, _WHOLE)
    if "name" not in data:
        raise SpecError('no name; allowed: a line such as name = "my_chip"')
    check_name(data["name"])
    missing = [part for part in Preset.PARTS if part not in data]
    if missing:
        raise SpecError(
            f"no {', '.join(missing)}; allowed: a whole preset, as presets.save writes it, or a "
            "change of another one: base, name, why and [change]"
        )
    filled = {"description": data["name"], "training": {}, "changes": [], **data}
    try:
        specs = [filled[part] for part in Preset.PARTS]
        for spec in (*specs, *filled["training"].values()):
            for name in spec["sources"]:
                spec["values"].setdefault(name, None)  # TOML has no null
        filled["changes"] = [
            [c["field"], c.get("old"), c.get("new"), c["why"]] if isinstance(c, dict) else c
            for c in filled["changes"]
        ]
    except (KeyError, TypeError, AttributeError) as cause:
        raise SpecError(f"not a preset's data: {cause!r}") from cause
    return Preset.from_dict(filled)


def _frozen(value: Any) -> Any:
    """Return a tuple for a list, as specs have it, and other values as they are."""
    return tuple(value) if isinstance(value, list) else value


# --- writing TOML ---


def _toml(data: Mapping[str, Any]) -> str:
    """Return a preset's data as TOML, which has no null: None is left out."""
    lines = [f"{key} = {_toml_value(data[key])}" for key in ("name", "description")]
    specs = {part: data[part] for part in Preset.PARTS}
    specs |= {f"training.{_toml_key(name)}": spec for name, spec in data["training"].items()}
    for title, spec in specs.items():
        lines += ["", f"[{title}]", f"type = {_toml_value(spec['type'])}"]
        for table in ("values", "sources"):
            lines += ["", f"[{title}.{table}]", *_toml_lines(spec[table])]
    for change in data["changes"]:
        pairs = zip(("field", "old", "new", "why"), change, strict=True)
        lines += ["", "[[changes]]", *_toml_lines(dict(pairs))]
    return "\n".join(lines) + "\n"


def _toml_lines(table: Mapping[str, Any]) -> list[str]:
    """Return one line per entry of a table that is not None."""
    return [
        f"{_toml_key(key)} = {_toml_value(value)}"
        for key, value in table.items()
        if value is not None
    ]


def _toml_key(key: str) -> str:
    """Return a key as TOML writes it, in quotes if it needs them."""
    plain = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if plain else _toml_value(key)


def _toml_value(value: Any) -> str:
    """Return a text, number, truth value or list as TOML writes it.

    This is as in JSON, except that TOML wants the control character 0x7f escaped.
    """
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
