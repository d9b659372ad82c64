"""Sweeps over chips and times: a chip is programmed once and read at every time."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing, nullcontext
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from aimc_bridge import rng
from aimc_bridge.arguments import flag, function, integer, iterable
from aimc_bridge.arguments import path as path_of
from aimc_bridge.chip import check_draw_on, drift, fingerprint, program, restore
from aimc_bridge.converted import matrices_of, record_of
from aimc_bridge.errors import UsageError, shown
from aimc_bridge.files import check_writable, only_writer
from aimc_bridge.first_pass import measuring
from aimc_bridge.physics.drift import check_known
from aimc_bridge.progress import ProgressBar, metric_value
from aimc_bridge.reach import forget_reached, warn_unreached
from aimc_bridge.shards import Shard, share_of
from aimc_bridge.spec import Preset
from aimc_bridge.sweep_files import COLUMNS, Row, read_rows, write_rows
from aimc_bridge.times import label, seconds
from aimc_bridge.workers import end_with

if TYPE_CHECKING:
    import pandas as pd

Evaluate = Callable[[nn.Module], float | Mapping[str, float]]
UNNAMED = "metric"
"""The metric's name if `evaluate` returns a plain number."""

MOST_CHIPS = 1_000_000
MOST_WORKERS = 10_000
_ONE_POOL = threading.RLock()
"""Held while processes work for a sweep: the threads of a process share joblib's pool."""


