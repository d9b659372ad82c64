"""Specs: values with sources, physics checked when built, frozen, plain data and back."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import presets
from aimc_bridge.errors import SpecError, UnknownNameError
from aimc_bridge.spec import (
    CompensationSpec,
    CrossbarSpec,
    IdealSpec,
    PcmSpec,
    Preset,
    Source,
    Spec,
    Table,
    TrainingSpec,
    V,
    cite,
)
from aimc_bridge.spec.crossbar import COMPENSATIONS
from aimc_bridge.training import HWATraining
from presets import SOURCES, hermes, ideal, rasch2023, scalar_drift

ALL = [presets.get(name) for name in presets.names()]
WHATEVER = Source("changed", "test")


def entries(spec: Spec) -> dict[str, V]:
    """Return the arguments from which `cite` builds a spec."""
    return {
        name: V(value, *dataclasses.astuple(spec.sources[name]))
        for name, value in spec.values().items()
    }


# --- a number stands beside its source ---


def test_cite_builds_what_it_was_given() -> None:
    for spec in (rasch2023.pcm, rasch2023.crossbar, hermes.pcm, rasch2023.training["lstm"]):
        assert cite(type(spec), **entries(spec)) == spec


def test_a_number_without_source_is_an_error() -> None:
    given_ = entries(ideal.pcm)
    with pytest.raises(SpecError, match="t0_s given without a source"):
        cite(IdealSpec, **{**given_, "t0_s": 20.0})  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="no source for g_max_us, t0_s, netting"):
        IdealSpec(g_max_us=25.0, t0_s=20.0, netting=True)
    with pytest.raises(SpecError, match="a source needs a key"):
        cite(IdealSpec, **{**given_, "t0_s": V(20.0, "")})
    with pytest.raises(SpecError, match="no value and source for t0_s"):
        cite(IdealSpec, **{k: v for k, v in given_.items() if k != "t0_s"})


def test_an_optional_field_needs_a_source_where_it_is_set() -> None:
    spec = rasch2023.training["lstm"]
    assert "ramp_share" not in spec.values() and "ramp_share" not in spec.sources
    with pytest.raises(SpecError, match="no source for ramp_share"):
        dataclasses.replace(spec, ramp_batches=0, ramp_share=0.1)
    with pytest.raises(SpecError, match="ramp_share given without a source"):
        cite(TrainingSpec, **entries(spec), ramp_share=0.1)  # type: ignore[arg-type]
    shared = spec.change(why="test", ramp_share=0.1)
    assert Spec.from_dict(json.loads(json.dumps(shared.to_dict()))) == shared


def test_a_source_without_field_is_an_error() -> None:
    sources = Table({**ideal.pcm.sources, "t1_s": WHATEVER})
    with pytest.raises(SpecError, match="t1_s"):
        dataclasses.replace(ideal.pcm, sources=sources)


# --- a typo is an error that lists the fields ---


def test_a_typo_lists_the_fields() -> None:
    with pytest.raises(SpecError) as caught:
        rasch2023.change(out_nois=0.06, why="what-if")
    for name in ("out_nois", "out_noise", "t0_s", "drift_compensation"):
        assert name in str(caught.value)
    with pytest.raises(SpecError, match="g_max_uS.*fields: g_max_us"):
        cite(IdealSpec, **entries(ideal.pcm), g_max_uS=V(1.0, "definition"))
    with pytest.raises(SpecError, match="fields:.*noise_scale"):
        rasch2023.training["lstm"].change(why=WHATEVER, noise_scal=1.0)
    with pytest.raises(SpecError, match="fields:"):
        scalar_drift.change(w_nois=0.0, why="what-if")
    data = ideal.pcm.to_dict()
    data["values"]["t1_s"] = 1.0
    with pytest.raises(SpecError, match="t1_s.*fields: g_max_us"):
        Spec.from_dict(data)


def test_an_unknown_recipe_lists_the_recipes() -> None:
    with pytest.raises(UnknownNameError, match="wrn61.*wrn16, resnet32"):
        rasch2023.training["wrn61"]
    with pytest.raises(KeyError):
        rasch2023.training["wrn61"]
    assert rasch2023.training.get("wrn61") is None
    assert "wrn61" not in rasch2023.training and "wrn16" in rasch2023.training


# --- physics is checked when built ---

NAN, INF = float("nan"), float("inf")

UNPHYSICAL: list[tuple[Preset, dict[str, Any]]] = [
    (rasch2023, {"g_max_us": 0.0}),
    (rasch2023, {"g_max_us": -25.0}),
    (rasch2023, {"t0_s": 0.0}),
    (rasch2023, {"t0_s": -20.0}),
    # This is shorter than a reading: the 1/f logarithm would be negative.
    (rasch2023, {"t0_s": 1e-7}),
    (rasch2023, {"t_read_s": 0.0}),
    # The polynomial is positive at both ends and negative between.
    (rasch2023, {"prog_coeff_us": (0.26348, -1.0, 0.5)}),
    (rasch2023, {"prog_coeff_us": (-0.1,)}),
    (rasch2023, {"prog_coeff_us": (0.1, -0.2)}),
    (rasch2023, {"prog_coeff_us": ()}),
    (rasch2023, {"prog_coeff_us": (0.26348, NAN)}),
    (rasch2023, {"prog_noise_scale": -1.0}),
    (rasch2023, {"read_noise_scale": -1.0}),
    (rasch2023, {"drift_scale": -1.0}),
    (rasch2023, {"nu_mean": (-0.0155, 0.0244, 0.1, 0.049)}),
    (rasch2023, {"nu_sd": (-0.0125, -0.0059, -0.008, 0.045)}),
    (rasch2023, {"nu_sd": (-0.0125, -0.0059, 0.008)}),
    (rasch2023, {"read_coeff": (-0.0088, 0.65, 1e-3, 0.2)}),
    (rasch2023, {"read_coeff": (0.0088, 0.65, 0.0, 0.2)}),
    (rasch2023, {"dac_bits": 0}),
    (rasch2023, {"dac_bits": 1}),
    (rasch2023, {"dac_bits": 25}),
    (rasch2023, {"adc_bits": 25}),
    (rasch2023, {"inp_asymmetry": 1.0}),
    (rasch2023, {"slope_calibration": -0.01}),
    (rasch2023, {"slope_calibration": 1.01}),
    (rasch2023, {"adc_bits": 0}),
    (rasch2023, {"adc_bits": 8.0}),
    (rasch2023, {"adc_bits": True}),
    (rasch2023, {"out_bound": 0.0}),
    (rasch2023, {"out_noise": -0.04}),
    (rasch2023, {"out_noise": NAN}),
    (rasch2023, {"out_noise": INF}),
    (rasch2023, {"out_noise": "0.04"}),
    (rasch2023, {"out_noise": None}),
    (rasch2023, {"out_noise": True}),
    (rasch2023, {"w_noise": -0.0175}),
    (rasch2023, {"ir_drop": -1.0}),
    (rasch2023, {"ir_drop_g_ratio": 0.0}),
    (rasch2023, {"max_rows": 0}),
    (rasch2023, {"max_columns": -512}),
    (rasch2023, {"weight_scaling": "row"}),
    (rasch2023, {"digital_bias": False}),
    (rasch2023, {"digital_bias": 1}),
    (rasch2023, {"input_range": "none"}),  # A DAC needs a range.
    (rasch2023, {"drift_compensation": "Global"}),
    (rasch2023, {"alpha_floor": 0.0}),
    (scalar_drift, {"nu": -0.06}),
    (scalar_drift, {"t0_s": 0.0}),
    (scalar_drift, {"weight_bits": 1}),
    (scalar_drift, {"weight_bits": 0}),
    (scalar_drift, {"prog_coeff_us": (0.2, -1.0)}),
    (scalar_drift, {"prog_noise_scale": -1.0}),
    (hermes, {"nu_mean_break": 1.5}),
    (hermes, {"nu_sd_low": (-0.0117, -0.0057, 0.04, 0.0091)}),
    (hermes, {"nu_sd_high": (0.0073, 0.0093, -0.05)}),
    (hermes, {"read_high": (-0.1,)}),
    (ideal, {"t0_s": 0.0}),
]


@pytest.mark.parametrize(("preset", "values"), UNPHYSICAL, ids=lambda v: str(v))
def test_what_is_not_physical_is_an_error(preset: Preset, values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(SpecError, match="allowed") as caught:
        preset.change(**values, why="what-if")
    assert repr(values[name]) in str(caught.value)


AT_BOUND: list[tuple[Preset, dict[str, Any]]] = [
    (rasch2023, {"read_coeff": (0.0, 0.65, 1e-3, 0.2)}),
    (rasch2023, {"read_coeff": (0.0, 0.0, 1e-9, 0.0)}),
    (rasch2023, {"nu_mean": (-0.0155, 0.0244, 0.0, 0.0)}),
    (rasch2023, {"nu_sd": (-0.0125, -0.0059, 0.0, 0.0)}),
    (rasch2023, {"nu_mean": (-0.0155, 0.0244, 0.049, 0.049)}),
    *((rasch2023, {name: bits}) for name in ("dac_bits", "adc_bits") for bits in (2, 24)),
    *((rasch2023, {name: 1}) for name in ("max_rows", "max_columns")),
    *((rasch2023, {name: 0.0}) for name in ("out_noise", "w_noise", "ir_drop")),
    *((rasch2023, {"slope_calibration": share}) for share in (0.0, 0.5, 1.0)),
    *((rasch2023, {name: 0.99}) for name in ("inp_asymmetry", "out_asymmetry")),
]


@pytest.mark.parametrize(("preset", "values"), AT_BOUND, ids=lambda v: str(v))
def test_what_is_just_physical_is_taken(preset: Preset, values: dict[str, Any]) -> None:
    (name,) = values
    changed = preset.change(**values, why="at the bound")
    spec = changed.pcm if hasattr(changed.pcm, name) else changed.crossbar
    assert getattr(spec, name) == values[name]


@pytest.mark.parametrize("name", presets.names())
def test_factors_on_noise_and_drift_reach_0_and_no_further(name: str) -> None:
    preset = presets.get(name)
    for field in (field for field in preset.pcm.values() if field.endswith("_scale")):
        with pytest.raises(SpecError, match=rf"{field} = -0.5; allowed: >= 0"):
            preset.change(why="what-if", **{field: -0.5})
        assert preset.change(why="none of it", **{field: 0.0}).pcm.values()[field] == 0.0


UNTRAINABLE: list[dict[str, Any]] = [
    {"noise_type": "PCM"},
    {"noise_scale": -1.0},
    {"noise_t_s": 0.0},
    {"ramp_batches": -1},
    {"ramp_batches": 0.5},
    {"drop_connect": 1.0},
    {"dropout": 1.0},
    {"momentum": 1.0},
    {"clip_type": "max"},
    {"clip_value": 0.0},
    {"epochs": 0},
    {"batch_size": 0},
    {"learning_rate": 0.0},
    {"learning_rate": NAN},
    {"grad_clip": 0.0},
    {"lr_drop_epochs": (1.5,)},
    {"lr_drop_factor": 0.0},
    {"lr_drop_on_stall": 1},
    {"lr_schedule": "step"},
    {"optimizer": "adam"},
    {"input_range_start": "percentile"},
    {"distill_weight": 1.5},
    {"distill_temperature": 0.0},
    {"input_range_min_unclipped": 1.1},
    {"learn_out_scales": 1},
]


@pytest.mark.parametrize("values", UNTRAINABLE, ids=str)
def test_a_recipe_that_cannot_be_is_an_error(values: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="allowed"):
        rasch2023.training["wrn16"].change(why=WHATEVER, **values)


def test_a_part_of_another_kind_is_an_error() -> None:
    with pytest.raises(SpecError, match="pcm of preset 'rasch2023' is a CrossbarSpec"):
        dataclasses.replace(rasch2023, pcm=rasch2023.crossbar)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"training\['a'\].*allowed: a TrainingSpec"):
        dataclasses.replace(rasch2023, training=Table({"a": rasch2023.pcm}))


# --- frozen, comparable, hashable ---


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        rasch2023.crossbar.out_noise = 0.0  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        rasch2023.name = "mine"  # type: ignore[misc]
    with pytest.raises(TypeError):
        rasch2023.training["wrn16"] = rasch2023.training["lstm"]  # type: ignore[index]
    with pytest.raises(TypeError):
        rasch2023.pcm.sources["t0_s"] = WHATEVER  # type: ignore[index]


def test_equality_and_hash() -> None:
    assert len({*ALL, *map(copy.deepcopy, ALL)}) == len(ALL)
    changed = rasch2023.change(out_noise=0.06, why="what-if")
    assert changed != rasch2023
    assert rasch2023.change(out_noise=0.06, why="what-if") == changed
    assert hash(rasch2023.change(out_noise=0.06, why="what-if")) == hash(changed)
    assert rasch2023.change(out_noise=0.06, why="another reason") != changed


def test_tables_that_are_equal_hash_alike() -> None:
    first, second = Table({"a": 1, "b": 2}), Table({"b": 2, "a": 1})
    assert first == second and hash(first) == hash(second)
    assert first != Table({"a": 1}) and first == {"a": 1, "b": 2}


@pytest.mark.parametrize("preset", ALL, ids=str)
def test_pickle_and_copy(preset: Preset) -> None:
    for copied in (pickle.loads(pickle.dumps(preset)), copy.deepcopy(preset)):
        assert copied == preset and hash(copied) == hash(preset)


# --- changes are recorded ---


def test_change_is_a_copy_that_says_so() -> None:
    before = copy.deepcopy(rasch2023)
    changed = rasch2023.change(out_noise=0.06, t0_s=30.0, drift_compensation="none", why="what-if")
    assert rasch2023 == before
    assert changed.crossbar.out_noise == 0.06
    assert changed.pcm.t0_s == 30.0
    assert changed.compensation.drift_compensation == "none"
    assert changed.training == rasch2023.training and changed.name == "rasch2023"
    changes = [(c.field, c.old, c.new, c.why) for c in changed.changes]
    assert changes == [
        ("out_noise", 0.04, 0.06, "what-if"),
        ("t0_s", 20.0, 30.0, "what-if"),
        ("drift_compensation", "global", "none", "what-if"),
    ]
    assert "what-if" in str(changed.crossbar.sources["out_noise"])
    assert changed.crossbar.sources["w_noise"] == rasch2023.crossbar.sources["w_noise"]
    assert str(changed) == ("rasch2023 with out_noise=0.06, t0_s=30.0, drift_compensation='none'")
    assert repr(changed).startswith(f"<Preset {changed}: ") and len(repr(changed)) < 300
    again = changed.change(out_noise=0.02, why="less")
    assert [(c.old, c.new) for c in again.changes][-1] == (0.06, 0.02)


def test_change_needs_a_reason() -> None:
    with pytest.raises(SpecError, match="why="):
        rasch2023.change(out_noise=0.06, why=" ")
    with pytest.raises(TypeError):
        rasch2023.change(out_noise=0.06)  # type: ignore[call-arg]


def test_every_kind_has_one_verb_for_a_changed_copy() -> None:
    spec = rasch2023.crossbar.change(why="what-if", out_noise=0.06)
    assert spec.sources["out_noise"] == Source("changed", "what-if")
    assert spec.sources["w_noise"] == rasch2023.crossbar.sources["w_noise"]
    read = rasch2023.crossbar.change(why=Source("rasch2023", "SI Table 9"), out_noise=0.06)
    assert read.out_noise == 0.06 and str(read.sources["out_noise"]) == "rasch2023, SI Table 9"
    recipe = HWATraining.for_(rasch2023, "lstm")
    changed = recipe.change(why="less noise", noise_scale=2.0)
    assert changed == recipe.override("less noise", noise_scale=2.0)
    assert changed.spec.sources["noise_scale"] == Source("changed", "less noise", "rasch2023/lstm")
    for wrong in ("", " ", None, 3):
        for each in (rasch2023.crossbar, rasch2023, recipe):
            with pytest.raises(SpecError, match="needs why=, one line"):
                each.change(why=wrong)  # type: ignore[arg-type]


def test_a_copy_under_a_name_of_its_own() -> None:
    copy = rasch2023.change(name="my_chip", g_max_us=40.0, why="our lab")
    assert (copy.name, str(copy)) == ("my_chip", "my_chip")
    assert copy.description == "rasch2023, changed: our lab"
    assert copy.pcm.g_max_us == 40.0 and rasch2023.name == "rasch2023"
    assert str(copy.pcm.sources["g_max_us"]) == "changed, our lab, preset rasch2023"
    assert [c.field for c in copy.changes] == ["g_max_us", "name"]
    again = copy.change(out_noise=0.1, why="what-if")
    assert (again.name, str(again)) == ("my_chip", "my_chip with out_noise=0.1")
    assert Preset.from_dict(json.loads(json.dumps(again.to_dict()))) == again
    for name in ("", "my chip", "a/b", "-x", "my_chip.toml", 3):
        with pytest.raises(SpecError, match="preset name"):
            rasch2023.change(name=name, why="test")  # type: ignore[arg-type]


# --- plain data and back ---


@pytest.mark.parametrize("preset", ALL, ids=str)
def test_json_round_trip_is_exact(preset: Preset) -> None:
    text = json.dumps(preset.to_dict(), allow_nan=False)
    assert Preset.from_dict(json.loads(text)) == preset
    ordered = json.dumps(preset.to_dict(), sort_keys=True)
    back = Preset.from_dict(json.loads(ordered))
    assert back == preset and hash(back) == hash(preset)


CHANGES: list[tuple[Preset, dict[str, Any]]] = [
    (rasch2023, {"prog_coeff_us": (0.3, 1.0), "adc_bits": None, "t0_s": 1.0}),
    (rasch2023, {"max_rows": None, "netting": False}),
    (scalar_drift, {"weight_bits": None, "nu": 0.05, "t0_s": 20.0}),
    (hermes, {"nu_sd_high": (0.01,)}),
    (ideal, {"out_noise": 0.1}),
]


@pytest.mark.parametrize(("preset", "values"), CHANGES, ids=lambda v: str(v))
def test_json_round_trip_of_a_changed_preset(preset: Preset, values: dict[str, Any]) -> None:
    changed = preset.change(**values, why="test").change(w_noise=0.01, why="and more")
    back = Preset.from_dict(json.loads(json.dumps(changed.to_dict())))
    assert back == changed and hash(back) == hash(changed)
    assert back.changes == changed.changes
    assert back.crossbar.sources == changed.crossbar.sources


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    out_noise=st.floats(min_value=0.0, max_value=1e300),
    t0_s=st.floats(min_value=1e-6, max_value=1e300),
    coefficients=st.lists(st.floats(min_value=0.0, max_value=1e6), min_size=1, max_size=5),
    bits=st.none() | st.integers(min_value=2, max_value=24),
    kind=st.sampled_from(COMPENSATIONS),
    why=st.text(min_size=1).filter(lambda text: bool(text.strip())),
)
def test_json_round_trip_of_any_change(
    out_noise: float, t0_s: float, coefficients: list[float], bits: int | None, kind: str, why: str
) -> None:
    changed = rasch2023.change(
        out_noise=out_noise,
        t0_s=t0_s,
        prog_coeff_us=tuple(coefficients),
        adc_bits=bits,
        drift_compensation=kind,
        why=why,
    )
    assert Preset.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed


def broken(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(ideal.to_dict()))
    data.update(changes)
    return data


BROKEN = {
    "no part": {k: v for k, v in broken().items() if k != "pcm"},
    "no name": {k: v for k, v in broken().items() if k != "name"},
    "part that is no dict": broken(pcm=[1, 2]),
    "part without values": broken(pcm={"type": "IdealSpec"}),
    "unknown type": broken(pcm={"type": "RramSpec", "values": {}, "sources": {}}),
    "part of another kind": broken(pcm=broken()["crossbar"]),
    "field missing": broken(pcm={"type": "IdealSpec", "values": {}, "sources": {}}),
    "short change": broken(changes=[["out_noise", 1]]),
    "no list of changes": broken(changes=None),
    "short source": broken(
        pcm={**broken()["pcm"], "sources": {"g_max_us": [], "t0_s": [], "netting": []}}
    ),
    "list": [],
    "nothing": None,
}


@pytest.mark.parametrize("name", BROKEN)
def test_data_that_is_no_preset_is_an_error(name: str) -> None:
    with pytest.raises(SpecError):
        Preset.from_dict(BROKEN[name])  # type: ignore[arg-type]


def test_types_in_data_are_checked() -> None:
    data = json.loads(json.dumps(rasch2023.to_dict()))
    data["crossbar"]["values"]["out_noise"] = "0.04"
    with pytest.raises(SpecError, match="CrossbarSpec.out_noise = '0.04'"):
        Preset.from_dict(data)


# --- explain ---


@pytest.mark.parametrize("preset", [*ALL, rasch2023.change(t0_s=30.0, why="what-if")], ids=str)
def test_explain_has_a_source_for_every_row(preset: Preset) -> None:
    table = preset.explain()
    assert list(table.columns) == ["part", "field", "value", "unit", "source"]
    parts = {name: getattr(preset, name) for name in Preset.PARTS}
    parts |= {f"training.{name}": spec for name, spec in preset.training.items()}
    rows = [(part, name) for part, spec in parts.items() for name in spec.values()]
    assert list(zip(table["part"], table["field"], strict=True)) == rows
    assert all(source.strip() for source in table["source"])
    assert list(table["value"]) == [getattr(parts[part], name) for part, name in rows]
    assert list(table["source"]) == [str(parts[part].sources[name]) for part, name in rows]


def test_explain_tells_units() -> None:
    table = rasch2023.explain().drop_duplicates("field").set_index("field")
    expected = {"g_max_us": "uS", "prog_coeff_us": "uS", "t0_s": "s", "t_read_s": "s"}
    expected |= {"noise_t_s": "s", "out_noise": "", "adc_bits": "bit", "warmup_batches": ""}
    assert {name: table.loc[name, "unit"] for name in expected} == expected
    changed = rasch2023.change(t0_s=30.0, why="what-if").explain().set_index("field")
    assert changed.loc["t0_s", "value"] == 30.0
    assert "what-if" in changed.loc["t0_s", "source"]


def test_explain_printed_cuts_nothing() -> None:
    table = rasch2023.change(out_noise=0.06, why="a long reason " * 20).explain()
    for page in (repr(table), str(table), table._repr_html_()):
        assert "..." not in page and "2.5e-07" in page
        for preset_row in table.itertuples():
            assert str(preset_row.value) in page and preset_row.field in page
        for source in set(table["source"]):
            assert source.strip() in page
    lines = repr(table).splitlines()
    assert sum("training." in line or " pcm " in line for line in lines) >= len(table) - 16
    works = table.attrs["works"]
    assert works == {key: SOURCES[key] for key in works} and "choice" in works
    for key, work in works.items():
        assert f"{key}: {work}" in " ".join(repr(table).split())
    pcm = table[table["part"] == "pcm"]
    assert "nandakumar2019: Nandakumar et al." in repr(pcm) and "Rasch et al." not in repr(pcm)


def test_explain_shows_a_work_that_a_user_added(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source("ours2026", "Table 2", "measured")
    preset = dataclasses.replace(
        rasch2023, crossbar=rasch2023.crossbar.change(why=source, out_noise=0.05)
    )
    assert preset.explain().attrs["works"]["ours2026"] == ""
    assert repr(preset.explain()).splitlines()[-6:].count("ours2026") == 1
    monkeypatch.setitem(SOURCES, "ours2026", "Ours et al. 2026, A chip.")
    assert "ours2026: Ours et al. 2026, A chip." in repr(preset.explain())


def test_the_kinds_a_preset_may_hold() -> None:
    """Every part of every preset has a public kind, and states its law."""
    for preset in ALL:
        assert isinstance(preset.crossbar, CrossbarSpec)
        assert isinstance(preset.compensation, CompensationSpec)
        assert all(isinstance(spec, TrainingSpec) for spec in preset.training.values())
    laws = {preset.name: preset.pcm.law for preset in ALL}
    assert laws == {
        "rasch2023": "pcm",
        "scalar_drift": "scalar",
        "hermes": "hermes",
        "ideal": "ideal",
        "hermes_single": "hermes",
        "pcm_state_independent": "state independent",
        "reram_wan2022": "reram wan2022",
        "reram_cmo": "reram cmo",
        "pcm_afm": "afm pcm",
    }
    assert isinstance(rasch2023.pcm, PcmSpec)
