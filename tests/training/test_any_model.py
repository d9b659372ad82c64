"""The recipe for any model: lengths as shares, the device's own noise, files as before."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import presets
from aimc_bridge import HWATraining, convert
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import SpecError
from aimc_bridge.spec import Preset, Source, Table, TrainingSpec
from aimc_bridge.spec.training import SHARES
from presets import hermes, ideal, rasch2023, scalar_drift
from tests.models import DEVICES, mlp, random
from tests.training.test_training import injected, levels, run

# The fields of a recipe before there were shares: what checkpoints and records of then hold.
EARLIER = """
noise_type noise_scale noise_t_s gaussian_sd ramp_batches drop_connect dropout clip_type clip_value
remap_every learn_input_ranges input_range_decay input_range_min_unclipped input_range_init_batches
input_range_init_sd input_range_start learn_out_scales ir_drop_in_training optimizer epochs
batch_size learning_rate momentum weight_decay grad_clip warmup_batches warmup_factor lr_schedule
lr_drop_epochs lr_drop_factor lr_drop_on_stall distill_weight distill_temperature
""".split()  # noqa: SIM905 (a list of 33 lines otherwise)


def shares(**values: float) -> TrainingSpec:
    """Return the paper's WRN recipe with some of its counts as shares."""
    return rasch2023.training["wrn16"].change(why="test", **values)


# --- shares ---


@pytest.mark.parametrize(
    ("batches", "ramp", "remap", "warmup"),
    [
        (400, 40, 20, 8),
        (30, 3, 2, 1),
        (7, 1, 1, 0),
        (1, 0, 1, 0),
        (1_000_000, 100_000, 50_000, 20_000),
    ],
)
def test_shares_become_counts(batches: int, ramp: int, remap: int, warmup: int) -> None:
    recipe = shares(ramp_share=0.1, remap_share=0.05, warmup_share=0.02)
    assert (recipe.ramp_batches, recipe.remap_every, recipe.warmup_batches) == (0, 0, 0)
    known = recipe.of_length(batches)
    assert (known.ramp_batches, known.remap_every, known.warmup_batches) == (ramp, remap, warmup)
    assert known.of_length(None) is known
    assert list(known.values()) == EARLIER and set(known.sources) == set(EARLIER)


def test_a_count_of_a_share_tells_share_and_source() -> None:
    source = Source("choice", "a tenth", "by hand")
    recipe = rasch2023.training["wrn16"].change(why=source, ramp_share=0.1)
    known = recipe.of_length(2_500)
    assert known.sources["ramp_batches"] == Source(
        "choice", "a tenth: ramp_share = 0.1 of 2,500 mini-batches", "by hand"
    )
    assert known.sources["epochs"] == recipe.sources["epochs"]


def test_a_recipe_without_shares_stays_itself() -> None:
    for preset in map(presets.get, presets.names()):
        for spec in preset.training.values():
            assert spec.of_length(100) is spec and spec.of_length(None) is spec


def test_shares_need_a_length() -> None:
    with pytest.raises(SpecError) as caught:
        shares(ramp_share=0.1, warmup_share=0.02).of_length(None)
    assert str(caught.value) == (
        "ramp_share = 0.1, warmup_share = 0.02: a share of the training's length, which is not "
        "known; pass the number of mini-batches (train: max_batches=), or counts: "
        "recipe.override(ramp_batches=..., warmup_batches=...)"
    )


def test_a_count_drops_its_share_and_a_share_its_count() -> None:
    for count, share in SHARES.items():
        recipe = shares(**{share: 0.2})
        assert getattr(recipe, count) == 0 and getattr(recipe, share) == 0.2
        again = recipe.change(why="test", **{count: 7})
        assert getattr(again, count) == 7 and getattr(again, share) is None
        assert list(again.values()) == EARLIER
        with pytest.raises(SpecError, match=f"{count} = 7; allowed: 0 beside {share} = 0.2"):
            recipe.change(why="test", **{count: 7, share: 0.2})
        for wrong in (0.0, -0.1, 1.5):
            with pytest.raises(SpecError, match=f"{share} = {wrong}; allowed: None or"):
                shares(**{share: wrong})


# --- what was there before ---


def test_presets_and_claims_have_no_new_fields() -> None:
    for preset in map(presets.get, presets.names()):
        for name, spec in preset.training.items():
            assert list(spec.values()) == EARLIER, name
            data = spec.to_dict()
            assert list(data["values"]) == EARLIER and set(data["sources"]) == set(EARLIER)
            assert all(value is None for value in map(spec.optional().get, SHARES.values()))


@pytest.mark.parametrize("ending", ["toml", "json"])
def test_files_keep_shares(tmp_path: Path, ending: str) -> None:
    kept = {
        "any": HWATraining.for_(rasch2023).spec,
        "counts": HWATraining.for_(rasch2023).override(ramp_batches=5).spec,
        **rasch2023.training,
    }
    preset = dataclasses.replace(rasch2023.change(name="mine", why="test"), training=Table(kept))
    path = tmp_path / f"mine.{ending}"
    presets.save(preset, path)
    assert presets.load(path) == preset
    assert Preset.from_dict(json.loads(json.dumps(preset.to_dict()))) == preset
    table = preset.explain().set_index(["part", "field"])
    assert table.loc[("training.any", "ramp_share"), "value"] == 0.1
    assert ("training.counts", "ramp_share") not in table.index
    assert ("training.wrn16", "ramp_share") not in table.index


