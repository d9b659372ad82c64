"""Presets: every number a second time, from the paper's tables or from aihwkit's own source."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from aihwkit.inference.noise.hermes import HermesNoiseModel
from aihwkit.inference.noise.pcm import PCMLikeNoiseModel
from aihwkit.simulator.presets.inference import StandardHWATrainingPreset

import presets
from aimc_bridge import physics
from aimc_bridge.errors import UnknownNameError
from aimc_bridge.physics.drift import nu_mean, nu_sd
from aimc_bridge.spec import Preset, StatisticalSpec
from presets import SOURCES, hermes, ideal, rasch2023

ALL = [presets.get(name) for name in presets.names()]
# --- names ---


def test_names_and_get() -> None:
    published = ["hermes_single", "pcm_state_independent", "reram_wan2022", "reram_cmo", "pcm_afm"]
    assert presets.names() == ["rasch2023", "scalar_drift", "hermes", "ideal", *published]
    for name in presets.names():
        assert presets.get(name) is getattr(presets, name)
        assert presets.get(name).name == name


def test_an_unknown_preset_lists_the_names() -> None:
    with pytest.raises(UnknownNameError, match="'rasch23'; there are: rasch2023, scalar_drift"):
        presets.get("rasch23")
    with pytest.raises(KeyError):
        presets.get("")


def test_import_is_light() -> None:
    """`import presets` is data: no torch, no aihwkit, nothing seeded or started."""
    code = (
        "import presets, sys; presets.rasch2023.change(out_noise=0.0, why='x').to_dict(); "
        "print([m for m in ('torch', 'aihwkit', 'transformers', 'numpy', 'pandas') "
        "if m in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"


@pytest.mark.parametrize("preset", ALL, ids=str)
def test_every_source_is_in_the_bibliography(preset: Preset) -> None:
    parts = [getattr(preset, name) for name in Preset.PARTS] + list(preset.training.values())
    keys = {source.key for part in parts for source in part.sources.values()}
    assert keys <= set(SOURCES)
    for part in parts:
        for name, source in part.sources.items():
            assert source.where, f"{name} does not say where in {source.key}"


# --- rasch2023: SI Table 1, the PCM statistics, SI Table 3 ---

CROSSBAR = {
    "dac_bits": 8,
    "adc_bits": 8,
    "out_bound": 10.0,
    "out_noise": 0.04,
    "w_noise": 0.0175,
    "ir_drop": 1.0,
    "ir_drop_g_ratio": 571428.57,
    "max_rows": 512,
    "max_columns": 512,
    "weight_scaling": "column",
    "digital_bias": True,
    "learned_out_scales": True,
    "input_range": "learned",
}
PCM = {
    "g_max_us": 25.0,
    "t0_s": 20.0,
    "t_read_s": 250e-9,
    "netting": True,
    "prog_coeff_us": (0.26348, 1.9650, -1.1731),
    "nu_mean": (-0.0155, 0.0244, 0.049, 0.1),
    "nu_sd": (-0.0125, -0.0059, 0.008, 0.045),
    "read_coeff": (0.0088, 0.65, 1e-3, 0.2),
    "prog_noise_scale": 1.0,
    "read_noise_scale": 1.0,
    "drift_scale": 1.0,
}
COMPENSATION = {"drift_compensation": "global", "alpha_floor": 1e-4}
SHARED = {
    "noise_type": "pcm",
    "noise_t_s": 20.0,
    "gaussian_sd": 0.04,
    "clip_type": "fixed",
    "clip_value": 1.0,
    "learn_input_ranges": True,
    "input_range_decay": 0.001,
    "input_range_min_unclipped": 0.95,
    "input_range_init_batches": 100,
    "input_range_init_sd": 3.0,
    "input_range_start": "calibrated",
    "learn_out_scales": True,
    "optimizer": "sgd",
}
# SI Table 3 has one row per model, in the order of COLUMNS; then what its last column says.
COLUMNS = (
    "epochs",
    "learning_rate",
    "batch_size",
    "noise_scale",
    "weight_decay",
    "drop_connect",
    "momentum",
    "grad_clip",
    "ramp_batches",
)
PLAIN = {
    "warmup_batches": 0,
    "warmup_factor": 1.0,
    "lr_drop_epochs": (),
    "lr_drop_factor": 0.1,
    "lr_drop_on_stall": False,
    "lr_schedule": "constant",
    "remap_every": 0,
    "ir_drop_in_training": True,
    "distill_weight": 0.0,
    "distill_temperature": 1.0,
    "dropout": None,
}
RECIPES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "wrn16": (
        (80, 2e-2, 25, 3.0, 1e-3, 0.01, 0.9, None, 40_000),
        {
            "warmup_batches": 500,
            "warmup_factor": 1 / 20,
            "lr_drop_epochs": (38, 76),
            "remap_every": 2_000,
            "distill_weight": 0.9,
            "distill_temperature": 4.0,
        },
    ),
    "resnet32": (
        (600, 7.5e-3, 50, 3.0, 1e-3, 0.0, 0.9, None, 20_000),
        {"warmup_batches": 2 * 50_000 // 50, "warmup_factor": 1 / 20, "remap_every": 500},
    ),
    "bert_glue": ((5, 1e-3, 5, 3.0, 0.0, 0.0, 0.9, None, 0), {"dropout": 0.0}),
    "bert_mrpc": (
        (40, 2e-3, 20, 3.0, 0.0, 0.001, 0.95, 5.0, 1_400),
        {"lr_drop_epochs": (23,), "ir_drop_in_training": False, "dropout": 0.0},
    ),
    "lstm": (
        (60, 1e-2, 20, 5.0, 1e-5, 0.01, 0.9, 10.0, 1_000),
        {"lr_drop_factor": 0.9, "lr_drop_on_stall": True, "dropout": 0.5},
    ),
}
# If the paper leaves a value open, its source says so.
CHOSEN = {
    "wrn16": {
        "gaussian_sd",
        "input_range_start",
        "distill_weight",
        "distill_temperature",
        "dropout",
    },
    "resnet32": {"gaussian_sd", "input_range_start", "distill_temperature", "dropout"},
    "bert_glue": {
        "gaussian_sd",
        "input_range_start",
        "distill_temperature",
        "epochs",
        "learning_rate",
        "noise_scale",
        "ramp_batches",
    },
    "bert_mrpc": {"gaussian_sd", "input_range_start", "distill_temperature", "dropout"},
    "lstm": {"gaussian_sd", "input_range_start", "distill_temperature"},
}


def test_rasch2023_is_si_table_1() -> None:
    assert rasch2023.crossbar.values() == CROSSBAR
    assert rasch2023.pcm.values() == PCM
    assert rasch2023.compensation.values() == COMPENSATION
    assert all(source.key == "rasch2023" for source in rasch2023.crossbar.sources.values())
    assert all("SI Table 1" in source.where for source in rasch2023.crossbar.sources.values())


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_si_table_3(name: str) -> None:
    row, more = RECIPES[name]
    expected = {**SHARED, **PLAIN, **dict(zip(COLUMNS, row, strict=True)), **more}
    assert rasch2023.training[name].values() == expected
    sources = rasch2023.training[name].sources
    assert {field for field, source in sources.items() if source.key == "choice"} == CHOSEN[name]


def test_recipes_are_complete() -> None:
    assert list(rasch2023.training) == list(RECIPES)


def test_numbers_read_from_aihwkits_preset() -> None:
    """Input ranges and clip of the recipes are those of aihwkit's standard training preset."""
    theirs = StandardHWATrainingPreset()
    ranges, recipe = theirs.pre_post.input_range, rasch2023.training["wrn16"]
    assert recipe.input_range_init_batches == ranges.init_from_data
    assert recipe.input_range_init_sd == ranges.init_std_alpha
    assert recipe.input_range_decay == ranges.decay
    assert recipe.input_range_min_unclipped == ranges.input_min_percentage
    assert recipe.clip_value == theirs.clip.fixed_value
    forward, crossbar = theirs.forward, rasch2023.crossbar
    assert (crossbar.out_bound, crossbar.out_noise) == (forward.out_bound, forward.out_noise)
    assert (crossbar.w_noise, crossbar.ir_drop) == (forward.w_noise, forward.ir_drop)
    assert crossbar.ir_drop_g_ratio == pytest.approx(forward.ir_drop_g_ratio, rel=1e-8)
    assert 2**crossbar.dac_bits - 2 == forward.inp_res  # aihwkit's field counts steps.
    assert 2**crossbar.adc_bits - 2 == forward.out_res
    assert crossbar.max_rows == theirs.mapping.max_input_size


