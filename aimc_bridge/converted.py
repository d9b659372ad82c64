"""What a converted model remembers: its engine and presets, its coverage, the chip it holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from aimc_bridge.engines.base import Engine, Matrix, chip_in_the_way, engine
from aimc_bridge.errors import CapabilityError
from aimc_bridge.spec import Preset


@dataclass
class ProgrammedChip:
    """Which chip a model holds: None before programming."""

    seed: int
    draw_on: str
    t_inference: float | None = None


@dataclass
class LayerRecord:
    """One line of a coverage report."""

    module: str
    type: str
    parameters: int
    where: str
    tiles: int
    reason: str


@dataclass
class Record:
    """What a converted model remembers of its conversion."""

    engine: str
    preset: Preset
    presets: dict[str, Preset]
    layers: list[LayerRecord] = field(default_factory=list)
    chip: ProgrammedChip | None = None


_ATTRIBUTE = "_aimc_record"


def attach(model: nn.Module, record: Record) -> None:
    """Give a converted model its record; it travels with copies and pickles of the model."""
    object.__setattr__(model, _ATTRIBUTE, record)
    model.register_load_state_dict_pre_hook(_refuse_with_a_chip)


def _refuse_with_a_chip(model: nn.Module, *_: Any) -> None:
    """Before a state dict is loaded: a chip of other weights would stay on the crossbars."""
    if record_of(model).chip is not None:
        raise chip_in_the_way(type(model).__name__)


def digital_state(model: nn.Module, analog: Iterable[str]) -> dict[str, Tensor]:
    """Parameters and buffers outside the layers `analog`, themselves, not copies."""
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


def inside(name: str, module: str) -> bool:
    """Whether the module `name` is `module` or in it."""
    return name == module or module == "" or name.startswith(module + ".")


def is_converted(model: nn.Module) -> bool:
    """Whether this very module, not only a part of it, was returned by `convert`."""
    return _ATTRIBUTE in model.__dict__


def record_of(model: nn.Module) -> Record:
    """Return the record of a converted model.

    Raises:
        CapabilityError: If the model was not returned by `convert` (or is a part of one).
    """
    record = model.__dict__.get(_ATTRIBUTE)
    if not isinstance(record, Record):
        raise CapabilityError(
            f"{type(model).__name__} is not a converted model; call "
            "convert(model, preset) first and pass what it returns, whole"
        )
    return record


def engine_of(model: nn.Module) -> Engine:
    """Return the engine of a converted model."""
    return engine(record_of(model).engine)


def matrices_of(model: nn.Module) -> dict[str, Matrix]:
    """The matrices of a converted model, by layer name."""
    return engine_of(model).matrices(model)


def owners(model: nn.Module, kind: type[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of all modules of a kind, each once, under its first name."""
    for name, module in model.named_modules():
        if isinstance(module, kind):
            yield name, module
