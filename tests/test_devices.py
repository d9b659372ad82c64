"""Devices that a user brings: tables of measurements, and objects with two functions."""

from __future__ import annotations

import hashlib
import pickle
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import presets
from aimc_bridge import (
    convert,
    crosscheck,
    devices,
    drift,
    load_chip,
    physics,
    program,
    save_chip,
    sweep,
)
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import (
    AimcError,
    CheckpointError,
    DataError,
    SpecError,
    UnknownNameError,
    UsageError,
)
from aimc_bridge.physics import own
from aimc_bridge.physics.injection import injected
from aimc_bridge.physics.laws import Law, law_of, register
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.physics.reading import read_after_drift
from aimc_bridge.rng import stream
from aimc_bridge.spec import DeviceSpec, OwnDevice, Preset, V, cite
from presets import ideal, rasch2023
from tests.models import ENGINES

CSV = Path(__file__).parent.parent / "examples" / "pcm_table.csv"
TABLE = devices.TableDevice.from_csv(CSV, g_max_us=25.0, source="sampled")
LAW = rasch2023.change(netting=False, why="as measured")
TILES = {"max_rows": 8, "max_columns": 5}


def held(model: nn.Module) -> list[Tensor]:
    return [m.effective_weight().detach().clone() for m in matrices_of(model).values()]


def model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(12, 9), nn.Linear(9, 4))


# --- tables ---------------------------------------------------------------------------------------


def compared(table: devices.TableDevice) -> Any:
    """Compare a table with the law that it was sampled from, with a margin of 1 % for all.

    Programming decides "programmed", and read noise decides what changes within a second.
    """
    return crosscheck(
        None,
        rasch2023.with_device(table, name="table", why="test"),
        None,
        against=LAW,
        levels="device",
        targets=(0.5, 1.0),
        times=("0", "1s", "1y"),
        samples=1_000_000,
        margins={"sd": 0.01},
        progress=False,
    )


def test_the_table_of_pcm_is_pcm_within_one_per_cent() -> None:
    """Both words hold at 5 % for all rows together (Holm)."""
    report = compared(TABLE)
    assert report.passed, report.table[report.table.verdict != "equivalent"].to_string()


@pytest.mark.parametrize(
    ("column", "quantity"),
    [("mean_us", "read mean"), ("prog_sd_us", "programmed sd"), ("read_sd_us", "read change sd")],
)
def test_a_column_that_is_2_per_cent_off_is_different(column: str, quantity: str) -> None:
    """With a power above 0.9999: the true ratio is 1.02, the margin 1.01."""
    values = tuple(1.02 * value for value in getattr(TABLE, column))
    table = compared(TABLE.change(why="2 % off", **{column: values})).table
    rows = table[table.quantity == quantity]
    rows = rows[rows.t_inference != 31536000.0] if column == "read_sd_us" else rows
    assert len(rows) and set(rows.verdict) == {"different"}, rows.to_string()
    if not quantity.endswith(" sd"):
        return
    error = (np.log1p(rows.high) - np.log1p(rows.low)) / (2 * stats.norm.isf(0.05))
    reach = (np.log(1.02) - np.log(1.01)) / error - stats.norm.isf(0.025 / len(table))
    assert stats.norm.cdf(reach).min() > 0.9999


