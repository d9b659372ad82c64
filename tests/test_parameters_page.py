"""The page of parameters: every field of every spec is on it, with what the code says of it."""

from __future__ import annotations

import dataclasses
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import presets
from aimc_bridge.physics.laws import law_of
from aimc_bridge.spec import (
    AfmPcmSpec,
    CompensationSpec,
    CrossbarSpec,
    DeviceSpec,
    ReramCmoSpec,
    ReramWanSpec,
    ScalarDriftSpec,
    SignedPcmSpec,
    TrainingSpec,
)

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
    for kind, equations in PAGE["SYMBOLS_AND_EQUATIONS"].items():
        assert kind in KINDS and set(equations) <= set(kind.field_names())


def equation(kind: type, name: str) -> str:
    """Return the equation of a field where it stands for a spec: with itself, or with a base."""
    for base in kind.__mro__:
        if base in ROWS and name in ROWS[base]:
            return str(ROWS[base][name][3].strip("`"))
    raise AssertionError(name)


def test_every_number_of_devices_and_tiles_has_an_equation() -> None:
    own_time = {ReramWanSpec, ReramCmoSpec, AfmPcmSpec}  # whose laws do not know a t0
    for kind in KINDS:
        if kind in (DeviceSpec, CompensationSpec, TrainingSpec):
            continue
        for field in dataclasses.fields(kind):
            number = str(field.type).startswith(("float", "tuple[float"))
            if number and not (field.name == "t0_s" and kind in own_time):
                assert equation(kind, field.name), (kind, field.name)


X = torch.linspace(0.02, 1.0, 50, dtype=torch.float64)
POLYNOMIAL = "sigma_prog = s_prog sum_k c_k x^k"
SIZE = "sigma_prog = s_prog sum_k c_k |g|^k, |g| in uS"
LINE = "sigma_prog = s_prog (c_0 + c_1 g)"


def powers(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    return torch.stack([c * x**k for k, c in enumerate(coefficients)]).sum(0)


@pytest.mark.parametrize(
    ("preset", "shown", "sigma"),
    [
        ("rasch2023", POLYNOMIAL, lambda p: powers(p.prog_coeff_us, X)),
        ("pcm_state_independent", POLYNOMIAL, lambda p: powers(p.prog_coeff_us, X)),
        ("hermes", POLYNOMIAL, lambda p: powers(p.prog_coeff_us, X)),
        ("scalar_drift", POLYNOMIAL, lambda p: powers(p.prog_coeff_us, X)),
        ("reram_cmo", LINE, lambda p: p.prog_coeff_us[0] + p.prog_coeff_us[1] * X * p.g_max_us),
        (
            "pcm_afm",
            SIZE,
            lambda p: torch.where(
                X * p.g_max_us > p.one_device_us,
                powers(p.prog_coeff_two_us, X * p.g_max_us),
                powers(p.prog_coeff_us, X * p.g_max_us),
            ),
        ),
    ],
)
def test_the_equation_of_programming_is_that_of_the_devices_own_law(
    preset: str, shown: str, sigma: Callable[[Any], Tensor]
) -> None:
    pcm = presets.get(preset).pcm
    assert equation(type(pcm), "prog_coeff_us") == shown
    g_us = X * pcm.g_max_us - pcm.reference_us  # a law with a reference takes the difference
    torch.testing.assert_close(law_of(pcm).sigma_prog_us(g_us, pcm), sigma(pcm))


def two_pieces(p: Any, piece: str) -> Tensor:
    slope, intercept, low, high = getattr(p, f"{piece}_low")
    below = (slope * X.log() + intercept).clamp(low, high)
    return torch.where(
        getattr(p, f"{piece}_break") > X, below, powers(getattr(p, f"{piece}_high"), X)
    )


def piece(terms: tuple[float, ...]) -> Tensor:
    slope, intercept, low, high = terms
    return (slope * X.log() + intercept).clamp(low, high)


@pytest.mark.parametrize(
    ("preset", "law", "field", "shown", "expected"),
    [
        *[
            (*case, f"{short} = clamp(slope ln x + intercept, lowest, highest)", None)
            for case in (("rasch2023", "nu_mean", "nu_mean"), ("rasch2023", "nu_sd", "nu_sd"))
            for short in [case[2].removeprefix("nu_")]
        ],
        ("pcm_state_independent", "nu_mean", "nu_mean", "mean = nu_mean for every x", "nu_mean"),
        ("pcm_state_independent", "nu_sd", "nu_sd", "sd = nu_sd for every x", "nu_sd"),
        (
            "hermes",
            "nu_mean",
            "nu_mean_break",
            "mean = nu_mean_low if x < break, else nu_mean_high",
            "",
        ),
        ("hermes", "nu_sd", "nu_sd_break", "sd = nu_sd_low if x < break, else nu_sd_high", ""),
        (
            "hermes",
            "read_coefficient",
            "read_break",
            "Q = read_low if x < break, else read_high",
            "",
        ),
    ],
)
def test_the_equations_of_drift_and_reading_are_those_of_the_devices_own_law(
    preset: str, law: str, field: str, shown: str, expected: str | None
) -> None:
    pcm: Any = presets.get(preset).pcm
    assert equation(type(pcm), field) == shown
    if expected is None:
        wanted = piece(getattr(pcm, field))
    elif expected:
        wanted = torch.full_like(X, getattr(pcm, expected))
    else:
        wanted = two_pieces(pcm, field.removesuffix("_break"))
    torch.testing.assert_close(getattr(law_of(pcm), law)(X * pcm.g_max_us, pcm), wanted)


def test_read_noise_without_a_state_is_one_share() -> None:
    pcm: Any = presets.get("pcm_state_independent").pcm
    assert equation(type(pcm), "read_us") == "Q = read_us / g_max for every x"
    shares = law_of(pcm).read_coefficient(X * pcm.g_max_us, pcm)
    torch.testing.assert_close(shares, torch.full_like(X, pcm.read_us / pcm.g_max_us))


def test_a_field_has_the_equation_of_the_spec_that_shows_it() -> None:
    """The recipe's noise_scale ramps; that of a ReRAM is a factor on its deviation."""
    assert "ramp" in equation(TrainingSpec, "noise_scale")
    assert "sigma_i" in equation(ReramWanSpec, "noise_scale")
    assert "max(t, t0)" in equation(ScalarDriftSpec, "t0_s")
    assert "max(0" not in equation(SignedPcmSpec, "prog_noise_scale")


def test_a_row_says_what_the_code_says() -> None:
    field, symbol, words, equation, unit, value, source = ROWS[CrossbarSpec]["out_noise"]
    assert (field, symbol, unit, value) == ("`out_noise`", "sigma_out", "", "0.04 (`rasch2023`)")
    assert words == "Standard deviation of the output noise, in the same units."
    assert equation == "`y += sigma_out N`" and source == "rasch2023, SI Table 1"
    assert ROWS[KINDS[0]]["g_max_us"][4:6] == ("uS", "25.0 (`rasch2023`)")
    assert ROWS[CrossbarSpec]["r_series"][5] == "0.0 unless set"
