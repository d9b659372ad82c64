"""The input ranges of a crossbar's tiles: their start, their state, and observers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aimc_bridge.engines.base import Observer
from aimc_bridge.engines.native.product import Product
from aimc_bridge.layers.border import SMALLEST_RANGE
from aimc_bridge.spec import TrainingSpec

LOADED = 2**31
"""Number of batches noted for a range that a user set.

It is more batches than any start from data asks for.
"""


class State(NamedTuple):
    """The state of a crossbar's ranges.

    Attributes:
        ready: Whether every range was set, learned or loaded.
        starting: Whether training still takes some ranges from data.
    """

    ready: bool
    starting: bool


class InputRanges:
    """The part of a crossbar that starts input ranges and shows inputs to observers.

    The ranges themselves are tensors of the crossbar, which passes them in: they belong to its
    state dict, and follow its moves between devices and its copies. What this object remembers of
    them does not.

    Attributes:
        start_batches: Number of training batches that a range is first taken from.
        start_sd: Number of standard deviations that such a range spans.
        decay: Rate at which a learned range shrinks, and the share of its inputs that must be
            unclipped for that.
        observer: While set, products are exact and it sees the inputs of every tile.
    """

    def __init__(self) -> None:
        """Start with ranges that are set by a user, not learned."""
        self.start_batches, self.start_sd = 0, 3.0
        self.decay = (0.0, 1.0)
        self.observer: Observer | None = None
        self.forget()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies and pickles.

        Remembered answers and the observer are not in it.
        """
        return {**self.__dict__, "_state": None, "_shared": None, "observer": None}

    def forget(self) -> None:
        """Forget the remembered answers, so that the tensors are looked at again."""
        self._state: tuple[object, State] | None = None
        self._shared: tuple[object, bool] | None = None

    def prepare(self, recipe: TrainingSpec) -> None:
        """Apply a recipe's settings of how ranges are started and learned.

        Args:
            recipe: The recipe of the training that follows.
        """
        self.start_batches = recipe.input_range_init_batches
        self.start_sd = recipe.input_range_init_sd
        self.decay = (recipe.input_range_decay, recipe.input_range_min_unclipped)

    def state(self, batches: Tensor) -> State:
        """Return how the ranges were set.

        Args:
            batches: Number of batches that each range was set from, `[row tiles, column tiles]`.
        """
        key, last = (_key(batches), self.start_batches), self._state
        if last is None or last[0] != key:
            ready = bool((batches != 0).all())
            last = (key, State(ready, bool((batches < self.start_batches).any())))
            self._state = last
        return last[1]

    def shared(self, ranges: Tensor | None) -> bool:
        """Return whether the column tiles of each row have one range.

        One product then serves all of them.

        Args:
            ranges: The ranges, `[row tiles, column tiles]`, or None if the preset has none.
        """
        if ranges is None or ranges.shape[1] == 1:
            return True
        if ranges.requires_grad and torch.is_grad_enabled():
            return False
        key, last = _key(ranges), self._shared
        if last is None or last[0] != key:
            last = self._shared = (key, bool((ranges == ranges[:, :1]).all()))
        return last[1]

    def check(
        self, ranges: Tensor, batches: Tensor, product: Product, x: Tensor, training: bool
    ) -> bool:
        """Return whether a product may use the ranges; in training, start them first.

        A range that starts is taken from the inputs of the product.

        Args:
            ranges: The ranges, `[row tiles, column tiles]`; changed in place while they start.
            batches: Number of batches that each range was set from; changed like the ranges.
            product: The product, which knows the inputs of each tile.
            x: The inputs of the layer.
            training: Whether the layer is in training mode.
        """
        if training and self.state(batches).starting:
            if x.numel() == 0:
                return True  # nothing to start from, and nothing to quantise
            # .data, because the backward pass of earlier time steps still needs the tensor
            values = ranges.data
            self.forget()  # because `_key` does not see such a change on every device
            start(values, batches, partial(product.inputs, x), self.start_batches, self.start_sd)
        return self.state(batches).ready

    def observed(
        self, product: Product, x: Tensor, weight: Tensor, normalised: Callable[[], Tensor]
    ) -> Tensor:
        """Return the exact product, after the observer has seen the inputs of every tile.

        Args:
            product: The product of the layer.
            x: The inputs of the layer.
            weight: The weights that they are multiplied with, `[out, in]`.
            normalised: A function that returns the normalised weights, for the outputs that the
                observer may ask for.
        """

        def outputs(seen: Tensor, row: int, column: int) -> Tensor:
            return product.contract(seen, product.weights(normalised(), row, column))

        assert self.observer is not None
        total = None
        for row in range(len(product.grid.rows)):
            for column in range(len(product.grid.columns)):
                seen = product.inputs(x, row, column)
                self.observer(row, column, seen, partial(outputs, seen, row, column))
            part = product.weights(weight, row, None)
            y = product.contract(product.inputs(x, row, None), part)
            total = y if total is None else total + y
        assert total is not None
        return total


def _key(tensor: Tensor) -> tuple[object, ...]:
    """Return a value that changes if a small tensor changes.

    On a CPU it consists of the tensor's values. On other devices, to look at the values would mean
    to wait for all the work that the device still has to do. There it consists of the identity and
    the version of the tensor, which do not change if someone writes through `tensor.data`.
    """
    if tensor.device.type == "cpu":
        return (tensor.tolist(),)
    return (id(tensor), tensor.data_ptr(), tensor._version)


@torch.no_grad()
def start(
    ranges: Tensor,
    batches: Tensor,
    inputs: Callable[[int, int], Tensor],
    until: int,
    deviations: float,
) -> None:
    """Set ranges to running means of standard deviations, tile by tile.

    Batches of zeros do not count.

    Args:
        ranges: The ranges, `[row tiles, column tiles]`; changed in place.
        batches: Number of batches that each range was set from; changed in place. 0 is never, -1 is
            from zeros only.
        inputs: A function that returns the inputs of a tile, from its row and column.
        until: Number of batches that a range is taken from.
        deviations: Number of standard deviations that a range spans.
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
                ranges[row, column] = mean.clamp_min(SMALLEST_RANGE)
                batches[row, column] = count + 1
            else:
                batches[row, column] = seen or -1
