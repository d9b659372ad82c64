"""Device laws are open: a user's own device is a spec and a law, and no other file changes."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from aihwkit.inference import BaseNoiseModel
from torch import Tensor, nn

from aimc_bridge import HWATraining, convert, crosscheck, drift, physics, program, sweep, train
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.aihwkit.noise import LawNoiseModel
from aimc_bridge.equivalence import closed, device_level
from aimc_bridge.errors import CapabilityError, UsageError
from aimc_bridge.physics.drift import age, mean_drift_factor, nu_mean, nu_sd
from aimc_bridge.physics.injection import injected
from aimc_bridge.physics.laws import Law, StatisticalLaw, law_of, names, register, registry
from aimc_bridge.physics.laws.base import Numbers
from aimc_bridge.physics.mapping import levels, quantised
from aimc_bridge.spec import DeviceSpec, PcmSpec, Preset, Table, V, cite
from presets import rasch2023
from tests import stats
from tests.engines.native.test_fused import needs_compiler
from tests.models import DEVICES, ENGINES, linear, mlp, only, random

PACKAGE = Path(physics.__file__).parent.parent
DAY = 86400.0


# --- a device from outside the package ------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelaxingSpec(DeviceSpec):
    """Conductances that relax exponentially, each device at a rate of its own.

    Attributes:
        sigma_us: The standard deviation of programming.
        rate_per_s: Mean and standard deviation of the Gaussian behind the rate.
        read_sd: The relative standard deviation of a reading.
    """

    law: ClassVar[str] = "relaxing"
    pairs: int = 1
    sigma_us: float
    rate_per_s: tuple[float, float]
    read_sd: float


class Relaxing(Law[RelaxingSpec]):
    """The law of such a device."""

    read_noise = True

    def sigma_prog_us(self, g_us: Tensor, pcm: RelaxingSpec) -> Tensor:
        return torch.full_like(g_us, pcm.sigma_us)

    def nu_mean(self, g_us: Tensor, pcm: RelaxingSpec) -> Tensor:
        return torch.full_like(g_us, pcm.rate_per_s[0])

    def nu_sd(self, g_us: Tensor, pcm: RelaxingSpec) -> Tensor:
        return torch.full_like(g_us, pcm.rate_per_s[1])

    def drift_exponent(self, g_us: Tensor, pcm: RelaxingSpec, eps: Tensor) -> Tensor:
        return self.spread_exponent(g_us, pcm, eps)

    def moment(self, t_s: float, pcm: RelaxingSpec) -> tuple[float, ...]:
        return (t_s,)

    def drifted(self, g_us: Tensor, nu: Tensor, moment: Numbers, pcm: RelaxingSpec) -> Tensor:
        return g_us * (-nu * moment[0]).exp()

    def read_sigma(self, g_us: Tensor, moment: Numbers, pcm: RelaxingSpec) -> Tensor:
        return torch.full_like(g_us, pcm.read_sd)


register(RelaxingSpec, Relaxing())


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelaxingCellSpec(RelaxingSpec):
    """The same device in a single cell that holds a signed weight."""

    law: ClassVar[str] = "relaxing cell"
    pairs: int = 0


register(RelaxingCellSpec, Relaxing())


def relaxing(kind: type[RelaxingSpec] = RelaxingSpec, **changes: Any) -> Preset:
    """Return a preset with this device behind an ideal periphery."""
    values = {
        "g_max_us": 25.0,
        "t0_s": 20.0,
        "netting": True,
        "sigma_us": 0.5,
        "rate_per_s": (1e-5, 2e-6),
        "read_sd": 0.03,
        **changes,
    }
    pcm = cite(kind, **{name: V(value, "choice", "test") for name, value in values.items()})
    return dataclasses.replace(DEVICES, name="relaxing", pcm=pcm)


def size(model: nn.Module) -> float:
    return float(torch.stack([m.effective_weight().abs().mean() for m in matrices(model)]).mean())


def matrices(model: nn.Module) -> list[Any]:
    return list(matrices_of(model).values())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [RelaxingSpec, RelaxingCellSpec])
def test_a_device_of_ones_own_runs_everywhere(engine: str, kind: type[RelaxingSpec]) -> None:
    """It runs through convert, program, drift and sweep.

    On aihwkit, it runs through the generic noise model.
    """
    preset = relaxing(kind).change(drift_compensation="none", why="the decay is to be seen")
    x = random(20, 12)
    analog = convert(mlp(), preset, engine=engine).eval()
    program(analog, 1)
    start = size(analog)
    program(analog, 1)
    assert size(analog) == start  # The same seed gives the same chip.
    for t_s in (3600.0, DAY, 2 * DAY):
        drift(analog, t_s)
        assert size(analog) == pytest.approx(start * np.exp(-1e-5 * t_s), rel=0.1)
    table = sweep(
        analog,
        lambda model: float(model(x).detach().abs().mean()),
        ("1h", "2d"),
        chips=3,
        progress=False,
    )
    early, late = table.groupby("t_inference")["value"].mean()
    assert 0.0 < late < 0.6 * early and len(table) == 6


@pytest.mark.parametrize("netting", [True, False])
def test_its_weights_are_the_same_on_both_engines(netting: bool) -> None:
    """Weights as read a day after programming agree by distribution.

    The native engine's chips are compared with aihwkit's tile with the generic noise model.
    """
    preset = relaxing(netting=netting)
    weight = torch.tensor([1.0, -0.5, 0.1])[:, None].expand(-1, 600).contiguous()
    model = preset.rpu_config().noise_model
    assert type(model) is LawNoiseModel and isinstance(model, BaseNoiseModel)
    layer = nn.Linear(600, 3, bias=False)
    tiles = {"max_rows": 600, "weight_scaling": "tile"}
    native = convert(layer, preset.change(**tiles, why="one tile, in tests"))
    only(native).set_clean_weight(weight)
    ours, theirs = [], []
    torch.manual_seed(5)
    for chip in range(300):
        program(native, chip)
        drift(native, DAY)
        ours.append(only(native).effective_weight())
        held, state = model.apply_programming_noise(weight)
        theirs.append(model.apply_drift_noise(held, state, DAY))
    for row, expected in enumerate(weight[:, 0]):
        a, b = (torch.stack(side)[:, row] for side in (ours, theirs))
        stats.assert_same_mean(a.abs(), b.abs(), f"mean size of {expected:g}")
        stats.assert_same_sd(a, b, f"sd of {expected:g}")


def test_its_laws_act_on_a_native_chip() -> None:
    """A layer's programming noise and rates match the device's numbers."""
    preset = relaxing(RelaxingCellSpec, read_sd=0.0)
    preset = preset.change(drift_compensation="none", why="weights as they are")
    analog = convert(linear(500, 400, bias=False), preset).eval()
    matrix = only(analog)
    clean = matrix.normalised_weight().clone()
    program(analog, 3)
    scale = matrix.grid.expand_columns(matrix.column_scale())
    held = matrix.effective_weight() / scale
    stats.assert_sd(held - clean, 0.5 / 25.0)
    drift(analog, DAY)
    rates = -(matrix.effective_weight() / scale / held).log() / DAY
    stats.assert_mean(rates, 1e-5)
    stats.assert_sd(rates, 2e-6)
    first = matrix.effective_weight().clone()
    drift(analog, DAY)
    assert torch.equal(matrix.effective_weight(), first)  # A device keeps its rate.


def test_the_public_functions_ask_it() -> None:
    pcm = relaxing().pcm
    g, eps = torch.linspace(0.0, 25.0, 6), random(4, 6)
    assert law_of(pcm) is law_of(relaxing().pcm) and isinstance(law_of(pcm), Relaxing)
    assert torch.equal(physics.sigma_prog_us(g, pcm), torch.full((6,), 0.5))
    assert torch.equal(physics.programmed(g, pcm, eps), (g + 0.5 * eps).clamp_min(0.0))
    nu = physics.drift_exponent(g, pcm, eps)
    torch.testing.assert_close(nu, (1e-5 + 2e-6 * eps).abs())
    assert torch.equal(physics.drifted(g, nu, DAY, pcm), g * (-nu * DAY).exp())
    assert torch.equal(physics.read_sigma(g, DAY, pcm), torch.full((6,), 0.03))
    torch.testing.assert_close(physics.read(g, g, DAY, pcm, eps), (g * (1 + 0.03 * eps)).relu())
    torch.testing.assert_close(mean_drift_factor(g, DAY, pcm), torch.full((6,), np.exp(-0.864)))
    assert torch.equal(nu_mean(g, pcm), torch.full((6,), 1e-5))
    assert torch.equal(nu_sd(g, pcm), torch.full((6,), 2e-6))
    assert age(40.0, pcm) == 3.0  # This would be the age for a power law, if it had one.


def test_its_noise_is_injected_in_training() -> None:
    """Programming noise is injected, and a reading on top.

    The recipe trains on both engines.
    """
    weight, eps = random(3, 50, seed=4).clamp(-1, 1), random(2, 3, 50, seed=5)
    pcm = relaxing().pcm
    recipe = rasch2023.training["wrn16"]
    noisy = (weight.abs() * 25.0 + 2.0 * 0.5 * eps[0]) / 25.0
    both = noisy + 2.0 * 0.03 * noisy.abs() * eps[1]
    for kind, expected in (("programming", noisy), ("pcm", both)):
        spec = recipe.change(why="test", noise_type=kind)
        got = injected(weight, 1.0, pcm, spec, 2.0, eps[0], eps[1])
        torch.testing.assert_close(got, expected.abs() * weight.sign())
    batches = [(random(8, 12, seed=k), torch.arange(8) % 5) for k in range(3)]
    for engine in ENGINES:
        analog = convert(mlp(), relaxing(), engine=engine)
        before = [m.clean_weight().clone() for m in matrices(analog)]
        train(
            analog,
            batches,
            lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
            recipe=HWATraining.for_(rasch2023, "wrn16").override(epochs=1),
            teacher=mlp(),
            cpu=True,
            progress=False,
        )
        for matrix, old in zip(matrices(analog), before, strict=True):
            assert bool(matrix.clean_weight().isfinite().all())
            assert not torch.equal(matrix.clean_weight(), old)


def test_aihwkits_own_training_refuses_what_its_modifiers_do_not_have() -> None:
    recipe = rasch2023.training["wrn16"].change(why="test", noise_type="programming")
    preset = dataclasses.replace(relaxing(), training=Table({"mine": recipe}))
    with pytest.raises(CapabilityError, match="noise_type='programming'"):
        preset.rpu_config(training="mine")


@needs_compiler
def test_a_law_that_is_not_compiled_is_drawn_without_passes() -> None:
    """A law that cannot be traced is usable all the same.

    `draw_on="compiled"` decides where numbers are drawn, not whether a device can be used; a law
    that says it can be traced gets the passes.
    """
    chips = []
    for compiled in (False, True):
        law = type("Traced", (Relaxing,), {"compiled": compiled})()
        analog = convert(linear(40, 30, bias=False), relaxing()).eval()
        clean = only(analog).clean_weight()
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(registry._LAWS, "relaxing", law)
            program(analog, 1, draw_on="compiled")
            drift(analog, DAY)
        chips.append(only(analog).effective_weight())
        decayed = clean * np.exp(-1e-5 * DAY)
        assert float((chips[-1] - decayed).abs().mean()) < 0.2 * float(decayed.abs().mean())
    assert not torch.equal(*chips)  # A pass draws the two devices of a pair from two streams.


# --- the closed forms of the cross-check ----------------------------------------------------------


class ClosedRelaxing(closed.ClosedLaw):
    """A second version of the formulas."""

    programming_noise = True
    read_noise = True

    def sigma_us(self, x: Any) -> Any:
        return np.full_like(x, self.pcm.sigma_us)

    def exponent_mean(self, x: Any) -> Any:
        return np.full_like(x, self.pcm.rate_per_s[0])

    def exponent_sd(self, x: Any) -> Any:
        return np.full_like(x, self.pcm.rate_per_s[1])

    def decay(self, nu: Any, t_s: float) -> Any:
        return np.exp(-nu * t_s)

    def read_sigma(self, x: Any, t_s: float) -> Any:
        return np.full_like(x, self.pcm.read_sd)


class WrongRelaxing(ClosedRelaxing):
    """Formulas with rates 2 % too large."""

    def exponent_mean(self, x: Any) -> Any:
        return 1.02 * super().exponent_mean(x)


def test_a_closed_form_is_found_by_the_laws_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device level agrees with the right formulas.

    It finds wrong ones.
    """
    monkeypatch.setattr(closed, "_CLOSED", dict(closed._CLOSED))
    for law, different in ((ClosedRelaxing, False), (WrongRelaxing, True)):
        closed.register("relaxing", law)
        table = device_level(relaxing(), (DAY, 3 * DAY), (0.5,), samples=200_000, seed=3).table
        assert set(table["reference"]) == {"closed form"}
        assert bool(table["p_different"].min() < stats.FALSE_ALARM) is different
        if different:
            assert "exponent mean" in set(table[table["verdict"] == "different"]["quantity"])


