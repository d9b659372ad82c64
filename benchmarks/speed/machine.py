"""What a record says of the machine, and the threads of a measurement."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks import machine


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Of every record, and aihwkit-lightning's."""
    found = machine.versions()
    try:
        found["aihwkit-lightning"] = version("aihwkit-lightning")
    except PackageNotFoundError:
        found["aihwkit-lightning"] = "not installed"
    return found


def hardware() -> dict[str, Any]:
    """Of every record; memory, cores of this process, how busy the machine was before, and what
    the environment tells allocators."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        **machine.hardware(),
        "cores": cores(),
        "memory_gb": round(memory / 1e9, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "allocator": {name: os.environ[name] for name in sorted(os.environ) if _allocates(name)},
    }


def _allocates(name: str) -> bool:
    return name.startswith("MALLOC_") or name in ("THP_MEM_ALLOC_ENABLE", "LD_PRELOAD")
