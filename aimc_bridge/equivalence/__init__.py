"""The cross-check: where two sides agree within a margin stated in advance, and where not."""

from aimc_bridge.equivalence.report import Report
from aimc_bridge.equivalence.run import crosscheck, device_level

__all__ = ["Report", "crosscheck", "device_level"]
