"""The laws that devices and weights are drawn from: the library's, aihwkit's, or the formulas."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from aimc_bridge.equivalence.closed import ClosedLaws
from aimc_bridge.physics import cells as cell_law
from aimc_bridge.physics import own
from aimc_bridge.physics.drift import drift_exponent, drifted
from aimc_bridge.physics.laws import law_of
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.physics.programming import programmed
from aimc_bridge.physics.reading import read_after_drift
from aimc_bridge.rng import derive, normal, stream
from aimc_bridge.spec import Faults, OwnDevice, Preset

_AT_ONCE = 16  # tiles that the library's law programs at once

Tiles = Iterator[tuple[Tensor | None, list[Tensor]]]
"""Weights of tiles as programmed (None if that is not known) and at each time; shape
(..., out, in)."""


class TileLaws(Protocol):
    """The laws of weights on one side; weights are normalised to [-1, 1]."""

    def drawing(self) -> AbstractContextManager[Any]:
        """Return the context in which random numbers are drawn."""
        ...

    def tiles(self, weight: Tensor, count: int, times: Sequence[float]) -> Tiles:
        """Program tiles and read them.

        Args:
            weight: The target weights of a tile, shape (out, in).
            count: How many tiles.
            times: Seconds after programming.

        Yields:
            The weights of one or of several tiles.
        """
        ...


class Laws(TileLaws, Protocol):
    """The laws of weights and of single devices; conductances are in microsiemens."""

    def programmed(self, target: Tensor) -> Tensor:
        """Draw conductances right after programming."""
        ...

    def exponent(self, target: Tensor) -> Tensor:
        """Draw drift exponents."""
        ...

    def drifted(self, g: Tensor, nu: Tensor, t_s: float) -> Tensor:
        """Return the programmed conductances `g` at a time, without read noise."""
        ...

    def read(self, g: Tensor, nu: Tensor, t_s: float) -> Tensor:
        """Read the programmed conductances `g` at a time, with read noise."""
        ...


class Native:
    """The laws of the native engine."""

    def __init__(self, preset: Preset, netted: bool, seed: int, *names: object) -> None:
        """Prepare the laws.

        Args:
            preset: The preset.
            netted: Whether the two devices of a weight are netted after programming, whatever the
                preset says. Devices that every reading draws again are never netted.
            seed: The seed of the cross-check.
            *names: Name the stream of random numbers.
        """
        if preset.pcm.netting != netted and not law_of(preset.pcm).redrawn:
            preset = preset.change(netting=netted, why="cross-check")
        self.pcm = preset.pcm
        self.draws = stream(seed, "crosscheck", "native", *names)

    def drawing(self) -> AbstractContextManager[Any]:
        """Return the context in which random numbers are drawn."""
        return nullcontext()

    def _eps(self, *shape: int) -> Tensor:
        return normal(shape, self.draws)

    def programmed(self, target: Tensor) -> Tensor:
        """Draw conductances right after programming with the library's law."""
        return programmed(target, self.pcm, self._eps(*target.shape))

    def exponent(self, target: Tensor) -> Tensor:
        """Draw drift exponents with the library's law."""
        return drift_exponent(target, self.pcm, self._eps(*target.shape))

    def drifted(self, g: Tensor, nu: Tensor, t_s: float) -> Tensor:
        """Return conductances at a time, without read noise, with the library's law."""
        return drifted(g, nu, t_s, self.pcm)

    def read(self, g: Tensor, nu: Tensor, t_s: float) -> Tensor:
        """Read programmed conductances at a time with the library's law."""
        return read_after_drift(g, nu, t_s, self.pcm, self._eps(*g.shape))

    def tiles(self, weight: Tensor, count: int, times: Sequence[float]) -> Tiles:
        """Program tiles and read them by the library's law, up to `_AT_ONCE` at once."""
        if isinstance(self.pcm, OwnDevice):
            for _ in range(count):
                tile = own.program_tile(weight, self.pcm, self.draws)
                yield None, [own.read_tile(tile, self.pcm, t_s, self.draws) for t_s in times]
            return
        grid = TileGrid((weight.shape[1],), (weight.shape[0],))
        shapes = cell_law.noise_shapes(grid, self.pcm)
        for done in range(0, count, _AT_ONCE):
            chips = min(_AT_ONCE, count - done)
            eps = [self._eps(chips, *shape) for shape in shapes]
            cells = cell_law.program_cells(weight, grid, self.pcm, eps[0], eps[1])
            later = []
            for t_s in times:
                noise = self._eps(*cells.conductance_us.shape)
                later.append(cell_law.read_cells(cells, grid, self.pcm, t_s, noise))
            yield cell_law.held_weight(cells, grid), later


