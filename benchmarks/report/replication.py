"""docs/replication.md: the paper's rows beside this project's, in A*, with a verdict for each.

A row is the paper's model of one task, converted directly or trained. It is compared with the
record of that task whose chips have the same scaling of weights. Without such a record, the page
says how to measure it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge import drawing
from aimc_bridge.times import label
from benchmarks.report import figures, tables
from benchmarks.report.record import LINK, Record, digest, link, named
from benchmarks.report.run import results_of
from benchmarks.report.standing import REASONS, ROWS, TILE_WISE
from benchmarks.tasks.published import DAY, HOUR, PAPER, YEAR, Published

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IMAGE = "replication.png"
TIMES = (1.0, HOUR, DAY, YEAR)
MARGIN, SHARE = 0.01, 0.1
"""A* agrees within a point, or within a tenth of what the paper's model loses if that is more."""
AGREES, DIFFERS, OPEN = "agrees", "differs", "cannot be said"
_PHASES = {"direct": "direct conversion", "hwa": "hardware-aware"}
_HEADINGS = ("model, data", "weights on chips", "", "digital error", *map(label, TIMES), "from")


@dataclass(frozen=True)
class Wanted:
    """A model of the paper that this project measures too.

    Attributes:
        title: What it is, for the page.
        task: The name of the task.
        data: What the data of the published rows begin with.
        dataset: The data of this project's records.
        records: The names of its records: with the preset's column scales, and with tile scales.
        command: How it is measured, without the `--out`.
    """

    title: str
    task: str
    data: str
    dataset: str
    records: tuple[str, ...]
    command: str


_DIGITAL = (
    "`python -m benchmarks.digital` makes the digital model first: it takes the words before "
    "`--checkpoint`, and `--out` with the path after it."
)
_PHASES_OF_ALL = "--phases direct control hwa --times 1s 1h 1d 1y"
WANTED = (
    Wanted(
        "WideResNet-16, CIFAR-100",
        "wrn",
        "CIFAR-100",
        "CIFAR-100",
        (ROWS[0], TILE_WISE[0]),
        "wrn -o dataset=cifar100 --profile real --data-dir DIR --checkpoint runs/wrn-cifar100",
    ),
    Wanted(
        "ResNet-32, CIFAR-10",
        "resnet32",
        "CIFAR-10",
        "CIFAR-10",
        (ROWS[1], TILE_WISE[1]),
        "resnet32 --profile real --data-dir DIR --checkpoint runs/resnet32",
    ),
    Wanted(
        "LSTM, Penn Treebank",
        "lstm",
        "Penn Treebank",
        "Penn Treebank",
        (ROWS[2], TILE_WISE[2]),
        "lstm -o dataset=ptb --profile real --data-dir DIR --checkpoint runs/lstm-ptb",
    ),
    Wanted(
        "encoder of BERT-base's size, MRPC",
        "bert",
        "MRPC",
        "MRPC",
        (ROWS[3],),
        "bert -o dataset=mrpc -o encoder=runs/mpnet/all-mpnet-base-v2 --profile real "
        "--data-dir DIR --checkpoint runs/mrpc",
    ),
)


@dataclass(frozen=True)
class Cell:
    """This project's A* at one time.

    Attributes:
        mean: A*.
        low: The lower end of its 95 % interval; NaN if there is none that covers test samples.
        high: The upper end.
        over: What the interval covers.
    """

    mean: float
    low: float
    high: float
    over: str

    def __str__(self) -> str:
        """Return A* with its interval, in percent."""
        return f"{100 * self.mean:.2f}{tables.interval(100 * self.low, 100 * self.high)}"


@dataclass(frozen=True)
class Measured:
    """This project's side of a row.

    Attributes:
        record: The record.
        model: The name of the model.
        error: The digital model's error on the same samples.
        about: Test samples, chips and trainings, in words.
        cells: A* by t_inference in seconds.
    """

    record: Record
    model: str
    error: float
    about: str
    cells: Mapping[float, Cell]


def verdict(cell: Cell | None, published: float | None, about: bool = False) -> str:
    """Return whether A* is the paper's: "agrees", "differs" or "cannot be said".

    It agrees if all of the interval is within a margin of the paper's value, and differs if all of
    it is outside. The margin is a point, or a tenth of what the paper's model loses if that is
    more.

    Args:
        cell: This project's A*; None if it was not measured.
        published: The paper's A*; None if it was not published.
        about: Whether the paper's value is approximate: nothing can be said then.
    """
    if cell is None or published is None or about or math.isnan(cell.low):
        return OPEN
    margin = max(MARGIN, SHARE * (1.0 - published))
    low, high = cell.low - published, cell.high - published
    if -margin <= low and high <= margin:
        return AGREES
    return DIFFERS if low > margin or high < -margin else OPEN


