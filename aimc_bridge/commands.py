"""The way a command runs: one line per error, one exit code, one way to print.

    app = command("doctor", doctor, program="python -m aimc_bridge doctor")
    sys.exit(execute(app, None, program="python -m aimc_bridge doctor"))

Exit codes of every command: 0 done; 1 a check failed or a training diverged; 2 bad usage, or an
environment that cannot do it; 130 interrupted (Ctrl-C), 143 ended by SIGTERM.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, TextIO, cast

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from aimc_bridge.errors import AimcError, TrainingError, UsageError
from aimc_bridge.files import check_path, naming
from aimc_bridge.interruption import INTERRUPTED, Signals, signals

DataDir = Annotated[
    Path | None, Parameter(help="Folder with the data; default: $AIMC_BRIDGE_DATA.")
]
Words = Annotated[tuple[str, ...], Parameter(parse=False)]
"""The words of the command line; `execute` passes them to the parameter `words` of this type."""


def flag(text: str, name: str | None = None) -> Parameter:
    """Describe a switch that is off unless it is named.

    Args:
        text: Its help text.
        name: The option, such as "--json"; None makes it from the parameter's name.

    Returns:
        The description, for `Annotated[bool, ...]`.
    """
    return Parameter(name=name, help=text, show_default=False, negative=())


@Parameter(name="*")
@dataclass(frozen=True)
class Output:
    """The output of a command: the options --quiet, --json and --dry-run.

    Notes and progress bars go to standard error, the result goes to standard output.

    Attributes:
        quiet: No notes are printed, and of the result only its short form if it has one; errors are
            still printed.
        as_json: The result is one JSON object instead of text, even if `quiet`.
        dry_run: Everything is checked and the plan is the result; nothing is done or written.
    """

    quiet: Annotated[bool, flag("Print only the conclusion, if there is one, and errors.")] = False
    as_json: Annotated[
        bool, flag("Print the result as one JSON object instead of text.", "--json")
    ] = False
    dry_run: Annotated[
        bool, flag("Check everything and print the plan; do nothing, write nothing.")
    ] = False

    @property
    def console(self) -> Console:
        """Return a console for notes on standard error; it is silent if `quiet`."""
        return Console(stderr=True, quiet=self.quiet, soft_wrap=True, highlight=False, markup=False)

    @property
    def bars(self) -> bool:
        """Return whether progress bars are shown: on a terminal, unless `quiet`."""
        return not self.quiet and self.console.is_terminal

    def say(self, text: str, style: str | None = None) -> None:
        """Print a note on standard error, unless `quiet`.

        Args:
            text: The note, printed as it is.
            style: A style of rich, such as "yellow" or "bold".
        """
        self.console.print(text, style=style)

    def result(self, text: str, data: Mapping[str, Any], short: str = "") -> None:
        """Print the result on standard output.

        Args:
            text: The result for people; not printed if `quiet` or `as_json`.
            short: The result in a few words, which is printed if `quiet`; "" prints nothing.
            data: The same for programs, printed as one JSON object if `as_json`. Numbers that JSON
                does not have (NaN, infinity) become null.
        """
        if self.as_json:
            print(json.dumps(_plain(data), ensure_ascii=False, allow_nan=False), flush=True)
        elif not self.quiet:
            print(text, flush=True)
        elif short:
            print(short, flush=True)


def command(
    name: str, function: Callable[..., int | None], *, program: str, arguments: str = ""
) -> App:
    """Make a command from a function whose parameters are the options.

    Args:
        name: The command's name, as it is listed.
        function: The work; its docstring is the help text. It returns the exit code; None is 0.
        program: How the command is started, such as "python -m benchmarks.run".
        arguments: The words without a name, for the usage line: "TASK", "[TASK ...]".

    Returns:
        The command, for `execute`.
    """
    usage = " ".join(filter(None, ("Usage:", program, arguments, "[OPTIONS]")))
    app = application(name, usage=usage)
    app.default(function)
    return app


def application(name: str, **options: Any) -> App:
    """Make an App of cyclopts with the settings that all commands share.

    Args:
        name: Its name.
        **options: Further arguments of `cyclopts.App`.

    Returns:
        The app, for `execute`.
    """
    return App(
        name=name,
        version=_version,
        help_format="markdown",
        result_action="return_value",
        default_parameter=Parameter(negative=(), allow_repeating=True),
        **options,
    )


def _version() -> str:
    """Return the installed version of this package."""
    try:
        return metadata.version("aimc-bridge")
    except metadata.PackageNotFoundError:
        return "not installed"


def execute(
    app: App,
    words: Sequence[str] | None = None,
    *,
    program: str,
    on_interrupt: str = INTERRUPTED,
) -> int:
    """Run a command and turn every expected error into one line on standard error.

    With --json an error is also one JSON object on standard output: {"error": ..., "exit_code": n}.
    If the reader of the output goes away (`| head -1`), the work goes on and the exit code stays
    the same. An unexpected error is a bug and stays a traceback.

    Args:
        app: The command, from `command` or `application`.
        words: The words of the command line after the program; None takes those of the process.
        program: How the command is started; errors of usage name its --help.
        on_interrupt: The text after Ctrl-C, which says how to go on. A KeyboardInterrupt with a
            text of its own shows that text instead.

    Returns:
        The exit code: 0, 1, 2, 130 or 143, as the head of this module says.
    """
    words = tuple(sys.argv[1:] if words is None else words)
    with _readers_may_leave(), signals() as came:
        try:
            return _call(app, words)
        except KeyboardInterrupt as interrupt:
            text, code = _stopped(came, str(interrupt) or on_interrupt)
        except Exception as error:  # noqa: BLE001 - raised again if it is not expected
            if came.came:  # a library made another error of it, such as an ImportError
                text, code = _stopped(came, on_interrupt)
            else:
                text, code = _failed(error, program)
        if "--json" in words:  # whoever reads JSON gets JSON, whatever happens
            Output(as_json=True).result("", {"error": " ".join(text.split()), "exit_code": code})
        if came.came or code == came.code:
            _print(text)
            return code
        return fail(text, code)


def _stopped(came: Signals, text: str) -> tuple[str, int]:
    """Return what is said after a signal, and the exit code."""
    return text.replace(INTERRUPTED, "terminated", 1) if came.terminated else text, came.code


def _failed(error: Exception, program: str) -> tuple[str, int]:
    """Return the text and the exit code of an expected error; raise any other one again."""
    if isinstance(error, CycloptsError):
        if isinstance(error.__cause__, AimcError):
            return str(error.__cause__), 2
        error.verbose = False
        return f"{str(error).rstrip('.')}; see {program} --help", 2
    if isinstance(error, AimcError):  # that of a user's function may have no text
        return str(error) or type(error).__name__, 1 if isinstance(error, TrainingError) else 2
    if isinstance(error, OSError):  # a folder that cannot be written, a full disk
        return _reason(error), 2
    raise error


def _call(app: App, words: tuple[str, ...]) -> int:
    """Parse the words, call the function, return its exit code."""
    for word in words:
        check_path(word)  # results name the command: what is no text would fail at their end
    function, bound, unparsed = app.parse_args(list(words), exit_on_error=False, print_error=False)
    options = bound.arguments
    if options.get("resume") and "out" in bound.signature.parameters and not options.get("out"):
        raise UsageError("--resume without --out; name the folder of the run to go on with")
    more = {"words": words} if "words" in unparsed else {}
    return int(function(*bound.args, **{**bound.kwargs, **more}) or 0)


def fail(text: str, code: int) -> int:
    """Print an error on one line of standard error.

    Args:
        text: The error.
        code: The exit code.

    Returns:
        The exit code.
    """
    _print(f"error: {' '.join(text.split())}", style="red")
    return code


def _print(text: str, style: str | None = None) -> None:
    """Print a text on standard error as it is."""
    Console(stderr=True).print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _reason(error: OSError) -> str:
    """Name the file and the reason, as far as the error knows them."""
    reason = error.strerror or str(error) or type(error).__name__
    path = error.filename2 or error.filename
    return reason if path is None else f"{os.fsdecode(path)}: {reason}"


def _plain(value: Any) -> Any:
    """Return a value made only of types that JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    return str(value)


