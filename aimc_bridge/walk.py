"""The walk of a conversion over a model: it replaces layers and records the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import nn
from torch.fx import GraphModule
from torch.nn.utils.parametrize import ParametrizationList

from aimc_bridge import aliases
from aimc_bridge.converted import LayerRecord, inside, matches
from aimc_bridge.custom_layers import Handled, MakeLinear
from aimc_bridge.engines.base import Engine
from aimc_bridge.engines.match import CustomHandler, Handler, is_served, match
from aimc_bridge.errors import ConversionError, UsageError
from aimc_bridge.folding import fold
from aimc_bridge.refusals import Cause, Refusals, is_matrix, no_cells, why_not
from aimc_bridge.source_code import dotted
from aimc_bridge.spec import Preset
from aimc_bridge.usage import is_multiplied

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_NORMALISATIONS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


class Walk:
    """One pass over a copied model, which replaces its layers by analog ones.

    Attributes:
        layers: The coverage report so far, one record per layer that holds parameters.
        refused: Weight matrices that stay digital though no pattern excludes them: an error if the
            conversion is strict.
        used: Patterns that had an effect so far.
        checked: (preset, device, dtype) cases that the engine can run, so that each is checked
            once.
        done: What took the place of each module, by the identity of both.
        replaced: Module -> what took its place; None for a part of a layer that was converted
            whole.
        owners: Names and modules that hold a parameter of the original model, by its identity.
        given: The modules of the original model, by each of their names.
        aliases: All names of a module of the original model, by its identity.
    """

    def __init__(
        self,
        engine: Engine,
        preset: Preset,
        exclude: list[str],
        overrides: dict[str, Preset],
        given: nn.Module,
        custom: dict[type[nn.Module], CustomHandler],
    ) -> None:
        """Prepare a walk; nothing is changed before `run`.

        Args:
            engine: The engine that converts layers.
            preset: The preset of layers that no override matches.
            exclude: Names and shell patterns of modules that stay digital.
            overrides: Presets by name or shell pattern; the first match counts.
            given: The original model, of which `run` gets a copy.
            custom: The user's handlers, by layer type.
        """
        self.engine, self.preset, self.custom = engine, preset, custom
        self.exclude, self.overrides = exclude, overrides
        self.layers: list[LayerRecord] = []
        self.refused = Refusals()
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
        """Convert the layers of a model in place and return what takes its place.

        Args:
            model: A copy of the original model.

        Returns:
            The model itself, or an analog layer if the model is a single layer.

        Raises:
            ConversionError: If a layer is held in a way that cannot be redirected to its analog
                layer, or a user's handler returns something that is not allowed.
            CapabilityError: If the engine cannot run a preset.
        """
        for place, hidden in aliases.unregistered(model):
            for part in hidden.modules():
                matrix = any(is_matrix(p) for p in part.parameters(recurse=False))
                holder = place.rpartition(".")[0]
                if not matrix and not why_not(part) or isinstance(part, _EMBEDDINGS):
                    continue
                if not (holder and self._exclusion(holder)):
                    self.refused.add(
                        Cause.REFUSED,
                        f"{place} (a {type(part).__name__} that is not in the module tree; keep "
                        "it in an nn.ModuleList or nn.ModuleDict)",
                        [holder],
                    )
        names = {module: name for name, module in model.named_modules() if name}
        result = self._visit("", model)
        aliases.redirect(result, self.replaced, names, self.exclude)
        return result

    def check_use(self) -> None:
        """Raise UsageError for a pattern that had no effect."""
        analog = [layer.module for layer in self.layers if layer.where == "analog"]
        others = [name for name in self.given if name]
        for module_name, module in self.given.items():
            if not any(inside(module_name, layer) for layer in analog):
                own = (
                    *module.named_parameters(recurse=False),
                    *module.named_buffers(recurse=False),
                )
                others += [_joined(module_name, key) for key, _ in own]
        for pattern in self.exclude:
            if pattern not in self.used and not any(matches(n, pattern) for n in others):
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
        """Convert a module and its children, and return what takes its place.

        A module that cannot be converted is recorded, with the reason.
        """
        if id(module) in self.done:
            return self.done[id(module)]
        pattern = self._exclusion(name) if name else None
        if pattern is not None:
            self._leave_all(name, module, f"excluded by {pattern!r}")
            self.done[id(module)] = module
            return module
        try:
            handler, note = self._handler_of(module)
        except ConversionError as problem:
            return self._leave_refused(name, module, problem)
        result = module
        if isinstance(handler, CustomHandler):
            result = self._customised(name, module, handler, note)
        elif handler is not None:
            used = set(self.used)
            preset = self._preset_of(name)
            self._check_engine(preset, module)
            try:
                analog = handler(module, preset)
            except ConversionError as problem:
                self.used = used  # an override of a layer that stays digital has no effect
                return self._leave_refused(name, module, problem)
            result = self._handle(name, module, analog, note)
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

    def _leave_refused(self, name: str, module: nn.Module, problem: ConversionError) -> nn.Module:
        """Record a layer that cannot be converted, with the reason, and return it as it is."""
        self.refused.add(Cause.REFUSED, f"{name or type(module).__name__} ({problem})", [name])
        self._leave_all(name, module, f"refused: {problem}")
        self.done[id(module)] = module
        return module

    def _handler_of(self, module: nn.Module) -> tuple[Handler | CustomHandler | None, str]:
        """Return the handler of a layer, and a remark on weights that were folded for it.

        Raises:
            ConversionError: If the layer multiplies with weights that cannot lie on tiles, or does
                something that its analog layer would not do.
        """
        if problem := why_not(module):
            raise ConversionError(problem)
        notes = [self.engine.handlers.note(module)]
        if is_served(module, self.engine.handlers, self.custom):
            notes.append(fold(module))
        handler = match(module, self.engine.handlers, self.custom)
        if handler is not None and (problem := no_cells(module)):
            raise ConversionError(problem)
        return handler, "; ".join(filter(None, notes))

    def _check_engine(self, preset: Preset, module: nn.Module) -> None:
        """Raise an error if the engine cannot run the preset with this module.

        It depends on the device and the dtype of the module's parameters.
        """
        for parameter in module.parameters():
            case = (id(preset), parameter.device, parameter.dtype)
            if case not in self.checked:
                self.engine.check(preset, parameter.device, parameter.dtype)
                self.checked.add(case)

    def _preset_of(self, name: str) -> Preset:
        """Return the preset of the first override that matches, or the default."""
        for pattern, preset in self.overrides.items():
            if self._matched(name, pattern):
                self.used.add(pattern)
                return preset
        return self.preset

    def _exclusion(self, name: str) -> str | None:
        """Return the pattern that excludes a module, or None."""
        pattern = next((p for p in self.exclude if self._matched(name, p)), None)
        if pattern is not None:
            self.used.add(pattern)
        return pattern

    def _matched(self, name: str, pattern: str) -> bool:
        """Return whether a pattern matches one of the names of a module."""
        return any(matches(alias, pattern) for alias in self.aliases[id(self.given[name])])

    def _handle(self, name: str, module: nn.Module, analog: nn.Module, note: str) -> nn.Module:
        """Record a layer that the library's handler converted; return the analog one."""
        count = sum(p.numel() for p in module.parameters())
        preset = self._preset_of(name)
        other = f"preset {preset}" if preset is not self.preset else ""
        reason = "; ".join(filter(None, [self._tied(name), note, other]))
        self.layers.append(LayerRecord(name, type(module).__name__, count, "analog", 0, reason))
        return analog

    def _customised(
        self, name: str, module: nn.Module, handler: CustomHandler, note: str
    ) -> nn.Module:
        """Let a user's handler convert a layer, and record the result.

        The parts that the handler left digital get records too.
        """
        presets: dict[str, Preset] = {}

        def preset_of(part: str) -> Preset:
            presets[part] = self._preset_of(_joined(name, part))
            return presets[part]

        def excluded(part: str) -> str | None:
            return self._exclusion(_joined(name, part))

        full_names = {id(p): _joined(name, key) for key, p in module.named_parameters()}
        make = MakeLinear(module, self.engine, preset_of, excluded)
        handled = Handled(repr(name) if name else "the model", module, handler, make)
        row = LayerRecord(name, type(module).__name__, handled.analog, "analog", 0, "")
        if make.made:
            self.layers.append(row)
        unserved: list[str] = []
        total = handled.analog
        for part in handled.digital:
            count = sum(p.numel() for p in part.module.parameters(recurse=False))
            total += count
            if part.module in make.left:
                child, pattern = make.left[part.module]
                self._leave_all(_joined(name, child), part.module, f"excluded by {pattern!r}")
            elif part.module is handled.module and make.made:
                row.parameters += count
                parameters = _parameters(name, part.module, full_names)
                unserved = self._unserved(parameters, name, part.module)
                self._refuse(unserved, part.module, handler)
            else:
                self._digital(_joined(name, part.name), part.module, handler, full_names)
        row.reason = "; ".join(
            filter(
                None,
                [
                    self._tied(name),
                    self._preset_note(presets),
                    f"handler {handler.name}",
                    note,
                    f"{', '.join(unserved)} digital" if unserved else "",
                    f"{total} parameters of {handled.given}" if total != handled.given else "",
                ],
            )
        )
        self.replaced |= dict.fromkeys(handled.gone) | make.replaced
        if handled.module is not module:
            self.replaced[module] = handled.module
        return handled.module

    def _preset_note(self, presets: dict[str, Preset]) -> str:
        """Return the coverage report's remark on the presets of a layer's parts."""
        others = {part: preset for part, preset in presets.items() if preset is not self.preset}
        if others and len(others) == len(presets) and len(set(others.values())) == 1:
            return f"preset {next(iter(others.values()))}"
        return "; ".join(f"{part}: preset {preset}" for part, preset in others.items())

    def _tied(self, name: str) -> str:
        """Return a remark on weights that this layer shared with others; "" for none."""
        modules = set(self.given[name].modules())
        shared = {
            full: isinstance(owner, _EMBEDDINGS)
            for parameter in self.given[name].parameters()
            for full, owner in self.owners[id(parameter)]
            if owner not in modules
        }
        embeddings = [full for full, is_embedding in shared.items() if is_embedding]
        others = [full for full, is_embedding in shared.items() if not is_embedding]
        reasons = []
        if embeddings:
            names = ", ".join(embeddings)
            reasons.append(f"was tied to {names}, which keeps a digital copy of its own")
        if others:
            reasons.append(f"was tied to {', '.join(others)}: from now on each has its own copy")
        return "; ".join(reasons)

    def _leave_all(self, name: str, module: nn.Module, reason: str) -> None:
        """Record a module and everything in it as digital, all with the same reason."""
        for key, inner in module.named_modules():
            parameters = list(inner.parameters(recurse=False))
            if parameters or why_not(inner):
                full = ".".join(filter(None, [name, key]))
                count = sum(p.numel() for p in parameters)
                self.layers.append(
                    LayerRecord(full, type(inner).__name__, count, "digital", 0, reason)
                )

    def _digital(
        self,
        name: str,
        module: nn.Module,
        handler: CustomHandler | None = None,
        full_names: Mapping[int, str] | None = None,
    ) -> None:
        """Record a module that stays digital and has parameters of its own.

        Args:
            name: The module's name.
            module: A module that no handler serves.
            handler: The user's handler that left it digital, if one did.
            full_names: Names that parameters had before that handler, by their identity.
        """
        parameters = _parameters(name, module, full_names or {})
        if not parameters:
            return
        reason = "no weight matrix"
        holder, _ = self._holder(name, module, "")
        if isinstance(holder, _EMBEDDINGS):
            reason = "embedding"
        elif isinstance(holder, _NORMALISATIONS):
            reason = "normalisation"
        else:
            unserved = self._unserved(parameters, name, module)
            matrices = [parameter for parameter in parameters if is_matrix(parameter.tensor)]
            if unserved:
                reason = (
                    "no handler" if handler is None else f"left digital by handler {handler.name}"
                )
            elif any(self._excluded_parameter(parameter.name) for parameter in matrices):
                reason = "excluded by name"
            elif matrices:
                reason = "added, scaled or looked up: no product takes it"
            self._refuse(unserved, module, handler)
        count = sum(parameter.tensor.numel() for parameter in parameters)
        self.layers.append(LayerRecord(name, type(module).__name__, count, "digital", 0, reason))

    def _unserved(
        self, parameters: Iterable[_Parameter], name: str, module: nn.Module
    ) -> list[str]:
        """Return the names of the weight matrices that no pattern excludes."""
        return [
            parameter.name
            for parameter in parameters
            if not self._excluded_parameter(parameter.name)
            and is_matrix(parameter.tensor)
            and is_multiplied(
                *self._holder(parameter.name.rpartition(".")[0], module, parameter.key)
            )
        ]

    def _excluded_parameter(self, name: str) -> bool:
        """Return whether a pattern excludes a parameter by its own name."""
        pattern = next((p for p in self.exclude if fnmatchcase(name, p)), None)
        if pattern is not None:
            self.used.add(pattern)
        return pattern is not None

    def _holder(self, name: str, module: nn.Module, key: str) -> tuple[nn.Module, str]:
        """Return the module whose code uses a parameter, and the name of it there.

        It is the module itself, but for a list or a parametrization, which belong to another one,
        and for the parts of a torch.fx graph, whose code is the graph's.
        """
        parts = name.split(".") if name else []
        for i in range(len(parts) + 1):
            graph = self.given.get(".".join(parts[:i]))
            used = ".".join([*parts[i:], key])
            if isinstance(graph, GraphModule) and f"self.{used}" in dotted(graph.code):
                return graph, used
        if isinstance(module, nn.ParameterList | nn.ParameterDict | ParametrizationList):
            path = [part for part in name.split(".") if part != "parametrizations"]
            owner = self.given.get(".".join(path[:-1]))
            if path[-1] and owner is not None:
                return owner, path[-1]
        return module, key

    def _refuse(self, names: list[str], module: nn.Module, handler: CustomHandler | None) -> None:
        """Note weight matrices that are an error if the conversion is strict."""
        if names:
            cause, left = Cause.UNSERVED, ""
            if handler is not None:
                cause, left = Cause.LEFT, f", left digital by handler {handler.name}"
            what = f"{', '.join(names)} ({type(module).__name__}{left})"
            self.refused.add(cause, what, names)


class _Parameter(NamedTuple):
    """A parameter of a module.

    Attributes:
        name: Its full name in the whole model.
        key: Its name in the module.
        tensor: The parameter.
    """

    name: str
    key: str
    tensor: nn.Parameter


def _joined(name: str, part: str) -> str:
    """Return the full name, in the whole model, of a part of a module."""
    return ".".join(filter(None, [name, part]))


def _parameters(name: str, module: nn.Module, full_names: Mapping[int, str]) -> list[_Parameter]:
    """Return the parameters of the module itself.

    A parameter that `full_names` does not know has its name in the module behind `name`.
    """
    return [
        _Parameter(full_names.get(id(parameter), _joined(name, key)), key, parameter)
        for key, parameter in module.named_parameters(recurse=False)
    ]
