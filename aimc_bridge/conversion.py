"""Conversion of a digital model; no layer is left out in silence."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from aimc_bridge import layers
from aimc_bridge.arguments import flag, mapping, texts
from aimc_bridge.calibration import run_batch
from aimc_bridge.converted import (
    ConversionRecord,
    LayerRecord,
    added_layers,
    attach,
    digital_state,
    inside,
    is_converted,
    matches,
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
from aimc_bridge.errors import ConversionError, UsageError, shown
from aimc_bridge.first_pass import excluded_by, watch_first_pass
from aimc_bridge.products import DigitalProduct, Measurement
from aimc_bridge.spec import Preset
from aimc_bridge.walk import Walk
from aimc_bridge.watching import watched

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

    The copy keeps weights, biases, device, dtype and training mode; `model` itself is not changed.
    If the model also holds a layer in a list, a dict or another attribute, the copy holds the
    analog layer there. Afterwards, `coverage` lists what happened to each layer, and `calibrate`
    sets the input ranges.

    Weights may be float16, bfloat16, float32 or float64. Whatever they are, products are computed
    in float32 (on the native engine in float64 if the weights are float64), and the chip is that of
    the float32 copy of the same weights. A layer takes inputs of any of these dtypes, and its
    outputs have the dtype of its inputs; under autocast they are float32. On the native engine
    `layer.weight` is the trained parameter. On aihwkit, whose tiles hold float32, it is a copy in
    the model's dtype; assigning to it writes the tiles.

    Args:
        model: A digital model. Its parameters must have finite values.
        preset: The chip, such as `presets.rasch2023`.
        engine: "native" or "aihwkit".
        exclude: Modules that stay digital, with all that they hold: a name, a shell pattern such as
            "encoder.*", or several of them. If a module has several names, each of them works. The
            name of a weight matrix works if no handler serves the layer that holds it. Products
            that a module does in its own forward pass stay digital by its name too, and so do those
            with a buffer by the buffer's name.
        overrides: Other presets for some layers, by name or shell pattern. The first pattern that
            matches a layer counts.
        strict: If True, it is an error when a weight matrix would stay digital without being
            excluded, and the first pass of the converted model, whoever runs it, is an error when
            it multiplies with something outside of the tiles that nobody excluded. If False, such
            a matrix stays digital, and the first pass warns.
        handlers: Handlers of your own by layer type, for this conversion only. `handles` explains
            what a handler is, and registers one for all conversions.

    Returns:
        The converted model. It takes the same inputs and gives outputs of the same shapes as
        `model`.

    Raises:
        ConversionError: If nothing can be converted, the model is converted already, or a parameter
            has no finite values; if a layer has no handler, has hooks, or is not in the module
            tree; if a handler returns something that is not allowed.
        CapabilityError: If the engine cannot run the preset.
        VersionError: If aihwkit does not work with the installed torch.
        UsageError: If a pattern matches nothing or has no effect, or an argument has the wrong
            type.
        UnknownNameError: If there is no engine of that name.
        ShapeError: If a handler of your own makes an analog layer from shapes that do not fit.

    Examples:
        >>> from torch import nn
        >>> from aimc_bridge import convert, coverage
        >>> from presets import rasch2023
        >>> model = nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 2))
        >>> analog = convert(model, rasch2023, exclude="2")
        >>> list(coverage(analog)["where"])
        ['analog', 'digital']
    """
    exclude = texts("exclude", exclude)
    overrides = mapping("overrides", overrides, "a dict of presets by name of the layer")
    texts("overrides", list(overrides))
    strict = flag("strict", strict)
    _check_arguments(model, preset, overrides)
    _check_patterns(model, [*exclude, *overrides])
    engine_used = find_engine(engine)
    walk = Walk(engine_used, preset, exclude, overrides, model, _custom(handlers))
    converted = walk.run(layers.unwrapped(_copied(model)))
    if strict and walk.refused:
        raise walk.refused.error(engine, exclude, _names(model))
    if not any(layer.where == "analog" for layer in walk.layers):
        raise ConversionError(
            f"nothing of {type(model).__name__} was converted: it has no layer that engine "
            f"{engine!r} serves, or all are excluded"
        )
    walk.check_use()
    layers.disable_fast_paths(converted)
    record = ConversionRecord(
        engine, preset, overrides, walk.layers, strict=strict, exclude=tuple(exclude)
    )
    attach(converted, record)
    engine_used.finish(converted)
    watch_first_pass(converted)
    tiles = {name: matrix.grid.tiles for name, matrix in matrices_of(converted).items()}
    for layer in walk.layers:
        if layer.where == "analog":
            layer.tiles = sum(n for name, n in tiles.items() if inside(name, layer.module))
    return converted


