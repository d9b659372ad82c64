"""Ctrl-C and SIGTERM: one line and an exit code instead of a traceback, whenever they come.

While a command imports its packages, which takes seconds, there is nothing to lose: the process
ends at once. While it works, the signal is an exception, so that files and locks are left in order.

`aimc_bridge` imports this module before anything else, so it imports nothing that takes time.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

INTERRUPTED = "interrupted"
_PROGRAMS = ("aimc_bridge", "benchmarks")
_SCRIPT = "aimc-bridge"
_MODULE = re.compile("-[bBdEhiIOPqsSuvVx]*m(?P<name>.*)")


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what is done is kept, as after Ctrl-C."""


class Signals:
    """The signals that came while a command worked.

    Attributes:
        interrupted: Whether Ctrl-C was pressed, even if a library made another error of it.
        terminated: Whether SIGTERM came.
    """

    def __init__(self) -> None:
        """Begin without a signal."""
        self.interrupted = self.terminated = False
        self._process = os.getpid()

    @property
    def came(self) -> bool:
        """True once a signal has come."""
        return self.interrupted or self.terminated

    @property
    def code(self) -> int:
        """The exit code that shells give: 128 and the number of the signal."""
        return 143 if self.terminated else 130

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt; the second time, end at once."""
        if os.getpid() == self._process:
            self._end_if_second()
            self.interrupted = True
        raise KeyboardInterrupt

    def terminate(self, number: int, frame: FrameType | None) -> None:
        """Raise Terminated; the second time, end at once."""
        if os.getpid() != self._process:  # a forked child has this handler, but ends as without it
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._end_if_second()
        self.terminated = True
        raise Terminated

    def _end_if_second(self) -> None:
        if self.came:
            os._exit(self.code)


def is_command() -> bool:
    """Return whether this process is one of the project's commands."""
    words = iter(sys.orig_argv[1:])
    for word in words:
        if word in ("-X", "-W"):  # an option of Python with a word of its own
            next(words, None)
        elif module := _MODULE.fullmatch(word):  # -m NAME, -mNAME, or -um NAME
            name = module["name"] or next(words, "")
            return _is_ours(name.partition(".")[0])
        elif not word.startswith("-"):
            return os.path.basename(word).removesuffix(".exe") == _SCRIPT  # noqa: PTH119 - pathlib takes time
    return False


def _is_ours(package: str) -> bool:
    """Return whether a package that Python runs is one of this project, not a namesake."""
    known: str | None = getattr(sys.modules.get(package), "__file__", None)
    if package not in _PROGRAMS or not known:
        return False
    place = os.path.dirname  # pathlib takes time
    return place(place(os.path.realpath(known))) == place(place(os.path.realpath(__file__)))


def leave_quietly() -> None:
    """End this process with one line at Ctrl-C, until `signals` says otherwise.

    Nothing happens in programs that are not the project's commands, in threads, or if somebody else
    handles the signal.
    """
    ours = is_command() and threading.current_thread() is threading.main_thread()
    if ours and signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _leave):
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    """End at once: an exception would go through half-imported packages."""
    try:
        os.write(2, f"{INTERRUPTED}\n".encode())
    finally:
        os._exit(130)


@contextmanager
def signals() -> Iterator[Signals]:
    """Make Ctrl-C and SIGTERM exceptions while the block runs.

    Handlers of somebody else stay. The second signal ends the process at once, because the first
    one may be what it is busy with: what is finished is in files, and the system frees its locks.

    Yields:
        Which signals came.
    """
    came = Signals()
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        default = {
            signal.SIGINT: ((signal.default_int_handler, _leave), came.interrupt),
            signal.SIGTERM: ((signal.SIG_DFL,), came.terminate),
        }
        for number, (known, handler) in default.items():
            if signal.getsignal(number) in known:
                before[number] = signal.signal(number, handler)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came.came:
            leave_quietly()
