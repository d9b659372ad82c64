"""Tasks by name: the built-in tasks of this folder, and a user's own."""

import functools
import importlib
import json
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from aimc_bridge.errors import AimcError, UsageError
from benchmarks.tasks.base import Task
from benchmarks.tasks.data import named_dir, reason

Kind = TypeVar("Kind", bound=type[Task])

_TASKS: dict[str, type[Task]] = {}
_FIRST = ("wrn", "bert", "lstm", "resnet32", "mlp")  # the order of all tables; others follow
_OWN = "or one of your own: package.module:Class, or path/to/file.py:Class"


def register(task: Kind) -> Kind:
    """Make a task known by its name; a decorator for its class.

    Args:
        task: A subclass of `Task` with `name`, `recipe` and `plans`. It replaces a task of the same
            name that was defined in the same place (a notebook's cell that is run again).

    Returns:
        The class itself.

    Raises:
        UsageError: If it is not such a class, or if another task has the name.
    """
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise UsageError(f"{task!r} is no task: a task is a subclass of benchmarks.tasks.Task")
    place = f"{task.__module__}:{task.__qualname__}"
    if not re.fullmatch(r"[A-Za-z0-9_-]+", task.name):
        raise UsageError(
            f"{place}: name={task.name!r}; allowed: letters, digits, '-' and '_', at least one"
        )
    if not task.recipe:
        raise UsageError(f'{place} has no recipe; name one of the preset\'s, as recipe = "wrn16"')
    if task.metric not in ("accuracy", "perplexity"):
        raise UsageError(f"{place}: metric={task.metric!r}; one of accuracy, perplexity")
    if not task.plans:
        raise UsageError(f'{place} has no plans; give it one: plans = {{"embedded": Plan()}}')
    if not task.__module__.startswith(f"{__package__}."):
        _load_built_in()  # their names are taken even before one of them is used
    known = _TASKS.get(task.name)
    if known is not None and f"{known.__module__}:{known.__qualname__}" != place:
        raise UsageError(
            f"{place}: the name {task.name!r} is that of {known.__module__}:{known.__qualname__}; "
            "give yours another"
        )
    task.word = vars(task).get("word", "")  # not the word of a base class that is a task too
    _TASKS[task.name] = task
    return task


@functools.cache
def _load_built_in() -> None:
    """Import every module of this folder; a module that has a task registers it."""
    package = sys.modules[str(__package__)]
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def names(profile: str | None = None) -> tuple[str, ...]:
    """Return the names of all registered tasks.

    Args:
        profile: A profile; only tasks that have it are returned. None returns all.
    """
    _load_built_in()
    known = [name for name in _TASKS if profile is None or profile in _TASKS[name].plans]
    return tuple(sorted(known, key=lambda name: (*_FIRST, name).index(name)))


def find(word: str) -> type[Task]:
    """Return the task that a word of a command line names.

    Every command finds its TASK here; `find(word).name` is what folders, records and TASK=VALUE
    words call it. A task from outside is registered, so that its name is enough from then on.

    Args:
        word: The name of a registered task; or `package.module:Class`, importable from where Python
            looks; or `path/to/file.py:Class`, whose folder is put at the end of Python's search
            path.

    Raises:
        UsageError: If there is no such task, or if its module cannot be imported.
    """
    _load_built_in()
    place, _, attribute = word.rpartition(":")
    if not place:
        if word not in _TASKS:
            raise UsageError(f"unknown task {word!r}; one of {', '.join(names())}, {_OWN}")
        return _TASKS[word]
    module = imported(f"task {word!r}", place)
    task = vars(module).get(attribute)
    if not (isinstance(task, type) and issubclass(task, Task)):
        classes = [
            name
            for name, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, Task) and value is not Task
        ]
        has = f"its tasks: {', '.join(classes)}" if classes else "it has none"
        raise UsageError(f"task {word!r}: {place} has no task {attribute!r}; {has}")
    if not task.__module__.startswith(f"{__package__}."):
        task.word = word
    return register(task)


