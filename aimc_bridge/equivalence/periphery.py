"""The periphery by itself: ADC clipping, IR drop, and equality if nothing is left to chance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.measuring import AIHWKIT, IMAGES, EngineLayer, Sampling
from aimc_bridge.equivalence.report import Findings, Row
from aimc_bridge.equivalence.statistics import exact_test, mean_test, share_test
from aimc_bridge.layers import UnfoldedConv
from aimc_bridge.physics.mapping import TileGrid, levels
from aimc_bridge.rng import alone, derive
from aimc_bridge.spec import Preset

CLIPPED, DRIVEN = 0.001, 0.005  # margins, shares of outputs
DRIVEN_TO = 0.05  # the share of outputs that a narrower ADC clips
IR_LOSS = 0.02  # margin, a share of the loss
EXACT = 1e-5  # margin, a share of the largest output
STEPS_OFF = 1e-4  # margin, a share of outputs that are off by one ADC step

CLIP_CHIPS, CLIP_VECTORS = 48, 256
EXACT_OUTPUTS, EXACT_CHIPS = 200_000, 160


def first_tile(layer: Layer) -> Layer | None:
    """Return the first row tile as a layer by itself, which is what one ADC sees.

    Args:
        layer: The layer.

    Returns:
        The tile; None for a convolution with groups, and if no input reaches the tile.
    """
    if layer.grid.groups > 1:
        return None
    rows = layer.grid.rows[0]
    weight = layer.module.get_parameter("weight").flatten(1)[:, :rows]
    vectors = unfolded(layer, layer.inputs)[:, :rows]
    vectors = vectors[vectors.abs().amax(1) > 0]
    if not len(vectors):
        return None
    module = nn.Linear(rows, len(weight), bias=False)
    module.weight = nn.Parameter(weight.clone(), requires_grad=False)
    ranges = None if layer.ranges is None else layer.ranges[:1]
    grid = TileGrid((rows,), layer.grid.columns)
    return Layer(f"{layer.name}, tile 0", "linear", module.eval(), vectors, ranges, grid)


def unfolded(layer: Layer, inputs: Tensor, limit: int = 4096) -> Tensor:
    """Return inputs as vectors.

    Args:
        layer: The layer.
        inputs: Its inputs: vectors, or images.
        limit: At most so many vectors of a convolution, evenly spread over output positions.

    Returns:
        Vectors, shape (vectors, in).
    """
    if layer.kind != "convolution":
        return inputs
    module: Any = layer.module
    conv = UnfoldedConv(module, lambda weight, bias: nn.Identity())
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    padded = nn.functional.pad(inputs, conv.pad, mode=mode) if any(conv.pad) else inputs
    rows, _ = conv.unfolded(padded)
    vectors = rows.flatten(0, 1)
    return vectors[:: -(-len(vectors) // limit)]


@torch.no_grad()
def clipping(findings: Findings, layer: Layer, preset: Preset, sampling: Sampling) -> None:
    """Compare the share of outputs at the ADC's bound, on the first row tile.

    The bound is the preset's, and one that clips `DRIVEN_TO` of the outputs.

    Args:
        findings: Where the rows are added.
        layer: The layer.
        preset: The preset; without an ADC there is nothing to compare.
        sampling: Seed and engines.
    """
    if preset.crossbar.adc_bits is None:
        return
    tile = first_tile(layer)
    if tile is None:
        return
    x = tile.part(CLIP_VECTORS, sampling.seed)
    quiet = preset.change(
        why="cross-check", out_noise=0.0, w_noise=0.0, adc_bits=None, drift_compensation="none"
    )
    native = sampling.layer_on(tile, quiet)
    sizes = (native.output(x).abs() / _unit(native)).flatten().double()
    bound = float(sizes.quantile(1 - DRIVEN_TO)) or 1.0
    for name, at, margin in (
        ("ADC clipping", preset.crossbar.out_bound, CLIPPED),
        ("ADC clipping, narrow", bound, DRIVEN),
    ):
        changed = preset.change(why="cross-check", out_bound=at, drift_compensation="none")
        rates = []
        with alone(), torch.random.fork_rng(devices=[]):
            for engine in sampling.engines:
                engine_layer = sampling.layer_on(tile, changed, engine)
                shares = []
                for chip in range(CLIP_CHIPS):
                    names = ("crosscheck", engine, preset.name, layer.name, name, chip)
                    torch.manual_seed(derive(sampling.seed, *names, "products"))
                    engine_layer.chip(derive(sampling.seed, *names))
                    size = engine_layer.output(x).abs() / _unit(engine_layer)
                    shares.append(float((size >= at * (1 - 1e-4)).double().mean()))
                rates.append(np.array(shares))
        test = mean_test(rates[0], rates[1], margin)
        findings.rows.append(Row("layer", layer.name, name, math.nan, test))


def _unit(engine_layer: EngineLayer) -> Tensor:
    """Return an output of 1 of the first row tile in the layer's own units, shape (out)."""
    matrix = engine_layer.matrix()
    unit = matrix.column_scale()[0]
    ranges = matrix.input_ranges()
    if ranges is not None:
        unit = unit * matrix.grid.expand_tiles(ranges)[0]
    return unit.cpu()