# --- readers that go away -------------------------------------------------------------------------


class _Stream:
    """A text stream in UTF-8 that drops what is written after its reader has gone."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name
        if isinstance(stream, io.TextIOWrapper):  # whatever the locale says
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        """Pass everything else on to the stream itself."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or drop the text if nobody reads."""
        try:
            with naming(self._name):
                return self._stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Flush, or drop what is buffered if nobody reads."""
        try:
            with naming(self._name):
                self._stream.flush()
        except BrokenPipeError:
            self._drop()
        except OSError:
            self._drop()  # a full disk is told once: Python flushes again at its end
            raise

    def _drop(self) -> None:
        """Point the file descriptor at the null device, because Python flushes it at its end."""
        with contextlib.suppress(OSError):  # a stream without a descriptor
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def _readers_may_leave() -> Iterator[None]:
    """Make standard output and standard error `_Stream`s, and flush them at the end."""
    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - closed below
    # a stream is None if the shell closed it
    out = _Stream(sys.stdout or nowhere, "standard output")
    err = _Stream(sys.stderr or nowhere, "standard error")
    with (
        nowhere,
        contextlib.redirect_stdout(cast(TextIO, out)),
        contextlib.redirect_stderr(cast(TextIO, err)),
    ):
        try:
            yield
        finally:
            out.flush()
            err.flush()
