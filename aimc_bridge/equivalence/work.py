"""The items of work that a cross-check consists of, and how they move its progress bar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aimc_bridge.equivalence.report import Findings
from aimc_bridge.progress import ProgressBar

_BY_STEPS = 0.7  # of an item's cost: the bar moves by so much step by step, by the rest at the end


@dataclass(frozen=True)
class WorkItem:
    """One target of the device level, or one layer: a function with its arguments.

    An item can be sent to another process.

    Attributes:
        key: The name under which its findings are kept, such as "layer/fc".
        cost: Predicted seconds.
        steps: How often the function calls `advance`; 0 for a function that does not take it.
        function: What finds the findings.
        arguments: The arguments of the function, without `advance`.
    """

    key: str
    cost: float
    steps: int
    function: Callable[..., Findings]
    arguments: tuple[Any, ...]

    def __call__(self, advance: Callable[[], None] | None = None) -> tuple[str, Findings]:
        """Do the work.

        Args:
            advance: Called after each step, if the function has steps.

        Returns:
            The key, and what was found.
        """
        if self.steps and advance is not None:
            return self.key, self.function(*self.arguments, advance)
        return self.key, self.function(*self.arguments)


def work_with_bar(item: WorkItem, bar: ProgressBar) -> tuple[str, Findings]:
    """Do an item of work and move the bar by its cost, most of it step by step.

    Args:
        item: The work.
        bar: A bar that counts predicted seconds.

    Returns:
        The item's key, and what was found.
    """
    left = item.cost

    def advance() -> None:
        nonlocal left
        step = _BY_STEPS * item.cost / item.steps
        left -= step
        bar.advance(step)

    bar.change(description=item.key)
    outcome = item(advance)
    bar.advance(max(0.0, left))
    return outcome
