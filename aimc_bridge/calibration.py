"""Input ranges of all tiles, set from data."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge.arguments import choice, iterable, number
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.base import Matrix
from aimc_bridge.errors import CalibrationError, UsageError
from aimc_bridge.modes import modes_kept

METHODS = ("max", "percentile", "std")
OUTLYING = 6.0  # warn if the largest input is more than this times the 99.9 % percentile
_SAMPLE = 2**20  # about so many evenly spaced inputs per tile and batch give a percentile


class _Statistic:
    """Running statistics of the tiles of one matrix, by (row tile, column tile).

    Attributes:
        matrix: The matrix.
        method: As in `calibrate`.
        percentile: As in `calibrate`.
        sd: As in `calibrate`.
        out_percentile: As in `calibrate`.
        values: One tensor per batch that the range is computed from: the largest |x|, a percentile
            of |x|, or the moments (count, sum, sum of squares).
        largest: One percentile of |output| per batch.
        usual: With method "max", one percentile of |x| per batch, which the largest is compared to.
    """

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
        self.largest: dict[tuple[int, int], list[Tensor]] = {}  # percentiles of outputs
        self.usual: dict[tuple[int, int], list[Tensor]] = {}  # percentiles beside the largest

    def see(self, row: int, column: int, x: Tensor, outputs: Callable[[], Tensor]) -> None:
        """Record one batch of inputs of one tile; this is the matrix's observer.

        Args:
            row: Row of the tile.
            column: Column of the tile.
            x: The tile's inputs, in the layer's own units.
            outputs: Returns the tile's exact outputs.

        Raises:
            CalibrationError: If an input is not finite.
        """
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
        """Return the range that the method makes of the values of all batches."""
        if self.method == "max":
            return torch.stack(values).max()
        if self.method == "percentile":
            return torch.stack(values).mean()
        count, total, squares = torch.stack(values).sum(0)
        variance: Tensor = squares / count - (total / count) ** 2
        return variance.clamp_min(0.0).sqrt() * self.sd

    def ranges(self, name: str) -> Tensor:
        """Return the input range of every tile, shape [row tiles, column tiles].

        Args:
            name: Name of the layer, for the error.

        Raises:
            CalibrationError: If no batch reached the layer.
        """
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
        """Return the largest input divided by the percentile, for the worst tile.

        It is 0 if the inputs are mostly zero or the method is not "max".
        """
        ratios = [0.0]
        for tile, percentiles in self.usual.items():
            usual = float(torch.stack(percentiles).mean())
            if usual > 0:
                ratios.append(float(self._range(self.values[tile])) / usual)
        return max(ratios)

    def _needed(self, like: Tensor) -> Tensor:
        """Return the smallest ranges with which the ADC holds the outputs it should hold.

        An output is counted in units of its tile's range. The column tiles of a row share the
        largest of their ranges. Shape [row tiles, column tiles].
        """
        needed = torch.zeros_like(like)
        for (row, column), sizes in self.largest.items():
            largest = float(torch.stack(sizes).mean())
            needed[row, column] = largest / self.matrix.preset.crossbar.out_bound
        if self.matrix.grid.groups == 1:
            needed = needed.amax(1, keepdim=True).expand_as(needed)
        return needed


def _percentile(values: Tensor, percentile: float) -> Tensor:
    """Return a percentile of |values|, from a sample of about `_SAMPLE` of them."""
    sizes = values.abs().flatten()
    sizes = sizes[:: _step(sizes.numel())]
    rank = max(1, round(percentile / 100 * sizes.numel()))
    return sizes.kthvalue(rank).values


def _step(numel: int) -> int:
    """Return the distance between two inputs of the sample.

    It has no common factor with the number of inputs; otherwise the sample would meet the same few
    features, channels or positions over and over.
    """
    step = max(1, numel // _SAMPLE)
    while math.gcd(step, numel) > 1:
        step += 1
    return step


def run_batch(model: nn.Module, batch: Any, device: torch.device) -> Any:
    """Run a model on one batch.

    Args:
        model: The model.
        batch: A tensor, a tuple or list of arguments, or a dict of keyword arguments.
        device: Where tensors of the batch are moved to.

    Returns:
        What the model returns.

    Raises:
        UsageError: If the batch is something else, or not what the model's forward takes.
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
    """Return why the model's forward cannot be called with these arguments.

    None means that it can, or that its signature is not known.
    """
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
    """Set the input range of every tile from data.

    An input range is the largest |x| that a tile's DACs can represent; larger inputs are clipped.
    During the calibration the products are exact and the model is in eval mode; afterwards every
    module has its old mode again.

    Args:
        model: A converted model.
        batches: An iterable of input batches, such as `[inputs]` or `(x for x, _ in loader)`. A
            batch is a tensor, a tuple or list of arguments of the model, or a dict of keyword
            arguments; labels do not belong in it.
        method: How a range follows from the inputs x of a tile: "max" takes the largest |x| over
            all batches. A few outlying inputs, as transformers have them, make it much too large.
            "percentile" takes the percentile of |x| that `percentile` names, in the mean over the
            batches. "std" takes `sd` standard deviations of x over all batches. A convolution of
            the native engine counts each pixel once, of the channels that reach the tile. The
            aihwkit engine counts a pixel in every window, padding included.
        percentile: In per cent, above 0 and at most 100. Used by "percentile", and by the warning
            of "max".
        sd: Number of standard deviations, above 0. Used by "std".
        out_percentile: In per cent, above 0 and at most 100. If the ADC would clip more of a tile's
            outputs than lie above that percentile of their sizes, the tile's input range is raised
            until it does not: a larger range makes all outputs smaller against the ADC's bound.
            None leaves the outputs alone.

    Raises:
        CalibrationError: If there are no batches, a layer is never reached, or inputs are not
            finite.
        UsageError: If the method or a number is not allowed, or the model does not take a batch.
        CapabilityError: If the model is not a converted one.

    Warns:
        UserWarning: If "max" gives a layer a range of more than 6 times the percentile of |x| that
            `percentile` names. Most inputs then get few steps of the DAC.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from aimc_bridge import calibrate, convert
        >>> from presets import rasch2023
        >>> analog = convert(nn.Linear(12, 7), rasch2023)
        >>> calibrate(analog, [torch.randn(64, 12), torch.randn(64, 12)])
        >>> calibrate(analog, [torch.randn(64, 12)], "percentile", percentile=99.5)

    Source: "std" with sd=3 is how aihwkit's InputRangeParameter starts, as in rasch2023. Outputs:
    the aim of its `manage_output_clipping`, reached in one step.
    """
    choice("method", method, METHODS)
    percentile = number("percentile", percentile, above=0, most=100)
    sd = number("sd", sd, above=0)
    if out_percentile is not None:
        out_percentile = number("out_percentile (or None)", out_percentile, above=0, most=100)
    if isinstance(batches, Tensor | Mapping | str):
        raise UsageError(
            f"batches is one {type(batches).__name__}; allowed: an iterable of batches, such as "
            "[inputs] or a loader"
        )
    iterable("batches", batches, "an iterable of batches, such as [inputs] or a loader")
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
    """Warn about layers in which a few large inputs take most of the DACs' ranges."""
    wide = sorted((n for n, ratio in ratios.items() if ratio > OUTLYING), key=lambda n: -ratios[n])
    if wide:
        shown = ", ".join(f"{name} ({ratios[name]:.0f} times)" for name in wide[:4])
        warnings.warn(
            f"the largest inputs of {len(wide)} of {len(ratios)} layers are more than "
            f"{OUTLYING:g} times the {percentile:g} % percentile: {shown}; most inputs get few "
            'steps of the DAC. calibrate(model, batches, "percentile") leaves outliers clipped',
            stacklevel=3,
        )