def verdicts(ours: Measured, published: Published) -> list[str]:
    """Return the verdict at each of `TIMES`.

    Args:
        ours: This project's side.
        published: The paper's row.
    """
    return [
        verdict(ours.cells.get(t_s), published.star(t_s), t_s in published.about) for t_s in TIMES
    ]


def scaling_of(record: Record) -> str:
    """Return what the weights of a run's chips are normalised by.

    Args:
        record: The record of a run.
    """
    preset = record.arguments["preset_data"]
    return str(preset["crossbar"]["values"]["weight_scaling"])


def measured(records: Sequence[Record], wanted: Wanted, published: Published) -> Measured | None:
    """Return this project's side of a row; None if no record has it.

    The numbers are those of the native engine on the most samples, in the first of the records that
    has the phase and the scaling of weights.

    Args:
        records: The records of runs of the model.
        wanted: The model.
        published: The paper's row.
    """
    for record in records:
        study = record.extra["studies"].get(wanted.task)
        if study is None or scaling_of(record) != published.scaling:
            continue
        results = results_of(record)
        rows = results[(results.model == study["model"]) & (results.metric == "error")]
        ours = rows[(rows.phase == published.phase) & (rows.engine == "native")]
        if ours.empty or not str(study["dataset"]).startswith(wanted.dataset):
            continue
        data = max(ours.dataset.unique(), key=lambda name: study["samples"][name])
        digital = rows[(rows.phase == "digital") & (rows.dataset == data)].value.mean()
        trained = ours.training_seed.nunique() if "training_seed" in ours else 1
        chips = ours[ours.dataset == data].chip.nunique()
        about = f"{study['samples'][data]:,} samples, {chips} chips"
        about += f" x {trained} trainings" if trained > 1 else ""
        cells = _cells(rows[rows.dataset == data], study, published.phase)
        return Measured(record, str(study["model"]), float(digital), about, cells)
    return None


def _cells(rows: Any, study: Mapping[str, Any], phase: str) -> dict[float, Cell]:
    """Return A* of a phase by time; only intervals that cover test samples count."""
    stars = tables.a_star(rows, study["chance_error"])
    means = stars[(stars.phase == phase) & (stars.engine == "native")]
    found = {
        float(row["t_inference"]): Cell(row["mean"], math.nan, math.nan, "")
        for row in means.to_dict("records")
        if not math.isnan(row["mean"])
    }
    (data,) = means.data.unique()
    for row in study.get("intervals", ()):
        place = (row["phase"], row["engine"], row["data"], row["minus"])
        if place == (phase, "native", data, "") and row["low"] is not None:
            t_s, ends = float(row["t_inference"]), (row["low"], row["high"])
            found[t_s] = Cell(found[t_s].mean, *ends, row["over"])
    return found


# --- the page -------------------------------------------------------------------------------------


def rows_of(wanted: Wanted) -> list[tuple[Published, Measured | None]]:
    """Return the paper's rows of a model, each with this project's side.

    Args:
        wanted: The model.
    """
    from benchmarks import tasks

    known = named(*wanted.records)
    return [
        (published, measured(known, wanted, published))
        for published in sorted(tasks.find(wanted.task).published, key=lambda x: x.phase)
        if published.by == PAPER and published.data.startswith(wanted.data)
    ]


def section() -> str:
    """Return the comparison: its figure, a table, how to measure what is missing, and reasons."""
    import pandas as pd

    lines, reasons = [], []
    missing: dict[str, list[str]] = {}
    for wanted in WANTED:
        differs = False
        for published, ours in rows_of(wanted):
            lines += _lines(wanted, published, ours)
            if ours is None:
                of = missing.setdefault(_how(wanted, published), [wanted.title])
                of.append(_kind(published))
            else:
                differs = differs or DIFFERS in verdicts(ours, published)
        reasons += _reasons(wanted, differs)
    table = tables.markdown(pd.DataFrame(lines, columns=list(_HEADINGS)))
    parts = [f"![A* against time, the paper's and ours]({IMAGE})", table]
    if reasons:
        how = "Where a row differs, the same once more with one thing changed:"
        parts += [how, "\n".join(reasons)]
    if missing:
        listed = "\n".join(
            f"- {title} ({'; '.join(kinds)}): {how}" for how, (title, *kinds) in missing.items()
        )
        parts += [f"Not measured yet. {_DIGITAL}", listed]
    return "\n\n".join(parts)


def _name(wanted: Wanted, published: Published) -> str:
    return f"{wanted.title}, {_kind(published)}"


def _kind(published: Published) -> str:
    scaling = f", one scale per {published.scaling}" if published.phase == "direct" else ""
    return _PHASES[published.phase] + scaling


