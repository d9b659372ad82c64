"""Intervals over chips: closed forms, how often they hold the mean, values without spread."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats as distributions

from aimc_bridge.converted import ProgrammedChip
from aimc_bridge.errors import CheckpointError, UsageError
from benchmarks.report import answer_intervals, answers
from benchmarks.report.intervals import (
    Interval,
    change,
    crossed_difference,
    crossed_half_width,
    crossed_interval,
    ends,
    independent_change,
    mean_interval,
    sd_ratio,
)
from tests import stats
from tests.models import random

# the upper end of Clopper and Pearson's 95 % interval of a share, if none of six is seen
NONE_OF_SIX = float(distributions.beta.ppf(0.975, 1, 6))


def test_intervals_by_hand() -> None:
    """n = 4 has the t quantile 3.18245; the mean is 2.5 and the sd 1.29099."""
    interval = mean_interval([1.0, 2.0, 3.0, 4.0])
    half = 3.182446 * 1.290994 / 2
    assert interval[:3] == pytest.approx((2.5, 2.5 - half, 2.5 + half), rel=1e-5)
    paired = change([10.0, 20.0, 30.0, 40.0], [11.0, 22.0, 33.0, 44.0])
    assert paired == pytest.approx(interval)
    # Welch's interval for variances 1 and 4 of n = 3 and 5 has the error sqrt(1/3 + 4/5) and 5.9935
    # degrees of freedom.
    a, b = [0.0, 1.0, 2.0], [10 - 2.828427, 10.0, 10.0, 10.0, 10 + 2.828427]
    welch = independent_change(a, b)
    error = math.sqrt(1 / 3 + 4 / 5)
    assert welch.mean == pytest.approx(9.0)
    assert (welch.high - welch.low) / 2 == pytest.approx(2.447356 * error, rel=2e-3)
    # F with 4 and 2 degrees of freedom has the quantiles 39.2484 and 1 / 10.6491.
    ratio = sd_ratio(a, b)
    assert ratio.mean == pytest.approx(2.0, rel=1e-6)
    assert ratio.low == pytest.approx(2.0 / math.sqrt(39.2484), rel=1e-4)
    assert ratio.high == pytest.approx(2.0 * math.sqrt(10.6491), rel=1e-4)


def test_an_interval_holds_the_mean_95_times_of_100() -> None:
    """Each interval is over 5 normal values.

    With the normal quantile, it would hold the mean 88 times of 100.
    """
    count = 20_000
    draws = random(count, 5, seed=11, dtype=torch.float64).numpy()
    intervals = [mean_interval(x) for x in draws[:2000]]
    inside = np.array([i.low <= 0.0 <= i.high for i in intervals])
    bound = stats.quantile() * math.sqrt(0.95 * 0.05 / len(inside))
    assert abs(inside.mean() - 0.95) <= bound
    normal = np.abs(draws.mean(1)) <= 1.959964 * draws.std(1, ddof=1) / math.sqrt(5)
    assert abs(normal.mean() - 0.95) > bound
    assert np.mean([i.p < 0.05 for i in intervals]) == pytest.approx(1 - inside.mean())


def test_values_without_spread() -> None:
    """No spread is no certainty: such values have no interval, and no p value unless all are 0."""
    assert without_interval(mean_interval([2.0, 2.0])) == 2.0
    assert without_interval(mean_interval([2.0])) == 2.0
    assert without_interval(mean_interval([0.0, 0.0]), p=1.0) == 0.0
    assert without_interval(change([1.0, 2.0], [1.0 + 1e-8, 2.0 - 1e-8]), p=1.0) == 0.0
    assert without_interval(change([1.0, 2.0], [2.0, 3.0])) == 1.0
    assert change([1.0, 2.0], [1.0 + 1e-4, 2.0 + 1e-4]).mean == pytest.approx(1e-4)
    assert without_interval(sd_ratio([1.0, 2.0], [3.0, 3.0])) == 0.0
    assert math.isnan(sd_ratio([3.0, 3.0], [1.0, 2.0]).mean)
    assert math.isnan(sd_ratio([0.1, 0.1, 0.1], [0.1, 0.2, 0.3]).mean)  # Their variance is 2e-34.
    # a side whose values agree has no estimate of its spread, so it does not count as known exactly
    assert without_interval(independent_change([1.0, 1.0], [1.0, 2.0, 3.0, 4.0])) == 1.5
    assert without_interval(independent_change([1.0, 2.0, 3.0, 4.0], [4.0, 4.0])) == 1.5
    assert without_interval(independent_change([0.85] * 3, [0.85] * 7)) == 0.0


def without_interval(found: Interval, p: float = math.nan) -> float:
    """Return the mean of an interval that has no ends."""
    assert math.isnan(found.low) and math.isnan(found.high)
    assert found.p == p or (math.isnan(found.p) and math.isnan(p))
    return found.mean


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_values_agree_up_to_the_rounding_of_float32(size: float) -> None:
    """Means of float32 differ by 1e-7 of their size; three times the bound is a difference."""
    near, apart = (size * np.array([0.85, 0.85, 0.85 + more]) for more in (1e-7, 3e-6))
    before = size * np.array([0.9, 0.9, 0.9])
    for one, other in ((near, apart), (before - near, before - apart)):
        assert math.isnan(mean_interval(one, 0.9 * size).low)
        assert not math.isnan(mean_interval(other, 0.9 * size).low)
    assert math.isnan(change(before, near).low) and not math.isnan(change(before, apart).low)
    # the float32 means of batches, in three orders
    batches = random(60, seed=5).abs().numpy().astype(np.float32)
    means = [float(np.roll(batches, turn).cumsum(dtype=np.float32)[-1]) / 60 for turn in (0, 7, 31)]
    assert len(set(means)) > 1 and math.isnan(mean_interval(size * np.array(means)).low)


def test_a_small_error_is_rounded_as_the_accuracy_is() -> None:
    errors = [1e-3, 1e-3, 1e-3 + 1e-7]
    assert not math.isnan(mean_interval(errors).low)
    assert math.isnan(mean_interval(errors, 1.0).low)
    assert math.isnan(independent_change(errors, [0.1, 0.2, 0.3], 1.0).low)


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (1.0, 2.0, ("1.00", "2.00")),
        (4.998, 5.002, ("4.998", "5.002")),
        (-0.0001, 0.0001, ("-0.0001", "0.0001")),  # -0.00 and 0.00 are one number
        (5.0, 5.0, None),
        (5.0, 5.0 + 1e-12, None),
        (math.nan, math.nan, None),
    ],
)
def test_the_ends_of_an_interval_look_apart(
    low: float, high: float, told: tuple[str, str] | None
) -> None:
    assert ends(low, high, lambda end, digits: f"{end:.{digits}f}", 2) == told


def test_values_that_give_no_interval_are_refused() -> None:
    for wrong in ([], [1.0, math.nan], [math.inf], [[1.0]]):
        with pytest.raises(UsageError):
            mean_interval(wrong)
    with pytest.raises(UsageError, match="2 chips before, 3 after"):
        change([1.0, 2.0], [1.0, 2.0, 3.0])
    for function in (sd_ratio, independent_change):
        with pytest.raises(UsageError, match="two or more"):
            function([1.0], [1.0, 2.0])


def effects(n: int, units: int, samples: int, sizes: tuple[float, float, float]) -> np.ndarray:
    """Return n tables of unit, sample and interaction effects of known sizes; their mean is 0."""
    numbers = np.random.default_rng([units, samples, *(int(1000 * size) for size in sizes)])
    of_units, of_samples, rest = sizes
    return (
        of_units * numbers.standard_normal((n, units, 1))
        + of_samples * numbers.standard_normal((n, 1, samples))
        + rest * numbers.standard_normal((n, units, samples))
    )


@pytest.mark.parametrize(("units", "samples"), [(3, 100), (5, 60), (25, 40)])
@pytest.mark.parametrize(
    "sizes",
    [
        *((0.0, 1, 1), (0.05, 1, 1), (0.15, 1, 1), (0.5, 1, 1), (0.1, 0.1, 1), (1, 0.3, 1)),
        *((0.0, 0.0, 1), (0.0, 1, 0.1), (0.03, 0.1, 1)),
    ],
)
def test_the_crossed_interval_covers_what_it_says(units, samples, sizes) -> None:
    """Nominally 95 % of the intervals hold the mean of new units and samples: 93 to 97 % do.

    Counts of 10,000 tables have a binomial sd of 0.17 to 0.26 %; 4.9 of them are allowed beyond
    these ends, a false-alarm rate of 1e-6. A half width that is never below that of the samples
    covers 98.3 % and more where interaction is all there is (three units, sizes 0, 0, 1): it fails.
    """
    n = 10_000
    tables = effects(n, units, samples, sizes)
    half = crossed_half_width(tables)
    covered = (np.abs(tables.mean((-1, -2))) <= half).mean()
    sd = math.sqrt(0.03 * 0.97 / n)
    assert 0.93 - 4.9 * sd < covered < 0.97 + 4.9 * sd
    one = crossed_interval(tables[0])
    assert (one.high - one.low) / 2 == pytest.approx(half[0])


def test_the_crossed_interval_by_hand() -> None:
    """Two units, three samples: variances of the means 3/4 and 1/3, none left over.

    The shares are 9/13 and 4/13. The weighted quantile is 9/13 * 12.7062 + 4/13 * 4.30265, and the
    degrees of freedom 1 / ((9/13)^2 + (4/13)^2 / 2) = 1.8988, between which t has no table: it is
    found from its distribution function. Samples that are alike leave Student's t over units.
    """
    parts = np.array([[0.0], [math.sqrt(3)]]) + np.array([0.0, 1.0, 2.0])
    found = crossed_interval(parts)
    half = (found.high - found.low) / 2
    quantile = 2 * half / math.sqrt(0.75 + 1 / 3) - (9 * 12.706205 + 4 * 4.302653) / 13
    freedom = 1 / ((9 / 13) ** 2 + (4 / 13) ** 2 / 2)
    assert distributions.t.cdf(quantile, freedom) == pytest.approx(0.975, abs=1e-6)
    alike = crossed_interval(np.repeat([[0.0], [1.0], [5.0]], 4, axis=1))
    assert alike[:3] == pytest.approx(mean_interval([0.0, 1.0, 5.0])[:3])
    flat = crossed_interval(np.full((3, 4), 0.25))
    assert flat[:3] == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("sizes", [(0.0, 1, 1), (0.5, 1, 1)])
def test_intervals_over_units_or_samples_alone_would_not_cover(sizes) -> None:
    """The same test fails for Student's t over one of the two: it has the power to see it."""
    tables = effects(1000, 25, 40, sizes)
    mean = tables.mean((-1, -2))
    t = {n: float(distributions.t.isf(0.025, n - 1)) for n in (25, 40)}
    units = t[25] * tables.mean(-1).std(-1, ddof=1) / 5
    samples = t[40] * tables.mean(-2).std(-1, ddof=1) / math.sqrt(40)
    assert min((np.abs(mean) <= units).mean(), (np.abs(mean) <= samples).mean()) < 0.9


