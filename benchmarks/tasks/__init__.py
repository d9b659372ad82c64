"""The benchmark tasks, found by name; each built-in task is one file.

docs/tasks.md says how to add your own.
"""

from benchmarks.tasks.base import PROFILES, DigitalRecipe, Split, Task
from benchmarks.tasks.data import DataSet, Loader, shuffled
from benchmarks.tasks.models import bare, device_of, moved, read_info
from benchmarks.tasks.plan import LadderSizes, Plan
from benchmarks.tasks.published import Published
from benchmarks.tasks.registry import find, get, names, parse_options, register

__all__ = [
    "PROFILES",
    "DataSet",
    "DigitalRecipe",
    "LadderSizes",
    "Loader",
    "Plan",
    "Published",
    "Split",
    "Task",
    "bare",
    "device_of",
    "find",
    "get",
    "moved",
    "names",
    "parse_options",
    "read_info",
    "register",
    "shuffled",
]
