"""Faults in the native engine: the cross-check finds each, at the level and cell where it acts.

It finds nothing without the fault.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import presets
from aimc_bridge import convert, rng
from aimc_bridge.engines.native import layers as native_layers
from aimc_bridge.engines.native import stored
from aimc_bridge.equivalence import Report, capture, device_laws
from aimc_bridge.equivalence.comparison import device_findings, layer_findings
from aimc_bridge.equivalence.measuring import Sampling
from aimc_bridge.equivalence.two_engines import TwoEngines
from aimc_bridge.physics import cells, mapping, mvm
from aimc_bridge.physics.drift import drifted
from aimc_bridge.physics.laws import law_of
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.physics.programming import programmed, sigma_prog_us
from aimc_bridge.physics.reading import read
from aimc_bridge.spec import Preset
from tests.models import linear, random
from tests.stats import FALSE_ALARM

Law = Callable[..., Tensor]
TIMES = (1.0, 86400.0, 3.2e8)


def found(report: Report) -> set[tuple[str, str, str, float]]:
    """Return (level, cell, quantity, t_inference or -1) of each row that is different."""
    rows = report.different.fillna({"t_inference": -1.0})
    columns = ("level", "cell", "quantity", "t_inference")
    return set(zip(*(rows[c] for c in columns), strict=True))


def nothing_found(table: pd.DataFrame) -> bool:
    """Return whether nothing is different, at the false-alarm rate of this suite.

    Chance remains because aihwkit's products follow no seed.
    """
    return bool(table["p_different"].min() > FALSE_ALARM)


# --- device level ---------------------------------------------------------------------------------


def devices(x: float, times: tuple[float, ...] = TIMES) -> Report:
    """Return the report of the device level at one target."""
    return Report.of([device_findings(TwoEngines(presets.rasch2023), x, times, 60_000, 1)])


@functools.cache
def clean(x: float) -> bool:
    return nothing_found(devices(x).table)


def no_t0(g: Tensor, nu: Tensor, t: float, pcm: Any) -> Tensor:
    """Return (t / t0)^-nu."""
    return g * (max(t, 1e-3) / pcm.t0_s) ** -nu


def no_clip(g: Tensor, pcm: Any, eps: Tensor) -> Tensor:
    """Return programming noise without the lower limit of 0."""
    return g + sigma_prog_us(g, pcm) * eps


def redrawn(g: Tensor, nu: Tensor, t: float, pcm: Any) -> Tensor:
    """Return new exponents at each time, those of other devices with the same target."""
    return drifted(g, nu[..., torch.randperm(nu.shape[-1])], t, pcm)


def noise_of_drifted(g: Tensor, g_prog: Tensor, t: float, pcm: Any, eps: Tensor) -> Tensor:
    """Return read noise of the drifted instead of the programmed conductance."""
    return read(g, g, t, pcm, eps)


def plant(law: str, mutant: Law, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a mutant in the place of a function of physics, wherever the native engine calls it."""
    steps = {"drifted": drifted, "read": read} | {law: mutant}

    def read_after_drift(g: Tensor, nu: Tensor, t: float, pcm: Any, eps: Tensor) -> Tensor:
        basis = law_of(pcm).read_basis(g, nu)
        return steps["read"](steps["drifted"](g, nu, t, pcm), basis, t, pcm, eps)

    for module in (cells, device_laws):
        monkeypatch.setattr(module, "read_after_drift", read_after_drift)
        if law in vars(module):
            monkeypatch.setattr(module, law, mutant)


