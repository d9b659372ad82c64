"""The native engine: analog layers in PyTorch over the pure laws of `aimc_bridge.physics`."""

from aimc_bridge.engines.native.engine import ENGINE, compiled, side_precision

__all__ = ["ENGINE", "compiled", "side_precision"]
