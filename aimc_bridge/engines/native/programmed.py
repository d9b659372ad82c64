"""The chip of one matrix: programming, reading, and measurements for compensation."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from aimc_bridge import rng
from aimc_bridge.engines.native import compiled_chip, draws, kernels
from aimc_bridge.engines.native.compiled_chip import Held
from aimc_bridge.errors import CheckpointError
from aimc_bridge.physics import cells as cell_law
from aimc_bridge.physics import compensation, mvm, variation
from aimc_bridge.physics import faults as fault_law
from aimc_bridge.physics import own as own_law
from aimc_bridge.physics.cells import Cells
from aimc_bridge.physics.faults import FaultMap, Generators
from aimc_bridge.physics.laws import law_of
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.physics.variation import Variation
from aimc_bridge.spec import DeviceSpec, OwnDevice, Preset

BROKEN = ("working", "stuck")
STATE = ("conductance_us", "nu", "us_per_unit", "held", "reference", "compensation", *BROKEN)
"""The tensors of a chip.

Reference and factor are there if drift compensation needs them, the last two if devices can break.
"""

_MEASURED = ("global", "per_column")
_OWN = "own"  # tensors of a user's device: own.ROW.COLUMN.NUMBER
Tiles = list[list[own_law.TileState]]
"""The programmed tiles of a user's device, by row and column."""


class Blueprint(NamedTuple):
    """The weights that are programmed, and the source of their noise.

    Attributes:
        weight: Trained weights, `[out, in]`.
        scale: Scale of their columns, `[row tiles, out]`.
        grid: The tiles.
        preset: The preset.
        name: Name of the layer in its random streams.
        draw_on: "cpu", "device" or "compiled".
        variation: What the periphery of the chip drew.
    """

    weight: Tensor
    scale: Tensor
    grid: TileGrid
    preset: Preset
    name: str
    draw_on: str
    variation: Variation = Variation()

    def with_variation(self, seed: int) -> Blueprint:
        """Return a copy for another chip, whose periphery is drawn.

        It is drawn on the CPU, and is the same with every `draw_on`.

        Args:
            seed: Seed of the chip.
        """
        generators = variation.generators(seed, self.name)
        values = variation.draw(self.grid, self.preset.crossbar, generators)
        return self._replace(variation=values.to(self.scale))

    def normalised(self) -> Tensor:
        """Return the weights in units of the scale of their column."""
        return self.weight / self.grid.expand_columns(self.scale)

    def drawn(self, shape: tuple[int, ...], seed: int, kind: str, *when: object) -> Tensor:
        """Return the N(0, 1) numbers of the stream (seed, kind, layer, when).

        Args:
            shape: Shape of the numbers.
            seed: Seed of the chip.
            kind: The use of the numbers, as "program".
            *when: The rest of the stream's name, such as the time of a reading.
        """
        device, names = self.scale.device, (kind, self.name, *when)
        if self.draw_on == "compiled":
            key = draws.key_of(device, seed, names)[0]
            return draws.drawn(key, math.prod(shape)).view(shape).to(self.scale.dtype)
        stream = rng.stream(seed, *names, device=self.source())
        return rng.normal(shape, stream, device).to(self.scale.dtype)

    def source(self) -> torch.device:
        """Return where random numbers are drawn, unless compiled passes draw them."""
        return torch.device("cpu") if self.draw_on == "cpu" else self.scale.device

    def generators(self, seed: int, kind: str, *when: object) -> Generators:
        """Return a function that makes the generator of a tile, for a user's device.

        Args:
            seed: Seed of the chip.
            kind: The use of the numbers, as "program".
            *when: The rest of the stream's name, such as the time of a reading.
        """
        place = self.source()
        return lambda row, column: rng.stream(
            seed, kind, self.name, row, column, *when, device=place
        )

    def faults(self, seed: int) -> FaultMap | None:
        """Return the broken devices of a chip; None if no device can break.

        Args:
            seed: Seed of the chip.
        """
        pcm, name = self.preset.pcm, self.name
        if not pcm.faults:
            return None
        drawn = fault_law.draw(self.grid, pcm, fault_law.generators(seed, name))
        return drawn.to(self.scale)

    def passes(self) -> DeviceSpec | None:
        """Return the device if compiled passes are asked for and exist for its law.

        None of them knows faults, another cell than one netted pair, or the optional effects of the
        periphery.

        Returns:
            The device; None if its noise is drawn outside of compiled passes.

        Raises:
            CapabilityError: If compiled passes are asked for and nothing can be compiled.
        """
        if self.draw_on != "compiled":
            return None
        kernels.check(self.scale.device.type)
        pcm = self.preset.pcm
        if pcm.faults or not law_of(pcm).compiled or not cell_law.netted(pcm) or pcm.pairs > 1:
            return None
        if self.preset.crossbar.line_effects:
            return None
        return pcm if compiled_chip.suits(self.grid) else None


