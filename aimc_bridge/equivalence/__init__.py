"""The cross-check: do two sides agree within margins that are stated in advance?"""

from aimc_bridge.equivalence.report import Report
from aimc_bridge.equivalence.run import crosscheck, device_level

__all__ = ["Report", "crosscheck", "device_level"]
