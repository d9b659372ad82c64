"""The forward and backward pass of a crossbar: `physics.mvm`, made fast.

All tiles of a layer are one function for autograd. Samples come first: `[samples, in]` in a linear
layer, `[samples, channels, *space]` in a convolution. Outputs are counted in steps of the ADC, and
inputs are scaled accordingly, so that constants need few passes in place over the outputs. Both
Gaussian noises are one draw with their joint sigma. Large batches are divided into pieces that stay
in the processor's cache: 16 images at a time instead of 64 shorten the forward pass of a WRN-16-4
by a quarter.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aimc_bridge import rng
from aimc_bridge.engines.native import compiled_passes, integers, lines
from aimc_bridge.engines.native.backward import Gradients
from aimc_bridge.engines.native.digits import Units
from aimc_bridge.engines.native.product import Product
from aimc_bridge.engines.native.tiles import Job, TileWeights, along, output_step, room
from aimc_bridge.errors import CapabilityError
from aimc_bridge.physics.mapping import levels
from aimc_bridge.spec import CrossbarSpec

_PIECE = 1 << 20
"""Number of outputs of a block that a CPU computes together: 4 MiB of float32."""

_FEWEST = (1, 256)
"""Least number of samples of a piece: images, and vectors.

With fewer vectors the products would be too thin.
"""


def converted(x: Tensor, input_range: Tensor | None, spec: CrossbarSpec, unit: float) -> Tensor:
    """Return inputs as the DAC returns them, in [-unit, unit].

    Args:
        x: Inputs in own units.
        input_range: The range of the tile; None if the preset has none.
        spec: The crossbar's settings.
        unit: The size of an input at the bound.
    """
    if input_range is None:
        return x if unit == 1.0 else x * unit
    if spec.dac_bits is None:
        return (x * (unit / input_range)).clamp_(-unit, unit)
    steps = levels(spec.dac_bits)
    return (x * (steps / input_range)).clamp_(-steps, steps).round_().mul_(unit / steps)


class Currents(NamedTuple):
    """Results of the products of a block of tiles, before IR drop, noise and ADC.

    With b = sqrt(0.05) (a - 2), the loss a (a (0.05 a - 0.2) + 0.5) w is
    (sqrt(20) b + 2) (b b + 0.3) w. The constants then are biases of the products, or numbers of a
    compiled pass: this takes the fewest passes over the outputs. Here a is the sum over |inputs| as
    in `physics.mvm.ir_loss`, and w are the position-weighted outputs.

    Attributes:
        y: The outputs.
        loss: Position-weighted outputs; None without IR drop.
        b: The b of the formula, less `late`; None without IR drop.
        late: A number that is to be added to `b`.
        variance: Variance of the noise over sigma^2, less `floor`; None if it is 1.
        floor: A number that is to be added to `variance`.
        positive: Whether `variance` cannot be negative. If not, a convolution may have summed it to
            a little less than 0.
        sigma: Sigma of the noise, in units of `output_step`; 0 without noise.
    """

    y: Tensor
    loss: Tensor | None
    b: Tensor | None
    late: float
    variance: Tensor | None
    floor: float
    positive: bool
    sigma: float


def outputs(
    found: Currents,
    job: Job,
    scales: Tensor,
    *,
    keep: bool = False,
    into: Tensor | None = None,
    add: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Apply IR drop, noise, ADC and digital scales.

    The outputs are in the memory of `found`, or in `into`.

    Args:
        found: Results of the products; overwritten.
        job: The products.
        scales: Digital scales of one step of the ADC, `[outputs]`.
        keep: Whether the codes of the ADC (its outputs in steps) are needed.
        into: A tensor for the outputs, in their shape; None writes over `found`.
        add: Whether the outputs are added to `into` instead of written over it.

    Returns:
        The outputs, and the codes of the ADC or None.
    """
    spec, bound = job.spec, job.bound
    codes = None
    if job.compiled:
        return compiled_passes.finish(
            found.y,
            found.loss,
            found.b,
            found.variance,
            scales,
            late=found.late,
            floor=found.floor,
            drop=spec.ir_drop,
            sigma=found.sigma,
            bound=bound,
            keep=keep,
            into=into,
            add=add,
        )
    y = _with_ir_drop_and_noise(found, spec)
    if bound is not None:
        y.round_().clamp_(-bound, bound)
    if keep:
        codes = y.to(compiled_passes.code_type(y, bound), copy=True)
    scales = along(scales, y)
    if into is None:
        return y.mul_(scales), codes
    return (into.addcmul_(y, scales) if add else torch.mul(y, scales, out=into)), codes


