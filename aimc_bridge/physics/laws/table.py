"""The law of a device that is a table of measurements."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aimc_bridge.errors import UsageError
from aimc_bridge.physics.laws.base import Law, Numbers
from aimc_bridge.physics.laws.registry import register
from aimc_bridge.spec import TableDevice, TrainingSpec

Array = NDArray[np.float64]

_STEPS = 256
"""Straight pieces per interval between two targets, which follow PCHIP's curve and the cut at 0.

With 16, readings of a table of three targets with large spreads were up to 1 % of g_max off."""

_CELLS = 8192
"""Equal parts of the targets from 0 to the largest."""

_PIECE = 32768
"""Cells that each thread works on at a time."""

_LARGEST_RATIO = 1.45
"""Largest sd over mean of readings; at 1.46 the Gaussian before the cut has the mean 0."""


class TableLaw(Law[TableDevice]):
    """The law "table": means and standard deviations as measured, see `TableDevice`.

    A device has a programmed conductance and two numbers that reading needs: its target and a
    standard normal number, which decides how it drifts. They lie in front of the chips, in a tensor
    of shape (2, *chips, *cells), where other laws have exponents.

    The programmed conductance is that of the first time of the table. Later it is

        (A + B g_prog) exp(s z - s^2 / 2),

    and as read max(0, g (1 + sigma eps)), with A, B, s and sigma of the target and the time.
    """

    read_noise: ClassVar[bool] = True
    tabulated: ClassVar[bool] = True

    # --- programming ---

    def sigma_prog_us(self, g_us: Tensor, pcm: TableDevice) -> Tensor:
        """Return the standard deviation between devices at the first time of the table."""
        return _at(g_us, _curves(_programming(pcm)[1], g_us))[0]

    def programmed(self, g_us: Tensor, pcm: TableDevice, eps: Tensor) -> Tensor:
        """Return max(0, mu + sigma eps), with the table's mean and standard deviation."""
        curves = _curves(_programming(pcm)[0], g_us)
        if eps.shape != g_us.shape:  # several chips have the same targets
            mu, sigma = _at(g_us, curves)
            return (mu + sigma * eps).clamp_min_(0.0)

        def piece(g: Tensor, noise: Tensor) -> Tensor:
            mu, sigma = _at(g, curves)
            return sigma.mul_(noise).add_(mu).clamp_min_(0.0)

        return _in_pieces(piece, g_us, eps)

    # --- drift ---

    def nu_mean(self, g_us: Tensor, pcm: TableDevice) -> Tensor:
        """Return 0, the mean of the number that decides how a device drifts."""
        return torch.zeros_like(g_us)

    def nu_sd(self, g_us: Tensor, pcm: TableDevice) -> Tensor:
        """Return 1, the standard deviation of that number."""
        return torch.ones_like(g_us)

    def drift_exponent(self, g_us: Tensor, pcm: TableDevice, eps: Tensor) -> Tensor:
        """Return the target and the number of each device, shape (2, *chips, *cells)."""
        return torch.stack((g_us.expand_as(eps), eps))

    def moment(self, t_s: float, pcm: TableDevice) -> tuple[Any, ...]:
        """Return the curves over the target at a time.

        Raises:
            UsageError: If the time is outside of the table, and this is not allowed.
        """
        return _reading(pcm, t_s)

    def drifted(self, g_prog_us: Tensor, nu: Tensor, moment: Numbers, pcm: TableDevice) -> Tensor:
        """Return (A + B g_prog) exp(s z - s^2 / 2)."""
        target, z = nu
        a, b, s = _at(target, _curves(moment[0], target, 3))
        own: Tensor = (s * (z - 0.5 * s)).exp_()
        return own.mul_(a + b * g_prog_us)

    def mean_drift_factor(self, g_us: Tensor, moment: Numbers, pcm: TableDevice) -> Tensor:
        """Return the mean at this time over the mean at the first time."""
        return _at(g_us, _curves(moment[1], g_us))[2]

    # --- reading ---

    def read_basis(self, g_prog_us: Tensor, nu: Tensor) -> Tensor:
        """Return the target."""
        target: Tensor = nu[0]
        return target

    def read_sigma(self, g_prog_us: Tensor, moment: Numbers, pcm: TableDevice) -> Tensor:
        """Return sigma of a target; the argument `g_prog_us` is the target."""
        return _at(g_prog_us, _curves(moment[0], g_prog_us))[3]

    def read_after_drift(
        self, g_prog_us: Tensor, nu: Tensor, moment: Numbers, pcm: TableDevice, eps: Tensor
    ) -> Tensor:
        """Return `drifted`, then `read`: the same numbers, piece by piece."""
        curves = _curves(moment[0], g_prog_us)

        def piece(g: Tensor, target: Tensor, z: Tensor, fresh: Tensor) -> Tensor:
            a, b, s, sigma = _at(target, curves)
            now = s.mul_(torch.sub(z, s, alpha=0.5)).exp_().mul_(b.mul_(g).add_(a))
            return sigma.mul_(now).mul_(fresh).add_(now).clamp_min_(0.0)

        target, z = (number.expand_as(eps) for number in nu)
        return _in_pieces(piece, g_prog_us.expand_as(eps), target, z, eps)

    # --- training ---

    def injected(
        self,
        g_us: Tensor,
        pcm: TableDevice,
        recipe: TrainingSpec,
        scale: float | Tensor,
        eps: Tensor,
        eps_read: Tensor,
    ) -> Tensor:
        """Return conductances with the noise of one mini-batch, as `Law.injected`.

        With "pcm" it is the table's spread at the recipe's time, between devices and of readings.

        Raises:
            UsageError: If the recipe's time is outside of the table, and this is not allowed.
        """
        if recipe.noise_type != "pcm":
            return g_us + self.sigma_prog_us(g_us, pcm) * eps * scale
        curves = _curves(_reading(pcm, recipe.noise_t_s)[1], g_us, 2)

        def piece(g: Tensor, noise: Tensor, fresh: Tensor) -> Tensor:
            device, reading = _at(g, curves)
            return g + (device * noise + reading * fresh) * scale

        return _in_pieces(piece, g_us, eps, eps_read)


