"""The facts about machine and packages that the record of a run holds."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = (
    *("aimc-bridge", "aihwkit", "torch", "torchvision", "transformers", "datasets"),
    *("accelerate", "numpy", "scikit-learn", "aihwkit-lightning"),
)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result may depend on, by name."""
    by_name = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            by_name[name] = version(name)
        except PackageNotFoundError:
            by_name[name] = "not installed"
    return by_name


def hardware() -> dict[str, Any]:
    """Return the processor, cores, threads of torch, GPU, memory and allocator settings.

    The keys are those of a record's "hardware". Memory is in units of 10^9 bytes. "allocator" holds
    the environment variables that change how memory is allocated, since times depend on them.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cores": cores(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "memory_gb": round(memory / 1e9, 1),
        "allocator": {name: os.environ[name] for name in sorted(os.environ) if _allocates(name)},
    }


def _allocates(name: str) -> bool:
    """Return whether an environment variable changes how memory is allocated."""
    return name.startswith("MALLOC_") or name in ("THP_MEM_ALLOC_ENABLE", "LD_PRELOAD")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "?"
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "?")
