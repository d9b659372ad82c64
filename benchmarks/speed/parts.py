"""Where the time of a run on a CPU goes, by torch's profiler."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

PRODUCTS, PASSES, OTHERS = "products", "compiled passes", "other operations"

_PRODUCTS = ("conv", "linear", "addmm", "mm", "bmm", "baddbmm", "rnn")
_PASS = "## Call CompiledFxGraph"


def kind_of(operation: str) -> str | None:
    """What an event of the profiler belongs to; None for what is no operation of torch."""
    if operation.startswith(_PASS):
        return PASSES
    space, _, name = operation.partition("::")
    if space not in ("aten", "mkldnn", "mkl"):
        return None
    words = name.strip("_").split("_")
    return PRODUCTS if any(w.startswith(p) for w in words for p in _PRODUCTS) else OTHERS


def summed(events: Iterable[Any]) -> dict[str, float]:
    """Kind -> seconds inside these operations, not counting operations that they call."""
    found = dict.fromkeys((PRODUCTS, PASSES, OTHERS), 0.0)
    for event in events:
        kind = kind_of(event.key)
        if kind is not None:
            found[kind] += event.self_cpu_time_total * 1e-6
    return found


def parts_of(run: Callable[[], object]) -> dict[str, float]:
    """Kind of operation -> seconds of one run."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        run()
    return summed(profiler.key_averages())