def currents(
    x: Tensor,
    input_range: Tensor | None,
    tile: TileWeights,
    job: Job,
    negative: bool | None = None,
) -> Currents:
    """Return the products of a block of tiles.

    Args:
        x: Inputs of the tiles, in own units.
        input_range: Their range, or None.
        tile: Their weights.
        job: The products.
        negative: Whether inputs are negative somewhere, for products in integers; None computes
            the products in floating point.
    """
    spec, product = job.spec, job.product
    unit = 1.0 / output_step(spec)
    scale = 1.0
    if tile.position is not None:
        scale = math.sqrt(0.05) * tile.rows / (spec.ir_drop_g_ratio * unit)
    if negative is not None and input_range is not None:
        return _integer_currents(x, input_range, unit, scale, tile, job, negative)
    inputs = _inputs(x, input_range, unit, scale, tile, job)
    x, side, size, square = inputs.x, inputs.side, inputs.size, inputs.square
    out_sigma = spec.out_noise * unit
    if size is None and square is None:
        y = product.contract(x, tile.value)
        return Currents(y, None, None, 0.0, None, 0.0, True, out_sigma)
    side = x if side is None else side
    magnitude = tile.magnitude(side.dtype)
    ratio = spec.w_noise / scale
    bias = (out_sigma / ratio) ** 2 if spec.w_noise > 0.0 else 0.0
    floor = bias if job.compiled else 0.0
    bias -= floor
    sigma = ratio if spec.w_noise > 0.0 else out_sigma
    if size is None:
        assert square is not None
        y = product.contract(x, tile.value)
        variance = product.contract(square, magnitude, bias)
        return Currents(y, None, None, 0.0, variance, floor, bias > 0.0, sigma)
    assert tile.position is not None
    shift = -2.0 * math.sqrt(0.05)
    exact = side is x  # in half precision a - 2 would lose a small a: it is shifted later
    late = 0.0 if exact and not job.compiled else shift
    early = shift - late
    y, loss = product.with_positioned(x, side, tile.value, tile.position)
    if square is None:
        b = product.contract(size, magnitude, early)
        return Currents(y, loss, b, late, None, 0.0, True, sigma)
    b, variance = product.contract_both(size, square, magnitude, (early, bias))
    return Currents(y, loss, b, late, variance, floor, bias > 0.0, sigma)


def _integer_currents(
    x: Tensor,
    input_range: Tensor,
    unit: float,
    scale: float,
    tile: TileWeights,
    job: Job,
    negative: bool,
) -> Currents:
    """Return the products of a block of tiles, computed in integers.

    `scale` is the factor on |x|, `negative` whether inputs are negative somewhere.
    """
    spec, product = job.spec, job.product
    assert spec.dac_bits is not None
    steps = levels(spec.dac_bits)
    drop, noisy = tile.position is not None, spec.w_noise > 0.0
    codes = integers.codes(
        x, input_range, steps, negative=negative, wanted=(drop, noisy), compiled=job.compiled
    )
    sigma, late, floor, positive = spec.out_noise * unit, 0.0, 0.0, True
    size_bias = square_bias = 0.0
    if drop:
        late, size_bias = _later(-2.0 * math.sqrt(0.05), job)
    if noisy:
        ratio = spec.w_noise / scale
        floor, square_bias = _later((sigma / ratio) ** 2, job)
        sigma, positive = ratio, square_bias > 0.0
    units = Units(unit / steps, unit / steps * scale, size_bias, square_bias)
    weights = tile.integers(job, x, units)
    sums = integers.multiplied(product, codes, weights, units)
    if x.ndim > 2 and x.stride(1) != 1:
        sums = integers.channels_first(sums)
    return Currents(sums.y, sums.loss, sums.size, late, sums.square, floor, positive, sigma)


