"""The forward and backward pass of a crossbar: what `physics.crossbar` says, at speed.

All tiles of a layer are one function for autograd, samples in front: `[samples, in]` of a linear
layer, `[samples, channels, *space]` of a convolution. Outputs are counted in steps of the ADC and
inputs scaled accordingly, so that constants fold into few passes in place over the outputs; both
Gaussian noises are one draw of their joint sigma. Large batches go through in pieces that stay in
the processor's cache: 16 images instead of 64 cut a WRN-16-4's forward pass by a quarter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aimc_bridge import rng
from aimc_bridge.native import fused
from aimc_bridge.native.product import Product
from aimc_bridge.spec import CrossbarSpec

_PIECE = 1 << 20
"""Outputs of a block of tiles that go through together on a CPU: 4 MiB of float32."""

_FEWEST = (1, 256)
"""Samples of a piece at least: images; vectors, whose products would else be too thin."""


def levels(bits: int) -> int:
    """Steps from 0 to the bound: 127 of 8 bits."""
    return int(2 ** (bits - 1) - 1)


def output_step(spec: CrossbarSpec) -> float:
    """The unit that outputs are counted in: a step of the ADC, 1 without one."""
    step: float = 1.0 if spec.adc_bits is None else spec.out_bound / levels(spec.adc_bits)
    return step


def perfect(spec: CrossbarSpec, ir_drop: bool) -> bool:
    """Whether the periphery changes nothing: the tiles are then one digital product."""
    converters = spec.adc_bits is not None or spec.input_range != "none"
    noise = spec.out_noise > 0.0 or spec.w_noise > 0.0
    return not (converters or noise or ir_drop)


class TileWeights:
    """The weights of a tile as its product takes them.

    value       normalised weights
    position    of each input for the IR drop, in the shape of an output's weights; None without
    """

    def __init__(
        self,
        product: Product,
        weight: Tensor,
        row: int,
        column: int | None,
        position: Tensor | None,
    ) -> None:
        """`position` of each input of the layer, `[in]`."""
        self.rows = product.grid.rows[row]
        self.value = product.weights(weight, row, column).contiguous()
        self.position: Tensor | None = None
        if position is not None:
            self.position = product.weights(position.unsqueeze(0), row, None)
        self._magnitudes: dict[torch.dtype, Tensor] = {}

    def magnitude(self, dtype: torch.dtype) -> Tensor:
        """|value|, made at its first use."""
        if dtype not in self._magnitudes:
            self._magnitudes[dtype] = self.value.to(dtype).abs()
        return self._magnitudes[dtype]


@dataclass(frozen=True)
class Block:
    """The tiles that one product serves: a row of them with one input range, or a single tile."""

    row: int
    column: int | None
    columns: slice  # of the layer's outputs
    tile: TileWeights


@dataclass(frozen=True)
class Job:
    """What a crossbar's products need besides tensors with gradients.

    scale    digital scale of the trained weights, `[row tiles, out]`
    decay    of learned input ranges: (rate, least share of unclipped inputs)
    side     precision of the side products; None is that of the weights
    compiled whether compiled passes of `fused` do what is no product
    """

    product: Product
    spec: CrossbarSpec
    blocks: Sequence[Block]
    scale: Tensor
    decay: tuple[float, float]
    side: torch.dtype | None
    compiled: bool = False


def converted(x: Tensor, input_range: Tensor | None, spec: CrossbarSpec, unit: float) -> Tensor:
    """Inputs as the DAC gives them, in [-unit, unit]."""
    if input_range is None:
        return x if unit == 1.0 else x * unit
    if spec.dac_bits is None:
        return (x * (unit / input_range)).clamp_(-unit, unit)
    steps = levels(spec.dac_bits)
    return (x * (steps / input_range)).clamp_(-steps, steps).round_().mul_(unit / steps)


class Currents(NamedTuple):
    """What the products of a block of tiles give, before IR drop, noise and ADC.

    In b = sqrt(0.05) (a - 2) the loss a (a (0.05 a - 0.2) + 0.5) w is
    (sqrt(20) b + 2) (b b + 0.3) w, and constants
    are biases of the products: the fewest passes over the outputs.

    loss, b    position-weighted outputs, and the b of above less `late`; None without IR drop
    variance   of the noise over sigma^2; None where it is 1
    positive   whether a convolution cannot have summed it to a little less than 0
    sigma      of the noise, in units of `output_step`; 0 without noise
    """

    y: Tensor
    loss: Tensor | None
    b: Tensor | None
    late: float
    variance: Tensor | None
    positive: bool
    sigma: float


def outputs(x: Tensor, input_range: Tensor | None, block: Block, job: Job) -> Tensor:
    """What the ADC of a block of tiles gives, in units of `output_step`."""
    spec, tile = job.spec, block.tile
    bound = None if spec.adc_bits is None else levels(spec.adc_bits)
    found = _currents(x, input_range, tile, job)
    if job.compiled:
        return fused.finish(
            found.y,
            found.loss,
            found.b,
            found.variance,
            late=found.late,
            drop=spec.ir_drop,
            sigma=found.sigma,
            bound=bound,
        )
    y = _with_ir_drop_and_noise(found, spec)
    if bound is not None:
        y.round_().clamp_(-bound, bound)
    return y


def _currents(x: Tensor, input_range: Tensor | None, tile: TileWeights, job: Job) -> Currents:
    spec, product = job.spec, job.product
    unit = 1.0 / output_step(spec)
    scale = 1.0
    if tile.position is not None:
        scale = math.sqrt(0.05) * tile.rows / (spec.ir_drop_g_ratio * unit)
    given = _inputs(x, input_range, unit, scale, tile, job)
    x, side, size, square = given.x, given.side, given.size, given.square
    out_sigma = spec.out_noise * unit
    if size is None and square is None:
        return Currents(product.contract(x, tile.value), None, None, 0.0, None, True, out_sigma)
    side = x if side is None else side
    magnitude = tile.magnitude(side.dtype)
    ratio = spec.w_noise / scale
    floor = (out_sigma / ratio) ** 2 if spec.w_noise > 0.0 else 0.0
    sigma = ratio if spec.w_noise > 0.0 else out_sigma
    if size is None:
        assert square is not None
        y = product.contract(x, tile.value)
        variance = product.contract(square, magnitude, floor)
        return Currents(y, None, None, 0.0, variance, floor > 0.0, sigma)
    assert tile.position is not None
    shift = -2.0 * math.sqrt(0.05)
    late = 0.0 if side is x else shift  # in half precision b would lose a small a
    early = shift - late
    y, loss = product.with_positioned(x, side, tile.value, tile.position)
    if square is None:
        b = product.contract(size, magnitude, early)
        return Currents(y, loss, b, late, None, True, sigma)
    b, variance = product.contract_both(size, square, magnitude, (early, floor))
    return Currents(y, loss, b, late, variance, floor > 0.0, sigma)


def _inputs(
    x: Tensor,
    input_range: Tensor | None,
    unit: float,
    scale: float,
    tile: TileWeights,
    job: Job,
) -> fused.Inputs:
    """The inputs as the products take them; `size` is |x| times `scale`."""
    spec = job.spec
    wanted = (tile.position is not None, spec.w_noise > 0.0)
    if job.compiled:
        steps = None if spec.dac_bits is None else levels(spec.dac_bits)
        dtype = None if job.side in (None, x.dtype) or not any(wanted) else job.side
        return fused.inputs(
            x, input_range, unit=unit, steps=steps, scale=scale, side=dtype, wanted=wanted
        )
    x = converted(x, input_range, spec, unit)
    if not any(wanted):
        return fused.Inputs(x, None, None, None)
    side = x.to(job.side or x.dtype)
    size = (side * scale).abs_()
    if not wanted[0]:
        return fused.Inputs(x, side, None, size.mul_(size))
    return fused.Inputs(x, side, size, size * size if wanted[1] else None)


def _with_ir_drop_and_noise(found: Currents, spec: CrossbarSpec) -> Tensor:
    """The currents, less the IR drop, with both noises in one draw; in place."""
    y, variance = found.y, found.variance
    if found.loss is not None and found.b is not None:
        loss, b = found.loss.to(y.dtype), found.b.to(y.dtype)
        if found.late:
            b.add_(found.late)
        loss.mul_(torch.addcmul(b.new_tensor(0.3), b, b))
        y.sub_(loss, alpha=2.0 * spec.ir_drop)
        y.addcmul_(loss, b, value=-math.sqrt(20.0) * spec.ir_drop)
    if variance is not None:
        variance = variance.to(y.dtype)
        if not found.positive:
            variance.clamp_min_(0.0)
        y.addcmul_(variance.sqrt_(), rng.noise_like(y), value=found.sigma)
    elif found.sigma > 0.0:
        y.add_(rng.noise_like(y), alpha=found.sigma)
    return y


class CrossbarProduct(torch.autograd.Function):
    """The products of all tiles of a layer, summed digitally; gradients as on aihwkit.

    Backward is the transpose product with the weights of the forward pass, without DAC, IR drop or
    noise; clipped inputs pass their full gradient, saturated outputs pass none; the input range has
    a gradient of its own, relative to its size, with decay while few inputs are clipped; the weight
    gradient goes to the clean weights.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        trained: Tensor | None,
        ranges: Tensor | None,
        factor: Tensor,
        job: Job,
    ) -> Tensor:
        """`x` in own units, `trained` the matrix `[out, in]` that gets the weight gradient,
        `ranges` `[row tiles, column tiles]`, `factor` the digital scales `[row tiles, out]`."""
        needs_product, needs_factor = any(ctx.needs_input_grad[:3]), ctx.needs_input_grad[3]
        step = output_step(job.spec)
        kept: list[Tensor | None] = []
        pieces = _pieces(x, job.product)
        totals = []
        for piece in pieces:
            total: Tensor | None = None
            row_outputs: list[Tensor] = []
            for index, block in enumerate(job.blocks):
                one = _range(ranges, block)
                y = outputs(job.product.inputs(x[piece], block.row, block.column), one, block, job)
                if needs_product or needs_factor:
                    kept += [_saturated(y, job.spec), y if needs_factor else None]
                scales = _along(_scales(factor, one, block) * step, y)
                if block.column is None and total is not None:
                    total.addcmul_(y, scales)
                    continue
                row_outputs.append(y * scales if needs_factor else y.mul_(scales))
                last = index + 1 == len(job.blocks) or job.blocks[index + 1].row != block.row
                if last:
                    row = row_outputs[0] if len(row_outputs) == 1 else torch.cat(row_outputs, 1)
                    row_outputs = []
                    total = row if total is None else total.add_(row)
            assert total is not None
            totals.append(total)
        if needs_product or needs_factor:
            ctx.save_for_backward(x, ranges, factor, *kept)
            ctx.job, ctx.pieces = job, pieces
        return totals[0] if len(totals) == 1 else torch.cat(totals)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, ranges, factor, *kept = ctx.saved_tensors
        job: Job = ctx.job
        found = _Gradients(x, ranges, factor, job, ctx.needs_input_grad[:4])
        for number, piece in enumerate(ctx.pieces):
            for index, block in enumerate(job.blocks):
                at = 2 * (number * len(job.blocks) + index)
                found.add(piece, block, grad[piece], *kept[at : at + 2])
        return (*found.all(), None)


