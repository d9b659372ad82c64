"""The steps of a long command: which one runs, and how long all of them will still take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from aimc_bridge.commands import Output
from benchmarks.studies.estimates import Costs, Estimate, costs, duration, total
from benchmarks.tasks import Task


@dataclass(frozen=True)
class Step:
    """A part of a command that takes time.

    Attributes:
        name: Its name; no two steps of a command have the same.
        text: What it does, for people.
        work: (kind, units) of each kind of work in it, and how much of it there is. If it is of one
            kind, its time is noted as the cost of that kind.
    """

    name: str
    text: str
    work: tuple[tuple[str, float], ...] = ()


def kind_of(task: Task, work: str, device: str, *more: str) -> str:
    """Return the kind of some work on a task, which its cost per unit depends on.

    Args:
        task: The task.
        work: "digital", "training" or an engine, in the same words in all commands.
        device: "cpu" or "cuda".
        more: What else changes the cost, such as "bf16".
    """
    threads = torch.get_num_threads()
    how = [work, device, f"{threads} {'threads' if threads > 1 else 'thread'}", *filter(None, more)]
    return f"{task.model_name}, {task.dataset}: {', '.join(how)}"


class Steps:
    """The steps of a command: a line when each begins, with the time that is left in all.

    Attributes:
        output: Where the lines go.
        listed: The steps, in the order in which they run.
    """

    def __init__(self, listed: Sequence[Step], output: Output, known: Costs | None = None) -> None:
        """Prepare the steps.

        Args:
            listed: The steps, in the order in which they run.
            output: Where the lines go.
            known: The costs of work; None reads those of this machine.
        """
        self.listed, self.output = list(listed), output
        self._costs = known or costs()
        self._predicted = {step.name: self._seconds(step) for step in self.listed}
        self._done: dict[str, float | None] = {}  # None: not done here, it was finished before

    def _seconds(self, step: Step) -> tuple[float, bool] | None:
        parts = [self._costs.seconds(kind, units) for kind, units in step.work]
        known = [part for part in parts if part is not None]
        if not known or len(known) < len(parts):
            return None
        return sum(seconds for seconds, _ in known), all(here for _, here in known)

    def estimate(self) -> Estimate:
        """Return how long all steps together will take."""
        return total((step.text, self._predicted[step.name]) for step in self.listed)

    @contextlib.contextmanager
    def doing(self, name: str, *, whole: bool = True) -> Iterator[None]:
        """Say that a step begins, and note how long it takes.

        Args:
            name: Its name; it must be one of the steps.
            whole: Whether all of it is done now. If not (it goes on after an interruption), its
                time says nothing about the cost of such work.
        """
        number, step = next((i, step) for i, step in enumerate(self.listed, 1) if step.name == name)
        self.output.say(f"[{number}/{len(self.listed)}] {step.text}{self._left(step)}")
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self._done[name] = seconds
        if whole and len(step.work) == 1:
            self._costs.note(*step.work[0], seconds)

    def skip(self, name: str) -> None:
        """Note that a step was finished before.

        Args:
            name: Its name.
        """
        self._done.setdefault(name, None)

    def left_s(self) -> float | None:
        """Return the seconds that are left in all; None if nothing is known about them.

        The predictions are corrected by what the finished steps took. A step without a prediction
        is expected to take as long as the finished ones did on average.
        """
        finished = {name: s for name, s in self._done.items() if s is not None}
        pairs = [
            (seconds, predicted[0])
            for name, seconds in finished.items()
            if (predicted := self._predicted[name]) is not None
        ]
        expected = sum(before for _, before in pairs)
        factor = sum(seconds for seconds, _ in pairs) / expected if expected > 0 else 1.0
        mean = sum(finished.values()) / len(finished) if finished else None
        left = 0.0
        for step in self.listed:
            if step.name in self._done:
                continue
            predicted = self._predicted[step.name]
            if predicted is not None:
                left += factor * predicted[0]
            elif mean is not None:
                left += mean
            else:
                return None
        return left

    def _left(self, step: Step) -> str:
        left = self.left_s()
        return "" if left is None else f" (about {duration(left)} left in all)"