def program(blueprint: Blueprint, seed: int) -> tuple[Cells | Tiles, Held]:
    """Return programmed cells, and the weights that they hold right after.

    Args:
        blueprint: The weights.
        seed: Seed of the chip.

    Returns:
        The cells, or the tiles of a user's device; and the weights. What a user's device holds is
        read at time 0.
    """
    if law_of(blueprint.preset.pcm).by_tile:
        clean, device = blueprint.normalised().to(blueprint.source()), _own_device(blueprint)
        generators = blueprint.generators(seed, "program")
        faults = blueprint.faults(seed)
        faults = None if faults is None else faults.to(clean)
        tiles = own_law.program_tiles(clean, blueprint.grid, device, generators, faults)
        return tiles, _read_own(blueprint, tiles, 0.0, blueprint.generators(seed, "programmed"))
    weight, scale, grid, preset, name, *_ = blueprint
    pcm = blueprint.passes()
    if pcm is not None:
        measured = preset.compensation.drift_compensation in _MEASURED
        spec = preset.crossbar if measured else None
        return compiled_chip.program(weight, scale, grid, pcm, spec, seed, name)
    shapes = cell_law.noise_shapes(grid, preset.pcm)
    eps_prog = blueprint.drawn(shapes[0], seed, "program")
    eps_nu = blueprint.drawn(shapes[1], seed, "exponent")
    clean, faults = blueprint.normalised(), blueprint.faults(seed)
    cells = cell_law.program_cells(clean, grid, preset.pcm, eps_prog, eps_nu, faults)
    return cells, Held(cell_law.held_weight(cells, grid), None)


def reference(blueprint: Blueprint, held: Held, seed: int) -> Tensor | None:
    """Return the reference of drift compensation; None if it measures nothing.

    Args:
        blueprint: The weights.
        held: The weights that the cells hold right after programming.
        seed: Seed of the chip.
    """
    kind = blueprint.preset.compensation.drift_compensation
    if kind in _MEASURED:
        return _readout(blueprint, held, seed, "reference")
    if kind == "global_exact_reference":
        return compensation.readout(
            blueprint.normalised(), blueprint.grid, blueprint.preset.compensation
        )
    return None


def _own_device(blueprint: Blueprint) -> OwnDevice:
    """Return the user's device of a preset."""
    device = blueprint.preset.pcm
    assert isinstance(device, OwnDevice)
    return device


def _read_own(blueprint: Blueprint, tiles: Tiles, t_s: float, generators: Generators) -> Held:
    """Return the weights that the tiles of a user's device hold at a time."""
    weights = own_law.read_tiles(tiles, _own_device(blueprint), t_s, generators)
    return Held(weights.to(blueprint.scale), None)


def own_tensors(tiles: Tiles) -> dict[str, Tensor]:
    """Return the tensors of a user's device, by names that `own_tiles` knows.

    Args:
        tiles: The programmed tiles.
    """
    return {
        f"{_OWN}.{row}.{column}.{number}": tensor
        for row, columns in enumerate(tiles)
        for column, tile in enumerate(columns)
        for number, tensor in enumerate(tile.tensors())
    }


def own_tiles(blueprint: Blueprint, state: dict[str, Tensor], label: str) -> Tiles:
    """Return the tiles of a user's device that were saved, and take them out of the state.

    Args:
        blueprint: The weights that were programmed.
        state: The tensors of a chip, by name.
        label: Name of the layer in the error.

    Raises:
        CheckpointError: If they do not fit the device.
    """
    grid, device, place = blueprint.grid, _own_device(blueprint), blueprint.source()
    weight = blueprint.normalised().to(place)
    tiles: Tiles = []
    for row, inputs in enumerate(grid.row_slices()):
        tiles.append([])
        for column, outputs in enumerate(grid.column_slices()):
            start = f"{_OWN}.{row}.{column}."
            names = sorted(
                (k for k in state if k.startswith(start)), key=lambda k: int(k[len(start) :])
            )
            tensors = [state.pop(name).to(place) for name in names]
            if not tensors:
                raise CheckpointError(f"chip of {label}: no tile {row}, {column} of its device")
            generator = rng.stream(0, "structure", blueprint.name, row, column, device=place)
            tiles[-1].append(own_law.restored(tensors, weight[outputs, inputs], device, generator))
    return tiles


def read(blueprint: Blueprint, cells: Cells | Tiles, measured: bool, t_s: float, seed: int) -> Held:
    """Return the weights that cells hold some time after programming.

    Args:
        blueprint: The weights that were programmed.
        cells: The cells.
        measured: Whether drift compensation will ask for their outputs.
        t_s: Seconds after programming.
        seed: Seed of the chip.
    """
    grid, preset = blueprint.grid, blueprint.preset
    if isinstance(cells, list):
        return _read_own(blueprint, cells, t_s, blueprint.generators(seed, "read", t_s))
    pcm = blueprint.passes()
    if pcm is not None:
        spec = preset.crossbar if measured else None
        return compiled_chip.read(cells, grid, pcm, spec, t_s, seed, blueprint.name)
    eps = blueprint.drawn(tuple(cells.conductance_us.shape), seed, "read", t_s)
    return Held(cell_law.read_cells(cells, grid, preset.pcm, t_s, eps), None)


