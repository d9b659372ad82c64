"""Conversion of a digital model: a walk over its layers that leaves nothing out in silence."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from aimc_bridge import layers
from aimc_bridge.converted import (
    Record,
    attach,
    digital_state,
    inside,
    is_converted,
    matrices_of,
    record_of,
)
from aimc_bridge.engines.base import engine as find_engine
from aimc_bridge.engines.match import (
    CustomFunction,
    CustomHandler,
    check_type,
    custom_handler,
    registered,
)
from aimc_bridge.errors import ConversionError, UsageError
from aimc_bridge.spec import Preset
from aimc_bridge.walk import Walk, matches

if TYPE_CHECKING:
    import pandas as pd


def convert(
    model: nn.Module,
    preset: Preset,
    engine: str = "native",
    exclude: Iterable[str] | str = (),
    overrides: Mapping[str, Preset] | None = None,
    strict: bool = True,
    handlers: Mapping[type[nn.Module], CustomFunction] | None = None,
) -> nn.Module:
    """Return a copy of a model whose weight matrices lie on analog tiles.

    Weights, biases, device, dtype and training mode are kept; `model` itself is not touched. If the
    model holds a layer in a list, a dict or another attribute too, it holds the analog one.
    `coverage` tells what became of each layer.

    Args:
        model: A digital model.
        preset: What the chip is.
        engine: "native" or "aihwkit".
        exclude: Names and shell patterns of modules (with all they hold) that stay digital. A
            module with several names is meant by each of them.
        overrides: Name or pattern -> preset, for the layers it matches; the first match wins.
        strict: Whether a weight matrix that would stay digital without being excluded is an error.
        handlers: Layer type -> a handler of your own, for this conversion only. `handles` tells
            what a handler is, and registers one for all conversions.

    Returns:
        The converted model.

    Raises:
        ConversionError: If there is nothing to convert; if a layer is served by no handler, has
            hooks, or is not in the module tree; if a handler returns what it must not.
        CapabilityError: If the engine cannot run the preset.
        VersionError: If aihwkit does not work with the installed torch.
        UsageError: If a pattern matches nothing, or an argument has the wrong type.
        UnknownNameError: If there is no such engine.
    """
    exclude = [exclude] if isinstance(exclude, str) else list(exclude)
    overrides = dict(overrides or {})
    _check_arguments(model, preset, overrides)
    _check_patterns(model, [*exclude, *overrides])
    engine_used = find_engine(engine)
    walk = Walk(engine_used, preset, exclude, overrides, model, _custom(handlers))
    converted = walk.run(_copied(model))
    if strict and walk.unserved:
        raise ConversionError(
            "these hold weight matrices that no handler of engine "
            f"{engine!r} serves: {', '.join(walk.unserved)}; exclude them by name "
            "(exclude=[...]), write a handler for their types (@aimc_bridge.handles, or "
            "handlers={...}), or pass strict=False to leave them digital"
        )
    if not any(layer.where == "analog" for layer in walk.layers):
        raise ConversionError(
            f"nothing of {type(model).__name__} was converted: it has no layer that engine "
            f"{engine!r} serves, or all are excluded"
        )
    walk.check_use()
    layers.disable_fast_paths(converted)
    attach(converted, Record(engine, preset, overrides, walk.layers))
    engine_used.finish(converted)
    tiles = {name: matrix.grid.tiles for name, matrix in matrices_of(converted).items()}
    for layer in walk.layers:
        if layer.where == "analog":
            layer.tiles = sum(n for name, n in tiles.items() if inside(name, layer.module))
    return converted


def coverage(model: nn.Module) -> pd.DataFrame:
    """What became of every layer that holds parameters.

    Returns: a row a layer: `module, type, parameters, where ("analog"/"digital"), tiles, reason`.
    Raises:  CapabilityError where the model is not a converted one.
    """
    import pandas as pd

    columns = ["module", "type", "parameters", "where", "tiles", "reason"]
    rows = [[getattr(layer, c) for c in columns] for layer in record_of(model).layers]
    return pd.DataFrame(rows, columns=columns)


@torch.no_grad()
def copy_trained(source: nn.Module, target: nn.Module) -> None:
    """Copy what `source` has learned to `target`, another conversion of the same digital model.

    Weights, biases, input ranges, and all digital parameters and buffers; engines and presets may
    differ. Learned column scales are folded into the weights and their scales: on the same tiles
    the normalised weights stay as they are.

    Raises:  ConversionError where the two do not have the same layers.
    """
    sources, targets = matrices_of(source), matrices_of(target)
    if set(sources) != set(targets):
        only = sorted(set(sources) ^ set(targets))
        raise ConversionError(f"not the same analog layers: {', '.join(only[:6])} on one side only")
    for name, matrix in sources.items():
        learned, target_matrix = matrix.learned_scale(), targets[name]
        scale = None
        if matrix.grid == target_matrix.grid:
            scale = matrix.column_scale() * learned
        weight = matrix.clean_weight() * matrix.grid.expand_columns(learned)
        target_matrix.set_clean_weight(weight, scale)
        bias, target_bias = matrix.bias(), target_matrix.bias()
        if (bias is None) != (target_bias is None):
            raise ConversionError(f"layer {name!r} has a bias on one side only")
        if bias is not None and target_bias is not None:
            target_bias.copy_(bias)
        ranges = matrix.input_ranges()
        if ranges is not None:
            target_matrix.set_input_ranges(ranges)
    digital = digital_state(source, set(sources))
    for key, value in digital_state(target, set(targets)).items():
        if key not in digital or digital[key].shape != value.shape:
            raise ConversionError(f"digital parameter {key!r} is not on both sides")
        value.copy_(digital[key])


def _custom(
    handlers: Mapping[type[nn.Module], CustomFunction] | None,
) -> dict[type[nn.Module], CustomHandler]:
    """The registered handlers of the user, and before them those of this conversion."""
    if not isinstance(handlers, Mapping | None):
        raise UsageError(
            f"handlers is a {type(handlers).__name__}; allowed: a dict, such as "
            "{MyLinear: convert_mine}"
        )
    custom = registered()
    for kind, function in (handlers or {}).items():
        check_type(kind, "handlers")
        custom[kind] = custom_handler(function, "handlers")
    return custom


def _check_arguments(model: nn.Module, preset: Preset, overrides: Mapping[str, Preset]) -> None:
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is a {type(model).__name__}; allowed: a torch.nn.Module")
    for value in (preset, *overrides.values()):
        if not isinstance(value, Preset):
            raise UsageError(
                f"preset is {value!r}; allowed: a Preset, such as presets.get('rasch2023')"
            )
    if any(is_converted(module) for module in model.modules()):
        raise ConversionError("this model is converted already; convert the digital model instead")
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter) or parameter.is_meta:
            raise ConversionError(
                f"parameter {name!r} has no values yet; load weights, or run a batch through the "
                "lazy layers first"
            )
        if not bool(torch.isfinite(parameter).all()):
            raise ConversionError(
                f"parameter {name!r} has NaN or infinite values; load weights that are finite"
            )


def _check_patterns(model: nn.Module, patterns: Iterable[str]) -> None:
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    names += [name for name, _ in model.named_parameters(remove_duplicate=False)]
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            raise UsageError(
                f"pattern {pattern!r} matches no module; names look like: "
                f"{', '.join([n for n in names if n][:6])}"
            )


@torch.inference_mode(False)
def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except RuntimeError as problem:  # a tensor that autograd made is no leaf
        computed = [
            f"{name}.{key}" if name else key
            for name, module in model.named_modules()
            for key, value in module.__dict__.items()
            if isinstance(value, torch.Tensor) and not value.is_leaf
        ]
        if not computed:
            raise
        raise ConversionError(
            f"{', '.join(computed)}: computed by hooks in every pass, which a copy cannot keep; "
            "call torch.nn.utils.remove_weight_norm, remove_spectral_norm or prune.remove first"
        ) from problem
