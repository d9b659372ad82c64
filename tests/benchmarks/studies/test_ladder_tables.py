"""The ladder: errors of layers, the flaws of an evaluation, tables."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from aimc_bridge import calibrate, convert, drift, program, rng, sweep
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import CapabilityError, DataError, UsageError
from aimc_bridge.spec import Preset
from benchmarks.report import ladder_page as page
from benchmarks.report import ladder_tables as tables
from benchmarks.report.intervals import change, mean_interval
from benchmarks.studies.ladder import sides
from benchmarks.studies.ladder.probe import Probe
from benchmarks.studies.ladder.rungs import LADDER, with_top
from presets import hermes, ideal, rasch2023, scalar_drift
from tests import stats
from tests.models import linear, mlp, only, random

RUNGS = {rung.key: rung for rung in LADDER}
YEAR = 365 * 86400.0
KEYS = [rung.key for rung in LADDER]

# --- errors of layers -----------------------------------------------------------------------------


class Mixed(nn.Module):
    """A convolution, an LSTM and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.conv = nn.Conv2d(2, 3, 3)
            self.lstm = nn.LSTM(3, 4)
            self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.conv(x).flatten(2).permute(2, 0, 1)
        out: Tensor = self.fc(self.lstm(seen)[0])
        return out


NAMES = ["conv", "lstm.ih_l0", "lstm.hh_l0", "fc"]


def probed(preset: Preset, rows: int = 50) -> tuple[nn.Module, Probe]:
    analog = convert(Mixed(), preset).train()
    x = random(6, 2, 5, 5)
    if preset.crossbar.input_range != "none":
        calibrate(analog, [x])
    probe = Probe(analog, lambda model: model(x), rows)
    assert analog.training
    return analog.eval(), probe


def test_a_probe_sees_every_layer_with_the_digital_models_inputs() -> None:
    _, probe = probed(rasch2023)
    assert sorted(probe.inputs) == sorted(NAMES)
    digital = Mixed().eval()
    x = random(6, 2, 5, 5)
    seen = digital.conv(x).flatten(2).permute(2, 0, 1)
    outs, _ = digital.lstm(seen)
    assert torch.equal(probe.inputs["conv"], x)
    torch.testing.assert_close(probe.inputs["lstm.ih_l0"], spaced(seen.reshape(-1, 3)))
    before = torch.cat([torch.zeros(1, 6, 4), outs[:-1]]).reshape(-1, 4)
    torch.testing.assert_close(probe.inputs["lstm.hh_l0"], spaced(before))
    torch.testing.assert_close(probe.inputs["fc"], spaced(outs.reshape(-1, 4)))
    expected = digital.fc(probe.inputs["fc"]) - digital.fc.bias
    torch.testing.assert_close(probe.exact["fc"], expected)


def spaced(x: Tensor) -> Tensor:
    return x[torch.linspace(0, len(x) - 1, 50).long()].detach()


def test_errors_are_relative_and_of_the_weights_held() -> None:
    """Errors are 0 on an ideal chip.

    They are exactly a tenth if every weight is a tenth too large.
    """
    analog, probe = probed(ideal)
    assert max(probe.errors().values()) < 1e-6
    program(analog, 0)
    for matrix in matrices_of(analog).values():
        matrix.load_chip_state(
            {k: v * 1.1 if k == "held" else v for k, v in matrix.chip_state().items()}
        )
    assert probe.errors() == pytest.approx(dict.fromkeys(probe.errors(), 0.1), rel=1e-5)


def test_output_noise_gives_the_error_it_must() -> None:
    """|y - exact|^2 has the mean rows sum_c (out_noise scale_c)^2."""
    analog = convert(linear(20, 16), ideal.change(out_noise=0.04, why="test")).eval()
    probe = Probe(analog, lambda model: model(random(64, 20)), 64)
    torch.manual_seed(5)
    size = float(probe.exact[""].norm())
    squares = torch.tensor([(probe.errors()[""] * size) ** 2 for _ in range(600)])
    scale = only(analog).column_scale()
    stats.assert_mean(squares, float(64 * (0.04 * scale).square().sum()), "squared error")


