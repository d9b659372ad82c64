"""A check of a user's law: what it returns for a cell must not depend on the other cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aimc_bridge.errors import UsageError
from aimc_bridge.physics.laws import Law, law_of
from aimc_bridge.spec import DeviceSpec

_CELLS = 4096  # that are computed a second time
_CLOSE = 1e-5  # vectorised and single operations may differ in the last bits

_CHECKED: set[tuple[str, Law[Any], DeviceSpec]] = set()
"""What was checked: function, law and device."""


def check_elementwise(
    function: str, call: Callable[..., Tensor], pcm: DeviceSpec, *cells: Tensor
) -> None:
    """Check that a function of a law gives some cells alone what it gives them among others.

    It is done once for each device: the first time that it is programmed, or read.

    Args:
        function: The name of the function, for the error.
        call: The function, of tensors of cells.
        pcm: The device.
        *cells: Its arguments, each of shape (..., out, in).

    Raises:
        UsageError: If the values differ, as those of a law that normalises by the largest value.
    """
    key = (function, law_of(pcm), pcm)
    if key in _CHECKED:
        return
    result = call(*(values.clone() for values in cells))
    size = cells[0].abs().flatten(-2)
    largest_last = size.reshape(-1, size.shape[-1]).amax(0).argsort()
    few = largest_last[: max(1, min(len(largest_last) // 2, _CELLS))]  # the largest is not there

    def chosen(values: Tensor) -> Tensor:
        return values.flatten(-2)[..., few].unsqueeze(-2)

    alone, among = call(*map(chosen, cells)), chosen(result)
    limit = _CLOSE * among.abs().amax().clamp_min(torch.finfo(among.dtype).tiny)
    if alone.shape != among.shape or bool(((alone - among).abs() > limit).any()):
        raise UsageError(
            f"{function} of the law {pcm.law!r} returned other values for some cells alone than "
            "for the same cells among others; allowed: values that depend on the cell, its noise "
            "and the device only. What depends on a whole tile is an object with program and read: "
            "preset.with_device(object, ...)"
        )
    _CHECKED.add(key)
