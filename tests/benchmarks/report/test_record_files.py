"""The committed records: every number of the files as they were first written is still there.

`record_numbers.json` was made from the files before all kinds of records had one format. A record
that is added later is not listed in it.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import record as records

LISTED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "record_numbers.json").read_text(encoding="utf-8")
)


def numbers(value: Any) -> list[str]:
    """Return all numbers in nested data, each as JSON writes it, sorted.

    `true` and `false` do not count. A text that is a number counts: the first records of runs had
    chips and times as texts.
    """
    if isinstance(value, dict):
        return sorted(text for child in value.values() for text in numbers(child))
    if isinstance(value, list):
        return sorted(text for child in value for text in numbers(child))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [json.dumps(value)]
    return [value] if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?", value) else []


def listed(value: Any) -> dict[str, Any]:
    """Return the count of all numbers and a digest of them; their order does not matter."""
    texts = numbers(value)
    return {"count": len(texts), "digest": hashlib.sha256("\n".join(texts).encode()).hexdigest()}


@pytest.mark.parametrize("name", LISTED)
def test_no_number_of_a_record_has_changed(name: str) -> None:
    record = records.read(records.FOLDER / f"{name}.json")
    assert record.name == name
    assert listed(record.to_dict()) == LISTED[name]


def test_a_changed_number_is_found() -> None:
    name = min(LISTED, key=lambda name: int(LISTED[name]["count"]))
    data = records.read(records.FOLDER / f"{name}.json").to_dict()
    first = next(i for i, cell in enumerate(data["rows"][0]) if isinstance(cell, float))
    data["rows"][0][first] *= 1 + 1e-15
    assert listed(data) != LISTED[name]
    del data["rows"][0][first]
    assert listed(data)["count"] == LISTED[name]["count"] - 1


@pytest.mark.parametrize("name", ["real-bert-control", "real-bert-long-control"])
def test_a_control_of_before_is_read_as_finetune_with_its_numbers(name, tmp_path) -> None:
    """The former control had no chip; a run with today's control keeps the name."""
    path = records.FOLDER / f"{name}.json"
    stored = json.loads(path.read_text())
    record = records.read(path)
    at = record.columns.index("phase")
    phases = [row[at] for row in record.rows]
    assert set(phases) == {"digital", "direct", "finetune"}
    assert [row[at] for row in stored["rows"]] == [
        "control" if phase == "finetune" else phase for phase in phases
    ]
    for row, before in zip(record.rows, stored["rows"], strict=True):
        assert row[:at] + row[at + 1 :] == before[:at] + before[at + 1 :]
    for study in stored["studies"].values():
        study["control"] = "the hardware-aware training with noise and drop-connect off"
    copy = tmp_path / "new.json"
    copy.write_text(json.dumps(stored))
    assert {row[at] for row in records.read(copy).rows} == {"digital", "direct", "control"}
