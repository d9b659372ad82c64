"""Settings of analog in-memory computing chips: data with sources, no torch, no logic."""

import os

from aimc_bridge.errors import UnknownNameError, UsageError
from aimc_bridge.spec import Preset
from aimc_bridge.spec.bibliography import SOURCES
from aimc_bridge.spec.preset import check_name
from aimc_bridge.spec.preset_file import read_preset, write_preset
from presets._hermes import PRESET as hermes
from presets._ideal import PRESET as ideal
from presets._rasch2023 import PRESET as rasch2023
from presets._scalar_drift import PRESET as scalar_drift

__all__ = [
    "SOURCES",
    "Preset",
    "get",
    "hermes",
    "ideal",
    "load",
    "names",
    "rasch2023",
    "register",
    "save",
    "scalar_drift",
]

_BUILT_IN = {p.name: p for p in (rasch2023, scalar_drift, hermes, ideal)}
_PRESETS = dict(_BUILT_IN)


def names() -> list[str]:
    """Return the names of all presets, those registered last at the end."""
    return list(_PRESETS)


def get(name: str) -> Preset:
    """Return the preset of that name.

    Raises:
        UnknownNameError: If there is none; it lists the names.
    """
    if name not in _PRESETS:
        raise UnknownNameError(f"no preset {name!r}; there are: {', '.join(_PRESETS)}")
    return _PRESETS[name]


def register(preset: Preset, *, replace: bool = False) -> Preset:
    """Make a preset of your own one that `get` and `names` know, in this process.

    Args:
        preset: The preset. `preset.change(name="my_chip", ..., why="...")` gives a copy a name of
            its own.
        replace: Whether it may take the place of another registered preset of that name. The
            presets of the library keep their names.

    Returns:
        The preset.

    Raises:
        UsageError: If it is no preset, or its name stands for another one.
        SpecError: If its name cannot be found on a command line.
    """
    if not isinstance(preset, Preset):
        raise UsageError(
            f"register: {preset!r}; allowed: a Preset, such as presets.load('my_chip.toml')"
        )
    check_name(preset.name)
    known = _PRESETS.get(preset.name)
    if known is not None and known != preset:
        rename = 'give yours another with preset.change(name="...", why="...")'
        if preset.name in _BUILT_IN:
            raise UsageError(f"preset name {preset.name!r} is one of the library's; {rename}")
        if not replace:
            raise UsageError(
                f"preset name {preset.name!r} is taken by another preset; {rename}, or pass "
                "replace=True"
            )
    if preset.name not in _BUILT_IN:
        _PRESETS[preset.name] = preset
    return preset


def load(path: str | os.PathLike[str]) -> Preset:
    """Read a preset from a TOML or JSON file.

    A file holds either a whole preset, as `save` writes it, or what is different from another one:

        base = "rasch2023"
        name = "my_chip"
        why = "our lab, 2026"

        [change]
        g_max_us = 40.0
        adc_bits = "none"  # None: TOML has no other word for it

    Args:
        path: The file; it ends in .toml or .json.

    Returns:
        The preset, under the name that the file gives it. `register` makes it known by that name.

    Raises:
        UsageError: If there is no such file, or it is no TOML or JSON.
        SpecError: If its data are no preset: a field or a name is missing, unknown or not physical.
    """
    return read_preset(path, get)


def save(preset: Preset, path: str | os.PathLike[str]) -> None:
    """Write a preset to a TOML or JSON file, from which `load` makes an equal one.

    Args:
        preset: The preset; it is written whole.
        path: The file; it ends in .toml or .json.

    Raises:
        UsageError: If it ends in something else, or cannot be written.
    """
    write_preset(preset, path)
