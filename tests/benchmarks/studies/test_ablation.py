"""The ablation: its variants, paired changes by hand, resuming, and its record."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import t as student

from aimc_bridge.errors import DataError
from benchmarks import ablation as command
from benchmarks import record as record_command
from benchmarks import tasks
from benchmarks.report import ablation as ablation_report
from benchmarks.report import figures, folders, pages, tables
from benchmarks.report import record as records
from benchmarks.report.ablation import COLUMNS
from benchmarks.studies import ablation, base, trainings
from benchmarks.tasks.plan import recipe_for
from presets import rasch2023

ROOT = Path(__file__).parents[3]
YEAR = 31536000.0


def names(**changes: object) -> list[str]:
    recipe = recipe_for(rasch2023, "wrn16", tasks.find("wrn").plans["embedded"], dict(changes))
    return [variant.name for variant in ablation.variants(recipe.spec)]


# --- variants ---


def test_each_technique_is_switched_once_and_the_noise_has_four_scales() -> None:
    assert names() == [
        "recipe",
        "no noise",
        "no ramp",
        "no drop-connect",
        "no distillation",
        "no learned ranges",
        "no learned column scales",
        "no clipping",
        "columns clipped at 2 sd",
        "columns clipped at 2.5 sd",
        "columns clipped at 3 sd",
        "noise scale 1",
        "noise scale 2",
        "noise scale 5",  # 3 is the recipe's own.
    ]


def test_a_technique_that_the_recipe_lacks_is_switched_on() -> None:
    variants = names(drop_connect=0.0, distill_weight=0.0, ramp_batches=0, noise_scale=1.5)
    assert "with drop-connect (drop_connect=0.01)" in variants
    assert "with distillation (distill_weight=0.9, distill_temperature=4.0)" in variants
    assert "with ramp (ramp_batches=100)" in variants
    assert not any("dropout" in name for name in variants)  # None is the model's own rate.
    assert "no dropout" in names(dropout=0.5)
    assert "with dropout (dropout=None)" in names(dropout=0.0)
    assert [name for name in variants if name.startswith("noise scale")] == [
        f"noise scale {scale}" for scale in (1, 2, 3, 5)
    ]


def test_columns_are_clipped_at_other_widths_than_the_recipes_and_scaled_anew() -> None:
    variants = names(clip_type="column_gaussian", clip_value=2.5)
    assert [name for name in variants if "clip" in name] == [
        "no clipping",
        "columns clipped at 2 sd",
        "columns clipped at 3 sd",
    ]
    never = recipe_for(rasch2023, "wrn16", tasks.find("wrn").plans["embedded"], {"remap_every": 0})
    widths = {v.name: v.fields for v in ablation.variants(never.spec) if "columns" in v.name}
    assert all(fields["remap_every"] > 0 for fields in widths.values()) and len(widths) == 3


def test_a_variant_differs_in_its_technique_alone() -> None:
    recipe = recipe_for(rasch2023, "wrn16", tasks.find("wrn").plans["embedded"], {})
    base = recipe.spec.values()
    for variant in ablation.variants(recipe.spec):
        changed = recipe.override(**variant.fields).spec.values()
        differs = {key for key in base if base[key] != changed[key]}
        assert differs == set(variant.fields), variant.name
    folders = [ablation.slug(variant.name) for variant in ablation.variants(recipe.spec)]
    assert len(set(folders)) == len(folders)


# --- numbers ---


def results(seeds: int = 1) -> pd.DataFrame:
    """Return two variants, three chips, two times; the digital model errs in 10 %."""
    errors = {"recipe": (0.20, 0.30, 0.22), "no noise": (0.30, 0.42, 0.30)}
    rows: list[list[object]] = [["digital", 0, "error", 0.0, -1, -1, 0.1]]
    for seed in range(seeds):
        for variant, values in errors.items():
            for t_s in (3600.0, YEAR):
                for chip, error in enumerate(values):
                    worse = error + (0.05 if t_s == YEAR else 0.0) + 0.01 * seed * chip
                    rows.append([variant, seed, "error", t_s, chip, chip, worse])
                    rows.append([variant, seed, "accuracy", t_s, chip, chip, 1 - worse])
    return pd.DataFrame(rows, columns=COLUMNS)


def test_changes_are_paired_by_chip() -> None:
    """A* and its change are computed by hand, with Student's interval of the differences."""
    table = ablation_report.changes(results(), 0.9).set_index(["variant", "t_inference"])
    stars = [1 - (error - 0.1) / 0.8 for error in (0.30, 0.42, 0.30)]
    row = table.loc["no noise", 3600.0]
    assert row.a_star == pytest.approx(statistics.fmean(stars))
    differences = [-0.10 / 0.8, -0.12 / 0.8, -0.08 / 0.8]
    assert row.change == pytest.approx(statistics.fmean(differences))
    half = student.ppf(0.975, 2) * statistics.stdev(differences) / math.sqrt(3)
    assert row.change_high - row.change == pytest.approx(half)
    assert row.change - row.change_low == pytest.approx(half)
    unpaired = row.a_star_high - row.a_star
    assert half < unpaired  # Chips that are bad are bad for both variants.
    assert table.loc["recipe", YEAR].change == 0.0


