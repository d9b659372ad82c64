"""The processes of a training that a launcher started."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from datetime import timedelta

from accelerate import PartialState

from aimc_bridge.errors import UsageError
from benchmarks import cli


@dataclasses.dataclass(frozen=True)
class Replica:
    """The place of this process among several; the first does all, the others only train.

    Attributes:
        index: The number of this process, from 0 on.
        count: How many processes there are.
    """

    index: int = 0
    count: int = 1

    def meet(self) -> None:
        """Wait until all processes have called this method."""
        if self.count > 1:
            PartialState().wait_for_everyone()


@contextlib.contextmanager
def replicas(device: str) -> Iterator[Replica]:
    """Yield the place of this process among the processes that a launcher started.

    Args:
        device: "cpu" or "cuda".

    Yields:
        The place; without a launcher, this is the only process.
    """
    if cli.processes() < 2:
        yield Replica()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is set without {', '.join(missing)}; start several processes with "
            "torchrun or accelerate launch, or unset WORLD_SIZE"
        )
    # the others wait for the sweeps of the first process: hours, and the default is minutes
    state = PartialState(cpu=device == "cpu", timeout=timedelta(days=7))
    try:
        yield Replica(state.process_index, state.num_processes)
    finally:
        state.destroy_process_group()
