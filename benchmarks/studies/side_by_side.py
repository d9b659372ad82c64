"""The trainings of a run side by side: in processes, as many as there are lanes.

The trainings of a run (one per task and seed) know nothing of each other: each has its own folder,
seeds and chips. So their numbers do not depend on what runs beside or before them, and each process
does whole trainings, from the digital model to the last chip, on as many threads as one process
alone would use. It sends what there is to tell to the process that started it: steps, notes, bars,
and at the end the rows. That process alone prints, and writes the results of the whole run.

Processes, not joblib's tasks, because tasks tell nothing until they are done.
"""

from __future__ import annotations

import contextlib
import copy
import math
import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

import torch

from aimc_bridge import progress
from aimc_bridge.commands import Output
from aimc_bridge.errors import CapabilityError
from aimc_bridge.workers import end_with
from benchmarks.studies.estimates import Estimate
from benchmarks.studies.phases import Phases
from benchmarks.studies.replicas import Replica
from benchmarks.studies.settings import Settings
from benchmarks.studies.steps import Steps

if TYPE_CHECKING:
    import pandas as pd
    from rich.progress import TaskID

Send = Callable[[tuple[Any, ...]], None]
WORTH_S = 60.0
"""A run that takes less stays in one process: another one is busy for some 5 s until it works."""
PATIENCE_S = 5.0
"""A process that has nothing left to do is killed if it is still there then."""
REDRAW_S = 0.1
"""A bar is sent at most this often."""


