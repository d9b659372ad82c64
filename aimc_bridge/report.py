"""Tables and figures from results in long form: a row a model, phase, engine, time, chip, metric."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge.errors import DataError
from aimc_bridge.times import label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLUMNS = [
    "model",
    "dataset",
    "metric",
    "phase",
    "engine",
    "preset",
    "t_inference",
    "chip",
    "seed",
    "value",
]
PHASES = ("digital", "direct", "hwa")
_PHASE_NAMES = {"digital": "digital", "direct": "direct conversion", "hwa": "hardware-aware"}
_STYLES = {
    ("direct", "native"): {"color": "tab:orange", "linestyle": "-", "marker": "o"},
    ("direct", "aihwkit"): {"color": "tab:orange", "linestyle": "--", "marker": "s"},
    ("hwa", "native"): {"color": "tab:blue", "linestyle": "-", "marker": "o"},
    ("hwa", "aihwkit"): {"color": "tab:blue", "linestyle": "--", "marker": "s"},
}


def normalised_accuracy(error: float, digital: float, chance: float) -> float:
    """A* = 1 - (err - err_FP) / (err_chance - err_FP). Source: rasch2023.

    Args:    error, digital, chance  errors in [0, 1]: analog, digital model, guessing.
    Raises:  DataError where the digital model is no better than guessing: A* means nothing.
    """
    if not digital < chance:
        raise DataError(
            f"A*: the digital error {digital:.4f} is not below chance {chance:.4f}; "
            "train the digital model first"
        )
    return 1.0 - (error - digital) / (chance - digital)


def summary(results: pd.DataFrame, metric: str, chance: float | None = None) -> pd.DataFrame:
    """One model's table: a row a phase and engine; a column a time, "mean ± sd (chips)".

    Args:    results  rows of one model, `COLUMNS`.    metric  the headline metric.
             chance  error of guessing; with it and rows of metric "error" A* is added.
    Returns: DataFrame of text: phase, engine, dataset, a column a time, drift loss (last time less
             first), A* at the last time.
    """
    import pandas as pd

    shown = results[results.metric == metric]
    times = sorted(shown.t_inference.dropna().unique())
    rows = []
    for (phase, engine, dataset), group in shown.groupby(
        ["phase", "engine", "dataset"], sort=False
    ):
        row: dict[str, Any] = {"phase": _PHASE_NAMES[str(phase)], "engine": engine, "data": dataset}
        if phase == "digital":
            row["digital"] = _number(group.value.mean(), metric)
        for t_s in times:
            values = group[group.t_inference == t_s].value
            if len(values):
                row[label(t_s)] = _spread(values, metric)
        if phase != "digital" and len(times) > 1:
            mean = group.groupby("t_inference").value.mean()
            row["drift loss"] = _number(abs(mean.iloc[0] - mean.iloc[-1]), metric) + (
                "" if _worse(mean, metric) else " (gain)"
            )
            if chance is not None:
                row[f"A* {label(times[-1])}"] = _a_star(results, group, chance, times[-1])
        rows.append(row)
    table = pd.DataFrame(rows).fillna("")
    first = [c for c in ("phase", "engine", "data", "digital") if c in table.columns]
    return table[first + [c for c in table.columns if c not in first]]


def _worse(mean: pd.Series[float], metric: str) -> bool:
    change = float(mean.iloc[-1] - mean.iloc[0])
    return change >= 0 if metric == "perplexity" else change <= 0


def _a_star(results: pd.DataFrame, group: pd.DataFrame, chance: float, t_s: float) -> str:
    errors = results[(results.metric == "error") & (results.dataset == group.dataset.iloc[0])]
    digital = errors[errors.phase == "digital"].value
    mine = errors[
        (errors.phase == group.phase.iloc[0])
        & (errors.engine == group.engine.iloc[0])
        & (errors.t_inference == t_s)
    ].value
    if digital.empty or mine.empty:
        return ""
    try:
        values = [normalised_accuracy(e, digital.mean(), chance) for e in mine]
    except DataError:
        return "undefined"
    return _spread(_series(values), "accuracy")


def _series(values: list[float]) -> pd.Series[float]:
    import pandas as pd

    return pd.Series(values)


def _number(value: float, metric: str) -> str:
    return f"{value:.2f}" if metric == "perplexity" else f"{100 * value:.2f} %"


def _spread(values: pd.Series[float], metric: str) -> str:
    scale, unit = (1.0, "") if metric == "perplexity" else (100.0, " %")
    mean = scale * values.mean()
    if len(values) < 2:
        return f"{mean:.2f}{unit} (1 chip)"
    return f"{mean:.2f} ± {scale * values.std():.2f}{unit} ({len(values)} chips)"


def figure(results: pd.DataFrame, metric: str, path: str | Path) -> None:
    """One model's metric against time: mean over chips, every chip as a dot, digital as a line."""
    plt = _pyplot()
    fig, axes = plt.subplots(figsize=(6.4, 4.2), constrained_layout=True)
    _draw(axes, results, metric)
    fig.savefig(path, dpi=150)
    plt.close(fig)


def dashboard(models: list[tuple[pd.DataFrame, str]], path: str | Path) -> None:
    """All models side by side; `models` holds (rows of one model, its headline metric)."""
    plt = _pyplot()
    fig, axes = plt.subplots(
        1, len(models), figsize=(5.2 * len(models), 4.4), constrained_layout=True, squeeze=False
    )
    for panel, (results, metric) in zip(axes[0], models, strict=True):
        _draw(panel, results, metric)
    fig.savefig(path, dpi=150)
    plt.close(fig)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _draw(axes: Axes, results: pd.DataFrame, metric: str) -> None:
    shown = results[results.metric == metric]
    scale = 1.0 if metric == "perplexity" else 100.0
    for dataset, group in shown[shown.phase == "digital"].groupby("dataset", sort=False):
        style = ":" if "first" in str(dataset) else "-"
        axes.axhline(
            scale * group.value.mean(), color="black", linewidth=1, linestyle=style, label="digital"
        )
    analog = shown[shown.phase != "digital"]
    for (phase, engine), group in analog.groupby(["phase", "engine"], sort=False):
        mean = group.groupby("t_inference").value.mean() * scale
        style_of = _STYLES[str(phase), str(engine)]
        name = f"{_PHASE_NAMES[str(phase)]}, {engine}"
        axes.plot(mean.index, mean.values, label=name, **style_of)  # type: ignore[arg-type]
        axes.scatter(
            group.t_inference, group.value * scale, s=9, alpha=0.4, color=style_of["color"]
        )
    times = sorted(analog.t_inference.unique())
    if times:
        axes.set_xscale("log")
        axes.set_xticks(times, [label(t) for t in times])
        axes.minorticks_off()
    axes.set_xlabel("time after programming")
    axes.set_ylabel(metric if metric == "perplexity" else f"{metric}, %")
    axes.set_title(f"{results.model.iloc[0]}\n{_short(results)}", fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), fontsize=7)
    axes.grid(alpha=0.3)


def _short(results: pd.DataFrame) -> str:
    names = list(results.dataset.unique())
    return str(min(names, key=len))


def markdown(table: pd.DataFrame) -> str:
    """A GitHub table of a DataFrame of text."""
    header = "| " + " | ".join(table.columns) + " |"
    rule = "| " + " | ".join("---" for _ in table.columns) + " |"
    lines = ["| " + " | ".join(str(v) for v in row) + " |" for row in table.to_numpy()]
    return "\n".join([header, rule, *lines])
