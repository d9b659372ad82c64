"""Read and write the variation of a chip's periphery in aihwkit's C++ tile.

A tile draws these values when it is built, from a generator that no seed reaches. So that a chip
has its own, the library's draws replace them.
"""

from __future__ import annotations

from aihwkit.simulator.tiles import InferenceTile
from torch import Tensor

from aimc_bridge.engines.aihwkit.config import rpu_config
from aimc_bridge.physics import variation
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.physics.variation import Variation
from aimc_bridge.spec import CrossbarSpec, Preset

_NAMES = {
    "v_offset": "v_offset",
    "out_nonlinearity": "out_nonlinearity",
    "out_noise_values": "out_noise_values",
    "read_asymmetry": "w_asymmetry",
}
_FACTOR = "out_nonlinearity_factor"


def read_tile(tile: InferenceTile, spec: CrossbarSpec) -> Variation:
    """Return what a tile drew, or was given.

    Args:
        tile: The tile, `[out, in]`.
        spec: The crossbar that its config was made from.

    Returns:
        The values, with one row of tiles.
    """
    there = tile.get_forward_parameters()
    values = {name: there[_NAMES[name]].float() for name in variation.drawn_names(spec)}
    shapes = dict.fromkeys(values, (1, tile.out_size))
    shapes["read_asymmetry"] = (tile.out_size, tile.in_size)
    return Variation(**{name: value.view(shapes[name]) for name, value in values.items()})


def drawn_by_tile(preset: Preset, outputs: int, inputs: int) -> Variation:
    """Return what a new tile of aihwkit draws by itself.

    Args:
        preset: The preset.
        outputs: Number of outputs of the tile.
        inputs: Number of inputs of the tile.
    """
    return read_tile(InferenceTile(outputs, inputs, rpu_config(preset)), preset.crossbar)


def write_tile(tile: InferenceTile, spec: CrossbarSpec, values: Variation) -> None:
    """Give a tile the values of a chip, or their means.

    Args:
        tile: The tile, `[out, in]`.
        spec: The crossbar that its config was made from.
        values: The values, with one row of tiles; `Variation()` for the means.
    """
    names = variation.drawn_names(spec)
    if not names:
        return
    means = {
        "v_offset": 0.0,
        "out_nonlinearity": spec.out_nonlinearity / spec.out_bound,
        "out_noise_values": spec.out_noise,
        "read_asymmetry": 1.0,
    }
    there, drawn, new = tile.get_forward_parameters(), values.tensors(), {}
    for name in names:
        old = there[_NAMES[name]]
        new[_NAMES[name]] = (
            drawn[name].flatten() if name in drawn else old.new_full(old.shape, means[name])
        )
    if "out_nonlinearity" in names:
        grid = TileGrid((tile.in_size,), (tile.out_size,))
        factor = variation.slope(values, grid, spec)
        first = factor[0, 0] if isinstance(factor, Tensor) else factor
        new[_FACTOR] = there[_FACTOR].new_full((1,), float(first))
    tile.set_forward_parameters(new)
