"""The aihwkit engine: presets on IBM's analog tiles.

Only this package imports aihwkit.

The same things have these names here and in aihwkit:

    crossbar                                 `InferenceRPUConfig.forward`
    limits of tiles, scaling of columns      `mapping`
    input range                              `pre_post.input_range`
    device                                   `noise_model`
    drift compensation                       `drift_compensation`
    injection of noise in training           `modifier`
    normalised weights                       `tile.tile.get_weights()`
    column scales                            `mapping_scales`
    learned factor on the column scales      `out_scaling_alpha`
"""

import importlib

from aimc_bridge.engines.versions import broken, check

check()
try:
    for _part in ("nn.conversion", "simulator.configs", "inference"):
        importlib.import_module(f"aihwkit.{_part}")
except Exception as problem:  # a broken installation may raise anything
    raise broken(problem) from problem

from aimc_bridge.engines.aihwkit.engine import ENGINE  # noqa: E402 - aihwkit only after the check

__all__ = ["ENGINE"]
