"""The reports of a training: a live bar, a CSV file, TensorBoard if installed."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge.errors import CheckpointError
from aimc_bridge.files import Lines, check_file, naming, replacing
from aimc_bridge.progress import ProgressBar, metric_value

COLUMNS = ("step", "epoch", "loss", "noise_scale", "learning_rate")
FILE = "metrics.csv"
if TYPE_CHECKING:
    from types import TracebackType

    import pandas as pd

Row = dict[str, float]


class TrainingLog:
    """The rows of a training, which are shown on a bar and written as they come.

    Use it as a context manager.

    Attributes:
        rows: One row per mini-batch, column -> value.
        folder: Where the files go, or None.
        metrics: Names of validation's columns so far.
        file: The open CSV file, or None.
        board: The writer for TensorBoard, or None.
        mean: Running mean of the loss, for the bar.
        last: The bar's text about the last validation.
        began: Clock at which the training would have begun without interruptions.
        bar: The bar.
    """

    def __init__(
        self,
        total: int | None,
        done: list[Row],
        folder: Path | None,
        show: bool,
        metrics: Sequence[str] = (),
    ) -> None:
        """Prepare the log.

        Args:
            total: Number of mini-batches of the run; None if it is not known.
            done: Rows from before a resume.
            folder: Where metrics.csv (and tensorboard/) go; None writes nothing.
            show: Whether the bar is shown.
            metrics: Names of validation's numbers. Each has a column of its own, which is empty in
                mini-batches without validation.
        """
        self.rows = done
        self.folder = folder
        self.metrics: list[str] = [*metrics]
        self.file: Lines | None = None
        self.board: Any = None
        self.mean = done[-1]["loss"] if done else 0.0
        self.last = ""
        self.began = time.monotonic() - (done[-1]["wall_s"] if done else 0.0)
        self.bar = ProgressBar("training", total, len(done), show=show)

    def __enter__(self) -> TrainingLog:
        """Open the files and start the bar."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_rows(self.folder / FILE, self.rows, self.metrics)
            self.file = Lines(self.folder / FILE)
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
        """Close the files and stop the bar."""
        self.bar.__exit__(kind, error, trace)
        if self.file is not None:
            self.file.close()
        if self.board is not None:
            self.board.close()

    def add(self, row: Row, validation: Mapping[str, float] | None) -> None:
        """Add the row of a mini-batch.

        The row is on disk at once, even if the process is killed.

        Args:
            row: The row, without the columns of validation.
            validation: The numbers of validation, or None.
        """
        validated = {f"validation_{name}": value for name, value in (validation or {}).items()}
        row = {**row, "wall_s": time.monotonic() - self.began, **validated}
        self.rows.append(row)
        new = [name for name in validated if name not in self.metrics]
        self.metrics += new
        if self.file is not None and self.folder is not None:
            if new:  # the first validation: its columns are added to the file
                self.file.close()
                write_rows(self.folder / FILE, self.rows, self.metrics)
                self.file = Lines(self.folder / FILE)
            else:
                csv.writer(self.file).writerow(_words(row, self.metrics))
        if self.board is not None and self.folder is not None:
            with naming(self.folder / "tensorboard"):
                for name, value in row.items():
                    if name not in ("step", "wall_s"):
                        self.board.add_scalar(name, value, int(row["step"]))
        self._show(row, validation)

    def _show(self, row: Row, validation: Mapping[str, float] | None) -> None:
        """Move the bar and show the numbers beside it."""
        first = len(self.rows) == 1
        self.mean = row["loss"] if first else 0.98 * self.mean + 0.02 * row["loss"]
        if validation:
            name, value = next(iter(validation.items()))  # the others are in the file
            self.last = f", validation {name} {metric_value(name, value)}"
        # short enough for a line of 100 columns; noise and learning rate are in the file
        self.bar.advance(note=f"epoch {int(row['epoch'])}, loss {self.mean:.3g}{self.last}")


def _words(row: Row, metrics: list[str]) -> list[str]:
    """Return the fields of a line of the CSV file."""
    whole = [str(int(row[name])) for name in COLUMNS[:2]]
    numbers = [repr(float(row[name])) for name in COLUMNS[2:]]
    validated = [repr(float(row[m])) if m in row else "" for m in metrics]
    return [*whole, *numbers, f"{row['wall_s']:.2f}", *validated]


def write_rows(file: Path, rows: list[Row], metrics: list[str]) -> None:
    """Write a whole CSV file of rows, with its header.

    Args:
        file: The file; its folder must exist.
        rows: The rows.
        metrics: Names of validation's columns.
    """
    with replacing(file) as partial, partial.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow([*COLUMNS, "wall_s", *metrics])
        writer.writerows(_words(row, metrics) for row in rows)


def read_rows(file: Path, before: int) -> list[Row]:
    """Return the rows before a mini-batch; those after it are done again.

    Args:
        file: The CSV file.
        before: Number of the mini-batch.

    Raises:
        CheckpointError: If the file is damaged or rows are missing.
    """
    try:
        check_file(file)
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
    """Return rows as a DataFrame with the columns `COLUMNS` and those of validation.

    Args:
        rows: The rows.
        metrics: Names of validation's columns; they are NaN in mini-batches without validation.
    """
    import pandas as pd

    names = [*COLUMNS, *metrics]
    table = pd.DataFrame([{n: row.get(n, math.nan) for n in names} for row in rows], columns=names)
    return table.astype({"step": int, "epoch": int})
