"""The examples in docstrings run as they stand."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = (
    "aimc_bridge.calibration",
    "aimc_bridge.chip",
    "aimc_bridge.conversion",
    "aimc_bridge.sweeps",
    "aimc_bridge.training.start",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0 and result.failed == 0