def test_wrong_probes_are_refused_and_leave_the_model_as_it_was() -> None:
    analog = convert(mlp(), ideal).eval()
    x = random(4, 12)
    with pytest.raises(UsageError, match="never reached layer '2'"):
        Probe(analog, lambda model: model[0](x), 4)
    with pytest.raises(UsageError, match="rows=0"):
        Probe(analog, lambda model: model(x), 0)
    with pytest.raises(CapabilityError, match="engine='native'"):
        Probe(convert(mlp(), ideal, engine="aihwkit"), lambda model: model(x), 4)
    program(analog, 0)
    for matrix in matrices_of(analog).values():
        state = {k: v * 2 if k == "held" else v for k, v in matrix.chip_state().items()}
        matrix.load_chip_state(state)
    torch.testing.assert_close(analog[0](x), 2 * (x @ mlp()[0].weight.T) + mlp()[0].bias)


# --- the flaws ------------------------------------------------------------------------------------


class Batches:
    """A task of three batches of different sizes: the metric is the mean output."""

    def __init__(self, *inputs: Any) -> None:
        self.inputs = inputs or (random(4, 12), random(4, 12, seed=1), random(2, 12, seed=2))

    def evaluate(self, model: nn.Module, subset: int | None = None) -> dict[str, float]:
        assert not model.training
        with torch.no_grad():
            return {"value": float(torch.cat([model(x) for x in self.inputs]).mean())}


def noisy() -> nn.Module:
    analog = convert(mlp(), RUNGS["pairs"].preset).eval()
    program(analog, 7)
    drift(analog, 3600.0)
    return analog


def by_hand(seeds: list[int], parts: list[Tensor], t_s: float = 3600.0) -> float:
    analog, outs = noisy(), []
    for seed, part in zip(seeds, parts, strict=True):
        program(analog, seed)
        drift(analog, t_s)
        outs.append(analog(part))
    return float(torch.cat(outs).detach().mean())


def test_redrawn_noise_is_another_chip_at_every_batch() -> None:
    task, model = Batches(), noisy()
    seeds = [rng.derive(7, "redrawn", i) for i in range(5)]
    metrics = sides.Redrawn(task, None, None)(model)  # type: ignore[arg-type]
    assert metrics == {"value": pytest.approx(by_hand(seeds[:3], list(task.inputs))), "draws": 3.0}
    drift(model, 3600.0)
    parts = [part for x in task.inputs for part in x.split(2)]
    metrics = sides.Redrawn(task, None, 2)(model)  # type: ignore[arg-type]
    assert metrics == {"value": pytest.approx(by_hand(seeds, parts)), "draws": 5.0}
    drift(model, 3600.0)  # The chip that it held is there again.
    assert task.evaluate(model)["value"] == pytest.approx(by_hand([7] * 3, list(task.inputs)))


def test_a_batch_of_several_tensors_is_not_split() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = linear(12, 3)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.fc(x) * scale

    analog = convert(Pair(), RUNGS["pairs"].preset).eval()
    program(analog, 1)
    drift(analog, 1.0)
    drawing = sides.Redrawing(analog, 1, 1.0, 2)
    assert drawing(random(6, 12), scale=torch.ones(6, 1)).shape == (6, 3)
    assert drawing.draws == 1


def test_one_chip_again_and_again_has_reading_noise_alone() -> None:
    """On the replication's physics nothing differs at all.

    Between chips, values differ.
    """
    for preset, same in ((scalar_drift, True), (RUNGS["pairs"].preset, False)):
        analog, task = convert(mlp(), preset).eval(), Batches()
        again = sides.Reread(task, None, 40)  # type: ignore[arg-type]
        options: dict[str, Any] = {"times": YEAR, "chips": 6, "seed": 40, "progress": False}
        reads = sweep(analog, again, **options).value
        chips = sweep(analog, task.evaluate, **options).value
        assert (reads.nunique() == 1) is same
        assert chips.nunique() == 6
        assert reads.std() < chips.std()
        program(analog, 40)
        for index, value in enumerate(reads):
            drift(analog, YEAR + index)
            assert task.evaluate(analog)["value"] == value


def test_what_is_beside_the_ladder() -> None:
    keys = [side.key for side in sides.SIDES]
    assert len(set(keys)) == len(keys)
    assert not set(keys) & set(KEYS)
    physics = {"replication": scalar_drift, "paper": rasch2023}
    for side in sides.SIDES:
        first, _, how = side.key.partition(" ")
        if first in physics:
            assert side.preset is physics[first] and side.how == how and side.many
        else:
            assert len(side.preset.changes) in (1, 3) and not side.many and side.how == "chips"
    oracle = next(side for side in sides.SIDES if side.key == "oracle")
    assert {c.field for c in oracle.preset.changes} == {"drift_compensation"}


# --- tables ---------------------------------------------------------------------------------------


