"""The forward pass of tiles with optional effects of the periphery (`CrossbarSpec.line_effects`).

Unlike in `forward`, outputs are in their own units up to the ADC, and each noise has a draw of its
own, because a nonlinearity may lie between them. Everything beside the products is
`physics.mvm.on_line` and `physics.mvm.at_adc`, run eagerly here and compiled in `compiled_lines`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from aimc_bridge import rng
from aimc_bridge.engines.native import compiled_lines, compiled_passes
from aimc_bridge.engines.native.compiled_lines import LineNumbers, PassProducts
from aimc_bridge.engines.native.product import Product
from aimc_bridge.engines.native.tiles import Block, Job, TileWeights, along, output_step
from aimc_bridge.physics.mvm import LineEffects, asymmetric


class LineProducts(NamedTuple):
    """Results of the products of a block of tiles, before everything else.

    Attributes:
        passes: The products of each pass of inputs: of all inputs, or of the negative and of the
            positive ones.
        effects: The effects that follow.
    """

    passes: tuple[PassProducts, ...]
    effects: LineEffects

    @property
    def y(self) -> Tensor:
        """The outputs of the last pass."""
        return self.passes[-1].y


def products(x: Tensor, block: Block, job: Job) -> LineProducts:
    """Return the products of a block of tiles.

    Args:
        x: Inputs of the tiles as the DAC converts them, in [-1, 1].
        block: The tiles, with their effects.
        job: The products.
    """
    spec, tile, effects = job.spec, block.tile, block.effects
    assert effects is not None
    if spec.inp_asymmetry > 0.0:
        x = asymmetric(x, spec.inp_asymmetry)
    parts = [(x, tile)]
    if spec.two_passes:
        parts = [(x.clamp_max(0.0), tile.negative or tile), (x.clamp_min(0.0), tile)]
    return LineProducts(tuple(_pass(part, weights, block, job) for part, weights in parts), effects)


def _pass(x: Tensor, tile: TileWeights, block: Block, job: Job) -> PassProducts:
    """Return the products of one pass of inputs."""
    spec, product = job.spec, job.product
    side = x.to(job.side or x.dtype)
    summed, weighted, variance, total = None, None, None, None
    if tile.position is None:
        y = product.contract(x, tile.value)
    else:
        y, weighted = product.with_positioned(x, side, tile.value, tile.position)
        scale = tile.rows / spec.ir_drop_g_ratio
        summed = product.contract((side * scale).abs_(), tile.magnitude(side.dtype))
    if spec.w_noise > 0.0:
        variance = product.contract(side * side, tile.magnitude(side.dtype))
    if block.ones is not None:
        total = _total(x, block.ones, y, product)
    return PassProducts(y, summed, weighted, variance, total)


def _total(x: Tensor, ones: Tensor, y: Tensor, product: Product) -> Tensor:
    """Return the sum of the inputs of each output, broadcastable to the outputs."""
    groups = x.shape[1] // ones.shape[1]
    total = product.contract(x, ones.expand(groups, *ones.shape[1:]))
    return total if groups == 1 else total.repeat_interleave(y.shape[1] // groups, dim=1)


def outputs(
    found: LineProducts,
    job: Job,
    scales: Tensor,
    *,
    keep: bool = False,
    into: Tensor | None = None,
    add: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Apply everything behind the products, as `forward.outputs` does.

    Args:
        found: Results of the products.
        job: The products.
        scales: As in `forward.outputs`.
        keep: As in `forward.outputs`.
        into: As in `forward.outputs`.
        add: As in `forward.outputs`.

    Returns:
        As `forward.outputs`. After two ADC conversions, a code is the sum of two.
    """
    spec, bound = job.spec, job.bound
    digital = spec.input_passes == "two_digital_sum"
    numbers = LineNumbers(spec.ir_drop, spec.w_noise, output_step(spec), float(bound or 0))
    if job.compiled:
        return compiled_lines.finish_lines(
            found.passes,
            found.effects,
            numbers,
            scales,
            digital=digital,
            bound=bound,
            keep=keep,
            into=into,
            add=add,
        )
    like = found.y
    effects = found.effects.each(lambda values: along(values, like))

    def noise(index: int) -> Tensor:
        """Return new noise for every index."""
        return rng.noise_like(like)

    y = compiled_lines.line_codes(
        found.passes, effects, numbers, noise, digital=digital, rounded=bound is not None
    )
    codes = None
    if keep:
        codes = y.to(compiled_passes.code_type(y, None if digital else bound), copy=True)
    scales = along(scales, y)
    if into is None:
        return y * scales, codes
    return (into.addcmul_(y, scales) if add else torch.mul(y, scales, out=into)), codes
