"""The parts of a cross-check: the question, its comparison, its items of work, its report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

import presets
from aimc_bridge import Report, crosscheck
from aimc_bridge.equivalence import device, device_laws
from aimc_bridge.equivalence.comparison import device_findings
from aimc_bridge.equivalence.custom_law import CustomLaw
from aimc_bridge.equivalence.device import Samples
from aimc_bridge.equivalence.question import ask
from aimc_bridge.equivalence.question_arguments import comparison_of
from aimc_bridge.equivalence.report import Findings, Row
from aimc_bridge.equivalence.statistics import exact_test
from aimc_bridge.equivalence.store import digest
from aimc_bridge.equivalence.two_engines import TwoEngines
from aimc_bridge.equivalence.two_presets import TwoPresets
from aimc_bridge.equivalence.work import WorkItem, work_with_bar
from aimc_bridge.errors import UsageError
from aimc_bridge.progress import ProgressBar
from tests.equivalence.test_crosscheck import DEFAULTS, QUICK, Scalar
from tests.stats import FALSE_ALARM


def test_a_question_is_complete_and_cannot_be_changed() -> None:
    rest = {**DEFAULTS, **QUICK, "trained": None, "evaluate": None, "levels": None}
    question = ask(None, presets.rasch2023, None, **{**rest, "times": ("1y", "1h", 3600.0)})
    assert question.levels == ("device",)
    assert question.times["device"] == (3600.0, 31536000.0)
    assert question.targets == (0.5,) and question.layers == () and question.task is None
    assert question.identity["preset"] == presets.rasch2023.to_dict()
    assert question.identity["against"] is None and question.identity["physics"] is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        question.seed = 1  # type: ignore[misc]


def test_what_is_given_decides_what_is_compared() -> None:
    first, second = presets.rasch2023, presets.scalar_drift
    engines, two = comparison_of(first, None, None), comparison_of(first, second, None)
    law = comparison_of(first, None, Scalar)
    assert engines == TwoEngines(first) and engines.names == ("native", "aihwkit")
    assert two == TwoPresets(first, second) and two.names == ("rasch2023", "scalar_drift")
    assert isinstance(law, CustomLaw) and law.names == ("Scalar", "aihwkit")
    assert [c.reference for c in (engines, two, law)] == ["aihwkit", "scalar_drift", "aihwkit"]
    assert "task" in engines.levels and "task" in two.levels and "task" not in law.levels
    identities = [c.identity() for c in (engines, two, law)]
    assert len({digest(identity) for identity in identities}) == 3


@dataclasses.dataclass(frozen=True)
class Louder(TwoEngines):
    """Another reference: the native laws with other draws, and noise `times_noise` larger."""

    times_noise: float = 1.0

    names = ("native", "louder")

    def device_reference(self) -> str:
        return "louder"

    def draw(
        self, side: int, x: float, times: Sequence[float], samples: int, seed: int
    ) -> Iterator[Samples]:
        preset = self.preset
        if side == 1:
            scale = preset.pcm.prog_noise_scale * self.times_noise  # type: ignore[attr-defined]
            preset = preset.change(prog_noise_scale=scale, why="in tests")
        yield device.devices(device_laws.Native(preset, True, seed, side), x, times, samples, 25.0)


@pytest.mark.parametrize("times_noise", [1.0, 1.1])
def test_another_reference_is_one_more_class(times_noise: float) -> None:
    """A reference draws its samples.

    The rows, the verdicts and the report follow without more code.
    """
    comparison = Louder(presets.rasch2023, times_noise)
    table = Report.of([device_findings(comparison, 0.5, (3600.0,), 40_000, 0)]).table
    assert set(table["reference"]) == {"louder"} and set(table["cell"]) == {"g/g_max = 0.5"}
    if times_noise == 1.0:
        assert table["p_different"].min() > FALSE_ALARM
    else:
        assert "programmed sd" in set(table[table["verdict"] == "different"]["quantity"])


def test_the_samples_that_a_report_states_are_those_that_were_drawn() -> None:
    """A target of 0 takes twice as many.

    Between two presets it does not.
    """
    few: dict[str, Any] = {"targets": (0.0,), "samples": 400, "times": "1h", "progress": False}
    twice = "devices: 400 samples a cell, twice that for a target of 0"
    assert twice in crosscheck(None, presets.rasch2023, **few).notes
    two = crosscheck(None, presets.rasch2023, against=presets.scalar_drift, **few)
    assert "devices: 400 samples a cell" in two.notes and twice not in two.notes
    for comparison, samples in (
        (TwoEngines(presets.rasch2023), 800),
        (CustomLaw(Scalar, presets.rasch2023), 800),  # type: ignore[arg-type]
        (TwoPresets(presets.rasch2023, presets.hermes), 400),
    ):
        assert comparison.samples_at(0.0, 400) == samples
        assert comparison.samples_at(0.5, 400) == 400


class Bar(ProgressBar):
    """A progress bar that remembers how far it was moved."""

    def __init__(self) -> None:
        super().__init__("", 10.0, show=False)
        self.steps: list[float] = []

    def advance(self, steps: float = 1.0, *, note: str | None = None) -> None:
        self.steps.append(steps)


def test_an_item_of_work_moves_the_bar_by_its_cost() -> None:
    """Most of it moves step by step, the rest at the end.

    Without steps, all of it moves at the end.
    """

    def three_steps(name: str, advance: Any) -> Findings:
        for _ in range(3):
            advance()
        return Findings(notes=[name])

    bar = Bar()
    key, findings = work_with_bar(WorkItem("a", 10.0, 4, three_steps, ("x",)), bar)
    assert (key, findings.notes) == ("a", ["x"])
    assert bar.steps == pytest.approx([1.75, 1.75, 1.75, 4.75])
    bar = Bar()
    item = WorkItem("b", 10.0, 0, lambda name: Findings(notes=[name]), ("y",))
    assert work_with_bar(item, bar)[1].notes == ["y"] and bar.steps == [10.0]


def test_the_summary_names_the_two_sides() -> None:
    """The columns are called first and second.

    What they hold is in `sides` and in the summary.
    """
    rows = [
        Row("layer", "fc", "gain mean", 3600.0, exact_test(1.0, 1.5, 0.1), "new"),
        Row("layer", "fc", "IR-drop loss", float("nan"), exact_test(0.2, 0.2, 0.1), "new"),
    ]
    report = Report.of([Findings(rows, notes=["a note"])], ("old", "new"))
    assert report.table[["first", "second"]].to_numpy().tolist() == [[1.0, 1.5], [0.2, 0.2]]
    assert report.sides == ("old", "new") and not report.passed
    assert report.summary() == (
        "# Cross-check\n\nold against new.\n\n- a note\n\n"
        "| level | quantity | equivalent | different | undecided |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| layer | gain mean | 0 | 1 | 0 |\n"
        "| layer | IR-drop loss | 1 | 0 | 0 |\n\n"
        "| cell | quantity | time | old | new | difference | interval | margin | power "
        "| verdict |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| fc | gain mean | 1h | 1 | 1.5 | 0.5 | 0.5 .. 0.5 | 0.1 | 1.00 | different |\n"
    )


def test_a_digest_takes_tensors_of_any_kind() -> None:
    whole = torch.arange(3)
    assert digest(whole.bfloat16()) == digest(whole.bfloat16())
    assert digest(whole.bfloat16()) != digest(whole.half())


def test_usual_times_are_those_that_the_device_is_known_at() -> None:
    few: dict[str, Any] = {"levels": "device", "targets": (0.5,), "samples": 400, "progress": False}
    table = crosscheck(None, presets.reram_wan2022, None, **few).table
    assert set(table["t_inference"].dropna()) == {1.0, 86400.0}
    with pytest.raises(UsageError, match="1, 86400, 172800 s after programming only"):
        crosscheck(None, presets.reram_wan2022, None, times=("1s", "1h"), **few)


@pytest.mark.parametrize("margins", [{"sd": 0.0}, {"skew": 0.1}, {"mean": "1 %"}, 0.01])
def test_margins_are_shares_of_mean_and_sd(margins: Any) -> None:
    with pytest.raises(UsageError, match="shares between 0 and 1 of mean, sd"):
        crosscheck(None, presets.rasch2023, None, levels="device", margins=margins)


def test_margins_are_those_of_the_rows_and_of_the_summary() -> None:
    report = crosscheck(
        None,
        presets.rasch2023,
        None,
        levels="device",
        targets=(0.5,),
        times="1h",
        samples=400,
        margins={"sd": 0.03},
        progress=False,
    )
    sd = report.table[report.table["quantity"].str.endswith(" sd")]
    assert len(sd) and set(sd["margin"]) == {0.03}
    assert "margins of devices: 1 % of mean, 3 % of sd" in report.summary()
