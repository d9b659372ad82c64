"""The chip of one matrix: cells programmed and read, with what drift compensation measures."""

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
from aimc_bridge.physics import compensation, crossbar
from aimc_bridge.physics.cells import Cells
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.spec import Preset, StatisticalSpec

STATE = ("conductance_us", "nu", "us_per_unit", "held", "reference", "compensation")
"""What a chip consists of; the last two where drift is compensated by a measurement."""

_MEASURED = ("global", "per_column")


class Blueprint(NamedTuple):
    """What is programmed, and where its noise is drawn.

    weight     trained, `[out, in]`;  scale  of its columns, `[row tiles, out]`
    name       of the layer, in its random streams
    draw_on    "cpu", "device" or "compiled"
    """

    weight: Tensor
    scale: Tensor
    grid: TileGrid
    preset: Preset
    name: str
    draw_on: str

    def normalised(self) -> Tensor:
        """Weights in units of their column's scale."""
        return self.weight / self.grid.expand_columns(self.scale)

    def drawn(self, shape: tuple[int, ...], seed: int, kind: str, *when: object) -> Tensor:
        """N(0, 1) of the stream (seed, kind, layer, when)."""
        device, names = self.scale.device, (kind, self.name, *when)
        if self.draw_on == "compiled":
            key = draws.key_of(device, seed, names)[0]
            return draws.drawn(key, math.prod(shape)).view(shape).to(self.scale.dtype)
        source = device if self.draw_on == "device" else torch.device("cpu")
        stream = rng.stream(seed, *names, device=source)
        return rng.normal(shape, stream, device).to(self.scale.dtype)

    def passes(self) -> StatisticalSpec | None:
        """The device, where there are compiled passes for its laws.

        Raises:  CapabilityError where they are asked for and nothing can be compiled.
        """
        if self.draw_on != "compiled":
            return None
        kernels.check(self.scale.device.type)
        pcm = self.preset.pcm
        if not isinstance(pcm, StatisticalSpec) or not cell_law.netted(pcm):
            return None
        return pcm if compiled_chip.suits(self.grid) else None


def program(blueprint: Blueprint, seed: int) -> tuple[Cells, Held]:
    """Cells, and what they hold right after."""
    weight, scale, grid, preset, name, _ = blueprint
    pcm = blueprint.passes()
    if pcm is not None:
        measured = preset.compensation.drift_compensation in _MEASURED
        spec = preset.crossbar if measured else None
        return compiled_chip.program(weight, scale, grid, pcm, spec, seed, name)
    shapes = cell_law.noise_shapes(grid, preset.pcm)
    eps_prog = blueprint.drawn(shapes[0], seed, "program")
    eps_nu = blueprint.drawn(shapes[1], seed, "exponent")
    cells = cell_law.program_cells(blueprint.normalised(), grid, preset.pcm, eps_prog, eps_nu)
    return cells, Held(cell_law.held_weight(cells, grid), None)


def reference(blueprint: Blueprint, held: Held, seed: int) -> Tensor | None:
    """What drift compensation compares with later; None where it measures nothing."""
    kind = blueprint.preset.compensation.drift_compensation
    if kind in _MEASURED:
        return _readout(blueprint, held, seed, "reference")
    if kind == "global_exact_reference":
        return compensation.readout(
            blueprint.normalised(), blueprint.grid, blueprint.preset.compensation
        )
    return None


def read(blueprint: Blueprint, cells: Cells, measured: bool, t_s: float, seed: int) -> Held:
    """What cells hold `t_s` seconds after programming.

    Args:    measured  whether drift compensation will ask for their outputs.
    """
    grid, preset = blueprint.grid, blueprint.preset
    pcm = blueprint.passes()
    if pcm is not None:
        spec = preset.crossbar if measured else None
        return compiled_chip.read(cells, grid, pcm, spec, t_s, seed, blueprint.name)
    eps = blueprint.drawn(tuple(cells.conductance_us.shape), seed, "read", t_s)
    return Held(cell_law.read_cells(cells, grid, preset.pcm, t_s, eps), None)


def factor(
    blueprint: Blueprint, held: Held, reference: Tensor | None, t_s: float, seed: int
) -> Tensor | None:
    """The compensation's factor at each output; None where there is no compensation."""
    preset = blueprint.preset
    if preset.compensation.drift_compensation == "oracle":
        return compensation.oracle(blueprint.normalised(), blueprint.grid, preset.pcm, t_s).clone()
    return None if reference is None else reference / _readout(blueprint, held, seed, t_s)


def _readout(blueprint: Blueprint, held: Held, seed: int, when: object) -> Tensor:
    grid, preset, weight = blueprint.grid, blueprint.preset, held.weights
    if held.outputs is not None:
        return compensation.from_columns(held.outputs, grid, preset.compensation)
    eps = blueprint.drawn(tuple(weight.shape), seed, "compensation", when)
    outputs = crossbar.identity_readout(
        weight, grid.row_position(weight), grid.row_count(weight), preset.crossbar, eps
    )
    return compensation.readout(outputs, grid, preset.compensation)


def check_state(state: dict[str, Tensor], grid: TileGrid, label: str) -> None:
    """That tensors are a chip of this matrix.

    Raises:  CheckpointError where one is missing, unknown, or of another shape.
    """
    needed = STATE[:4]
    if any(name not in state for name in needed) or any(name not in STATE for name in state):
        raise CheckpointError(f"chip of {label}: has {', '.join(state)}; needs {', '.join(needed)}")
    rows, columns, outs = len(grid.rows), len(grid.columns), grid.out_features
    for name, value in state.items():
        allowed = {(rows, outs), (rows, columns)}
        if name in ("conductance_us", "nu", "held"):
            allowed = {(outs, grid.in_features)}
        if tuple(value.shape[-2:]) not in allowed:
            raise CheckpointError(f"chip of {label}: {name} {tuple(value.shape)}")
