"""Settings of analog in-memory computing chips: numbers with their sources.

This package holds data, no logic, and does not import torch.
"""

import os
import sys

try:
    from aimc_bridge.errors import UnknownNameError, UsageError, shown
except ModuleNotFoundError as problem:
    if problem.name != "aimc_bridge.errors":
        raise
    other = sys.modules["aimc_bridge"].__file__
    raise ImportError(
        f"{other} shadows the package aimc_bridge, which presets needs; rename it"
    ) from None
from aimc_bridge.spec import Preset
from aimc_bridge.spec.bibliography import SOURCES
from aimc_bridge.spec.preset import check_name
from aimc_bridge.spec.preset_file import read_preset, write_preset
from presets._hermes import PRESET as hermes
from presets._ideal import PRESET as ideal
from presets._published import AFM_PRESET as pcm_afm
from presets._published import CMO_PRESET as reram_cmo
from presets._published import HERMES_SINGLE_PRESET as hermes_single
from presets._published import STATE_INDEPENDENT_PRESET as pcm_state_independent
from presets._published import WAN_PRESET as reram_wan2022
from presets._rasch2023 import PRESET as rasch2023
from presets._scalar_drift import PRESET as scalar_drift

__all__ = [
    "SOURCES",
    "Preset",
    "get",
    "hermes",
    "hermes_single",
    "ideal",
    "load",
    "names",
    "pcm_afm",
    "pcm_state_independent",
    "rasch2023",
    "register",
    "reram_cmo",
    "reram_wan2022",
    "save",
    "scalar_drift",
]

_BUILT_IN = {
    p.name: p
    for p in (
        rasch2023,
        scalar_drift,
        hermes,
        ideal,
        hermes_single,
        pcm_state_independent,
        reram_wan2022,
        reram_cmo,
        pcm_afm,
    )
}
_PRESETS = dict(_BUILT_IN)


def names() -> list[str]:
    """Return the names of all presets.

    Returns:
        The library's names, then those of `register`, in the order of their registration.
    """
    return list(_PRESETS)


def get(name: str) -> Preset:
    """Return the preset of that name.

    Args:
        name: A name from `names()`.

    Returns:
        The preset. It is frozen; `preset.change(..., why="...")` returns a changed copy.

    Raises:
        UnknownNameError: If there is none; it lists the names.
    """
    if not isinstance(name, str) or name not in _PRESETS:
        raise UnknownNameError(f"no preset {shown(name)}; there are: {', '.join(_PRESETS)}")
    return _PRESETS[name]


def register(preset: Preset, *, replace: bool = False) -> Preset:
    """Register a preset of your own for `get` and `names`, in this process.

    Args:
        preset: The preset. `preset.change(name="my_chip", ..., why="...")` returns a copy that has
            a name of its own.
        replace: Whether it may take the place of another registered preset of the same name. The
            presets of the library keep their names.

    Returns:
        The same preset.

    Raises:
        UsageError: If it is not a preset, or if another preset has its name.
        SpecError: If its name cannot be used on a command line.
    """
    if not isinstance(preset, Preset):
        raise UsageError(
            f"register: {shown(preset)}; allowed: a Preset, such as presets.load('my_chip.toml')"
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

    The file holds either a whole preset, as `save` writes it, or the changes to another preset:

        base = "rasch2023"
        name = "my_chip"
        why = "our lab, 2026"

        [change]
        g_max_us = 40.0
        adc_bits = "none"  # None: TOML has no other word for it

    Args:
        path: The file. Its name ends in .toml or .json.

    Returns:
        The preset, under the name that the file gives it. `register` makes it known by that name.

    Raises:
        UsageError: If there is no such file, if it cannot be read as TOML or JSON, or if it gives
            its preset the name of a preset of the library that has other values.
        SpecError: If the data are not a preset: a field or a name is missing or unknown, or a value
            is not physical.
    """
    preset = read_preset(path, get)
    same = _BUILT_IN.get(preset.name, preset)
    if preset != same and str(preset) == same.name:  # a changed copy says what was changed
        raise UsageError(
            f"{path}: preset name {preset.name!r} is one of the library's, with other values; give "
            'yours another: name = "..."'
        )
    return preset


def save(preset: Preset, path: str | os.PathLike[str]) -> None:
    """Write a preset to a TOML or JSON file, from which `load` makes an equal preset.

    Args:
        preset: The preset. It is written whole, with all sources.
        path: The file. Its name ends in .toml or .json.

    Raises:
        UsageError: If the name ends in something else, or if the file cannot be written.
    """
    write_preset(preset, path)