@torch.no_grad()
def ir_drop(findings: Findings, layer: Layer, preset: Preset, sampling: Sampling) -> None:
    """Compare what the wires take from the outputs, with clean weights and without noise.

    Args:
        findings: Where the row is added.
        layer: The layer.
        preset: The preset; without IR drop there is nothing to compare.
        sampling: Seed and engines.
    """
    if preset.crossbar.ir_drop == 0:
        return
    x = layer.part(IMAGES if layer.kind == "convolution" else CLIP_VECTORS, sampling.seed)
    quiet: dict[str, Any] = {"out_noise": 0.0, "w_noise": 0.0, "adc_bits": None}
    losses = []
    for engine in sampling.engines:
        with_drop, without = (
            sampling.layer_on(
                layer, preset.change(why="cross-check", **quiet, ir_drop=scale), engine
            )
            .output(x)
            .double()
            for scale in (preset.crossbar.ir_drop, 0.0)
        )
        losses.append(1.0 - float((with_drop * without).sum() / without.square().sum()))
    test = exact_test(losses[0], losses[1], max(IR_LOSS * abs(losses[1]), 1e-6))
    findings.rows.append(Row("layer", layer.name, "IR-drop loss", math.nan, test))


@torch.no_grad()
def exactly(findings: Findings, layer: Layer, preset: Preset, sampling: Sampling) -> None:
    """Compare outputs without noise, with the same programmed weights on both engines.

    The weights are those of aihwkit's chips. Without the ADC the outputs are equal, except for
    rounding; with it, few are off by a step, and none by more.

    Args:
        findings: Where the rows are added.
        layer: The layer.
        preset: The preset.
        sampling: Seed and engines.
    """
    quiet = preset.change(why="cross-check", out_noise=0.0, w_noise=0.0, drift_compensation="none")
    x = off_ties(layer.inputs, layer.ranges, preset.crossbar.dac_bits)
    count = layer.module(x[:1]).numel() * len(x)
    chips = min(EXACT_CHIPS, -(-EXACT_OUTPUTS // count))
    smooth = quiet.change(why="cross-check", adc_bits=None)
    worst = 0.0
    for y, z, _ in _same_chips(layer, smooth, x, min(chips, 4), sampling):
        worst = max(worst, float((y - z).abs().max() / z.abs().max().clamp_min(1e-30)))
    test = exact_test(worst, 0.0, EXACT)
    findings.rows.append(Row("layer", layer.name, "outputs, ADC off", math.nan, test))
    if quiet.crossbar.adc_bits is None:
        return
    off, total, far = 0, 0, 0
    for y, z, unit in _same_chips(layer, quiet, x, chips, sampling):
        steps = ((y - z).abs() / unit).flatten()
        off += int((steps > 0.01).sum())
        far += int((steps > 1.01).sum())
        total += steps.numel()
    rows = {
        "outputs off by an ADC step": share_test(off, total, STEPS_OFF),
        "outputs off by more": exact_test(float(far), 0.0, 0.5),
    }
    for name, result in rows.items():
        findings.rows.append(Row("layer", layer.name, name, math.nan, result))


def off_ties(x: Tensor, ranges: Tensor | None, bits: int | None) -> Tensor:
    """Move inputs that lie half way between two DAC steps by a hundredth of a step.

    The last bit of x / range decides which way such an input is rounded, and no engine promises
    that bit.

    Args:
        x: The inputs.
        ranges: The input ranges, or None.
        bits: Bits of the DAC, or None.

    Returns:
        The inputs; all others stay as they are.
    """
    if ranges is None or bits is None:
        return x
    moved = x.double()
    for step in (ranges.double().unique() / levels(bits)).tolist() * 3:
        part = moved / step
        near = (part - part.floor() - 0.5).abs() < 1e-3
        moved = torch.where(near, moved + 0.01 * step, moved)
    return moved.to(x)


Same = Iterator[tuple[Tensor, Tensor, Tensor]]
"""Outputs of the native engine, outputs of aihwkit, and the largest ADC step of an output."""


def _same_chips(layer: Layer, preset: Preset, x: Tensor, chips: int, sampling: Sampling) -> Same:
    """Yield the outputs of chips that both engines hold.

    aihwkit's programmed weights are written into the native layer as if they had been trained, on
    the native column scales. What varies in the periphery is aihwkit's, too.
    """
    aihwkit, native = sampling.layer_on(layer, preset, AIHWKIT), sampling.layer_on(layer, preset)
    scale = native.matrix().column_scale().clone()
    for chip in range(chips):
        aihwkit.chip(derive(sampling.seed, "crosscheck", "same", preset.name, layer.name, chip))
        aihwkit.at(86400.0)
        programmed = aihwkit.matrix().effective_weight()
        native.matrix().set_clean_weight(programmed.to(scale.device), scale)
        native.matrix().hold_variation(aihwkit.matrix().variation())
        y, z = native.output(x).double(), aihwkit.output(x).double()
        yield y, z, _steps(native, preset, z)


def _steps(native: EngineLayer, preset: Preset, like: Tensor) -> Tensor:
    """Return one ADC step of each output in the layer's own units, the largest of its row tiles."""
    bits = preset.crossbar.adc_bits
    if bits is None:
        return torch.ones(())
    matrix = native.matrix()
    unit = matrix.column_scale()
    ranges = matrix.input_ranges()
    if ranges is not None:
        unit = unit * matrix.grid.expand_tiles(ranges)
    step: Tensor = unit.amax(0).cpu().double() * preset.crossbar.out_bound / levels(bits)
    if like.ndim > 2 and native.layer.kind == "convolution":
        return step.view(-1, *[1] * (like.ndim - 2))
    return step
