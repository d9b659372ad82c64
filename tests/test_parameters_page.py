"""The page of parameters: every field of every spec is on it, with what the code says of it."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import presets
from aimc_bridge.spec import CrossbarSpec
from aimc_bridge.spec.device import PcmSpec

PAGE: dict[str, Any] = runpy.run_path(str(Path(__file__).parent.parent / "docs" / "parameters.py"))
KINDS = [kind for _, kinds in PAGE["SECTIONS"] for kind in kinds]
ROWS = {kind: {row[0].strip("`"): row for row in PAGE["rows"](kind)} for kind in KINDS}


def test_every_field_of_the_standard_preset_has_a_row() -> None:
    preset = presets.rasch2023
    parts = [getattr(preset, part) for part in preset.PARTS]
    for part in (*parts, *preset.training.values()):
        shown = {name for kind in KINDS if isinstance(part, kind) for name in ROWS[kind]}
        assert set(type(part).field_names()) <= shown


def test_every_field_of_every_spec_has_a_row_there_or_with_its_base() -> None:
    for kind in KINDS:
        shown = {name for base in KINDS if issubclass(kind, base) for name in ROWS[base]}
        assert shown == set(kind.field_names())


def test_symbols_and_equations_are_of_fields_that_exist() -> None:
    fields = {field.name for kind in KINDS for field in dataclasses.fields(kind)}
    assert set(PAGE["SYMBOLS_AND_EQUATIONS"]) <= fields


def test_every_number_of_devices_and_tiles_has_an_equation() -> None:
    for kind in (PcmSpec, CrossbarSpec):
        for field in dataclasses.fields(kind):
            if str(field.type).startswith(("float", "tuple[float")):
                known = field.name in PAGE["SYMBOLS_AND_EQUATIONS"]
                assert known or field.name == "v_offset_w_min", field.name


def test_a_row_says_what_the_code_says() -> None:
    field, symbol, words, equation, unit, value, source = ROWS[CrossbarSpec]["out_noise"]
    assert (field, symbol, unit, value) == ("`out_noise`", "sigma_out", "", "0.04 (`rasch2023`)")
    assert words == "Standard deviation of the output noise, in the same units."
    assert equation == "`y += sigma_out N`" and source == "rasch2023, SI Table 1"
    assert ROWS[KINDS[0]]["g_max_us"][4:6] == ("uS", "25.0 (`rasch2023`)")
    assert ROWS[CrossbarSpec]["r_series"][5] == "0.0 unless set"
