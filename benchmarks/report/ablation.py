"""Tables, figures and records of ablations: changes of A* against the recipe, chip by chip.

`python -m benchmarks.report.ablation` writes docs/ablation.md and its figures from the records.
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge.errors import AimcError, DataError, UsageError
from aimc_bridge.times import label
from benchmarks.command import Parser
from benchmarks.files import replace_file
from benchmarks.report.intervals import CONFIDENCE, mean_interval
from benchmarks.report.tables import markdown, normalised_accuracy

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["variant", "training_seed", "metric", "t_inference", "chip", "seed", "value"]
FOLDER = Path(__file__).parent / "records"
DOCS = Path(__file__).parent.parent / "docs"


def stars(results: pd.DataFrame, chance: float) -> pd.DataFrame:
    """A* of every chip at every time: variant, training_seed, t_inference, chip, value."""
    errors = results[results.metric == "error"]
    digital = float(errors[errors.variant == "digital"].value.iloc[0])
    chips = errors[errors.variant != "digital"].drop(columns="metric")
    return chips.assign(value=[normalised_accuracy(e, digital, chance) for e in chips.value])


def units(table: pd.DataFrame, variant: str, t_s: float) -> pd.Series[float]:
    """A variant's values at a time, a unit of the intervals each.

    A unit is a chip where there is one training (both trained with the same data order and measured
    on the same chips: paired), and a training, the mean over its chips, where there are several.
    """
    mine = table[(table.variant == variant) & (table.t_inference == t_s)]
    if mine.training_seed.nunique() > 1:
        return mine.groupby("training_seed").value.mean()
    return mine.set_index("chip").value.sort_index()


def changes(results: pd.DataFrame, chance: float) -> pd.DataFrame:
    """A row a variant and time: A* and its change against the recipe, with paired intervals.

    Raises:  DataError where a variant lacks the recipe's chips.
    """
    import pandas as pd

    table = stars(results, chance)
    base = table.variant.iloc[0]
    rows = []
    for variant in table.variant.drop_duplicates():
        for t_s in sorted(table.t_inference.unique()):
            mine, theirs = units(table, variant, t_s), units(table, base, t_s)
            if list(mine.index) != list(theirs.index):
                raise DataError(f"{variant!r} at {label(t_s)} has other chips than {base!r}")
            star = mean_interval(mine)
            change = mean_interval(mine - theirs)
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
    """`changes` for reading: percent, a column a time."""
    import pandas as pd

    rows = []
    for variant, group in table.groupby("variant", sort=False):
        row = {"variant": str(variant)}
        for one in group.to_dict("records"):
            when = label(float(one["t_inference"]))
            row[f"A* {when}"] = f"{100 * one['a_star']:.2f} %"
            row[f"change {when}"] = "" if variant == table.variant.iloc[0] else _change(one)
        rows.append(row)
    return pd.DataFrame(rows)


def _change(one: dict[Any, Any]) -> str:
    said = _points(one["change"])
    if math.isnan(one["change_low"]):
        return said
    return f"{said} [{_points(one['change_low'])}, {_points(one['change_high'])}]"


def _points(share: float) -> str:
    return f"{round(100 * share, 2) + 0.0:+.2f}"  # + 0.0: no "-0.00"


def figure(table: pd.DataFrame, title: str, path: Path) -> None:
    """The changes as points with intervals, a panel a time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    times = sorted(table.t_inference.unique())
    others = list(table.variant.drop_duplicates())[1:]
    size = (4.8 * len(times) + 1.5, 1.6 + 0.34 * max(1, len(others)))
    fig, axes = plt.subplots(
        1, len(times), figsize=size, sharey=True, squeeze=False, constrained_layout=True
    )
    for panel, t_s in zip(axes[0], times, strict=True):
        at = table[(table.t_inference == t_s)].set_index("variant").loc[others]
        mean = 100 * at.change.to_numpy()
        low, high = 100 * at.change_low.to_numpy(), 100 * at.change_high.to_numpy()
        places = range(len(others))
        panel.hlines(places, low, high, color="tab:blue")
        panel.plot(mean, places, "o", color="tab:blue")
        panel.axvline(0.0, color="black", linewidth=1)
        panel.set_yticks(places, others)
        panel.set_xlabel("change of A*, points")
        panel.set_title(label(float(t_s)), fontsize=10)
        panel.grid(alpha=0.3, axis="x")
    axes[0][0].invert_yaxis()
    fig.suptitle(title, fontsize=10)
    fig.savefig(path, dpi=150)
    plt.close(fig)


