"""The cross-check: where two sets of device laws agree within a margin stated in advance."""

from aimc_bridge.equivalence.device import device_level
from aimc_bridge.equivalence.report import Report

__all__ = ["Report", "device_level"]
