"""The aihwkit RPU config of a preset, field by field."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aihwkit.simulator.configs import InferenceRPUConfig, TorchInferenceRPUConfig
from aihwkit.simulator.parameters import IOParameters
from aihwkit.simulator.parameters.enums import (
    AnalogMVType,
    BoundManagementType,
    NoiseManagementType,
    WeightClipType,
    WeightModifierType,
    WeightNoiseType,
    WeightRemapType,
)

from aimc_bridge.arguments import texts
from aimc_bridge.engines.aihwkit.builtin import MODIFIERS
from aimc_bridge.engines.aihwkit.capability import chosen_tile, require
from aimc_bridge.engines.aihwkit.noise import drift_compensation, noise_model
from aimc_bridge.spec import CrossbarSpec, Preset, TrainingSpec

_UNLIMITED = 0
_PASSES = {
    "one": AnalogMVType.ONE_PASS,
    "two_analog_sum": AnalogMVType.POS_NEG_SEPARATE,
    "two_digital_sum": AnalogMVType.POS_NEG_SEPARATE_DIGITAL_SUM,
}
_OFF = -1.0


def rpu_config(
    preset: Preset,
    tile: str = "auto",
    training: str | None = None,
    drop: Iterable[str] = (),
) -> InferenceRPUConfig | TorchInferenceRPUConfig:
    """Return the aihwkit config of a preset.

    It covers the forward pass, the mapping, the noise model and the drift compensation.

    Args:
        preset: The preset.
        tile: "rpucuda" (C++), "torch", or "auto" (C++).
        training: Name of a recipe of the preset. Its clipping, its learning of input ranges and
            column scales, and its weight modifier go into the config, too.
        drop: Names of settings that are left out if the tile cannot run them.

    Returns:
        An InferenceRPUConfig, or a TorchInferenceRPUConfig for the torch tile.

    Raises:
        CapabilityError: If the tile cannot run a setting; the error names it.
        UnknownNameError: If the preset has no recipe of that name.
        UsageError: If there is no such tile, or `drop` names a setting that cannot be dropped.
    """
    drop = tuple(texts("drop", drop))
    tile = chosen_tile(preset, tile)
    recipe = preset.training[training] if training is not None else None
    require(preset, tile, drop, recipe)
    config = InferenceRPUConfig() if tile == "rpucuda" else TorchInferenceRPUConfig()
    _forward(config.forward, preset.crossbar, drop)
    _mapping(config, preset.crossbar, recipe)
    _input_range(config, preset.crossbar, recipe)
    config.noise_model = noise_model(preset)
    config.drift_compensation = drift_compensation(preset, config.noise_model)
    config.remap.type = WeightRemapType.NONE
    if recipe is not None:
        if "clip_type" not in drop:
            _clip(config, recipe)
        _modifier(config, preset, recipe, drop)
    return config


def resolution(bits: int | None) -> float:
    """Return aihwkit's `inp_res` or `out_res`: one step as a share of the whole span.

    Args:
        bits: Bits of the converter; None if there is none.

    Returns:
        The share; -1 switches the converter off.
    """
    return _OFF if bits is None else 1.0 / (2**bits - 2)


def _forward(io: IOParameters, crossbar: CrossbarSpec, drop: tuple[str, ...]) -> None:
    """Set the forward pass: converters, noise, IR drop and optional effects."""
    # Never `is_perfect`: its backward pass still masks outputs beyond `out_bound` (1.1.0).
    io.is_perfect = False
    io.inp_bound = 1.0 if crossbar.dac_bits is not None else 0.0
    io.inp_res = resolution(crossbar.dac_bits)
    io.inp_noise = 0.0
    io.inp_sto_round = False
    io.out_bound = crossbar.out_bound if crossbar.adc_bits is not None else 0.0
    io.out_res = resolution(crossbar.adc_bits)
    io.out_noise = crossbar.out_noise
    io.out_sto_round = False
    io.noise_management = NoiseManagementType.NONE
    io.bound_management = BoundManagementType.NONE
    read_noise = 0.0 if "w_noise" in drop else crossbar.w_noise
    io.w_noise = read_noise
    io.w_noise_type = WeightNoiseType.PCM_READ if read_noise > 0 else WeightNoiseType.NONE
    io.ir_drop = 0.0 if "ir_drop" in drop else crossbar.ir_drop
    io.ir_drop_g_ratio = crossbar.ir_drop_g_ratio
    _line_effects(io, crossbar, drop)


def _line_effects(io: IOParameters, crossbar: CrossbarSpec, drop: tuple[str, ...]) -> None:
    """Set the optional effects of the periphery."""
    # without an ADC the tile has no bound, and takes these relative to an output of 1
    bound = 1.0 if crossbar.adc_bits is not None else crossbar.out_bound
    values = {name: value for name, value in crossbar.values().items() if name not in drop}
    io.mv_type = _PASSES[values.get("input_passes", "one")]
    io.out_nonlinearity = values.get("out_nonlinearity", 0.0) / bound
    io.slope_calibration = crossbar.slope_calibration * bound
    io.out_nonlinearity_std = crossbar.out_nonlinearity_std
    io.r_series = values.get("r_series", 0.0)
    io.v_offset_std = values.get("v_offset_std", 0.0)
    io.v_offset_w_min = crossbar.v_offset_w_min
    io.w_read_asymmetry_dtod = 0.0 if "input_passes" in drop else crossbar.w_read_asymmetry_dtod
    io.inp_asymmetry = values.get("inp_asymmetry", 0.0)
    io.out_asymmetry = values.get("out_asymmetry", 0.0)
    io.out_noise_std = values.get("out_noise_std", 0.0) if crossbar.out_noise > 0 else 0.0


def _mapping(config: Any, crossbar: CrossbarSpec, recipe: TrainingSpec | None) -> None:
    """Set the size of tiles and the column scales."""
    mapping = config.mapping
    learned = crossbar.learned_out_scales and (recipe is None or recipe.learn_out_scales)
    mapping.digital_bias = crossbar.digital_bias
    mapping.weight_scaling_omega = 1.0
    mapping.weight_scaling_columnwise = crossbar.weight_scaling == "column"
    mapping.learn_out_scaling = learned
    mapping.out_scaling_columnwise = learned
    mapping.max_input_size = crossbar.max_rows or _UNLIMITED
    mapping.max_output_size = crossbar.max_columns or _UNLIMITED


def _input_range(config: Any, crossbar: CrossbarSpec, recipe: TrainingSpec | None) -> None:
    """Set the input ranges and how they are learned."""
    ranges = config.pre_post.input_range
    ranges.enable = crossbar.input_range == "learned"
    ranges.learn_input_range = recipe is None or recipe.learn_input_ranges
    ranges.init_value = 1.0
    if recipe is not None:
        ranges.init_from_data = recipe.input_range_init_batches
        ranges.init_std_alpha = recipe.input_range_init_sd
        ranges.decay = recipe.input_range_decay
        ranges.input_min_percentage = recipe.input_range_min_unclipped


def _clip(config: Any, recipe: TrainingSpec) -> None:
    """Set the clipping of weights in training."""
    if recipe.clip_type == "fixed":
        config.clip.type = WeightClipType.FIXED_VALUE
        config.clip.fixed_value = recipe.clip_value
    elif recipe.clip_type == "layer_gaussian":
        config.clip.type = WeightClipType.LAYER_GAUSSIAN
        config.clip.sigma = recipe.clip_value


def _modifier(config: Any, preset: Preset, recipe: TrainingSpec, drop: tuple[str, ...]) -> None:
    """Set the noise and drop-connect that aihwkit injects in training."""
    modifier, known = config.modifier, MODIFIERS.get(preset.pcm.law, ())
    modifier.pdrop = 0.0 if "drop_connect" in drop else recipe.drop_connect
    kind = "none" if "noise_type" in drop else recipe.noise_type
    modifier.rel_to_actual_wmax = True
    modifier.std_dev = recipe.noise_scale
    if kind == "gaussian":
        modifier.type = WeightModifierType.ADD_NORMAL
        modifier.std_dev = recipe.noise_scale * recipe.gaussian_sd
    elif kind in ("pcm", "programming") and "programming" in known:
        fields = preset.pcm.values()
        modifier.g_max = fields["g_max_us"]
        modifier.coeffs = list(fields["prog_coeff_us"])  # uS: the C++ tile divides by g_max
        modifier.type = WeightModifierType.PROG_NOISE
        if kind == "pcm" and "pcm" in known:
            modifier.type = WeightModifierType.PCM_NOISE
            modifier.pcm_t0 = recipe.noise_t_s
            modifier.pcm_t_inference = 0.0
    elif modifier.pdrop > 0:
        modifier.type = WeightModifierType.DROP_CONNECT