class Aihwkit:
    """The laws of aihwkit's own noise model of a preset."""

    def __init__(self, preset: Preset, model: Any, seed: int, *names: object) -> None:
        """Prepare the laws.

        Args:
            preset: The preset.
            model: aihwkit's noise model of it.
            seed: The seed of the cross-check.
            *names: Name the stream of random numbers.
        """
        self.model = self.quiet = model
        self.seed, self.names = seed, ("crosscheck", "aihwkit", *names)
        if not law_of(preset.pcm).redrawn and "read_noise_scale" in preset.pcm.field_names():
            change = preset.change(why="drift alone", read_noise_scale=0.0)
            self.quiet = change.rpu_config().noise_model
            if preset.pcm.referenced:
                self.quiet = copy.copy(model)
                self.quiet.read_noise_scale = 0.0

    def drawing(self) -> AbstractContextManager[Any]:
        """Return the context in which random numbers are drawn."""
        from aimc_bridge.engines.aihwkit.noise import drawing

        return drawing(self.seed, *self.names)

    def programmed(self, target: Tensor) -> Tensor:
        """Draw conductances right after programming with aihwkit's noise model."""
        g: Tensor = self.model.apply_programming_noise_to_conductance(target)
        return g

    def exponent(self, target: Tensor) -> Tensor:
        """Draw drift exponents with aihwkit's noise model."""
        nu: Tensor = self.model.generate_drift_coefficients(target)
        return nu

    def drifted(self, g: Tensor, nu: Tensor, t_s: float) -> Tensor:
        """Return conductances at a time, without read noise, with aihwkit's noise model."""
        now: Tensor = self.quiet.apply_drift_noise_to_conductance(g, nu, t_s)
        return now

    def read(self, g: Tensor, nu: Tensor, t_s: float) -> Tensor:
        """Read programmed conductances at a time with aihwkit's noise model."""
        now: Tensor = self.model.apply_drift_noise_to_conductance(g, nu, t_s)
        return now

    def tiles(self, weight: Tensor, count: int, times: Sequence[float]) -> Tiles:
        """Program tiles and read them one by one by aihwkit's noise model."""
        for _ in range(count):
            held, state = self.model.apply_programming_noise(weight)
            yield held, [self.model.apply_drift_noise(held, state, t_s) for t_s in times]


class AihwkitCells(Aihwkit):
    """Single devices of one of aihwkit's models, and weights that we make of them."""

    def __init__(self, preset: Preset, model: Any, seed: int, *names: object) -> None:
        """Prepare the laws; the arguments are those of `Aihwkit`."""
        super().__init__(preset, model, seed, *names)
        self.full_scale_us = preset.pcm.full_scale_us

    def tiles(self, weight: Tensor, count: int, times: Sequence[float]) -> Tiles:
        """Program tiles of cells that hold a signed weight, and read them."""
        scale = self.full_scale_us / weight.abs().max()
        for _ in range(count):
            g, nu = self.programmed(weight * scale), self.exponent(weight * scale)
            yield g / scale, [self.read(g, nu, t_s) / scale for t_s in times]


