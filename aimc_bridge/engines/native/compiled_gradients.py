"""A crossbar's backward pass beside its products, as compiled passes."""

from __future__ import annotations

import torch
from torch import Tensor

from aimc_bridge.engines.native.kernels import constants, kernel, kind
from aimc_bridge.engines.native.memory_order import dense, of_outputs, ordered, rows_of


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
    code_rows = rows_of(codes)
    assert code_rows is not None
    rows = rows_of(ordered(grad.detach(), codes)) if wants else None
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
        grad = ordered(grad, codes)
    grad, rows = dense(grad)
    code_rows = None if codes is None or bound is None else rows_of(codes)
    g = torch.empty_like(grad)
    numbers = constants((0.0 if bound is None else float(bound),), grad)
    compiled = kernel(_gradient, *kind(rows), None if code_rows is None else code_rows.dtype)
    compiled(rows, code_rows, factor.detach(), numbers, rows_of(g))
    return g


def _gradient(
    grad: Tensor, codes: Tensor | None, factor: Tensor, numbers: Tensor, g: Tensor
) -> None:
    """Scale a gradient and stop it at saturated outputs; the pass of `gradient`."""
    new = grad * of_outputs(factor, grad)
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
    into_rows, x_rows = rows_of(into), rows_of(x.detach())
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
    x, rows = dense(x.detach())
    other = rows_of(ordered(grad_x.detach(), x))
    results: tuple[Tensor, Tensor] = kernel(_clipped, *kind(rows))(rows, other)
    return results


def _clipped(x: Tensor, grad_x: Tensor) -> tuple[Tensor, Tensor]:
    """Reduce clipped inputs and their gradients; this is the pass of `clipped`."""
    others = 0 if x.ndim == 2 else (0, 2)
    sides = torch.trunc(x)
    return torch.clamp(sides * grad_x, max=0.0).sum(others), torch.abs(sides).sum(others)