def usual_workers(settings: Settings, replica: Replica, expected: Estimate) -> int:
    """Return how many trainings run side by side if nobody says: as many as cores have threads for.

    It is 1 if the work is short, and for the larger profiles: models of those may need the memory
    of the whole machine.

    Args:
        settings: The options of the run.
        replica: The place of this process among those of a launcher.
        expected: How long the run takes in one process.
    """
    from joblib import cpu_count

    alone = replica.count > 1 or settings.shard is not None
    if alone or settings.device != "cpu" or settings.profile != "embedded":
        return 1
    if not expected.unknown and expected.seconds < WORTH_S:
        return 1
    return max(1, int(cpu_count()) // torch.get_num_threads())


def packed(trainings: Sequence[Phases]) -> dict[str, bytes]:
    """Return name of a training -> the training as bytes that another process can read.

    Args:
        trainings: The trainings, before they are begun.

    Raises:
        Exception: If one of them cannot be pickled: a device or a task of a user's own can hold
            anything.
    """
    listed = {}
    for phases in trainings:
        alone = copy.copy(phases)
        alone.steps = None
        listed[phases.study.folder.name] = pickle.dumps(alone)
    return listed


def side_by_side(
    trainings: Sequence[Phases], jobs: dict[str, bytes], steps: Steps, output: Output
) -> Generator[tuple[Phases, pd.DataFrame], None, None]:
    """Do trainings in processes and yield each with its rows as it is done.

    The trainings hear what their processes learnt: their facts and files of answers. If the
    iteration ends early, in whatever way, the processes are ended; close it to be sure of that.

    Args:
        trainings: The trainings.
        jobs: The same from `packed`.
        steps: The steps of the run; `steps.lanes` processes are started.
        output: Where notes and bars go.

    Raises:
        CapabilityError: If a process is ended from outside.
        WorkerError: If a training raises an error that cannot be sent from its process to this one.
        Exception: What a training raises; its cause is the traceback in its process.
    """
    waiting = deque((name, jobs[name]) for name in steps.order())
    named = {phases.study.folder.name: phases for phases in trainings}
    workers: dict[Connection, _Worker] = {}
    with _Bars(output.bars) as bars, contextlib.ExitStack() as started:
        for _ in range(min(steps.lanes, len(waiting))):
            worker = _Worker(output, started)
            workers[worker.pipe] = worker
            worker.begin(*waiting.popleft())
        while workers:
            pipes: list[Any] = wait(list(workers))
            for worker in [workers[pipe] for pipe in pipes]:
                kind, *what = worker.receive()
                if kind == "done":
                    rows, facts, answers = what
                    phases = named[worker.name]
                    phases.facts.update(facts)
                    phases.answers.update(answers)
                    if waiting:
                        worker.begin(*waiting.popleft())
                    else:
                        worker.end()
                        del workers[worker.pipe]
                    yield phases, rows
                elif kind == "failed":
                    blob, words, trace = what
                    raise _received(blob, words) from _Elsewhere(trace)
                elif kind == "say":
                    output.say(*what)
                elif kind == "bar":
                    bars.draw(named[worker.name].study.title, *what)
                elif kind == "begin":
                    steps.begin(*what)
                elif kind == "end":
                    steps.end(what[0], whole=what[1], seconds=what[2])
                else:
                    steps.skip(*what)


class WorkerError(RuntimeError):
    """An error in another process that cannot be sent as it is; the message has its type and text.

    It is not one of the project's own errors: what nobody expected stays a traceback.
    """


class _Elsewhere(Exception):
    """The traceback of an error in another process, as its cause."""

    def __str__(self) -> str:
        """Return the traceback."""
        return f"\n\nin another process:\n{self.args[0]}"


class _Worker:
    """A process that does trainings one after another.

    Attributes:
        pipe: Our end of the pipe to it.
        name: The name of the training that it does.
    """

    def __init__(self, output: Output, started: contextlib.ExitStack) -> None:
        """Start the process.

        Args:
            output: The output of this process; its options decide what the other one tells.
            started: When it is closed, the process is ended.
        """
        context = multiprocessing.get_context("spawn")  # a fork of torch's threads can hang
        self.pipe, there = context.Pipe()
        self.name = ""
        self._process = context.Process(
            target=_work,
            args=(there, os.getpid(), torch.get_num_threads(), output.quiet, output.bars),
        )  # no daemon: a task's loader may have processes of its own
        with _deaf_to_interrupts():
            self._process.start()
        started.callback(self._kill)
        there.close()

    def begin(self, name: str, job: bytes) -> None:
        """Give the process a training."""
        self.name = name
        with contextlib.suppress(BrokenPipeError):  # `receive` says why
            self.pipe.send_bytes(job)

    def receive(self) -> tuple[Any, ...]:
        """Return what the process told.

        Raises:
            CapabilityError: If it has ended.
        """
        try:
            told: tuple[Any, ...] = self.pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            raise CapabilityError(
                f"the process of {self.name} was ended from outside ({how}), as systems do if "
                "memory runs out; --workers 1 takes less of it"
            ) from None
        return told

    def end(self) -> None:
        """Let the process end, because there is nothing left to do."""
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            self.pipe.send_bytes(b"")
        self._process.join(PATIENCE_S)

    def _kill(self) -> None:
        """End the process: its files are whole at any moment, as far as they are finished."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let processes that the block starts never hear Ctrl-C, which is this process's alone."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Bars:
    """The bars of several processes, one line each; finished ones stay above them."""

    def __init__(self, show: bool) -> None:
        self._display = progress.bars(show)
        self._lines: dict[str, TaskID] = {}

    def __enter__(self) -> _Bars:
        self._display.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._display.stop()

    def draw(self, name: str, state: dict[str, Any], ended: bool) -> None:
        """Draw the bar of a training.

        Args:
            name: The training.
            state: Its description, total, completed and note.
            ended: Whether the bar moves no more.
        """
        state = {**state, "description": f"{name}: {state['description']}"}
        if name not in self._lines:
            self._lines[name] = self._display.add_task(**state)
        line = self._lines[name]
        self._display.update(line, **state)
        if ended:
            task = next(task for task in self._display.tasks if task.id == line)
            self._display.console.print(self._display.make_tasks_table([task]))
            self._display.remove_task(self._lines.pop(name))


# --- in the process -------------------------------------------------------------------------------


def _work(pipe: Connection, parent: int, threads: int, quiet: bool, bars: bool) -> None:
    """Do trainings until there are no more."""
    end_with(parent)
    torch.set_num_threads(threads)
    progress.draw_with(lambda show, _: _Bar(pipe.send, show))
    try:
        while job := pipe.recv_bytes():
            phases: Phases = pickle.loads(job)
            phases.steps = _Told(pipe.send)
            name = phases.study.title
            phases.study.output = _Relayed(quiet=quiet, name=name, send=pipe.send, shows=bars)
            rows = phases.measure()
            pipe.send(("done", rows, phases.facts, phases.answers))
    except EOFError:  # the other process has no more use for this one
        pass
    except Exception as error:  # noqa: BLE001 - raised again in the other process
        pipe.send(("failed", *_sent(error), traceback.format_exc()))


def _sent(error: Exception) -> tuple[bytes, str]:
    """Return an error as it can be sent: pickled, or b"" if that fails, and its type and text."""
    words = _words(error)
    try:
        return pickle.dumps(error), words
    except Exception:  # noqa: BLE001 - what pickling an error can raise is not known
        return b"", words


def _received(blob: bytes, words: str) -> Exception:
    """Return the error that `_sent` sent; a WorkerError if it does not come back the same."""
    try:
        error = pickle.loads(blob)
        if isinstance(error, Exception) and _words(error) == words:
            return error
    except Exception:  # noqa: BLE001 - as in `_sent`; its class may exist in its process alone
        pass
    return WorkerError(words)


def _words(error: Exception) -> str:
    return "".join(traceback.format_exception_only(error)).strip()


@dataclass(frozen=True)
class _Told:
    """Steps that another process counts."""

    send: Send

    @contextlib.contextmanager
    def doing(self, name: str, *, whole: bool = True) -> Iterator[None]:
        """Tell that a step begins and ends."""
        self.send(("begin", name))
        began = time.monotonic()  # the other process may read the messages late
        yield
        self.send(("end", name, whole, time.monotonic() - began))

    def skip(self, name: str) -> None:
        """Tell that a step was finished before."""
        self.send(("skip", name))


@dataclass(frozen=True)
class _Relayed(Output):
    """An output whose notes another process prints; each names the training that it is of."""

    name: str = ""
    send: Send = field(default=lambda _: None)
    shows: bool = False

    @property
    def bars(self) -> bool:
        """Return whether the other process shows bars."""
        return self.shows

    def say(self, text: str, style: str | None = None) -> None:
        """Send a note, with the name of the training before it."""
        if not self.quiet:
            words = text.lstrip()
            indent = text[: len(text) - len(words)]
            named = text if words.startswith(self.name) else f"{indent}{self.name}: {words}"
            self.send(("say", named, style))


class _Bar:
    """A bar that another process draws, with the methods of rich's display."""

    def __init__(self, send: Send, show: bool) -> None:
        self._send, self._show = send, show
        self._state: dict[str, Any] = {}
        self._sent_s = math.inf  # not until it is started

    def add_task(self, description: str, total: float | None, note: str) -> int:
        """Describe the bar; there is one."""
        self._state = {"description": description, "total": total, "completed": 0.0, "note": note}
        return 0

    def start(self) -> None:
        """Begin to draw."""
        self._tell()

    def stop(self) -> None:
        """Leave the bar as it is."""
        self._tell(ended=True)

    def advance(self, task: int, steps: float) -> None:
        """Move the bar."""
        self.update(task, advance=steps)

    def update(self, _: int, *, advance: float = 0.0, **changes: Any) -> None:
        """Move or change the bar."""
        self._state |= {name: value for name, value in changes.items() if value is not None}
        self._state["completed"] += advance
        if time.monotonic() - self._sent_s >= REDRAW_S:
            self._tell()

    def _tell(self, ended: bool = False) -> None:
        if self._show:
            self._sent_s = time.monotonic()
            self._send(("bar", self._state, ended))