def made_up(chips: int = 4) -> pd.DataFrame:
    """Return a ladder that loses a point per rung at 1 s and two at 1 y, on chips 0.1 apart."""
    rows: list[dict[str, Any]] = []

    def add(row: str, t_s: float, chip: float, **named: float) -> None:
        place = {"task": "wrn", "model": "M", "row": row, "t_inference": t_s, "chip": chip}
        rows.extend({**place, "metric": k, "value": v, "seed": chip} for k, v in named.items())

    add("digital", math.nan, math.nan, accuracy=0.95, loss=0.2)
    wobble = [0.001, -0.001, 0.002, -0.002]
    for rung in LADDER:
        for t_s, step in ((1.0, 0.01), (YEAR, 0.02)):
            for chip in range(chips):
                lost = step * (rung.number - 1) + 0.1 * chip
                if rung.number > 2:  # Rungs 1 and 2 are the same.
                    lost += wobble[chip] * (rung.number % 2)
                else:
                    lost = 0.1 * chip
                errors = {"mvm": lost, "mvm a": lost, "mvm b": 2 * lost}
                add(rung.key, t_s, chip, accuracy=0.9 - lost, loss=lost, **errors)
    for side in sides.SIDES:
        for chip in range(chips):
            spread = {"redrawn": 0.01, "reread": 0.0}.get(side.how, 0.02)
            value = 0.5 + spread * (chip - 1.5)
            add(side.key, YEAR, chip, accuracy=value, loss=1 - value)
    return pd.DataFrame(rows)[tables.COLUMNS]


FACTS: dict[str, Any] = {
    "model": "M",
    "dataset": "D",
    "metric": "accuracy",
    "input_ranges": {"method": "std", "batches": 8},
    "samples": 1234,
    "layers": ["a", "b"],
    "wall_s": {"scalar": 120.0},
}


def test_steps_are_means_and_paired_changes() -> None:
    table = tables.steps(made_up(), "accuracy")
    assert len(table) == 2 * 11 * 2
    assert list(table.metric.unique()) == ["accuracy", "mvm"]
    year = table[(table.metric == "accuracy") & (table.t_inference == YEAR)].set_index("row")
    chips = np.array([0.9, 0.8, 0.7, 0.6])
    level = mean_interval(chips)
    assert tuple(year.loc["scalar", ["mean", "low", "high"]]) == pytest.approx(level[:3])
    assert math.isnan(year.loc["scalar", "change"])
    assert tuple(year.loc["measured", ["change", "p", "p_holm"]]) == (0, 1, 1)
    assert math.isnan(year.loc["measured", "change_low"])  # all chips stay as they are
    expected = change(chips - 0.04 - np.array([1, -1, 2, -2]) * 1e-3, chips - 0.06)
    got = year.loc["spread"]
    assert tuple(got[["change", "change_low", "change_high", "p"]]) == pytest.approx(expected)
    # Pairing makes the interval narrower.
    assert (got.change_high - got.change_low) < 0.2 * (got.high - got.low)
    tested = table[(table.metric == "accuracy") & table.p.notna()]
    assert (tested.p_holm >= tested.p).all() and len(tested) == 20
    assert tested.p_holm.min() == pytest.approx(20 * tested.p.min())


def test_what_cannot_be_compared_is_refused() -> None:
    results = made_up()
    less = results[~((results.row == "spread") & (results.chip == 2))]
    with pytest.raises(DataError, match="'spread' has other chips"):
        tables.steps(less, "accuracy")
    with pytest.raises(DataError, match="no accuracy of 'pairs' at 1s"):
        tables.steps(results[results.row != "pairs"], "accuracy")


def test_flaws_and_less_one_are_compared_with_what_is_right() -> None:
    results = made_up()
    table = tables.flaws(results, "accuracy")
    assert list(table.metric.unique()) == ["accuracy", "loss"]
    accuracies = table[table.metric == "accuracy"].set_index(["physics", "flaw"])
    assert len(accuracies) == 8
    redrawn = accuracies.loc[("rasch2023", "noise drawn anew at each batch")]
    assert redrawn.difference == pytest.approx(0.0, abs=1e-12)
    assert redrawn.sd_ratio == pytest.approx(0.5)
    again = accuracies.loc[("scalar_drift", "one chip again and again")]
    assert again.sd_ratio == 0.0 and math.isnan(again.low)
    clean = accuracies.loc[("scalar_drift", "no noise in the evaluation")]
    assert clean.difference == pytest.approx(0.45)
    assert (clean.low, clean.high) == pytest.approx(
        mean_interval(0.95 - np.array([0.47, 0.49, 0.51, 0.53]))[1:3]
    )
    same = accuracies.loc[("scalar_drift", "oracle compensation instead of measured")]
    assert (same.difference, same.p) == (0.0, 1.0)
    assert math.isnan(same.low) and math.isnan(same.high)
    less = tables.less_one(results, "accuracy")
    assert set(less.row) == {s.key for s in sides.SIDES if s.key.startswith("without")}
    whole = tables.values_of(results, "tiles", "accuracy", YEAR).to_numpy()
    now = tables.values_of(results, "without IR drop", "accuracy", YEAR).to_numpy()
    row = less[(less.row == "without IR drop") & (less.metric == "accuracy")].iloc[0]
    assert (row.change, row.low, row.high, row.p) == pytest.approx(change(whole, now))