def _lines(wanted: Wanted, published: Published, ours: Measured | None) -> list[list[str]]:
    """Return the paper's line, this project's, and the verdicts."""
    theirs = published.error(published.digital)
    stars = {t_s: published.star(t_s) for t_s in TIMES}
    about = {t_s: t_s in published.about for t_s in TIMES}
    shown = [
        "?" if star is None else f"{'~' if about[t_s] else ''}{100 * star:.2f}"
        for t_s, star in stars.items()
    ]
    first = [wanted.title, _kind(published), f"paper, {published.model}"]
    lines = [[*first, f"{100 * theirs:.2f} %", *shown, "[1]"]]
    if ours is None:
        return [*lines, ["", "", "this project", *["not measured"] * 5, "below"]]
    cells = [ours.cells.get(t_s) for t_s in TIMES]
    which = f"{ours.model}, {ours.about}"
    over = next((cell.over for cell in cells if cell and cell.over), "chips alone")
    error = f"{100 * ours.error:.2f} %"
    values = ["?" if cell is None else str(cell) for cell in cells]
    lines.append(["", "", which, error, *values, f"{link(ours.record, LINK)}; over {over}"])
    nearer = f"{100 * (ours.error - theirs):+.2f} points"
    return [*lines, ["", "", "verdict", nearer, *verdicts(ours, published), ""]]


def _how(wanted: Wanted, published: Published) -> str:
    """Return how a row is measured, as text."""
    if published.scaling == "column":
        name, more = wanted.records[0], _PHASES_OF_ALL
    else:
        name, more = wanted.records[1], "--preset tile.toml --phases direct --times 1s 1h 1d 1y"
    how = f"python -m benchmarks.run {wanted.command} {more} --out runs/{name}"
    return f"`{how}`, then `python -m benchmarks.record add runs/{name}`"


def _reasons(wanted: Wanted, differs: bool) -> list[str]:
    """Return what was measured to find out why a model differs, one line per record."""
    if not differs:
        return []
    lines = []
    for name, what in REASONS:
        for record in named(name):
            if wanted.task not in record.extra["studies"]:
                continue
            for published, _ in rows_of(wanted):
                ours = measured([record], wanted, published)
                if ours is not None:
                    stars = ", ".join(f"{label(t)} {c}" for t, c in sorted(ours.cells.items()))
                    text = f"- {_name(wanted, published)}, {what}: {stars} ({link(record, LINK)})"
                    lines.append(text)
    return lines or [f"- {wanted.title}: the reason is not measured"]


# --- the figure -----------------------------------------------------------------------------------


def records() -> list[Record]:
    """Return the committed records that the page shows."""
    names = [name for wanted in WANTED for name in wanted.records]
    return named(*names, *(name for name, _ in REASONS))


def mark() -> str:
    """Return the digest of all that the figure shows: the records and the published numbers."""
    published = [published for wanted in WANTED for published, _ in rows_of(wanted)]
    return hashlib.sha256(f"{digest(*records())} {published!r}".encode()).hexdigest()


def draw(path: Path, description: str) -> None:
    """Draw A* against time: a panel per model, with the paper's curves and this project's.

    Args:
        path: The file, .png.
        description: A text for the file's metadata.
    """
    drawn, axes = figures.new(2, 2, (10.6, 6.6))
    for axis, wanted in zip(axes.flat, WANTED, strict=True):
        _panel(axis, wanted)
    drawing.legend(drawn, axes.flat)
    drawing.caption(drawn, ["A*, %", "bars: 95 % interval of the mean"])
    figures.save(drawn, path, dpi=110, description=description, vector=False)


def _panel(axis: Axes, wanted: Wanted) -> None:
    """Draw one model's curves: the paper's dashed, this project's with bars."""
    for published, ours in rows_of(wanted):
        colour = drawing.COLOURS[("tile", "column").index(published.scaling)]
        if published.phase == "hwa":
            colour = drawing.COLOURS[2]
        stars = {t_s: star for t_s in TIMES if (star := published.star(t_s)) is not None}
        kind = _kind(published)
        values = [100 * star for star in stars.values()]
        line = "s--" if len(values) > 1 else "s"
        name = f"paper, {kind}"
        axis.plot(list(stars), values, line, color=colour, lw=1, mfc="white", label=name)
        if ours is not None:
            times = sorted(ours.cells)
            cells = [ours.cells[t_s] for t_s in times]
            means = [100 * cell.mean for cell in cells]
            bars = [
                [100 * (cell.mean - cell.low) for cell in cells],
                [100 * (cell.high - cell.mean) for cell in cells],
            ]
            axis.errorbar(
                *(times, means), yerr=bars, fmt="o-", color=colour, capsize=3, label=f"ours, {kind}"
            )
    axis.axhline(100, color=drawing.MUTED, lw=0.8)
    drawing.time_axis(axis, TIMES)
    axis.set_title(wanted.title, fontsize=9)
    axis.set_ylabel("A*, %")
