"""The interface of an engine: it converts layers and shows their weight matrices.

An engine turns a layer into its analog counterpart, with one handler per layer type. It shows every
weight matrix that lies on tiles through one small interface, `Matrix`. Conversion, chips,
calibration and training are written against this interface and do not know which engine they use.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from aimc_bridge.engines.match import Handlers
from aimc_bridge.errors import CapabilityError, StateError, UnknownNameError, shown
from aimc_bridge.physics.cells import Cells
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.physics.variation import Variation
from aimc_bridge.spec import Preset, TrainingSpec

Observer = Callable[[int, int, Tensor, Callable[[], Tensor]], None]
"""A function called for every tile with (row tile, column tile, inputs, outputs).

The inputs are those that reach the tile, in the layer's own units. `outputs()` returns the exact
outputs of the tile: the products of its normalised weights with these inputs.
"""


class Flag:
    """A truth value that several objects share.

    Attributes:
        on: The value.
    """

    def __init__(self) -> None:
        """Start with False."""
        self.on = False


class Matrix(ABC):
    """One weight matrix `[out, in]` on a grid of tiles.

    *Normalised* weights are weights divided by the column scales. *Own units* are the units of the
    layer's trained weights, inputs and outputs. Most methods that change weights change only what
    the crossbar holds. The trained weights are changed by `set_clean_weight`, and by `clip` and
    `remap`, which training calls after an optimizer step.

    Attributes:
        grid: The tiles that the matrix lies on.
        preset: The preset that the layer was converted under.
        name: Name of the layer at its conversion. It names the random streams of its chips,
            whatever is put around the layer later.
        reached: Turned on by every forward pass through this matrix. Copies of the matrix on
            several devices share it.
    """

    grid: TileGrid
    preset: Preset
    name: str
    reached: Flag

    # the chip
    @abstractmethod
    def program(self, seed: int, name: str, draw_on: str) -> None:
        """Draw programming noise and drift exponents from streams named (seed, name).

        Args:
            seed: Seed of the chip.
            name: Name of the layer in the names of its streams.
            draw_on: One of the engine's `draw_on`.
        """

    @abstractmethod
    def drift(self, t_s: float, seed: int, name: str, draw_on: str) -> None:
        """Hold the programmed weights as they are some time after programming.

        Args:
            t_s: Seconds after programming.
            seed: Seed of the chip.
            name: Name of the layer in the names of its streams.
            draw_on: One of the engine's `draw_on`.

        Raises:
            StateError: If no chip is programmed.
        """

    @abstractmethod
    def restore(self) -> None:
        """Hold the clean trained weights again and forget the chip."""

    @abstractmethod
    def chip_state(self) -> dict[str, Tensor]:
        """Return all tensors of the programmed chip, by name.

        After `load_chip_state` with these tensors, the outputs are the same.

        Raises:
            StateError: If no chip is programmed.
        """

    @abstractmethod
    def check_chip_state(self, state: dict[str, Tensor], t_s: float | None) -> None:
        """Check that tensors are a whole chip of this matrix; nothing is changed.

        Args:
            state: The tensors that `chip_state` returned.
            t_s: Seconds after programming at which the chip is read; None before the first time.

        Raises:
            CheckpointError: If a tensor is missing, unknown, or of another shape or type.
        """

    @abstractmethod
    def load_chip_state(self, state: dict[str, Tensor]) -> None:
        """Become the chip that `chip_state` described.

        Args:
            state: The tensors that `chip_state` returned.

        Raises:
            CheckpointError: If the tensors are not a chip of this matrix.
        """

    def cells(self) -> Cells:
        """Return the programmed devices of the chip, as the native engine keeps them.

        Raises:
            StateError: If no chip is programmed.
            CapabilityError: If no conductances are known.
        """
        raise CapabilityError(
            f"no conductances are known of the chip of {self.name!r}, whose device is "
            f"{self.preset.pcm.label()!r}: it programs and reads whole tiles of weights; allowed: "
            "a device of the library, a TableDevice, or a DeviceSpec with a registered law"
        )

    @abstractmethod
    def variation(self) -> Variation:
        """Return what the periphery of the chip drew; nothing without a chip."""

    @abstractmethod
    def hold_variation(self, values: Variation) -> None:
        """Take what the periphery of a chip drew, until the next chip or `restore`.

        Args:
            values: What it drew.
        """

    # weights
    @abstractmethod
    def clean_weight(self) -> Tensor:
        """Return the trained weights, `[out, in]`, in own units, without learned scales."""

    @abstractmethod
    def column_scale(self) -> Tensor:
        """Return the digital scale of each column of each tile, `[row tiles, out]`.

        The learned factor is not part of it.
        """

    @abstractmethod
    def set_clean_weight(self, weight: Tensor, scale: Tensor | None = None) -> None:
        """Write trained weights, forget a chip, and set the learned scales to 1.

        Args:
            weight: The weights, `[out, in]`, in own units.
            scale: The scales of the columns, `[row tiles, out]`. None computes them from the
                weights.
        """

    @abstractmethod
    def bias(self) -> Tensor | None:
        """Return the digital bias parameter of the layer, `[out]`, or None."""

    @abstractmethod
    def learned_scale(self) -> Tensor:
        """Return the learned second factor on the column scales, detached.

        Returns:
            The factors, `[row tiles, out]`; 1 if the preset has none.
        """

    @abstractmethod
    def set_learned_scale(self, scale: Tensor) -> None:
        """Set the learned second factor on the column scales, if the preset has one.

        Args:
            scale: The factors, `[row tiles, out]`.
        """

    @abstractmethod
    def effective_weight(self) -> Tensor:
        """Return the weights that the crossbar holds now, `[out, in]`, in own units.

        All column scales are included, the factor of drift compensation is not.
        """

    @abstractmethod
    def alpha(self) -> Tensor:
        """Return the present factor of drift compensation, `[row tiles, out]`."""

    # input ranges
    @abstractmethod
    def input_ranges(self) -> Tensor | None:
        """Return the input ranges, `[row tiles, column tiles]`, in own units.

        Returns:
            The ranges; None if the preset has none, or if they were never set.
        """

    @abstractmethod
    def set_input_ranges(self, ranges: Tensor) -> None:
        """Set the input ranges; from now on they count as calibrated.

        Args:
            ranges: The ranges, `[row tiles, column tiles]`, in own units.
        """

    @abstractmethod
    def observe(self, observer: Observer | None) -> None:
        """Make products exact and show the inputs of every tile to an observer.

        Args:
            observer: The observer; None ends the observation.
        """

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
        """Return whether an optimizer may change the trained weights.

        It may not if they are frozen.
        """

    @abstractmethod
    def weight_parameters(self) -> list[Tensor]:
        """Return the tensors that an optimizer changes to train the weights."""

    @abstractmethod
    def prepare_training(self, recipe: TrainingSpec) -> None:
        """Apply a recipe: learned ranges and scales, and IR drop in training.

        Args:
            recipe: The recipe of the training that follows.

        Raises:
            CapabilityError: If the engine cannot train in that way.
        """

    @abstractmethod
    def periphery(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of the digital periphery, which are not weights.

        Returns:
            "out_scale": the learned factors on the column scales; "input_range": the input ranges.
            An empty list if the preset has none.
        """

    @abstractmethod
    def normalised_weight(self) -> Tensor:
        """Return the trained weights divided by the column scales, `[out, in]`, detached."""

    @abstractmethod
    def inject(self, weight: Tensor | None) -> None:
        """Use other normalised weights in forward and backward passes.

        The gradient goes to the trained weights.

        Args:
            weight: Normalised weights, `[out, in]`. None ends the injection.
        """

    def draw_noisy_weight(
        self, recipe: TrainingSpec, scale: float, seed: int, names: tuple[object, ...]
    ) -> Tensor | None:
        """Draw the weights of one mini-batch in the engine's own way, if it has one.

        Args:
            recipe: The kind of noise, and the share of drop-connect.
            scale: Factor on the noise in this mini-batch.
            seed: Seed of the training.
            names: The rest of the stream's name.

        Returns:
            Normalised weights, `[out, in]`, with noise and drop-connect. None if the engine leaves
            the draw to the caller.
        """
        return None

    @abstractmethod
    def clip(self, bound: Tensor) -> None:
        """Limit the trained weights to +-bound.

        Args:
            bound: The limit in normalised units; it broadcasts to `[out, in]`.
        """

    @abstractmethod
    def remap(self) -> None:
        """Compute the column scales again from the trained weights.

        After that the largest normalised |w| is 1 again in each column of each tile (or in each
        tile, or in the layer, as the preset's `weight_scaling` says).
        """

    # abilities that not every engine has

    def keep_out_of_compile(self, on: bool) -> None:
        """Keep the products out of graphs of torch.compile, or let them in again.

        The products draw noise and keep state from call to call, which a graph must not hold.

        Args:
            on: True keeps them out, False lets them in again.

        Raises:
            CapabilityError: If the engine cannot do so.
        """
        if on:
            raise CapabilityError(
                "compile=True needs products that torch.compile can leave out; allowed: "
                'engine="native"'
            )

    def watch_inputs(self, watcher: Callable[[Tensor], None]) -> RemovableHandle:
        """Show the inputs of every product to a function from now on.

        Args:
            watcher: A function of one argument: vectors `[vectors, in]`, or the images of a
                convolution.

        Returns:
            A handle; its `remove()` ends this.

        Raises:
            CapabilityError: If the engine has no view of a whole matrix.
        """
        raise CapabilityError("inputs of whole matrices are seen with engine='native' only")

    def multiply(self, x: Tensor) -> Tensor:
        """Return the product of inputs with the crossbars as they are now.

        The bias is not added. The product is exact while an observer is set.

        Args:
            x: Inputs, as `watch_inputs` shows them.

        Raises:
            CapabilityError: If the engine has no view of a whole matrix.
        """
        raise CapabilityError("products of whole matrices are made with engine='native' only")