def test_readings_have_the_moments_of_the_rows_and_interpolated_ones_between() -> None:
    table = devices.TableDevice.from_arrays(
        [0, 0, 10, 10, 20, 20],
        [1, 100, 1, 100, 1, 100],
        [0.2, 0.1, 10, 8, 20, 15],
        prog_sd_us=[0.2, 0.1, 1, 1.2, 2, 1.0],
        read_sd_us=[0.1, 0.1, 0.3, 0.3, 0.4, 0.4],
        g_max_us=20.0,
        source="made up",
    )
    law, n = law_of(table), 400_000
    draws = torch.Generator().manual_seed(1)

    def eps() -> Tensor:
        return torch.randn(n, generator=draws)

    for g, t_s, mean, device, reading in (
        (0.0, 1.0, 0.2, 0.2, 0.1),
        (0.0, 100.0, 0.1, 0.1, 0.1),
        (10.0, 10.0, 9.0, 1.1, 0.3),  # the middle on a logarithmic axis
        (20.0, 100.0, 15.0, 1.0, 0.4),
    ):
        target = torch.full((n,), g)
        start, nu = law.programmed(target, table, eps()), law.drift_exponent(target, table, eps())
        a, b = (read_after_drift(start, nu, t_s, table, eps()).double() for _ in range(2))
        assert float(a.min()) >= 0
        # six standard errors of each estimate at most
        assert float((a + b).mean() / 2) == pytest.approx(mean, rel=0.01)
        covariance = ((a - mean) * (b - mean)).mean()
        assert float(covariance.sqrt()) == pytest.approx(device, rel=0.02)
        assert float((a - b).square().mean().div(2).sqrt()) == pytest.approx(reading, rel=0.02)


@pytest.mark.parametrize(
    "pcm", [*(presets.get(name).pcm for name in presets.names()), TABLE], ids=lambda pcm: pcm.law
)
def test_a_reading_after_drift_is_drift_and_then_a_reading(pcm: DeviceSpec) -> None:
    """Laws that do both in fewer steps give the numbers of the two functions."""
    law, g = law_of(pcm), torch.linspace(0, pcm.g_max_us, 1000)
    eps = torch.randn(3, 1000, generator=torch.Generator().manual_seed(1))
    start, nu = law.programmed(g, pcm, eps[0]), law.drift_exponent(g, pcm, eps[1])
    for t_s in (1.0, 86400.0):
        now = physics.drifted(start, nu, t_s, pcm)
        expected = physics.read(now, law.read_basis(start, nu), t_s, pcm, eps[2])
        torch.testing.assert_close(read_after_drift(start, nu, t_s, pcm, eps[2]), expected)


def test_outside_of_the_table_values_go_on_with_their_last_slope() -> None:
    """Over targets, and over the logarithm of the time; but not below 0.

    Before the first time they are constant.
    """
    rows = {10.0: (4.0, 7.0, 13.0), 100.0: (2.0, 6.0, 14.0)}  # 4 + 0.6 (g - 5); 2 + 0.8 (g - 5)
    table = devices.TableDevice.from_arrays(
        [5.0] * 2 + [10.0] * 2 + [20.0] * 2,
        [*rows] * 3,
        [rows[t_s][target] for target in range(3) for t_s in rows],
        prog_sd_us=[0.0] * 6,
        read_sd_us=[0.0] * 6,
        g_max_us=25.0,
        source="made up",
        extrapolate=True,
    )
    law, g = law_of(table), torch.tensor([0.0, 1.0, 2.5, 4.0, 5.0, 15.0, 20.0, 22.0, 25.0])
    none = torch.zeros_like(g)
    start, nu = law.programmed(g, table, none), law.drift_exponent(g, table, none)
    for t_s, at_5, slope in ((0.0, 4, 0.6), (10.0, 4, 0.6), (100.0, 2, 0.8), (1000.0, 0, 1.0)):
        got = read_after_drift(start, nu, t_s, table, none)
        expected = (at_5 + slope * (g - 5)).clamp_min(0.0)
        torch.testing.assert_close(got, expected, rtol=0, atol=5e-3)