def test_crossed_intervals_of_what_is_no_table() -> None:
    one = crossed_interval([[1.0, 2.0, 3.0]])
    assert one.mean == 2.0 and math.isnan(one.low) and math.isnan(one.high)
    for values in ([1.0, 2.0], [[]], [[1.0, math.inf]]):
        with pytest.raises(UsageError, match=r"allowed: finite numbers \(units, samples\)"):
            crossed_interval(values)


@pytest.mark.parametrize(("units", "others"), [(3, 5), (3, 25), (10, 4)])
@pytest.mark.parametrize(
    "sizes", [(0.0, 1, 1), (0.15, 1, 1), (0.5, 1, 1), (1, 0.3, 1), (0.0, 1, 0.1), (0.0, 0.0, 1)]
)
def test_the_difference_of_units_that_are_not_paired_covers(units, others, sizes) -> None:
    """As above, for trainings against the chips of one model, which has half of their effects.

    What a sample does to both sides alike is in no interval: it is as large as all the rest here.
    """
    n, samples = 1500, 60
    both = np.random.default_rng(units).standard_normal((n, 1, samples))
    first = effects(n, units, samples, sizes) + both
    second = effects(n, others, samples, tuple(size / 2 for size in sizes)) + both
    found = [crossed_difference(a, b) for a, b in zip(first, second, strict=True)]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in found])
    sd = math.sqrt(0.03 * 0.97 / n)
    assert 0.93 - 4.9 * sd < covered < 0.97 + 4.9 * sd
    assert found[0].mean == pytest.approx(first[0].mean() - second[0].mean())


