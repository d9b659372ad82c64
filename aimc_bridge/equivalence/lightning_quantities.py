"""Quantities that the native engine and aihwkit-lightning compute without chance, compared."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.lightning_side import LIGHTNING, LightningLayer
from aimc_bridge.equivalence.measuring import Sampling, sampled_inputs
from aimc_bridge.equivalence.periphery import off_ties, unfolded
from aimc_bridge.equivalence.report import Findings, Row
from aimc_bridge.equivalence.statistics import exact_test, share_test
from aimc_bridge.physics.mapping import levels
from aimc_bridge.rng import derive
from aimc_bridge.spec import Preset, TrainingSpec
from aimc_bridge.training import HWATraining, noisy_weight

# Margins. They are stated here, and printed beside every result.
EXACT = 1e-5  # a share of the largest output
STEPS_OFF = 1e-4  # a share of outputs that are off by one ADC step
CLIPPED = 0.005  # a share of outputs, with an ADC that clips `DRIVEN_TO` of them
GRADIENT = 0.02  # a share of the gradient: its relative L2 distance
RANGE = 0.01  # a share of the input range

DRIVEN_TO, INSIDE = 0.05, 0.95  # outputs beyond a narrow ADC; inputs inside a narrow range
WEIGHT_SD = 0.05  # of the injected noise, in units of the largest weight
EXACT_OUTPUTS, EXACT_DRAWS = 200_000, 160
STARTS, STEPS = 3, 10  # batches that start a range; steps that learn it


def _add(
    findings: Findings, layer: Layer, quantity: str, first: float, second: float, margin: float
) -> None:
    """Add a row of two numbers that have no chance in them."""
    test = exact_test(first, second, margin)
    findings.rows.append(Row("layer", layer.name, quantity, math.nan, test, LIGHTNING))


def gaussian_recipe(preset: Preset, **values: Any) -> TrainingSpec:
    """Return a recipe with Gaussian noise alone, and learned ranges.

    Args:
        preset: The preset of the chip.
        **values: Fields of the recipe that differ, as field=value.
    """
    recipe = HWATraining.for_(preset).override(
        noise_type="gaussian",
        noise_scale=1.0,
        drop_connect=0.0,
        faults="none",
        learn_input_ranges=True,
        input_range_start="calibrated",
        **values,
    )
    return recipe.spec


def _draws(
    layer: Layer, preset: Preset, x: Tensor, sampling: Sampling
) -> Iterator[tuple[Tensor, ...]]:
    """Yield outputs of both sides that hold the same noisy weights, and the ADC's step.

    The weights are drawn again, so that a small layer has enough outputs too.
    """
    native = sampling.layer_on(layer, preset)
    lightning = LightningLayer(layer, preset.crossbar, layer.ranges)
    matrix, spec = native.matrix(), gaussian_recipe(preset, gaussian_sd=WEIGHT_SD)
    clean = matrix.clean_weight().clone()
    draws = min(EXACT_DRAWS, -(-EXACT_OUTPUTS // (layer.module(x[:1]).numel() * len(x))))
    scale = matrix.grid.expand_columns(matrix.column_scale()).clone()
    for draw in range(draws):
        matrix.set_clean_weight(clean)
        names = ("crosscheck", "same", layer.name, draw)
        weight = noisy_weight(matrix, spec, 1.0, sampling.seed, names) * scale
        matrix.set_clean_weight(weight)
        lightning.hold(weight.cpu())
        y, z = native.output(x).double(), lightning.output(x).double()
        unit = matrix.column_scale()
        ranges = matrix.input_ranges()
        if ranges is not None:
            unit = unit * matrix.grid.expand_tiles(ranges)
        unit = unit.amax(0).cpu().double()
        yield y, z, unit.view(-1, *[1] * (y.ndim - 2)) if layer.kind == "convolution" else unit


@torch.no_grad()
def exactly(findings: Findings, layer: Layer, preset: Preset, sampling: Sampling) -> None:
    """Compare outputs without noise, with and without the ADC, on the same weights.

    Args:
        findings: Where the rows are added.
        layer: The layer.
        preset: The preset, without what aihwkit-lightning lacks.
        sampling: Seed and engines.
    """
    x = off_ties(layer.inputs, layer.ranges, preset.crossbar.dac_bits)
    worst = 0.0
    smooth = preset.change(why="cross-check", adc_bits=None)
    for number, (y, z, _) in enumerate(_draws(layer, smooth, x, sampling)):
        worst = max(worst, float((y - z).abs().max() / z.abs().max().clamp_min(1e-30)))
        if number == 3:
            break
    _add(findings, layer, "outputs, ADC off", worst, 0.0, EXACT)
    bits = preset.crossbar.adc_bits
    if bits is None:
        return
    off, total, far = 0, 0, 0
    step = preset.crossbar.out_bound / levels(bits)
    for y, z, unit in _draws(layer, preset, x, sampling):
        steps = ((y - z).abs() / (unit * step)).flatten()
        off, far = off + int((steps > 0.01).sum()), far + int((steps > 1.01).sum())
        total += steps.numel()
    test = share_test(off, total, STEPS_OFF)
    findings.rows.append(
        Row("layer", layer.name, "outputs off by an ADC step", math.nan, test, LIGHTNING)
    )
    _add(findings, layer, "outputs off by more", float(far), 0.0, 0.5)


@torch.no_grad()
def clipping(findings: Findings, layer: Layer, preset: Preset, sampling: Sampling) -> None:
    """Compare the outputs of an ADC that is so narrow that it clips some of them.

    Args:
        findings: Where the rows are added.
        layer: The layer.
        preset: The preset, without what aihwkit-lightning lacks.
        sampling: Seed and engines.
    """
    if preset.crossbar.adc_bits is None:
        return
    x = layer.inputs
    smooth = preset.change(why="cross-check", adc_bits=None)
    y, _, unit = next(_draws(layer, smooth, x[:1024], sampling))
    bound = float((y.abs() / unit).flatten()[:1_000_000].quantile(1 - DRIVEN_TO)) or 1.0
    narrow = preset.change(why="cross-check", out_bound=bound)
    y, z, _ = next(_draws(layer, narrow, x, sampling))
    largest = z.abs().max().clamp_min(1e-30)
    changed = ((y - z).abs() > 1e-3 * largest).double().mean()
    _add(findings, layer, "outputs, narrow ADC", float(changed), 0.0, CLIPPED)


def started(findings: Findings, layer: Layer, preset: Preset, sampling: Sampling) -> None:
    """Compare input ranges that start from data.

    Args:
        findings: Where the rows are added.
        layer: The layer.
        preset: The preset, without what aihwkit-lightning lacks.
        sampling: Seed and engines.
    """
    spec = dataclasses.replace(gaussian_recipe(preset), input_range_start="data")
    native = sampling.layer_on(layer, preset)
    lightning = LightningLayer(layer, preset.crossbar, None, spec)
    matrix = native.matrix()
    native.model.train()
    matrix.prepare_training(spec)
    with torch.no_grad():
        for batch in layer.inputs.chunk(STARTS):
            native.output(batch)
            lightning.output(batch)
    ranges = matrix.input_ranges()
    assert ranges is not None
    _worst_range(findings, layer, "input range, from data", ranges, lightning)


def _worst_range(
    findings: Findings, layer: Layer, name: str, ranges: Tensor, lightning: LightningLayer
) -> None:
    """Compare the range of the row tile that is furthest off, relative to its range."""
    first = ranges.detach().cpu().double().mean(1)
    second = lightning.module.input_range.detach().double()
    worst = int(((first - second) / second).abs().argmax())
    margin = RANGE * abs(float(second[worst]))
    _add(findings, layer, name, float(first[worst]), float(second[worst]), margin)


def learning(findings: Findings, layer: Layer, preset: Preset, sampling: Sampling) -> None:
    """Compare gradients behind narrow input ranges, and the ranges after some steps.

    Args:
        findings: Where the rows are added.
        layer: The layer.
        preset: The preset, without what aihwkit-lightning lacks.
        sampling: Seed and engines.
    """
    spec = gaussian_recipe(preset, input_range_init_batches=0)
    x = sampled_inputs(layer, sampling)
    rows = unfolded(layer, x)
    parts = rows.split(list(layer.grid.rows), 1)
    narrow = torch.stack([p.abs().flatten()[:1_000_000].quantile(INSIDE) for p in parts])
    if not bool((narrow > 0).all()):
        return  # hardly any input reaches a tile
    ranges = narrow.unsqueeze(1).expand(-1, len(layer.grid.columns)).contiguous()
    native = sampling.layer_on(layer, preset)
    lightning = LightningLayer(layer, preset.crossbar, ranges, spec)
    matrix = native.matrix()
    matrix.set_input_ranges(ranges.to(native.device))
    matrix.prepare_training(spec)
    native.model.train()
    weights, (learned,) = matrix.weight_parameters(), matrix.periphery()["input_range"]
    for weight in (*weights, lightning.module.weight):
        weight.requires_grad_(True)
    y = layer.module(x)
    draws = torch.Generator().manual_seed(derive(sampling.seed, "crosscheck", layer.name, "grad"))
    wanted = torch.randn(y.shape, generator=draws) / y.numel()
    inputs = [x.clone().requires_grad_(True) for _ in range(2)]
    (native.model(inputs[0].to(native.device)) * wanted.to(native.device)).sum().backward()
    (lightning.output(inputs[1]) * wanted).sum().backward()
    a, b = (each.grad for each in inputs)
    assert a is not None and b is not None and learned.grad is not None
    limit = ranges.amax(1).repeat_interleave(torch.tensor(layer.grid.rows))
    if layer.kind == "convolution":  # a pixel is in several patches, of several tiles
        clipped = x.abs() >= limit.min()
        inside = x.abs() < limit.min()
    else:
        clipped, inside = x.abs() > limit, x.abs() < limit
    for name, chosen in (("inputs inside", inside), ("clipped inputs", clipped)):
        _gradient(findings, layer, f"gradient of {name}", a[chosen], b[chosen])
    gradient = weights[0].grad
    assert gradient is not None
    _gradient(findings, layer, "gradient of weights", gradient, lightning.module.weight.grad)
    slope = learned.grad.sum(1)
    _gradient(findings, layer, "gradient of input ranges", slope, lightning.module.input_range.grad)
    rate = 0.02 * float(narrow.mean()) / max(float(slope.abs().mean()), 1e-30)
    for _ in range(STEPS):
        for each in (learned, lightning.module.input_range):
            assert each.grad is not None
            with torch.no_grad():
                each -= rate * each.grad
            each.grad = None
        (native.model(x.to(native.device)) * wanted.to(native.device)).sum().backward()
        (lightning.output(x) * wanted).sum().backward()
    _worst_range(findings, layer, "input range, learned", learned, lightning)


def _gradient(findings: Findings, layer: Layer, name: str, first: Tensor, second: Tensor) -> None:
    """Compare two gradients by their relative L2 distance."""
    a, b = first.detach().cpu().double().flatten(), second.detach().double().flatten()
    size = max(float(a.norm()), float(b.norm()), 1e-30)
    _add(findings, layer, name, 0.0, float((a - b).norm()) / size, GRADIENT)
