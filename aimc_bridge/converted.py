"""The record that a converted model keeps: engine, presets, coverage and chip."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from aimc_bridge.engines.base import Engine, Matrix, chip_in_the_way, engine
from aimc_bridge.errors import CapabilityError
from aimc_bridge.spec import Preset


@dataclass
class ProgrammedChip:
    """The chip that a model holds.

    Attributes:
        seed: Seed of the chip.
        draw_on: How it was drawn, as in `program`.
        t_inference: Seconds after programming at which it is read; None before the first drift.
    """

    seed: int
    draw_on: str
    t_inference: float | None = None


@dataclass
class LayerRecord:
    """One row of the table that `coverage` returns.

    Attributes:
        module: Name of the layer in the model.
        type: Name of the digital layer's class.
        parameters: Number of parameters.
        where: "analog" or "digital".
        tiles: Number of tiles; 0 if the layer is digital.
        reason: Why the layer is digital, or what is special about an analog one; may be empty.
    """

    module: str
    type: str
    parameters: int
    where: str
    tiles: int
    reason: str


@dataclass
class ConversionRecord:
    """The facts about its conversion that a converted model remembers.

    Attributes:
        engine: Name of the engine.
        preset: Preset of all layers that `presets` does not name.
        presets: Other presets, by name or shell pattern of the layers.
        layers: The coverage report.
        chip: The programmed chip; None before programming.
        strict: Whether a digital product that no pattern excludes is an error.
        exclude: Names and shell patterns of what stays digital.
        measured: Whether a pass of the whole model has been measured.
        reach_checked: Whether a pass with a chip has been looked at for layers that it misses.
    """

    engine: str
    preset: Preset
    presets: dict[str, Preset]
    layers: list[LayerRecord] = field(default_factory=list)
    chip: ProgrammedChip | None = None
    strict: bool = True
    exclude: tuple[str, ...] = ()
    measured: bool = False
    reach_checked: bool = False


_ATTRIBUTE = "_aimc_record"
_PART = "_aimc_part"


def attach(model: nn.Module, record: ConversionRecord) -> None:
    """Give a converted model its record, which copies and pickles of the model keep.

    Args:
        model: A converted model.
        record: Its record.
    """
    object.__setattr__(model, _ATTRIBUTE, record)
    mark_parts(model)
    model.register_load_state_dict_pre_hook(_refuse_with_a_chip)


def mark_parts(model: nn.Module) -> None:
    """Mark all modules of a model as there when it was converted.

    Args:
        model: A converted model.
    """
    for module in model.modules():
        module.__dict__[_PART] = True


def was_added(module: nn.Module) -> bool:
    """Return whether a module of a converted model came after the conversion, as adapters do.

    Args:
        module: A module in the module tree of a converted model.
    """
    return _PART not in module.__dict__


def _refuse_with_a_chip(
    model: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: Any
) -> None:
    """Raise an error if analog layers of a state dict are loaded while a chip is programmed.

    The chip would stay on the crossbars, although it has other weights than the state dict. Digital
    parts alone, such as adapters, may be loaded beside a chip.
    """
    if record_of(model).chip is None:
        return
    names = [key.removeprefix(prefix) for key in state_dict]
    if any(inside(name, layer) for layer in matrices_of(model) for name in names):
        raise chip_in_the_way(type(model).__name__)


def digital_state(model: nn.Module, analog: Iterable[str]) -> dict[str, Tensor]:
    """Return the parameters and buffers outside the analog layers.

    The tensors themselves are returned, no copies.

    Args:
        model: A model.
        analog: Names of the layers to leave out, with all that they hold.

    Returns:
        The tensors by name.
    """
    names = tuple(analog)
    return {
        f"{name}.{key}" if name else key: value
        for name, module in model.named_modules()
        if not any(inside(name, layer) for layer in names)
        for key, value in (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        )
    }


def added_layers(model: nn.Module) -> list[LayerRecord]:
    """Return records of the modules with parameters that came after the conversion.

    Adapters are such modules. They are digital, and because somebody put them there on purpose,
    they count as excluded.

    Args:
        model: A converted model.
    """
    layers = record_of(model).layers
    names = {row.module for row in layers}
    analog = tuple(matrices_of(model))
    holders = {name: module for name, module in model.named_modules() if _own(module)}
    moved = [row for row in layers if row.where == "digital" and row.module not in holders]
    added = []
    for name, module in holders.items():
        if name in names or any(inside(name, layer) for layer in analog):
            continue
        kind, count = type(module).__name__, _own(module)
        # a wrapper took the name of the layer that lies in it now
        wrapped = [
            row
            for row in moved
            if inside(name, row.module) and (row.type, row.parameters) == (kind, count)
        ]
        if wrapped:
            moved.remove(wrapped[0])
        else:
            reason = "excluded: added after convert"
            added.append(LayerRecord(name, kind, count, "digital", 0, reason))
    return added


def _own(module: nn.Module) -> int:
    """Return the number of a module's own parameters, without those of its parts."""
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))