def _later(number: float, job: Job) -> tuple[float, float]:
    """Return the parts of a number that a compiled pass and that a product adds."""
    return (number, 0.0) if job.compiled else (0.0, number)


def _inputs(
    x: Tensor,
    input_range: Tensor | None,
    unit: float,
    scale: float,
    tile: TileWeights,
    job: Job,
) -> compiled_passes.Inputs:
    """Return the inputs as the products take them; `size` is |x| times `scale`."""
    spec = job.spec
    needs = (tile.position is not None, spec.w_noise > 0.0)
    if job.compiled:
        steps = None if spec.dac_bits is None else levels(spec.dac_bits)
        dtype = None if job.side in (None, x.dtype) or not any(needs) else job.side
        return compiled_passes.inputs(
            x, input_range, unit=unit, steps=steps, scale=scale, side=dtype, wanted=needs
        )
    x = converted(x, input_range, spec, unit)
    if not any(needs):
        return compiled_passes.Inputs(x, None, None, None)
    side = x.to(job.side or x.dtype)
    size = (side * scale).abs_()
    if not needs[0]:
        return compiled_passes.Inputs(x, side, None, size.mul_(size))
    return compiled_passes.Inputs(x, side, size, size * size if needs[1] else None)


def _converted(x: Tensor, input_range: Tensor | None, job: Job) -> Tensor:
    """Return inputs as the DAC converts them, in [-1, 1]."""
    if not job.compiled:
        return converted(x, input_range, job.spec, 1.0)
    steps = None if job.spec.dac_bits is None else levels(job.spec.dac_bits)
    return compiled_passes.inputs(x, input_range, unit=1.0, steps=steps).x


def _with_ir_drop_and_noise(analog: Currents, spec: CrossbarSpec) -> Tensor:
    """Return the currents less the IR drop, with both noises in one draw; in place.

    The IR drop is `physics.mvm.ir_loss` in the terms of `Currents`, as in `compiled_passes`.
    It is equal up to rounding, in fewer passes over the outputs.
    """
    y, variance = analog.y, analog.variance
    if analog.loss is not None and analog.b is not None:
        loss, b = analog.loss.to(y.dtype), analog.b.to(y.dtype)
        if analog.late:
            b.add_(analog.late)
        loss.mul_(torch.addcmul(b.new_tensor(0.3), b, b))
        y.sub_(loss, alpha=2.0 * spec.ir_drop)
        y.addcmul_(loss, b, value=-math.sqrt(20.0) * spec.ir_drop)
    if variance is not None:
        variance = variance.to(y.dtype)
        if not analog.positive:
            variance.clamp_min_(0.0)
        y.addcmul_(variance.sqrt_(), rng.noise_like(y), value=analog.sigma)
    elif analog.sigma > 0.0:
        y.add_(rng.noise_like(y), alpha=analog.sigma)
    return y


