"""The native engine against aihwkit-lightning, layer by layer, in what both of them model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from aimc_bridge.equivalence import lightning_side, plan
from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.device import Samples
from aimc_bridge.equivalence.layer import compare_outputs
from aimc_bridge.equivalence.lightning_side import LIGHTNING, LightningLayer
from aimc_bridge.equivalence.measuring import (
    NATIVE,
    ChipStatistics,
    Sampling,
    noisy,
    product_statistics,
    sampled_inputs,
    sampled_outputs,
)
from aimc_bridge.equivalence.periphery import off_ties, unfolded
from aimc_bridge.equivalence.plan import Cost
from aimc_bridge.equivalence.report import Findings, Report, Row
from aimc_bridge.equivalence.statistics import exact_test, share_test
from aimc_bridge.equivalence.task import TaskModel
from aimc_bridge.errors import CapabilityError
from aimc_bridge.physics.mapping import levels
from aimc_bridge.rng import alone, derive
from aimc_bridge.spec import Preset, TrainingSpec
from aimc_bridge.training import HWATraining, noisy_weight

if TYPE_CHECKING:
    import pandas as pd

# Margins. They are stated here, and printed beside every result.
EXACT = 1e-5  # a share of the largest output
STEPS_OFF = 1e-4  # a share of outputs that are off by one ADC step
CLIPPED = 0.005  # a share of outputs, with an ADC that clips `DRIVEN_TO` of them
GRADIENT = 0.02  # a share of the gradient: its relative L2 distance
RANGE = 0.01  # a share of the input range

DRIVEN_TO, INSIDE = 0.05, 0.95  # outputs beyond a narrow ADC; inputs inside a narrow range
WEIGHT_SD = 0.05  # of the injected noise, in units of the largest weight
EXACT_OUTPUTS, EXACT_DRAWS = 200_000, 160
DRAWS = 192  # at least so many of each side; they cost little
STARTS, STEPS = 3, 10  # batches that start a range; steps that learn it


DEFINED = f"{LIGHTNING}, defined otherwise"
"""The reference of rows that may differ although both sides do what they promise."""
_OF_NOISE = (
    "MVM error",
    "output mean",
    "output sd",
    "output variance by output",
    "read sd",
    "read variance by output",
)
_BEHIND_ADC = "gradient of inputs inside, ADC on"
_OF_RANGES = ("input range, from data", "gradient of input ranges", "input range, learned")


@dataclass(frozen=True)
class AgainstLightning:
    """The native engine and aihwkit-lightning, both under `preset`; a `Comparison`.

    aihwkit-lightning has no chips. The sampling unit is one draw of the noise, and no time applies.
    """

    preset: Preset

    names = (NATIVE, LIGHTNING)
    levels = ("layer",)
    reference = LIGHTNING

    @property
    def presets(self) -> tuple[Preset, ...]:
        """The preset."""
        return (self.preset,)

    @cached_property
    def common(self) -> Preset:
        """The preset without what aihwkit-lightning does not have."""
        off = {name: _absent(self.preset)[name] for name in self.left_out}
        return self.preset.change(why="cross-check", drift_compensation="none", **off)

    @property
    def left_out(self) -> list[str]:
        """The effects of the preset's crossbar that aihwkit-lightning does not have."""
        off, crossbar = _absent(self.preset), self.preset.crossbar
        return [name for name, value in off.items() if getattr(crossbar, name) != value]

    @cached_property
    def _quiet(self) -> Preset:
        """The common preset without output noise."""
        return self.common.change(why="cross-check", out_noise=0.0)

    def device_reference(self) -> str:
        """Return "lightning"; it has no devices, and there is no such level."""
        return LIGHTNING

    def identity(self) -> dict[str, Any]:
        """Return the preset and the version of aihwkit-lightning as plain data."""
        return {
            "preset": self.preset.identity(),
            "reference": [LIGHTNING, version("aihwkit-lightning")],
        }

    def check(self, device: torch.device, dtype: torch.dtype) -> None:
        """Check that aihwkit-lightning can run the preset.

        Raises:
            CapabilityError: If it cannot.
            VersionError: If it cannot be used here.
        """
        lightning_side.check(self.preset)

    def samples_at(self, x: float, samples: int) -> int:
        """Return the samples at a target, of which there is none."""
        return samples

    def draw(
        self, side: int, x: float, times: Sequence[float], samples: int, seed: int
    ) -> Iterator[Samples]:
        """Raise CapabilityError: aihwkit-lightning has no devices."""
        _refuse("device")

    def measure(
        self, side: int, layer: Layer, sampling: Sampling, advance: Callable[[], None]
    ) -> ChipStatistics:
        """Measure draws of the noise that products have in training mode, without weight noise."""
        return self._measured(side, layer, sampling, self.common, 0.0, advance)

    def compare_layer(
        self,
        findings: Findings,
        layer: Layer,
        sampling: Sampling,
        first: ChipStatistics,
        second: ChipStatistics,
    ) -> None:
        """Compare outputs, injected weight noise, converters by themselves, and what learns."""
        _outputs(findings, layer, "", first, second, noisy(self.common))
        if noisy(self.common) and len(layer.grid.rows) > 1:
            # it divides the noise of a slice by the root of the number of slices
            _defined_otherwise(findings, _OF_NOISE)
        if self.preset.crossbar.weight_scaling == "layer" and layer.grid.tiles > 1:
            # it takes the largest weight of each slice, not of the layer
            _defined_otherwise(findings, _OF_NOISE)
        quiet = self._quiet
        a, b = (
            self._measured(side, layer, sampling, quiet, WEIGHT_SD, lambda: None) for side in (0, 1)
        )
        _outputs(findings, layer, "weight noise: ", a, b, noise=False)
        _exactly(findings, layer, quiet, sampling)
        _clipping(findings, layer, quiet, sampling)
        if quiet.crossbar.input_range != "none":
            _started(findings, layer, quiet, sampling)
            smooth = quiet.change(why="cross-check", adc_bits=None)
            _learned(findings, layer, smooth, sampling)
            if quiet.crossbar.adc_bits is not None:
                behind = Findings()
                _learned(behind, layer, quiet, sampling)
                findings.rows += [
                    dataclasses.replace(row, quantity=_BEHIND_ADC)
                    for row in behind.rows
                    if row.quantity == "gradient of inputs inside"
                ]
            # There, an input that the range clips gets no gradient, and an output on the last step
            # of the ADC does not count as clipped.
            _defined_otherwise(findings, ("gradient of clipped inputs", _BEHIND_ADC))
            if layer.kind == "convolution" or len(layer.grid.columns) > 1:
                # it looks at patches, and has one range per row of tiles
                _defined_otherwise(findings, _OF_RANGES)

    def _measured(
        self,
        side: int,
        layer: Layer,
        sampling: Sampling,
        preset: Preset,
        weight_noise: float,
        advance: Callable[[], None],
    ) -> ChipStatistics:
        """Measure draws of the noise on one side, of products or of weights."""
        x = sampled_inputs(layer, sampling)
        exact = layer.module(x)
        places = sampled_outputs(layer, exact, sampling.seed)
        reads = sampling.reads if noisy(preset) else 1
        native = sampling.layer_on(layer, preset)
        lightning = LightningLayer(layer, preset.crossbar, layer.ranges, weight_noise=weight_noise)
        spec = _recipe(preset, gaussian_sd=WEIGHT_SD)
        statistics = ChipStatistics()
        with alone(), torch.random.fork_rng(devices=[]), torch.no_grad():
            for draw in range(sampling.chips):
                names = ("crosscheck", self.names[side], layer.name, weight_noise > 0, draw)
                torch.manual_seed(derive(sampling.seed, *names))
                if side == 1:
                    products = [lightning.output(x) for _ in range(reads)]
                else:
                    matrix = native.matrix()
                    if weight_noise > 0:
                        matrix.inject(noisy_weight(matrix, spec, 1.0, sampling.seed, names))
                    products = [native.output(x) for _ in range(reads)]
                    matrix.inject(None)
                values = product_statistics(torch.stack(products), exact, places)
                for name, value in values.items():
                    statistics.add(name, [value])
                advance()
        return statistics

    def chips_needed(self, layer: Layer, sampling: Sampling) -> int | None:
        """Return the draws that a pilot of the native engine finds to be needed."""
        pilot = dataclasses.replace(sampling, chips=plan.PILOT, seed=derive(sampling.seed, "pilot"))
        wanted = [float(DRAWS)]
        for weight_noise in (0.0, WEIGHT_SD):
            preset = self._quiet if weight_noise > 0 else self.common
            measured = self._measured(0, layer, pilot, preset, weight_noise, lambda: None)
            wanted += plan.means_need(measured, noisy(preset))
        return min(math.ceil(max(wanted)), plan.MOST_CHIPS)

    def layer_cost(self, layer: Layer, sampling: Sampling) -> Cost | None:
        """Return None: a few draws tell."""
        return None

    def task_models(
        self,
        digital: nn.Module,
        native: Sequence[nn.Module],
        exclude: Any,
        native_engine: str,
        device: str,
    ) -> tuple[TaskModel, TaskModel]:
        """Raise CapabilityError: without chips there is no task level."""
        _refuse("task")

    def causes(self) -> pd.DataFrame | None:
        """Return None: the preset is the same."""
        return None

    def notes(self, table: pd.DataFrame) -> list[str]:
        """Return what was left out, and why rows differ that do so by definition."""
        lines = [
            f"reference: aihwkit-lightning {version('aihwkit-lightning')} in training mode, the "
            "only one in which it has noise; the sampling unit is a draw of the noise"
        ]
        absent = ", ".join([*self.left_out, "chips"])
        lines.append(f"not in aihwkit-lightning, and off on both sides: {absent}")
        count = int(((table["verdict"] == "different") & (table["reference"] == DEFINED)).sum())
        if count:
            lines.append(
                f"{count} different rows are of quantities that aihwkit-lightning defines in "
                f"another way (reference: {DEFINED}); docs/lightning.md explains them"
            )
        return lines


