"""Tables of measured devices: how spreads split, and which tables are refused, in which words."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from aimc_bridge.devices import TableDevice
from aimc_bridge.errors import SpecError, UsageError

ROWS: dict[str, Any] = {
    "target_us": [0.0, 0.0, 20.0, 20.0],
    "t_s": [1.0, 100.0, 1.0, 100.0],
    "mean_us": [0.5, 0.4, 20.0, 16.0],
}
PROG, READ = [0.2, 0.15, 0.3, 0.6], [0.15, 0.2, 0.4, 0.8]
WHOLE = [math.hypot(*both) for both in zip(PROG, READ, strict=True)]  # 0.25, 0.25, 0.5, 1


def table(**columns: Any) -> TableDevice:
    return TableDevice.from_frame(
        pd.DataFrame({**ROWS, **columns}), g_max_us=20.0, source="made up"
    )


@pytest.mark.parametrize(
    "columns",
    [
        {"prog_sd_us": PROG, "read_sd_us": READ},
        {"sd_us": WHOLE, "prog_sd_us": PROG},
        {"sd_us": WHOLE, "read_sd_us": READ},
        {"sd_us": WHOLE, "prog_sd_us": PROG, "read_sd_us": READ},
        {"sd_us": [s * 1.009 for s in WHOLE], "prog_sd_us": PROG, "read_sd_us": READ},
    ],
)
def test_any_two_of_three_spreads_give_the_third(columns: dict[str, list[float]]) -> None:
    """Variances add up: sd^2 = prog_sd^2 + read_sd^2. The two parts count if all are there."""
    device = table(**columns)
    assert device.prog_sd_us == pytest.approx(PROG)
    assert device.read_sd_us == pytest.approx(READ)


@pytest.mark.parametrize("name", ["sd_us", "prog_sd_us"])
def test_a_spread_alone_is_that_between_devices(name: str) -> None:
    device = table(**{name: PROG})
    assert device.prog_sd_us == tuple(PROG)
    assert device.read_sd_us == (0.0,) * 4


def test_a_part_may_be_all_of_the_spread() -> None:
    device = table(sd_us=WHOLE, prog_sd_us=WHOLE)
    assert device.prog_sd_us == tuple(WHOLE) and device.read_sd_us == (0.0,) * 4


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sd_us": WHOLE, "prog_sd_us": [0.2, 0.15, 0.6, 0.6]}, "prog_sd_us = 0.6 is more than sd"),
        ({"sd_us": WHOLE, "read_sd_us": [0.2, 0.3, 0.4, 0.8]}, "read_sd_us = 0.3 is more than sd"),
        (
            {"sd_us": [s * 1.02 for s in WHOLE], "prog_sd_us": PROG, "read_sd_us": READ},
            "sd_us = 0.255 at target 0 uS, t_s = 1, but the parts give 0.25",
        ),
        ({"read_sd_us": READ}, "read_sd_us without the rest; give sd_us or prog_sd_us too"),
        ({"sd_us": [0.1, -0.1, 0.1, 0.1]}, "sd_us = -0.1 at target 0 uS, t_s = 100; allowed: >= 0"),
        ({"sd_us": WHOLE, "mean_us": [0.0, 0.4, 20, 16]}, "mean 0 but a spread of 0.25 uS"),
        ({"sd_us": WHOLE, "mean_us": [0.5, 0.4, 41, 16]}, "mean 41 uS, sd 0.5 uS at target 20 uS"),
        ({"sd_us": [0.2, 0.2, 41, 1]}, "sd 41 uS at target 20 uS, t_s = 1, more than twice g_max"),
        (
            {"prog_sd_us": [0.0] * 4, "read_sd_us": [0.71, 0.1, 0.1, 0.1]},
            "read_sd_us = 0.71 at target 0 uS, t_s = 1 is more than 1.4 times the conductance",
        ),
        ({"sd_us": [0.0] * 4, "mean_us": [0.0, 0.0, 0.019, 0.019]}, "means up to 0.019; allowed"),
    ],
)
def test_spreads_that_cannot_be_are_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as error:
        table(**columns)
    assert message in str(error.value)


def test_read_noise_just_below_the_limit_is_allowed() -> None:
    """1.4 times the root of mean^2 + prog_sd^2, which is 0.7 at a mean of 0.5 alone."""
    assert table(prog_sd_us=[0.0] * 4, read_sd_us=[0.69, 0, 0, 0]).read_sd_us[0] == 0.69


def test_columns_of_different_lengths_and_an_empty_source_are_refused() -> None:
    known: dict[str, Any] = {"g_max_us": 20.0, "source": "made up"}
    with pytest.raises(SpecError, match=r"target_us 4, t_s 4, mean_us 3, sd_us 4"):
        TableDevice.from_arrays(ROWS["target_us"], ROWS["t_s"], [1.0] * 3, WHOLE, **known)
    with pytest.raises(SpecError, match="source=' '; allowed: a text"):
        TableDevice.from_frame(pd.DataFrame({**ROWS, "sd_us": WHOLE}), g_max_us=20.0, source=" ")


def test_values_that_are_changed_afterwards_are_checked_again() -> None:
    device = table(sd_us=WHOLE)
    with pytest.raises(SpecError, match="mean_us has 3 values; allowed: 4, one for each of 2"):
        dataclasses.replace(device, mean_us=device.mean_us[:3])
    with pytest.raises(SpecError, match="read_sd_us = -1 at target 0 uS, t_s = 1; allowed: >= 0"):
        dataclasses.replace(device, read_sd_us=(-1.0, *device.read_sd_us[1:]))


LINES = "target_us,t_s,mean_us,sd_us\n0,1,0.5,0.2\n20,1,20,0.5\n"


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"", SpecError, "no table (the file is empty)"),
        (b"# a note\n\n", SpecError, "no table (the file is empty)"),
        (b"\xff\xfe" + LINES.encode(), UsageError, "not a CSV file ("),
        (LINES.encode() + b"20,2,19\n", SpecError, "row 4: 3 entries; allowed: 4"),
        (LINES.replace("sd_us", "t_s").encode(), SpecError, "a column is there twice"),
        (LINES.encode() + b"x" * 200_000, SpecError, "no table (field larger than field limit"),
    ],
)
def test_files_that_hold_no_table_are_refused_by_name(
    tmp_path: Path, data: bytes, kind: type[Exception], message: str
) -> None:
    path = tmp_path / "measured.csv"
    path.write_bytes(data)
    with pytest.raises(kind) as error:
        TableDevice.from_csv(path, g_max_us=20.0, source="made up")
    assert message in str(error.value) and str(path) in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no\.csv: cannot be read \(No such file"):
        TableDevice.from_csv(tmp_path / "no.csv", g_max_us=20.0, source="made up")


def test_a_file_is_read_as_its_columns_with_notes_and_a_mark_of_utf8(tmp_path: Path) -> None:
    path = tmp_path / "measured.csv"
    path.write_bytes(b"\xef\xbb\xbf" + LINES.encode() + "# größer\n".encode())
    device = TableDevice.from_csv(path, g_max_us=20.0, source="made up")
    assert device.targets_us == (0.0, 20.0) and device.mean_us == (0.5, 20.0)
    assert device.prog_sd_us == (0.2, 0.5)
