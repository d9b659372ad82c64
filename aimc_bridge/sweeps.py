"""Sweeps: chips x times -> a table. Each chip is programmed once and read at every time."""

from __future__ import annotations

import copy
import csv
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from aimc_bridge import rng
from aimc_bridge.chip import check_draw_on, drift, fingerprint, integer, program, restore
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import DataError, UsageError
from aimc_bridge.files import replacing
from aimc_bridge.progress import ProgressBar, metric_value
from aimc_bridge.times import label, seconds

if TYPE_CHECKING:
    import pandas as pd

Evaluate = Callable[[nn.Module], float | Mapping[str, float]]
UNNAMED = "metric"
"""The name of what `evaluate` returns if it is a plain number."""

COLUMNS = ["chip", "seed", "t_inference", "metric", "value"]
Row = tuple[int, int, float, str, float]
_ONE_AT_A_TIME = threading.Lock()
"""Chips of one process, where an executor runs threads: each seeds the one default generator."""


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
    draw_on: str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Evaluate `chips` chips at each time. The model comes back restored.

    Args:    model  a converted model.    evaluate  model -> a number, or a dict of named numbers;
             it must be picklable where an executor sends it to other processes.
             chips  chip i has seed `seed + i`.    resume  a CSV file: chips at times found in it
             are not computed again, others are added as they are done. It knows its model (weights,
             digital layers, input ranges, presets), seed and `draw_on`; that `evaluate` is the same
             is up to the caller.
             executor  None: one after another, here; a number: so many processes; the name of a
             joblib backend ("loky", "dask", "ray"): spread by it over `workers`. Threads of one
             process take turns: they share torch's generator.
             draw_on  as in `program`.
    Returns: a row a chip, time and metric: `chip, seed, t_inference, metric, value`, sorted.
    Raises:  UsageError (no chips, no times, `evaluate` returned no number), DataError (a resume
             file of another sweep).
    Warns:   UserWarning where `evaluate` runs through some of the analog layers and never reaches
             others: what they do elsewhere, by their weights alone, is digital.

    The noise of single products uses torch's default generator, seeded here from (seed, chip, time)
    and given back as it was: two sweeps with the same arguments are equal where the engine's
    products follow that generator.
    """
    import pandas as pd

    if isinstance(times, str | float | int):
        times = (times,)
    chips, seed = integer("chips", chips, least=1), integer("seed", seed)
    check_draw_on(model, draw_on)
    t_inference = list(dict.fromkeys(seconds(time) for time in times))
    if not t_inference:
        raise UsageError("no times; allowed: one or more, such as times=('1s', '1h')")
    matrices = matrices_of(model)
    ranges = (matrix.input_ranges() for _, matrix in sorted(matrices.items()))
    mark = fingerprint(model, matrices, draw_on, *ranges)[:16]
    path = None if resume is None else Path(resume)
    rows = [] if path is None else _read(path, mark, seed)
    done = {(chip, t_s) for chip, _, t_s, _, _ in rows}
    missing = {chip: [t for t in t_inference if (chip, t) not in done] for chip in range(chips)}
    todo = {chip: t_missing for chip, t_missing in missing.items() if t_missing}
    try:
        with ProgressBar("chips", chips, chips - len(todo), show=progress) as bar:
            for result in _results(model, evaluate, todo, seed, draw_on, executor, workers):
                rows += result
                if path is not None:
                    _write(path, mark, rows)
                bar.advance(note=_note(result))
    finally:
        restore(model)
    rows = [row for row in rows if row[0] < chips and row[2] in t_inference]
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(["metric", "chip", "t_inference"], ignore_index=True)


def one_chip(
    model: nn.Module,
    evaluate: Evaluate,
    times: list[float],
    chip: int,
    seed: int,
    draw_on: str,
) -> list[Row]:
    """All rows of one chip of a sweep that began with `seed`. The model is left programmed."""
    program(model, seed + chip, draw_on=draw_on)
    matrices = matrices_of(model)
    for matrix in matrices.values():
        matrix.reached.on = False
    rows: list[Row] = []
    for t_s in times:
        drift(model, t_s)
        # named devices: torch warns where it must save all of many by itself
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        with torch.random.fork_rng(devices=list(devices)):
            torch.manual_seed(rng.derive(seed, "sweep", chip, t_s))
            result = evaluate(model)
        rows += [(chip, seed + chip, t_s, k, v) for k, v in _metrics(result).items()]
    missed = [name for name, matrix in matrices.items() if not matrix.reached.on]
    if 0 < len(missed) < len(matrices):
        warnings.warn(
            f"evaluate never reached these analog layers: {', '.join(missed[:6])}; where it uses "
            "their weights in another way than by calling them, it sees no chip",
            stacklevel=2,
        )
    return rows


def _metrics(result: Any) -> dict[str, float]:
    """Named numbers of what `evaluate` returned."""
    named = result if isinstance(result, Mapping) else {UNNAMED: result}
    try:
        metrics = {str(name): float(value) for name, value in named.items()}
    except (TypeError, ValueError):
        metrics = {}
    if not metrics:
        raise UsageError(
            f"evaluate returned {result!r}; allowed: a number, or a dict of named numbers"
        )
    return metrics


def _copied_chip(model: nn.Module, *args: Any) -> list[Row]:
    with _ONE_AT_A_TIME:
        return one_chip(copy.deepcopy(model), *args)


def _results(
    model: nn.Module,
    evaluate: Evaluate,
    todo: dict[int, list[float]],
    seed: int,
    draw_on: str,
    executor: int | str | None,
    workers: int,
) -> Iterable[list[Row]]:
    if executor is None:
        for chip, times in todo.items():
            yield one_chip(model, evaluate, times, chip, seed, draw_on)
        return
    from joblib import Parallel, delayed, parallel_config

    restore(model)
    backend = executor if isinstance(executor, str) else "loky"
    jobs = workers if isinstance(executor, str) else executor
    try:
        with parallel_config(backend=backend):  # makes dask known, which `Parallel` does not
            try:
                pool = Parallel(n_jobs=jobs, return_as="generator_unordered")
            except ValueError:  # ray's backend gives all results at the end
                pool = Parallel(n_jobs=jobs)
    except ValueError as cause:
        raise UsageError(
            f"executor={executor!r}; allowed: None, a number of processes, or a joblib backend "
            f"that is registered ({cause})"
        ) from cause
    yield from pool(
        delayed(_copied_chip)(model, evaluate, times, chip, seed, draw_on)
        for chip, times in todo.items()
    )


def _read(path: Path, mark: str, seed: int) -> list[Row]:
    """Rows of a resume file; all chips in it are whole, each at every time it was asked at."""
    if not path.exists():
        return []
    other_sweep = DataError(
        f"{path}: rows of another sweep (model, input ranges, preset, seed, draw_on or columns "
        "differ); give resume= a new file"
    )
    rows: list[Row] = []
    metrics: dict[tuple[int, float], set[str]] = {}
    try:
        # not pandas: a value must come back to the last bit, and a metric may be called "nan"
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = list(csv.reader(file, strict=True))
        if header != [*COLUMNS, "model"]:
            raise other_sweep
        for chip, chip_seed, t_s, metric, value, model in lines:
            rows.append((int(chip), int(chip_seed), float(t_s), metric, float(value or "nan")))
            metrics.setdefault((int(chip), float(t_s)), set()).add(metric)
            if model != mark or int(chip_seed) != int(chip) + seed:
                raise other_sweep
    except DataError:
        raise
    except (ValueError, OSError, csv.Error) as cause:
        raise DataError(f"{path}: not a sweep's CSV file, or damaged ({cause})") from cause
    if len({frozenset(names) for names in metrics.values()}) > 1:
        raise DataError(f"{path}: damaged (rows are missing)")
    return rows


def _write(path: Path, mark: str, rows: list[Row]) -> None:
    import pandas as pd

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        pd.DataFrame(rows, columns=COLUMNS).assign(model=mark).to_csv(temporary, index=False)


def _note(rows: list[Row]) -> str:
    """Say what a chip gave first at its last time: "97.5 % at 1y", "perplexity 88.1 at 1d"."""
    t_s = rows[-1][2]
    metric, value = next((name, number) for _, _, at, name, number in rows if at == t_s)
    text = metric_value(metric, value)
    name = "" if metric == UNNAMED or text.endswith("%") else f"{metric} "
    return f"{name}{text} at {label(t_s)}"