def test_a_law_without_closed_form_says_so() -> None:
    """The device level is an error without a closed form.

    The levels that need none are compared, with a warning.
    """
    with pytest.raises(CapabilityError, match="'relaxing' has no closed form.*closed.register"):
        device_level(relaxing(), (DAY,), (0.5,), samples=100)
    with pytest.raises(CapabilityError, match="no closed form"):
        crosscheck(None, relaxing(), levels="device", progress=False)
    with pytest.warns(UserWarning, match="'relaxing' has no closed form.*device level"):
        report = crosscheck(
            mlp(), relaxing(), random(20, 12), times=(DAY,), chips=4, layers="0", progress=False
        )
    assert set(report.table["level"]) == {"layer"}
    assert not report.table["quantity"].str.contains("oracle").any()


def test_every_law_of_the_library_has_a_closed_form() -> None:
    library = [
        name for name in names() if type(registry._LAWS[name]).__module__.startswith("aimc_bridge.")
    ]
    library.remove("own")  # an object of the user's, whose formulas are not known
    assert library == [
        *("afm pcm", "hermes", "ideal", "pcm", "reram cmo", "reram wan2022", "scalar"),
        *("signed pcm", "state independent", "table"),
    ]
    assert set(library) <= set(closed._CLOSED)


# --- registration ---------------------------------------------------------------------------------


