"""What the library knows of an engine: how it converts layers, and its weight matrices.

An engine turns a layer into its analog counterpart (a handler per layer type) and shows every
weight matrix that lies on tiles through one small interface, `Matrix`. Conversion, chips,
calibration and training are written against these and know nothing of the engine behind.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from aimc_bridge.engines.match import Handlers
from aimc_bridge.errors import CapabilityError, StateError, UnknownNameError
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.spec import Preset, TrainingSpec

Observer = Callable[[int, int, Tensor, Callable[[], Tensor]], None]
"""Called with (row tile, column tile, the inputs of that tile in the layer's own units, what gives
its exact outputs: products of the normalised weights with these inputs)."""


class Flag:
    """A yes or no that several objects share."""

    def __init__(self) -> None:
        self.on = False


class Matrix(ABC):
    """One weight matrix `[out, in]` on a grid of tiles. Normalised: divided by the column scales.

    Everything here that changes weights changes what the crossbar holds, never the trained weights,
    but for `clip` and `remap`, which training calls after an optimizer step.
    """

    grid: TileGrid
    preset: Preset
    reached: Flag
    """Whether a forward pass came here since it was set to False. Copies made for several devices
    share it."""

    # the chip
    @abstractmethod
    def program(self, seed: int, name: str, draw_on: str) -> None:
        """Draw programming noise and drift exponents from streams named (seed, name).

        Args:
            seed: The chip.
            name: The layer, in its streams.
            draw_on: One of the engine's `draw_on`.
        """

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

    # training
    @abstractmethod
    def trainable(self) -> bool:
        """Whether an optimizer may change the trained weights: False for frozen ones."""

    @abstractmethod
    def prepare_training(self, recipe: TrainingSpec) -> None:
        """Take from a recipe: learned ranges and scales, IR drop in training."""

    @abstractmethod
    def periphery(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of the digital periphery, which are no weights.

        Returns:
            "out_scale": the learned factors on the column scales; "input_range": the input ranges.
            An empty list if the preset has none.
        """

    @abstractmethod
    def normalised_weight(self) -> Tensor:
        """The trained weights divided by the column scales, `[out, in]`, detached."""

    @abstractmethod
    def inject(self, weight: Tensor | None) -> None:
        """Use these normalised weights in forward and backward until called with None.

        The gradient goes to the trained weights.
        """

    def draw_noisy_weight(
        self, recipe: TrainingSpec, scale: float, seed: int, names: tuple[object, ...]
    ) -> Tensor | None:
        """Draw the weights of one mini-batch in a way of the engine's own, if it has one.

        Args:
            recipe: What noise, and how much drop-connect.
            scale: Factor on the noise in this mini-batch.
            seed: Of the training.
            names: The rest of the stream's name.

        Returns:
            Normalised weights `[out, in]`, noise and drop-connect included; None if the engine
            leaves the draw to the caller.
        """
        return None

    @abstractmethod
    def clip(self, bound: Tensor) -> None:
        """Limit the trained weights to +-bound; normalised units, `bound` broadcasts to
        `[out, in]`."""

    @abstractmethod
    def remap(self) -> None:
        """Scale anew: the largest |w| of each column (tile, layer) of each tile is 1 again."""

    # what not every engine can

    def keep_out_of_compile(self, on: bool) -> None:
        """Keep the products out of graphs of torch.compile, or let them in again.

        They draw noise and keep state from call to call, which a graph must not hold.

        Raises:
            CapabilityError: If the engine cannot do so.
        """
        if on:
            raise CapabilityError(
                "compile=True needs products that torch.compile can leave out; allowed: "
                'engine="native"'
            )

    def watch_inputs(self, watcher: Callable[[Tensor], None]) -> RemovableHandle:
        """Show `watcher` the inputs of every product, from now on until the handle's `remove()`.

        Args:
            watcher: Called with vectors `[vectors, in]`, or the images of a convolution.

        Raises:
            CapabilityError: If the engine has no view of a whole matrix.
        """
        raise CapabilityError("inputs of whole matrices are seen with engine='native' only")

    def multiply(self, x: Tensor) -> Tensor:
        """Return the product with such inputs as the crossbars are now, without the bias.

        Products are exact while an observer is set.

        Raises:
            CapabilityError: If the engine has no view of a whole matrix.
        """
        raise CapabilityError("products of whole matrices are made with engine='native' only")


class Engine(ABC):
    """One way to simulate: a table of handlers and a way to find the matrices of a model."""

    name: str
    draw_on: tuple[str, ...]
    """Ways to draw a chip that its matrices take, the default first."""

    def __init__(self) -> None:
        self.handlers = Handlers()

    @abstractmethod
    def check(self, preset: Preset, device: torch.device, dtype: torch.dtype) -> None:
        """Raise CapabilityError or VersionError where this engine cannot run the preset here."""

    @abstractmethod
    def matrices(self, model: nn.Module) -> dict[str, Matrix]:
        """Every weight matrix on tiles, by the name of the layer that holds it."""

    @abstractmethod
    def finish(self, model: nn.Module) -> None:
        """Last step of a conversion, on the whole converted model (hooks, state dict)."""


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
    chosen: Engine = getattr(importlib.import_module(module), attribute)
    return chosen


def chip_in_the_way(holder: str) -> StateError:
    """What a state dict meets where a chip is programmed."""
    return StateError(
        f"load_state_dict: {holder} holds a programmed chip, which is not of the weights to be "
        "loaded; call restore(model) first, and load again"
    )
