"""What a training tells while it runs: a live bar, a CSV file, TensorBoard if installed."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from aimc_bridge.errors import CheckpointError
from aimc_bridge.files import replacing
from aimc_bridge.progress import ProgressBar, metric_value

COLUMNS = ("step", "epoch", "loss", "noise_scale", "learning_rate")
FILE = "metrics.csv"
if TYPE_CHECKING:
    from types import TracebackType

    import pandas as pd

Row = dict[str, float]


class TrainingLog:
    """The rows of a training, shown on a bar and written as they come.

    Args:    total  mini-batches of the run, None where not known.    done  rows of before a resume.
             folder  where metrics.csv (and tensorboard/) go; None writes nothing.
             metrics  names of validation's numbers, columns of their own; empty in the mini-batches
             that were not validated.
    """

    def __init__(
        self,
        total: int | None,
        done: list[Row],
        folder: Path | None,
        show: bool,
        metrics: Sequence[str] = (),
    ) -> None:
        self.rows = done
        self.folder = folder
        self.metrics: list[str] = [*metrics]
        self.file: IO[str] | None = None
        self.board: Any = None
        self.mean = done[-1]["loss"] if done else 0.0
        self.last = ""
        self.began = time.monotonic() - (done[-1]["wall_s"] if done else 0.0)
        self.bar = ProgressBar("training", total, len(done), show=show)

    def __enter__(self) -> TrainingLog:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_rows(self.folder / FILE, self.rows, self.metrics)
            self.file = (self.folder / FILE).open("a", newline="", encoding="utf-8")
            if importlib.util.find_spec("tensorboard") is not None:
                module = importlib.import_module("torch.utils.tensorboard")
                step = int(self.rows[-1]["step"]) + 1 if self.rows else 0
                self.board = module.SummaryWriter(str(self.folder / "tensorboard"), purge_step=step)
        self.bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.__exit__(kind, error, trace)
        if self.file is not None:
            self.file.close()
        if self.board is not None:
            self.board.close()

    def add(self, row: Row, validation: Mapping[str, float] | None) -> None:
        """A mini-batch's row, whole on disk (a killed process leaves it there)."""
        validated = {f"validation_{name}": value for name, value in (validation or {}).items()}
        row = {**row, "wall_s": time.monotonic() - self.began, **validated}
        self.rows.append(row)
        new = [name for name in validated if name not in self.metrics]
        self.metrics += new
        if self.file is not None and self.folder is not None:
            if new:  # the first validation: the file gets its columns
                self.file.close()
                write_rows(self.folder / FILE, self.rows, self.metrics)
                self.file = (self.folder / FILE).open("a", newline="", encoding="utf-8")
            else:
                csv.writer(self.file).writerow(_words(row, self.metrics))
                self.file.flush()
        if self.board is not None:
            for name, value in row.items():
                if name not in ("step", "wall_s"):
                    self.board.add_scalar(name, value, int(row["step"]))
        self._show(row, validation)

    def _show(self, row: Row, validation: Mapping[str, float] | None) -> None:
        first = len(self.rows) == 1
        self.mean = row["loss"] if first else 0.98 * self.mean + 0.02 * row["loss"]
        if validation:
            parts = (f"{name} {metric_value(name, value)}" for name, value in validation.items())
            self.last = f"; validation {', '.join(parts)}"
        self.bar.advance(
            note=f"epoch {int(row['epoch'])}, loss {self.mean:.4f}, "
            f"noise {row['noise_scale']:.2f}, learning rate {row['learning_rate']:.2e}{self.last}"
        )


def _words(row: Row, metrics: list[str]) -> list[str]:
    whole = [str(int(row[name])) for name in COLUMNS[:2]]
    numbers = [repr(float(row[name])) for name in COLUMNS[2:]]
    validated = [repr(float(row[m])) if m in row else "" for m in metrics]
    return [*whole, *numbers, f"{row['wall_s']:.2f}", *validated]


def write_rows(file: Path, rows: list[Row], metrics: list[str]) -> None:
    """The whole file, header first."""
    with replacing(file) as partial, partial.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow([*COLUMNS, "wall_s", *metrics])
        writer.writerows(_words(row, metrics) for row in rows)


def read_rows(file: Path, before: int) -> list[Row]:
    """The rows of mini-batches before `before`; those after are done again.

    Raises:  CheckpointError where some are missing.
    """
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            lines = [line for line in csv.DictReader(opened) if line["step"]]
        rows = [
            {str(key): float(value) for key, value in line.items() if value}
            for line in lines[:before]  # the last line of a killed process may be cut
        ]
        steps = [int(row["step"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise CheckpointError(f"{file} is damaged ({error!r}); start over elsewhere") from None
    if steps != list(range(before)):
        raise CheckpointError(f"{file} lacks mini-batches before {before}; start over elsewhere")
    return rows


def table_of(rows: list[Row], metrics: list[str]) -> pd.DataFrame:
    """DataFrame of `COLUMNS` and validation's metrics, NaN in mini-batches not validated."""
    import pandas as pd

    names = [*COLUMNS, *metrics]
    table = pd.DataFrame([{n: row.get(n, math.nan) for n in names} for row in rows], columns=names)
    return table.astype({"step": int, "epoch": int})