def sweep(
    model: nn.Module,
    evaluate: Evaluate,
    times: Iterable[str | float] | str | float = ("1s", "1h", "1d", "1y"),
    chips: int = 25,
    seed: int = 0,
    *,
    resume: str | os.PathLike[str] | None = None,
    executor: int | str | None = None,
    workers: int = -1,
    shard: Shard | None = None,
    draw_on: str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Evaluate many chips at several times and return a table.

    Each chip is programmed once and then drifts to every time. Afterwards the model is restored: it
    holds its trained weights and no chip.

    Two sweeps with the same arguments give equal tables if the engine's products follow torch's
    default generator, as the noise of single products does: the generator is seeded from (seed,
    chip, time) before each evaluation, and afterwards it is as it was before.

    Args:
        model: A converted model, usually in eval mode.
        evaluate: A function of the model that returns a number, or a dict of numbers by name. If an
            executor sends it to other processes, it must be picklable.
        times: Times after programming: seconds, or texts such as "1h"; one or several of them.
        chips: Number of chips, 1 or more.
        seed: An integer. Chip i has the seed `seed + i`.
        resume: A CSV file for the results. Results found in it are not computed again, and new ones
            are added when a chip is done. The file knows its model (weights, digital layers, input
            ranges, presets), seed and `draw_on`; you must see to it that `evaluate` is the same.
        executor: None evaluates one chip after another, in this process. A number starts that many
            processes. A name of a joblib backend ("loky", "dask", "ray") spreads the chips over
            `workers`. Threads of one process take turns, because they share torch's generator.
            The processes end when this process ends, in whatever way it ends.
        workers: Number of workers of a named backend; -1 takes all there are.
        shard: (3, 25) or "3/25" evaluates the third of 25 parts of the chips alone: chips 2, 27, 52
            and so on. `merge_shards` joins the files of `resume` of all parts.
        draw_on: As in `program`.
        progress: Whether a progress bar is shown on standard error.

    Returns:
        A DataFrame with one row per chip, time and metric. Its columns are `chip` (0, 1, ...),
        `seed`, `t_inference` (seconds), `metric` ("metric" if `evaluate` returns a plain number)
        and `value`. It is sorted by metric, chip and time.

    Raises:
        UsageError: If there are no chips, no times or no workers, if a device is not known at one
            of the times, if `evaluate` returns no number, if it or a device of your own cannot be
            sent to other processes, or if the file of `resume` cannot be written. Nothing is
            computed in these cases, unless only the result of `evaluate` is wrong.
        DataError: If the file of `resume` belongs to another sweep or is damaged.
        CapabilityError: If the model is not a converted one.

    Warns:
        UserWarning: If `evaluate` runs through some of the analog layers and never reaches others.
            If it uses the weights of these in another way than by calling them, that part is
            digital.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from aimc_bridge import calibrate, convert, sweep
        >>> from presets import rasch2023
        >>> inputs, labels = torch.randn(64, 12), torch.randint(2, (64,))
        >>> analog = convert(nn.Linear(12, 2), rasch2023).eval()
        >>> calibrate(analog, [inputs])
        >>> def accuracy(model):
        ...     return float((model(inputs).argmax(-1) == labels).float().mean())
        >>> table = sweep(analog, accuracy, times=("1s", "1y"), chips=3, progress=False)
        >>> list(table.columns), len(table)
        (['chip', 'seed', 't_inference', 'metric', 'value'], 6)
    """
    import pandas as pd

    t_inference = _times(times)
    chips, seed = integer("chips", chips, least=1, most=MOST_CHIPS), integer("seed", seed)
    check_draw_on(model, draw_on)
    function("evaluate", evaluate, "a function of the model")
    progress = flag("progress", progress)
    _check_executor(executor, workers)
    share = None if shard is None else share_of(shard, chips)
    matrices = matrices_of(model)
    for matrix in matrices.values():
        for t_s in t_inference:
            check_known(t_s, matrix.preset.pcm)
    if executor not in (None, "threading", "sequential"):
        _check_travels({str(m.preset): m.preset for m in matrices.values()}, evaluate)
    with rng.alone():  # another thread may be programming chips of this model
        ranges = (matrix.input_ranges() for _, matrix in sorted(matrices.items()))
        mark = fingerprint(model, matrices, draw_on, *ranges)[:16]
    path = None if resume is None else _usable(resume)
    numbers = range(chips) if share is None else share.numbers
    rows: list[Row] = []
    with nullcontext() if path is None else only_writer(path):
        if path is not None:
            rows = read_rows(path, seed, mark, share)
        done = {(chip, t_s) for chip, _, t_s, _, _ in rows}
        missing = {chip: [t for t in t_inference if (chip, t) not in done] for chip in numbers}
        todo = {chip: t_missing for chip, t_missing in missing.items() if t_missing}
        if path is not None and share is not None and rows and not todo:
            write_rows(path, mark, rows, share)  # there may be more chips, of other shards
        results = _results(model, evaluate, todo, seed, draw_on, executor, workers)
        count = len(numbers)
        bar = ProgressBar("chips", count, count - len(todo), show=progress)
        with closing(results), bar:
            for result in results:
                rows += result
                if path is not None:
                    write_rows(path, mark, rows, share)
                bar.advance(note=_note(result))
    rows = [row for row in rows if row[0] < chips and row[2] in t_inference]
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(["metric", "chip", "t_inference"], ignore_index=True)


def _times(times: Iterable[str | float] | str | float) -> list[float]:
    """Return times in seconds, each once, or raise UsageError."""
    single = isinstance(times, str | Real)
    example = "one or more, such as times=('1s', '1h')"
    listed: Iterable[Any] = (times,) if single else iterable("times", times, example)
    t_inference = list(dict.fromkeys(seconds(time) for time in listed))
    if not t_inference:
        raise UsageError("no times; allowed: one or more, such as times=('1s', '1h')")
    return t_inference


def _check_executor(executor: int | str | None, workers: int) -> None:
    """Raise UsageError if there would be no workers."""
    if executor is not None and not isinstance(executor, int | str):
        raise UsageError(
            f"executor={executor!r}; allowed: None, a number of processes, or the name of a joblib "
            "backend"
        )
    if isinstance(executor, int):
        integer("executor", executor, least=1, most=MOST_WORKERS)
    if integer("workers", workers, most=MOST_WORKERS) != -1:
        integer("workers (-1: all there are)", workers, least=1, most=MOST_WORKERS)


def _usable(resume: str | os.PathLike[str]) -> Path:
    """Return the path of a resume file, if it can be written; otherwise raise UsageError.

    So hours of work do not end in an error at the first chip. Nothing is left behind.
    """
    path = path_of("resume (or None)", resume)
    try:
        if path.is_dir():
            raise UsageError(f"resume={str(path)!r} is a folder; name a CSV file")
        check_writable(path)
    except OSError as cause:
        raise UsageError(
            f"resume={str(path)!r} cannot be written ({cause.strerror}); name another file"
        ) from None
    return path


def one_chip(
    model: nn.Module,
    evaluate: Evaluate,
    times: list[float],
    chip: int,
    seed: int,
    draw_on: str,
) -> list[Row]:
    """Program one chip of a sweep and evaluate it at every time.

    The model is left with the chip programmed.

    Args:
        model: A converted model.
        evaluate: As in `sweep`.
        times: Seconds after programming.
        chip: Number of the chip.
        seed: Seed of the sweep's first chip.
        draw_on: As in `program`.

    Returns:
        One row per time and metric: chip, seed of the chip, seconds, metric, value.

    Raises:
        UsageError: If `evaluate` returns no number.
    """
    record, matrices = record_of(model), matrices_of(model)
    checked, record.reach_checked = record.reach_checked, True  # all of `evaluate` is judged here
    program(model, seed + chip, draw_on=draw_on)
    forget_reached(matrices)
    rows: list[Row] = []
    for t_s in times:
        drift(model, t_s)
        # devices are named because torch warns if it has to save the state of many by itself
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        with torch.random.fork_rng(devices=list(devices)):
            torch.manual_seed(rng.derive(seed, "sweep", chip, t_s))
            with measuring(model):
                result = evaluate(model)
        rows += [(chip, seed + chip, t_s, k, v) for k, v in _metrics(result).items()]
    record.reach_checked = checked or any(matrix.reached.on for matrix in matrices.values())
    if record.reach_checked and not checked:
        warn_unreached("evaluate", matrices)
    return rows


def _metrics(result: Any) -> dict[str, float]:
    """Return the named numbers that `evaluate` returned, or raise UsageError."""
    named = result if isinstance(result, Mapping) else {UNNAMED: result}
    try:
        metrics = {str(name): float(value) for name, value in named.items()}
    except (TypeError, ValueError):
        metrics = {}
    if not metrics:
        raise UsageError(
            f"evaluate returned {shown(result)}; allowed: a number, or a dict of named numbers"
        )
    return metrics


def _restored_chip(model: nn.Module, *args: Any) -> list[Row]:
    """Evaluate one chip; no other thread has torch's generator, or the model, meanwhile."""
    with rng.alone():
        try:
            return one_chip(model, *args)
        finally:
            restore(model)


def _copied_chip(model: nn.Module, *args: Any) -> list[Row]:
    """Evaluate one chip on a copy of the model, in a worker that other tasks may share."""
    with rng.alone():
        return one_chip(copy.deepcopy(model), *args)


def _results(
    model: nn.Module,
    evaluate: Evaluate,
    todo: dict[int, list[float]],
    seed: int,
    draw_on: str,
    executor: int | str | None,
    workers: int,
) -> Generator[list[Row], None, None]:
    """Yield the rows of every chip as it is done, here or in an executor's workers."""
    if executor in (None, "threading", "sequential"):  # threads would wait for each other
        with rng.alone():
            restore(model)
        for chip, times in todo.items():
            yield _restored_chip(model, evaluate, times, chip, seed, draw_on)
        return
    from joblib import Parallel, delayed, parallel_config

    with rng.alone():
        restore(model)
        model = copy.deepcopy(model)  # while it is sent, another thread may program it
    backend = executor if isinstance(executor, str) else "loky"
    jobs = workers if isinstance(executor, str) else executor
    watched: dict[str, Any] = {}
    if backend in ("loky", "multiprocessing"):  # the processes are ours alone
        watched = {"initializer": end_with, "initargs": (os.getpid(),)}
    try:
        with parallel_config(backend=backend, **watched):  # registers dask; `Parallel` does not
            try:
                pool = Parallel(n_jobs=jobs, return_as="generator_unordered")
            except ValueError:  # ray's backend can only give all results at the end
                pool = Parallel(n_jobs=jobs)
    except (TypeError, ValueError) as cause:  # neither a text nor a number: TypeError
        raise UsageError(
            f"executor={shown(executor)}; allowed: None, a number of processes, or a joblib "
            f"backend that is registered ({cause})"
        ) from cause
    with _ONE_POOL:
        yield from pool(
            delayed(_copied_chip)(model, evaluate, times, chip, seed, draw_on)
            for chip, times in todo.items()
        )


def _check_travels(presets: Mapping[str, Preset], evaluate: Evaluate) -> None:
    """Check that devices and the evaluation can be sent to other processes.

    Raises:
        UsageError: If one of them cannot be pickled.
    """
    from joblib.externals.loky.backend.reduction import dumps

    things = {f"the device of preset {name}": preset.pcm for name, preset in presets.items()}
    for name, thing in {**things, "evaluate": evaluate}.items():
        try:
            dumps(thing)  # as the processes get it
        except Exception as problem:  # what pickling a user's object can raise is not known
            raise UsageError(
                f"{name} cannot be sent to other processes ({type(problem).__name__}: {problem}); "
                "give executor=None, or keep files, locks, generators and open connections out of "
                "it (__getstate__)"
            ) from problem


def _note(rows: list[Row]) -> str:
    """Return what a chip gave first at its last time, such as "97.5 % at 1y".

    A metric that is not in per cent is named: "perplexity 88.1 at 1d".
    """
    t_s = rows[-1][2]
    metric, value = next((name, number) for _, _, at, name, number in rows if at == t_s)
    text = metric_value(metric, value)
    name = "" if metric == UNNAMED or text.endswith("%") else f"{metric} "
    return f"{name}{text} at {label(t_s)}"