def facts_of(record: dict[str, Any]) -> dict[str, Any]:
    """What a record says of its one study."""
    facts: dict[str, Any] = next(iter(record["studies"].values()))
    return facts


def text(results: pd.DataFrame, record: dict[str, Any], image: str) -> str:
    """One ablation in words and numbers."""
    facts = facts_of(record)
    table = changes(results, facts["chance_error"])
    chips = results[results.variant != "digital"]
    trainings = chips.training_seed.nunique()
    over = "chips, paired" if trainings == 1 else "trainings, paired"
    caveat = ": the spread between trainings is not in them." if trainings == 1 else "."
    lines = [
        f"## {facts['model']}, {facts['dataset']}: recipe {facts['recipe']['name']}",
        f"{facts['samples']:,} {facts['unit']} of the {facts['split']} split, "
        f"{chips.chip.nunique()} chips, trainings of each variant: {trainings}. "
        f"`{record['command']}`",
        markdown(text_of(table)),
        "Change of A* against the first row, points, with "
        f"{100 * CONFIDENCE:.0f} % intervals over the {over}{caveat}",
        f"![changes]({image})",
    ]
    return "\n\n".join(lines) + "\n"


def write(out: Path, results: pd.DataFrame, record: dict[str, Any], name: str | None) -> None:
    """results.csv, changes.csv, summary.md, figure.png and run.json; and a record, where named."""
    facts = facts_of(record)
    results.to_csv(out / "results.csv", index=False)
    table = changes(results, facts["chance_error"])
    table.to_csv(out / "changes.csv", index=False)
    replace_file(out / "summary.md", "# Ablation\n\n" + text(results, record, "figure.png"))
    figure(table, f"{facts['model']}, {facts['dataset']}", out / "figure.png")
    replace_file(out / "run.json", json.dumps(record, indent=1) + "\n")
    if name is not None:
        keep(results, record)


def check_name(name: str) -> None:
    """UsageError for a record's name that is not a file name."""
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise UsageError(
            f"--record {name!r}; allowed: letters, digits, points, dashes, underscores"
        )


def keep(results: pd.DataFrame, record: dict[str, Any], folder: Path | None = None) -> Path:
    """The record as a file, every row of the results in it."""
    folder = FOLDER if folder is None else folder
    folder.mkdir(exist_ok=True)
    rows = ",\n".join("  " + json.dumps(row) for row in results[COLUMNS].to_numpy().tolist())
    head = json.dumps({**record, "columns": COLUMNS, "rows": []}, indent=1, ensure_ascii=False)
    file = folder / f"{record['name']}.json"
    replace_file(file, head.replace(' "rows": []', f' "rows": [\n{rows}\n ]') + "\n")
    return file


def read(file: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """(results, the rest) of a record.

    Raises:  DataError where it is damaged.
    """
    import pandas as pd

    try:
        record: dict[str, Any] = json.loads(file.read_text())
        results = pd.DataFrame(record.pop("rows"), columns=record.pop("columns"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is not an ablation's record ({error!r})") from None
    return results, record


INTRO = """# Ablation

What each technique of hardware-aware training is worth: from one digital model the recipe is
trained as it is, then with one technique changed; same data in the same order, same steps, same
chips. A* = 1 - (err - err_digital) / (err_chance - err_digital). This page is written by
`python -m benchmarks.report.ablation` from the records in `benchmarks/records/`."""


def page(records: list[Path]) -> str:
    """docs/ablation.md."""
    parts = [INTRO]
    for file in records:
        results, record = read(file)
        parts.append(text(results, record, f"{record['name']}.png").rstrip())
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the page and its figures."""
    made = Parser(
        prog="python -m benchmarks.report.ablation",
        description="Write docs/ablation.md and its figures from the records.",
    )
    files = sorted(FOLDER.glob("ablation-*.json"))
    try:
        made.parse_args(arguments)
        if not files:
            raise DataError(f"no ablation-*.json in {FOLDER}; python -m benchmarks.ablation first")
        words = page(files)
        for file in files:
            results, record = read(file)
            facts = facts_of(record)
            table = changes(results, facts["chance_error"])
            title = f"{facts['model']}, {facts['dataset']}"
            figure(table, title, DOCS / f"{record['name']}.png")
        replace_file(DOCS / "ablation.md", words)
    except AimcError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(DOCS / "ablation.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