# --- the recipe ---


def test_the_noise_is_that_of_the_device() -> None:
    def noise(preset: Preset) -> tuple[str, float]:
        spec = HWATraining.for_(preset).spec
        return spec.noise_type, spec.noise_t_s

    assert noise(rasch2023) == ("pcm", 20.0)
    assert noise(hermes) == ("pcm", 300.0)
    assert noise(scalar_drift) == ("programming", 1.0)
    assert noise(ideal) == ("none", 20.0)
    assert noise(rasch2023.change(why="test", read_noise_scale=0.0))[0] == "programming"
    assert noise(rasch2023.change(why="test", prog_noise_scale=0.0))[0] == "pcm"
    quiet = rasch2023.change(why="test", prog_noise_scale=0.0, read_noise_scale=0.0)
    assert noise(quiet)[0] == "none"


class Relaxing:
    """A device with two functions, which knows no single conductances."""

    def program(self, weights: Tensor, generator: torch.Generator) -> Tensor:
        return weights + 0.02 * torch.randn(weights.shape, generator=generator)

    def read(self, state: Tensor, t_inference: float, generator: torch.Generator) -> Tensor:
        return state * (1 + t_inference) ** -0.05


def test_the_noise_of_an_object_is_all_that_it_does(engine: str) -> None:
    """Programming, until the recipe's time; what the tile loses on average is no noise."""
    preset = DEVICES.with_device(Relaxing(), name="own", why="test")
    recipe = HWATraining.for_(preset)
    assert (recipe.spec.noise_type, recipe.spec.noise_t_s) == ("pcm", DEVICES.pcm.t0_s)
    recipe = recipe.override(epochs=1, noise_scale=2.0, ramp_batches=0, clip_type="none")
    quiet = recipe.override(learning_rate=1e-9, remap_every=0)
    seen = injected(convert(levels(1.0, 0.5), preset, engine=engine), quiet, 3)
    expected = 2.0 * 0.02 * (1 + DEVICES.pcm.t0_s) ** -0.05
    assert float(seen.std(0).square().mean().sqrt()) == pytest.approx(expected, rel=0.01)


def test_every_number_has_a_source_and_the_name_says_default() -> None:
    for preset in map(presets.get, presets.names()):
        recipe = HWATraining.for_(preset)
        assert recipe.name == f"{preset.name}/default"
        table = recipe.explain()
        shares = [name for name in recipe.spec.optional() if name.endswith("_share")]
        assert list(table.field) == [*EARLIER, *shares]
        assert {source.key for source in recipe.spec.sources.values()} <= set(presets.SOURCES)
        # a choice is no source: it says why
        choices = [s for s in recipe.spec.sources.values() if s.key == "choice"]
        assert all(len(source.where) > 10 for source in choices)


def test_a_preset_s_own_default_is_taken() -> None:
    own = rasch2023.training["lstm"]
    preset = dataclasses.replace(rasch2023, training=Table({"default": own}))
    assert HWATraining.for_(preset).spec is own


# --- in a training ---


def test_a_training_follows_the_shares(engine: str) -> None:
    recipe = HWATraining.for_(DEVICES).override(epochs=2, input_range_start="data")
    spec = recipe.spec
    analog = convert(mlp(), DEVICES, engine=engine)
    history = run(analog, [random(8, 12, seed=i) for i in range(20)], recipe)
    ramp = [min(1.0, (step + 1) / 4) for step in range(40)]
    assert list(history.noise_scale) == pytest.approx([spec.noise_scale * r for r in ramp])
    warm, peak = 2, spec.learning_rate
    rates = [peak * spec.warmup_factor] * warm
    rates += [peak * (40 - step) / (40 - warm) for step in range(warm, 40)]
    assert list(history.learning_rate) == pytest.approx(rates)


def test_columns_are_scaled_again_by_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    analog = convert(mlp(), DEVICES)
    seen: list[int] = []
    matrix = next(iter(matrices_of(analog).values()))
    remap = matrix.remap

    def counted() -> None:
        seen.append(1)
        remap()

    monkeypatch.setattr(matrix, "remap", counted)
    recipe = HWATraining.for_(DEVICES).override(epochs=1, remap_share=0.1)
    run(analog, [random(8, 12, seed=i) for i in range(30)], recipe)
    assert len(seen) == 10


class NoLength:
    """A loader that does not tell how long it is."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter([random(8, 12)] * 10)


def test_a_loader_without_a_length_needs_max_batches() -> None:
    recipe = HWATraining.for_(DEVICES).override(lr_schedule="constant", epochs=1)
    analog = convert(mlp(), DEVICES)
    with pytest.raises(SpecError, match=r"ramp_share = 0.1.*pass the number of mini-batches"):
        run(analog, NoLength(), recipe)
    history = run(analog, NoLength(), recipe, max_batches=10)
    assert list(history.noise_scale) == [recipe.spec.noise_scale] * 10  # a ramp of one mini-batch
