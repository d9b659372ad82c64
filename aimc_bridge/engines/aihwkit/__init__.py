"""The aihwkit engine: presets on IBM's analog tiles. The only package that imports aihwkit.

Ours <-> theirs: crossbar, `InferenceRPUConfig.forward`; tile limits and column scales, `mapping`;
input range, `pre_post.input_range`; device, `noise_model`; drift compensation,
`drift_compensation`; injection, `modifier`; normalised weights, `tile.tile.get_weights()`; column
scales, `mapping_scales`; their learned factor, `out_scaling_alpha`.
"""

from aimc_bridge.engines.aihwkit.versions import check

check()

from aimc_bridge.engines.aihwkit.engine import ENGINE  # noqa: E402 - aihwkit only after the check

__all__ = ["ENGINE"]
