"""Devices for presets: those of the library, and your own.

from aimc_bridge import devices
from presets import rasch2023

devices.names()  # every device of the library
mine = devices.TableDevice.from_csv("measured.csv", g_max_us=25.0, source="our lab, 2026")
preset = rasch2023.with_device(mine, name="mine", why="measured")
worn = preset.change(faults=devices.Faults(stuck_at_zero=0.01), why="yield of 99 %")
"""

from __future__ import annotations

from aimc_bridge.spec import DeviceSpec, Faults, TableDevice
from aimc_bridge.spec.published import DEVICES
from aimc_bridge.spec.published import get as _published

__all__ = ["Faults", "TableDevice", "get", "names"]


def names() -> list[str]:
    """Return the names of all devices of the library, sorted.

    Returns:
        Names that `get` and `preset.with_device` take.
    """
    return sorted(DEVICES)


def get(name: str) -> DeviceSpec:
    """Return a device of the library, with the numbers that were published.

    Args:
        name: A name from `names()`, such as "hermes".

    Returns:
        The device. It is frozen; `device.change(..., why="...")` returns a changed copy.

    Raises:
        UnknownNameError: If there is none of that name; it lists the names.
    """
    return _published(name)
