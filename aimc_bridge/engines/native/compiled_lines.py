"""Optional effects of a tile's lines at its outputs, as compiled passes that draw numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aimc_bridge.engines.native.compiled_passes import code_type
from aimc_bridge.engines.native.draws import new_key, normal
from aimc_bridge.engines.native.kernels import constants, kernel, kind
from aimc_bridge.engines.native.memory_order import dense, of_outputs, ordered, rows_of
from aimc_bridge.physics.mvm import LineEffects, at_adc, ir_factor, on_line


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
    y, rows = dense(passes[-1].y.detach())
    parts = tuple(
        tuple(None if v is None else rows_of(ordered(v.detach().expand_as(y), y)) for v in products)
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
    code_rows = None if codes is None else rows_of(codes)
    kinds: list[object] = [None if v is None else v.dtype for part in parts for v in part]
    kinds += [None if v is None else v.numel() == 1 for v in values]
    kinds += [key is None for key in keys]
    static = (digital, bound is not None)
    compiled = kernel(_finish_lines, *kind(rows), *kinds, codes is None, len(parts), *static)
    compiled(parts, values, fixed, scales.detach(), keys, rows_of(out), code_rows, *static)
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
    effects = LineEffects(*(None if v is None else of_outputs(v, y) for v in values))  # type: ignore[arg-type]
    numbers = LineNumbers(fixed[0], fixed[1], fixed[2], fixed[3])

    def noise(index: int) -> Tensor:
        """Return the noise of a key."""
        key = keys[index] if index < 2 else keys[index - 2 + len(passes)]
        assert key is not None
        return normal(key, y.numel()).view(y.shape).to(y.dtype)

    new = line_codes(products, effects, numbers, noise, digital=digital, rounded=rounded)
    if codes is not None:
        codes.copy_(new.to(codes.dtype))
    out.copy_(new * of_outputs(scales, y))
