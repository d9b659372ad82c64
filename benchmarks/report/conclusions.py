"""Conclusions in words: what a run's numbers and intervals say, one sentence per engine and data.

The question is always the same: what does direct conversion lose, and what does training bring
back? The answer is read off the errors, sample by sample (`answer_intervals.changes`); a
difference counts only if its 95 % interval is on one side of 0. So a sentence says that training
helps, that there was nothing to win back, that it does harm, or that the numbers do not tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from aimc_bridge.curves import agree
from aimc_bridge.times import label
from benchmarks.report.answer_intervals import least_half_width, widened
from benchmarks.report.effects import Effect, Sign
from benchmarks.report.intervals import Interval, independent_change
from benchmarks.report.intervals import change as paired
from benchmarks.report.tables import PHASES, UNCHECKED, several_trainings, times_of

if TYPE_CHECKING:
    import pandas as pd

CHANCE_SD = 2.0
"""The digital model must be better than guessing by this many standard errors."""

_NAMES = {
    "direct": "direct conversion",
    "finetune": "fine-tuning without a chip",
    "control": "the same training without noise",
    "hwa": "hardware-aware training",
}
_TRAINED = ("finetune", "control", "hwa")


@dataclass(frozen=True)
class Conclusion:
    """The conclusion of a run about one model, on one engine and one set of samples.

    Attributes:
        model: The model.
        engine: "native" or "aihwkit".
        data: The data.
        t_inference: The time that it is about, in seconds after programming.
        direct: What direct conversion does to the error: "worse", "better", "none" (less than a
            point), "unsure" (the interval holds 0 and more than a point), "unknown" (no interval);
            "" if the run has no direct phase.
        training: The same for hardware-aware training, compared with direct conversion (with the
            digital model if the run has no direct phase); "" if the run has no such phase.
        text: The sentences.
    """

    model: str
    engine: str
    data: str
    t_inference: float
    direct: Sign | Literal["", "chance"]
    training: Sign | Literal[""]
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


def question(results: pd.DataFrame, preset: str) -> str:
    """Return the question that the conclusions of a run answer.

    Args:
        results: The rows of results.csv.
        preset: The name of the preset.
    """
    times = times_of(results)
    when = f"{label(times[-1])} after programming" if times else "after programming"
    asked = f"What does a model lose on chips of preset {preset}, {when}"
    if (results.phase == "hwa").any():
        return f"{asked}, and what does hardware-aware training bring back?"
    return f"{asked}?"


def conclude(results: pd.DataFrame, studies: Mapping[str, Any]) -> list[Conclusion]:
    """Return the conclusions of a run, in the order of its models.

    Args:
        results: The rows of results.csv.
        studies: Task -> the facts about it, from run.json.
    """
    found = []
    for study in studies.values():
        found += of_model(results[results.model == study["model"]], study)
    return found


def of_model(rows: pd.DataFrame, study: Mapping[str, Any]) -> list[Conclusion]:
    """Return the conclusions about one model: one per engine and set of samples.

    Args:
        rows: The rows of one model, `tables.COLUMNS`.
        study: The facts about it; "changes" are the rows of `answer_intervals.changes`. Without
            them (older runs, tasks with an `evaluate` of their own) the intervals are over chips
            alone, or over trainings if there are several.
    """
    analog = rows[(rows.phase != "digital") & (rows.metric == "error")]
    places = analog[["engine", "dataset"]].drop_duplicates().to_records(index=False).tolist()
    if analog.empty:
        return []
    t_s = times_of(rows)[-1]
    return [_Place(rows, study, str(engine), str(data)).conclusion(t_s) for engine, data in places]


class _Place:
    """The rows and changes of one model on one engine and one set of samples."""

    def __init__(
        self, rows: pd.DataFrame, study: Mapping[str, Any], engine: str, data: str
    ) -> None:
        """Choose the rows.

        Args:
            rows: The rows of the model.
            study: The facts about it.
            engine: The engine.
            data: The data.
        """
        self.study, self.engine, self.data = study, engine, data
        on_data = rows[rows.dataset == data]
        self.digital = on_data[on_data.phase == "digital"]
        self.rows = on_data[on_data.engine == engine]
        measured = set(self.rows.phase)
        self.phases = [phase for phase in PHASES if phase in measured]
        self.changes = {
            (row["phase"], row["minus"], row["t_inference"]): row
            for row in study.get("changes", ())
            if row["engine"] == engine and row["data"] == data
        }

    # --- numbers ---

    def effect(self, phase: str, minus: str, t_s: float) -> Effect:
        """Return the difference of a phase from another one, or from the digital model."""
        known = self.changes.get((phase, minus, t_s))
        if known is not None:
            low, high = (math.nan if known[end] is None else known[end] for end in ("low", "high"))
            found = Interval(known["mean"], low, high, math.nan)
            same = known["mean"] == 0
            samples = known.get("samples")
            if samples is None and same and low == high:  # older runs noted intervals without it
                samples = self.study.get("samples", {}).get(self.data)
            if samples is not None:
                found = widened(found, least_half_width(samples), same=same)
            return Effect(found.mean, found.low, found.high, known["over"])
        after, several = self._errors(phase, t_s)
        if minus == "digital":
            before, base_several = self._digital_errors(phase, after, several), several
        else:
            before, base_several = self._errors(minus, t_s)
        interval, equal = Interval(math.nan, math.nan, math.nan, math.nan), ""
        over = "trainings" if several or base_several else "chips"
        if several == base_several and set(before.index) == set(after.index):
            interval = paired(before.loc[after.index].to_numpy(), after.to_numpy(), size=1.0)
            if len(after) > 1 and math.isnan(interval.low):
                equal = f"the {over} agree on the difference"
        elif min(len(before), len(after)) > 1:
            interval = independent_change(before.to_numpy(), after.to_numpy(), size=1.0)
            sides = ((after, several), (before, base_several))
            names = ["trainings" if many else "chips" for side, many in sides if agree(side, 1.0)]
            if names:
                equal = f"the {' and '.join(dict.fromkeys(names))} agree"
        if several != base_several:
            over = "trainings, chips"
        return Effect(interval.mean, interval.low, interval.high, over, equal)

    def _errors(self, phase: str, t_s: float) -> tuple[pd.Series[float], bool]:
        """Return the error of each chip by its seed, or of each training, and which of the two.

        Chips of one training have that training in common: if there are several trainings, their
        means are what can be compared.
        """
        chosen = self.rows[
            (self.rows.phase == phase)
            & (self.rows.metric == "error")
            & (self.rows.t_inference == t_s)
        ]
        if several_trainings(chosen):
            return chosen.groupby("training_seed").value.mean(), True
        return chosen.groupby("seed").value.mean(), False

    def _digital_errors(
        self, phase: str, after: pd.Series[float], several: bool
    ) -> pd.Series[float]:
        """Return the error of the digital model behind each value of a phase."""
        errors = self.digital[self.digital.metric == "error"]
        if several:
            return errors.groupby("training_seed").value.mean().loc[after.index]
        if several_trainings(errors):
            own = self.rows[self.rows.phase == phase].training_seed.unique()
            errors = errors[errors.training_seed.isin(own)]
        return after * 0.0 + float(errors.value.mean())

    @staticmethod
    def _value(rows: pd.DataFrame, metric: str) -> float:
        return float(rows[rows.metric == metric].value.mean())

    def shown(self, phase: str, t_s: float | None = None) -> str:
        """Return the metric of a phase, or of the digital model, as people read it."""
        rows = self.digital if t_s is None else self.rows[self.rows.t_inference == t_s]
        rows = rows[rows.phase == phase]
        if self.study["metric"] == "perplexity":
            words = 100 * self._value(rows, "error")
            return f"{words:.1f} % (perplexity {self._value(rows, 'perplexity'):.1f})"
        return f"{100 * (1 - self._value(rows, 'error')):.1f} %"

    @property
    def what(self) -> str:
        """The metric that points are of."""
        return "word error" if self.study["metric"] == "perplexity" else "accuracy"

    def at_chance(self) -> bool:
        """Return whether the digital model cannot be told from guessing.

        Always the commonest class is a guess too. Older runs do not say how common it is.
        """
        constant = 1.0 - self.study.get("commonest", {}).get(self.data, 0.0)
        error, chance = (
            self._value(self.digital, "error"),
            min(self.study["chance_error"], constant),
        )
        samples = self.study.get("samples", {}).get(self.data)
        spread = math.sqrt(chance * (1 - chance) / samples) if samples else 0.0
        return bool(error >= chance - CHANCE_SD * spread)

    # --- words ---

    def _name(self, phase: str) -> str:
        """Return what a phase is called; a control is the same training only if that is known."""
        if phase == "control" and self.study.get("control") == UNCHECKED:
            return "a training without noise"
        return _NAMES[phase]

    def conclusion(self, t_s: float) -> Conclusion:
        """Return the conclusion about a time."""
        model = str(self.study["model"])
        head = f"{model} on {self.engine}"
        if "subset of" in self.data:
            head += f" ({self.data.rpartition(', ')[2]})"
        if self.at_chance():
            text = (
                f"{head}: the digital model is no better than guessing ({self.shown('digital')}), "
                "so nothing can be said about what a chip loses; train it longer."
            )
            return Conclusion(model, self.engine, self.data, t_s, "chance", "", text)
        parts: list[str] = []
        direct: Sign | Literal[""] = ""
        training: Sign | Literal[""] = ""
        if "direct" in self.phases:
            effect = self.effect("direct", "digital", t_s)
            direct = effect.sign
            parts.append(self._direct(effect, t_s))
        for phase in self.phases:
            if phase in _TRAINED:
                base = "direct" if "direct" in self.phases else "digital"
                effect = self.effect(phase, base, t_s)
                training = effect.sign if phase == "hwa" else training
                parts.append(self._trained(phase, base, direct, effect, t_s))
        text = f"{head}, {label(t_s)} after programming: {'; '.join(parts)}."
        early = self._harm_before(t_s)
        return Conclusion(
            model, self.engine, self.data, t_s, direct, training, " ".join([text, *early])
        )

    def _direct(self, effect: Effect, t_s: float) -> str:
        now, digital = self.shown("direct", t_s), self.shown("digital")
        pair = f"digital {digital}, on the chip {now}"
        if effect.sign == "unknown":
            why = effect.agreement() or (
                "so few chips or samples do not say whether that is a loss"
            )
            return f"direct conversion has {now}, digital {digital}; {why}"
        interval = f"95 % interval {effect.interval(1.0)}, over {effect.covered()}"
        if effect.sign == "worse":
            return f"direct conversion loses {effect.points()} of {self.what} ({interval}): {pair}"
        if effect.sign == "better":
            gains = f"95 % interval {effect.interval(-1.0)}, over {effect.covered()}"
            return (
                f"direct conversion is {effect.points()} of {self.what} better than the digital "
                f"model ({gains}): {pair}"
            )
        if effect.sign == "none":
            return f"direct conversion loses nothing, within a point (loss {interval}): {pair}"
        return (
            f"no loss of direct conversion can be shown (loss {interval}; more chips or test "
            f"samples would narrow it): {pair}"
        )

    def _trained(self, phase: str, base: str, direct: str, effect: Effect, t_s: float) -> str:
        name, now = self._name(phase), self.shown(phase, t_s)
        than = "direct conversion" if base == "direct" else "the digital model"
        nothing = direct in ("none", "better")  # "unsure" may be a loss
        if effect.sign == "unknown":
            return f"{name} has {now}; {effect.agreement() or 'nothing follows from that'}"
        gain = f"{effect.interval(-1.0)}, over {effect.covered()}"
        loss = f"{effect.interval(1.0)}, over {effect.covered()}"
        if effect.sign == "better":
            if direct == "worse":
                return f"{name} brings back {effect.points()} ({gain}): {now}"
            return f"{name} has {now}, {effect.points()} better than {than} ({gain})"
        why = "there is nothing to train for, and " if nothing and phase == "hwa" else ""
        if effect.sign == "worse":
            side = "below" if self.what == "accuracy" else "above"
            advice = "" if base == "digital" else "; leave it out here"
            return (
                f"{why}{name} makes it worse: {now}, {effect.points()} {side} {than} "
                f"({loss}){advice}"
            )
        if effect.sign == "none":
            return f"{why}{name} changes nothing, within a point: {now} (gain {gain})"
        return (
            f"{why}{name} has {now}: neither a gain nor a harm over {than} can be shown "
            f"(gain {gain})"
        )

    def _harm_before(self, last_s: float) -> list[str]:
        """Return a sentence for each phase that is worse than direct conversion at earlier times.

        What it is at the last time is in the conclusion already.
        """
        sentences = []
        for phase in self.phases:
            if phase not in _TRAINED or "direct" not in self.phases:
                continue
            times = [t_s for t_s in times_of(self.rows) if t_s != last_s]
            effects = {t_s: self.effect(phase, "direct", t_s) for t_s in times}
            worse = {t_s: e for t_s, e in effects.items() if e.sign == "worse"}
            if worse:
                listed = ", ".join(
                    f"{label(t_s)} by {effect.points()}" for t_s, effect in worse.items()
                )
                name = self._name(phase)
                sentences.append(f"{name[0].upper()}{name[1:]} is worse at {listed}.")
        return sentences