class CrossbarProduct(torch.autograd.Function):
    """The products of all tiles of a layer, summed digitally; gradients as on aihwkit.

    The backward pass is the transposed product with the weights of the forward pass, without DAC,
    IR drop or noise. Clipped inputs pass their full gradient, saturated outputs pass none. The
    gradient of an input range is relative to its size, with decay while few inputs are clipped. The
    weight gradient goes to the clean weights. Gradients of gradients are an error.
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
        """Return the products, and keep what the backward pass needs.

        Args:
            ctx: The context of autograd.
            x: Inputs in own units.
            trained: The matrix `[out, in]` that gets the weight gradient, or None.
            ranges: Input ranges, `[row tiles, column tiles]`, or None.
            factor: Digital scales, `[row tiles, out]`.
            job: The products.
        """
        needs_product, needs_factor = any(ctx.needs_input_grad[:3]), ctx.needs_input_grad[3]
        keep = needs_factor or (needs_product and job.bound is not None)
        product, steps = job.product, factor * output_step(job.spec)
        all_codes: list[Tensor | None] = []
        pieces = _pieces(x, product)
        total: Tensor | None = None
        prepared = []
        for block in job.blocks:
            input_range, scales = block.range_of(ranges), steps[block.row, block.columns]
            prepared.append(
                (block, input_range, scales if input_range is None else scales * input_range)
            )
        negative = integers.signed(x) if job.integers else None
        analog: Currents | lines.LineProducts
        for piece in pieces:
            for block, input_range, scales in prepared:
                part = product.inputs(x[piece], block.row, block.column)
                if block.effects is None:
                    analog = currents(part, input_range, block.tile, job, negative)
                else:
                    inputs = _converted(part, input_range, job)
                    analog = lines.products(inputs, block, job)
                if total is None and (len(pieces) > 1 or block.column is not None):
                    total = room(analog.y, len(x), product.grid.out_features)
                into = None if total is None else total[piece][:, block.columns]
                finish = outputs if isinstance(analog, Currents) else lines.outputs
                y, codes = finish(analog, job, scales, keep=keep, into=into, add=block.row > 0)  # type: ignore[arg-type]
                total = y if total is None else total
                all_codes.append(codes)
        assert total is not None
        if needs_product or needs_factor:
            ctx.save_for_backward(x, ranges, factor, *all_codes)
            ctx.job, ctx.pieces, ctx.trained = job, pieces, trained
        # as a tensor of its own: autograd forbids to write into a view that a Function returns
        return total.data

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        """Return the gradients of the arguments of `forward`.

        Args:
            ctx: The context of autograd.
            grad: Gradient of the outputs.

        Raises:
            CapabilityError: If gradients of these gradients are computed later.
        """
        if torch.is_grad_enabled():  # create_graph=True
            return _differentiated_once(ctx, grad)
        x, ranges, factor, *all_codes = ctx.saved_tensors
        job: Job = ctx.job
        gradients = Gradients(x, ranges, factor, job, ctx.needs_input_grad[:4])
        blocks = len(job.blocks)
        starts = range(0, len(all_codes), blocks)
        gradients.add(ctx.pieces, grad, [all_codes[start : start + blocks] for start in starts])
        return (*gradients.all(), None)


class _Once(torch.autograd.Function):
    """Gradients that stay tied to all that they depend on; their gradients are errors.

    To differentiate them is an error. This is not torch's `once_differentiable`, which forgets what
    they depend on: `autograd.grad` then finds the weights unused, or leaves the analog part out in
    silence.
    """

    @staticmethod
    def forward(ctx: Any, count: int, *values: Tensor | None) -> tuple[Tensor, ...]:
        """Return the gradients.

        Args:
            ctx: The context of autograd.
            count: Number of gradients.
            *values: `count` gradients, then the tensors that they depend on.
        """
        return tuple(value.clone() for value in values[:count] if value is not None)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        """Raise CapabilityError."""
        raise CapabilityError(
            "native engine: second-order gradients through an analog layer; allowed: first-order "
            "ones (create_graph=False), layers whose periphery changes nothing (preset ideal), or "
            "digital layers (exclude=[...])"
        )


def _differentiated_once(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Return `CrossbarProduct.backward`, with an error if it is differentiated again."""
    with torch.no_grad():
        gradients = CrossbarProduct.backward(ctx, grad)
    present = [value for value in gradients if value is not None]
    x, ranges, factor = ctx.saved_tensors[:3]
    once = iter(_Once.apply(len(present), *present, grad, x, ctx.trained, ranges, factor))  # type: ignore[no-untyped-call]
    return tuple(None if value is None else next(once) for value in gradients)


def _pieces(x: Tensor, product: Product) -> list[slice]:
    """Return the samples of each piece that is computed together."""
    samples = x.shape[0]
    size = max(_PIECE // max(1, product.outputs_per_sample(x)), _FEWEST[x.ndim == 2])
    if x.device.type != "cpu" or samples <= size:
        return [slice(0, samples)]
    size = -(-samples // -(-samples // size))  # pieces of nearly the same size
    return [slice(start, start + size) for start in range(0, samples, size)]