def _absent(preset: Preset) -> dict[str, Any]:
    """Return the fields of a crossbar that aihwkit-lightning lacks, with their values for off."""
    return {"w_noise": 0.0, "ir_drop": 0.0, **preset.crossbar.optional()}


def without_definitions(report: Report) -> Report:
    """Return a report without the rows that aihwkit-lightning defines in another way.

    Args:
        report: The report of a comparison with aihwkit-lightning.
    """
    defined = report.table["reference"] == DEFINED
    return dataclasses.replace(report, table=report.table[~defined].reset_index(drop=True))


def _refuse(level: str) -> NoReturn:
    raise CapabilityError(
        f"aihwkit-lightning has no {level} level: it has neither devices nor chips; allowed: "
        "levels='layer'"
    )


def _outputs(
    findings: Findings,
    layer: Layer,
    prefix: str,
    first: ChipStatistics,
    second: ChipStatistics,
    noise: bool,
) -> None:
    """Compare outputs with the statistics of chips."""
    found = Findings()
    compare_outputs(found, layer, (math.nan,), first, second, noise=noise, reference=LIGHTNING)
    findings.rows += [
        dataclasses.replace(row, quantity=f"{prefix}{row.quantity}") for row in found.rows
    ]


def _defined_otherwise(findings: Findings, quantities: Sequence[str]) -> None:
    """Mark rows of some quantities, which aihwkit-lightning defines in another way."""
    findings.rows = [
        dataclasses.replace(row, reference=DEFINED) if row.quantity in quantities else row
        for row in findings.rows
    ]


