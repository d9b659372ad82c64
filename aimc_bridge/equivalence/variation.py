"""Compare the variation of a chip's periphery with what aihwkit's own tiles draw.

The products of both engines are compared with the same values on both, by `periphery.exactly`. Here
are the values themselves, and the noise of outputs whose noise differs.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.measuring import Sampling
from aimc_bridge.equivalence.report import Findings, Row
from aimc_bridge.equivalence.statistics import Values, mean_test, spread_test
from aimc_bridge.physics import variation
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.rng import derive
from aimc_bridge.spec import Preset

MEAN, SD = 0.1, 0.05  # margins: a share of the spread, and of the standard deviation
NONE = 0.02  # margin, a share of all outputs
NOISE = 0.05  # margin, a share of the slope
TILES, OUTPUTS, INPUTS = 80, 256, 8
NOISE_CHIPS, NOISE_READS = 24, 4096


def drawn(findings: Findings, layer: Layer, preset: Preset, sampling: Sampling) -> None:
    """Compare what the library draws for a chip with what new tiles of aihwkit draw.

    A tile is the sampling unit. Its size has no influence, so that all are of one size.

    Args:
        findings: Where the rows are added: mean and spread of each, and the share of outputs
            without a voltage offset.
        layer: The layer that the rows are of.
        preset: The preset; if nothing varies there is nothing to compare.
        sampling: The seed.
    """
    spec, grid = preset.crossbar, TileGrid((INPUTS,), (OUTPUTS,))
    names = variation.drawn_names(spec)
    if not names:
        return
    from aimc_bridge.engines.aihwkit.variation import drawn_by_tile

    sides: list[dict[str, list[Values]]] = [{name: [] for name in names} for _ in range(2)]
    for tile in range(TILES):
        seed = derive(sampling.seed, "crosscheck", "variation", preset.name, layer.name, tile)
        ours = variation.draw(grid, spec, variation.generators(seed, layer.name))
        theirs = drawn_by_tile(preset, OUTPUTS, INPUTS)
        for side, values in zip(sides, (ours, theirs), strict=True):
            for name, tensor in values.tensors().items():
                side[name].append(tensor.double().flatten().numpy())
    for name in names:
        a, b = (np.array(side[name]) for side in sides)
        both = np.concatenate([a, b])
        center, spread = float(both.mean()), float(both.std())
        tests = {
            "mean": mean_test(a.mean(1), b.mean(1), MEAN * spread),
            "sd": spread_test(((a - center) ** 2).mean(1), ((b - center) ** 2).mean(1), SD),
        }
        if name == "v_offset":
            tests["none"] = mean_test((a == 0).mean(1), (b == 0).mean(1), NONE)
        for what, test in tests.items():
            findings.rows.append(Row("layer", layer.name, f"{name} {what}", math.nan, test))


@torch.no_grad()
def noise_by_output(
    findings: Findings, tile: Layer | None, preset: Preset, sampling: Sampling
) -> None:
    """Compare how the noise of an output follows what was drawn for it.

    The inputs are 0, so that the outputs are output noise alone. The quantity is the slope of their
    variances on the squares of the drawn values, which is 1.

    Args:
        findings: Where the row is added.
        tile: One row tile of a layer; None adds no row.
        preset: The preset; if the output noise does not vary there is nothing to compare.
        sampling: Seed and engines.
    """
    names = variation.drawn_names(preset.crossbar)
    if tile is None or "out_noise_values" not in names or len(tile.grid.columns) < 1:
        return
    passes = 2 if preset.crossbar.input_passes == "two_digital_sum" else 1
    bare = preset.change(
        why="cross-check", adc_bits=None, drift_compensation="none", out_nonlinearity=0.0
    )
    x = tile.inputs.new_zeros(NOISE_READS, tile.inputs.shape[1])
    slopes = []
    for engine in sampling.engines:
        on = sampling.layer_on(tile, bare, engine)
        of_engine = []
        for chip in range(NOISE_CHIPS):
            on.chip(derive(sampling.seed, "crosscheck", engine, tile.name, "noise", chip))
            values = on.matrix().variation().out_noise_values
            assert values is not None
            unit = _unit(on.matrix().column_scale(), on.matrix().input_ranges(), tile.grid)
            variance = (on.output(x).double() / unit).var(0).numpy() / passes
            of_engine.append(_slope(values[0].double().cpu().numpy() ** 2, variance))
        slopes.append(np.array(of_engine))
    test = mean_test(slopes[0], slopes[1], NOISE)
    findings.rows.append(Row("layer", tile.name, "output noise by output", math.nan, test))


def _unit(scale: Tensor, ranges: Tensor | None, grid: TileGrid) -> Tensor:
    """Return an output of 1 in the layer's own units, shape (out)."""
    unit = scale[0].cpu().double()
    return unit if ranges is None else unit * grid.expand_tiles(ranges)[0].cpu().double()


def _slope(x: Values, y: Values) -> float:
    """Return the slope of y on x, of a line through the origin if x is constant."""
    centered = x - x.mean()
    power = float((centered**2).sum())
    return float((centered * y).sum()) / power if power > 0 else float(y.mean() / x.mean())