def test_a_change_that_is_equal_on_all_chips_has_no_interval() -> None:
    rows = results()
    base = rows[rows.variant == "recipe"].value.to_numpy()
    sign = rows[rows.variant == "recipe"].metric.map({"error": 0.1, "accuracy": -0.1}).to_numpy()
    rows.loc[rows.variant == "no noise", "value"] = base + sign
    table = ablation_report.changes(rows, 0.9)
    assert table[["change_low", "change_high"]].isna().all(axis=None)
    assert ablation_report.text_of(table)["change 1y"].tolist() == ["", "-12.50"]


def test_several_trainings_are_the_units() -> None:
    """Two trainings give one degree of freedom, whatever the number of chips."""
    table = ablation_report.changes(results(seeds=2), 0.9).set_index(["variant", "t_inference"])
    row = table.loc["recipe", 3600.0]
    means = [1 - (error - 0.1) / 0.8 for error in (0.24, 0.25)]
    half = student.ppf(0.975, 1) * statistics.stdev(means) / math.sqrt(2)
    assert row.a_star == pytest.approx(statistics.fmean(means))
    assert row.a_star_high - row.a_star == pytest.approx(half)


def test_other_chips_are_refused() -> None:
    table = results()
    with pytest.raises(DataError, match="'no noise' at 1h has other chips than 'recipe'"):
        ablation_report.changes(table[~((table.variant == "no noise") & (table.chip == 2))], 0.9)


# --- the command ---

