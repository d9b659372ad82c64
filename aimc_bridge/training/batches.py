"""The mini-batches of a run in an order that a resumed run and every replica can repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader

from aimc_bridge import rng
from aimc_bridge.errors import CheckpointError, TrainingError

Split = Callable[[Any, int, int], Any]


@runtime_checkable
class Passing(Protocol):
    """A loader whose batches are a function of epoch and position: nothing is read twice."""

    def passing(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of one epoch from position `start`."""


class MiniBatch(NamedTuple):
    """One of a run: its number in all, its epoch and position there; whether the epoch ends."""

    step: int
    epoch: int
    position: int
    last: bool
    data: Any


class Order:
    """Iterates a loader epoch by epoch.

    Whatever a loader draws from torch's default generator on the CPU (order, augmentation) is a
    function of (seed, epoch): the training between two batches draws from it without a trace here.
    A DataLoader's own generators are remembered as they were when the epoch began (`generators`).

    Args:    part  (index, count) of this replica. A DataLoader has been split already; of other
             loaders each replica takes `split(batch, index, count)`, or, without `split`, every
             count-th batch.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        epochs: int,
        max_batches: int | None,
        seed: int,
        part: tuple[int, int],
        split: Split | None,
    ) -> None:
        self.loader, self.epochs, self.max_batches, self.seed = loader, epochs, max_batches, seed
        self.own = isinstance(loader, DataLoader)
        self.part = (0, 1) if self.own else part
        self.split = split
        self.generators: list[torch.Tensor] = []

    def total(self) -> int | None:
        """Mini-batches of the whole run, None where the loader has no length."""
        try:
            length = len(self.loader)  # type: ignore[arg-type]
        except TypeError:
            return self.max_batches
        if self.split is None:
            length //= self.part[1]
        whole = length * self.epochs
        return whole if self.max_batches is None else min(whole, self.max_batches)

    def from_(
        self, step: int, epoch: int, position: int, generators: list[torch.Tensor] | None = None
    ) -> Iterator[MiniBatch]:
        """The mini-batches from number `step`, which is `position` of `epoch`.

        Args:    generators  those of this epoch's beginning, where it was begun before.
        Raises:  TrainingError where an epoch has none.
        """
        for number in range(epoch, self.epochs):
            self._put_generators(generators)
            generators = None
            count = 0
            for data, last in _with_last(self._epoch(number, position)):
                if self.max_batches is not None and step >= self.max_batches:
                    return
                yield MiniBatch(step, number, position + count, last, data)
                step += 1
                count += 1
            if count == 0 and position == 0:
                raise TrainingError(
                    f"the loader gave no mini-batch in epoch {number}; pass one that is not empty "
                    "and can be iterated anew: a DataLoader or a list, not a generator"
                )
            position = 0

    def _epoch(self, epoch: int, start: int) -> Iterator[Any]:
        torch.manual_seed(rng.derive(self.seed, "epoch", epoch))
        index, count = self.part
        if isinstance(self.loader, Passing):
            rounds = 1 if self.split is not None else count
            batches = self.loader.passing(epoch, start * rounds)
            start = 0
        else:
            batches = iter(self.loader)
        batches = _isolated(batches)
        if count > 1 and self.split is None:
            batches = _every(batches, index, count)
        for batch in islice(batches, start, None):
            whole = count == 1 or self.split is None
            yield batch if whole or self.split is None else self.split(batch, index, count)

    # --- a DataLoader's own generators ---

    def now(self, ended: bool) -> list[torch.Tensor]:
        """Their states where the next mini-batch's epoch begins: after an epoch that ended, now."""
        return [g.get_state() for g in self._loader_generators()] if ended else self.generators

    def _loader_generators(self) -> list[torch.Generator]:
        if not isinstance(self.loader, DataLoader):
            return []
        loader: Any = self.loader
        base = getattr(loader, "base_dataloader", loader)  # Accelerate's wrapper
        places = [loader, base, base.sampler, getattr(base.batch_sampler, "sampler", None)]
        generators = [getattr(place, "generator", None) for place in places]
        unique = {id(g): g for g in generators if isinstance(g, torch.Generator)}
        return list(unique.values())

    def _put_generators(self, states: list[torch.Tensor] | None) -> None:
        generators = self._loader_generators()
        if states is not None:
            if len(states) != len(generators):
                raise CheckpointError("the checkpoint is of a loader with other generators")
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
        self.generators = [generator.get_state() for generator in generators]


def _isolated(batches: Iterator[Any]) -> Iterator[Any]:
    """The default generator goes on, for the loader, where the loader left it."""
    state = torch.get_rng_state()
    while True:
        outside = torch.get_rng_state()
        torch.set_rng_state(state)
        try:
            batch = next(batches)
        except StopIteration:
            return
        finally:
            state = torch.get_rng_state()
            torch.set_rng_state(outside)
        yield batch


def _every(batches: Iterator[Any], index: int, count: int) -> Iterator[Any]:
    """One of each `count` batches; what does not fill a round is left out, for all alike."""
    while len(turn := list(islice(batches, count))) == count:
        yield turn[index]


def _with_last(batches: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
    """(batch, whether it is the last)."""
    pending: list[Any] = []
    for batch in batches:
        if pending:
            yield pending.pop(), False
        pending.append(batch)
    if pending:
        yield pending.pop(), True
