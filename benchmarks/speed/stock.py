"""A model converted by aihwkit itself, as a user of aihwkit alone would: to compare speed with."""

from __future__ import annotations

from collections.abc import Iterable

from aihwkit.nn.conversion import convert_to_analog
from torch import nn

from aimc_bridge.engines.aihwkit.config import rpu_config
from aimc_bridge.spec import Preset


def stock(
    model: nn.Module,
    preset: Preset,
    tile: str,
    *,
    training: str | None = None,
    drop: Iterable[str] = (),
    exclude: Iterable[str] = (),
    input_range: float = 3.0,
) -> nn.Module:
    """A copy of `model` made by aihwkit's `convert_to_analog`, with every trap that it has.

    Args:    tile, training, drop  as in `rpu_config`.    exclude  full names that stay digital.
             input_range  of every tile, own units.
    Raises:  CapabilityError where the tile cannot run what is not dropped.
    """
    config = rpu_config(preset, tile=tile, training=training, drop=drop)
    analog: nn.Module = convert_to_analog(model, config, exclude_modules=list(exclude))
    for tile_of_layer in analog.analog_tiles():  # type: ignore[operator]
        if config.pre_post.input_range.enable:
            tile_of_layer.set_input_range(input_range)
    return analog.train(model.training)