QUICK = [
    *("wrn", "--chips", "2", "--subset", "40", "--hwa-batches", "3", "--times", "1h", "1y"),
    *("--digital-epochs", "2", "--only", "no noise", "noise scale 1"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ablation") / "out"
    assert command.main([*QUICK, "--out", str(out)]) == 0
    return out


def test_results_have_a_folder_of_their_own_where_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["wrn", "--chips", "1", "--subset", "40", "--hwa-batches", "3", "--times", "1h"]
    assert command.main([*words, "--digital-epochs", "2", "--only", "no noise"]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("ablation-wrn-") and (folder / "changes.csv").exists()


def test_what_comes_out(finished: Path) -> None:
    rows = pd.read_csv(finished / "results.csv")
    assert list(rows.columns) == COLUMNS
    chips = rows[(rows.metric == "error") & (rows.variant != "digital")]
    counts = chips.groupby("variant", sort=False).size().to_dict()
    assert counts == {"recipe": 4, "no noise": 4, "noise scale 1": 4}
    for _, group in chips.groupby("variant"):
        # Both variants use the same chips.
        assert group.seed.tolist() == chips[chips.variant == "recipe"].seed.tolist()
    histories = {
        slug: pd.read_csv(finished / "work" / "seed-0" / slug / "training" / "metrics.csv")
        for slug in ("recipe", "no-noise", "noise-scale-1")
    }
    ramp = [3.0 * step / 20 for step in (1, 2, 3)]
    assert histories["recipe"].noise_scale.tolist() == pytest.approx(ramp)
    assert histories["noise-scale-1"].noise_scale.tolist() == pytest.approx([r / 3 for r in ramp])
    summary = (finished / "summary.md").read_text()
    assert "| no noise |" in summary and "validation split" in summary
    assert "the spread between trainings is not in them" in summary
    assert (finished / "figure.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((finished / "run.json").read_text())
    assert record["studies"]["wrn"]["variants"]["noise scale 1"] == {"noise_scale": 1.0}
    assert record["studies"]["wrn"]["samples"] == 40


def test_a_run_goes_on_and_does_nothing_twice(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run stopped in the second training gives the numbers of an uninterrupted one."""
    out = tmp_path / "out"
    calls = []
    train = trainings.train

    def trained(*args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(trainings, "train", trained)
    checkpoint = ["--checkpoint", str(finished / "work" / "digital")]
    assert command.main([*QUICK, *checkpoint, "--out", str(out)]) == 130
    assert command.main([*QUICK, *checkpoint, "--out", str(out)]) == 2
    assert command.main([*QUICK, *checkpoint, "--seed", "1", "--out", str(out), "--resume"]) == 2
    assert command.main([*QUICK, *checkpoint, "--out", str(out), "--resume"]) == 0
    assert len(calls) == 4
    pd.testing.assert_frame_equal(
        pd.read_csv(out / "results.csv"), pd.read_csv(finished / "results.csv")
    )
    assert command.main([*QUICK, *checkpoint, "--out", str(out), "--resume"]) == 0
    assert len(calls) == 4


def test_every_model_is_compiled_and_its_ranges_set_anew_where_asked(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every model is compiled first.

    Ranges are set before the training and, if the plan says so, again after it.
    """
    order: list[str] = []

    def noted(name: str, work: Callable[..., object]) -> Callable[..., object]:
        def do(*args: object, **options: object) -> object:
            order.append(name)
            return work(*args, **options)

        return do

    plan = dataclasses.replace(tasks.find("wrn").plans["embedded"], recalibrate=True)
    monkeypatch.setitem(tasks.find("wrn").plans, "embedded", plan)
    monkeypatch.setattr(base, "compiled", noted("compiled", lambda model: None))
    for module, name in ((base, "calibrate"), (trainings, "train")):
        monkeypatch.setattr(module, name, noted(name, getattr(module, name)))
    words = [*QUICK, "--compiled", "--checkpoint", str(finished / "work" / "digital")]
    assert command.main([*words, "--out", str(tmp_path / "out")]) == 0
    assert order == ["compiled", "calibrate", "train", "calibrate"] * 3


def test_a_record_and_its_page(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record is stored whole.

    It is shown with its figure between the marks of a page of its own.
    """
    monkeypatch.setattr(records, "FOLDER", tmp_path / "records")
    section = next(one for one in pages.SECTIONS if one.name == "ablation")
    monkeypatch.setattr(pages, "SECTIONS", (section,))
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    page = tmp_path / section.page
    page.parent.mkdir()
    page.write_text("# Ablation\n\n<!-- ablation --><!-- /ablation -->\n")
    assert record_command.main(["write"]) == 0 and pages.NOTHING in page.read_text()
    assert record_command.main(["add", str(finished), "--name", "small"]) == 0
    (record,) = records.of_kind("ablation")
    rows = pd.read_csv(finished / "results.csv")
    pd.testing.assert_frame_equal(record.table(), rows, check_dtype=False, check_exact=True)
    assert record.name == "ablation-small" and record.extra["studies"]["wrn"]["samples"] == 40
    assert record.command.startswith("python -m benchmarks.ablation wrn --chips 2")
    assert "'no noise'" in record.command
    assert record_command.main(["write"]) == 0
    text = page.read_text()
    table = ablation_report.changes(rows, 0.9)
    assert tables.markdown(ablation_report.text_of(table)) in text
    assert "![changes](ablation-small.png)" in text
    drawn = figures.description_of(page.parent / "ablation-small.png")
    assert drawn == records.digest(record) and list(pages.problems()) == []


def test_record_keeps_the_result_as_add_does(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "FOLDER", tmp_path / "records")
    assert command.main([*QUICK, "--out", str(finished), "--resume", "--record", "small"]) == 0
    (record,) = records.of_kind("ablation")
    assert [record] == folders.records_of(finished, "small")


def test_a_summary_is_made_again(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    for name in ("summary.md", "changes.csv", "figure.png"):
        (out / name).unlink()
    folders.rebuild(out)
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    (out / "results.csv").write_text("variant\nrecipe\n")
    with pytest.raises(DataError, match=r"results\.csv is damaged, or was changed after the run"):
        ablation_report.record_of(out, "x")
    about = json.loads((out / "run.json").read_text())
    del about["results_sha256"]  # folders of older versions have none
    (out / "run.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match="other columns"):
        ablation_report.record_of(out, "x")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--only", "no luck"], "--only 'no luck'; one of 'no noise'"),
        (["--split", "train"], '"train" for --split. Choose from: "validation", "test"'),
        (["--chips", "0"], "--chips 0; allowed: 1 or more"),
        (["--precision", "int8"], 'Invalid value "int8" for --precision'),
        (["--record", "a/b"], "--record 'a/b'; allowed: letters"),
        (["--device", "tpu"], 'Invalid value "tpu" for --device'),
        (["--checkpoint", "/nowhere"], "no checkpoint at"),
        (["--set", "noise=1"], "allowed: FIELD=VALUE"),
    ],
)
def test_bad_usage(words: list[str], complaint: str, tmp_path: Path, capsys: object) -> None:
    assert command.main(["wrn", *words, "--out", str(tmp_path / "out")]) == 2
    assert complaint in " ".join(capsys.readouterr().err.split())  # type: ignore[attr-defined]
    assert not (tmp_path / "out").exists()


def test_the_variants_can_be_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["lstm", "--list", "--out", str(tmp_path / "out")]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0] == "recipe" and "no clipping" in listed
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_would_be_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*QUICK, "--dry-run", "--json", "--out", str(tmp_path / "out")]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert [line.strip() for line in plan[2:5]] == ["recipe", "no noise", "noise scale 1"]
    assert plan[1].startswith("2 chips at 1h, 1y on the validation split")
    assert not (tmp_path / "out").exists()
