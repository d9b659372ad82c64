"""Physics at the edges: tiles of zeros as on aihwkit; a preset in place of its device."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from aihwkit.inference.converter.conductance import SinglePairConductanceConverter
from aihwkit.inference.noise import pcm as aihwkit_pcm
from torch import Tensor, nn

from aimc_bridge import convert, drift, physics, program
from aimc_bridge.errors import UsageError
from aimc_bridge.physics import cells as cell_law
from aimc_bridge.physics.drift import age, mean_drift_factor, nu_mean, nu_sd
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.physics.programming import target_us
from aimc_bridge.physics.reading import read_coefficient
from presets import hermes, ideal, rasch2023, scalar_drift
from tests.engines.native.test_fused import needs_compiler
from tests.models import assert_close, linear, only, random

PCM = rasch2023.pcm

# --- tiles of zeros -------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [rasch2023, hermes, scalar_drift, ideal], ids=str)
@pytest.mark.parametrize("largest", [0.0, 1e-12, 0.99e-7, 1.01e-7, 1e-3, 1.0, 3.0])
def test_a_tile_has_the_scale_of_aihwkits_converter(preset: object, largest: float) -> None:
    """Scales are equal to the bit.

    This includes tiles of zeros and of values that the converter takes for zeros.
    """
    pcm = preset.pcm  # type: ignore[attr-defined]
    weight = torch.linspace(-0.5, 1.0, 12).view(3, 4) * largest
    converter = SinglePairConductanceConverter(g_max=pcm.g_max_us)
    expected = converter.convert_to_conductances(weight)[1]["scale_ratio"]
    scale = cell_law.us_per_unit(weight, TileGrid((4,), (3,)), pcm)
    assert torch.equal(scale, expected.view(1, 1))


def test_a_tile_of_zeros_among_others() -> None:
    """Each tile has its own scale; the second of four is zeros."""
    weight = random(4, 6)
    weight[:2, 3:] = 0.0
    scale = cell_law.us_per_unit(weight, TileGrid((3, 3), (2, 2)), PCM)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        part = weight[2 * column : 2 * column + 2, 3 * row : 3 * row + 3]
        largest = part.abs().max() if (row, column) != (1, 0) else torch.tensor(1e-7)
        assert torch.equal(scale[row, column], PCM.g_max_us / largest)


@pytest.mark.parametrize("zero", [True, False])
def test_a_tile_is_programmed_and_read_as_on_aihwkit(
    zero: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same draws give the same programmed weights.

    They also give the same weights a day later.
    """
    shape = (3, 4)
    weight = torch.zeros(shape) if zero else random(*shape)
    plus, minus, nu_plus, nu_minus, read_plus, read_minus = random(6, *shape, seed=1)

    def draws(*values: Tensor) -> None:
        left: Iterator[Tensor] = iter(values)
        monkeypatch.setattr(aihwkit_pcm, "randn_like", lambda _: next(left))

    model, grid = aihwkit_pcm.PCMLikeNoiseModel(), TileGrid((4,), (3,))
    draws(plus, nu_plus, minus, nu_minus)
    expected, nus = model.apply_programming_noise(weight)
    positive = expected > 0
    cells = cell_law.program_cells(
        weight,
        grid,
        PCM,
        torch.stack([plus, minus]),
        torch.where(positive, nu_plus, nu_minus),
    )
    assert_close(cell_law.held_weight(cells, grid), expected, "programmed", 1e-6)
    assert (float(expected.abs().max()) < 1e-7) is zero
    draws(read_plus, read_minus)
    later = model.apply_drift_noise(expected, nus, 86400.0)
    eps = torch.where(positive, read_plus, read_minus)
    assert_close(cell_law.read_cells(cells, grid, PCM, 86400.0, eps), later, "a day later", 1e-5)


LAYERS: dict[str, tuple[Callable[[], nn.Module], slice]] = {
    "a layer of zeros": (lambda: linear(20, 10), slice(None)),
    "a dead filter": (lambda: nn.Conv2d(8, 8, 3, groups=8, bias=False), slice(2, 3)),
}


@needs_compiler
@pytest.mark.parametrize("draw_on", ["cpu", "compiled"])
@pytest.mark.parametrize("case", LAYERS)
@torch.no_grad()
def test_a_chip_holds_no_noise_where_a_tile_is_zeros(case: str, draw_on: str) -> None:
    """Its noise is tiny; other tiles have their normal noise.

    The noise is microsiemens, and one unit is g_max / 1e-7.
    """
    make, dead = LAYERS[case]
    torch.manual_seed(0)
    model = make()
    expected = model.get_parameter("weight")
    expected[dead] = 0.0
    analog = convert(model, rasch2023).eval()
    # This is six sigma of a pair.
    bound = 1e-7 * 6.0 * (2**0.5) * PCM.prog_coeff_us[0] / PCM.g_max_us
    program(analog, 1, draw_on=draw_on)
    for t_s in (None, 86400.0):
        if t_s is not None:
            drift(analog, t_s)
        held = only(analog).effective_weight().view_as(expected)
        error = (held - expected).abs().flatten(1).amax(1)
        assert 0.0 < float(error[dead].max()) < bound
        alive = torch.ones_like(error, dtype=torch.bool)
        alive[dead] = False
        assert bool((error[alive] > 1e-4).all())


# --- a preset is no device ------------------------------------------------------------------------

G = torch.linspace(0.0, 20.0, 5)
CALLS: dict[str, Callable[[object], Tensor | float]] = {
    "sigma_prog_us": lambda pcm: physics.sigma_prog_us(G, pcm),  # type: ignore[arg-type]
    "programmed": lambda pcm: physics.programmed(G, pcm, G),  # type: ignore[arg-type]
    "target_us": lambda pcm: target_us(G, pcm),  # type: ignore[arg-type]
    "drift_exponent": lambda pcm: physics.drift_exponent(G, pcm, G),  # type: ignore[arg-type]
    "nu_mean": lambda pcm: nu_mean(G, pcm),  # type: ignore[arg-type]
    "nu_sd": lambda pcm: nu_sd(G, pcm),  # type: ignore[arg-type]
    "drifted": lambda pcm: physics.drifted(G, G, 1.0, pcm),  # type: ignore[arg-type]
    "age": lambda pcm: age(1.0, pcm),  # type: ignore[arg-type]
    "mean_drift_factor": lambda pcm: mean_drift_factor(G, 1.0, pcm),  # type: ignore[arg-type]
    "read_coefficient": lambda pcm: read_coefficient(G, pcm),  # type: ignore[arg-type]
    "read_sigma": lambda pcm: physics.read_sigma(G, 1.0, pcm),  # type: ignore[arg-type]
    "read": lambda pcm: physics.read(G, G, 1.0, pcm, G),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("law", CALLS)
def test_a_preset_in_the_place_of_its_device_is_an_error(law: str) -> None:
    """Each law refuses a preset.

    It takes each preset's device.
    """
    for preset in (rasch2023, hermes, scalar_drift, ideal):
        CALLS[law](preset.pcm)
        with pytest.raises(UsageError, match=r"pcm is a Preset; allowed: .* preset\.pcm"):
            CALLS[law](preset)
    with pytest.raises(UsageError, match="pcm is a str"):
        CALLS[law]("rasch2023")
