"""Parts of a cross-check as jobs, and a progress bar in predicted seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aimc_bridge.equivalence.report import Part


@dataclass(frozen=True)
class Job:
    """One part: `work(advance)` does it. `cost` in predicted seconds, `steps` calls of advance."""

    key: str
    cost: float
    steps: int
    function: Callable[..., Part]
    args: tuple[Any, ...]
    takes_advance: bool

    def __call__(self, advance: Callable[[], None] | None = None) -> tuple[str, Part]:
        more = (advance,) if self.takes_advance and advance is not None else ()
        return self.key, self.function(*self.args, *more)


class Bar:
    """A progress bar in predicted seconds on standard error, or nothing."""

    def __init__(self, show: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            Remaining(),
            console=Console(stderr=True),
            disable=not show,
        )
        self.show = show
        self.id = self.progress.add_task("planning", total=None)

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        if self.show:
            self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start(self, total: float, done: float) -> None:
        self.progress.update(self.id, total=max(total, 1e-9), completed=done)

    def done(self, key: str, cost: float) -> None:
        self.progress.update(self.id, advance=cost, description=key)

    def part(self, job: Job) -> _Part:
        self.progress.update(self.id, description=job.key)
        return _Part(self, job)


class _Part:
    """Moves the bar within one part: most of a layer's cost is its chips."""

    def __init__(self, bar: Bar, job: Job) -> None:
        self.bar, self.job, self.given = bar, job, 0.0

    def __enter__(self) -> Callable[[], None]:
        return self.advance

    def advance(self) -> None:
        step = 0.7 * self.job.cost / max(1, self.job.steps)
        self.given += step
        self.bar.done(self.job.key, step)

    def __exit__(self, *_: object) -> None:
        self.bar.done(self.job.key, max(0.0, self.job.cost - self.given))
