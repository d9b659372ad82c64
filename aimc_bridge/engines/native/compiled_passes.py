"""A crossbar's work beside its products, as compiled passes that draw numbers.

One kernel of torch.compile draws, adds and converts while an output is in a register. On two
threads all of this takes half the time that the draws alone take torch, where every other step is
one more pass through memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aimc_bridge.engines.native.draws import new_key, normal
from aimc_bridge.engines.native.kernels import constants, kernel, kind
from aimc_bridge.physics.mvm import LineEffects, at_adc, ir_factor, on_line

FEWEST = 1 << 15
"""From this number of outputs of a layer on, a CPU takes compiled passes.

torch.compile spends some 0.1 ms on every call, in which torch does a few passes over fewer numbers.
"""


class Inputs(NamedTuple):
    """Inputs of the products; None in place of a tensor that is not needed.

    Attributes:
        x: Inputs as the DAC returns them.
        side: The same in the precision of the side products, which give IR drop and read noise.
        size: |x| times a scale, for the IR drop.
        square: The square of `size`, for the read noise.
    """

    x: Tensor
    side: Tensor | None
    size: Tensor | None
    square: Tensor | None


def inputs(
    x: Tensor,
    input_range: Tensor | None,
    *,
    unit: float,
    steps: int | None,
    scale: float = 1.0,
    side: torch.dtype | None = None,
    wanted: tuple[bool, bool] = (False, False),
) -> Inputs:
    """Return `forward.converted`, and the tensors that side products take of it.

    Args:
        x: Inputs in own units, `[samples, inputs, *space]`.
        input_range: The range of the tile, or None.
        unit: The size of an input at the bound.
        steps: Steps of the DAC; None if there is none.
        scale: Factor on `size`.
        side: Precision of the side products; None is the precision of `x`.
        wanted: Whether (size, square) are needed.
    """
    rows = _rows(x.detach())
    if rows is None:
        x, rows = _dense(x.detach())
    if input_range is not None:
        input_range = input_range.detach()
    most = unit if steps is None else float(steps)
    numbers = constants((unit if input_range is None else most, unit / most, scale), x)
    compiled = kernel(_inputs, *kind(rows), input_range is None, steps is None, side, wanted)
    results = compiled(rows, input_range, numbers, steps is not None, side, wanted)
    if x.ndim == 2:  # vectors need no view: one more view costs time in a recurrent step
        return Inputs(*results)
    last = rows.ndim == 2
    shape = (x.shape[0], *x.shape[2:], x.shape[1]) if last else tuple(x.shape)
    views = [None if values is None else values.view(shape) for values in results]
    new, *rest = (
        values.movedim(-1, 1) if last and values is not None else values for values in views
    )
    assert new is not None
    return Inputs(new, *rest)


def _inputs(
    x: Tensor,
    input_range: Tensor | None,
    numbers: Tensor,
    rounded: bool,
    dtype: torch.dtype | None,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, ...]:
    """Convert inputs; this is the pass of `inputs`."""
    if input_range is None:
        x = x * numbers[0]
    else:
        x = torch.clamp(x * (numbers[0] / input_range), -numbers[0], numbers[0])
        if rounded:
            x = torch.round(x) * numbers[1]
    side = None if dtype is None else x.to(dtype)
    # rounded to the precision of the side products only once, at the end
    size = torch.abs(x * numbers[2]) if any(wanted) else None
    square = None if size is None or not wanted[1] else size * size
    if dtype is not None:
        size, square = (None if one is None else one.to(dtype) for one in (size, square))
    return x, side, size if wanted[0] else None, square


def codes(
    x: Tensor, input_range: Tensor, steps: int, negative: bool, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return the codes of `integers.codes`.

    Args:
        x: Inputs in own units, `[samples, inputs, *space]`.
        input_range: The range of the tile.
        steps: Steps of the DAC.
        negative: Whether inputs may be negative.
        wanted: Whether (the sizes, the squares) are needed.

    Returns:
        The inputs, their sizes, and the two bytes of their squares, uint8, in the memory order of
        `x`; None in place of one that is not needed. Inputs that are not negative are their sizes.
    """
    rows = _rows(x.detach())
    if rows is None:
        x, rows = _dense(x.detach())
    numbers = constants((float(steps),), x)
    compiled = kernel(_codes, *kind(rows), negative, wanted)
    results = compiled(rows, input_range.detach(), numbers, negative, wanted)
    if x.ndim == 2:
        return results  # type: ignore[no-any-return]
    last = rows.ndim == 2
    shape = (x.shape[0], *x.shape[2:], x.shape[1]) if last else tuple(x.shape)
    views = (None if values is None else values.view(shape) for values in results)
    new, size, high, low = (
        values.movedim(-1, 1) if last and values is not None else values for values in views
    )
    assert new is not None
    return new, size, high, low


