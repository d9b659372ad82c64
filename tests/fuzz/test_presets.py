"""Damaged presets, device tables, times and words of --set are refused by name, or are valid."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import presets
from aimc_bridge import devices
from aimc_bridge.errors import AimcError, UsageError
from aimc_bridge.spec import Preset, TrainingSpec
from aimc_bridge.times import label, seconds
from benchmarks import cli
from presets import hermes, ideal, rasch2023
from tests.fuzz.damage import CASES, HUGE, ODD, changed, damaged

SHORT = b"""base = "rasch2023"
name = "my_chip"
why = "our lab, 2026"

[change]
g_max_us = 40.0
adc_bits = "none"
prog_coeff_us = [0.3, 1.0]
drift_compensation = "none"
"""
TABLE = b"""target_us,t_s,mean_us,prog_sd_us,read_sd_us
0,1,0,0.3,0
12.5,1,12.5,0.5,0.1
25,1,25,0.4,0.2
0,3600,0,0.3,0.1
12.5,3600,11.5,0.5,0.1
25,3600,23,0.4,0.2
"""
WHOLE = {"rasch2023": rasch2023.to_dict(), "hermes": hermes.to_dict(), "ideal": ideal.to_dict()}


def sound(preset: Preset) -> None:
    """Assert that a preset that was accepted is one: it survives the way to plain data and back."""
    assert isinstance(preset, Preset) and isinstance(preset.name, str)
    text = json.dumps(preset.to_dict(), allow_nan=False)
    assert Preset.from_dict(json.loads(text)) == preset


def loaded(path: Path, data: bytes) -> None:
    """Load a preset file: a sound preset or an AimcError, and nothing is registered."""
    path.write_bytes(data)
    before = presets.names()
    try:
        preset = presets.load(path)
    except AimcError as error:
        assert str(error)
    else:
        sound(preset)
    assert presets.names() == before


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@CASES
@given(data=damaged(SHORT))
def test_short_preset_files(folder: Path, data: bytes) -> None:
    loaded(folder / "short.toml", data)


@CASES
@given(data=st.sampled_from(sorted(WHOLE)).flatmap(lambda name: changed(WHOLE[name])))
def test_whole_preset_files(folder: Path, data: Any) -> None:
    """Values at random places are odd, missing, misnamed or those of other places."""
    loaded(folder / "whole.json", json.dumps(data).encode())


@CASES
@given(data=damaged(json.dumps(WHOLE["rasch2023"], indent=1).encode()))
def test_damaged_json(folder: Path, data: bytes) -> None:
    loaded(folder / "damaged.json", data)


@CASES
@given(data=st.sampled_from(sorted(WHOLE)).flatmap(lambda name: changed(WHOLE[name])) | ODD)
def test_plain_data(data: Any) -> None:
    """`Preset.from_dict` raises an AimcError, or its preset is sound."""
    try:
        preset = Preset.from_dict(data)
    except AimcError:
        return
    sound(preset)


@CASES
@given(data=damaged(TABLE))
def test_device_tables(folder: Path, data: bytes) -> None:
    """A table that is accepted gives a device that a preset can have."""
    path = folder / "table.csv"
    path.write_bytes(data)
    try:
        device = devices.TableDevice.from_csv(path, g_max_us=25.0, source="fuzzed")
    except AimcError:
        return
    sound(rasch2023.with_device(device, name="mine", why="fuzzed"))


@CASES
@given(time=st.text(max_size=12) | st.from_regex(r"\s?[0-9.e+-]{0,8}\s?[a-z]{0,7}") | ODD)
@example(time=HUGE)
@example(time="9" * 5000)
def test_times(time: Any) -> None:
    """A time is a finite number of seconds, which its label gives back, or a UsageError."""
    try:
        t_s = seconds(time)
    except UsageError:
        return
    assert math.isfinite(t_s) and t_s >= 0.0
    assert seconds(label(t_s)) == t_s


@CASES
@given(
    words=st.lists(
        st.builds(
            lambda key, value: f"{key}={value}",
            st.sampled_from(TrainingSpec.field_names()) | st.text(max_size=5),
            ODD.map(lambda value: json.dumps(value)) | st.text(max_size=8),
        )
        | st.text(max_size=8),
        max_size=3,
    )
)
def test_changes_of_a_recipe(words: list[str]) -> None:
    """Words of --set make a valid recipe, or an AimcError."""
    spec = rasch2023.training["wrn16"]
    try:
        spec = spec.change(why="fuzzed", **cli.changes_of(words))
    except AimcError:
        return
    assert TrainingSpec.field_names() == type(spec).field_names()
    json.dumps(spec.values(), allow_nan=False)