# --- device numbers against aihwkit's models, evaluated ---

GRID = torch.cat([torch.linspace(0.0, 1.0, 401), torch.tensor([0.0945, 0.3055, 0.16, 1e-4])])
MODELS = {"rasch2023": PCMLikeNoiseModel, "hermes": HermesNoiseModel}


def answered(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Make aihwkit's models draw `value` instead of N(0, 1): their laws become functions."""
    for module in ("pcm", "hermes"):
        name = f"aihwkit.inference.noise.{module}.randn_like"
        monkeypatch.setattr(name, lambda like: torch.full_like(like, value))


def off_breaks(x: torch.Tensor) -> torch.Tensor:
    """Return a mask of targets that float32 keeps on their side of the Hermes laws' breaks."""
    breaks = torch.tensor([0.0945, 0.3055, 0.16])
    return ((x[:, None] - breaks).abs() > 1e-6).all(1)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # in aihwkit's Hermes model
@pytest.mark.parametrize("preset", [rasch2023, hermes], ids=str)
class TestAgainstAihwkit:
    """The same draw gives the same number, on a grid of targets."""

    def test_constants(self, preset: Preset) -> None:
        pcm, model = preset.pcm, MODELS[preset.name]()
        assert isinstance(pcm, StatisticalSpec)
        assert (pcm.g_max_us, pcm.t0_s, pcm.t_read_s) == (model.g_max, model.t_0, model.t_read)
        assert list(pcm.prog_coeff_us) == model.prog_coeff
        for scale in ("prog_noise_scale", "read_noise_scale", "drift_scale"):
            assert getattr(pcm, scale) == getattr(model, scale) == 1.0

    @pytest.mark.parametrize("draw", [0.0, 1.0, -1.0, 2.5])
    def test_programmed(self, preset: Preset, draw: float, monkeypatch: Any) -> None:
        answered(monkeypatch, draw)
        target = GRID * preset.pcm.g_max_us
        theirs = MODELS[preset.name]().apply_programming_noise_to_conductance(target)
        ours = physics.programmed(target, preset.pcm, torch.full_like(target, draw))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("draw", [0.0, 1.0, -3.0, 4.0])
    def test_exponent(self, preset: Preset, draw: float, monkeypatch: Any) -> None:
        answered(monkeypatch, draw)
        x = GRID[off_breaks(GRID)]
        target = x * preset.pcm.g_max_us
        theirs = MODELS[preset.name]().generate_drift_coefficients(target)
        ours = physics.drift_exponent(target, preset.pcm, torch.full_like(target, draw))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("draw", [0.0, 1.0, -1.0])
    @pytest.mark.parametrize("t_s", [0.0, 1.0, 3600.0, 31536000.0])
    def test_drifted_and_read(
        self, preset: Preset, draw: float, t_s: float, monkeypatch: Any
    ) -> None:
        answered(monkeypatch, draw)
        x = GRID[off_breaks(GRID)]
        g_prog = x * preset.pcm.g_max_us
        nu = torch.linspace(0.0, 0.15, len(x))
        theirs = MODELS[preset.name]().apply_drift_noise_to_conductance(g_prog, nu, t_s)
        drifted = physics.drifted(g_prog, nu, t_s, preset.pcm)
        ours = physics.read(drifted, g_prog, t_s, preset.pcm, torch.full_like(x, draw))
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-6)

    @pytest.mark.parametrize(
        "scales", [{"prog_noise_scale": 2.0}, {"read_noise_scale": 0.5}, {"drift_scale": 3.0}]
    )
    def test_scales(self, preset: Preset, scales: dict[str, float], monkeypatch: Any) -> None:
        """The what-if factors mean the same as in aihwkit."""
        answered(monkeypatch, 1.0)
        pcm, model = preset.change(**scales, why="test").pcm, MODELS[preset.name](**scales)
        x = GRID[off_breaks(GRID)]
        target, ones = x * pcm.g_max_us, torch.ones_like(x)
        g_prog = physics.programmed(target, pcm, ones)
        nu = physics.drift_exponent(target, pcm, ones)
        theirs = model.apply_programming_noise_to_conductance(target)
        torch.testing.assert_close(g_prog, theirs, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(nu, model.generate_drift_coefficients(target), rtol=1e-5, atol=0)
        theirs = model.apply_drift_noise_to_conductance(target, nu, 3600.0)
        now = physics.drifted(target, nu, 3600.0, pcm)
        ours = physics.read(now, target, 3600.0, pcm, ones)
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-6)