def test_layers_are_kept_each() -> None:
    table = tables.layers(made_up()).set_index(["row", "layer", "t_inference"])
    assert len(table) == 11 * 2 * 2
    a, b = table.loc[("pairs", "a", YEAR)], table.loc[("pairs", "b", YEAR)]
    assert (a.chips, b["mean"]) == (4, pytest.approx(2 * a["mean"]))


def test_text_says_means_changes_and_which_are_sure() -> None:
    text = page.study_text(made_up(), FACTS)
    assert (
        "1,234 test samples, 4 chips, digital accuracy 95.00 %. Input ranges: method `std`, "
        "8 batches, from the inputs alone. Accuracy, %:"
    ) in text
    lines = text.splitlines()
    assert "| 1 | scalar drift, oracle | 75.00 | 75.00 |" in lines
    assert "| 2 | measured compensation | 75.00 (0) | 75.00 (0) |" in lines
    spread = next(line for line in lines if line.startswith("| 4 | spread of exponents"))
    assert "(**−2.00 ± 0.29**)" in spread
    assert "| `rasch2023` | accuracy | change |" in lines
    assert "| 0.50 (0.13 to 1.96) |" in text
    assert page._change(-0.00012, -0.00022, -0.00002, "accuracy") == "−0.01 ± 0.01"
    assert page._change(1e-6, 0.0, 2e-6, "perplexity") == "+0.000001 ± 0.000001"
    assert page._change(0.25, math.nan, math.nan, "loss") == "+0.250"
    assert page._change(0.0016, 0.00157, 0.00163, "mvm") == "+0.160 ± 0.003"
    assert page._change(0.0, math.nan, math.nan, "accuracy") == "0"


def test_chips_that_all_change_alike_are_no_sure_change() -> None:
    """Equal changes have neither a half width nor a p value, so they are not bold."""
    results = made_up()
    rung = (results.row == "spread") & (results.metric == "accuracy")
    before = results[(results.row == "exponent") & (results.metric == "accuracy")]
    results.loc[rung, "value"] = before.value.to_numpy() - 0.05
    line = page.ladder_text(tables.steps(results, "accuracy"), "accuracy").splitlines()[5]
    assert line.count("(−5.00)") == 2 and "±" not in line


def test_another_preset_is_a_rung_on_top() -> None:
    assert with_top(rasch2023) is LADDER
    top = with_top(hermes)[-1]
    assert (top.number, top.key, top.preset) == (12, "preset hermes", hermes)
    results = made_up()
    last = results[results.row == KEYS[-1]].assign(row=top.key)
    last.loc[last.metric == "accuracy", "value"] -= 0.05
    table = tables.steps(pd.concat([results, last]), "accuracy")
    rows = table[(table.row == top.key) & (table.metric == "accuracy")]
    assert rows.number.eq(12).all() and rows.change.to_numpy() == pytest.approx([-0.05, -0.05])
    text = page.ladder_text(table, "accuracy").splitlines()
    assert len(text) == 2 + 12 and text[-1].startswith("| 12 | preset hermes |")
    assert len(page.ladder_text(tables.steps(results, "accuracy"), "accuracy").splitlines()) == 13


@pytest.mark.parametrize("metric", ["accuracy", "mvm_error"])
def test_a_change_never_has_an_interval_of_no_width(metric: str) -> None:
    """Narrow ones get more digits, and the narrowest are not shown."""
    for half in (0.02, 3e-4, 1e-6, 1e-9, 1e-13):
        text = page._change(1e-3, 1e-3 - half, 1e-3 + half, metric)
        number, _, width = text.partition(" ± ")
        assert float(number) == pytest.approx(0.1, abs=0.051)
        assert float(width) > 0 if half > 1e-10 else not width
