"""Views of tensors in the order of their memory, as compiled passes take them."""

from __future__ import annotations

import torch
from torch import Tensor


def rows_of(values: Tensor) -> Tensor | None:
    """Return a view in memory order of a tensor `[samples, outputs, *space]`.

    The view is `[n, outputs]` or `[n, outputs, m]`; between the n there may be gaps. It is None if
    the memory has another order.

    Args:
        values: The tensor.
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


def dense(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return a tensor without gaps, and its `rows_of`; a copy if `values` has gaps.

    Args:
        values: The tensor, `[samples, outputs, *space]`.
    """
    rows = rows_of(values)
    if rows is None or not rows.is_contiguous():
        values = values.movedim(1, -1).contiguous().movedim(-1, 1)
        rows = values.movedim(1, -1).view(-1, values.shape[1])
    return values, rows


def of_outputs(values: Tensor, rows: Tensor) -> Tensor:
    """Return values per output in a shape that broadcasts to rows.

    Args:
        values: The values, `[outputs]`.
        rows: The rows, from `rows_of`.
    """
    return values if rows.ndim == 2 else values.unsqueeze(1)


def same_order(values: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of the same shape have the same memory order.

    Args:
        values: A tensor.
        other: The other tensor.
    """
    return all(
        size == 1 or stride == other_stride
        for size, stride, other_stride in zip(
            values.shape, values.stride(), other.stride(), strict=True
        )
    )


def ordered(values: Tensor, other: Tensor) -> Tensor:
    """Return values in the memory order of another tensor, which has no gaps.

    Args:
        values: The values.
        other: The other tensor, of the same shape.
    """
    if same_order(values, other) and values.stride() == other.stride():
        return values
    return torch.empty_like(other, dtype=values.dtype).copy_(values)
