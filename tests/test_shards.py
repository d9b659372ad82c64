"""Sweeps in parts: each shard's chips alone, and the merged table, equal to the whole sweep's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from aimc_bridge import calibrate, convert, merge_shards, sweep
from aimc_bridge.errors import DataError, UsageError
from aimc_bridge.sweep_files import read_file
from presets import rasch2023
from tests.models import DEVICES, mlp, random

TIMES = ("1s", "1d")


def two(model: nn.Module) -> dict[str, float]:
    with torch.no_grad():
        outputs = model(random(20, 12))
    return {"size": float(outputs.abs().mean()), "nothing": float("nan")}


def make(engine: str = "native", bias: float = 0.0) -> nn.Module:
    digital = mlp()
    with torch.no_grad():
        next(iter(digital.parameters())).add_(bias)
    analog = convert(digital, rasch2023 if engine == "native" else DEVICES, engine=engine).eval()
    calibrate(analog, [random(20, 12)])
    return analog


def run(model: nn.Module, **options: Any) -> pd.DataFrame:
    return sweep(model, two, **{"times": TIMES, "chips": 5, "progress": False, **options})


def files(folder: Path, count: int, **options: Any) -> list[Path]:
    """Run all shards of a sweep and return their files."""
    model = make(options.pop("engine", "native"), options.pop("bias", 0.0))
    paths = [folder / f"{number}.csv" for number in range(1, count + 1)]
    for number, path in enumerate(paths, start=1):
        run(model, shard=(number, count), resume=path, **options)
    return paths


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return files(tmp_path_factory.mktemp("three"), 3)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_merged_shards_are_the_whole_sweep(engine: str, count: int, tmp_path: Path) -> None:
    paths = files(tmp_path, count, engine=engine)
    whole = run(make(engine))
    merged = merge_shards(reversed(paths), into=tmp_path / "all.csv")
    pd.testing.assert_frame_equal(merged, whole, check_exact=True)
    resumed = run(make(engine), resume=tmp_path / "all.csv")
    pd.testing.assert_frame_equal(resumed, whole, check_exact=True)


def test_a_shard_has_its_chips_alone(three: list[Path]) -> None:
    alone = run(make(), shard="2/3")
    assert sorted(set(alone.chip)) == [1, 4]
    whole = run(make())
    rows = whole[whole.chip.isin([1, 4])].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, rows, check_exact=True)
    assert {row[0] for row in read_file(three[1]).rows} == {1, 4}


def test_chips_added_later_do_not_move(three: list[Path], tmp_path: Path) -> None:
    paths = [Path(shutil.copy(path, tmp_path)) for path in three]
    for number, path in enumerate(paths, start=1):
        run(make(), shard=(number, 3), resume=path, chips=7)
    expected = run(make(), chips=7)
    pd.testing.assert_frame_equal(merge_shards(paths), expected, check_exact=True)
    with pytest.raises(DataError, match="is shard 1/3 of 5"):
        run(make(), shard=(1, 3), resume=paths[0], chips=5)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_shard_is_named(three: list[Path], missing: int) -> None:
    rest = [path for number, path in enumerate(three) if number != missing]
    with pytest.raises(DataError, match=f"are missing: {missing + 1}/3; .* their files"):
        merge_shards(rest)


def test_a_shard_named_twice(three: list[Path], tmp_path: Path) -> None:
    again = shutil.copy(three[0], tmp_path / "again.csv")
    with pytest.raises(DataError, match="again.csv are both shard 1/3"):
        merge_shards([*three, again])
    other = three[0].parent / ".." / three[0].parent.name / three[0].name
    with pytest.raises(DataError, match="is named twice; name the file of each shard once"):
        merge_shards([*three[:2], other])


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"seed": 1}, "seed"),
        ({"bias": 0.1}, "model"),
        ({"times": ("1s",)}, "times"),
        ({"chips": 6}, "number of chips"),
    ],
)
def test_shards_of_another_sweep(
    three: list[Path], tmp_path: Path, options: dict[str, Any], what: str
) -> None:
    other = files(tmp_path, 3, **options)
    with pytest.raises(DataError, match=f"not of one sweep: another {what}"):
        merge_shards([three[0], other[1], three[2]])


def test_another_number_of_shards(three: list[Path], tmp_path: Path) -> None:
    other = files(tmp_path, 2)
    with pytest.raises(DataError, match="another number of shards"):
        merge_shards([three[0], other[1]])


def test_an_unfinished_shard(tmp_path: Path) -> None:
    """A shard that was cut short between two chips, or between two times of the user's."""
    paths = files(tmp_path, 2)
    calls: list[int] = []

    def stops(model: nn.Module) -> dict[str, float]:
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return two(model)

    paths[0].unlink()
    with pytest.raises(KeyboardInterrupt):
        sweep(make(), stops, TIMES, 5, shard=(1, 2), resume=paths[0], progress=False)
    with pytest.raises(DataError, match="shard 1/2 is not finished"):
        merge_shards(paths)
    run(make(), shard=(1, 2), resume=paths[0])
    pd.testing.assert_frame_equal(merge_shards(paths), run(make()), check_exact=True)


def test_shards_and_whole_sweeps_do_not_share_a_file(three: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rows of shard 1/3; give resume= a file for the whole"):
        run(make(), resume=three[0])
    with pytest.raises(DataError, match="rows of shard 1/3 of 5 chips, and this is shard 2/3"):
        run(make(), resume=three[0], shard=(2, 3))
    run(make(), resume=tmp_path / "all.csv")
    with pytest.raises(DataError, match="rows of all chips"):
        run(make(), resume=tmp_path / "all.csv", shard=(1, 3))
    with pytest.raises(DataError, match="not the file of a shard"):
        merge_shards([tmp_path / "all.csv"])


def test_changed_digits_and_chips_are_damage(three: list[Path], tmp_path: Path) -> None:
    text = three[0].read_text(encoding="utf-8")
    for old, new in (("1/3", "2/3"), ("1/3,5", "1/3,6"), ("\n0,0,", "\n1,1,")):
        path = tmp_path / "changed.csv"
        path.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(DataError, match="changed.csv: damaged"):
            merge_shards([path, *three[1:]])
    with pytest.raises(DataError, match="no such file"):
        merge_shards([tmp_path / "none.csv"])
    with pytest.raises(DataError, match="exists already"):
        merge_shards(three, into=three[0])
    with pytest.raises(UsageError, match="no files"):
        merge_shards([])


@pytest.mark.parametrize(
    "shard", ["0/3", "4/3", "3", "a/b", "", "1/2/3", (0, 3), (1.0, 3), (True, 3), (1, 2, 3), 5]
)
def test_no_such_shard(shard: Any) -> None:
    with pytest.raises(UsageError, match=r"shard=.*counted from 1"):
        run(make(), shard=shard)


def test_more_shards_than_chips() -> None:
    with pytest.raises(UsageError, match="shard 6/25 of 5 chips has no chip; .* at most 5 shards"):
        run(make(), shard="6/25")