class AihwkitReferenced(Aihwkit):
    """Single devices of one of aihwkit's models, and weights of its converter to single devices.

    A weight is converted once. aihwkit's own tiles convert programmed weights again.
    """

    def tiles(self, weight: Tensor, count: int, times: Sequence[float]) -> Tiles:
        """Program tiles of single devices that are read against a number, and read them."""
        converter, rows = self.model.g_converter, len(weight)
        both = torch.cat((weight, -weight))  # aihwkit's range is from the lowest to the highest
        for _ in range(count):
            target, scale = converter.convert_to_conductances(both)
            g, nu = self.programmed(target), self.exponent(target)
            now = [g, *(self.read(g, nu, t_s) for t_s in times)]
            held, *later = (converter.convert_back_to_weights(g, scale)[:rows] for g in now)
            yield held, later


class Closed:
    """The laws by their formulas, for devices that aihwkit does not have."""

    def __init__(self, preset: Preset, seed: int, *names: object) -> None:
        """Prepare the laws; the arguments are those of `Aihwkit`."""
        draws = np.random.default_rng(derive(seed, "crosscheck", "closed", *names))
        self.laws = ClosedLaws(preset.pcm, draws)

    def drawing(self) -> AbstractContextManager[Any]:
        """Return the context in which random numbers are drawn."""
        return nullcontext()

    def programmed(self, target: Tensor) -> Tensor:
        """Draw conductances right after programming with the formulas."""
        return torch.from_numpy(self.laws.programmed(target.double().numpy()))

    def exponent(self, target: Tensor) -> Tensor:
        """Draw drift exponents with the formulas."""
        return torch.from_numpy(self.laws.exponent(target.double().numpy()))

    def drifted(self, g: Tensor, nu: Tensor, t_s: float) -> Tensor:
        """Return conductances at a time, without read noise, with the formulas."""
        return torch.from_numpy(self.laws.drifted(g.numpy(), nu.numpy(), t_s))

    def read(self, g: Tensor, nu: Tensor, t_s: float) -> Tensor:
        """Read programmed conductances at a time with the formulas."""
        return torch.from_numpy(self.laws.read(g.numpy(), nu.numpy(), t_s))

    def tiles(self, weight: Tensor, count: int, times: Sequence[float]) -> Tiles:
        """Program tiles and read them one by one by the formulas, in double precision."""
        for _ in range(count):
            held, state = self.laws.program_weights(weight.double().numpy())
            later = [torch.from_numpy(self.laws.read_weights(state, t_s)) for t_s in times]
            yield torch.from_numpy(held), later


def reference_laws(preset: Preset, seed: int, *names: object) -> tuple[Laws, str]:
    """Return what the native laws are compared with, and its name.

    That is aihwkit's own noise model, or the formulas if aihwkit would run our laws.

    Args:
        preset: The preset.
        seed: The seed of the cross-check.
        *names: Name the stream of random numbers.

    Raises:
        CapabilityError: If no aihwkit tile runs the preset, or neither has such a device.
        VersionError: If there is no working aihwkit.
    """
    from aimc_bridge.engines.aihwkit.builtin import cell_model, referenced_model

    preset, model = _read_one_by_one(preset)
    if model is not None:
        return Aihwkit(preset, model, seed, *names), "aihwkit"
    model = cell_model(preset.pcm)
    if model is not None:
        return AihwkitCells(preset, model, seed, *names), "aihwkit"
    model = referenced_model(preset.pcm)
    if model is not None:
        return AihwkitReferenced(preset, model, seed, *names), "aihwkit"
    return Closed(preset, seed, *names), "closed form"


def _read_one_by_one(preset: Preset) -> tuple[Preset, Any]:
    """Return the preset with two devices netted, and aihwkit's own model of it or None.

    This level compares working devices, so that faults are left out.
    """
    from aimc_bridge.engines.aihwkit.noise import LawNoiseModel

    if preset.pcm.faults:
        preset = preset.change(faults=Faults(), why="cross-check: the devices that work")
    if not preset.pcm.netting and not law_of(preset.pcm).redrawn:
        preset = preset.change(netting=True, why="cross-check: two devices are read one by one")
    model = preset.rpu_config().noise_model
    return preset, None if isinstance(model, LawNoiseModel) else model
