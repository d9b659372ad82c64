"""Ablations: changes of A* against the recipe, their records, docs/ablation.md.

Changes are computed chip by chip. The rows of a record are the rows of results.csv: one per
variant, training, time, chip and metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge import curves, drawing, files
from aimc_bridge.csv_cells import as_csv
from aimc_bridge.errors import DataError
from aimc_bridge.times import label
from benchmarks.a_star import normalised_accuracy
from benchmarks.report import dots as dots_of
from benchmarks.report import figures
from benchmarks.report.html import build, page
from benchmarks.report.intervals import CONFIDENCE, ends, mean_interval
from benchmarks.report.record import Record, head, of_kind, read_csv, read_run, write_run
from benchmarks.report.tables import markdown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLUMNS = ["variant", "training_seed", "metric", "t_inference", "chip", "seed", "value"]


def stars(results: pd.DataFrame, chance: float) -> pd.DataFrame:
    """Return A* of every chip at every time.

    A* is the accuracy that is left, from 0 (guessing) to 1 (the digital model).

    Args:
        results: The rows of one ablation, `COLUMNS`.
        chance: The error of guessing, in [0, 1].

    Returns:
        A table with the columns variant, training_seed, t_inference (s), chip, seed, value.
    """
    errors = results[results.metric == "error"]
    digital = float(errors[errors.variant == "digital"].value.iloc[0])
    chips = errors[errors.variant != "digital"].drop(columns="metric")
    return chips.assign(value=[normalised_accuracy(e, digital, chance) for e in chips.value])


def size_of(results: pd.DataFrame, chance: float) -> float:
    """Return what an error of 1 is in A*, of which the rounding of A* is a share.

    Args:
        results: The rows of one ablation, `COLUMNS`.
        chance: The error of guessing, in [0, 1].
    """
    digital = results[(results.metric == "error") & (results.variant == "digital")]
    return 1.0 / (chance - float(digital.value.iloc[0]))


def units(table: pd.DataFrame, variant: str, t_s: float) -> pd.Series[float]:
    """Return a variant's values at a time, one per unit of the intervals.

    With one training a unit is a chip: all variants are trained with the same data order and
    measured on the same chips, so they are paired. With several trainings a unit is a training, and
    its value is the mean over its chips.

    Args:
        table: What `stars` returns.
        variant: The variant.
        t_s: The time in seconds.
    """
    rows = table[(table.variant == variant) & (table.t_inference == t_s)]
    if rows.training_seed.nunique() > 1:
        return rows.groupby("training_seed").value.mean()
    return rows.set_index("chip").value.sort_index()


def changes(results: pd.DataFrame, chance: float) -> pd.DataFrame:
    """Return A* of each variant and time, and its change against the recipe.

    Args:
        results: The rows of one ablation, `COLUMNS`; the first variant is the recipe.
        chance: The error of guessing, in [0, 1].

    Returns:
        One row per variant and time: A*, the change, and the interval of each. The interval of the
        change is paired.

    Raises:
        DataError: If a variant lacks chips of the recipe.
    """
    import pandas as pd

    table, size = stars(results, chance), size_of(results, chance)
    base = table.variant.iloc[0]
    rows = []
    for variant in table.variant.drop_duplicates():
        for t_s in sorted(table.t_inference.unique()):
            values, base_values = units(table, variant, t_s), units(table, base, t_s)
            if list(values.index) != list(base_values.index):
                raise DataError(f"{variant!r} at {label(t_s)} has other chips than {base!r}")
            star = mean_interval(values, size)
            change = mean_interval(values - base_values, size)
            rows.append(
                {
                    "variant": variant,
                    "t_inference": float(t_s),
                    "a_star": star.mean,
                    "a_star_low": star.low,
                    "a_star_high": star.high,
                    "change": change.mean,
                    "change_low": change.low,
                    "change_high": change.high,
                }
            )
    return pd.DataFrame(rows)


def text_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return `changes` as text to read: percent, one column per time.

    Args:
        table: What `changes` returns.
    """
    import pandas as pd

    rows = []
    for variant, group in table.groupby("variant", sort=False):
        row = {"variant": str(variant)}
        for at_time in group.to_dict("records"):
            when = label(float(at_time["t_inference"]))
            row[f"A* {when}"] = f"{100 * at_time['a_star']:.2f} %"
            row[f"change {when}"] = "" if variant == table.variant.iloc[0] else _change(at_time)
        rows.append(row)
    return pd.DataFrame(rows)