def named(name: str) -> type[DeviceSpec]:
    return type("NamedSpec", (DeviceSpec,), {"law": name})


def test_a_name_belongs_to_one_law() -> None:
    with pytest.raises(UsageError, match=r"'pcm' of NamedSpec belongs to .*PcmLaw; .*hermes"):
        register(named("pcm"), Relaxing())
    assert type(law_of(rasch2023.pcm)).__name__ == "PcmLaw"


def test_a_class_defined_again_replaces_its_law() -> None:
    """In a notebook a cell is run twice."""
    before = law_of(relaxing().pcm)
    again = Relaxing()
    register(RelaxingSpec, again)
    assert law_of(relaxing().pcm) is again is not before


@pytest.mark.parametrize(
    ("spec", "law", "message"),
    [
        (Preset, Relaxing(), "spec is .*Preset.*; allowed: a subclass of DeviceSpec"),
        (relaxing().pcm, Relaxing(), "allowed: a subclass of DeviceSpec"),
        (named("new"), Relaxing, r"the law of NamedSpec is .*; allowed: an object .*MyLaw\(\)"),
        (named(""), Relaxing(), "NamedSpec names no law; give the class law: ClassVar"),
    ],
)
def test_what_cannot_be_registered(spec: Any, law: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        register(spec, law)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LawlessSpec(RelaxingSpec):
    law: ClassVar[str] = "nobody's"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_device_without_a_law_is_an_error_at_once(engine: str) -> None:
    preset = relaxing(LawlessSpec)
    error = 'no law "nobody\'s" for a LawlessSpec; there are: afm pcm, .*register yours'
    with pytest.raises(UsageError, match=error):
        convert(mlp(), preset, engine=engine)
    with pytest.raises(UsageError, match=error):
        physics.sigma_prog_us(torch.ones(2), preset.pcm)


def test_a_law_must_say_its_noise_and_its_drift() -> None:
    with pytest.raises(TypeError, match="abstract"):
        type("Empty", (Law,), {})()


def test_a_subclass_of_a_device_has_its_law() -> None:
    """It has its own numbers and the law of its parent.

    It has no aihwkit model unless the numbers are aihwkit's.
    """

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class TunedPcmSpec(PcmSpec):
        pass

    fields = {name: V(value, "choice", "test") for name, value in rasch2023.pcm.values().items()}
    tuned = cite(TunedPcmSpec, **fields)
    assert law_of(tuned) is law_of(rasch2023.pcm) and isinstance(law_of(tuned), StatisticalLaw)
    preset = dataclasses.replace(rasch2023, pcm=tuned)
    assert type(preset.rpu_config().noise_model).__name__ == "PCMLikeNoiseModel"


# --- no other code asks which device it is --------------------------------------------------------


def test_no_code_outside_of_the_laws_asks_which_device_it_is() -> None:
    """The library has no `isinstance` on a device.

    It names no concrete device's class either, outside `physics/laws` and `spec`, which defines the
    classes.
    """
    kinds = {kind.__name__ for kind in _below(DeviceSpec) if kind.__module__.startswith("aimc_")}
    # An object of the user's, with functions of its own in place of a law; and the door to tables.
    kinds -= {"OwnDevice", "TableDevice"}
    assert {"PcmSpec", "HermesSpec", "ScalarDriftSpec", "IdealSpec", "StatisticalSpec"} <= kinds
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if PACKAGE / "spec" in path.parents or PACKAGE / "physics" / "laws" in path.parents:
            continue
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            code = ""
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                code = ast.unparse(node)
            if re.match(r"isinstance\((\w+\.)*pcm, (?!OwnDevice)", code):
                wrong.append(f"{path.name}: {code}")
            if isinstance(node, ast.Name | ast.alias):
                name = node.id if isinstance(node, ast.Name) else node.name
                if name in kinds:
                    wrong.append(f"{path.name}: {name}")
    assert not wrong, "\n".join(wrong)


def _below(kind: type[DeviceSpec]) -> list[type[DeviceSpec]]:
    return [each for sub in kind.__subclasses__() for each in (sub, *_below(sub))]


def test_levels() -> None:
    """8 bits have 127 steps to either side: what `quantised` rounds to."""
    assert [levels(bits) for bits in (2, 4, 8)] == [1, 7, 127]
    values = quantised(torch.linspace(-3.0, 3.0, 4001, dtype=torch.float64), 4, 2.0)
    assert len(values.unique()) == 2 * levels(4) + 1