# name: (law, mutant, target, cell, time, quantity)
MUTANTS: dict[str, tuple[str, Law, float, str, float, str]] = {
    "t instead of t + t0": ("drifted", no_t0, 0.1, "g/g_max = 0.1", 1.0, "drifted mean"),
    "no clip at 0": ("programmed", no_clip, 0.0, "g/g_max = 0", -1.0, "programmed mean"),
    "exponent redrawn": ("drifted", redrawn, 0.1, "g/g_max = 0.1", 3.2e8, "exponent drawn anew"),
    "read noise of the drifted": (
        "read",
        noise_of_drifted,
        0.1,
        "w = 0.1",
        3.2e8,
        "read weight sd",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught_at_the_device_level(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    law, mutant, target, cell, t, quantity = MUTANTS[name]
    assert clean(target)
    plant(law, mutant, monkeypatch)
    assert ("device", cell, quantity, t) in found(devices(target))


@pytest.mark.parametrize("times", [(1.0, 2.0), (1.0, 3600.0), (3600.0, 3.2e8)])
def test_a_redrawn_exponent_is_caught_on_any_grid(
    times: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two times are enough, however close.

    At time 0 nothing has drifted.
    """
    plant("drifted", redrawn, monkeypatch)
    expected = ("device", "g/g_max = 0.5", "exponent drawn anew", times[1])
    assert expected in found(devices(0.5, times))
    assert expected in found(devices(0.5, (0.0, *times)))


def test_read_noise_of_the_target_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Q of the target instead of the programmed conductance is found.

    It is found at the device of target 0, whose Q is then the largest for all.
    """
    targets: dict[int, tuple[Tensor, Tensor]] = {}

    def remembered(g: Tensor, pcm: Any, eps: Tensor) -> Tensor:
        result = programmed(g, pcm, eps)
        # The result is stored so that no other object gets its id.
        targets[id(result)] = (result, g)
        return result

    def mutant(g: Tensor, g_prog: Tensor, t: float, pcm: Any, eps: Tensor) -> Tensor:
        return read(g, targets.get(id(g_prog), (g, g_prog))[1], t, pcm, eps)

    assert clean(0.0)
    monkeypatch.setattr(device_laws, "programmed", remembered)
    plant("read", mutant, monkeypatch)
    # Only single devices have the fault: weights keep what they programmed in cells.
    assert ("device", "g/g_max = 0", "read sd", TIMES[0]) in found(devices(0.0))


def test_netting_left_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices that drift each by themselves change the weight near 0.

    No single device differs, nor do weights that are meant to be read that way.
    """
    real = device_laws.Native

    def unnetted(preset: Any, netted: bool, *rest: Any) -> Any:
        return real(preset, False, *rest)

    assert clean(0.0)
    monkeypatch.setattr(device_laws, "Native", unnetted)
    rows = found(devices(0.0))
    assert ("device", "w = 0", "read weight sd", TIMES[-1]) in rows
    assert not any("g/g_max" in cell or "two devices" in what for _, cell, what, _ in rows)


def test_noise_on_the_signed_weight_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights programmed near 0 spread less.

    The fault is that the device with target 0 gets no noise.
    """
    real = cells.program_cells

    def mutant(weight: Tensor, grid: Any, pcm: Any, eps: Tensor, nu: Tensor) -> cells.Cells:
        idle = torch.stack([weight < 0, weight >= 0])
        return real(weight, grid, pcm, eps.masked_fill(idle, -100.0), nu)

    assert clean(0.0)
    monkeypatch.setattr(cells, "program_cells", mutant)
    rows = found(devices(0.0))
    assert ("device", "w = 0", "programmed weight sd", -1.0) in rows
    assert not any("g/g_max" in cell for _, cell, _, _ in rows)


# --- layer level ----------------------------------------------------------------------------------

YEAR = 31536000.0
SHAPES = {64: (150, 48), 512: (1152, 8)}
"""Inputs and outputs of the layer, by the rows that a tile has at most: three row tiles of it."""


@functools.cache
def the_layer(most: int) -> tuple[capture.Layer, Preset]:
    """Return a layer of three even row tiles.

    Its inputs have one sign, as behind a ReLU, and load the wires.
    """
    preset = presets.rasch2023
    if preset.crossbar.max_rows != most:
        preset = preset.change(max_rows=most, why="several row tiles of a small layer, in tests")
    rows, outputs = SHAPES[most]
    model = nn.Sequential(linear(rows, outputs, bias=False)).eval()
    with torch.no_grad():
        # Outer rows are smaller, so one scale for all row tiles is wrong for some.
        model[0].weight[:, : rows // 3] *= 0.3
    batches = [random(512, rows, seed=3).abs()]
    native = convert(model, preset)
    capture.calibrated(native, batches)
    (layer,) = capture.layers_of(native, model, batches)
    assert layer.grid.rows == (rows // 3,) * 3
    return layer, preset


def layer_level(most: int) -> Report:
    layer, preset = the_layer(most)
    return Report.of([layer_findings(TwoEngines(preset), layer, Sampling((YEAR,), 24, 0))])


@functools.cache
def layer_clean(most: int) -> bool:
    return nothing_found(layer_level(most).table)


class Uneven(TileGrid):
    """Row tiles as large as possible, the rest on the last: 512 + 512 + 128."""

    @staticmethod
    def of(out_features: int, in_features: int, spec: Any, groups: int = 1) -> TileGrid:
        full, rest = divmod(in_features, spec.max_rows)
        rows = (spec.max_rows,) * full + ((rest,) if rest else ())
        columns = mapping.split_sizes(out_features // groups, spec.max_columns) * groups
        return TileGrid(rows, columns, groups)


row_position = TileGrid.row_position


def without_noise(weight: Tensor, *_: Any) -> Tensor:
    """Return a readout of the weights without noise: it has no noise floor."""
    return weight


def backwards(self: TileGrid, like: Tensor) -> Tensor:
    """Return positions on the wire of each tile counted from its other end."""
    parts = torch.split(row_position(self, like), list(self.rows))
    return torch.cat([part.flip(0) for part in parts])


def one_scale(weight: Tensor, grid: TileGrid, weight_scaling: str) -> Tensor:
    """Return one scale per column for all its row tiles."""
    scale = mapping.column_scales(weight, grid, weight_scaling)
    return scale.amax(0, keepdim=True).expand_as(scale).clone()


def a_batch(values: Tensor) -> Tensor:
    """Return one draw for all products of a call."""
    return torch.randn(values.shape[1:], dtype=values.dtype).expand_as(values).clone()


LAYER_MUTANTS: dict[str, tuple[Any, str, Any, int, set[tuple[str, float]]]] = {
    "alpha without the noise floor": (
        *(mvm, "identity_readout", without_noise, 64),
        {("alpha global mean", YEAR), ("alpha global bias", YEAR)},
    ),
    "IR-drop index reversed": (
        *(TileGrid, "row_position", backwards, 64),
        {("IR-drop loss", -1.0), ("outputs, ADC off", -1.0)},
    ),
    "read noise per batch": (
        *(rng, "noise_like", a_batch, 64),
        {("read noise shared by products", YEAR)},
    ),
    "rows split 512 + 512 + 128": (
        *(native_layers, "TileGrid", Uneven, 512),
        {("outputs off by an ADC step", -1.0)},
    ),
    "one column scale for all row tiles": (
        *(stored, "column_scales", one_scale, 64),
        {("outputs off by an ADC step", -1.0), ("outputs off by more", -1.0)},
    ),
}


@pytest.mark.parametrize("name", LAYER_MUTANTS)
def test_mutant_is_caught_at_the_layer_level(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clean run of the same level found nothing before."""
    module, law, mutant, most, expected = LAYER_MUTANTS[name]
    assert layer_clean(most)
    monkeypatch.setattr(module, law, mutant)
    rows = found(layer_level(most))
    got = {(quantity, t) for level, _, quantity, t in rows if level == "layer"}
    assert expected <= got, f"{name}: different are {sorted(got)}"


def test_a_nan_time_is_told_apart() -> None:
    """Rows without a time are -1 in this file."""
    assert math.isnan(devices(1.0, (1.0,)).table["t_inference"].iloc[0])