def test_the_difference_of_units_that_are_not_paired_by_hand() -> None:
    """Samples that are alike leave two groups of units: variances of the means 1/3 and 1/4.

    The shares are 4/7 and 3/7; Welch's degrees of freedom 1 / ((4/7)^2 / 2 + (3/7)^2 / 3).
    """
    first = np.repeat([[0.0], [1.0], [2.0]], 6, axis=1)
    second = np.repeat([[5.0], [7.0], [5.0], [5.0]], 6, axis=1)
    found = crossed_difference(first, second)
    assert found.mean == pytest.approx(1.0 - 5.5)
    freedom = 1 / ((4 / 7) ** 2 / 2 + (3 / 7) ** 2 / 3)
    t = [float(distributions.t.isf(0.025, f)) for f in (2, 3, freedom)]
    half = (t[0] * 4 / 7 + t[1] * 3 / 7 + t[2]) / 2 * math.sqrt(1 / 3 + 1 / 4)
    assert found[1:3] == pytest.approx((found.mean - half, found.mean + half))
    single = crossed_difference(first[:1], second)
    assert single.mean == -5.5 and math.isnan(single.low) and math.isnan(single.high)
    for other in (second[:, :5], [1.0], np.full((2, 6), math.nan)):
        with pytest.raises(UsageError, match="the same number of samples"):
            crossed_difference(first, other)


