"""The bridge between PyTorch networks and analog in-memory computing chips."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from aimc_bridge.interruption import leave_quietly

leave_quietly()

if TYPE_CHECKING:
    from aimc_bridge import devices, physics
    from aimc_bridge.batchnorm import reestimate_batchnorm
    from aimc_bridge.calibration import calibrate
    from aimc_bridge.chip import drift, load_chip, program, restore, save_chip
    from aimc_bridge.conductances import chip_conductances
    from aimc_bridge.conversion import convert, coverage
    from aimc_bridge.engines.match import handles
    from aimc_bridge.equivalence import Report, crosscheck
    from aimc_bridge.plotting import plot
    from aimc_bridge.shards import merge_shards
    from aimc_bridge.sweeps import sweep
    from aimc_bridge.training import HWATraining, hardware_aware, train
    from aimc_bridge.transferring import transfer

__version__ = "0.1.0"

_HOME = {
    "HWATraining": "training",
    "Report": "equivalence",
    "calibrate": "calibration",
    "chip_conductances": "conductances",
    "convert": "conversion",
    "coverage": "conversion",
    "crosscheck": "equivalence",
    "drift": "chip",
    "handles": "engines.match",
    "hardware_aware": "training",
    "load_chip": "chip",
    "merge_shards": "shards",
    "plot": "plotting",
    "program": "chip",
    "reestimate_batchnorm": "batchnorm",
    "restore": "chip",
    "save_chip": "chip",
    "sweep": "sweeps",
    "train": "training",
    "transfer": "transferring",
}

__all__ = [
    "HWATraining",
    "Report",
    "calibrate",
    "chip_conductances",
    "convert",
    "coverage",
    "crosscheck",
    "devices",
    "drift",
    "handles",
    "hardware_aware",
    "load_chip",
    "merge_shards",
    "physics",
    "plot",
    "program",
    "reestimate_batchnorm",
    "restore",
    "save_chip",
    "sweep",
    "train",
    "transfer",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, and torch not before."""
    if name in __all__:
        from aimc_bridge.shadowing import check

        check("presets")
    if name in ("devices", "physics"):
        return importlib.import_module(f"aimc_bridge.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"aimc_bridge.{_HOME[name]}"), name)
    raise AttributeError(f"module 'aimc_bridge' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return [*__all__, "__version__"]
