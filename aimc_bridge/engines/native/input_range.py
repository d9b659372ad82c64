"""The input ranges of a crossbar's tiles: what a product must know of them, and their start."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LOADED = 2**31
"""Batches noted for a range that was given: more than any start from data asks for."""


class State(NamedTuple):
    """What is known of how the ranges of a crossbar were set."""

    ready: bool  # every range was set, learned or loaded
    starting: bool  # some are still taken from data in training


class Known:
    """What a product must know of the ranges, without a look at the device each time.

    An answer is kept as long as the tensor it is of, and the version of that tensor.
    """

    def __init__(self) -> None:
        self._state: tuple[tuple[object, ...], State] | None = None
        self._shared: tuple[tuple[object, ...], bool] | None = None

    def state(self, batches: Tensor, start: int) -> State:
        """Of `batches` `[row tiles, column tiles]`, from how many each range was set."""
        key = (id(batches), batches.data_ptr(), batches._version, start)
        if self._state is None or self._state[0] != key:
            ready, starting = bool((batches != 0).all()), bool((batches < start).any())
            self._state = (key, State(ready, starting))
        return self._state[1]

    def shared(self, ranges: Tensor | None) -> bool:
        """Whether the column tiles of each row have one range: then one product serves them all."""
        if ranges is None or ranges.shape[1] == 1:
            return True
        if ranges.requires_grad and torch.is_grad_enabled():
            return False
        key = (id(ranges), ranges.data_ptr(), ranges._version)
        if self._shared is None or self._shared[0] != key:
            self._shared = (key, bool((ranges == ranges[:, :1]).all()))
        return self._shared[1]


@torch.no_grad()
def start(
    ranges: Tensor,
    batches: Tensor,
    inputs: Callable[[int, int], Tensor],
    until: int,
    deviations: float,
) -> None:
    """Running mean of standard deviations, tile by tile; batches of zeros do not count.

    Args:  ranges, batches  `[row tiles, column tiles]`, changed in place.
           inputs           the inputs of a tile, by (row tile, column tile).
           until            batches that a range is taken from.
           deviations       standard deviations that a range spans.
    """
    for row in range(ranges.shape[0]):
        for column in range(ranges.shape[1]):
            seen = int(batches[row, column])
            if seen >= until:
                continue
            spread = float(inputs(row, column).std(correction=0)) * deviations
            if spread > 0.0:
                count = max(seen, 0)
                mean = (ranges[row, column].abs() * count + spread) / (count + 1)
                ranges[row, column] = mean
                batches[row, column] = count + 1
            else:
                batches[row, column] = seen or -1