def _change(row: dict[Any, Any]) -> str:
    points = _points(row["change"])
    both = ends(row["change_low"], row["change_high"], _points, 2)
    return f"{points} [{both[0]}, {both[1]}]" if both else points


def _points(share: float, digits: int = 2) -> str:
    return f"{round(100 * share, digits) + 0.0:+.{digits}f}"  # + 0.0 turns -0.0 into 0.0


def figure(
    table: pd.DataFrame,
    title: str,
    path: Path,
    description: str | None = None,
    *,
    caption: Sequence[str] = (),
    vector: bool = True,
) -> None:
    """Draw the changes as points with intervals, one panel per time.

    Args:
        table: What `changes` returns.
        title: The title of the whole figure.
        path: The file, .png.
        description: A text for the file's metadata.
        caption: What stands under the figure.
        vector: Whether to write an SVG beside it.
    """
    times = sorted(table.t_inference.unique())
    others = list(table.variant.drop_duplicates())[1:]
    size = (3.4 * len(times) + 2.6, 1.9 + 0.34 * max(1, len(others)))
    drawn, axes = figures.new(1, len(times), size, sharex=True, sharey=True)
    for axis, t_s in zip(axes[0], times, strict=True):
        panel(axis, table, float(t_s))
    axes[0][0].invert_yaxis()
    drawn.suptitle(title, fontsize=10, color=drawing.INK)
    drawing.caption(drawn, caption)
    figures.save(drawn, path, description=description, vector=vector)


def panel(axis: Axes, table: pd.DataFrame, t_s: float, mark: curves.Mark = curves.ignore) -> None:
    """Draw the changes at one time as points with intervals.

    Args:
        axis: The axes.
        table: What `changes` returns.
        t_s: The time, in seconds.
        mark: Is called with each artist; see `curves.Mark`.
    """
    others = list(table.variant.drop_duplicates())[1:]
    at = table[(table.t_inference == t_s)].set_index("variant").loc[others]
    dots = [
        dots_of.Dot(str(name), *(100 * float(value) for value in values))
        for name, values in zip(
            others, at[["change", "change_low", "change_high"]].to_numpy(), strict=True
        )
    ]
    dots_of.draw(axis, dots, unit=" points", mark=mark)
    axis.axvline(0.0, color=drawing.INK, lw=1)
    low, high = axis.get_xlim()
    if high - low < 2.0:  # points: noise must not look like an effect
        middle = (low + high) / 2
        axis.set_xlim(middle - 1.0, middle + 1.0)
    axis.set_xlabel("change of A*, points (right is better)")
    axis.set_title(f"{label(t_s)} after programming", fontsize=9)


