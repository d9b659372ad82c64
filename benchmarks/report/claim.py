"""The replication's claim on docs/replication.md: what a year costs under both physics.

The numbers are the first and the last rung of the ladder of WRN-16-4 on CIFAR-100: the same weights
and chip seeds under `scalar_drift` and under `rasch2023`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge import curves, drawing
from aimc_bridge.times import label
from benchmarks.report import figures, ladder, tables
from benchmarks.report.intervals import change
from benchmarks.report.ladder_tables import PHYSICS, digital_of, times_of, values_of
from benchmarks.report.record import Record, digest, link, named
from benchmarks.studies.ladder.rungs import LADDER
from benchmarks.tasks.published import REPLICATION, Published

if TYPE_CHECKING:
    import pandas as pd

TASK, DATA = "wrn", "CIFAR-100"
RECORD = f"ladder-{TASK}"
IMAGE = "replication-claim.png"
COMMAND = (
    "python -m benchmarks.ladder wrn -o dataset=cifar100 --profile real --data-dir DIR "
    "--checkpoint runs/wrn-cifar100 --out runs/ladder-wrn"
)
_RUNGS = {"replication": LADDER[0].key, "paper": LADDER[-1].key}


def published() -> Published:
    """Return what the replication has published of this model."""
    from benchmarks import tasks

    (found,) = (x for x in tasks.find(TASK).published if x.by == REPLICATION and x.data == DATA)
    return found


def committed() -> Record | None:
    """Return the committed ladder of this model; None if there is none, or of other data."""
    for record in named(RECORD):
        if record.extra["studies"][TASK]["dataset"] == DATA:
            return record
    return None


def section() -> str:
    """Return the table and the figure; without a record, how to measure it."""
    import pandas as pd

    record, theirs = committed(), published()
    shown = (theirs.at.get(t_s) for t_s in (1.0, 3600.0, 86400.0, 31536000.0))
    lines = [
        {
            "weights": f"the replication's, {theirs.model}",
            "physics": "its own",
            "digital": tables.number(theirs.digital, "accuracy"),
            **{
                name: "?" if value is None else tables.number(value, "accuracy")
                for name, value in zip(("1s", "1h", "1d", "1y"), shown, strict=True)
            },
            "lost from the first time to the last, points": f"{100 * _lost(theirs):.2f}",
        }
    ]
    if record is None:
        table = tables.markdown(pd.DataFrame(lines))
        return f"{table}\n\nNot measured yet: `{COMMAND}`."
    results, facts = ladder.results_of(record)
    lines += [_line(results, facts, side) for side in _RUNGS]
    chips = int(results.chip.nunique())
    return "\n\n".join(
        [
            f"![accuracy against time under both physics]({IMAGE})",
            tables.markdown(pd.DataFrame(lines).fillna("?")),
            f"{facts['samples']:,} test samples, {chips} chips, the same under both; intervals "
            f"over chips alone. {link(record)}: `{record.shown_command}`.",
        ]
    )


def _lost(theirs: Published) -> float:
    first, last = min(theirs.at), max(theirs.at)
    return theirs.at[first] - theirs.at[last]


def _line(results: pd.DataFrame, facts: dict[str, Any], side: str) -> dict[str, str]:
    """Return the line of one physics: means over chips, and the loss, paired by chip."""
    times, rung = times_of(results), _RUNGS[side]
    at = {t_s: values_of(results, rung, "accuracy", t_s) for t_s in times}
    lost = change(at[times[-1]].to_numpy(), at[times[0]].to_numpy())
    digital = digital_of(results, "accuracy")
    text = f"{100 * lost.mean:.2f}{tables.interval(100 * lost.low, 100 * lost.high)}"
    return {
        "weights": f"ours, {facts['model']}",
        "physics": f"`{PHYSICS[side]}`",
        "digital": tables.number(digital, "accuracy"),
        **{label(t_s): tables.spread(at[t_s].tolist(), "accuracy") for t_s in times},
        "lost from the first time to the last, points": text,
    }


def mark(record: Record) -> str:
    """Return the digest of all that the figure shows.

    Args:
        record: The ladder of this model.
    """
    return hashlib.sha256(f"{digest(record)} {published()!r}".encode()).hexdigest()


def draw(record: Record, path: Path, description: str) -> None:
    """Draw accuracy against time: the published values, and the same weights under both physics.

    Args:
        record: The ladder of this model.
        path: The file, .png.
        description: A text for the file's metadata.
    """
    drawn, axes = figures.new(1, 1, (8.6, 4.2))
    axis, theirs = axes[0][0], published()
    results, facts = ladder.results_of(record)
    shown, times = results[results.metric == "accuracy"], times_of(results)
    for index, (side, rung) in enumerate(_RUNGS.items()):
        rows = shown[shown.row == rung][["chip", "t_inference", "value"]]
        rows = rows.assign(value=100 * rows["value"])
        curve = curves.Curve(f"our weights, {PHYSICS[side]}", rows, index, key=side)
        curves.draw(axis, curve, index, len(_RUNGS), times=times, unit=" %")
    digital = 100 * digital_of(results, "accuracy")
    axis.axhline(digital, color=drawing.MUTED, lw=1, label="our weights, digital")
    at = sorted(theirs.at)
    values = [100 * theirs.at[t_s] for t_s in at]
    axis.plot(
        at, values, "D:", color=drawing.COLOURS[2], mfc="white", label="replication, published"
    )
    drawing.time_axis(axis, times)
    curves.widen(axis, 100.0, share=True)
    axis.set_title(f"{facts['model']}, {facts['dataset']}", fontsize=9)
    axis.set_ylabel("accuracy, %")
    drawing.legend(drawn, [axis])
    drawing.caption(drawn, [f"{facts['samples']:,} test samples", "bars: 95 % over chips"])
    figures.save(drawn, path, dpi=110, description=description, vector=False)
