"""Options of the native engine: compiled passes, precision of side products.

Side products are the products behind IR drop and read noise, beside the weighted sum itself.
"""

from aimc_bridge.engines.native import compiled, side_precision

__all__ = ["compiled", "side_precision"]