def facts_of(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of the study in run.json (or in a record's `extra`).

    Args:
        about: The contents of run.json, which has one study.
    """
    facts: dict[str, Any] = next(iter(about["studies"].values()))
    return facts


def text(results: pd.DataFrame, facts: Mapping[str, Any], command: str, image: str) -> str:
    """Return one ablation in words and numbers.

    Args:
        results: Its rows, `COLUMNS`.
        facts: What is known of the study; see `facts_of`.
        command: The command line.
        image: The path from the page to the figure.
    """
    table = changes(results, facts["chance_error"])
    chips = results[results.variant != "digital"]
    trainings = chips.training_seed.nunique()
    over = "chips, paired" if trainings == 1 else "trainings, paired"
    caveat = ": the spread between trainings is not in them." if trainings == 1 else "."
    lines = [
        f"## {facts['model']}, {facts['dataset']}: recipe {facts['recipe']['name']}",
        f"{facts['samples']:,} {facts['unit']} of the {facts['split']} split, "
        f"{chips.chip.nunique()} chips, trainings of each variant: {trainings}. "
        f"`{command}`",
        markdown(text_of(table)),
        "Change of A* against the first row, points, with "
        f"{100 * CONFIDENCE:.0f} % intervals over the {over}{caveat}",
        f"![changes]({image})",
    ]
    return "\n\n".join(lines) + "\n"


# --- a run's folder -------------------------------------------------------------------------------


def write(out: Path, results: pd.DataFrame, about: Mapping[str, Any]) -> None:
    """Write results.csv, run.json, and the files that `save` makes from them.

    Args:
        out: The folder.
        results: The rows, `COLUMNS`.
        about: The contents of run.json.
    """
    files.write_text(out / "results.csv", as_csv(results))
    save(out, results, about)
    write_run(out, about)


def save(out: Path, results: pd.DataFrame, about: Mapping[str, Any]) -> None:
    """Write changes.csv, summary.md, report.html and the figure; see `write`.

    Args:
        out: The folder.
        results: The rows, `COLUMNS`.
        about: The contents of run.json.
    """
    facts = facts_of(about)
    table = changes(results, facts["chance_error"])
    files.write_text(out / "changes.csv", as_csv(table))
    words = text(results, facts, about["command"], "figure.png")
    files.write_text(out / "summary.md", f"# Ablation\n\n{words}")
    figure(table, _title(facts), out / "figure.png", caption=caption_of(results, about))
    page.write(build.of_ablation(out, results, about), out / page.FILE)


def caption_of(results: pd.DataFrame, about: Mapping[str, Any]) -> list[str]:
    """Return what stands under the figure: preset, chips, samples, what the intervals are over.

    Args:
        results: The rows, `COLUMNS`.
        about: The contents of run.json.
    """
    facts = facts_of(about)
    chips = results[results.variant != "digital"]
    trainings = chips.training_seed.nunique()
    preset = about["arguments"].get("preset")
    return [
        f"preset {preset}" if preset else "",
        curves.chips_text(chips),
        f"{trainings} trainings of each" if trainings > 1 else "one training of each",
        f"{facts['samples']:,} {facts['unit']}",
        f"against: {chips.variant.iloc[0]}",
        f"bars: 95 % over {'trainings' if trainings > 1 else 'chips'}, paired",
    ]


def _title(facts: Mapping[str, Any]) -> str:
    return f"{facts['model']}, {facts['dataset']}"


def rebuild(folder: Path) -> None:
    """Write changes.csv, summary.md and the figure of a finished ablation again.

    Args:
        folder: The `--out` of the ablation.

    Raises:
        DataError: If the folder holds no finished ablation.
    """
    import pandas as pd

    about = read_run(folder)
    save(folder, pd.DataFrame(_read_rows(folder), columns=COLUMNS), about)


def _read_rows(folder: Path) -> list[list[Any]]:
    return read_csv(folder / "results.csv", COLUMNS, ("variant", "metric"))


# --- records --------------------------------------------------------------------------------------


def record_of(folder: Path, name: str) -> Record:
    """Read a finished ablation's folder as a record.

    Args:
        folder: The `--out` of the ablation.
        name: What the record is called.

    Raises:
        DataError: If the folder holds no finished ablation.
    """
    about = read_run(folder)
    return Record(
        "ablation",
        name,
        **head(about),
        columns=COLUMNS,
        rows=_read_rows(folder),
        extra={"studies": about["studies"]},
    )


def committed() -> list[Record]:
    """Return the committed records that compare techniques; see `report.recipes` for the others."""
    return [record for record in of_kind("ablation") if not record.arguments.get("recipes")]


def image_of(record: Record) -> str:
    """Return the path from docs/ to the figure of a record.

    Args:
        record: A record of kind "ablation".
    """
    return f"{record.name}.png"


def section(records: Sequence[Record] | None = None) -> str:
    """Return the text between the marks of docs/ablation.md; "" without records.

    Args:
        records: The records shown; None is all that are committed.
    """
    records = committed() if records is None else records
    parts = [
        text(
            record.table(), facts_of(record.extra), record.shown_command, image_of(record)
        ).rstrip()
        for record in records
    ]
    return "\n\n".join(parts)


def draw(record: Record, path: Path, description: str) -> None:
    """Draw the figure of a record; see `figure`.

    Args:
        record: A record of kind "ablation".
        path: The file, .png.
        description: A text for the file's metadata.
    """
    facts = facts_of(record.extra)
    about = {**record.extra, "arguments": record.arguments}
    figure(
        changes(record.table(), facts["chance_error"]),
        _title(facts),
        path,
        description,
        caption=caption_of(record.table(), about),
        vector=False,
    )