def test_hermes_is_its_chips_device_on_the_papers_periphery() -> None:
    assert hermes.crossbar == rasch2023.crossbar
    assert hermes.compensation == rasch2023.compensation
    assert hermes.training == rasch2023.training
    x = torch.tensor([0.0, 0.05, 0.5, 1.0], dtype=torch.float64)
    g = x * 20.7
    high = 0.0736 - 0.0126 * x - 0.0436 * x**2
    low = (-0.0387 * x.clamp_min(1e-7).log() - 0.0182).clamp(0.0720, 0.13)
    torch.testing.assert_close(nu_mean(g, hermes.pcm), torch.where(x < 0.0945, low, high))
    high = 0.0073 + 0.0093 * x - 0.0118 * x**2
    low = (-0.0117 * x.clamp_min(1e-7).log() - 0.0057).clamp(0.0091, 0.04)
    torch.testing.assert_close(nu_sd(g, hermes.pcm), torch.where(x < 0.3055, low, high))


# --- ideal ---


def test_ideal_has_nothing_that_is_not_ideal() -> None:
    crossbar = ideal.crossbar
    assert (crossbar.dac_bits, crossbar.adc_bits, crossbar.input_range) == (None, None, "none")
    assert (crossbar.out_noise, crossbar.w_noise, crossbar.ir_drop) == (0.0, 0.0, 0.0)
    assert (crossbar.max_rows, crossbar.max_columns) == (512, 512)
    assert ideal.compensation.drift_compensation == "none"
    g, eps = torch.linspace(-25.0, 25.0, 11), torch.randn(3, 11)
    g_prog = physics.programmed(g, ideal.pcm, eps)
    assert torch.equal(g_prog, g.expand(3, 11))
    nu = physics.drift_exponent(g, ideal.pcm, eps)
    now = physics.drifted(g_prog, nu, 31536000.0, ideal.pcm)
    assert torch.equal(physics.read(now, g_prog, 31536000.0, ideal.pcm, eps), g_prog)


def test_presets_are_json_and_finite() -> None:
    for preset in ALL:
        assert json.dumps(preset.to_dict(), allow_nan=False)
    assert math.isclose(rasch2023.training["wrn16"].warmup_factor, 0.05)
