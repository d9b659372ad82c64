"""The question and the answer of a run in words, computed from its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aimc_bridge.times import label
from benchmarks.report import tables

if TYPE_CHECKING:
    import pandas as pd


def of_run(results: pd.DataFrame, about: Mapping[str, Any]) -> tuple[str, str]:
    """Return the question of a run, and what its numbers answer.

    Args:
        results: The rows of results.csv.
        about: The contents of run.json.

    Returns:
        Two texts.
    """
    times = tables.times_of(results)
    when = label(times[-1]) if times else "?"
    preset = about["arguments"]["preset"]
    trained = (results.phase == "hwa").any()
    question = f"How much of a model is left on chips of {preset} after {when}"
    question += ", and does hardware-aware training help?" if trained else "?"
    told = [
        _of_model(results[results.model == study["model"]], study, when, times[-1])
        for study in about["studies"].values()
        if times
    ]
    return question, " ".join(told) or "Nothing was measured on a chip."


def _of_model(rows: pd.DataFrame, study: Mapping[str, Any], when: str, t_s: float) -> str:
    """Return one model's answer: A* of each phase at the last time, and what can be told apart."""
    stars = _stars(rows, study, t_s)
    if not stars:
        return f"{study['model']}: A* is undefined, because the digital model is at chance."
    names = {"direct": "converted as it is", "hwa": "after hardware-aware training"}
    told = [f"{_text(stars[phase])} {name}" for phase, name in names.items() if phase in stars] or [
        f"{_text(star)} ({phase})" for phase, star in stars.items()
    ]
    text = f"{study['model']} keeps {' and '.join(told)} of its accuracy over chance after {when}."
    if "direct" in stars and "hwa" in stars:
        text += f" {_judged(study, stars, t_s)}"
    return text


def _stars(
    rows: pd.DataFrame, study: Mapping[str, Any], t_s: float
) -> dict[str, tuple[float, float, float]]:
    """Return A* with its interval by phase, on the engine and data that come first."""
    known = {
        (entry["phase"], entry["engine"], entry["data"]): entry
        for entry in study.get("intervals", ())
        if entry["t_inference"] == t_s and not entry["minus"] and entry["low"] is not None
    }
    stars: dict[str, tuple[float, float, float]] = {}
    for star in tables.a_star(rows, study["chance_error"]).to_dict("records"):
        if star["t_inference"] != t_s or star["phase"] in stars or math.isnan(star["mean"]):
            continue
        better = known.get((star["phase"], star["engine"], star["data"]), star)
        stars[star["phase"]] = (star["mean"], better["low"], better["high"])
    return stars


def _judged(
    study: Mapping[str, Any], stars: Mapping[str, tuple[float, float, float]], t_s: float
) -> str:
    """Return whether training helps, by the interval of the difference."""
    for entry in study.get("intervals", ()):
        same = (entry["phase"], entry["minus"], entry["t_inference"]) == ("hwa", "direct", t_s)
        if same and entry["low"] is not None:
            points = [f"{100 * entry[name]:+.2f}" for name in ("mean", "low", "high")]
            difference = f"{points[0]} points ({points[1]} to {points[2]}, over {entry['over']})"
            if entry["low"] > 0:
                return f"Training brings back more than its interval: {difference}."
            if entry["high"] < 0:
                return f"Training makes it worse by more than its interval: {difference}."
            return f"Whether training helps cannot be told from this run: {difference}."
    (_, low, high), (_, other_low, other_high) = stars["hwa"], stars["direct"]
    if low > other_high:
        return "The intervals, which cover chips alone, do not overlap: training helps."
    if high < other_low:
        return "The intervals, which cover chips alone, do not overlap: training makes it worse."
    return "The intervals overlap or are unknown: this run cannot tell whether training helps."


def _text(star: tuple[float, float, float]) -> str:
    mean, low, high = (100 * value for value in star)
    return f"{mean:.1f} %" if math.isnan(low) else f"{mean:.1f} % ({low:.1f} to {high:.1f})"
