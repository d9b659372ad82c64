"""The native engine: every law of `physics` in PyTorch, on CPU or GPU."""

from aimc_bridge.native.engine import ENGINE

__all__ = ["ENGINE"]
