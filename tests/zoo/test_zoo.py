"""The zoo: architectures of other libraries do what their entries and docs/zoo.md say.

The ordinary suite runs the entries that are `everyday`; `pytest -m zoo` runs all.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aimc_bridge.errors import ConversionError, UnknownNameError
from benchmarks.zoo import catalogue, measure
from benchmarks.zoo.__main__ import main
from benchmarks.zoo.entry import Entry, Measured, random
from benchmarks.zoo.measure import ZooError, measured

ALL = list(catalogue.ENTRIES.values())
EVERYDAY = [entry for entry in ALL if entry.everyday]
AIHWKIT = [entry for entry in ALL if entry.aihwkit]


def entries(chosen: list[Entry]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("entry", chosen, ids=lambda entry: entry.key)


def measured_if_installed(entry: Entry, engine: str) -> Measured | None:
    if not entry.installed:
        pytest.skip(f"{entry.library} is not installed")
    return measured(entry, engine)


@pytest.mark.zoo
@entries(ALL)
def test_it_does_what_the_page_says(entry: Entry) -> None:
    """The numbers hold for the versions with which they were measured."""
    now = measured_if_installed(entry, "native")
    versions, before = catalogue.recorded()
    if versions == catalogue.versions():
        assert now == before.get(entry.key)


@entries(EVERYDAY)
def test_a_part_of_the_zoo_does_in_the_ordinary_suite(entry: Entry) -> None:
    test_it_does_what_the_page_says(entry)


@pytest.mark.zoo
@entries(AIHWKIT)
def test_it_converts_for_aihwkit(entry: Entry) -> None:
    measured_if_installed(entry, "aihwkit")


def test_one_converts_for_aihwkit_in_the_ordinary_suite() -> None:
    measured_if_installed(catalogue.ENTRIES["torch/Transformer"], "aihwkit")


# --- the entries ----------------------------------------------------------------------------------


def test_the_zoo_is_large_and_explains_itself() -> None:
    entries = catalogue.ENTRIES.values()
    assert len(entries) >= 60
    assert {entry.library for entry in entries} == {
        *("torch", "torchvision", "timm", "transformers"),
    }
    for entry in entries:
        assert bool(entry.why) == bool(entry.exclude or entry.refused), entry.key
    _, before = catalogue.recorded()
    assert set(before) == {entry.key for entry in entries if not entry.refused}


# --- what the checks catch ------------------------------------------------------------------------


class Sideways(nn.Module):
    """A layer, of which the model may use the weights without calling it."""

    def __init__(self, use: str) -> None:
        super().__init__()
        self.use = use
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if self.use == "weight":
            return nn.functional.linear(x, self.second.weight)
        if self.use == "detached":
            return self.second(x).detach() + x
        if self.use == "infinite":
            return self.second(x) / 0
        return self.second(x) if self.use == "all" else x


def entry_of(use: str, **options: object) -> Entry:
    return Entry("torch", use, lambda: Sideways(use), lambda: random(2, 6), **options)  # type: ignore[arg-type]


def test_a_model_that_does_all_is_measured() -> None:
    assert measured(entry_of("all")) == Measured(share=1.0, tiles=2)
    half = measured(entry_of("all", exclude=("second",)))
    assert half == Measured(share=0.5, tiles=1)


@pytest.mark.parametrize(
    ("use", "options", "message"),
    [
        ("weight", {}, "second.weight"),
        ("detached", {}, "does not change second"),
        ("none", {}, "did not reach second"),
        ("infinite", {}, "under ideal"),
        ("all", {"refused": "hold weight"}, "converts, although its entry says"),
        ("all", {"bound": -1.0}, "off under ideal"),
    ],
)
def test_a_model_that_does_not_is_caught(
    use: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises((ZooError, ConversionError), match=message):
        measured(entry_of(use, **options))


def test_models_have_no_zeros_and_no_ones() -> None:
    """Otherwise a lost bias or gate would not change the outputs."""
    model = measure.built(
        Entry("torch", "", lambda: nn.Sequential(nn.BatchNorm1d(4), nn.LayerNorm(4)), lambda: None)
    )
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_floating_point():
            assert len(set(value.tolist())) == 4, name


# --- the command ----------------------------------------------------------------------------------


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["torch/G*", "torch/Transformer", "--dry-run"]) == 0
    assert capsys.readouterr().out == "torch/GRU, two layers\ntorch/Transformer\n"
    assert main(["no/such"]) == 2
    with pytest.raises(UnknownNameError, match="no entry 'no/such'; allowed: .* torch/RNN"):
        catalogue.chosen(["no/such"])
    monkeypatch.setattr(catalogue, "ENTRIES", {"torch/weight": entry_of("weight")})
    assert main([]) == 1
    assert "second.weight" in capsys.readouterr().err