def factor(
    blueprint: Blueprint, held: Held, reference: Tensor | None, t_s: float, seed: int
) -> Tensor | None:
    """Return the factor of drift compensation at each output, if there is one.

    Args:
        blueprint: The weights that were programmed.
        held: The weights that the cells hold now.
        reference: The reference, as `reference` returned it.
        t_s: Seconds after programming.
        seed: Seed of the chip.

    Returns:
        The factors, `[row tiles, out]`, or None.
    """
    preset = blueprint.preset
    if preset.compensation.drift_compensation == "oracle":
        return compensation.oracle(blueprint.normalised(), blueprint.grid, preset.pcm, t_s).clone()
    return None if reference is None else reference / _readout(blueprint, held, seed, t_s)


def _readout(blueprint: Blueprint, held: Held, seed: int, when: object) -> Tensor:
    """Return the outputs that drift compensation measures, for a reading named `when`."""
    grid, preset, weight = blueprint.grid, blueprint.preset, held.weights
    if held.outputs is not None:
        return compensation.from_columns(held.outputs, grid, preset.compensation)
    shape = tuple(weight.shape)
    eps = blueprint.drawn(shape, seed, "compensation", when)
    if preset.crossbar.line_effects:
        out, negative = (
            blueprint.drawn(shape, seed, "compensation", when, part) for part in ("out", "negative")
        )
        outputs = mvm.identity_readout_on_lines(
            weight, grid, preset.crossbar, blueprint.variation, (eps, out, negative)
        )
    else:
        outputs = mvm.identity_readout(
            weight, grid.row_position(weight), grid.row_count(weight), preset.crossbar, eps
        )
    return compensation.readout(outputs, grid, preset.compensation)


def check_state(state: dict[str, Tensor], grid: TileGrid, label: str, preset: Preset) -> None:
    """Check that tensors are a chip of a matrix.

    Args:
        state: The tensors, by name.
        grid: The tiles of the matrix.
        label: Name of the layer in the error.
        preset: The preset. The tensors of a user's device are not here.

    Raises:
        CheckpointError: If a tensor is missing, unknown, or of another shape.
    """
    pcm, drawn = preset.pcm, variation.drawn_names(preset.crossbar)
    needed: tuple[str, ...] = STATE[3:4] if law_of(pcm).by_tile else STATE[:4]
    if pcm.faults and not law_of(pcm).by_tile:
        needed += BROKEN
    needed += drawn
    known = (*STATE, *drawn)
    if any(name not in state for name in needed) or any(name not in known for name in state):
        raise CheckpointError(f"chip of {label}: has {', '.join(state)}; needs {', '.join(needed)}")
    state_shape = cell_law.state_shape(grid, pcm)
    rows, columns, outs = len(grid.rows), len(grid.columns), grid.out_features
    for name, value in state.items():
        allowed: set[tuple[int, ...]] = {(rows, outs), (rows, columns)}
        if name in ("held", *BROKEN):
            allowed = {(outs, grid.in_features)}
        elif name in ("conductance_us", "nu"):
            allowed = {state_shape[-2:]}
        elif name in drawn:
            allowed = {variation.shape_of(name, grid)}
        if tuple(value.shape[-2:]) not in allowed:
            raise CheckpointError(f"chip of {label}: {name} {tuple(value.shape)}")
    devices = {"conductance_us": state_shape, "nu": state_shape}
    devices[BROKEN[0]] = cell_law.working_shape(grid, pcm)
    for name, needed_shape in devices.items():
        if name not in state:
            continue
        shape = tuple(state[name].shape)
        given = shape[-len(needed_shape) :] if name == "nu" else shape  # a law may have several nu
        if given != needed_shape:
            raise CheckpointError(
                f"chip of {label}: {name} {shape}; needs {needed_shape}, "
                f"{pcm.pairs or 'no'} pairs of devices per weight"
            )


def check_whole(
    state: dict[str, Tensor], preset: Preset, label: str, t_s: float | None, dtype: torch.dtype
) -> None:
    """Check that nothing is missing that drift compensation measures, and check the types.

    Args:
        state: The tensors of a chip, by name.
        preset: The preset.
        label: Name of the layer in the error.
        t_s: Seconds after programming at which the chip is read; None before the first time.
        dtype: Type of the layer's numbers.

    Raises:
        CheckpointError: If a tensor is missing, too many, of another type or not finite.
    """
    kind = preset.compensation.drift_compensation
    wanted = {
        "reference": kind in (*_MEASURED, "global_exact_reference"),
        "compensation": kind != "none" and t_s is not None,
    }
    for name, there in wanted.items():
        if (name in state) != there:
            verb = "lacks" if there else "has"
            raise CheckpointError(f"chip of {label}: {verb} {name}, with compensation {kind!r}")
    for name, value in state.items():
        if value.dtype != dtype and name not in BROKEN:
            raise CheckpointError(f"chip of {label}: {name} {value.dtype}; needs {dtype}")
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"chip of {label}: {name} holds NaN or infinite values")
