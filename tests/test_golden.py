"""Every chip is bit for bit what it was: digests of weights, alpha, outputs (tests/golden.py)."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from tests import golden

RECORD: dict[str, Any] = json.loads(golden.FILE.read_text(encoding="utf-8"))
CASES = dict(golden.cases())
# Compiling takes seconds per device: one device here, all in `python -m tests.golden`.
SLOW = [name for name in CASES if name.startswith("compiled") and "rasch2023" not in name]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_record_has_every_case() -> None:
    assert set(RECORD["cases"]) == set(CASES)


@pytest.mark.parametrize("name", [name for name in CASES if name not in SLOW])
def test_bit_for_bit(name: str) -> None:
    exact = RECORD["machine"] == golden.machine()
    differences = golden.differences(name, CASES[name](), RECORD["cases"][name], exact)
    assert not differences, "\n".join(differences)


def test_a_difference_is_found() -> None:
    name = next(iter(CASES))
    now, then = CASES[name](), RECORD["cases"][name]
    assert not golden.differences(name, now, then, exact=False)
    off = {key: dict(value) for key, value in now.items()}
    off["programmed"]["numbers"] = [1.001 * n for n in off["programmed"]["numbers"]]
    assert golden.differences(name, off, then, exact=False)
    off = {key: dict(value) for key, value in now.items()}
    off["programmed"]["digest"] = "0" * 20
    assert golden.differences(name, off, then, exact=True)
    del off["programmed"]
    assert golden.differences(name, off, then, exact=False)
