"""What the library knows of an engine: layer handlers, weight matrices, a model's record.

An engine turns a layer into its analog counterpart (a handler a layer type) and shows every weight
matrix that lies on tiles through one small interface, `Matrix`. Conversion, chips, calibration and
training are written against these and know nothing of the engine behind.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from aimc_bridge.errors import CapabilityError, ConversionError, StateError, UnknownNameError
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.spec import Preset, TrainingSpec

Observer = Callable[[int, int, Tensor, Callable[[], Tensor]], None]
"""Called with (row tile, column tile, the inputs of that tile in the layer's own units, what gives
its exact outputs: products of the normalised weights with these inputs)."""


class Matrix(ABC):
    """One weight matrix `[out, in]` on a grid of tiles. Normalised: divided by the column scales.

    Everything here that changes weights changes what the crossbar holds, never the trained weights,
    but for `clip` and `remap`, which training calls after an optimizer step.
    """

    grid: TileGrid
    preset: Preset
    reached: list[bool]
    """One value, in a list that copies made for several devices share: whether a forward pass came
    here since it was set to False."""

    # the chip
    @abstractmethod
    def program(self, seed: int, name: str, draw_on: str) -> None:
        """Draw programming noise and drift exponents from streams named (seed, name)."""

    @abstractmethod
    def drift(self, t_s: float, seed: int, name: str, draw_on: str) -> None:
        """Hold the programmed weights as they are `t_s` seconds after programming."""

    @abstractmethod
    def restore(self) -> None:
        """Hold the clean trained weights again and forget the chip."""

    @abstractmethod
    def chip_state(self) -> dict[str, Tensor]:
        """All tensors of the programmed chip; with `load_chip_state` the outputs are the same."""

    @abstractmethod
    def load_chip_state(self, state: dict[str, Tensor]) -> None:
        """Become the chip that `chip_state` described."""

    # weights
    @abstractmethod
    def clean_weight(self) -> Tensor:
        """The trained weights, `[out, in]`, in the layer's own units, without learned scales."""

    @abstractmethod
    def column_scale(self) -> Tensor:
        """The digital scale of each column of each tile, `[row tiles, out]`, learned factor out."""

    @abstractmethod
    def set_clean_weight(self, weight: Tensor, scale: Tensor | None = None) -> None:
        """Write trained weights, `[out, in]`, own units, on columns scaled by `scale`, or anew;
        learned scales become 1, a chip is forgotten."""

    @abstractmethod
    def bias(self) -> Tensor | None:
        """The digital bias parameter of the layer, `[out]`."""

    @abstractmethod
    def learned_scale(self) -> Tensor:
        """The learned second factor on the column scales, `[row tiles, out]`, detached."""

    @abstractmethod
    def effective_weight(self) -> Tensor:
        """What the crossbar holds now, `[out, in]`, own units, all column scales included."""

    @abstractmethod
    def alpha(self) -> Tensor:
        """Compensation factor now in force, `[row tiles, out]`."""

    # input ranges
    @abstractmethod
    def input_ranges(self) -> Tensor | None:
        """`[row tiles, column tiles]`, own units; None where the preset has no ranges."""

    @abstractmethod
    def set_input_ranges(self, ranges: Tensor) -> None:
        """Set them, `[row tiles, column tiles]`; from now on they count as calibrated."""

    @abstractmethod
    def observe(self, observer: Observer | None) -> None:
        """While set, products are exact and the observer sees the inputs of every tile."""

    @abstractmethod
    def product_modules(self) -> list[tuple[nn.Module, int]]:
        """List the modules whose forward pass is this matrix's product on its tiles.

        Returns:
            Pairs of a module and the number of its outputs per vector; 0 for all but one module,
            so that each vector is counted once.
        """

    # training
    @abstractmethod
    def trainable(self) -> bool:
        """Whether an optimizer may change the trained weights: False for frozen ones."""

    @abstractmethod
    def prepare_training(self, recipe: Any) -> None:
        """Take from a TrainingSpec: learned ranges and scales, IR drop in training."""

    @abstractmethod
    def normalised_weight(self) -> Tensor:
        """The trained weights divided by the column scales, `[out, in]`, detached."""

    @abstractmethod
    def inject(self, weight: Tensor | None) -> None:
        """Use these normalised weights in forward and backward until called with None.

        The gradient goes to the trained weights.
        """

    def noisy_in_passes(
        self, recipe: TrainingSpec, scale: float, seed: int, names: tuple[object, ...]
    ) -> Tensor | None:
        """Normalised weights with a mini-batch's noise of `scale` and drop-connect, drawn by the
        engine itself from the stream (seed, *names); None where it leaves that to the caller."""
        return None

    @abstractmethod
    def clip(self, bound: Tensor) -> None:
        """Limit the trained weights to +-bound; normalised units, `bound` broadcasts to
        `[out, in]`."""

    @abstractmethod
    def remap(self) -> None:
        """Scale anew: the largest |w| of each column (tile, layer) of each tile is 1 again."""


Handler = Callable[[nn.Module, Preset], nn.Module]
"""Makes the analog counterpart of a layer, weights copied, or raises ConversionError."""