def chips_of(numbers, chips: int, samples: int, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return answers of a digital model and of chips; chips lose more on hard samples."""
    hard = base[:samples]
    digital = hard + 0.5 * numbers.standard_normal(samples) > -1.0
    chip = 0.1 * numbers.standard_normal((chips, 1))
    return digital, hard + chip + 0.5 * numbers.standard_normal((chips, samples)) > -0.85


def test_the_interval_of_a_star_covers() -> None:
    """The answers are 0 or 1, A* is a ratio, and the digital model has the same samples."""
    numbers, chance, n = np.random.default_rng(1), 0.9, 1000
    right = distributions.norm.sf(-1.0, scale=math.sqrt(1.25))  # P(hard + noise > -1)
    chip = distributions.norm.sf(-0.85, scale=math.sqrt(1.25 + 0.01))
    truth = 1 - (right - chip) / (chance - (1 - right))
    covered = 0
    for _ in range(n):
        digital, chips = chips_of(numbers, 10, 300, numbers.standard_normal(300))
        shares = answer_intervals.table_of_stars(digital, chips, chance)
        found = crossed_interval(shares)
        error, before = (~chips).mean(), (~digital).mean()
        assert found.mean == pytest.approx(1 - (error - before) / (chance - before))
        covered += found.low <= truth <= found.high
    sd = math.sqrt(0.03 * 0.97 / n)
    assert 0.93 - 4.9 * sd < covered / n < 0.97 + 4.9 * sd


def test_answers_are_read_as_they_were_written(tmp_path) -> None:
    """Chips can be added, and a chip that is measured again replaces its old answers."""
    kept = answers.Answers(tmp_path / "a.safetensors")
    numbers = torch.rand(3, 13, generator=torch.Generator().manual_seed(0)) > 0.5
    chip = ProgrammedChip(7, "cpu", 3600.0)
    for right in numbers[:2]:
        kept.add(chip, right)
    kept.add(ProgrammedChip(8, "cpu", 1.0), numbers[2])
    found = answers.read(kept.path)
    assert set(found) == {(7, 3600.0), (8, 1.0)}
    assert found[7, 3600.0].tolist() == numbers[1].tolist()
    assert found[8, 1.0].tolist() == numbers[2].tolist()
    kept = answers.Answers(tmp_path / "b.safetensors")
    for right in numbers[:2]:
        kept.add(None, right)
    (((_, at), bits),) = answers.read(kept.path).items()
    assert math.isnan(at) and bits.tolist() == numbers[1].tolist()
    kept.path.write_bytes(kept.path.read_bytes()[:30])
    with pytest.raises(CheckpointError):
        answers.read(kept.path)


def test_trainings_are_the_units_if_there_are_several(tmp_path) -> None:
    numbers = np.random.default_rng(0)
    files = []
    for training in range(3):
        digital, chips = chips_of(numbers, 4, 50, numbers.standard_normal(50))
        seeds = (0, 1, 2, 3)
        places = answers.Kept(tmp_path / f"digital{training}", tmp_path / f"hwa{training}", seeds)
        answers.Answers(places.digital).add(None, torch.from_numpy(digital))
        for seed, bits in enumerate(chips):
            chip = ProgrammedChip(seed, "cpu", 1.0)
            answers.Answers(places.chips).add(chip, torch.from_numpy(bits))
        files.append({("hwa", "native", "D"): places})
    (all_three,) = answer_intervals.intervals(files, [1.0], 0.9, own_digital=False)
    assert all_three["over"] == "trainings, chips, samples"
    each = [answer_intervals.intervals([one], [1.0], 0.9, own_digital=True)[0] for one in files]
    assert {row["over"] for row in each} == {"chips, samples"}
    assert all_three["mean"] == pytest.approx(np.mean([row["mean"] for row in each]))
    own = answer_intervals.intervals(files, [1.0], 0.9, own_digital=True)[0]["over"]
    assert own == "digital models, trainings, chips, samples"
    assert (
        answer_intervals.intervals(files, [1.0], 0.05, own_digital=True) == []
    )  # It is at chance.
    assert answer_intervals.intervals(files, [2.0], 0.9, own_digital=True) == []  # No such time.
    place = ("hwa", "native", "D")
    missing: answers.Files = {place: None}  # One training is no sample of three.
    assert answer_intervals.intervals([*files[1:], missing], [1.0], 0.9, own_digital=True) == []


def test_phases_are_paired_by_the_seeds_of_their_chips(tmp_path) -> None:
    """The order of a file says nothing, chips that are not asked for do not count."""
    right = np.eye(4, 6, dtype=bool)
    digital = tmp_path / "digital"
    answers.Answers(digital).add(None, torch.ones(6, dtype=torch.bool))
    for name, seeds in (("direct", (0, 1, 2, 3)), ("hwa", (3, 2, 1, 0))):
        for seed in seeds:
            bits = torch.from_numpy(right[seed])
            answers.Answers(tmp_path / name).add(ProgrammedChip(seed, "cpu", 1.0), bits)

    def compared(direct: tuple[int, ...], hwa: tuple[int, ...]) -> list[dict[str, Any]]:
        files: answers.Files = {
            (name, "native", "D"): answers.Kept(digital, tmp_path / name, seeds)
            for name, seeds in (("direct", direct), ("hwa", hwa))
        }
        rows = answer_intervals.intervals([files], [1.0], 0.9, own_digital=False)
        found = answer_intervals.changes([files], [1.0], own_digital=False)
        assert sum(row["minus"] == "direct" for row in found) == len(rows) - 2
        return [row for row in rows if row["minus"]]

    (alike,) = compared((0, 1, 2), (2, 1, 0))
    assert alike["mean"] == 0.0
    assert (alike["low"], alike["high"]) == pytest.approx((-NONE_OF_SIX / 0.9, NONE_OF_SIX / 0.9))
    assert compared((0, 1, 2), (1, 2, 3)) == []


def test_trainings_are_compared_with_the_chips_of_one_direct_conversion(tmp_path) -> None:
    """With a given digital model, direct conversion is measured once, whatever `--seeds` says."""
    digital, direct = tmp_path / "digital", tmp_path / "direct"
    answers.Answers(digital).add(None, torch.ones(64, dtype=torch.bool))
    lost = {direct: (32, 32, 40)}
    lost |= {tmp_path / f"hwa{training}": (8, 8, 16 + 8 * training) for training in range(3)}
    for path, counts in lost.items():
        for seed, count in enumerate(counts):
            right = torch.arange(64) >= count
            answers.Answers(path).add(ProgrammedChip(seed, "cpu", 1.0), right)
    files: list[answers.Files] = [
        {("hwa", "native", "D"): answers.Kept(digital, tmp_path / f"hwa{training}", (0, 1, 2))}
        for training in range(3)
    ]
    files[0] = {("direct", "native", "D"): answers.Kept(digital, direct, (0, 1, 2))} | dict(
        files[0]
    )
    rows = answer_intervals.changes(files, [1.0], own_digital=False)
    (gain,) = (row for row in rows if row["minus"] == "direct")
    of = np.array([[[seen < k for seen in range(64)] for k in lost[path]] for path in lost], float)
    expected = crossed_difference(of[1:].mean(1), of[0])
    assert (gain["mean"], gain["low"], gain["high"]) == pytest.approx(expected[:3])
    assert gain["mean"] == pytest.approx((1 + 1 + 3) / 3 / 8 - 13 / 3 / 8)
    assert (gain["over"], gain["units"]) == ("trainings, chips, samples", 3)
    stars = answer_intervals.intervals(files, [1.0], 0.9, own_digital=False)
    assert [row["phase"] for row in stars if row["minus"] == "direct"] == ["hwa"]


def test_equal_answers_do_not_say_that_nothing_is_lost(tmp_path) -> None:
    """By hand: 0 of n changed, so that up to 1 - 0.025^(1/n) of all answers may change."""
    digital, chips = tmp_path / "digital", tmp_path / "chips"
    right = torch.tensor([True] * 5 + [False])
    answers.Answers(digital).add(None, right)
    for seed in (0, 1, 2):
        answers.Answers(chips).add(ProgrammedChip(seed, "cpu", 1.0), right)
    files: answers.Files = {("hwa", "native", "D"): answers.Kept(digital, chips, (0, 1, 2))}
    (star,) = answer_intervals.intervals([files], [1.0], 0.9, own_digital=False)
    half = NONE_OF_SIX / (0.9 - 1 / 6)
    assert (star["low"], star["high"]) == pytest.approx((1 - half, 1 + half))
    (loss,) = answer_intervals.changes([files], [1.0], own_digital=False)
    assert (loss["low"], loss["high"]) == pytest.approx((-NONE_OF_SIX, NONE_OF_SIX))


def test_variances_that_cancel_leave_no_interval(tmp_path) -> None:
    """Each chip loses one answer, another one: neither chips nor samples seem to vary."""
    digital, chips = tmp_path / "digital", tmp_path / "chips"
    answers.Answers(digital).add(None, torch.ones(6, dtype=torch.bool))
    for seed in (0, 1):
        right = torch.arange(6) != seed
        answers.Answers(chips).add(ProgrammedChip(seed, "cpu", 1.0), right)
    files: answers.Files = {("hwa", "native", "D"): answers.Kept(digital, chips, (0, 1))}
    (loss,) = answer_intervals.changes([files], [1.0], own_digital=False)
    assert loss["mean"] == pytest.approx(1 / 6)
    assert loss["low"] is None and loss["high"] is None
    (star,) = answer_intervals.intervals([files], [1.0], 0.9, own_digital=False)
    assert star["low"] is None


@pytest.mark.parametrize(("width", "none"), [(9.4e-10, True), (1e-5, False), (0.2, False)])
def test_rounding_is_no_width(width: float, none: bool) -> None:
    """Four chips that each lose three of 54 answers had a width of 9.34e-10 from variances of 0."""
    mean, least = 3 / 54, answer_intervals.least_half_width(54)
    interval = Interval(mean, mean - width / 2, mean + width / 2, math.nan)
    found = answer_intervals.widened(interval, least, same=False)
    if none:
        assert math.isnan(found.low) and math.isnan(found.high)
    else:
        assert found.high - found.low == pytest.approx(max(width, 2 * least))


def test_answers_of_other_chips_than_the_rows_are_noticed(tmp_path) -> None:
    path = tmp_path / "hwa-native-answers.safetensors"
    assert "is missing" in answers.misfit(path, {(0, 1.0): 0.25})
    for seed in (0, 1):
        bits = torch.tensor([True, True, True, seed == 0])
        answers.Answers(path).add(ProgrammedChip(seed, "cpu", 1.0), bits)
    assert answers.misfit(path, {(0, 1.0): 0.0, (1, 1.0): 0.25}) == ""
    assert answers.misfit(path, {(1, 1.0): math.nan}) == ""
    assert "seeds 2, 3" in answers.misfit(path, {(0, 1.0): 0.0, (2, 1.0): 0.1, (3, 1.0): 0.1})
    assert "seeds 0" in answers.misfit(path, {(0, 3600.0): 0.0})
    assert "of other chips" in answers.misfit(path, {(0, 1.0): 0.0, (1, 1.0): 0.0})
