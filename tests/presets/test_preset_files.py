"""A user's own presets: registered, and read from and written to files."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import presets
from aimc_bridge import devices
from aimc_bridge.errors import AimcError, SpecError, UnknownNameError, UsageError
from aimc_bridge.spec import Preset, Table
from presets import hermes, ideal, rasch2023, scalar_drift

ALL = (rasch2023, scalar_drift, hermes, ideal)
SHORT = """
base = "rasch2023"
name = "my_chip"
why = "our lab, 2026"

[change]
g_max_us = 40.0
adc_bits = "none"
drift_compensation = "none"
prog_coeff_us = [0.3, 1.0]
"""


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "_PRESETS", dict(presets._PRESETS))


# --- register ---


def test_a_registered_preset_has_its_name() -> None:
    preset = rasch2023.change(name="my_chip", g_max_us=40.0, why="our lab")
    with pytest.raises(UnknownNameError, match="'my_chip'"):
        presets.get("my_chip")
    assert presets.register(preset) is preset
    assert presets.get("my_chip") is preset
    assert presets.names()[-1] == "my_chip" and presets.names()[0] == "rasch2023"
    # This preset is equal.
    presets.register(rasch2023.change(name="my_chip", g_max_us=40.0, why="our lab"))


def test_a_name_stands_for_one_preset() -> None:
    preset = presets.register(rasch2023.change(name="my_chip", g_max_us=40.0, why="our lab"))
    other = hermes.change(name="my_chip", why="another")
    with pytest.raises(UsageError, match="'my_chip' is taken by another.*name=.*replace=True"):
        presets.register(other)
    assert presets.get("my_chip") is preset
    presets.register(other, replace=True)
    assert presets.get("my_chip") is other


def test_the_librarys_presets_keep_their_names() -> None:
    """Records name them.

    `from presets import rasch2023` is the same object as `get`'s.
    """
    changed = rasch2023.change(out_noise=0.06, why="what-if")
    for replace in (False, True):
        with pytest.raises(UsageError, match="'rasch2023' is one of the library's.*change\\(name="):
            presets.register(changed, replace=replace)
    copy = Preset.from_dict(rasch2023.to_dict())
    presets.register(copy)
    assert presets.get("rasch2023") is rasch2023


def test_only_presets_with_a_name_can_be_registered() -> None:
    with pytest.raises(UsageError, match="'my_chip.toml'; allowed: a Preset, such as presets.load"):
        presets.register("my_chip.toml")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="preset name 'a b'; allowed: letters"):
        presets.register(dataclasses.replace(rasch2023, name="a b"))


# --- round trips ---


@pytest.mark.parametrize("ending", ["toml", "json"])
@pytest.mark.parametrize("preset", ALL, ids=str)
def test_a_saved_preset_comes_back(tmp_path: Path, preset: Preset, ending: str) -> None:
    path = tmp_path / f"preset.{ending}"
    for version in (
        preset,
        preset.change(
            name="mine", adc_bits=None, out_noise=0.1, why='say "so",\n\\ or \x7f\t\u00e9'
        ),
    ):
        presets.save(version, path)
        back = presets.load(path)
        assert back == version and hash(back) == hash(version)
        assert json.dumps(back.to_dict(), sort_keys=True) == json.dumps(
            version.to_dict(), sort_keys=True
        )
    assert list(tmp_path.iterdir()) == [path]


@settings(max_examples=50, deadline=None)
@given(
    out_noise=st.floats(0, 1e300, allow_nan=False),
    numbers=st.lists(st.floats(0, 1e-300) | st.floats(0, 1e6), min_size=1, max_size=4),
    why=st.text(min_size=1).filter(lambda text: bool(text.strip()) and text.isprintable()),
    recipe=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
)
def test_toml_is_exact(
    tmp_path_factory: pytest.TempPathFactory,
    out_noise: float,
    numbers: list[float],
    why: str,
    recipe: str,
) -> None:
    path = tmp_path_factory.getbasetemp() / "exact.toml"
    preset = rasch2023.change(out_noise=out_noise, prog_coeff_us=tuple(numbers), why=why)
    preset = dataclasses.replace(preset, training=Table({recipe: preset.training["lstm"]}))
    presets.save(preset, path)
    back = presets.load(path)
    assert back == preset
    for part in (*preset.PARTS, "training"):  # -0.0 equals 0.0, and has another text
        assert repr(getattr(back, part)) == repr(getattr(preset, part))


def test_saving_says_what_it_cannot(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"my\.yaml: allowed: .*\.toml or \.json"):
        presets.save(rasch2023, tmp_path / "my.yaml")
    with pytest.raises(UsageError, match=r"no/my\.toml: cannot be written"):
        presets.save(rasch2023, tmp_path / "no" / "my.toml")


# --- files written by hand ---


COLUMNS = {
    "target_us": [0.0, 0.0, 20.0, 20.0],
    "t_s": [1.0, 9.0, 1.0, 9.0],
    "mean_us": [0.1, 0.1, 20.0, 18.0],
    "sd_us": [0.1, 0.1, 1.0, 1.0],
}


def test_a_file_holds_a_table_or_names_one(tmp_path: Path) -> None:
    """The table becomes part of the preset: its identity changes with any value."""
    about = {"g_max_us": 20.0, "source": "lab"}
    head = {"base": "rasch2023", "name": "mine", "why": "test"}
    inside, beside = tmp_path / "inside.json", tmp_path / "beside.json"
    inside.write_text(json.dumps({**head, "device": {**about, **COLUMNS}}))
    beside.write_text(json.dumps({**head, "device": {**about, "csv": "t.csv"}}))
    lines = [
        ",".join(COLUMNS),
        *(",".join(map(str, row)) for row in zip(*COLUMNS.values(), strict=True)),
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    mine = presets.load(inside)
    assert presets.load(beside) == mine and mine.pcm.mean_us == (0.1, 0.1, 20.0, 18.0)
    (tmp_path / "t.csv").write_text("\n".join(lines).replace("18.0", "18.1"))
    assert presets.load(beside).identity() != mine.identity()
    for bad, said in (
        ({"csv": "t.csv", **COLUMNS}, "no entry target_us"),
        ({**COLUMNS, "mean_us": 3}, "mean_us = 3 in .device.; allowed: a list"),
        ({k: v for k, v in COLUMNS.items() if k != "t_s"}, "no t_s in .device."),
        ({**COLUMNS, "sd_us": [0.1, -1, 1, 1]}, "sd_us = -1 at target 0 uS"),
        ({**COLUMNS, "netting": 1}, "netting = 1 in .device.; allowed: true, false"),
        ({"csv": 3}, "device = .*; allowed: the name of a device of the library, or a table"),
        ({}, "device = .*; allowed: the name of a device of the library, or a table"),
    ):
        inside.write_text(json.dumps({**head, "device": {**about, **bad}}))
        with pytest.raises(SpecError, match=said):
            presets.load(inside)


def test_a_file_names_a_device_of_the_library(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    head = {"base": "rasch2023", "name": "mine", "why": "test"}
    for name in devices.names():
        path.write_text(json.dumps({**head, "device": name}))
        assert presets.load(path) == rasch2023.with_device(name, name="mine", why="test")
    path.write_text(json.dumps({**head, "device": 3}))
    with pytest.raises(SpecError, match="device = 3; allowed: the name of a device"):
        presets.load(path)


def test_a_short_file_is_a_changed_copy(tmp_path: Path) -> None:
    path = tmp_path / "any.toml"
    path.write_text(SHORT)
    preset = presets.load(path)
    assert preset == rasch2023.change(
        name="my_chip",
        why="our lab, 2026",
        g_max_us=40.0,
        adc_bits=None,  # It is a number or None, so "none" is None.
        drift_compensation="none",  # This field holds a word.
        prog_coeff_us=(0.3, 1.0),
    )
    assert "my_chip" not in presets.names()  # `load` registers nothing.
    presets.register(preset)
    path.write_text(SHORT.replace("rasch2023", "my_chip").replace('"my_chip"\nwhy', '"two"\nwhy'))
    assert presets.load(path).name == "two"
    path = tmp_path / "any.json"
    short = {"base": "ideal", "name": "j", "why": "w", "change": {"out_noise": 0.1}}
    path.write_text(json.dumps(short))
    assert presets.load(str(path)) == ideal.change(name="j", why="w", out_noise=0.1)


def test_a_whole_file_needs_no_description_nor_recipes(tmp_path: Path) -> None:
    path = tmp_path / "bare.json"
    data = {part: rasch2023.to_dict()[part] for part in Preset.PARTS}
    data["pcm"]["sources"]["g_max_us"] = "our lab, 2026"  # This is a key alone.
    path.write_text(json.dumps({"name": "bare", **data}))
    preset = presets.load(path)
    assert (preset.name, preset.description, len(preset.training)) == ("bare", "bare", 0)
    assert preset.crossbar == rasch2023.crossbar
    assert str(preset.pcm.sources["g_max_us"]) == "our lab, 2026"


def changed_file(**lines: str) -> str:
    """Return the short file with other lines, by their key."""
    rows = [row for row in SHORT.splitlines() if row.partition(" = ")[0] not in lines]
    top = [f"{key} = {value}" for key, value in lines.items() if value and key != "change"]
    end = [lines["change"]] if "change" in lines else []
    return "\n".join([*top, *rows, *end])


WRONG: dict[str, tuple[type[AimcError], str, str]] = {
    "not TOML": (UsageError, "a", "not a TOML file"),
    "twice": (UsageError, changed_file() + "\n[change]", "not a TOML file"),
    "no base": (SpecError, 'name = "a"', "no pcm, crossbar, compensation; allowed: a whole preset"),
    "no name": (SpecError, changed_file(name=""), "no name; with base it needs"),
    "no name, whole": (SpecError, "", 'no name; allowed: a line such as name = "my_chip"'),
    "bad name": (SpecError, changed_file(name='"my chip"'), "preset name 'my chip'"),
    "no why": (SpecError, changed_file(why='" "'), "needs why="),
    "why is a number": (SpecError, changed_file(why="3"), "needs why="),
    "unknown base": (SpecError, changed_file(base='"rasch"'), "no preset 'rasch'; there are: ra"),
    "base is a list": (SpecError, changed_file(base="[1]"), r"base = \[1\]; allowed: the name"),
    "unknown entry": (SpecError, changed_file(author='"me"'), "no entry author; allowed: base, na"),
    "unknown field": (
        SpecError,
        changed_file(change="g_max = 1.0"),
        "no field g_max; fields: g_max_",
    ),
    "unphysical": (SpecError, changed_file(change="t0_s = -1.0"), "t0_s = -1.0; allowed: > 0"),
    "not finite": (SpecError, changed_file(change="t0_s = nan"), "t0_s = nan; allowed: a finite"),
    "a date": (SpecError, changed_file(change="t0_s = 2026-01-01"), "t0_s = .*allowed: a finite"),
    "a name below": (SpecError, changed_file(change='name = "a"'), r"name in \[change\]"),
    "change is no table": (
        SpecError,
        'base = "ideal"\nname = "a"\nwhy = "b"\nchange = 1',
        r"change is no table; allowed: \[change\]",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, case: str) -> None:
    error, text, message = WRONG[case]
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(error, match=message) as caught:
        presets.load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_wrong_whole_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "wrong.json"

    def fails(data: object, message: str) -> None:
        path.write_text(json.dumps(data))
        with pytest.raises(SpecError, match=message) as caught:
            presets.load(path)
        assert str(caught.value).startswith(f"{path}: ")

    fails([1], "holds a list; allowed: a preset's data")
    whole = json.loads(json.dumps(rasch2023.to_dict()))
    fails({**whole, "pcm": 3}, "not a preset's data")
    fails({**whole, "training": {"a": {}}}, "not a preset's data")
    fails({**whole, "crossbar": whole["pcm"]}, "crossbar of preset .* is a PcmSpec")
    whole["pcm"]["values"]["g_max"] = 1.0
    fails(whole, "PcmSpec has no field g_max; fields: g_max_us")
    del whole["pcm"]["values"]["g_max"], whole["pcm"]["values"]["g_max_us"]
    fails(whole, "g_max_us = None; allowed: a finite float")
    whole["pcm"]["values"]["g_max_us"] = math.inf
    fails(whole, "g_max_us = inf; allowed: a finite float")
    path.write_text("{")
    with pytest.raises(UsageError, match="wrong.json: not a JSON file"):
        presets.load(path)


def test_what_is_no_path_or_no_preset_is_refused(tmp_path: Path) -> None:
    nothing: Any = None
    with pytest.raises(UsageError, match="path = None; allowed: the path of a .toml or .json"):
        presets.load(nothing)
    with pytest.raises(UsageError, match="save: None; allowed: a Preset"):
        presets.save(nothing, tmp_path / "my.toml")
    odd = rasch2023.change(out_noise=0.1, why="\udcff")
    with pytest.raises(SpecError, match=r"my\.toml: preset .* has a text that is no UTF-8"):
        presets.save(odd, tmp_path / "my.toml")
    assert [*tmp_path.iterdir()] == []


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml: no such file"):
        presets.load(tmp_path / "none.toml")
    with pytest.raises(UsageError, match=r"my\.txt: allowed: a file that ends in \.toml or \.json"):
        presets.load(tmp_path / "my.txt")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(UsageError, match=r"folder\.toml: cannot be read"):
        presets.load(tmp_path / "folder.toml")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(UsageError, match=r"latin\.toml: not a TOML file"):
        presets.load(tmp_path / "latin.toml")
