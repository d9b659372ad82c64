"""Conversion of a digital model: a walk over its layers that leaves nothing out in silence."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import nn

from aimc_bridge import aliases, layers
from aimc_bridge.converted import (
    LayerRecord,
    Record,
    attach,
    digital_state,
    inside,
    is_converted,
    matrices_of,
    record_of,
)
from aimc_bridge.engines.base import Engine
from aimc_bridge.engines.base import engine as find_engine
from aimc_bridge.engines.match import match
from aimc_bridge.errors import ConversionError, UsageError
from aimc_bridge.spec import Preset

if TYPE_CHECKING:
    import pandas as pd

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_NORMALISATIONS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


def convert(
    model: nn.Module,
    preset: Preset,
    engine: str = "native",
    exclude: Iterable[str] | str = (),
    overrides: Mapping[str, Preset] | None = None,
    strict: bool = True,
) -> nn.Module:
    """A copy of `model` whose weight matrices lie on analog tiles.

    Weights, biases, device, dtype and training mode are kept; `model` itself is not touched. Where
    the model holds a layer in a list, a dict or another attribute too, it holds the analog one.

    Args:    preset  what the chip is.    engine  "native" or "aihwkit".
             exclude  names and shell patterns of modules (with all they hold) that stay digital.
             overrides  name or pattern -> preset for the layers it matches; the first match wins.
             A module with several names is meant by each of them.
             strict  a weight matrix that would stay digital without being excluded is an error.
    Returns: the converted model; `coverage` tells what became of each layer.
    Raises:  ConversionError (nothing to convert; a layer that no handler serves, that has hooks,
             or that is not in the module tree), CapabilityError (the engine cannot run the preset),
             VersionError, UsageError (a pattern that matches nothing, wrong types),
             UnknownNameError (engine).
    """
    exclude = [exclude] if isinstance(exclude, str) else list(exclude)
    overrides = dict(overrides or {})
    _check_arguments(model, preset, overrides)
    _check_patterns(model, [*exclude, *overrides])
    chosen = find_engine(engine)
    walk = _Walk(chosen, preset, exclude, overrides, model)
    converted = walk.run(_copied(model))
    if strict and walk.unserved:
        raise ConversionError(
            "these hold weight matrices that no handler of engine "
            f"{engine!r} serves: {', '.join(walk.unserved)}; exclude them by name "
            "(exclude=[...]), register a handler, or pass strict=False to leave them digital"
        )
    if not any(layer.where == "analog" for layer in walk.layers):
        raise ConversionError(
            f"nothing of {type(model).__name__} was converted: it has no layer that engine "
            f"{engine!r} serves, or all are excluded"
        )
    walk.check_use()
    layers.disable_fast_paths(converted)
    attach(converted, Record(engine, preset, overrides, walk.layers))
    chosen.finish(converted)
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
    ours, theirs = matrices_of(source), matrices_of(target)
    if set(ours) != set(theirs):
        only = sorted(set(ours) ^ set(theirs))
        raise ConversionError(f"not the same analog layers: {', '.join(only[:6])} on one side only")
    for name, matrix in ours.items():
        learned, other_matrix = matrix.learned_scale(), theirs[name]
        scale = None
        if matrix.grid == other_matrix.grid:
            scale = matrix.column_scale() * learned
        weight = matrix.clean_weight() * matrix.grid.expand_columns(learned)
        other_matrix.set_clean_weight(weight, scale)
        bias, other = matrix.bias(), theirs[name].bias()
        if (bias is None) != (other is None):
            raise ConversionError(f"layer {name!r} has a bias on one side only")
        if bias is not None and other is not None:
            other.copy_(bias)
        ranges = matrix.input_ranges()
        if ranges is not None:
            theirs[name].set_input_ranges(ranges)
    digital = digital_state(source, set(ours))
    for key, value in digital_state(target, set(theirs)).items():
        if key not in digital or digital[key].shape != value.shape:
            raise ConversionError(f"digital parameter {key!r} is not on both sides")
        value.copy_(digital[key])


def _matches(name: str, pattern: str) -> bool:
    """Whether the module `name`, or one that holds it, is meant by a name or shell pattern."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[: i + 1]), pattern) for i in range(len(parts)))


