"""The command that shows, compares and exports presets, and `Preset.diff` behind it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import presets
from aimc_bridge.errors import SpecError
from aimc_bridge.spec import Preset
from benchmarks import presets as command
from presets import hermes, rasch2023, reram_cmo

WIDTHS = [40, 80, 200]


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert command.main(words) == 0
    return capsys.readouterr().out


# --- diff ---


def test_diff_lists_what_differs_and_nothing_else() -> None:
    assert rasch2023.diff(rasch2023).empty
    changed = rasch2023.change(g_max_us=40.0, adc_bits=None, why="a test")
    table = rasch2023.diff(changed)
    assert table[["part", "field", "unit", "first", "second"]].values.tolist() == [
        ["pcm", "g_max_us", "uS", 25.0, 40.0],
        ["crossbar", "adc_bits", "bit", rasch2023.crossbar.adc_bits, None],
    ]
    assert table.second_source.tolist() == ["changed, a test, preset rasch2023"] * 2
    back = changed.diff(rasch2023)
    assert back["first"].tolist() == [40.0, None]
    assert "adc_bits" in repr(table) and "None" in repr(table)


@pytest.mark.parametrize("other", [hermes, reram_cmo])
def test_the_differences_are_all_of_them(other: Preset) -> None:
    # Putting the second values in place of the first gives the other preset's numbers.
    table = rasch2023.diff(other)
    numbers = {(r.part, r.field): r.value for r in rasch2023.explain().itertuples()}
    for row in table.itertuples():
        if row.second == "absent":
            assert row.second_source == "" != row.first_source
            del numbers[row.part, row.field]
        else:
            numbers[row.part, row.field] = row.second
    assert numbers == {(r.part, r.field): r.value for r in other.explain().itertuples()}


def test_a_recipe_of_one_alone_is_absent_in_the_other() -> None:
    table = rasch2023.diff(presets.ideal)
    recipes = {part for part in table.part if part.startswith("training.")}
    assert recipes == {f"training.{name}" for name in rasch2023.training}
    assert set(table[table.part.isin(recipes)].second) == {"absent"}


def test_diff_wants_a_preset() -> None:
    with pytest.raises(SpecError, match="'hermes'; allowed: a Preset"):
        rasch2023.diff("hermes")  # type: ignore[arg-type]


# --- the command ---


@pytest.mark.parametrize("words", [[], ["list"]])
def test_the_list_has_every_preset(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(words, capsys).splitlines()
    starts = [line.split()[0] for line in lines[1:] if not line.startswith(" ")]
    assert starts == presets.names()


@pytest.mark.parametrize("width", WIDTHS)
def test_show_cuts_nothing(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = said(["show", "rasch2023"], capsys)
    numbers, _, works = text.partition("\naihwkit: ")
    assert max(map(len, text.splitlines())) <= width
    letters = "".join(numbers.split())
    for row in rasch2023.explain().itertuples():
        assert row.field in letters
        if width != 80:  # in a table with broken cells the columns of a row are mixed
            assert row.source.replace(" ", "") in letters
    if width >= 80:  # lines break between words: a name can be copied
        words = {word for row in rasch2023.explain().itertuples() for word in row.source.split()}
        assert words <= set(text.split())
    assert "…" not in text and "Rasch" in works


def test_in_a_pipe_a_row_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_terminal(*_: int) -> os.terminal_size:
        raise OSError("not a terminal")

    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(os, "get_terminal_size", no_terminal)
    lines = said(["diff", "rasch2023", "hermes"], capsys).splitlines()
    assert len(lines) == 1 + len(rasch2023.diff(hermes))
    lines = said(["show", "rasch2023"], capsys).splitlines()
    (row,) = (line for line in lines if line.startswith("prog_coeff_us"))
    assert "0.26348, 1.965, -1.1731" in row and row.endswith("from code")


def test_show_as_json_has_every_number(capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(said(["show", "hermes", "--json"], capsys))
    table = hermes.explain()
    assert len(data["numbers"]) == len(table) and data["name"] == "hermes"
    row = next(row for row in data["numbers"] if row["field"] == "g_max_us")
    assert (row["value"], row["unit"]) == (20.7, "uS") and row["source"]
    assert set(data["works"]) == set(table.attrs["works"])


def test_diff_shows_both_values(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(["diff", "rasch2023", "hermes"], capsys)
    assert text.splitlines()[0].split() == ["part", "field", "unit", "rasch2023", "hermes"]
    assert ["pcm", "g_max_us", "uS", "25.0", "20.7"] in [line.split() for line in text.splitlines()]
    assert "the same numbers" in said(["diff", "ideal", "ideal"], capsys)
    data = json.loads(said(["diff", "rasch2023", "hermes", "--json"], capsys))
    assert len(data["differences"]) == len(rasch2023.diff(hermes))


def test_an_exported_preset_is_the_same_and_can_be_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my_chip.toml"
    said(["export", "rasch2023", str(path), "--dry-run"], capsys)
    assert not path.exists()
    said(["export", "rasch2023", str(path)], capsys)
    assert presets.load(path) == rasch2023
    text = path.read_text(encoding="utf-8").replace('name = "rasch2023"', 'name = "my_chip"', 1)
    path.write_text(text.replace("g_max_us = 25.0", "g_max_us = 40.0", 1), encoding="utf-8")
    line = said(["diff", "rasch2023", str(path)], capsys).splitlines()[1]
    assert line.split() == ["pcm", "g_max_us", "uS", "25.0", "40.0"]
    assert "my_chip" in said(["show", str(path)], capsys)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["show", "rasch"], "no preset 'rasch'; there are: rasch2023"),
        (["diff", "rasch2023"], "requires an argument"),
        (["export", "rasch2023", "my_chip.yaml"], "my_chip.yaml"),
        (["export", "rasch2023", "there.toml"], "there.toml exists; name another file"),
        (["export", "rasch2023", "no/folder.toml"], "no/folder.toml"),
        (["shov", "rasch2023"], "shov"),
    ],
)
def test_bad_words_are_one_line(
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.toml").write_text("mine", encoding="utf-8")
    assert command.main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and says in error
    assert Path("there.toml").read_text(encoding="utf-8") == "mine"
