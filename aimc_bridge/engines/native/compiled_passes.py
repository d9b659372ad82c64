"""A crossbar's work beside its products, as compiled passes that draw numbers.

One kernel of torch.compile draws, adds and converts while an output is in a register. On two
threads all of this takes half the time that the draws alone take torch, where every other step is
one more pass through memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from aimc_bridge.engines.native.draws import new_key, normal
from aimc_bridge.engines.native.kernels import constants, kernel, kind
from aimc_bridge.engines.native.memory_order import dense, of_outputs, ordered, rows_of, same_order

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
    rows = rows_of(x.detach())
    if rows is None:
        x, rows = dense(x.detach())
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
    rows = rows_of(x.detach())
    if rows is None:
        x, rows = dense(x.detach())
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
    y, rows = dense(y.detach())
    others = [None if values is None else ordered(values, y) for values in (loss, b, variance)]
    direct = into is not None and same_order(into, y)
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
    views = [None if values is None else rows_of(values) for values in (*others, out, codes)]
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
    new = new * of_outputs(scales, y)
    if out is None:
        out = y
    out.copy_(out + new if add else new)


# --- optional effects of the periphery ------------------------------------------------------------
