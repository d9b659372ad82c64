"""Settings of analog in-memory computing chips: data with sources, no torch, no logic."""

from aimc_bridge.errors import UnknownNameError
from aimc_bridge.spec import Preset
from presets._hermes import PRESET as hermes
from presets._ideal import PRESET as ideal
from presets._rasch2023 import PRESET as rasch2023
from presets._scalar_drift import PRESET as scalar_drift

__all__ = [
    "Preset",
    "get",
    "hermes",
    "ideal",
    "names",
    "rasch2023",
    "scalar_drift",
]

_PRESETS = {p.name: p for p in (rasch2023, scalar_drift, hermes, ideal)}


def names() -> list[str]:
    """Names of all presets."""
    return list(_PRESETS)


def get(name: str) -> Preset:
    """The preset of that name.

    Raises:  UnknownNameError that lists the names.
    """
    if name not in _PRESETS:
        raise UnknownNameError(f"no preset {name!r}; there are: {', '.join(_PRESETS)}")
    return _PRESETS[name]
