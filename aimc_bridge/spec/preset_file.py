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
from aimc_bridge.errors import AimcError, SpecError, UsageError, shown
from aimc_bridge.spec.device import DeviceSpec
from aimc_bridge.spec.preset import Preset, check_name, frozen
from aimc_bridge.spec.table import TableDevice

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MOST_BYTES = 2**24
_SHORT = ("base", "name", "why", "change", "device")
_COLUMNS = ("target_us", "t_s", "mean_us", "sd_us", "prog_sd_us", "read_sd_us")
_DEVICE = ("csv", "g_max_us", "source", "extrapolate", "netting")
_WHOLE = ("name", "description", *Preset.PARTS, "training", "changes")


def read_preset(path: str | os.PathLike[str], find: Callable[[str], Preset]) -> Preset:
    """Read a preset from a file.

    Args:
        path: A file whose name ends in .toml or .json. It holds either what `Preset.to_dict`
            returns, or `base`, `name`, `why` and a table `change` with lines of field = value, a
            table `device`, or both. `device` is the name of a device of the library, or a table
            with `g_max_us` and `source` of a `TableDevice` and either the name of a `csv` beside
            the file, or the columns themselves as lists.
        find: A function that returns the preset of a name, for `base`.

    Returns:
        The preset, under the name that the file gives it.

    Raises:
        UsageError: If there is no such file, or if it cannot be read as TOML or JSON.
        SpecError: If the data are not a preset: a field or a name is missing or unknown, or a value
            is not physical.
    """
    path = _path(path)
    data = _parsed(path)
    try:
        return _changed(data, find, path.parent) if "base" in data else _whole(data)
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
    path = _path(path)
    if not isinstance(preset, Preset):
        raise UsageError(f"save: {shown(preset)}; allowed: a Preset")
    _check_suffix(path)
    data = preset.to_dict()
    text = json.dumps(data, indent=1) + "\n" if path.suffix == ".json" else _toml(data)
    try:
        files.write_text(path, text)
    except OSError as cause:
        raise UsageError(f"{path}: cannot be written ({cause})") from cause
    except UnicodeEncodeError as cause:
        raise SpecError(
            f"{path}: preset {preset.name!r} has a text that is no UTF-8: {cause.object!a:.90}"
        ) from None


# --- reading ---


def _path(path: str | os.PathLike[str]) -> Path:
    """Return a path; raise UsageError if it is none."""
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"path = {shown(path)}; allowed: the path of a .toml or .json file")
    return files.check_path(path)


def _check_suffix(path: Path) -> None:
    """Raise UsageError if the name of a file ends neither in .toml nor in .json."""
    if path.suffix not in (".toml", ".json"):
        raise UsageError(f"{path}: allowed: a file that ends in .toml or .json")


def _parsed(path: Path) -> dict[str, Any]:
    """Return the data of a file; raise UsageError or SpecError if it has none."""
    _check_suffix(path)
    try:
        text = files.read_text(path, _MOST_BYTES)
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError as cause:
        raise UsageError(f"{path}: no such file") from cause
    except OSError as cause:
        raise UsageError(f"{path}: cannot be read ({cause})") from cause
    except (ValueError, RecursionError) as cause:  # bad TOML, bad JSON, or not UTF-8
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


def _device(data: object, folder: Path) -> DeviceSpec | str:
    """Return the device that an entry `device` describes; code is never run.

    Args:
        data: The name of a device of the library, or the table of a measured one.
        folder: The folder of the preset's file.
    """
    if isinstance(data, str):
        return data
    lists = isinstance(data, Mapping) and "csv" not in data and "target_us" in data
    if not isinstance(data, Mapping) or not (lists or isinstance(data.get("csv"), str)):
        raise SpecError(
            f"device = {data!r}; allowed: the name of a device of the library, or a table with "
            "g_max_us, source and csv (or target_us, t_s, mean_us and sd_us as lists); a Python "
            "object cannot be in a file: use preset.with_device"
        )
    needed = (*(_COLUMNS[:3] if lists else _DEVICE[:1]), *_DEVICE[1:3])
    _check_keys(data, (*_COLUMNS, *_DEVICE[1:]) if lists else _DEVICE)
    missing = [key for key in needed if key not in data]
    if missing:
        raise SpecError(f"no {', '.join(missing)} in [device]; needed: {', '.join(needed)}")
    values = {key: value for key, value in data.items() if key != "csv"}
    for key in ("extrapolate", "netting"):
        if not isinstance(values.get(key, False), bool):
            raise SpecError(f"{key} = {values[key]!r} in [device]; allowed: true, false")
    if not lists:
        return TableDevice.from_csv(folder / data["csv"], **values)
    for key in _COLUMNS:
        if not isinstance(values.get(key, []), list):
            raise SpecError(f"{key} = {values[key]!r} in [device]; allowed: a list of numbers")
    return TableDevice.from_arrays(**values)


def _changed(data: Mapping[str, Any], find: Callable[[str], Preset], folder: Path) -> Preset:
    """Return the preset that the data describe as changes to another preset."""
    _check_keys(data, _SHORT)
    needed = _SHORT[:3] if "device" in data else _SHORT[:4]
    missing = [key for key in needed if key not in data]
    if missing:
        raise SpecError(f"no {', '.join(missing)}; with base it needs {', '.join(needed)}")
    data = {"change": {}, **data}
    if not isinstance(data["base"], str):
        raise SpecError(f"base = {data['base']!r}; allowed: the name of a preset")
    if not isinstance(data["change"], Mapping):
        raise SpecError("change is no table; allowed: [change], with lines of field = value")
    base = find(data["base"])
    if "device" in data:
        device = _device(data["device"], folder)
        base = base.with_device(device, name=data["name"], why=data["why"])
    optional = {
        name
        for part in Preset.PARTS
        for name, kind in typing.get_type_hints(type(getattr(base, part))).items()
        if type(None) in typing.get_args(kind) and str not in typing.get_args(kind)
    }
    values = {
        # TOML has no null: "none" stands for it, in fields that can be None
        name: None if value == "none" and name in optional else frozen(value)
        for name, value in data["change"].items()
    }
    if clash := [key for key in ("name", "why") if key in values]:
        raise SpecError(f"{', '.join(clash)} in [change]; allowed: above it")
    if "device" in data:
        return base.change(why=data["why"], **values) if values else base
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