class Engine(ABC):
    """One way to simulate: handlers for layers, and access to a model's matrices.

    Attributes:
        name: Name of the engine.
        draw_on: Ways to draw a chip that its matrices take; the first is the default.
        handlers: The layer types that it converts, with their handlers.
    """

    name: str
    draw_on: tuple[str, ...]

    def __init__(self) -> None:
        """Start without handlers."""
        self.handlers = Handlers()

    @abstractmethod
    def check(self, preset: Preset, device: torch.device, dtype: torch.dtype) -> None:
        """Check that this engine can run a preset.

        Args:
            preset: The preset.
            device: Device of the model.
            dtype: Precision of the model's weights.

        Raises:
            CapabilityError: If the engine cannot run the preset, the device or the precision.
            VersionError: If a package that it needs has the wrong version.
        """

    @abstractmethod
    def matrices(self, model: nn.Module) -> dict[str, Matrix]:
        """Return every weight matrix on tiles, by the name of the layer that holds it.

        Args:
            model: A converted model.
        """

    @abstractmethod
    def finish(self, model: nn.Module) -> None:
        """Do the last step of a conversion, on the whole model (hooks, state dict).

        Args:
            model: The converted model.
        """

    @abstractmethod
    def unfinish(self, model: nn.Module) -> None:
        """Undo what `finish` did to the model itself, so that another engine can finish it.

        Args:
            model: The converted model, which is changed.
        """