def coverage(model: nn.Module, inputs: Any = None) -> pd.DataFrame:
    """Return a table that says for every layer whether it is analog, and why.

    With `inputs`, one pass is watched below Python: what the tiles did, and every product that they
    did not do. A product is digital if one operand depends on the inputs and another is a
    parameter, a buffer or a constant, wherever it is called from. The pass is exact, in evaluation
    mode and without gradients, so that a model without input ranges can be measured too.

    Args:
        model: A converted model, as `convert` returned it.
        inputs: One batch for the model: a tensor, a tuple of arguments, or a dict of keyword
            arguments. None measures nothing.

    Returns:
        A DataFrame with one row per layer that holds parameters. Its columns are:
        - `module`: the name of the layer in the model;
        - `type`: the class of the digital layer;
        - `parameters`: how many it has;
        - `where`: "analog" or "digital";
        - `tiles`: the number of tiles, 0 if digital;
        - `reason`: why a layer is digital, or what is special about an analog one (weights that it
            shared with another layer, a preset of its own, a handler of the user). Layers that were
            added to the model after `convert`, such as adapters, say so.
        With `inputs` it has four more columns, all counts of this pass, and one more row per
        digital product, whose reason names the operation, its fixed operand, and file and line:
        - `calls`: passes through the layer;
        - `mvms`: products of one tile with one vector;
        - `macs`: multiplications of a weight with an input;
        - `adc_conversions`: outputs that an ADC read; 0 if the preset has no ADC.

    Raises:
        CapabilityError: If the model is not a converted one.
        UsageError: If the model does not take the inputs.

    Examples:
        >>> from torch import nn
        >>> from aimc_bridge import convert, coverage
        >>> from presets import rasch2023
        >>> analog = convert(nn.Sequential(nn.Linear(600, 7), nn.LayerNorm(7)), rasch2023)
        >>> for row in coverage(analog).itertuples(index=False):
        ...     print(row.module, row.type, row.parameters, row.where, row.tiles)
        0 Linear 4207 analog 2
        1 LayerNorm 14 digital 0
    """
    import pandas as pd

    columns = ["module", "type", "parameters", "where", "tiles", "reason"]
    record = record_of(model)
    layers_ = [*record.layers, *added_layers(model)]
    rows = [[getattr(layer, c) for c in columns] for layer in layers_]
    if inputs is None:
        return pd.DataFrame(rows, columns=columns)
    with watched(model) as measurement:
        run_batch(model, inputs, next(model.parameters()).device)
    for layer, row in zip(layers_, rows, strict=True):
        row += _work_of(layer, measurement)
    rows += [_product_row(product, record.exclude) for product in measurement.digital]
    return pd.DataFrame(rows, columns=[*columns, "calls", "mvms", "macs", "adc_conversions"])


def _work_of(layer: LayerRecord, measurement: Measurement) -> list[int]:
    """Return calls, MVMs, MACs and ADC conversions of all matrices in a layer."""
    works = [
        work
        for name, work in measurement.analog.items()
        if layer.where == "analog" and inside(name, layer.module)
    ]
    return [
        max((work.calls for work in works), default=0),
        sum(work.mvms for work in works),
        sum(work.macs for work in works),
        sum(work.adc_conversions for work in works),
    ]


def _product_row(product: DigitalProduct, exclude: Sequence[str]) -> list[Any]:
    """Return the row of a digital product; it says so if the product was excluded by name."""
    module = product.modules[-1] if product.modules else ""
    pattern = excluded_by(product, exclude)
    reason = str(product)
    if product.added:
        reason = f"{product}; excluded: added after convert"
    elif pattern is not None:
        reason = f"{product}; excluded by {pattern!r}"
    size = math.prod(product.shape)
    return [module, product.kind, size, "digital", 0, reason, product.calls, 0, product.macs, 0]


