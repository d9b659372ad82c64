"""The transfer of a trained model from one engine to another."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge import aliases
from aimc_bridge.converted import attach, engine_of, mark_parts, matrices_of, record_of
from aimc_bridge.engines.base import Engine, Matrix
from aimc_bridge.engines.base import engine as find_engine
from aimc_bridge.errors import ConversionError, StateError
from aimc_bridge.layers import digital_form

_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_pre_hooks",
    "_backward_hooks",
)


@torch.inference_mode(False)
@torch.no_grad()
def transfer(analog: nn.Module, engine: str) -> nn.Module:
    """Return a copy of a converted model on another engine, with all that it has learned.

    Weights, biases, column scales, learned scales, input ranges, digital parameters and buffers
    are the same, and so are presets, excluded parts, gradient flags and training mode. With noise
    switched off, both models give the same outputs but for rounding: up to 1e-4 of an ADC step
    behind one layer. `analog` itself is not changed.

    Every layer of `analog` is made again from its own settings, so neither the digital model nor
    the handlers of a user are needed. What belongs to an engine or to a training under way stays
    behind: `compiled`, `side_precision`, injected noise, and the settings that `train` makes anew.

    Args:
        analog: A converted model without a programmed chip.
        engine: "native" or "aihwkit". The model's own engine gives a plain copy.

    Returns:
        The model on the other engine.

    Raises:
        UnknownNameError: If there is no engine of that name.
        StateError: If a chip is programmed; a chip belongs to the engine that drew it.
        CapabilityError: If `analog` is not a converted model, or the engine cannot run its presets,
            device or dtype.
        ConversionError: If a layer cannot be made again, or is held in a way that cannot be
            redirected.
        VersionError: If aihwkit does not work with the installed torch.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from aimc_bridge import calibrate, convert, transfer
        >>> from presets import ideal
        >>> x = torch.randn(5, 12)
        >>> analog = convert(nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 2)), ideal)
        >>> reference = transfer(analog, engine="aihwkit")  # aihwkit's own modules, same weights
        >>> torch.allclose(reference(x), analog(x), atol=1e-5)
        True
    """
    record, target = record_of(analog), find_engine(engine)
    if record.chip is not None:
        raise StateError(
            f"transfer: the model holds the chip of seed {record.chip.seed}, which only the "
            f"{record.engine} engine can read; call restore(model) first, transfer, and program "
            "the copy again"
        )
    for matrix in matrices_of(analog).values():
        weight = matrix.clean_weight()
        target.check(matrix.preset, weight.device, weight.dtype)
    copied = copy.deepcopy(analog)
    matrices = matrices_of(copied)
    for matrix in matrices.values():
        matrix.inject(None)
    if engine == record.engine:
        return copied
    engine_of(copied).unfinish(copied)
    replaced: dict[nn.Module, nn.Module | None] = {}
    for name, matrix in matrices.items():
        layer = copied.get_submodule(name)
        replaced |= dict.fromkeys(layer.modules())
        replaced[layer] = _made_again(layer, matrix, target)
    for module in copied.modules():
        for key, child in module._modules.items():
            if child is not None and (new := replaced.get(child)) is not None:
                module._modules[key] = new
    whole = replaced.get(copied)  # the model is a single layer
    result = copied if whole is None else whole
    names = {copied.get_submodule(name): name for name in matrices}
    aliases.redirect(result, replaced, names, ())
    record = record_of(copied)
    record.engine = engine
    if result is not copied:
        attach(result, record)
    mark_parts(result)
    target.finish(result)
    _copy_values(matrices, target.matrices(result))
    return result


def _made_again(layer: nn.Module, matrix: Matrix, target: Engine) -> nn.Module:
    """Return the counterpart of an analog layer on another engine, with weights of 0."""
    form = copy.deepcopy(digital_form(layer))
    handler = target.handlers.of_type(type(form))
    if handler is None:
        raise ConversionError(
            f"transfer: engine {target.name!r} has no handler for {type(form).__name__}; "
            "exclude such layers when you convert"
        )
    weight = matrix.clean_weight()
    form.to_empty(device=weight.device).to(weight.dtype).train(layer.training)
    flags = {"weight": matrix.trainable()}
    if (bias := matrix.bias()) is not None:
        flags["bias"] = bias.requires_grad
    for name, parameter in form.named_parameters():
        parameter.zero_().requires_grad_(flags[name])
    result = handler(form, matrix.preset)
    for hooks in _HOOKS:
        result.__dict__[hooks].update(layer.__dict__[hooks])
    return result


def _copy_values(sources: dict[str, Matrix], targets: dict[str, Matrix]) -> None:
    """Copy everything that the layers have learned, and which of it still learns."""
    for name, source in sources.items():
        target = targets[name]
        target.name = source.name
        target.set_clean_weight(source.clean_weight(), source.column_scale())
        target.set_learned_scale(source.learned_scale())
        biases: tuple[Any, Tensor | None] = (target.bias(), source.bias())
        if biases[1] is not None:
            biases[0].copy_(biases[1])
        if (ranges := source.input_ranges()) is not None:
            target.set_input_ranges(ranges)
        learning = {
            kind: any(parameter.requires_grad for parameter in parameters)
            for kind, parameters in source.periphery().items()
        }
        for kind, parameters in target.periphery().items():
            for parameter in parameters:
                parameter.requires_grad_(learning[kind])
