"""The variation of a chip's periphery, from output to output and from device to device.

All of it is drawn once for a chip and then stays. A value that is not drawn has no spread: without
a chip, tiles have the mean of each.

The laws are those of aihwkit's C++ tile (`populateFBParameter`), checked against the values that
its tiles draw.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from aimc_bridge import rng
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.spec import CrossbarSpec


class Variation(NamedTuple):
    """The values that the tiles of a matrix drew for a chip; None for a value without spread.

    Attributes:
        v_offset: Voltage offset of each output of each tile, a share, shape (row tiles, out).
        out_nonlinearity: The n of `mvm.compressed`, per unit of the outputs, same shape.
        out_noise_values: Standard deviation of the output noise, in units of the outputs, same
            shape.
        read_asymmetry: Factor on each weight while its input is negative, shape (out, in).
    """

    v_offset: Tensor | None = None
    out_nonlinearity: Tensor | None = None
    out_noise_values: Tensor | None = None
    read_asymmetry: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return what was drawn, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def to(self, like: Tensor) -> Variation:
        """Return the values where a tensor is, with its dtype.

        Args:
            like: The tensor.
        """
        return Variation(**{name: value.to(like) for name, value in self.tensors().items()})


Generators = Callable[[str], torch.Generator]
"""Returns the generator of one of the names of `Variation`."""


def generators(seed: int, layer: str) -> Generators:
    """Return a function that makes the generators of a chip, on the CPU.

    Args:
        seed: Seed of the chip.
        layer: Name of the layer in its random streams.
    """
    return lambda name: rng.stream(seed, "periphery", name, layer)


def drawn_names(spec: CrossbarSpec) -> tuple[str, ...]:
    """Return the names of what a crossbar draws for a chip.

    Args:
        spec: The crossbar, `preset.crossbar`.
    """
    spread = {
        "v_offset": spec.v_offset_std > 0,
        "out_nonlinearity": spec.out_nonlinearity > 0 and spec.out_nonlinearity_std > 0,
        "out_noise_values": spec.out_noise > 0 and spec.out_noise_std > 0,
        "read_asymmetry": spec.two_passes and spec.w_read_asymmetry_dtod > 0,
    }
    return tuple(name for name, on in spread.items() if on)


def shape_of(name: str, grid: TileGrid) -> tuple[int, int]:
    """Return the shape of one of the tensors of `Variation`.

    Args:
        name: Its name.
        grid: The tiles.
    """
    first = grid.out_features if name == "read_asymmetry" else len(grid.rows)
    return first, grid.in_features if name == "read_asymmetry" else grid.out_features


def draw(grid: TileGrid, spec: CrossbarSpec, generators: Generators) -> Variation:
    """Draw what varies in the periphery of a chip.

    With N for new standard normal numbers, n = out_nonlinearity / out_bound |1 + std N|, the output
    noise is out_noise |1 + out_noise_std N|, and the factor of a weight is
    1 + w_read_asymmetry_dtod N. Half of the outputs have a voltage offset, v_offset_std N; the
    others have none. That is what aihwkit's tile draws, although its source reads
    max(0, v_offset_std N): docs/aihwkit-notes.md.

    Args:
        grid: The tiles.
        spec: The crossbar, `preset.crossbar`.
        generators: The generator of each name.

    Returns:
        The values, float32, on the CPU.

    Source: aihwkit `ForwardBackwardPassIOManaged::populateFBParameter`.
    """
    values = {}
    for name in drawn_names(spec):
        generator, shape = generators(name), shape_of(name, grid)
        eps = rng.normal(shape, generator)
        if name == "v_offset":
            size = spec.v_offset_std * rng.normal(shape, generator)
            values[name] = torch.where(eps > 0, size, torch.zeros_like(size))
        elif name == "out_nonlinearity":
            mean = spec.out_nonlinearity / spec.out_bound
            values[name] = (1.0 + spec.out_nonlinearity_std * eps).abs_() * mean
        elif name == "out_noise_values":
            values[name] = (1.0 + spec.out_noise_std * eps).abs_() * spec.out_noise
        else:
            values[name] = 1.0 + spec.w_read_asymmetry_dtod * eps
    return Variation(**values)


def nonlinearity(values: Variation, spec: CrossbarSpec) -> Tensor | float:
    """Return the n of `mvm.compressed`, per unit of the outputs.

    Args:
        values: What the chip drew.
        spec: The crossbar, `preset.crossbar`.

    Returns:
        Shape (row tiles, out), or one number if all outputs have the same.
    """
    drawn = values.out_nonlinearity
    return spec.out_nonlinearity / spec.out_bound if drawn is None else drawn


def slope(values: Variation, grid: TileGrid, spec: CrossbarSpec) -> Tensor | float:
    """Return the factor by which the ADC was calibrated against S-shape and series resistance.

    It is f = (1 + (mean n + r_series) slope_calibration out_bound)^2, with the mean over the
    outputs of a tile. The slope of f y / (1 + (n + r) y)) then is 1 at
    y = slope_calibration out_bound.

    Args:
        values: What the chip drew.
        grid: The tiles.
        spec: The crossbar, `preset.crossbar`.

    Returns:
        Shape (row tiles, out), or one number if all tiles have the same.

    Source: aihwkit `out_nonlinearity_factor`.
    """
    n = nonlinearity(values, spec)
    if isinstance(n, Tensor):
        n = grid.expand_tiles(grid.reduce_columns(n, "mean"))
    return (1.0 + (n + spec.r_series) * (spec.slope_calibration * spec.out_bound)) ** 2