@torch.no_grad()
def copy_trained(source: nn.Module, target: nn.Module) -> None:
    """Copy what one converted model has learned to another one.

    Both are conversions of the same digital model; engines and presets may differ. Weights, biases,
    input ranges, and all digital parameters and buffers are copied. Learned column scales are
    folded into the weights and their scales, so that on the same tiles the normalised weights stay
    as they are.

    Args:
        source: A converted model.
        target: A converted model, which is changed.

    Raises:
        ConversionError: If the two do not have the same layers.
        CapabilityError: If one of them is not a converted model.
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
    """Return the user's handlers by layer type; those of this conversion come first."""
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
    """Raise an error if the model or a preset cannot be used for a conversion."""
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is a {type(model).__name__}; allowed: a torch.nn.Module")
    for value in (preset, *overrides.values()):
        if not isinstance(value, Preset):
            raise UsageError(
                f"preset is {shown(value)}; allowed: a Preset, such as presets.get('rasch2023')"
            )
    if any(is_converted(module) for module in model.modules()):
        raise ConversionError("this model is converted already; convert the digital model instead")
    theirs = [
        name or type(module).__name__
        for name, module in model.named_modules()
        if type(module).__module__.partition(".")[0] == "aihwkit"
    ]
    if theirs:
        raise ConversionError(
            f"{', '.join(map(repr, theirs[:3]))}{', ...' if theirs[3:] else ''}: analog layers of "
            "aihwkit; convert the digital model instead"
        )
    parameters = dict(model.named_parameters())
    without = [
        name
        for name, parameter in parameters.items()
        if isinstance(parameter, nn.parameter.UninitializedParameter) or parameter.is_meta
    ]
    if without:
        raise ConversionError(
            f"{', '.join(map(repr, without))}: no values yet; load weights, or run a batch through "
            "the lazy layers first"
        )
    # torch does not look at numbers of 8 bits, which the engine refuses by their dtype
    wrong = [
        name
        for name, parameter in parameters.items()
        if not bool(
            torch.isfinite(parameter if parameter.dtype.itemsize > 1 else parameter.float()).all()
        )
    ]
    if wrong:
        raise ConversionError(
            f"{', '.join(map(repr, wrong))}: NaN or infinite values; load weights that are finite"
        )


def _names(model: nn.Module) -> list[str]:
    """Return all names of modules and parameters."""
    return [
        name
        for named in (model.named_modules, model.named_parameters)
        for name, _ in named(remove_duplicate=False)
    ]


def _check_patterns(model: nn.Module, patterns: Iterable[str]) -> None:
    """Raise UsageError for a pattern that matches no module and no parameter."""
    names = _names(model)
    names += [name for name, _ in model.named_buffers(remove_duplicate=False)]
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            raise UsageError(
                f"pattern {pattern!r} matches no module; names look like: "
                f"{', '.join([n for n in names if n][:6])}"
            )


@torch.inference_mode(False)
def _copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of the model, in which every module keeps its training mode.

    Tensors that autograd computed are copied by their values. Some hooks set one as a weight in
    every pass, and modules may keep what they last put out.
    """
    memo: dict[int, Any] = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in tree_leaves(list(module.__dict__.values()))
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }
    copied = copy.deepcopy(model, memo)
    kept = dict(copied.named_modules(remove_duplicate=False))
    for name, module in model.named_modules(remove_duplicate=False):
        if name not in kept:  # a copy of a torch.fx graph has only what the graph uses
            continue
        if isinstance(module, GraphModule):
            _complete(kept[name], module, memo)
        kept[name].training = module.training
    return copied


def _complete(copied: nn.Module, graph: GraphModule, memo: dict[int, Any]) -> None:
    """Give the copy of a torch.fx graph what its own `deepcopy` leaves out: hooks, attributes."""
    for key, value in graph.__dict__.items():
        if key not in copied.__dict__ or key.endswith("_hooks"):
            copied.__dict__[key] = copy.deepcopy(value, memo)
