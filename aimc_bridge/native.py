"""Options of the native engine: compiled passes, and the precision of side products."""

from aimc_bridge.engines.native import compiled, side_precision

__all__ = ["compiled", "side_precision"]