register(TableDevice, TableLaw())


# --- curves over the target ---
# Curves are kept at equal distances, so that a target finds its place by a multiplication: a binary
# search would cost more than everything else together. A tensor of curves has the shape
# [curves, 2, _CELLS + 1]: values, and differences to the next value. The first curve is the largest
# target, everywhere.


class _Curves(NamedTuple):
    """Curves where the cells are, with their dtype.

    Attributes:
        top: The largest target, in microsiemens.
        tables: Values and differences of each curve, [curves, 2, _CELLS + 1].
    """

    top: float
    tables: Tensor


def _curves(numbers: Any, like: Tensor, count: int | None = None) -> _Curves:
    """Return the first curves of a moment, or all, where a tensor is."""
    assert isinstance(numbers, Tensor)
    last = None if count is None else count + 1
    return _Curves(float(numbers[0, 0, 0]), numbers[1:last].to(like))


def _at(g_us: Tensor, curves: _Curves) -> tuple[Tensor, ...]:
    """Return the values of curves at targets, each in the shape of the targets."""
    position = g_us.clamp(0.0, curves.top).mul_(_CELLS / curves.top)
    cell = position.to(torch.int32)
    share = position.sub_(cell)
    place = cell.view(-1)
    return tuple(
        values.index_select(0, place)
        .view_as(g_us)
        .addcmul_(steps.index_select(0, place).view_as(g_us), share)
        for values, steps in curves.tables.unbind()
    )


def _in_pieces(piece: Callable[..., Tensor], *cells: Tensor) -> Tensor:
    """Return a function of cells that works element by element.

    On a CPU it is called for one piece of the cells after the other. All that it computes for a
    piece stays in the cache, which makes it three times as fast for a layer of 512 x 512.

    Args:
        piece: The function.
        *cells: Its arguments, all of one shape.
    """
    first, size = cells[0], _PIECE * torch.get_num_threads()
    graph = torch.is_grad_enabled() and any(values.requires_grad for values in cells)
    if first.device.type != "cpu" or first.numel() <= size or graph:
        return piece(*cells)
    result = torch.empty(first.shape, dtype=first.dtype)
    pieces = zip(*(values.reshape(-1).split(size) for values in (result, *cells)), strict=True)
    for part, *arguments in pieces:
        part.copy_(piece(*arguments))
    return result


def _packed(knots: Array, *values: Array) -> Tensor:
    """Return curves, from their values at some targets."""
    grid = np.linspace(0.0, knots[-1], _CELLS + 1)
    curves = [np.full_like(grid, knots[-1]), *(np.interp(grid, knots, v) for v in values)]
    return torch.from_numpy(np.stack([[c, np.append(np.diff(c), 0.0)] for c in curves]))


@lru_cache(maxsize=64)
def _programming(pcm: TableDevice) -> tuple[Tensor, Tensor]:
    """Return mu and sigma of programming, and the standard deviation that comes of them."""
    with torch.inference_mode(False):  # later calls may be outside of inference mode
        knots, mean, device, reading = _refined(pcm, pcm.times_s[0])
        quiet = _noise(mean, device, reading)[0]
        mu, sigma = _before_cut(mean, device)
        return _packed(knots, quiet * mu, quiet * sigma), _packed(knots, quiet * device)


