"""What a crossbar does beside its products, as compiled passes that draw their own numbers.

Here one kernel of torch.compile draws, adds and converts while an output is in a register: on two
threads all of it takes half the time that the draws alone take torch, where every other step is a
pass through memory of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from aimc_bridge.engines.native.draws import new_key, normal
from aimc_bridge.engines.native.kernels import constants, kernel, kind


class Inputs(NamedTuple):
    """Inputs of the products: as the DAC gives them, their size for the side products, its square;
    None where not wanted."""

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
    """`forward.converted` and what side products take of it.

    Args:    steps  of the DAC; None without one.    scale  of `size`.    side  their precision,
             None that of `x`.    wanted  (size, square).
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
    if x.ndim == 2:  # vectors, as they came: each view more is felt in a recurrent step
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
    if input_range is None:
        x = x * numbers[0]
    else:
        x = torch.clamp(x * (numbers[0] / input_range), -numbers[0], numbers[0])
        if rounded:
            x = torch.round(x) * numbers[1]
    side = None if dtype is None else x.to(dtype)
    # rounded to the side products' precision once, at the end
    size = torch.abs(x * numbers[2]) if any(wanted) else None
    square = None if size is None or not wanted[1] else size * size
    if dtype is not None:
        size, square = (None if one is None else one.to(dtype) for one in (size, square))
    return x, side, size if wanted[0] else None, square


def code_type(like: Tensor, bound: int | None) -> torch.dtype:
    """The smallest that holds what an ADC gives, for the backward pass."""
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
    """IR drop, noise, ADC and digital scales of a product's outputs.

    Args:    loss, b, late, floor  as in `forward.Currents`.    drop  `ir_drop` of the spec.
             sigma  of the noise, times the root of variance + floor where that is given; 0 is none.
             bound  of the ADC; None without one.    scales, keep, into, add  as in
             `forward.outputs`; without `into` y is written over where that is possible.
    Returns: (outputs, what the ADC gave or None), as `forward.outputs`.
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


def sums(
    grad: Tensor, codes: Tensor, *, wants: bool, look: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Of each output: the gradient of its scale in steps of the ADC, and the largest |code|, where
    these are asked for."""
    if not wants and not look:
        return None, None
    code_rows = _rows(codes)
    assert code_rows is not None
    rows = _rows(_ordered(grad.detach(), codes)) if wants else None
    compiled = kernel(_sums, *kind(code_rows), None if rows is None else rows.dtype, look)
    results: tuple[Tensor | None, Tensor | None] = compiled(rows, code_rows, look)
    return results


def _sums(grad: Tensor | None, codes: Tensor, look: bool) -> tuple[Tensor | None, Tensor | None]:
    others = 0 if codes.ndim == 2 else (0, 2)
    summed = None if grad is None else (grad * codes.to(grad.dtype)).sum(others)
    return summed, torch.abs(codes.to(torch.float32)).amax(others) if look else None


def gradient(grad: Tensor, codes: Tensor | None, factor: Tensor, *, bound: int | None) -> Tensor:
    """The gradient of outputs through digital scales and ADC.

    Args:    codes  what the ADC gave; None where nothing depends on it.    factor  `[outputs]`.
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
    new = grad * _of_outputs(factor, grad)
    if codes is not None:
        new = torch.where(torch.abs(codes.to(grad.dtype)) >= numbers[0], 0.0, new)
    g.copy_(new)


def in_range(x: Tensor, one: Tensor, into: Tensor) -> None:
    """Inputs in units of their range, clamped to [-1, 1]; written to `into`, of their shape."""
    into_rows, x_rows = _rows(into), _rows(x.detach())
    if x_rows is None or into_rows is None or x_rows.ndim != into_rows.ndim:
        torch.div(x.detach(), one.detach(), out=into).clamp_(-1.0, 1.0)
        return
    compiled = kernel(_in_range, *kind(x_rows), into_rows.is_contiguous())
    compiled(x_rows, one.detach(), into_rows)


def _in_range(x: Tensor, one: Tensor, into: Tensor) -> None:
    into.copy_(torch.clamp(x / one, -1.0, 1.0))


def clipped(x: Tensor, grad_x: Tensor) -> tuple[Tensor, Tensor]:
    """`backward.clipped_gradient`; `x`, without gaps, is left as it is."""
    x, rows = _dense(x.detach())
    other = _rows(_ordered(grad_x.detach(), x))
    results: tuple[Tensor, Tensor] = kernel(_clipped, *kind(rows))(rows, other)
    return results


def _clipped(x: Tensor, grad_x: Tensor) -> tuple[Tensor, Tensor]:
    others = 0 if x.ndim == 2 else (0, 2)
    sides = torch.trunc(x)
    return torch.clamp(sides * grad_x, max=0.0).sum(others), torch.abs(sides).sum(others)


# --- views of tensors as passes take them ---------------------------------------------------------


def _rows(values: Tensor) -> Tensor | None:
    """A view of `[samples, outputs, *space]` in the order of its memory, `[n, outputs]` or
    `[n, outputs, m]`; between the n there may be gaps. None where memory has another order."""
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
    """(a tensor without gaps, its `_rows`); a copy where `values` has gaps."""
    rows = _rows(values)
    if rows is None or not rows.is_contiguous():
        values = values.movedim(1, -1).contiguous().movedim(-1, 1)
        rows = values.movedim(1, -1).view(-1, values.shape[1])
    return values, rows


def _of_outputs(values: Tensor, rows: Tensor) -> Tensor:
    return values if rows.ndim == 2 else values.unsqueeze(1)


def _same_order(values: Tensor, other: Tensor) -> bool:
    return all(
        size == 1 or stride == other_stride
        for size, stride, other_stride in zip(
            values.shape, values.stride(), other.stride(), strict=True
        )
    )


def _ordered(values: Tensor, other: Tensor) -> Tensor:
    """With dimensions in the order that `other`, without gaps, has in memory."""
    if _same_order(values, other) and values.stride() == other.stride():
        return values
    return torch.empty_like(other, dtype=values.dtype).copy_(values)