class _Gradients:
    """Sums of a backward pass over pieces of the batch and blocks of tiles."""

    def __init__(
        self,
        x: Tensor,
        ranges: Tensor | None,
        factor: Tensor,
        job: Job,
        needs: tuple[bool, bool, bool, bool],
    ) -> None:
        self.x, self.ranges, self.factor, self.job = x, ranges, factor, job
        grid = job.product.grid
        self.for_x = torch.zeros_like(x) if needs[0] else None
        self.for_w = x.new_zeros(grid.out_features, grid.in_features) if needs[1] else None
        self.for_factor = torch.zeros_like(factor) if needs[3] else None
        self.clipped: Tensor | None = None
        if needs[2] and ranges is not None:  # of each range: gradient of clipped inputs, share not
            self.clipped = ranges.new_zeros(2, *ranges.shape)

    def add(
        self, piece: slice, block: Block, grad: Tensor, saturated: Tensor | None, y: Tensor | None
    ) -> None:
        """What one block passes back of one piece; `y` are its outputs in steps of the ADC."""
        product, one = self.job.product, _range(self.ranges, block)
        if block.column is not None:
            grad = grad[:, block.columns]
        if self.for_factor is not None and y is not None:
            others = [axis for axis in range(grad.ndim) if axis != 1]
            summed = (grad * y).sum(others) * output_step(self.job.spec)
            self.for_factor[block.row, block.columns] += summed if one is None else summed * one
        needs_x = self.for_x is not None or self.clipped is not None
        if not needs_x and self.for_w is None:
            return
        g = grad * _along(self.factor[block.row, block.columns], grad)
        if saturated is not None:
            g.masked_fill_(saturated, 0.0)
        part = product.inputs(self.x[piece], block.row, block.column)
        if one is not None:
            part = (part / one).clamp_(-1.0, 1.0)
        wanted = (needs_x, self.for_w is not None)
        part_x, part_w = product.transposed(g, part, block.tile.value, wanted)
        if self.for_w is not None and part_w is not None:
            rows = product.grid.row_slices()[block.row]
            part_w = product.matrix(part_w, block.row)
            self.for_w[block.columns, rows] += part_w if one is None else part_w * one
        if part_x is None:
            return
        if one is not None and self.clipped is not None:
            found = self.clipped[:, block.row, block.column or 0]
            gradient, clipped = clipped_gradient(part, part_x)
            found[0] += gradient
            found[1] += (1.0 - clipped / part.numel()) * (part.shape[0] / self.x.shape[0])
        if self.for_x is not None:
            product.add_inputs(self.for_x[piece], part_x, block.row, block.column)

    def all(self) -> tuple[Tensor | None, ...]:
        """For the inputs, the trained weights, the ranges and the factors."""
        if self.for_w is not None:
            self.for_w /= self.job.product.grid.expand_columns(self.job.scale)
        for_ranges = None
        if self.clipped is not None and self.ranges is not None:
            clipped, unclipped = self.clipped
            for_ranges = range_gradient(clipped, unclipped, self.ranges, *self.job.decay)
        return self.for_x, self.for_w, for_ranges, self.for_factor