def _add(
    findings: Findings, layer: Layer, quantity: str, first: float, second: float, margin: float
) -> None:
    """Add a row of two numbers that have no chance in them."""
    test = exact_test(first, second, margin)
    findings.rows.append(Row("layer", layer.name, quantity, math.nan, test, LIGHTNING))


def _recipe(preset: Preset, **values: Any) -> TrainingSpec:
    """Return a recipe with Gaussian noise alone, and learned ranges."""
    recipe = HWATraining.for_(preset).override(
        noise_type="gaussian",
        noise_scale=1.0,
        drop_connect=0.0,
        faults="none",
        learn_input_ranges=True,
        input_range_start="calibrated",
        **values,
    )
    return recipe.spec


def _draws(
    layer: Layer, preset: Preset, x: Tensor, sampling: Sampling
) -> Iterator[tuple[Tensor, ...]]:
    """Yield outputs of both sides that hold the same noisy weights, and the ADC's step.

    The weights are drawn again, so that a small layer has enough outputs too.
    """
    native = sampling.layer_on(layer, preset)
    lightning = LightningLayer(layer, preset.crossbar, layer.ranges)
    matrix, spec = native.matrix(), _recipe(preset, gaussian_sd=WEIGHT_SD)
    clean = matrix.clean_weight().clone()
    draws = min(EXACT_DRAWS, -(-EXACT_OUTPUTS // (layer.module(x[:1]).numel() * len(x))))
    scale = matrix.grid.expand_columns(matrix.column_scale()).clone()
    for draw in range(draws):
        matrix.set_clean_weight(clean)
        names = ("crosscheck", "same", layer.name, draw)
        weight = noisy_weight(matrix, spec, 1.0, sampling.seed, names) * scale
        matrix.set_clean_weight(weight)
        lightning.hold(weight.cpu())
        y, z = native.output(x).double(), lightning.output(x).double()
        unit = matrix.column_scale()
        ranges = matrix.input_ranges()
        if ranges is not None:
            unit = unit * matrix.grid.expand_tiles(ranges)
        unit = unit.amax(0).cpu().double()
        yield y, z, unit.view(-1, *[1] * (y.ndim - 2)) if layer.kind == "convolution" else unit


@torch.no_grad()
def _exactly(findings: Findings, layer: Layer, preset: Preset, sampling: Sampling) -> None:
    """Compare outputs without noise, with and without the ADC, on the same weights."""
    x = off_ties(layer.inputs, layer.ranges, preset.crossbar.dac_bits)
    worst = 0.0
    smooth = preset.change(why="cross-check", adc_bits=None)
    for number, (y, z, _) in enumerate(_draws(layer, smooth, x, sampling)):
        worst = max(worst, float((y - z).abs().max() / z.abs().max().clamp_min(1e-30)))
        if number == 3:
            break
    _add(findings, layer, "outputs, ADC off", worst, 0.0, EXACT)
    bits = preset.crossbar.adc_bits
    if bits is None:
        return
    off, total, far = 0, 0, 0
    step = preset.crossbar.out_bound / levels(bits)
    for y, z, unit in _draws(layer, preset, x, sampling):
        steps = ((y - z).abs() / (unit * step)).flatten()
        off, far = off + int((steps > 0.01).sum()), far + int((steps > 1.01).sum())
        total += steps.numel()
    test = share_test(off, total, STEPS_OFF)
    findings.rows.append(
        Row("layer", layer.name, "outputs off by an ADC step", math.nan, test, LIGHTNING)
    )
    _add(findings, layer, "outputs off by more", float(far), 0.0, 0.5)


@torch.no_grad()
def _clipping(findings: Findings, layer: Layer, preset: Preset, sampling: Sampling) -> None:
    """Compare the outputs of an ADC that is so narrow that it clips some of them."""
    if preset.crossbar.adc_bits is None:
        return
    x = layer.inputs
    smooth = preset.change(why="cross-check", adc_bits=None)
    y, _, unit = next(_draws(layer, smooth, x[:1024], sampling))
    bound = float((y.abs() / unit).flatten()[:1_000_000].quantile(1 - DRIVEN_TO)) or 1.0
    narrow = preset.change(why="cross-check", out_bound=bound)
    y, z, _ = next(_draws(layer, narrow, x, sampling))
    largest = z.abs().max().clamp_min(1e-30)
    changed = ((y - z).abs() > 1e-3 * largest).double().mean()
    _add(findings, layer, "outputs, narrow ADC", float(changed), 0.0, CLIPPED)


def _started(findings: Findings, layer: Layer, preset: Preset, sampling: Sampling) -> None:
    """Compare input ranges that start from data."""
    spec = dataclasses.replace(_recipe(preset), input_range_start="data")
    native = sampling.layer_on(layer, preset)
    lightning = LightningLayer(layer, preset.crossbar, None, spec)
    matrix = native.matrix()
    native.model.train()
    matrix.prepare_training(spec)
    with torch.no_grad():
        for batch in layer.inputs.chunk(STARTS):
            native.output(batch)
            lightning.output(batch)
    ranges = matrix.input_ranges()
    assert ranges is not None
    _worst_range(findings, layer, "input range, from data", ranges, lightning)


def _worst_range(
    findings: Findings, layer: Layer, name: str, ranges: Tensor, lightning: LightningLayer
) -> None:
    """Compare the range of the row tile that is furthest off, relative to its range."""
    first = ranges.detach().cpu().double().mean(1)
    second = lightning.module.input_range.detach().double()
    worst = int(((first - second) / second).abs().argmax())
    margin = RANGE * abs(float(second[worst]))
    _add(findings, layer, name, float(first[worst]), float(second[worst]), margin)


def _learned(findings: Findings, layer: Layer, preset: Preset, sampling: Sampling) -> None:
    """Compare gradients behind narrow input ranges, and the ranges after some steps."""
    spec = _recipe(preset, input_range_init_batches=0)
    x = sampled_inputs(layer, sampling)
    rows = unfolded(layer, x)
    parts = rows.split(list(layer.grid.rows), 1)
    narrow = torch.stack([p.abs().flatten()[:1_000_000].quantile(INSIDE) for p in parts])
    if not bool((narrow > 0).all()):
        return  # hardly any input reaches a tile
    ranges = narrow.unsqueeze(1).expand(-1, len(layer.grid.columns)).contiguous()
    native = sampling.layer_on(layer, preset)
    lightning = LightningLayer(layer, preset.crossbar, ranges, spec)
    matrix = native.matrix()
    matrix.set_input_ranges(ranges.to(native.device))
    matrix.prepare_training(spec)
    native.model.train()
    weights, (learned,) = matrix.weight_parameters(), matrix.periphery()["input_range"]
    for weight in (*weights, lightning.module.weight):
        weight.requires_grad_(True)
    y = layer.module(x)
    draws = torch.Generator().manual_seed(derive(sampling.seed, "crosscheck", layer.name, "grad"))
    wanted = torch.randn(y.shape, generator=draws) / y.numel()
    inputs = [x.clone().requires_grad_(True) for _ in range(2)]
    (native.model(inputs[0].to(native.device)) * wanted.to(native.device)).sum().backward()
    (lightning.output(inputs[1]) * wanted).sum().backward()
    a, b = (each.grad for each in inputs)
    assert a is not None and b is not None and learned.grad is not None
    limit = ranges.amax(1).repeat_interleave(torch.tensor(layer.grid.rows))
    if layer.kind == "convolution":  # a pixel is in several patches, of several tiles
        clipped = x.abs() >= limit.min()
        inside = x.abs() < limit.min()
    else:
        clipped, inside = x.abs() > limit, x.abs() < limit
    for name, chosen in (("inputs inside", inside), ("clipped inputs", clipped)):
        _gradient(findings, layer, f"gradient of {name}", a[chosen], b[chosen])
    gradient = weights[0].grad
    assert gradient is not None
    _gradient(findings, layer, "gradient of weights", gradient, lightning.module.weight.grad)
    slope = learned.grad.sum(1)
    _gradient(findings, layer, "gradient of input ranges", slope, lightning.module.input_range.grad)
    rate = 0.02 * float(narrow.mean()) / max(float(slope.abs().mean()), 1e-30)
    for _ in range(STEPS):
        for each in (learned, lightning.module.input_range):
            assert each.grad is not None
            with torch.no_grad():
                each -= rate * each.grad
            each.grad = None
        (native.model(x.to(native.device)) * wanted.to(native.device)).sum().backward()
        (lightning.output(x) * wanted).sum().backward()
    _worst_range(findings, layer, "input range, learned", learned, lightning)


def _gradient(findings: Findings, layer: Layer, name: str, first: Tensor, second: Tensor) -> None:
    """Compare two gradients by their relative L2 distance."""
    a, b = first.detach().cpu().double().flatten(), second.detach().double().flatten()
    size = max(float(a.norm()), float(b.norm()), 1e-30)
    _add(findings, layer, name, 0.0, float((a - b).norm()) / size, GRADIENT)
