"""Recipes compared as a whole: the variants, the share brought back, a small run and its page."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from aimc_bridge.training import HWATraining
from benchmarks import ablation as command
from benchmarks import tasks
from benchmarks.report import ablation as ablation_report
from benchmarks.report import recipes as report
from benchmarks.report import record as records
from benchmarks.report.ablation import COLUMNS
from benchmarks.report.record import Record
from benchmarks.studies import ablation
from benchmarks.tasks.plan import recipe_for
from presets import hermes, ideal, rasch2023

YEAR = 31536000.0
PLAN = tasks.find("wrn").plans["embedded"]

# --- recipes of a task ---


def test_the_default_takes_of_a_plan_its_batch_size_alone() -> None:
    for preset in (rasch2023, hermes, ideal):
        recipe = recipe_for(preset, "default", PLAN, {})
        own = HWATraining.for_(preset).spec
        changed = {k: v for k, v in recipe.spec.values().items() if own.values()[k] != v}
        assert changed == {"batch_size": 50, "epochs": 100}
        assert recipe.name == f"{preset.name}/default"
    faster = recipe_for(rasch2023, "default", PLAN, {"learning_rate": 0.5, "ramp_batches": 3})
    assert faster.spec.learning_rate == 0.5 and faster.spec.ramp_share is None


def test_a_variant_is_a_whole_recipe() -> None:
    variants = ablation.whole_recipes(["direct", "default", "lstm", "direct"], rasch2023, PLAN, {})
    assert [v.name for v in variants] == ["recipe", "direct", "default", "lstm"]
    assert [v.trains for v in variants] == [True, False, True, True]
    base = recipe_for(rasch2023, "wrn16", PLAN, {})
    for variant in variants[2:]:
        wanted = recipe_for(rasch2023, variant.name, PLAN, {}).spec
        assert base.override(**variant.fields).spec.values() == wanted.values()
        # and the other way round: a named recipe has no shares of the default left
        default = recipe_for(rasch2023, "default", PLAN, {})
        assert default.override(**variant.fields).spec.values() == wanted.values()


def test_techniques_of_the_default_are_switched_too() -> None:
    recipe = recipe_for(rasch2023, "default", PLAN, {})
    fields = {v.name: v.fields for v in ablation.variants(recipe.spec)}
    assert fields["no ramp"] == {"ramp_batches": 0}
    assert recipe.override(**fields["no ramp"]).spec.of_length(100).ramp_batches == 0
    for width in (2.0, 3.0):
        assert fields[f"columns clipped at {width:g} sd"] == {"clip_value": width}


# --- what a recipe brings back ---


def made(trainings: int = 1) -> Record:
    """Return a record in which the digital model errs in a tenth, the chips in more."""
    errors = {"recipe": 0.2, "direct": 0.3, "lstm": 0.14, "default": 0.15}
    rows: list[list[object]] = [["digital", 0, "error", 0.0, -1, -1, 0.1]]
    for seed in range(trainings):
        for variant, error in errors.items():
            apart = 0.022 if variant == "lstm" else 0.02
            for chip, luck in enumerate((-apart, 0.0, apart)):
                for t_s, less in ((3600.0, 0.05), (YEAR, 0.0)):
                    rows.append([variant, seed, "error", t_s, chip, chip, error + luck - less])
    facts = {
        "model": "M",
        "dataset": "D",
        "chance_error": 0.9,
        "samples": 40,
        "unit": "images",
        "split": "test",
        "recipe": {"name": "rasch2023/wrn16"},
        "plan": {"hwa_batches": 250},
    }
    arguments = {"preset": "rasch2023", "recipes": ["direct", "default", "lstm"]}
    extra = {"studies": {"wrn": facts}}
    return Record("ablation", "ablation-x", "cmd", arguments, {}, {}, COLUMNS, rows, extra)


@pytest.mark.parametrize("trainings", [1, 2])
def test_brought_back_is_a_share_of_the_best_named_recipe_s_gap(trainings: int) -> None:
    rows = {row["recipe"]: row for row in report.compared(made(trainings))}
    assert list(rows) == ["wrn16, as the task plans it", "direct", "lstm", "default"]
    back = {name: row["brought_back"] for name, row in rows.items()}
    assert back["direct"] == pytest.approx(0.0) and back["lstm"] == pytest.approx(1.0)
    assert back["default"] == pytest.approx((0.3 - 0.15) / (0.3 - 0.14))
    assert back["wrn16, as the task plans it"] == pytest.approx(0.1 / 0.16)
    assert rows["default"]["a_star"] == pytest.approx(1 - 0.05 / 0.8)
    # the same chips: of their luck, what the recipes have in common is not in the lead's interval
    lead, low, high = rows["lstm"]["lead"]
    assert lead == pytest.approx(-0.01 / 0.8)
    if trainings == 1:
        half = stats.t.ppf(0.975, 2) * (0.002 / 0.8) / math.sqrt(3)
        assert (low, high) == pytest.approx((lead - half, lead + half))
    else:  # two trainings that agree
        assert math.isnan(low) and math.isnan(high)
    assert {row["t_inference"] for row in rows.values()} == {YEAR}


def test_recipes_that_all_chips_rank_alike_have_no_interval() -> None:
    """The default leads by the same on all chips: no spread, so no interval and no share of it."""
    alike = made()
    rows = [
        [*row[:-1], row[-1] - 0.002 * (int(row[4]) - 1)] if row[0] == "lstm" else row
        for row in alike.rows
    ]
    text = report.section([dataclasses.replace(alike, rows=rows)])
    assert "| -1.2 |" in text and "nan" not in text
    assert text.count("| ? |") == 4


def test_nothing_brought_back_is_no_share() -> None:
    record = made()
    rows = [row for row in record.rows if row[0] not in ("recipe", "lstm")]
    worse = [["recipe", *row[1:-1], row[-1] + 0.01] for row in rows if row[0] == "direct"]
    text = report.section([dataclasses.replace(record, rows=[*rows, *worse])])
    assert text.count("| ? |") == 3


@pytest.mark.parametrize(("spread", "shown"), [(0.02, True), (0.2, False)])
def test_a_share_is_given_only_of_a_gain_that_chips_show(spread: float, shown: bool) -> None:
    # The gain of 0.16 over three chips has the interval 0.16 +- 4.30 spread / sqrt(3).
    record = made()
    rows = [
        [*row[:-1], row[-1] + spread * (int(row[4]) - 1)] if row[0] == "lstm" else row
        for row in record.rows
    ]
    table = {row["recipe"]: row for row in report.compared(dataclasses.replace(record, rows=rows))}
    share = table["default"]["brought_back"]
    assert share == pytest.approx(0.15 / 0.16) if shown else math.isnan(share)


def test_the_page_shows_recipes_and_the_ablation_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "FOLDER", tmp_path)
    assert report.section() == ""
    records.write(made())
    assert ablation_report.committed() == [] and ablation_report.section() == ""
    (record,) = report.committed()
    text = report.section()
    assert record.name in text and "94 %" in text and "-1.2 [-1.9, -0.6]" in text
    assert "40 images of the test split, 3 chips, 1 training(s) of 250 mini-batches. `cmd`" in text


# --- a small run, on a model that no recipe was made for ---


def test_a_small_comparison(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["benchmarks.studies.mixer:MixerTask", "--recipes", "direct", "default", "--times"]
    words += ["1y", "--chips", "2", "--subset", "40", "--hwa-batches", "20"]
    words += ["--digital-epochs", "2", "--out", str(out)]
    assert command.main(words) == 0
    rows = pd.read_csv(out / "results.csv")
    assert rows[rows.metric == "error"].variant.value_counts().to_dict() == {
        "digital": 1,
        "recipe": 2,
        "direct": 2,
        "default": 2,
    }
    work = out / "work" / "seed-0"
    assert not (work / "direct" / "training").exists()
    history = pd.read_csv(work / "default" / "training" / "metrics.csv")
    scale = HWATraining.for_(rasch2023).spec.noise_scale
    assert history.noise_scale.tolist() == pytest.approx([scale / 2] + [scale] * 19)
    about = json.loads((out / "run.json").read_text())
    assert about["arguments"]["recipes"] == ["direct", "default"]
    assert about["studies"]["mixer"]["variants"]["default"]["ramp_share"] == 0.1


def test_an_unknown_recipe_lists_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["wrn", "--recipes", "resnet50", "--out", str(tmp_path / "out")]
    assert command.main(words) == 2
    assert "no recipe 'resnet50'; there are: wrn16" in " ".join(capsys.readouterr().err.split())
