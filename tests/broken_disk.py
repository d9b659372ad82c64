"""Commands in real processes, on a disk that fails, or that die, at a chosen write.

`python -m tests.broken_disk` waits for cases, one JSON object a line, and answers each with an
outcome. It imports the project once and runs every case in a fork of itself, so that a case costs
no more than the work of its command. An audit hook counts what is opened for writing, made and
renamed below one folder. At the write of a fault, the kernel lets the process write no file beyond
ROOM bytes any more: the write itself then fails (FULL), or ends the process in the middle (KILLED).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
ROOM = 10
"""Bytes that a file may have after the fault: less than any file of ours has."""
FULL, KILLED = "full", "killed"
LOADED = (
    "torch", "pandas", "scipy.stats", "matplotlib.pyplot", "sklearn.datasets", "tests.writers",
    "benchmarks.run", "benchmarks.report.run", "benchmarks.report.html.build",
    "benchmarks.studies.ladder.ascent", "benchmarks.studies.ablation",
    "benchmarks.studies.crosscheck", "benchmarks.tasks.mlp", "benchmarks.tasks.wrn",
    "aimc_bridge.engines.aihwkit",
)  # fmt: skip
"""Modules that the cases import. They are loaded once, before the first case."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Attributes:
        code: Its exit code; minus the number of the signal that ended it.
        error: What it wrote to standard error.
        writes: The kind and path of each write, in order: "open", "mkdir" or "rename".
    """

    code: int
    error: str
    writes: list[tuple[str, str]]

    def named(self, folder: Path) -> bool:
        """Return whether the error is one line, which names a file in the folder."""
        lines = self.error.splitlines()
        return len(lines) == 1 and lines[0].startswith("error: ") and str(folder) in lines[0]


class Disk:
    """The process that runs the cases.

    Args:
        process: The server.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(
        self, call: str, words: Sequence[object], folder: Path, fault: str = "", at: int = -1
    ) -> Outcome:
        """Run a function with words in a process of its own.

        Args:
            call: The function, "module:name"; it takes a list of words and returns an exit code.
            words: The words.
            folder: Where writes are counted.
            fault: FULL, KILLED, or "" for none.
            at: The write of the fault, counted from 0.
        """
        case = {
            "call": call,
            "words": [*map(str, words)],
            "folder": str(folder),
            "fault": fault,
            "at": at,
        }
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Outcome(
            answer["code"], answer["error"], [tuple(write) for write in answer["writes"]]
        )


@contextlib.contextmanager
def disk() -> Iterator[Disk]:
    """Start the server, and end it after the block."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1", "AIMC_BRIDGE_TIMINGS": ""}
    environment["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # warnings of its profiler are lines, too
    environment.pop("AIMC_BRIDGE_DATA", None)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.broken_disk"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Disk(process)
        assert process.stdin
        process.stdin.close()


# --- the server -----------------------------------------------------------------------------------


def serve() -> None:
    """Answer cases until there are no more."""
    for name in LOADED:
        with contextlib.suppress(ImportError):  # aihwkit, where it cannot run
            importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        with tempfile.TemporaryFile() as notes:
            print(json.dumps(_forked(json.loads(line), notes)), file=answers, flush=True)


def _forked(case: dict[str, Any], notes: Any) -> dict[str, Any]:
    """Run one case in a fork; its writes are noted in an open file."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            _in_child(case, writer, notes)
        finally:
            os._exit(70)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8", errors="replace") as pipe:
        error = pipe.read()
    _, status = os.waitpid(child, 0)
    notes.seek(0)
    writes = [json.loads(line) for line in notes.read().decode().splitlines()]
    return {"code": os.waitstatus_to_exitcode(status), "error": error, "writes": writes}


def _in_child(case: dict[str, Any], pipe: int, notes: Any) -> None:
    """Run one case, and exit with its code."""
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.dup2(pipe, 2)
    os.close(pipe)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, encoding="utf-8", closefd=False)
        for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    module, _, name = case["call"].partition(":")
    function = getattr(importlib.import_module(module), name)
    _watch(Path(case["folder"]), notes.fileno(), case["fault"], case["at"])
    code = function(case["words"])
    sys.stderr.flush()
    os._exit(code)


def _watch(folder: Path, notes: int, fault: str, at: int) -> None:
    """Note the writes of this process below a folder, and let the fault happen at one of them."""
    inside, count = f"{folder}{os.sep}", 0
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            if not isinstance(arguments[0], str | bytes) or not arguments[2] & writing:
                return
            path = os.fsdecode(arguments[0])
        elif event in ("os.rename", "os.mkdir"):
            path = os.fsdecode(arguments[0])
        else:
            return
        if not os.path.abspath(path).startswith(inside):  # noqa: PTH100 - a link stays a link
            return
        if event == "os.mkdir" and os.path.isdir(path):  # noqa: PTH112 - no write
            return
        number, count = count, count + 1
        failing = bool(fault) and number > at  # the notes would not fit either
        if len(os.fsencode(path)) < 2000 and not failing:
            os.write(notes, (json.dumps([event.removeprefix("os."), path]) + "\n").encode())
        if number == at:
            _fail(event, path, fault)

    sys.addaudithook(hook)


def _fail(event: str, path: str, fault: str) -> None:
    """Let the disk be full from now on, or end this process."""
    if event != "open":  # both leave nothing half-done
        if fault == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if fault == KILLED else signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, resource.RLIM_INFINITY))


if __name__ == "__main__":
    serve()