def _check_arguments(model: nn.Module, preset: Preset, overrides: Mapping[str, Preset]) -> None:
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is a {type(model).__name__}; allowed: a torch.nn.Module")
    for given in (preset, *overrides.values()):
        if not isinstance(given, Preset):
            raise UsageError(
                f"preset is {given!r}; allowed: a Preset, such as presets.get('rasch2023')"
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
        if not any(_matches(name, pattern) for name in names):
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


class _Walk:
    """One pass over the modules of a copied model, children replaced as it goes."""

    def __init__(
        self,
        engine: Engine,
        preset: Preset,
        exclude: list[str],
        overrides: dict[str, Preset],
        given: nn.Module,
    ) -> None:
        self.engine, self.preset = engine, preset
        self.exclude, self.overrides = exclude, overrides
        self.layers: list[LayerRecord] = []
        self.unserved: list[str] = []
        self.used: set[str] = set()
        self.checked: set[tuple[int, torch.device, torch.dtype]] = set()
        self.done: dict[int, nn.Module] = {}
        self.replaced: dict[nn.Module, nn.Module | None] = {}
        self.owners: dict[int, list[tuple[str, nn.Module]]] = {}
        for name, module in given.named_modules():
            for key, parameter in module.named_parameters(recurse=False):
                full = f"{name}.{key}" if name else key
                self.owners.setdefault(id(parameter), []).append((full, module))
        self.given = dict(given.named_modules(remove_duplicate=False))
        self.aliases: dict[int, list[str]] = {}
        for name, module in self.given.items():
            self.aliases.setdefault(id(module), []).append(name)

    def run(self, model: nn.Module) -> nn.Module:
        for where, held in aliases.unregistered(model):
            for part in held.modules():
                matrix = any(p.ndim >= 2 for p in part.parameters(recurse=False))
                if matrix and not isinstance(part, _EMBEDDINGS):
                    self.unserved.append(
                        f"{where} (a {type(part).__name__} that is not in the module tree)"
                    )
        result = self._visit("", model)
        aliases.redirect(result, self.replaced)
        return result

    def check_use(self) -> None:
        """Raise UsageError for a pattern that had no effect."""
        modules = [name for name in self.given if name]
        for pattern in self.exclude:
            if pattern not in self.used and not any(_matches(n, pattern) for n in modules):
                raise UsageError(
                    f"exclude {pattern!r} matches a parameter of a layer that is converted whole; "
                    "exclude the layer by its name"
                )
        for pattern in self.overrides:
            if pattern not in self.used:
                raise UsageError(
                    f"override {pattern!r} reaches no analog layer: nothing converted matches it, "
                    "or an earlier pattern takes its layers"
                )

    def _visit(self, name: str, module: nn.Module) -> nn.Module:
        if id(module) in self.done:
            return self.done[id(module)]
        pattern = next((p for p in self.exclude if name and self._meant(name, p)), None)
        if pattern is not None:
            self.used.add(pattern)
            self._leave_all(name, module, f"excluded by {pattern!r}")
            self.done[id(module)] = module
            return module
        try:
            handler = match(module, self.engine.handlers)
        except ConversionError as problem:
            self.unserved.append(f"{name or type(module).__name__} ({problem})")
            self._leave_all(name, module, f"no handler: {problem}")
            self.done[id(module)] = module
            return module
        result = module
        if handler is not None:
            preset = self._preset_of(name)
            self._check_engine(preset, module)
            result = self._handle(name, module, handler(module, preset))
            self.replaced |= dict.fromkeys(module.modules())
            self.replaced[module] = result
        else:
            self._digital(name, module)
            for key, child in list(module._modules.items()):
                if child is not None:
                    replaced = self._visit(f"{name}.{key}" if name else key, child)
                    if replaced is not child:
                        setattr(module, key, replaced)
        self.done[id(module)] = result
        self.done[id(result)] = result
        return result

    def _check_engine(self, preset: Preset, module: nn.Module) -> None:
        for parameter in module.parameters():
            case = (id(preset), parameter.device, parameter.dtype)
            if case not in self.checked:
                self.engine.check(preset, parameter.device, parameter.dtype)
                self.checked.add(case)

    def _preset_of(self, name: str) -> Preset:
        for pattern, preset in self.overrides.items():
            if self._meant(name, pattern):
                self.used.add(pattern)
                return preset
        return self.preset

    def _meant(self, name: str, pattern: str) -> bool:
        return any(_matches(alias, pattern) for alias in self.aliases[id(self.given[name])])

    def _handle(self, name: str, module: nn.Module, analog: nn.Module) -> nn.Module:
        count = sum(p.numel() for p in module.parameters())
        reason = self._tied(name)
        preset = self._preset_of(name)
        if preset is not self.preset:
            reason = "; ".join(filter(None, [reason, f"preset {preset}"]))
        self.layers.append(LayerRecord(name, type(module).__name__, count, "analog", 0, reason))
        return analog

    def _tied(self, name: str) -> str:
        """What becomes of weights that this layer shared with others; "" where it shared none."""
        mine = set(self.given[name].modules())
        shared = {
            full: isinstance(owner, _EMBEDDINGS)
            for parameter in self.given[name].parameters()
            for full, owner in self.owners[id(parameter)]
            if owner not in mine
        }
        embeddings = [full for full, is_embedding in shared.items() if is_embedding]
        others = [full for full, is_embedding in shared.items() if not is_embedding]
        reasons = []
        if embeddings:
            kept = "keeps a digital copy of its own"
            reasons.append(f"was tied to {', '.join(embeddings)}, which {kept}")
        if others:
            reasons.append(f"was tied to {', '.join(others)}: from now on each has its own copy")
        return "; ".join(reasons)

    def _leave_all(self, name: str, module: nn.Module, reason: str) -> None:
        for key, inner in module.named_modules():
            own = list(inner.parameters(recurse=False))
            if own:
                full = ".".join(filter(None, [name, key]))
                count = sum(p.numel() for p in own)
                self.layers.append(
                    LayerRecord(full, type(inner).__name__, count, "digital", 0, reason)
                )

    def _digital(self, name: str, module: nn.Module) -> None:
        """Record a module without handler that holds parameters of its own."""
        own = dict(module.named_parameters(recurse=False))
        if not own:
            return
        reason = "no weight matrix"
        if isinstance(module, _EMBEDDINGS):
            reason = "embedding"
        elif isinstance(module, _NORMALISATIONS):
            reason = "normalisation"
        else:
            full = {key: f"{name}.{key}" if name else key for key in own}
            unserved = []
            for key, parameter in own.items():
                pattern = next((p for p in self.exclude if fnmatchcase(full[key], p)), None)
                if pattern is not None:
                    self.used.add(pattern)
                elif parameter.ndim >= 2:
                    unserved.append(full[key])
            if any(parameter.ndim >= 2 for parameter in own.values()):
                reason = "no handler" if unserved else "excluded by name"
            if unserved:
                self.unserved.append(f"{', '.join(unserved)} ({type(module).__name__})")
        count = sum(p.numel() for p in own.values())
        self.layers.append(LayerRecord(name, type(module).__name__, count, "digital", 0, reason))