def _pieces(x: Tensor, product: Product) -> list[slice]:
    """Samples that go through together."""
    samples = x.shape[0]
    size = max(_PIECE // max(1, product.outputs_per_sample(x)), _FEWEST[x.ndim == 2])
    if x.device.type != "cpu" or samples <= size:
        return [slice(0, samples)]
    size = -(-samples // -(-samples // size))  # as even as possible
    return [slice(start, start + size) for start in range(0, samples, size)]


def _range(ranges: Tensor | None, block: Block) -> Tensor | None:
    return None if ranges is None else ranges[block.row, block.column or 0]


def _scales(factor: Tensor, input_range: Tensor | None, block: Block) -> Tensor:
    """Of each output of a block, input range included: `[outputs]`."""
    scales = factor[block.row, block.columns]
    return scales if input_range is None else scales * input_range


def _along(values: Tensor, like: Tensor) -> Tensor:
    """`[outputs]`, broadcastable to `[samples, outputs, *space]`."""
    return values.view(-1, *[1] * (like.ndim - 2))


def _saturated(y: Tensor, spec: CrossbarSpec) -> Tensor | None:
    """Which outputs the ADC clamps; None where none is. `y` has no gaps in memory."""
    if spec.adc_bits is None:
        return None
    bound = levels(spec.adc_bits)
    if y.device.type == "cpu":  # elsewhere a look at it would wait for the device
        ends = torch.aminmax(y.as_strided((y.numel(),), (1,)))
        if max(abs(float(end)) for end in ends) < bound:
            return None
    return y.abs() >= bound


def clipped_gradient(x: Tensor, grad_x: Tensor) -> tuple[Tensor, Tensor]:
    """What clipped inputs ask of their range, relative to its size, and how many there are.

    sum over x = 1 of min(g, 0) - sum over x = -1 of max(g, 0)

    Args:    x  in units of the range, clamped to [-1, 1]; overwritten.    grad_x  of own units.
    """
    sides = x.trunc_()  # 0 inside, else the sign of the input
    clipped = sides.count_nonzero()
    return sides.mul_(grad_x).clamp_max_(0.0).sum(), clipped


def range_gradient(
    clipped: Tensor, unclipped: Tensor, ranges: Tensor, decay: float, min_unclipped: float
) -> Tensor:
    """Gradient of learned input ranges: range * (that of clipped inputs, plus decay while more than
    `min_unclipped` of the inputs are inside). Source: aihwkit InputRangeParameter.

    Args:    clipped  sums of `clipped_gradient`.    unclipped  share of inputs inside the range.
    """
    return (clipped + decay * (unclipped > min_unclipped)) * ranges