HEADER = "target_us,t_s,mean_us,sd_us"
LONG = [HEADER, *(f"0,{t_s},0.1,0.1" for t_s in range(1, 13))]
GOOD = ["0,1,0.1,0.1", "0,9,0.1,0.1", "20,1,20,1", "20,9,18,1"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEADER, *GOOD[:3]], "a hole: target 20 uS has no row at t_s = 9"),
        ([*LONG, "20,1,20,1"], "no row at t_s = 2, 3, 4, 5, ..., 10, 11, 12, others have"),
        ([*LONG[:10], "20,1,20,1"], "no row at t_s = 2, 3, 4, 5, 6, 7, 8, 9, others have"),
        ([HEADER, *GOOD[:3], "20,9,18,-1"], "sd_us = -1 at target 20 uS"),
        ([HEADER, GOOD[1], GOOD[0], *GOOD[2:]], "t_s = 1 after 9 for target 0 uS"),
        ([HEADER, *GOOD, GOOD[0]], "target 0 uS at t_s = 1 is there twice"),
        ([HEADER, *GOOD[:3], "20,9,nan,1"], "mean_us = 'nan' in row 4"),
        ([HEADER, *GOOD[:3], "20,9,much,1"], "mean_us = 'much' in row 4"),
        ([HEADER, *GOOD[2:]], "targets_us = 20; allowed: 2 or more"),
        (["target_us,t_s,mean_us", "0,1,0.1"], "no column sd_us"),
        ([HEADER, "0,1,0,0", "20000,1,20000,1"], "target 20000 uS is above g_max_us = 20"),
        ([HEADER, "0,1,0,0", "20,1,2e-05,1e-06"], "means up to 2e-05; allowed: both in micro"),
        ([HEADER, "5,1,5,0.1", "20,1,20,1"], "weights need devices from 0 to g_max_us = 20"),
        ([HEADER], "no rows"),
        ([], "the file is empty"),
    ],
)
def test_a_bad_table_is_refused(lines: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "measured.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(SpecError) as error:
        devices.TableDevice.from_csv(path, g_max_us=20.0, source="lab")
    assert message in str(error.value)


def test_what_is_no_table_at_all_is_refused() -> None:
    table = devices.TableDevice
    known: Any = {"g_max_us": 20.0, "source": "lab"}
    nothing: Any = None
    with pytest.raises(UsageError, match="path = None; allowed: the path of a CSV file"):
        table.from_csv(nothing, **known)
    with pytest.raises(UsageError, match="frame is a NoneType; allowed: a pandas DataFrame"):
        table.from_frame(nothing, **known)
    one: Any = 1.0
    with pytest.raises(SpecError, match="t_s = 1.0; allowed: numbers, one entry per target"):
        table.from_arrays([0.0], one, [0.0], [0.0], **known)


def test_times_outside_of_the_table_are_refused_and_leave_the_chip_as_it_is() -> None:
    analog = convert(model(), ideal.with_device(TABLE, name="t", why="test")).eval()
    program(analog, 1)
    drift(analog, "1d")
    before = held(analog)
    with pytest.raises(UsageError, match="outside of the table of this device"):
        drift(analog, "100y")
    assert all(map(torch.equal, held(analog), before))


def test_a_preset_with_a_table_is_plain_data(tmp_path: Path) -> None:
    preset = rasch2023.with_device(TABLE, name="t", why="test")
    assert Preset.from_dict(preset.to_dict()) == preset
    presets.save(preset, tmp_path / "t.toml")
    assert presets.load(tmp_path / "t.toml") == preset


def test_devices_of_the_library_come_by_name() -> None:
    assert {"hermes", "ideal", "pcm", "scalar", "signed pcm"} <= set(devices.names())
    preset = rasch2023.with_device("hermes", name="h", why="test")
    assert preset.pcm == presets.hermes.pcm and preset.crossbar == rasch2023.crossbar
    with pytest.raises(UnknownNameError, match="no device 'reram'; there are: hermes"):
        rasch2023.with_device("reram", name="h", why="test")


# --- objects --------------------------------------------------------------------------------------


class State(NamedTuple):
    weights: Tensor
    rate: float


class Mine:
    """A device: Gaussian programming, one rate for a tile, and read noise."""

    def __init__(self, sd: float = 0.05) -> None:
        self.sd = sd

    def program(self, weights: Tensor, generator: torch.Generator) -> Any:
        rate = float(torch.rand((), generator=generator)) * 0.1
        return State(weights + self.sd * torch.randn(weights.shape, generator=generator), rate)

    def read(self, state: Any, t_inference: float, generator: torch.Generator) -> Any:
        noise = 0.01 * torch.randn(state.weights.shape, generator=generator)
        return state.weights * (1 + t_inference) ** -state.rate + noise


def with_object(physics: object) -> Preset:
    return ideal.with_device(physics, name="own", why="test").change(**TILES, why="small tiles")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_object_makes_chips_that_are_repeated_saved_and_loaded(
    engine: str, tmp_path: Path
) -> None:
    analog = convert(model(), with_object(Mine()), engine=engine).eval()
    program(analog, 7)
    drift(analog, "1h")
    hour = held(analog)
    save_chip(analog, tmp_path / "chip.safetensors")
    drift(analog, "1d")
    day = held(analog)
    program(analog, 8)
    assert not torch.equal(held(analog)[0], hour[0])
    again = convert(model(), with_object(Mine()), engine=engine).eval()
    load_chip(again, tmp_path / "chip.safetensors")
    assert all(map(torch.equal, held(again), hour))
    drift(again, "1d")
    assert all(map(torch.equal, held(again), day))
    other = convert(model(), with_object(Mine(sd=0.1)), engine=engine).eval()
    with pytest.raises(CheckpointError, match="another model, engine or preset"):
        load_chip(other, tmp_path / "chip.safetensors")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_chip_of_an_object_without_its_weights_is_refused(engine: str) -> None:
    """The state of the object is not enough: the weights that it was last read as are missing."""
    analog = convert(model(), with_object(Mine()), engine=engine).eval()
    program(analog, 7)
    before = held(analog)
    for matrix in matrices_of(analog).values():
        state = matrix.chip_state()
        matrix.check_chip_state(state, None)
        names = [name for name in state if name.rpartition(".")[2] == "held"]
        assert names
        for name in names:
            rest = {key: value for key, value in state.items() if key != name}
            with pytest.raises(CheckpointError, match="held"):
                matrix.check_chip_state(rest, None)
    assert all(map(torch.equal, held(analog), before))


def test_an_object_is_equal_after_pickling_and_sweeps_in_processes() -> None:
    preset = with_object(Mine())
    assert pickle.loads(pickle.dumps(preset)) == preset
    assert with_object(Mine(sd=0.1)) != preset
    analog = convert(model(), preset).eval()
    alone = sweep(analog, size, times=("1h", "1d"), chips=2, progress=False)
    spread = sweep(analog, size, times=("1h", "1d"), chips=2, progress=False, executor=2)
    assert alone.equals(spread)


def size(analog: nn.Module) -> float:
    return float(held(analog)[0].abs().mean())


@dataclass
class Slotted:
    """Has its contents in slots, and not in a dict of its own."""

    __slots__ = ("sd",)
    sd: float

    program = Mine.program
    read = Mine.read


class Configured(Mine):
    """Holds its number beside a function, which cannot be pickled."""

    def __init__(self, sd: float) -> None:
        super().__init__()
        self.settings = {"sd": [sd], "function": lambda x: x}


class Looped(Configured):
    """Its settings hold themselves, so that they have no end."""

    def __init__(self, sd: float) -> None:
        super().__init__(sd)
        self.settings["all"] = self.settings


class Nested(Configured):
    """Its number lies as deep as contents are looked at: eight groups, the first of them itself."""

    def __init__(self, sd: float) -> None:
        super().__init__(sd)
        for _ in range(7):
            self.settings = {"inner": self.settings, "function": lambda x: x}  # type: ignore[dict-item]


def test_two_presets_differ_by_the_contents_of_their_objects() -> None:
    first, second = with_object(Mine()), with_object(Mine(sd=0.1))
    assert first.diff(with_object(Mine())).empty
    assert list(first.diff(second)["field"]) == ["known_as"]
    assert not any("object at 0x" in str(value) for value in first.explain()["value"])


def test_the_name_of_an_object_is_the_same_in_every_release() -> None:
    """Chip files hold it. It is a digest of pickle's protocol 4, which is written out here."""
    number = b"G" + struct.pack(">d", 0.1) + b"."
    pickled = b"\x80\x04\x95" + struct.pack("<Q", len(number)) + number
    digest = hashlib.sha256(b"sd=" + pickled).hexdigest()[:16]
    assert with_object(Mine(sd=0.1)).pcm.values()["known_as"] == f"{__name__}.Mine {digest}"


@pytest.mark.parametrize("kind", [Slotted, Configured, Looped, Nested])
def test_contents_tell_objects_of_a_class_apart(kind: Any) -> None:
    assert with_object(kind(0.1)) == with_object(kind(0.1))
    assert with_object(kind(0.1)) != with_object(kind(0.2))


def test_another_class_of_the_same_name_is_checked_too() -> None:
    """The cell of a notebook that is run again makes another class of the same name."""

    def run_cell(global_generator: bool) -> object:
        class Cell(Mine):
            def program(self, weights: Tensor, generator: torch.Generator) -> State:
                if global_generator:
                    weights = weights + torch.randn(weights.shape)
                return super().program(weights, generator)

        return Cell()

    program(convert(model(), with_object(run_cell(False))).eval(), 7)
    with pytest.raises(UsageError, match="drew from, or seeded, the generator of torch"):
        program(convert(model(), with_object(run_cell(True))).eval(), 7)


def test_an_object_is_no_plain_data() -> None:
    with pytest.raises(SpecError, match="the device Mine is a Python object, .*: keep the code"):
        with_object(Mine()).to_dict()


def test_training_injects_the_spread_of_the_object_and_of_the_table() -> None:
    """With a scale s, an object's noise is s times its own; a table's is that of its rows."""
    recipe = rasch2023.training["wrn16"].change(why="test", noise_type="pcm", noise_t_s=20.0)
    weight = torch.rand(400, 500) * 2 - 1
    weight[0, 0] = 1.0
    grid = TileGrid((500,), (400,))
    pcm = ideal.with_device(Mine(), name="own", why="test").pcm
    assert isinstance(pcm, OwnDevice)
    noisy = own.noisy(weight, grid, pcm, recipe, 2.0, lambda row, column: stream(1, row, column))
    # programming noise decays with the tile's rate, between 1 and 21^-0.1 = 0.74
    spread = float((noisy - weight).std()) / 2.0
    assert spread**2 * 1.02 > (0.74 * 0.05) ** 2 + 0.01**2 and spread < 1.02 * 0.051
    assert abs(float((noisy * weight).sum() / weight.square().sum()) - 1) < 1e-3
    x = torch.full((200, 1000), 0.5)
    eps = [torch.randn(x.shape) for _ in range(2)]
    spread = float((injected(x, 1.0, TABLE, recipe, 1.0, eps[0], eps[1]) - x).std()) * 25.0
    row = TABLE.targets_us.index(12.5) * len(TABLE.times_s) + TABLE.times_s.index(20.0)
    measured = (TABLE.prog_sd_us[row] ** 2 + TABLE.read_sd_us[row] ** 2) ** 0.5
    assert spread == pytest.approx(measured, rel=0.01)


def broken(**functions: Any) -> object:
    return type("Broken", (Mine,), functions)()


OWN = np.random.default_rng(0)


def seeded(self: Mine, weights: Tensor, generator: torch.Generator) -> State:
    torch.manual_seed(0)
    return State(weights + 0.01 * torch.randn(weights.shape), 0.1)


def from_numpy(self: Mine, weights: Tensor, generator: torch.Generator) -> State:
    return State(weights + torch.from_numpy(np.random.randn(*weights.shape)).float(), 0.1)


def numpy_seeded(self: Mine, weights: Tensor, generator: torch.Generator) -> State:
    np.random.seed(0)
    return from_numpy(self, weights, generator)


@pytest.mark.parametrize(
    ("physics", "message"),
    [
        (broken(read=lambda self, s, t_inference, generator: None), "returned a NoneType"),
        (broken(read=lambda self, s, t_inference, generator: s.weights[:1]), "the same shape"),
        (broken(read=lambda self, s, t_inference, generator: s.weights * torch.nan), "NaN"),
        (broken(read=lambda self, s, t_inference, generator: s.weights + 0j), "torch.complex64"),
        (broken(read=lambda self, s, t_inference, generator: s.weights > 0), "torch.bool"),
        (broken(read=lambda self, s, t_inference, generator: s.weights.to_sparse()), "sparse"),
        (broken(read=lambda self, s, t_inference, generator: s.weights.to("meta")), "on meta"),
        (broken(read=lambda self, s, t_inference, generator: s.weights.double() * 1e300), "NaN or"),
        (broken(read=lambda self, s, t_inference, generator: s.weights[None]), "the same shape"),
        (
            broken(read=lambda self, s, t_inference, generator: s.weights.mul_(0.9)),
            "changed the state that it was given",
        ),
        (broken(program=seeded), "the generator of torch"),
        (broken(program=from_numpy), "the generator of numpy"),
        (broken(program=numpy_seeded), "the generator of numpy"),
        (broken(read=lambda self, s, t_inference, generator: s.weights.int()), "torch.int32"),
        (broken(read=lambda self, s, t_inference, generator: 1 / 0), "ZeroDivisionError"),
        (broken(program=lambda self, weights, generator: "text"), "a str at state"),
        (
            broken(program=lambda self, w, generator: State(w + torch.randn(w.shape), 0.1)),
            "drew from, or seeded, the generator of torch",
        ),
        (
            broken(program=lambda self, w, generator: State(w + OWN.random(), 0.1)),
            "the same weights and the same generator",
        ),
    ],
)
def test_a_broken_object_is_refused_and_leaves_no_chip(physics: object, message: str) -> None:
    analog = convert(model(), with_object(physics)).eval()
    clean = held(analog)
    with pytest.raises(AimcError) as error:
        program(analog, 1)
    assert message in str(error.value)
    assert all(map(torch.equal, held(analog), clean))


@pytest.mark.parametrize("physics", [3, object(), Mine, broken(read=lambda self, state: state)])
def test_what_has_not_the_two_functions_is_refused_at_once(physics: object) -> None:
    with pytest.raises(UsageError, match="allowed: an object with program"):
        rasch2023.with_device(physics, name="own", why="test")


class Doubles(Mine):
    """Works in double precision, changes its input, and returns parameters."""

    def program(self, weights: Tensor, generator: torch.Generator) -> Any:
        kept = weights.double()
        weights.zero_()
        return State(super().program(kept, generator).weights, 0.05)

    def read(self, state: Any, t_inference: float, generator: torch.Generator) -> Any:
        return nn.Parameter(super().read(state, t_inference, generator))


@pytest.mark.parametrize("engine", ENGINES)
def test_readings_in_double_precision_become_those_of_the_model(engine: str) -> None:
    analog = convert(model(), with_object(Doubles()), engine=engine).eval()
    clean = held(analog)
    program(analog, 7)
    drift(analog, "1h")
    for now, before in zip(held(analog), clean, strict=True):
        assert now.dtype == torch.float32 and not now.requires_grad
        assert 0 < float((now - before).abs().max() / before.abs().max()) < 0.8
    report = crosscheck(
        None,
        ideal,
        physics=Doubles(),
        levels="device",
        targets=(0.5,),
        times=("1h",),
        samples=5000,
        progress=False,
    )
    assert len(report.table) > 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("function", ["program", "read"])
def test_what_fails_at_the_last_layer_leaves_no_chip(engine: str, function: str) -> None:
    class Fails(Mine):
        def program(self, weights: Tensor, generator: torch.Generator) -> Any:
            if function == "program" and weights.shape[0] == 4:
                raise RuntimeError("out of range")
            return super().program(weights, generator)

        def read(self, state: Any, t_inference: float, generator: torch.Generator) -> Any:
            now = super().read(state, t_inference, generator)
            return now * torch.nan if function == "read" and now.shape[0] == 4 else now

    preset = ideal.with_device(Fails(), name="fails", why="test")
    analog = convert(model(), preset, engine=engine).eval()
    clean = held(analog)
    with pytest.raises(AimcError, match="Fails"):
        program(analog, 1)
    assert all(map(torch.equal, held(analog), clean))
    with pytest.raises(AimcError, match="program"):
        drift(analog, "1h")


# --- sweeps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["object", "table"])
def test_a_resumed_sweep_is_the_whole_one_and_knows_its_device(device: str, tmp_path: Path) -> None:
    first, other = (
        (Mine(), Mine(sd=0.1))
        if device == "object"
        else (TABLE, TABLE.change(why="test", mean_us=tuple(0.99 * m for m in TABLE.mean_us)))
    )
    many = {"times": ("1h", "1d"), "progress": False}

    def analog(physics: object) -> nn.Module:
        return convert(model(), with_object(physics)).eval()

    whole = sweep(analog(first), size, chips=3, **many)
    file = tmp_path / "sweep.csv"
    sweep(analog(first), size, chips=1, resume=file, **many)
    assert sweep(analog(first), size, chips=3, resume=file, **many).equals(whole)
    with pytest.raises(DataError, match="rows of another sweep"):
        sweep(analog(other), size, chips=3, resume=file, **many)


class Locked(Mine):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def test_what_cannot_travel_to_other_processes_is_refused_before_any_work() -> None:
    asked: list[nn.Module] = []

    def evaluate(analog: nn.Module) -> float:
        asked.append(analog)
        return 0.0

    analog = convert(model(), with_object(Locked())).eval()
    clean = held(analog)
    message = "the device of preset own.* cannot be sent to other processes .TypeError"
    with pytest.raises(UsageError, match=message):
        sweep(analog, evaluate, times="1h", chips=2, executor=2, progress=False)
    assert not asked and all(map(torch.equal, held(analog), clean))
    assert len(sweep(analog, evaluate, times="1h", chips=2, progress=False)) == 2
    lock = threading.Lock()
    plain = convert(model(), with_object(Mine())).eval()
    with pytest.raises(UsageError, match="evaluate cannot be sent"):
        sweep(plain, lambda m: float(lock.locked()), chips=2, executor=2, progress=False)


def test_a_sweep_asks_the_device_for_all_its_times_first() -> None:
    asked: list[float] = []
    analog = convert(model(), ideal.with_device("reram_wan2022", name="r", why="test")).eval()
    with pytest.raises(UsageError, match="1, 86400, 172800 s after programming only"):
        sweep(analog, lambda m: asked.append(1.0) or 1.0, times=("1s", "1h"), progress=False)
    assert not asked


# --- laws -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class WholeTileSpec(DeviceSpec):
    law: ClassVar[str] = "whole tile"
    pairs: ClassVar[bool] = True
    where: str


class WholeTile(Law[WholeTileSpec]):
    """A law whose values depend on the largest of all conductances it is given."""

    read_noise = True

    def sigma_prog_us(self, g_us: Tensor, pcm: WholeTileSpec) -> Tensor:
        return g_us / (g_us.max() if pcm.where == "programmed" else pcm.g_max_us)

    def nu_mean(self, g_us: Tensor, pcm: WholeTileSpec) -> Tensor:
        return 0.1 * (g_us / (g_us.max() if pcm.where == "drift_exponent" else pcm.g_max_us))

    def read_sigma(self, g_prog_us: Tensor, moment: Any, pcm: WholeTileSpec) -> Tensor:
        largest = g_prog_us.max() if pcm.where == "read" else pcm.g_max_us
        return 0.1 * g_prog_us / largest


register(WholeTileSpec, WholeTile())


@pytest.mark.parametrize("netting", [False, True])
@pytest.mark.parametrize("where", ["programmed", "drift_exponent", "read", "nowhere"])
def test_a_law_that_looks_at_other_cells_is_refused(where: str, netting: bool) -> None:
    values = {"g_max_us": 25.0, "t0_s": 1.0, "netting": netting, "where": where}
    pcm = cite(
        WholeTileSpec, **{name: V(value, "choice", "test") for name, value in values.items()}
    )
    torch.manual_seed(3)
    analog = convert(nn.Linear(40, 30), ideal.with_device(pcm, name="w", why="test")).eval()
    clean = held(analog)
    if where == "nowhere":
        program(analog, 1)
        drift(analog, "1h")
        return
    with pytest.raises(UsageError, match=f"{where} of the law 'whole tile' returned other values"):
        program(analog, 1)
        drift(analog, "1h")
    if where != "read":
        assert all(map(torch.equal, held(analog), clean))
