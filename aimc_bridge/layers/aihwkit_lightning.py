"""Layers of aihwkit-lightning, known by their names: they come with what they have learned.

Weights, biases, input ranges and learned weight limits of a layer are taken over. The package is
not imported for this; whoever has such a layer has the package.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge.engines.match import Handler, Handlers
from aimc_bridge.errors import ConversionError
from aimc_bridge.layers.linear import linear_around
from aimc_bridge.spec import Preset

_MODULES = "aihwkit_lightning.nn.modules"
_CONVOLUTIONS: dict[str, type[Any]] = {
    "AnalogConv1d": nn.Conv1d,
    "AnalogConv2d": nn.Conv2d,
    "AnalogConv3d": nn.Conv3d,
}

_ROUNDING = 2.0**-8
"""Largest relative change of a number that goes through bfloat16, of 8 bits, and back."""

Matrices = Callable[[nn.Module], Mapping[str, Any]]
"""Returns the weight matrices of an analog layer by name, as `Engine.matrices` does."""


def register(
    handlers: Handlers, convert_linear: Handler, convert_conv: Handler, matrices: Matrices
) -> None:
    """Register handlers for the layers of aihwkit-lightning.

    Args:
        handlers: The handlers of one engine, to which they are added.
        convert_linear: The engine's handler of `nn.Linear`.
        convert_conv: The engine's handler of convolutions.
        matrices: Returns the engine's weight matrices of a layer.
    """

    def convert_layer(module: nn.Module, preset: Preset) -> nn.Module:
        plain = _plain(module)
        convert = convert_linear if isinstance(plain, nn.Linear) else convert_conv
        layer = convert(plain, preset)
        for matrix in matrices(layer).values():
            _teach(matrix, module)
        return layer

    def convert_recurrent(module: nn.Module, preset: Preset) -> nn.Module:
        # its own forward pass, which takes and returns states in its own way, on analog products
        whole = copy.deepcopy(module)
        # hooks that rename the entries of a state dict, which are other ones now
        whole._state_dict_hooks.clear()
        whole._load_state_dict_pre_hooks.clear()
        for part in list(whole.modules()):
            for name, child in list(part.named_children()):
                if _is(child, "linear", "AnalogLinear"):
                    setattr(part, name, convert_layer(child, preset))
        return whole

    handlers.add_named(convert_layer, f"{_MODULES}.linear", "AnalogLinear", _note)
    for name in _CONVOLUTIONS:
        handlers.add_named(convert_layer, f"{_MODULES}.conv", name, _note)
    handlers.add_named(convert_recurrent, f"{_MODULES}.rnn.rnn", "AnalogRNN", _recurrent_note)


def unwrapped(model: nn.Module) -> nn.Module:
    """Give containers of aihwkit-lightning the class that they had before its conversion.

    An `AnalogSequential` becomes a `nn.Sequential`. An `AnalogWrapper`, whose class is made when
    the program runs and cannot be pickled, becomes a module of the class that it wraps.

    Args:
        model: A copy of the user's model, which is changed.

    Returns:
        The model itself.
    """
    for module in model.modules():
        kind = type(module)
        if _is(module, "container", "AnalogSequential"):
            module.__class__ = nn.Sequential
        elif kind.__bases__ and _named(kind.__bases__[0], "container", "AnalogWrapper"):
            module.__class__ = kind.__bases__[1]
    return model


def _is(module: nn.Module, where: str, name: str) -> bool:
    """Return whether a module is of exactly one class of aihwkit-lightning."""
    return _named(type(module), where, name)


def _named(kind: type, where: str, name: str) -> bool:
    """Return whether a class is one of aihwkit-lightning."""
    return (kind.__module__, kind.__qualname__) == (f"{_MODULES}.{where}", name)


def _plain(module: Any) -> nn.Module:
    """Return the digital layer with the weights that a layer multiplies with in eval mode."""
    weight = _multiplied(module)
    if isinstance(module, nn.Linear):
        layer: nn.Module = linear_around(weight, module.bias)
        return layer.train(module.training)
    if any(isinstance(size, str) for size in module.padding):
        raise ConversionError(
            f"padding {module.padding[-1]!r}, which aihwkit-lightning's convolutions cannot run; "
            "allowed: numbers"
        )
    # nearest first: a subclass that does not change `forward` is served too
    name = next(base.__name__ for base in type(module).__mro__ if base.__name__ in _CONVOLUTIONS)
    sizes = [module.kernel_size, module.stride, module.padding, module.dilation]
    if name == "AnalogConv1d":  # an image of height 1 in aihwkit-lightning
        weight, sizes = weight.squeeze(-2), [size[1:] for size in sizes]
    conv: nn.Module = _CONVOLUTIONS[name](
        module.in_channels,
        module.out_channels,
        *sizes,
        bias=module.bias is not None,
        device="meta",
    )
    conv.weight = nn.Parameter(weight.detach(), requires_grad=module.weight.requires_grad)
    conv.bias = module.bias
    return conv.train(module.training)


def _multiplied(module: Any) -> Tensor:
    """Return a layer's weights, within their learned limits and rounded as it rounds them."""
    weight: Tensor = module.weight
    if not (_has_limits(module) or _rounds(module)):
        return weight
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it changes the settings: those of a copy
        rounded = copy.deepcopy(module)
        rounded.quantize_weights()
    return rounded.weight.detach().requires_grad_(weight.requires_grad)  # type: ignore[no-any-return]