class Engine(ABC):
    """One way to simulate: a table of handlers and a way to find the matrices of a model."""

    name: str

    def __init__(self) -> None:
        self.handlers: dict[type[nn.Module], Handler] = {}
        self.named_handlers: dict[tuple[str, str], Handler] = {}

    def handles(self, *types: type[nn.Module]) -> Callable[[Handler], Handler]:
        """Register a handler for layer types (decorator); subclasses are served too where they
        do not change `forward`."""

        def register(handler: Handler) -> Handler:
            for kind in types:
                self.handlers[kind] = handler
            return handler

        return register

    def handles_named(self, module: str, name: str) -> Callable[[Handler], Handler]:
        """Like `handles`, for a class of a package that must not be imported for it."""

        def register(handler: Handler) -> Handler:
            self.named_handlers[module, name] = handler
            return handler

        return register

    def handler_for(self, module: nn.Module) -> Handler | None:
        """The handler of the nearest base class whose `forward` the module still has."""
        for base in type(module).__mro__:
            handler = self.handlers.get(base) or self.named_handlers.get(
                (base.__module__, base.__qualname__)
            )
            if handler is not None:
                if is_parametrized(module):
                    raise ConversionError(
                        f"{base.__name__} with parametrizations; call "
                        "torch.nn.utils.parametrize.remove_parametrizations first, or exclude it"
                    )
                if hooks := _hooks(module):
                    raise ConversionError(
                        f"{type(module).__name__} has {hooks} that its analog layer would not run; "
                        "remove them first (torch.nn.utils.remove_spectral_norm, "
                        "remove_weight_norm, prune.remove, or the handle of a hook of your own), "
                        "or exclude it"
                    )
                own = "forward" in module.__dict__  # set on this very module, by a wrapper
                if type(module).forward is base.forward and not own:  # type: ignore[attr-defined]
                    return handler
                raise ConversionError(
                    f"{type(module).__name__} changes the forward pass of {base.__name__}; "
                    f"register a handler for it (engine {self.name!r}) or exclude it"
                )
        return None

    @abstractmethod
    def check(self, preset: Preset, device: torch.device, dtype: torch.dtype) -> None:
        """Raise CapabilityError or VersionError where this engine cannot run the preset here."""

    @abstractmethod
    def matrices(self, model: nn.Module) -> dict[str, Matrix]:
        """Every weight matrix on tiles, by the name of the layer that holds it."""

    @abstractmethod
    def finish(self, model: nn.Module) -> None:
        """Last step of a conversion, on the whole converted model (hooks, state dict)."""


def _hooks(module: nn.Module) -> str:
    """Which kinds of hooks a layer's forward and backward pass run; "" for none."""
    kinds = {
        "forward hooks": module._forward_hooks,
        "forward pre-hooks": module._forward_pre_hooks,
        "backward hooks": module._backward_hooks,
        "backward pre-hooks": module._backward_pre_hooks,
    }
    return " and ".join(kind for kind, hooks in kinds.items() if hooks)


_ENGINES = {
    "native": ("aimc_bridge.engines.native", "ENGINE"),
    "aihwkit": ("aimc_bridge.engines.aihwkit", "ENGINE"),
}


def engine(name: str) -> Engine:
    """The engine of that name; it is imported on first use.

    Raises:  UnknownNameError; VersionError where aihwkit does not work with the installed torch.
    """
    if name not in _ENGINES:
        raise UnknownNameError(f"no engine {name!r}; there are: {', '.join(_ENGINES)}")
    module, attribute = _ENGINES[name]
    found: Engine = getattr(importlib.import_module(module), attribute)
    return found


@dataclass
class Chip:
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
    chip: Chip | None = None


_ATTRIBUTE = "_aimc_record"


def attach(model: nn.Module, record: Record) -> None:
    """Give a converted model its record; it travels with copies and pickles of the model."""
    object.__setattr__(model, _ATTRIBUTE, record)
    model.register_load_state_dict_pre_hook(_refuse_with_a_chip)


def _refuse_with_a_chip(model: nn.Module, *_: Any) -> None:
    """Before a state dict is loaded: a chip of other weights would stay on the crossbars."""
    if record_of(model).chip is not None:
        raise chip_in_the_way(type(model).__name__)


def chip_in_the_way(holder: str) -> StateError:
    """What a state dict meets where a chip is programmed."""
    return StateError(
        f"load_state_dict: {holder} holds a programmed chip, which is not of the weights to be "
        "loaded; call restore(model) first, and load again"
    )


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


def record_of(model: nn.Module) -> Record:
    """The record of a converted model.

    Raises:  CapabilityError where the model was not made by `convert` (or is a part of one).
    """
    found = model.__dict__.get(_ATTRIBUTE)
    if not isinstance(found, Record):
        raise CapabilityError(
            f"{type(model).__name__} is not a converted model; call "
            "convert(model, preset) first and pass what it returns, whole"
        )
    return found


def matrices_of(model: nn.Module) -> dict[str, Matrix]:
    """The matrices of a converted model, by layer name."""
    return engine(record_of(model).engine).matrices(model)


def owners(model: nn.Module, kind: type[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of all modules of a kind, each once, under its first name."""
    for name, module in model.named_modules():
        if isinstance(module, kind):
            yield name, module