_ENGINES = {
    "native": ("aimc_bridge.engines.native", "ENGINE"),
    "aihwkit": ("aimc_bridge.engines.aihwkit", "ENGINE"),
}


def engine(name: str) -> Engine:
    """Return an engine by its name; it is imported on first use.

    Args:
        name: "native" or "aihwkit".

    Raises:
        UnknownNameError: If there is no engine of that name.
        VersionError: If aihwkit does not work with the installed torch.
    """
    if not isinstance(name, str) or name not in _ENGINES:
        raise UnknownNameError(f"no engine {shown(name)}; there are: {', '.join(_ENGINES)}")
    module, attribute = _ENGINES[name]
    chosen: Engine = getattr(importlib.import_module(module), attribute)
    return chosen


def chip_in_the_way(holder: str) -> StateError:
    """Return the error for a state dict that is loaded while a chip is programmed.

    Args:
        holder: The layer that holds the chip, as the message names it.
    """
    return StateError(
        f"load_state_dict: {holder} holds a programmed chip, which is not of the weights to be "
        "loaded; call restore(model) first, and load again"
    )


def chip_in_training(holder: str, otherwise: str) -> StateError:
    """Return the error for a layer that is in training mode and holds a chip.

    Args:
        holder: The layer, as the message names it.
        otherwise: The way to train digital parts, such as adapters, on the chip.
    """
    return StateError(
        f"{holder} holds a programmed chip and is in training mode; call restore(model) before "
        "training, or model.eval() before inference; to train adapters or other digital parts on "
        f"the chip, {otherwise}"
    )