def _codes(
    x: Tensor, input_range: Tensor, numbers: Tensor, negative: bool, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, ...]:
    """Convert inputs to integers; this is the pass of `codes`."""
    x = torch.round(torch.clamp(x * (numbers[0] / input_range), -numbers[0], numbers[0]))
    whole = x.to(torch.int32)
    new = (whole + 128 if negative else whole).to(torch.uint8)
    size = torch.abs(whole).to(torch.uint8) if negative and wanted[0] else None
    square = whole * whole
    high = (square >> 8).to(torch.uint8) if wanted[1] else None
    low = (square & 255).to(torch.uint8) if wanted[1] else None
    return new, size, high, low


def code_type(like: Tensor, bound: int | None) -> torch.dtype:
    """Return the smallest dtype for the codes of an ADC, for the backward pass.

    Args:
        like: The outputs of a product.
        bound: The bound of the ADC in its steps; None if there is no ADC.
    """
    return torch.int8 if bound is not None and bound <= 127 else like.dtype


def finish(
    y: Tensor,
    loss: Tensor | None,
    b: Tensor | None,
    variance: Tensor | None,
    scales: Tensor,
    *,
    late: float = 0.0,
    floor: float = 0.0,
    drop: float,
    sigma: float,
    bound: int | None,
    keep: bool = False,
    into: Tensor | None = None,
    add: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Apply IR drop, noise, ADC and digital scales to the outputs of a product.

    Args:
        y: Outputs of the product; written over if `into` is None and that is possible.
        loss: As in `forward.Currents`.
        b: As in `forward.Currents`.
        variance: As in `forward.Currents`.
        scales: As in `forward.outputs`.
        late: As in `forward.Currents`.
        floor: As in `forward.Currents`.
        drop: `ir_drop` of the spec.
        sigma: Sigma of the noise, times the root of variance + floor if there is a variance; 0 is
            no noise.
        bound: Bound of the ADC in its steps; None if there is no ADC.
        keep: As in `forward.outputs`.
        into: As in `forward.outputs`.
        add: As in `forward.outputs`.

    Returns:
        The outputs, and the codes of the ADC or None, as `forward.outputs`.
    """
    y, rows = _dense(y.detach())
    others = [None if values is None else _ordered(values, y) for values in (loss, b, variance)]
    direct = into is not None and _same_order(into, y)
    out = into if direct else None
    memory = y.untyped_storage().data_ptr()
    if out is None and any(
        values is not None and values.untyped_storage().data_ptr() == memory for values in others
    ):
        out = torch.empty_like(y)
    codes = torch.empty_like(y, dtype=code_type(y, bound)) if keep else None
    key = new_key(y.device) if sigma > 0.0 else None
    most = 0.0 if bound is None else float(bound)
    numbers = constants((late, 2.0 * drop, 20.0**0.5 * drop, sigma, most, floor), y)
    views = [None if values is None else _rows(values) for values in (*others, out, codes)]
    kinds = [None if values is None else values.dtype for values in views]
    add_here = add and direct
    compiled = kernel(_finish, *kind(rows), *kinds, key is None, bound is None, add_here)
    compiled(rows, *views, scales.detach(), numbers, key, bound is not None, add_here)
    result = y if out is None else out
    if into is None or direct:
        return result, codes
    return (into.add_(result) if add else into.copy_(result)), codes


def _finish(
    y: Tensor,
    loss: Tensor | None,
    b: Tensor | None,
    variance: Tensor | None,
    out: Tensor | None,
    codes: Tensor | None,
    scales: Tensor,
    numbers: Tensor,
    key: Tensor | None,
    rounded: bool,
    add: bool,
) -> None:
    """Write the outputs and the codes of the ADC; this is the pass of `finish`."""
    new = y
    if loss is not None and b is not None:
        b = b.to(y.dtype) + numbers[0]
        lost = loss.to(y.dtype) * (b * b + 0.3)
        new = new - numbers[1] * lost - numbers[2] * lost * b
    if key is not None:
        noise = normal(key, y.numel()).view(y.shape).to(y.dtype)
        if variance is not None:
            noise = noise * torch.sqrt(torch.clamp(variance.to(y.dtype) + numbers[5], min=0.0))
        new = new + numbers[3] * noise
    if rounded:
        new = torch.clamp(torch.round(new), -numbers[4], numbers[4])
    if codes is not None:
        codes.copy_(new.to(codes.dtype))
    new = new * _of_outputs(scales, y)
    if out is None:
        out = y
    out.copy_(out + new if add else new)


# --- optional effects of the periphery ------------------------------------------------------------


class PassProducts(NamedTuple):
    """The products of one pass of inputs, in units of the outputs; None if not needed.

    Attributes:
        y: The product.
        summed: sum |w||x| in units of the wires, the a of `physics.mvm.ir_loss`.
        weighted: Position-weighted outputs, for the IR drop.
        variance: sum |w| x^2, for the read noise.
        total: The sum of the inputs.
    """

    y: Tensor
    summed: Tensor | None
    weighted: Tensor | None
    variance: Tensor | None
    total: Tensor | None


class LineNumbers(NamedTuple):
    """Numbers of `line_codes`.

    Attributes:
        ir_drop: `ir_drop` of the spec.
        w_noise: `w_noise` of the spec.
        step: The unit of codes, `tiles.output_step`.
        bound: Bound of the ADC in its steps, if there is an ADC.
    """

    ir_drop: float | Tensor
    w_noise: float | Tensor
    step: float | Tensor
    bound: float | Tensor


def line_codes(
    passes: Sequence[PassProducts],
    effects: LineEffects,
    numbers: LineNumbers,
    noise: Callable[[int], Tensor],
    *,
    digital: bool,
    rounded: bool,
) -> Tensor:
    """Return the outputs of tiles with optional effects of the periphery, in steps of the ADC.

    Args:
        passes: The products of each pass of inputs.
        effects: The effects, broadcastable to the products.
        numbers: Numbers of the spec.
        noise: Returns standard normal noise in the shape of the products, other noise for another
            index: below 2 read noise, from 2 on output noise.
        digital: Whether each pass has an ADC conversion of its own.
        rounded: Whether there is an ADC.
    """
    currents = []
    for index, (y, summed, weighted, variance, total) in enumerate(passes):
        loss, read = None, None
        if summed is not None and weighted is not None:
            loss = ir_factor(summed.to(y.dtype)) * weighted.to(y.dtype) * numbers.ir_drop
        if variance is not None:
            sd = torch.sqrt(torch.clamp(variance.to(y.dtype), min=0.0))
            read = numbers.w_noise * sd * noise(index)
        currents.append(on_line(y, loss, total, read, effects))
    if not digital:
        currents = [currents[0] + currents[1] if len(currents) == 2 else currents[0]]
    codes = []
    for index, y in enumerate(currents):
        eps = None if effects.out_noise is None else noise(2 + index)
        code = at_adc(y, eps, effects) / numbers.step
        if rounded:
            code = torch.clamp(torch.round(code), -numbers.bound, numbers.bound)  # type: ignore[arg-type]
        codes.append(code)
    return codes[0] + codes[1] if len(codes) == 2 else codes[0]


def finish_lines(
    passes: Sequence[PassProducts],
    effects: LineEffects,
    numbers: LineNumbers,
    scales: Tensor,
    *,
    digital: bool,
    bound: int | None,
    keep: bool,
    into: Tensor | None,
    add: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return `line_codes` times the digital scales, in one compiled pass.

    Args:
        passes: As in `line_codes`.
        effects: The effects; what varies has the shape `[outputs]`.
        numbers: As in `line_codes`.
        scales: As in `forward.outputs`.
        digital: As in `line_codes`.
        bound: Bound of the ADC in its steps; None if there is no ADC.
        keep: As in `forward.outputs`.
        into: As in `forward.outputs`.
        add: As in `forward.outputs`.

    Returns:
        The outputs, and the codes of the ADC or None, as `forward.outputs`.
    """
    y, rows = _dense(passes[-1].y.detach())
    parts = tuple(
        tuple(None if v is None else _rows(_ordered(v.detach().expand_as(y), y)) for v in products)
        for products in passes
    )
    drawn = [*(p.variance is not None for p in passes)]
    drawn += [effects.out_noise is not None] * (2 if digital else 1)
    keys = tuple(new_key(y.device) if on else None for on in drawn)
    fixed = constants(tuple(map(float, numbers)), y)
    values = tuple(
        v if v is None else v.detach() if isinstance(v, Tensor) else constants((float(v),), y)
        for v in effects
    )
    out, codes = torch.empty_like(y), None
    if keep:
        codes = torch.empty_like(y, dtype=code_type(y, None if digital else bound))
    code_rows = None if codes is None else _rows(codes)
    kinds: list[object] = [None if v is None else v.dtype for part in parts for v in part]
    kinds += [None if v is None else v.numel() == 1 for v in values]
    kinds += [key is None for key in keys]
    static = (digital, bound is not None)
    compiled = kernel(_finish_lines, *kind(rows), *kinds, codes is None, len(parts), *static)
    compiled(parts, values, fixed, scales.detach(), keys, _rows(out), code_rows, *static)
    if into is None:
        return out, codes
    return (into.add_(out) if add else into.copy_(out)), codes


def _finish_lines(
    passes: tuple[tuple[Tensor | None, ...], ...],
    values: tuple[Tensor | None, ...],
    fixed: Tensor,
    scales: Tensor,
    keys: tuple[Tensor | None, ...],
    out: Tensor,
    codes: Tensor | None,
    digital: bool,
    rounded: bool,
) -> None:
    """Write the outputs and the codes of the ADC; this is the pass of `finish_lines`."""
    products = [PassProducts(*part) for part in passes]  # type: ignore[arg-type]
    y = products[-1].y
    effects = LineEffects(*(None if v is None else _of_outputs(v, y) for v in values))  # type: ignore[arg-type]
    numbers = LineNumbers(fixed[0], fixed[1], fixed[2], fixed[3])

    def noise(index: int) -> Tensor:
        """Return the noise of a key."""
        key = keys[index] if index < 2 else keys[index - 2 + len(passes)]
        assert key is not None
        return normal(key, y.numel()).view(y.shape).to(y.dtype)

    new = line_codes(products, effects, numbers, noise, digital=digital, rounded=rounded)
    if codes is not None:
        codes.copy_(new.to(codes.dtype))
    out.copy_(new * _of_outputs(scales, y))


# --- the backward pass ----------------------------------------------------------------------------


def sums(
    grad: Tensor, codes: Tensor, *, wants: bool, look: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return sums of a backward pass for each output.

    Args:
        grad: Gradient of the outputs.
        codes: The codes of the ADC.
        wants: Whether the gradient of the scales is needed.
        look: Whether the largest |code| is needed.

    Returns:
        The gradient of each output's scale, in steps of the ADC, and the largest |code| of each
        output; None in place of one that is not needed.
    """
    if not wants and not look:
        return None, None
    code_rows = _rows(codes)
    assert code_rows is not None
    rows = _rows(_ordered(grad.detach(), codes)) if wants else None
    compiled = kernel(_sums, *kind(code_rows), None if rows is None else rows.dtype, look)
    results: tuple[Tensor | None, Tensor | None] = compiled(rows, code_rows, look)
    return results


def _sums(grad: Tensor | None, codes: Tensor, look: bool) -> tuple[Tensor | None, Tensor | None]:
    """Reduce gradients and codes; this is the pass of `sums`."""
    others = 0 if codes.ndim == 2 else (0, 2)
    summed = None if grad is None else (grad * codes.to(grad.dtype)).sum(others)
    return summed, torch.abs(codes.to(torch.float32)).amax(others) if look else None


def gradient(grad: Tensor, codes: Tensor | None, factor: Tensor, *, bound: int | None) -> Tensor:
    """Return the gradient of outputs, passed back through digital scales and ADC.

    Args:
        grad: Gradient of the outputs.
        codes: The codes of the ADC; None if nothing depends on them.
        factor: The digital scales, `[outputs]`.
        bound: Bound of the ADC in its steps; None if there is no ADC.
    """
    grad = grad.detach()
    if codes is not None:
        grad = _ordered(grad, codes)
    grad, rows = _dense(grad)
    code_rows = None if codes is None or bound is None else _rows(codes)
    g = torch.empty_like(grad)
    numbers = constants((0.0 if bound is None else float(bound),), grad)
    compiled = kernel(_gradient, *kind(rows), None if code_rows is None else code_rows.dtype)
    compiled(rows, code_rows, factor.detach(), numbers, _rows(g))
    return g


def _gradient(
    grad: Tensor, codes: Tensor | None, factor: Tensor, numbers: Tensor, g: Tensor
) -> None:
    """Scale a gradient and stop it at saturated outputs; the pass of `gradient`."""
    new = grad * _of_outputs(factor, grad)
    if codes is not None:
        new = torch.where(torch.abs(codes.to(grad.dtype)) >= numbers[0], 0.0, new)
    g.copy_(new)


def in_range(x: Tensor, one: Tensor, into: Tensor) -> None:
    """Write inputs in units of their range, clamped to [-1, 1].

    Args:
        x: Inputs in own units.
        one: The input range.
        into: A tensor to write to, in the shape of the inputs.
    """
    into_rows, x_rows = _rows(into), _rows(x.detach())
    if x_rows is None or into_rows is None or x_rows.ndim != into_rows.ndim:
        torch.div(x.detach(), one.detach(), out=into).clamp_(-1.0, 1.0)
        return
    compiled = kernel(_in_range, *kind(x_rows), into_rows.is_contiguous())
    compiled(x_rows, one.detach(), into_rows)


def _in_range(x: Tensor, one: Tensor, into: Tensor) -> None:
    """Divide and clamp inputs; this is the pass of `in_range`."""
    into.copy_(torch.clamp(x / one, -1.0, 1.0))


def clipped(x: Tensor, grad_x: Tensor) -> tuple[Tensor, Tensor]:
    """Return `backward.clipped_gradient`; unlike there, `x` is not overwritten.

    Args:
        x: Inputs in units of the range, clamped to [-1, 1], contiguous in some order.
        grad_x: Gradient of the inputs.
    """
    x, rows = _dense(x.detach())
    other = _rows(_ordered(grad_x.detach(), x))
    results: tuple[Tensor, Tensor] = kernel(_clipped, *kind(rows))(rows, other)
    return results


def _clipped(x: Tensor, grad_x: Tensor) -> tuple[Tensor, Tensor]:
    """Reduce clipped inputs and their gradients; this is the pass of `clipped`."""
    others = 0 if x.ndim == 2 else (0, 2)
    sides = torch.trunc(x)
    return torch.clamp(sides * grad_x, max=0.0).sum(others), torch.abs(sides).sum(others)


# --- views of tensors as passes take them ---------------------------------------------------------


def _rows(values: Tensor) -> Tensor | None:
    """Return a view in memory order of a tensor `[samples, outputs, *space]`.

    The view is `[n, outputs]` or `[n, outputs, m]`; between the n there may be gaps. It is None if
    the memory has another order.
    """
    if values.ndim == 2 and values.stride(1) == 1:
        return values
    last = values.movedim(1, -1)
    if last.shape[-1] == 1 or last.stride(-1) == 1:
        try:
            return last.view(-1, last.shape[-1])
        except RuntimeError:  # gaps elsewhere
            return None
    step = 1
    for size, stride in zip(values.shape[:0:-1], values.stride()[:0:-1], strict=True):
        if size > 1 and stride != step:
            return None
        step *= size
    return values.flatten(2)


def _dense(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return a tensor without gaps, and its `_rows`; a copy if `values` has gaps."""
    rows = _rows(values)
    if rows is None or not rows.is_contiguous():
        values = values.movedim(1, -1).contiguous().movedim(-1, 1)
        rows = values.movedim(1, -1).view(-1, values.shape[1])
    return values, rows


def _of_outputs(values: Tensor, rows: Tensor) -> Tensor:
    """Return values per output in a shape that broadcasts to rows."""
    return values if rows.ndim == 2 else values.unsqueeze(1)


def _same_order(values: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of the same shape have the same memory order."""
    return all(
        size == 1 or stride == other_stride
        for size, stride, other_stride in zip(
            values.shape, values.stride(), other.stride(), strict=True
        )
    )


def _ordered(values: Tensor, other: Tensor) -> Tensor:
    """Return values in the memory order of another tensor, which has no gaps."""
    if _same_order(values, other) and values.stride() == other.stride():
        return values
    return torch.empty_like(other, dtype=values.dtype).copy_(values)
