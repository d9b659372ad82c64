"""What a change of physics costs: errors of single layers, and paired differences over chips."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from aimc_bridge.errors import CapabilityError, UsageError
from aimc_bridge.native.crossbar import Crossbar
from aimc_bridge.native.product import LinearProduct
from aimc_bridge.registry import matrices_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

CONFIDENCE = 0.95
_ROUNDING = 1e-6


class Probe:
    """Inputs of every weight matrix, and what an exact product makes of them.

    Args:    model  a converted model of the native engine.    run  runs it once on real data; all
             products are exact meanwhile, so that the inputs are those of the digital model.
             rows  inputs kept of each matrix, evenly spaced among all: vectors of a linear layer,
             images of a convolution.
    Raises:  CapabilityError (another engine); UsageError where a matrix is never reached.
    """

    def __init__(self, model: nn.Module, run: Callable[[nn.Module], object], rows: int) -> None:
        if rows < 1:
            raise UsageError(f"rows={rows}; allowed: 1 or more")
        self.matrices: dict[str, Crossbar] = {}
        seen: dict[str, list[Tensor]] = {}
        hooks = []
        matrices = matrices_of(model)
        for name, matrix in matrices.items():
            if not isinstance(matrix, Crossbar):
                raise CapabilityError("a probe needs a model of engine='native'")
            self.matrices[name] = matrix
            seen[name] = []
            linear = isinstance(matrix.product, LinearProduct)
            hooks.append(matrix.register_forward_pre_hook(_keep_inputs(seen[name], linear)))
        training = model.training
        model.eval()
        self.inputs: dict[str, Tensor] = {}
        self.exact: dict[str, Tensor] = {}
        try:
            for matrix in matrices.values():
                matrix.observe(_nothing)
            with torch.no_grad():
                run(model)
                for hook in hooks:
                    hook.remove()
                for name, module in self.matrices.items():
                    if not seen[name]:
                        raise UsageError(
                            f"the data never reached layer {name!r}; run data that do, or exclude "
                            "the layer"
                        )
                    self.inputs[name] = _spaced(torch.cat(seen[name]), rows)
                    self.exact[name] = module(self.inputs[name])
        finally:
            for hook in hooks:
                hook.remove()
            for matrix in matrices.values():
                matrix.observe(None)
            model.train(training)

    @torch.no_grad()
    def errors(self) -> dict[str, float]:
        """Relative L2 error of each matrix as its crossbars are now: |y - exact| / |exact|.

        Biases, which are digital, are not in it. An output of zeros has the error of what is there.
        """
        found = {}
        for name, module in self.matrices.items():
            exact = self.exact[name]
            off = torch.linalg.vector_norm(module(self.inputs[name]) - exact)
            size = torch.linalg.vector_norm(exact)
            found[name] = float(off / size) if size > 0 else float(off)
        return found


def _keep_inputs(
    kept: list[Tensor], linear: bool
) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook that keeps what a matrix is given, one input a row."""

    def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        x = given[0].detach()
        kept.append((x.reshape(-1, x.shape[-1]) if linear else x).clone())

    return hook


def _nothing(row: int, column: int, x: Tensor, outputs: object) -> None:
    """An observer: while it is there, products are exact."""


def _spaced(x: Tensor, rows: int) -> Tensor:
    if len(x) <= rows:
        return x
    return x[torch.linspace(0, len(x) - 1, rows).long()].clone()


class Interval(NamedTuple):
    """A mean over chips, its interval, and the two-sided p value of a mean of 0."""

    mean: float
    low: float
    high: float
    p: float


def mean_interval(values: ArrayLike) -> Interval:
    """Student's t interval of the mean at 95 %, chips as units.

    Equal values have an interval of no width; one value has none (NaN).
    Raises:  UsageError for no value, or one that is not finite.
    """
    import numpy as np
    from scipy import stats

    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size == 0 or not np.isfinite(x).all():
        raise UsageError(f"{x.size} values; allowed: one or more finite numbers")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, math.nan, math.nan, math.nan)
    if np.ptp(x) <= 1e-12 * float(np.abs(x).max()):  # equal but for rounding: t would divide by 0
        return Interval(mean, mean, mean, 1.0 if mean == 0.0 else 0.0)
    found = stats.ttest_1samp(x, 0.0)
    interval = found.confidence_interval(CONFIDENCE)
    return Interval(mean, float(interval.low), float(interval.high), float(found.pvalue))


def change(before: ArrayLike, after: ArrayLike) -> Interval:
    """Mean of after - before, paired: value i of both is the same chip's.

    Where all agree to 1e-6 of their size, which is float32's rounding, the change is exactly 0.
    Raises:  UsageError where they are not as many.
    """
    import numpy as np

    a, b = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if a.shape != b.shape:
        raise UsageError(f"{a.size} chips before, {b.size} after; allowed: the same chips")
    if a.size and np.abs(b - a).max() <= _ROUNDING * max(np.abs(a).max(), np.abs(b).max()):
        return mean_interval(np.zeros_like(a))
    return mean_interval(b - a)


def sd_ratio(first: ArrayLike, second: ArrayLike) -> Interval:
    """sd(second) / sd(first) of independent samples: the F interval at 95 %; p of equal ones.

    A second sample without spread has ratio 0; a first one has none to compare with (NaN).
    Raises:  UsageError for fewer than two values.
    """
    import numpy as np
    from scipy import stats

    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.size < 2 or b.size < 2:
        raise UsageError(f"{a.size} and {b.size} values; allowed: two or more of each")
    va, vb = float(a.var(ddof=1)), float(b.var(ddof=1))
    if va == 0.0:
        return Interval(math.nan, math.nan, math.nan, math.nan)
    if np.ptp(b) <= 1e-12 * float(np.abs(b).max()):
        return Interval(0.0, 0.0, 0.0, 0.0)
    law = stats.f(b.size - 1, a.size - 1)
    half = (1 - CONFIDENCE) / 2
    ratio = vb / va
    p = 2 * min(float(law.cdf(ratio)), float(law.sf(ratio)))
    low, high = (math.sqrt(ratio / float(law.ppf(q))) for q in (1 - half, half))
    return Interval(math.sqrt(ratio), low, high, min(1.0, p))


def independent_change(first: ArrayLike, second: ArrayLike) -> Interval:
    """Mean of the second less that of the first, independent samples: Welch's interval at 95 %.

    Raises:  UsageError for fewer than two values.
    """
    import numpy as np
    from scipy import stats

    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.size < 2 or b.size < 2:
        raise UsageError(f"{a.size} and {b.size} values; allowed: two or more of each")
    flat = [np.ptp(x) <= 1e-12 * float(np.abs(x).max()) for x in (a, b)]
    difference = float(b.mean() - a.mean())
    if all(flat):
        return Interval(difference, difference, difference, float(difference == 0.0))
    if flat[0]:  # a known number: the second sample alone is uncertain
        return mean_interval(b - float(a.mean()))
    if flat[1]:
        return mean_interval(float(b.mean()) - a)
    found = stats.ttest_ind(b, a, equal_var=False)
    interval = found.confidence_interval(CONFIDENCE)
    return Interval(difference, float(interval.low), float(interval.high), float(found.pvalue))