@lru_cache(maxsize=512)
def _reading(pcm: TableDevice, t_s: float) -> tuple[Tensor, Tensor]:
    """Return curves at a time: A, B, s and sigma; and of spreads and mean factor."""
    with torch.inference_mode(False):
        knots, start, start_device, start_reading = _refined(pcm, pcm.times_s[0])
        _, mean, device, reading = _refined(pcm, t_s)
        quiet, noise = _noise(mean, device, reading)
        at_start, _ = _noise(start, start_device, start_reading)
        share, share_at_start = _ratio(device, mean), _ratio(start_device, start)
        # The deviation from the mean is kept as far as the spread allows; the rest is new.
        kept = np.minimum(1.0, _ratio(share, share_at_start, 1.0))
        grown = (1 + share**2) / (1 + (kept * share_at_start) ** 2)
        s = np.sqrt(np.log(np.maximum(grown, 1.0)))
        factor = _ratio(mean, start, 1.0)
        slope = np.where(start > 0, kept * factor * quiet / at_start, 0.0)
        level = np.where(start > 0, (1 - kept) * mean * quiet, mean * quiet)
        curves = _packed(knots, level, slope, s, noise)
        return curves, _packed(knots, device, reading, factor)


def _ratio(a: Array, b: Array, other: float = 0.0) -> Array:
    """Return a / b, or another value if b is 0."""
    return np.divide(a, b, out=np.full_like(a, other), where=b > 0)


def _noise(mean: Array, device: Array, reading: Array) -> tuple[Array, Array]:
    """Return how read noise enters: the noiseless share of the mean reading, and sigma.

    A reading is g q max(0, 1 + sigma eps). It has the mean g and the standard deviation that the
    table says.
    """
    size = np.sqrt(mean**2 + device**2)
    share = np.minimum(_ratio(reading, size), _LARGEST_RATIO)
    quiet, sigma = _before_cut(np.ones_like(share), share)
    return quiet, sigma / quiet


def _before_cut(mean: Array, sd: Array) -> tuple[Array, Array]:
    """Return mu and sigma of the Gaussian that has a mean and a sd after a cut at 0.

    Its values below 0 become 0. If the mean is far above 0, these are the same two numbers.
    """
    from scipy.special import ndtr

    def moments(mu: Array) -> tuple[Array, Array]:
        density = np.exp(-(mu**2) / 2) / np.sqrt(2 * np.pi)
        first = mu * ndtr(mu) + density
        second = (mu**2 + 1) * ndtr(mu) + mu * density
        return first, np.sqrt(np.maximum(second - first**2, 1e-300))

    wanted = _ratio(mean, sd, np.inf)
    low, high = np.full_like(mean, -6.0), np.full_like(mean, 9.0)
    for _ in range(60):
        middle = (low + high) / 2
        first, spread = moments(middle)
        below = first / spread < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    first, spread = moments(low)
    sigma = np.where(wanted > 8.5, sd, sd / spread)
    return np.where(wanted > 8.5, mean, sigma * low), sigma


# --- the table between its rows ---


def _refined(pcm: TableDevice, t_s: float) -> tuple[Array, Array, Array, Array]:
    """Return targets, and mean, sd between devices and sd of readings there, at a time."""
    from scipy.interpolate import PchipInterpolator

    targets = np.array(pcm.targets_us)
    knots = np.unique([0.0, *targets, pcm.g_max_us])  # a table may end before them
    places = np.append(
        np.concatenate(
            [
                np.linspace(a, b, _STEPS, endpoint=False)
                for a, b in zip(knots, knots[1:], strict=False)
            ]
        ),
        knots[-1],
    )
    curves = []
    for name in ("mean_us", "prog_sd_us", "read_sd_us"):
        rows = np.array(getattr(pcm, name)).reshape(len(targets), len(pcm.times_s))
        now = _at_time(rows, pcm, t_s)
        inside = PchipInterpolator(targets, now)(np.clip(places, targets[0], targets[-1]))
        first, last = (np.diff(now) / np.diff(targets))[[0, -1]]
        inside += first * np.minimum(places - targets[0], 0.0)
        inside += last * np.maximum(places - targets[-1], 0.0)
        curves.append(np.maximum(inside, 0.0))
    return places, curves[0], curves[1], curves[2]


def _at_time(rows: Array, pcm: TableDevice, t_s: float) -> Array:
    """Return one value per target at a time, from rows with one value per time."""
    times = pcm.times_s
    first, last = times[0], times[-1]
    if not first <= t_s <= last and not pcm.extrapolate:
        raise UsageError(
            f"time {t_s:g} s is outside of the table of this device, which has times from "
            f"{first:g} to {last:g} s; allowed: times in between, or a table with extrapolate=True"
        )
    if t_s <= first or len(times) == 1:
        return np.asarray(rows[:, 0])
    after = min(int(np.searchsorted(times, t_s)), len(times) - 1)
    a, b = times[after - 1], times[after]
    share = np.log(t_s / a) / np.log(b / a) if a > 0 else t_s / b
    return np.asarray(np.maximum(rows[:, after - 1] * (1 - share) + rows[:, after] * share, 0.0))
