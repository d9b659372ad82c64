"""The progress bar that every long job shows, on standard error."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress


def bars(show: bool, counts: bool = True) -> Progress:
    """Return rich's display of bars on standard error; it draws nothing until it is started.

    Args:
        show: False makes all its methods do nothing.
        counts: True shows "3/25"; False shows per cent and the elapsed time.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    amount: list[ProgressColumn] = [MofNCompleteColumn()]
    if not counts:
        amount = [TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn()]
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),  # on 100 columns the note of a training fits beside it
        *amount,
        TextColumn("{task.fields[note]}", table_column=Column()),  # breaks if it is too long
        TimeRemainingColumn(),
        # in a notebook too: rich's bar for Jupyter warns at every step without ipywidgets
        console=Console(stderr=True, force_jupyter=False),
        disable=not show,
    )


_draw: Callable[[bool, bool], Any] = bars


def draw_with(display: Callable[[bool, bool], Any]) -> None:
    """Let another display draw all bars of this process from now on.

    A worker process does so, because two processes that draw on one terminal overwrite each other.

    Args:
        display: A function of `show` and `counts` that returns an object with the methods of
            `rich.progress.Progress` that `ProgressBar` calls.
    """
    global _draw
    _draw = display


class ProgressBar:
    """A bar with a description, a count or a share, a note and the time left.

    It draws nothing if it is not to be shown. Use it as a context manager:

        with ProgressBar("chips", total=25, show=True) as bar:
            bar.advance(note="97.5 % at 1y")
    """

    def __init__(
        self,
        description: str,
        total: float | None,
        done: float = 0.0,
        *,
        show: bool = True,
        counts: bool = True,
    ) -> None:
        """Prepare the bar.

        Args:
            description: What is counted, such as "chips".
            total: Number of steps, or None if it is not known yet.
            done: Steps that are done already.
            show: False makes all methods do nothing.
            counts: True shows "3/25"; False shows per cent and the elapsed time.
        """
        self._show = show
        self._progress = _draw(show, counts)
        self._task = self._progress.add_task(description, total=total, note="")
        self._progress.update(self._task, completed=done)

    def __enter__(self) -> ProgressBar:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing; the bar stays on the screen as it is."""
        self._progress.stop()

    def advance(self, steps: float = 1.0, *, note: str | None = None) -> None:
        """Move the bar by some steps.

        Args:
            steps: The number of steps.
            note: Text that is shown behind the count from now on; None leaves it as it is.
        """
        if note is None:
            self._progress.advance(self._task, steps)
        else:
            self._progress.update(self._task, advance=steps, note=note)

    def change(
        self,
        *,
        description: str | None = None,
        total: float | None = None,
        done: float | None = None,
    ) -> None:
        """Change the description, the number of steps, or how many are done.

        Args:
            description: A new description; None leaves it as it is.
            total: A new number of steps; None leaves it as it is.
            done: A new number of steps that are done; None leaves it as it is.
        """
        self._progress.update(self._task, description=description, total=total, completed=done)

    def say(self, text: str) -> None:
        """Print a line above the bar.

        Args:
            text: One line, printed as it is.
        """
        if self._show:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


def metric_value(name: str, value: float) -> str:
    """Write the value of a metric as people read it: an accuracy of 0.975 is 97.5 %.

    Args:
        name: Name of the metric.
        value: Its value, a share between 0 and 1 if it is an accuracy.

    Returns:
        The value with four digits, or in per cent.
    """
    if name == "accuracy" and 0.0 <= value <= 1.0:
        return f"{100 * value:.1f} %"
    return f"{value:.4g}"