def inside(name: str, module: str) -> bool:
    """Return whether the module `name` is `module` itself or a part of it.

    Args:
        name: Name of a module.
        module: Name of a module; "" is the whole model.
    """
    return name == module or module == "" or name.startswith(module + ".")


def matches(name: str, pattern: str) -> bool:
    """Return whether a pattern matches a module, or a module that holds it.

    Args:
        name: Full name of the module, such as "encoder.0.linear".
        pattern: A name or shell pattern; "encoder" matches everything in the encoder.
    """
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[: i + 1]), pattern) for i in range(len(parts)))


def shortened(named: Iterable[str], names: Collection[str]) -> list[str]:
    """Return names and shell patterns that match these names, and what they hold, only.

    Args:
        named: The names to match, such as "blocks.0.mlp" and "blocks.1.mlp".
        names: All names that a pattern might match.

    Returns:
        Patterns in place of names that differ in numbers only, such as "blocks.*.mlp".
    """
    groups: dict[tuple[str, ...], list[list[str]]] = {}
    for name in dict.fromkeys(named):
        parts = name.split(".")
        groups.setdefault(tuple("" if p.isdigit() else p for p in parts), []).append(parts)
    short: list[str] = []
    for group in groups.values():
        same = (set(parts) for parts in zip(*group, strict=True))
        pattern = ".".join(parts.pop() if len(parts) == 1 else "*" for parts in same)
        exact = [".".join(parts) for parts in group]
        hit = (name for name in names if fnmatchcase(name, pattern))
        fits = all(any(inside(one, name) for name in exact) for one in hit)
        short += [pattern] if fits else exact
    return short


def is_converted(model: nn.Module) -> bool:
    """Return whether `convert` returned this very module, not only a part of it.

    Args:
        model: Any module.
    """
    return _ATTRIBUTE in model.__dict__


def record_of(model: nn.Module) -> ConversionRecord:
    """Return the record of a converted model.

    Args:
        model: A converted model.

    Raises:
        CapabilityError: If the model was not returned by `convert` (or is a part of one).
    """
    record = model.__dict__.get(_ATTRIBUTE) if isinstance(model, nn.Module) else None
    if not isinstance(record, ConversionRecord):
        raise CapabilityError(
            f"{type(model).__name__} is not a converted model; call "
            "convert(model, preset) first and pass what it returns, whole"
        )
    return record


def engine_of(model: nn.Module) -> Engine:
    """Return the engine of a converted model.

    Args:
        model: A converted model.

    Raises:
        CapabilityError: If the model is not a converted one.
    """
    return engine(record_of(model).engine)


def matrices_of(model: nn.Module) -> dict[str, Matrix]:
    """Return the weight matrices of a converted model, by the name of the layer.

    Args:
        model: A converted model.

    Raises:
        CapabilityError: If the model is not a converted one.
    """
    return engine_of(model).matrices(model)


def owners(model: nn.Module, kind: type[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, module) for every module of one kind.

    Each module comes once, under its first name.

    Args:
        model: The model to search.
        kind: A class of modules.
    """
    for name, module in model.named_modules():
        if isinstance(module, kind):
            yield name, module
