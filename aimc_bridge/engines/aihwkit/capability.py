"""The settings of a preset that aihwkit's tiles cannot run, by name."""

from __future__ import annotations

from collections.abc import Iterable

from aihwkit.simulator.rpu_base import cuda as _cuda

from aimc_bridge.arguments import choice, texts
from aimc_bridge.engines.aihwkit.builtin import MODIFIERS
from aimc_bridge.errors import CapabilityError, UsageError
from aimc_bridge.spec import Preset, TrainingSpec

TILES = ("rpucuda", "torch")
ALPHA_FLOOR = 1e-4  # a fixed number in the code of aihwkit's drift compensations
NOT_ON_TORCH = ("out_nonlinearity", "r_series", "v_offset_std", "input_passes", "out_noise_std")
"""Optional effects of the periphery that the torch tile has not; it has the asymmetries."""
DROPPABLE = (
    *("w_noise", "ir_drop", "noise_type", "drop_connect", "clip_type", "faults"),
    *NOT_ON_TORCH,
)


def cuda_tiles() -> bool:
    """Return whether this build of aihwkit has its CUDA tiles; the wheels have none."""
    return bool(_cuda.is_compiled())


def refused(preset: Preset, tile: str, recipe: TrainingSpec | None = None) -> dict[str, object]:
    """Return the settings of a preset, and of a recipe, that a tile cannot run.

    Args:
        preset: The preset.
        tile: "rpucuda" or "torch".
        recipe: The recipe whose settings count too; None for inference only.

    Returns:
        The values of the settings, by name.
    """
    crossbar = preset.crossbar
    settings: dict[str, object] = {}
    if tile == "torch":
        if crossbar.w_noise > 0:
            settings["w_noise"] = crossbar.w_noise
        if crossbar.ir_drop > 0:
            settings["ir_drop"] = crossbar.ir_drop
        effects = (name for name in crossbar.line_effects if name in NOT_ON_TORCH)
        settings |= {name: getattr(crossbar, name) for name in effects}
    limited = crossbar.max_rows is not None or crossbar.max_columns is not None
    if crossbar.weight_scaling == "layer" and limited:
        settings["weight_scaling"] = crossbar.weight_scaling
    if crossbar.dac_bits is None and crossbar.input_range != "none":
        # in aihwkit the input range brings a bound and rounding with it
        settings["dac_bits"] = None
    if preset.compensation.alpha_floor != ALPHA_FLOOR:
        settings["alpha_floor"] = preset.compensation.alpha_floor
    if recipe is not None:
        if recipe.noise_type == "pcm" and (tile == "torch" or not cuda_tiles()):
            settings["noise_type"] = recipe.noise_type
        if recipe.noise_type == "programming" and tile == "torch":
            settings["noise_type"] = recipe.noise_type
        injected = recipe.noise_type in ("pcm", "programming")
        one_cell = preset.pcm.pairs < 2 and not preset.pcm.referenced
        if injected and (preset.pcm.law not in MODIFIERS or not one_cell):
            settings["noise_type"] = recipe.noise_type
        if recipe.clip_type == "column_gaussian":
            settings["clip_type"] = recipe.clip_type
        if recipe.faults != "none":
            settings["faults"] = recipe.faults
        if recipe.drop_connect > 0 and tile == "torch":
            settings["drop_connect"] = recipe.drop_connect
    return settings


def chosen_tile(preset: Preset, tile: str) -> str:
    """Return the name of the tile to use: "rpucuda" or "torch".

    Args:
        preset: The preset; it has no influence at present.
        tile: "rpucuda" (C++), "torch" or "auto"; "auto" is the C++ tile, which runs the most.

    Raises:
        UsageError: If there is no tile of that name.
    """
    choice("tile", tile, ("auto", "rpucuda", "torch"))
    return "rpucuda" if tile == "auto" else tile


def require(
    preset: Preset, tile: str, drop: Iterable[str] = (), recipe: TrainingSpec | None = None
) -> None:
    """Check that a tile can run all settings that are not dropped by name.

    Args:
        preset: The preset.
        tile: "rpucuda" or "torch".
        drop: Names of settings that may be left out.
        recipe: The recipe whose settings count too; None for inference only.

    Raises:
        CapabilityError: If the tile cannot run one of the other settings.
        UsageError: If `drop` names a setting that cannot be dropped.
    """
    drop = tuple(texts("drop", drop))
    unknown = [name for name in drop if name not in DROPPABLE]
    if unknown:
        raise UsageError(f"drop={unknown}; settings that can be dropped: {', '.join(DROPPABLE)}")
    left = {k: v for k, v in refused(preset, tile, recipe).items() if k not in drop}
    if not left:
        return
    listed = ", ".join(f"{name}={value!r}" for name, value in left.items())
    others = [t for t in TILES if t != tile and not refused(preset, t, recipe)]
    ways = [f'use tile="{other}"' for other in others]
    names = tuple(name for name in left if name in DROPPABLE)
    if names:
        ways.append(f"drop them by name: drop={names!r}")
    if "noise_type" in left:
        ways.append("let aimc_bridge.train inject it, on any tile")
    if "faults" in left:
        ways.append("let aimc_bridge.train inject them, on any tile")
    if "clip_type" in left:
        ways.append("let aimc_bridge.train clip, on any tile")
    if not ways:
        ways.append('use engine="native"')
    raise CapabilityError(
        f"{tile} tile cannot run {listed} of preset {str(preset)!r}; {', or '.join(ways)}"
    )
