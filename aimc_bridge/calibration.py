"""Input ranges of every tile, from data."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.base import Matrix
from aimc_bridge.errors import CalibrationError, UsageError
from aimc_bridge.modes import modes_kept

METHODS = ("max", "percentile", "std")
OUTLYING = 6.0  # a largest input of so many times the 99.9 % percentile is warned of
_SAMPLE = 2**20  # inputs of a tile and batch, about, that a percentile is taken from, evenly spaced


class _Statistic:
    """Running statistics of the tiles of one matrix, `[row tiles, column tiles]`."""

    def __init__(
        self,
        matrix: Matrix,
        method: str,
        percentile: float,
        sd: float,
        out_percentile: float | None,
    ) -> None:
        self.matrix, self.method = matrix, method
        self.percentile, self.sd, self.out_percentile = percentile, sd, out_percentile
        self.values: dict[tuple[int, int], list[Tensor]] = {}
        self.largest: dict[tuple[int, int], list[Tensor]] = {}  # outputs
        self.usual: dict[tuple[int, int], list[Tensor]] = {}  # percentiles beside the largest

    def see(self, row: int, column: int, x: Tensor, outputs: Callable[[], Tensor]) -> None:
        if x.numel() == 0:
            return
        if self.out_percentile is not None and self.matrix.preset.crossbar.adc_bits is not None:
            largest = _percentile(outputs().detach(), self.out_percentile)
            self.largest.setdefault((row, column), []).append(largest)
        if column > 0 and self.matrix.grid.groups == 1:
            return  # the column tiles of a row see the same inputs
        if not bool(torch.isfinite(x).all()):
            raise CalibrationError("calibration data give NaN or infinite inputs to a tile")
        x = x.detach()
        if self.method == "std":
            flat = x.double().flatten()
            moments = torch.stack([flat.new_tensor(flat.numel()), flat.sum(), flat.square().sum()])
            self.values.setdefault((row, column), []).append(moments)
            return
        value = _percentile(x, self.percentile)
        if self.method == "max":
            self.usual.setdefault((row, column), []).append(value)
            value = x.abs().max()
        self.values.setdefault((row, column), []).append(value)

    def _range(self, values: list[Tensor]) -> Tensor:
        if self.method == "max":
            return torch.stack(values).max()
        if self.method == "percentile":
            return torch.stack(values).mean()
        count, total, squares = torch.stack(values).sum(0)
        variance: Tensor = squares / count - (total / count) ** 2
        return variance.clamp_min(0.0).sqrt() * self.sd

    def ranges(self, name: str) -> Tensor:
        grid = self.matrix.grid
        if not self.values:
            raise CalibrationError(
                f"calibration never reached layer {name!r}; pass batches that run through it, "
                "or exclude the layer"
            )
        result = torch.ones(len(grid.rows), len(grid.columns), dtype=torch.float64)
        for row in range(len(grid.rows)):
            for column in range(len(grid.columns)):
                source = column if grid.groups > 1 else 0
                value = float(self._range(self.values[row, source]))
                result[row, column] = value if value > 0 else 1.0  # any range holds only zeros
        return torch.maximum(result, self._needed(result))

    def outlying(self) -> float:
        """The largest input over the percentile, of the tile where that is most; 0 where inputs
        are all alike or mostly zero, or the method is another."""
        ratios = [0.0]
        for tile, percentiles in self.usual.items():
            usual = float(torch.stack(percentiles).mean())
            if usual > 0:
                ratios.append(float(self._range(self.values[tile])) / usual)
        return max(ratios)

    def _needed(self, like: Tensor) -> Tensor:
        """The ranges from which on the ADC holds the outputs that it is to hold: an output is
        counted in units of its range. The column tiles of a row share the largest."""
        needed = torch.zeros_like(like)
        for (row, column), sizes in self.largest.items():
            largest = float(torch.stack(sizes).mean())
            needed[row, column] = largest / self.matrix.preset.crossbar.out_bound
        if self.matrix.grid.groups == 1:
            needed = needed.amax(1, keepdim=True).expand_as(needed)
        return needed


def _percentile(values: Tensor, percentile: float) -> Tensor:
    sizes = values.abs().flatten()
    sizes = sizes[:: _step(sizes.numel())]
    rank = max(1, round(percentile / 100 * sizes.numel()))
    return sizes.kthvalue(rank).values


def _step(numel: int) -> int:
    """From one input of the sample to the next: without a factor that the number of inputs has, or
    it would meet the same few features, channels or positions over and over."""
    step = max(1, numel // _SAMPLE)
    while math.gcd(step, numel) > 1:
        step += 1
    return step


def run_batch(model: nn.Module, batch: Any, device: torch.device) -> Any:
    """`model` on one batch: a tensor, a sequence of arguments, or a dict of keyword arguments.

    Raises:  UsageError where it is something else, or not what the model's forward takes.
    """
    args: list[Any] = []
    named: dict[str, Any] = {}
    if isinstance(batch, Tensor):
        args = [batch.to(device)]
    elif isinstance(batch, Mapping):
        named = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    elif isinstance(batch, list | tuple):
        args = [v.to(device) if isinstance(v, Tensor) else v for v in batch]
    else:
        raise UsageError(
            f"a batch is a {type(batch).__name__}; allowed: a tensor, a tuple of arguments, "
            "or a dict of keyword arguments"
        )
    try:
        return model(*args, **named)
    except TypeError as cause:
        problem = _does_not_fit(model, args, named)
        if problem is None:
            raise
        raise UsageError(
            f"a batch is a {type(batch).__name__} that {type(model).__name__}.forward does not "
            f"take ({problem}); a tuple or list is taken as its arguments, a dict as its keyword "
            "arguments: leave labels out, as in (x for x, _ in loader)"
        ) from cause


def _does_not_fit(model: nn.Module, args: list[Any], named: dict[str, Any]) -> str | None:
    """Why the model's forward cannot be called so; None where it can, or does not tell."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*args, **named)
    except TypeError as problem:
        return str(problem)
    return None


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    method: str = "max",
    *,
    percentile: float = 99.9,
    sd: float = 3.0,
    out_percentile: float | None = None,
) -> None:
    """Set the input range of every tile from data. The products are exact meanwhile.

    Args:    model  a converted model.    batches  inputs: tensors, tuples of arguments, or dicts of
             keyword arguments.    method  "max": largest |x|, which a few outlying inputs, as
             transformers have them, make much too large; "percentile": mean over the batches of
             that percentile of |x|; "std": `sd` standard deviations over all batches. A convolution
             of the native engine counts each pixel once, of the channels that reach a tile; the
             aihwkit engine counts it in every window, padding included. Where "max" gives a layer
             a range of more than 6 times that percentile, a warning says so.
             out_percentile  where the ADC would clip more of a tile's outputs than is left over
             that percentile of their sizes, the range is raised until it does not (a larger range
             makes all outputs smaller against the ADC's bound). None leaves outputs alone.
    Raises:  CalibrationError where there are no batches, a layer is never reached or values are not
             finite; UsageError for an unknown method, or a batch that the model does not take.
    Source:  method "std" with 3: aihwkit InputRangeParameter, as rasch2023 starts; outputs: the
             aim of its `manage_output_clipping`, in one step.
    """
    if method not in METHODS:
        raise UsageError(f"method {method!r}; allowed: {', '.join(METHODS)}")
    if not 0 < percentile <= 100 or not sd > 0:
        raise UsageError(
            f"percentile={percentile}, sd={sd}; allowed: 0 < percentile <= 100, sd > 0"
        )
    if out_percentile is not None and not 0 < out_percentile <= 100:
        raise UsageError(f"out_percentile={out_percentile}; allowed: 0 < it <= 100, or None")
    if isinstance(batches, Tensor | Mapping | str):
        raise UsageError(
            f"batches is one {type(batches).__name__}; allowed: an iterable of batches, such as "
            "[inputs] or a loader"
        )
    matrices = matrices_of(model)
    statistics = {
        n: _Statistic(m, method, percentile, sd, out_percentile) for n, m in matrices.items()
    }
    device = next(model.parameters()).device
    count = 0
    with modes_kept(model), torch.no_grad():
        model.eval()
        try:
            for name, matrix in matrices.items():
                matrix.observe(statistics[name].see)
            for batch in batches:
                run_batch(model, batch, device)
                count += 1
        finally:
            for matrix in matrices.values():
                matrix.observe(None)
    if count == 0:
        raise CalibrationError("calibrate got no batches; pass at least one")
    ranges = {name: statistics[name].ranges(name) for name in matrices}
    for name, matrix in matrices.items():
        matrix.set_input_ranges(ranges[name])
    _warn({name: statistic.outlying() for name, statistic in statistics.items()}, percentile)


def _warn(ratios: dict[str, float], percentile: float) -> None:
    """Say where a few large inputs take most of the DACs' ranges."""
    wide = sorted((n for n, ratio in ratios.items() if ratio > OUTLYING), key=lambda n: -ratios[n])
    if wide:
        shown = ", ".join(f"{name} ({ratios[name]:.0f} times)" for name in wide[:4])
        warnings.warn(
            f"the largest inputs of {len(wide)} of {len(ratios)} layers are more than "
            f"{OUTLYING:g} times the {percentile:g} % percentile: {shown}; most inputs get few "
            'steps of the DAC. calibrate(model, batches, "percentile") leaves outliers clipped',
            stacklevel=3,
        )
