"""The steps of a long command: which one runs, and how long all of them will still take."""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

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
        group: Steps of one group run one after another; groups may run side by side.
    """

    name: str
    text: str
    work: tuple[tuple[str, float], ...] = ()
    group: str = ""


class Listener(Protocol):
    """Hears which steps are done; it is the `Steps` of a command, or passes on to it."""

    def doing(self, name: str, *, whole: bool = True) -> contextlib.AbstractContextManager[None]:
        """Hear that a step begins and ends; see `Steps.doing`."""

    def skip(self, name: str) -> None:
        """Hear that a step was finished before."""


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
        listed: The steps, in the order in which they run; with several lanes, in that of the plan.
        lanes: How many groups of steps run side by side.
    """

    def __init__(
        self,
        listed: Sequence[Step],
        output: Output,
        known: Costs | None = None,
        around: str = "",
    ) -> None:
        """Prepare the steps; they run one after another unless `lanes` is set.

        Args:
            listed: The steps, in the order in which they run.
            output: Where the lines go.
            known: The costs of work; None reads those of this machine.
            around: The name of the command, if what it does before, between and after its steps
                (start processes, import, write results) counts; `close` then notes its time.
        """
        self.listed, self.output, self.lanes = list(listed), output, 1
        self._costs = known or costs()
        self._around, self._made, self._first = around, time.monotonic(), 0.0
        self._predicted = {step.name: self._seconds(step) for step in self.listed}
        self._began: dict[str, float] = {}  # of the steps that are being done
        self._done: dict[str, float | None] = {}  # None: not done here, it was finished before

    def _seconds(self, step: Step) -> tuple[float, bool] | None:
        parts = [self._costs.seconds(kind, units) for kind, units in step.work]
        known = [part for part in parts if part is not None]
        if not known or len(known) < len(parts):
            return None
        return sum(seconds for seconds, _ in known), all(here for _, here in known)

    def estimate(self) -> Estimate:
        """Return how long all steps together will take."""
        found = total((step.text, self._predicted[step.name]) for step in self.listed)
        seconds = self._span(self._by_group(1.0, 0.0))
        if seconds and (around := self._around_s()):
            found = dataclasses.replace(found, here=found.here and around[1])
            seconds += around[0]
        return dataclasses.replace(found, seconds=seconds)

    def order(self) -> list[str]:
        """Return the groups in the order in which they are begun side by side: the longest first.

        So none of the long ones runs alone at the end.
        """
        return list(self._by_group(1.0, 0.0))

    @contextlib.contextmanager
    def doing(self, name: str, *, whole: bool = True) -> Iterator[None]:
        """Say that a step begins, and note how long it takes.

        Args:
            name: Its name; it must be one of the steps.
            whole: Whether all of it is done now. If not (it goes on after an interruption), its
                time says nothing about the cost of such work.
        """
        self.begin(name)
        yield
        self.end(name, whole=whole)

    def begin(self, name: str) -> None:
        """Say that a step begins.

        Args:
            name: Its name; it must be one of the steps.
        """
        step = self._find(name)
        self._began[name] = time.monotonic()
        self._first = self._first or self._began[name] - self._made
        number = len({*self._began, *self._done})
        self.output.say(f"[{number}/{len(self.listed)}] {step.text}{self._left()}")

    def end(self, name: str, *, whole: bool = True, seconds: float | None = None) -> None:
        """Note that a step is done, and how long it took.

        Args:
            name: Its name, after `begin`.
            whole: As in `doing`.
            seconds: How long it took; None is the time since `begin`.
        """
        step, began = self._find(name), self._began.pop(name)
        seconds = time.monotonic() - began if seconds is None else seconds
        self._done[name] = seconds
        if whole and len(step.work) == 1:
            self._costs.note(*step.work[0], seconds)

    def skip(self, name: str) -> None:
        """Note that a step was finished before.

        Args:
            name: Its name.
        """
        self._done.setdefault(name, None)

    def close(self) -> None:
        """Note how long the work around the steps took, if all of them were done here."""
        done = [seconds for seconds in self._done.values() if seconds is not None]
        if self._around and len(done) == len(self.listed):
            groups = dict.fromkeys((step.group for step in self.listed), 0.0)
            for step in self.listed:
                groups[step.group] += self._done[step.name] or 0.0
            seconds = time.monotonic() - self._made - self._span(groups)
            self._costs.note(self._around_kind(self.lanes), 1.0, seconds)

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
        left = [step for step in self.listed if step.name not in self._done]
        if mean is None and any(self._predicted[step.name] is None for step in left):
            return None
        around = self._around_s()
        after = max(0.0, around[0] - self._first) if around else 0.0
        return self._span(self._by_group(factor, mean or 0.0)) + after

    def _around_kind(self, lanes: int) -> str:
        processes = f"{lanes} processes" if lanes > 1 else "one process"
        return f"{self._around}: around the steps, {processes}"

    def _around_s(self) -> tuple[float, bool] | None:
        if not self._around:
            return None
        known = self._costs.seconds(self._around_kind(self.lanes), 1.0)
        if known is None and (least := self._costs.seconds(self._around_kind(1), 1.0)):
            return least[0], False  # several processes take longer; how much is not known yet
        return known

    def _find(self, name: str) -> Step:
        return next(step for step in self.listed if step.name == name)

    def _by_group(self, factor: float, mean: float) -> dict[str, float]:
        """Return group -> seconds of its steps that are not done; running ones, then the longest.

        Args:
            factor: By what the predictions are multiplied.
            mean: The seconds of a step without a prediction.
        """
        now = time.monotonic()
        groups = dict.fromkeys((step.group for step in self.listed), 0.0)
        for step in self.listed:
            if step.name not in self._done:
                predicted = self._predicted[step.name]
                whole = mean if predicted is None else factor * predicted[0]
                groups[step.group] += max(0.0, whole - (now - self._began.get(step.name, now)))
        running = {step.group for step in self.listed if step.name in self._began}
        first = sorted(groups, key=lambda group: (group not in running, -groups[group]))
        return {group: groups[group] for group in first}

    def _span(self, groups: dict[str, float]) -> float:
        """Return how long groups take on the lanes, each begun on the first lane that is free."""
        ends = [0.0] * self.lanes
        for seconds in groups.values():
            heapq.heapreplace(ends, ends[0] + seconds)
        return max(ends)

    def _left(self) -> str:
        left = self.left_s()
        return "" if left is None else f" (about {duration(left)} left in all)"