def _has_limits(module: Any) -> bool:
    """Return whether learned limits apply to a layer's weights, one per column and slice."""
    limits = module.rpu_config.clip.type.name == "LEARNABLE_PER_CHANNEL"
    return limits and module.learnable_weight_clip is not None


def _rounds(module: Any) -> bool:
    """Return whether a layer rounds its weights in every pass."""
    return bool(module.rpu_config.modifier.quantization_type.value != "None")


def _ranges(module: Any) -> Tensor | None:
    """Return a layer's input ranges, one per slice of its inputs; None if it has learned none."""
    settings, ranges = module.rpu_config.pre_post.input_range, module.input_range
    if not settings.enable or settings.dynamic or ranges is None:
        return None
    values: Tensor = ranges.detach().abs()
    # A range that starts from data has the value of the settings until the first batch, perhaps
    # rounded by a precision that the layer once had.
    initial = (values - settings.init_value).abs() <= _ROUNDING * settings.init_value
    unseen = (module.input_range_update_idx == 0) & initial
    return None if settings.init_from_data > 0 and bool(unseen.any()) else values


@torch.no_grad()
def _teach(matrix: Any, module: Any) -> None:
    """Give a weight matrix what a layer of aihwkit-lightning has learned.

    Args:
        matrix: The weight matrix, with the weights of the layer.
        module: The layer.
    """
    grid, slices = matrix.grid, tuple(module.in_sizes)
    scaling = matrix.preset.crossbar.weight_scaling
    if _has_limits(module) and grid.rows == slices and scaling == "column":
        # a column is scaled by its limit, not by the largest weight that training left in it
        limits = module.learnable_weight_clip.detach().abs().to(matrix.column_scale())
        scale = torch.maximum(limits, matrix.column_scale())
        matrix.set_clean_weight(matrix.clean_weight(), scale)
    ranges = _ranges(module)
    if ranges is None:
        return
    if bool((ranges == 0).any()):
        raise ConversionError("an input range of aihwkit-lightning is 0; train or set it there")
    ends = torch.tensor(slices).cumsum(0)
    largest = []
    for rows in grid.row_slices():
        met = (ends > rows.start) & (ends - torch.tensor(slices) < rows.stop)
        largest.append(ranges[met.to(ranges.device)].max())
    by_tile = torch.stack(largest).float()
    matrix.set_input_ranges(by_tile.unsqueeze(1).expand(-1, len(grid.columns)).contiguous())


def _note(module: Any) -> str:
    """Return the coverage report's remark on a layer of aihwkit-lightning."""
    return _remark([module])


def _recurrent_note(module: nn.Module) -> str:
    """Return the remark on a recurrent layer, whose parts have the ranges."""
    return _remark([part for part in module.modules() if _is(part, "linear", "AnalogLinear")])


def _remark(parts: list[Any]) -> str:
    """Return what was taken over from some layers, and what was not."""
    notes, counts = [], 0
    for part in parts:
        settings, ranges = part.rpu_config.pre_post.input_range, _ranges(part)
        if ranges is not None:
            counts += len(ranges)
        elif settings.enable and settings.dynamic:
            notes.append("a range per input vector in aihwkit-lightning: calibrate fixed ones")
        elif settings.enable:
            notes.append("input ranges of aihwkit-lightning were never set: calibrate")
        if _rounds(part):
            notes.append("rounded weight folded in: training changes the folded one")
        elif _has_limits(part):
            notes.append("learned limits of the weights folded in: training changes the folded one")
    if counts:
        words = "input range" if counts == 1 else "input ranges"
        notes.insert(0, f"{counts} {words} of aihwkit-lightning taken over")
    return "; ".join(dict.fromkeys(notes))