def imported(what: str, place: str) -> ModuleType:
    """Import the module at a dotted path or in a file.

    Args:
        what: What the module is needed for, in errors, such as "task 'mine.py:Mine'".
        place: The dotted path; or the file, whose folder is put at the end of Python's search path.

    Raises:
        UsageError: If the module cannot be imported.
    """
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        file = Path(place).resolve()
        if not file.is_file():
            raise UsageError(f"{what}: no file {place}")
        return _of_file(file)
    except AimcError:
        raise
    except Exception as error:  # a user's module can raise anything
        raise UsageError(
            f"{what}: {place} cannot be imported ({type(error).__name__}: {reason(error)})"
        ) from error


def _of_file(file: Path) -> ModuleType:
    """Import a file as a module by its name, so that worker processes can do so too.

    Raises:
        UsageError: If another module has the name of the file.
    """
    folder = str(file.parent)
    if folder not in sys.path:
        sys.path.append(folder)  # at the end, so that it hides no other module
    module = importlib.import_module(file.stem)
    place = getattr(module, "__file__", None)
    if place is None or Path(place).resolve() != file:
        raise UsageError(
            f"{file} cannot be imported: {file.stem!r} is the module {place or file.stem} already; "
            "give the file another name"
        )
    return module


# --- make a task ----------------------------------------------------------------------------------

_KINDS: dict[type, str] = {str: "name", int: "whole number", float: "number", bool: "true or false"}


def get(
    name: str, profile: str = "embedded", data_dir: str | Path | None = None, **options: Any
) -> Task:
    """Make a task with the data of a profile.

    Args:
        name: The task, as `find` takes it: "wrn", "bert", "lstm", "path/to/file.py:Class".
        profile: "embedded" needs no files; "real" and "gpu" read `data_dir` or download, and are
            sized for two CPU cores and for one GPU; "paper" is the paper's model and data.
        data_dir: The folder with the data; None takes AIMC_BRIDGE_DATA, and if that is not set,
            downloads.
        **options: The task's own options; `find(name).option_types` lists them. None leaves an
            option at its default.

    Raises:
        UsageError: For an unknown name, profile or option, or for a value of another type.
        DataError: If data are missing or damaged.
    """
    kind = find(name)
    kind.plan_of(profile)
    for key, value in options.items():
        if key not in kind.option_types:
            has = ", ".join(kind.option_types)
            raise UsageError(
                f"unknown option {key!r} for task {kind.name!r}; "
                + (f"one of {has}" if has else "it has no options")
            )
        expected = kind.option_types[key]
        accepted = (int, float) if expected is float else expected
        if value is not None and (
            not isinstance(value, accepted) or (isinstance(value, bool) and expected is not bool)
        ):
            description = _KINDS.get(expected, expected.__name__)
            raise UsageError(
                f"option {key}={value!r} of task {kind.name!r}; allowed: a {description}"
            )
    task = kind.make(profile, named_dir(data_dir), **options)
    lacks = [
        field
        for field in ("model_name", "dataset", "n_classes", "digital")
        if getattr(task, field, None) is None
    ]
    if lacks:
        raise UsageError(
            f"task {kind.name!r}: {type(task).__name__} does not set {', '.join(lacks)}"
        )
    task.profile = profile
    task._data_dir = Path(data_dir) if data_dir is not None else None
    task.options = {key: value for key, value in options.items() if value is not None}
    return task


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """Read the options of a task from `key=value` words.

    Args:
        pairs: The words. Numbers and true/false become numbers and booleans, all else is text.

    Returns:
        The options by name.

    Raises:
        UsageError: If a word is not KEY=VALUE, or if a key comes twice.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise UsageError(f"option {pair!r} is not KEY=VALUE")
        if key in options:
            values = " and ".join(word for word in pairs if word.startswith(f"{key}="))
            raise UsageError(f"option {key} is given twice: {values}; name it once")
        try:
            options[key] = json.loads(text)
        except ValueError:
            options[key] = text
    return options
