"""The mini-batches of a run, in an order that a resumed run and replicas repeat."""

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
    """A loader whose batches depend on epoch and position alone: none is read twice."""

    def passing(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Yield the batches of one epoch.

        Args:
            epoch: Number of the epoch, from 0.
            start: Position of the first batch.
        """


class MiniBatch(NamedTuple):
    """A mini-batch and its place in the run.

    Attributes:
        step: Number of the mini-batch in the whole run, from 0.
        epoch: Its epoch, from 0.
        position: Its position in the epoch, from 0.
        last: Whether it is the last of the epoch.
        data: What the loader gave, or this replica's part of it.
    """

    step: int
    epoch: int
    position: int
    last: bool
    data: Any


class Order:
    """The mini-batches of a loader, epoch by epoch.

    A loader may draw from torch's default generator on the CPU, for order and augmentation. What it
    draws depends on (seed, epoch) alone: the training may draw from the same generator between two
    batches, and the loader does not notice. A DataLoader's own generators are remembered as they
    were when the epoch began.

    Attributes:
        loader: The loader.
        epochs: Number of epochs.
        max_batches: Number of mini-batches at which the run ends; None sets no limit.
        seed: Seed of the loader's draws.
        own: Whether the loader is a DataLoader, which has been split among the replicas already.
        part: (index, count) of this replica, (0, 1) for a DataLoader.
        split: Returns this replica's part of a mini-batch, or None.
        generators: States of a DataLoader's generators at the beginning of the epoch.
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
        """Prepare the order.

        Args:
            loader: The loader; it is iterated again in each epoch.
            epochs: Number of epochs.
            max_batches: Number of mini-batches at which the run ends; None sets no limit.
            seed: Seed of the loader's draws.
            part: (index, count) of this replica. A DataLoader has been split already. Of another
                loader each replica takes `split(batch, index, count)`, or every count-th batch if
                there is no `split`.
            split: Returns a replica's part of a mini-batch, or None.
        """
        self.loader, self.epochs, self.max_batches, self.seed = loader, epochs, max_batches, seed
        self.own = isinstance(loader, DataLoader)
        self.part = (0, 1) if self.own else part
        self.split = split
        self.generators: list[torch.Tensor] = []

    def total(self) -> int | None:
        """Return the number of mini-batches of the run; None if the loader has no length."""
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
        """Yield the mini-batches of the run, from a given one on.

        Args:
            step: Number of the first mini-batch in the run.
            epoch: Its epoch.
            position: Its position in the epoch.
            generators: States of the loader's generators at the beginning of this epoch, if it was
                begun in an earlier run.

        Raises:
            TrainingError: If an epoch has no mini-batch.
            CheckpointError: If the loader has another number of generators.
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
                    "and can be iterated again: a DataLoader or a list, not a generator"
                )
            position = 0

    def _epoch(self, epoch: int, start: int) -> Iterator[Any]:
        """Yield this replica's batches of one epoch, from position `start` on."""
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
            yield batch if count == 1 or self.split is None else self.split(batch, index, count)

    # --- a DataLoader's own generators ---

    def now(self, ended: bool) -> list[torch.Tensor]:
        """Return the loader's generators as they are when the next batch's epoch begins.

        Args:
            ended: Whether an epoch has just ended; then their states of now are returned.

        Returns:
            The states of a DataLoader's own generators.
        """
        return [g.get_state() for g in self._loader_generators()] if ended else self.generators

    def _loader_generators(self) -> list[torch.Generator]:
        """Return the generators of a DataLoader and its samplers; none for other loaders."""
        if not isinstance(self.loader, DataLoader):
            return []
        loader: Any = self.loader
        base = getattr(loader, "base_dataloader", loader)  # Accelerate's wrapper
        places = [loader, base, base.sampler, getattr(base.batch_sampler, "sampler", None)]
        generators = [getattr(place, "generator", None) for place in places]
        unique = {id(g): g for g in generators if isinstance(g, torch.Generator)}
        return list(unique.values())

    def _put_generators(self, states: list[torch.Tensor] | None) -> None:
        """Set the generators, if states are given, and remember their states."""
        generators = self._loader_generators()
        if states is not None:
            if len(states) != len(generators):
                raise CheckpointError("the checkpoint is of a loader with other generators")
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
        self.generators = [generator.get_state() for generator in generators]


def _isolated(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield batches while the loader has torch's default generator to itself.

    For every batch the generator goes on where the loader left it.
    """
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
    """Yield one of each `count` batches.

    An incomplete round at the end is left out, for all replicas alike.
    """
    while len(turn := list(islice(batches, count))) == count:
        yield turn[index]


def _with_last(batches: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
    """Yield (batch, whether it is the last)."""
    pending: list[Any] = []
    for batch in batches:
        if pending:
            yield pending.pop(), False
        pending.append(batch)
    if pending:
        yield pending.pop(), True
