"""A device that is a table of measurements."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from aimc_bridge.errors import SpecError, UsageError, shown
from aimc_bridge.files import read_bytes
from aimc_bridge.spec.base import Source, Table
from aimc_bridge.spec.device import DeviceSpec

if TYPE_CHECKING:
    import pandas as pd

_NEEDED = ("target_us", "t_s", "mean_us")
_SPREADS = ("sd_us", "prog_sd_us", "read_sd_us")
_AGREE = 0.01  # how far sd_us may be from the two parts, as a share
_READ_LIMIT = 1.4  # sd over mean of readings; at 1.46 the median of a clipped Gaussian is 0


@dataclass(frozen=True, kw_only=True)
class TableDevice(DeviceSpec):
    """A device of measured means and standard deviations, by target and time.

    A weight is a pair of such devices. `from_csv`, `from_arrays` and `from_frame` build one.

    The table has a row per target conductance and time after programming. Between targets, means
    and standard deviations are interpolated by SciPy's PCHIP, which never overshoots the measured
    values as a cubic spline does and has no kinks as straight lines have. Between times they are
    linear in the logarithm of the time (linear in the time between 0 and the next time).

    A device has three independent random numbers, and so the correlation between its times is:

    - what programming made of it at the first time of the table. Later it keeps its deviation from
      the mean, as a share of the mean;
    - its own drift, one number for life. It is there if `prog_sd_us` grows faster than
      `mean_us`; the loss of devices is then log-normal, as it is for power laws with Gaussian
      exponents. If the share `prog_sd_us / mean_us` shrinks instead, the deviation from the mean
      shrinks with it;
    - the noise of each reading, new at every time. Its size is a share of the conductance of the
      device.

    No conductance is below 0. Means and standard deviations of the simulated readings are those of
    the table nevertheless: the Gaussians are chosen so that they have them after the cut at 0.

    Attributes:
        targets_us: The targets, ascending, in microsiemens.
        times_s: The times, ascending, in seconds after the end of programming.
        mean_us: Mean conductance as read, for each target all times, in microsiemens.
        prog_sd_us: Standard deviation between devices, in the same order. A device keeps its
            deviation.
        read_sd_us: Standard deviation of repeated readings of one device, in the same order.
        extrapolate: Whether targets and times outside of the table are allowed. Means and standard
            deviations then go on with their last slope, but not below 0; before the first time they
            are constant.
    """

    law: ClassVar[str] = "table"
    pairs: int = 1
    targets_us: tuple[float, ...]
    times_s: tuple[float, ...]
    mean_us: tuple[float, ...]
    prog_sd_us: tuple[float, ...]
    read_sd_us: tuple[float, ...]
    extrapolate: bool

    def check(self) -> None:
        """Raise SpecError also if the table is not one that a device can follow."""
        super().check()
        for name, least in (("targets_us", 2), ("times_s", 1)):
            values = getattr(self, name)
            rising = all(a < b for a, b in zip(values, values[1:], strict=False))
            if len(values) < least or not rising or values[0] < 0:
                raise SpecError(
                    f"TableDevice.{name} = {_short(values)}; allowed: {least} or more values >= 0, "
                    "ascending, each once"
                )
        cells = len(self.targets_us) * len(self.times_s)
        for name in ("mean_us", "prog_sd_us", "read_sd_us"):
            values = getattr(self, name)
            if len(values) != cells:
                raise SpecError(
                    f"TableDevice.{name} has {len(values)} values; allowed: {cells}, one for each "
                    f"of {len(self.targets_us)} targets and {len(self.times_s)} times"
                )
            for value, where in zip(values, self._places(), strict=True):
                if value < 0:
                    raise SpecError(f"TableDevice: {name} = {value:g} at {where}; allowed: >= 0 uS")
        self._check_size()
        first, last = self.targets_us[0], self.targets_us[-1]
        if not self.extrapolate and (first > 0 or last < self.g_max_us):
            raise SpecError(
                f"TableDevice: targets from {first:g} to {last:g} uS, but weights need devices "
                f"from 0 to g_max_us = {self.g_max_us:g} uS; measure those too, or allow "
                "extrapolate=True"
            )

    def _places(self) -> list[str]:
        """Return where each value stands, for errors."""
        return [f"target {g:g} uS, t_s = {t:g}" for g in self.targets_us for t in self.times_s]

    def _check_size(self) -> None:
        """Raise SpecError if conductances look like another unit, or spread impossibly."""
        top = self.targets_us[-1]
        if top > self.g_max_us * (1 + 1e-6):
            raise SpecError(
                f"TableDevice: target {top:g} uS is above g_max_us = {self.g_max_us:g}; allowed: "
                "conductances in microsiemens (1 S = 1e6 uS, 1 nS = 1e-3 uS), up to g_max_us"
            )
        rows = zip(self.mean_us, self.prog_sd_us, self.read_sd_us, self._places(), strict=True)
        for mean, device, reading, where in rows:
            if mean > 2 * self.g_max_us or max(device, reading) > 2 * self.g_max_us:
                raise SpecError(
                    f"TableDevice: mean {mean:g} uS, sd {max(device, reading):g} uS at {where}, "
                    f"more than twice g_max_us = {self.g_max_us:g}; allowed: microsiemens"
                )
            if mean == 0 and device > 0:
                raise SpecError(
                    f"TableDevice: mean 0 but a spread of {device:g} uS at {where}; conductances "
                    "are not negative, so that devices that differ have a mean above 0"
                )
            if reading > _READ_LIMIT * math.hypot(mean, device):
                raise SpecError(
                    f"TableDevice: read_sd_us = {reading:g} at {where} is more than "
                    f"{_READ_LIMIT} times the conductance; readings are not negative and cannot "
                    "spread so far: count an offset of the instrument out, or smooth the table"
                )
        if max(self.mean_us) < 1e-3 * top:
            raise SpecError(
                f"TableDevice: targets up to {top:g} uS, means up to {max(self.mean_us):g}; "
                "allowed: both in microsiemens"
            )

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike[str],
        *,
        g_max_us: float,
        source: str,
        extrapolate: bool = False,
        netting: bool = False,
    ) -> TableDevice:
        """Read a device from a CSV file with one row per target and time.

        Args:
            path: The file. Its first line names the columns: `target_us`, `t_s`, `mean_us`, and for
                the spread `sd_us`, `prog_sd_us`, `read_sd_us` or two of them. Other columns are
                ignored, and so are lines that begin with "#".
            g_max_us: Largest conductance of a device, in microsiemens; the weight 1 of a tile.
            source: Where the numbers are from, such as "our lab, 2026".
            extrapolate: Whether targets and times outside of the table are allowed.
            netting: Whether the two devices of a pair are read as one, as in the other devices of
                the library. By default they are read one by one, as they were measured.

        Returns:
            The device.

        Raises:
            UsageError: If there is no such file, or if it cannot be read as text.
            SpecError: If a column is missing, or if the table is not one (see `from_arrays`).
        """
        if not isinstance(path, str | os.PathLike):
            raise UsageError(f"path = {shown(path)}; allowed: the path of a CSV file")
        path = Path(path)
        try:
            text = read_bytes(path).decode("utf-8-sig")
        except OSError as cause:
            raise UsageError(f"{path}: cannot be read ({cause.strerror or cause})") from cause
        except ValueError as cause:
            raise UsageError(f"{path}: not a CSV file ({cause})") from cause
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        if not lines:
            raise SpecError(f"{path}: no table (the file is empty); allowed: names, then rows")
        try:
            header, *rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
        except (ValueError, csv.Error) as cause:
            raise SpecError(
                f"{path}: no table ({cause}); allowed: a line of names, then rows"
            ) from cause
        for number, row in enumerate(rows, 2):
            if len(row) != len(header):
                raise SpecError(
                    f"{path}, row {number}: {len(row)} entries; allowed: {len(header)}, as in the "
                    "first row"
                )
        columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
        if len(columns) < len(header):
            raise SpecError(f"{path}: a column is there twice: {', '.join(header)}")
        try:
            return cls._from_columns(columns, g_max_us, source, extrapolate, netting)
        except SpecError as problem:
            raise SpecError(f"{path}: {problem}") from problem

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        g_max_us: float,
        source: str,
        extrapolate: bool = False,
        netting: bool = False,
    ) -> TableDevice:
        """Make a device from a DataFrame with the columns of `from_csv`.

        Args:
            frame: One row per target and time.
            g_max_us: Largest conductance of a device, in microsiemens.
            source: Where the numbers are from.
            extrapolate: Whether targets and times outside of the table are allowed.
            netting: Whether the two devices of a pair are read as one.

        Returns:
            The device.

        Raises:
            SpecError: If a column is missing, or if the table is not one (see `from_arrays`).
        """
        if not isinstance(getattr(frame, "columns", None), Iterable):
            raise UsageError(
                f"frame is a {type(frame).__name__}; allowed: a pandas DataFrame, or use "
                "TableDevice.from_arrays or from_csv"
            )
        columns = {str(name): list(frame[name]) for name in frame.columns}
        return cls._from_columns(columns, g_max_us, source, extrapolate, netting)

    @classmethod
    def from_arrays(
        cls,
        target_us: Iterable[float],
        t_s: Iterable[float],
        mean_us: Iterable[float],
        sd_us: Iterable[float] | None = None,
        *,
        prog_sd_us: Iterable[float] | None = None,
        read_sd_us: Iterable[float] | None = None,
        g_max_us: float,
        source: str,
        extrapolate: bool = False,
        netting: bool = False,
    ) -> TableDevice:
        """Make a device from columns, with one entry per target and time.

        The spread is given in one of these ways: `sd_us` alone, which is then all between devices;
        `sd_us` and one of its parts; or both parts. The parts add up in squares.

        Args:
            target_us: Target conductances in microsiemens.
            t_s: Seconds after the end of programming. The rows of a target stand together, or not,
                with their times ascending.
            mean_us: Mean conductance as read, in microsiemens.
            sd_us: Standard deviation over devices and readings, in microsiemens.
            prog_sd_us: The part of it between devices, from repeated programming.
            read_sd_us: The part of it between readings of one device, from repeated reading.
            g_max_us: Largest conductance of a device, in microsiemens.
            source: Where the numbers are from.
            extrapolate: Whether targets and times outside of the table are allowed.
            netting: Whether the two devices of a pair are read as one.

        Returns:
            The device.

        Raises:
            SpecError: If entries are missing, doubled, not in order, not numbers, negative, or not
                in microsiemens; or if there are less than two targets.
        """
        given = {
            **{"target_us": target_us, "t_s": t_s, "mean_us": mean_us, "sd_us": sd_us},
            **{"prog_sd_us": prog_sd_us, "read_sd_us": read_sd_us},
        }
        columns = {}
        for name, values in given.items():
            if values is not None:
                try:
                    columns[name] = list(values)
                except TypeError:  # no iterable, or an array without sides
                    raise SpecError(
                        f"{name} = {shown(values)}; allowed: numbers, one entry per target and time"
                    ) from None
        return cls._from_columns(columns, g_max_us, source, extrapolate, netting)

    @classmethod
    def _from_columns(
        cls,
        columns: Mapping[str, Sequence[Any]],
        g_max_us: float,
        source: str,
        extrapolate: bool,
        netting: bool,
    ) -> TableDevice:
        """Make a device from columns of numbers or texts."""
        spreads = [name for name in _SPREADS if name in columns]
        missing = [name for name in _NEEDED if name not in columns]
        if missing or not spreads:
            missing += [] if spreads else ["sd_us (or prog_sd_us and read_sd_us)"]
            raise SpecError(
                f"no column {', '.join(missing)}; there are: {', '.join(columns) or 'none'}; "
                "needed: target_us, t_s, mean_us and sd_us, in microsiemens and seconds"
            )
        if spreads == ["read_sd_us"]:
            raise SpecError("read_sd_us without the rest; give sd_us or prog_sd_us too")
        if not isinstance(source, str) or not source.strip():
            raise SpecError(f"source={shown(source)}; allowed: a text, such as 'our lab, 2026'")
        numbers = {name: _numbers(name, columns[name]) for name in (*_NEEDED, *spreads)}
        if len({len(values) for values in numbers.values()}) > 1:
            sizes = ", ".join(f"{name} {len(values)}" for name, values in numbers.items())
            raise SpecError(f"columns of different lengths ({sizes}); allowed: one entry per row")
        rows = list(zip(numbers["target_us"], numbers["t_s"], strict=True))
        _check_rows(rows)
        targets, times = (tuple(sorted(set(column))) for column in zip(*rows, strict=True))
        place = {row: index for index, row in enumerate(rows)}
        order = [place[g, t] for g in targets for t in times]
        values = {name: tuple(numbers[name][i] for i in order) for name in ("mean_us", *spreads)}
        device, reading = _parts(values, [(g, t) for g in targets for t in times])
        fields = {
            "g_max_us": _numbers("g_max_us", [g_max_us])[0],
            "t0_s": next((t for t in times if t > 0), 1.0),
            "netting": netting,
            "targets_us": targets,
            "times_s": times,
            "mean_us": values["mean_us"],
            "prog_sd_us": device,
            "read_sd_us": reading,
            "extrapolate": extrapolate,
        }
        sources = Table(dict.fromkeys(fields, Source("measured", source)))
        return cls(sources=sources, **fields)  # type: ignore[arg-type]


def _short(values: Sequence[float]) -> str:
    """Return some numbers as text, the middle left out if there are many."""
    texts = [f"{value:g}" for value in values]
    return ", ".join(texts if len(texts) < 9 else [*texts[:4], "...", *texts[-3:]]) or "none"


def _numbers(name: str, column: Iterable[Any]) -> list[float]:
    """Return a column as finite numbers, or raise SpecError with the row that is none."""
    numbers = []
    for row, entry in enumerate(column, 1):
        try:
            number = math.nan if isinstance(entry, bool) else float(entry)
        except Exception:  # noqa: BLE001 - a stranger's object
            number = math.nan
        if not math.isfinite(number):
            raise SpecError(f"{name} = {shown(entry)} in row {row}; allowed: finite numbers")
        numbers.append(number)
    return numbers


def _check_rows(rows: list[tuple[float, float]]) -> None:
    """Raise SpecError if (target, time) rows are doubled, missing or not in order."""
    if not rows:
        raise SpecError("no rows; needed: a row per target and time, two targets or more")
    if len(set(rows)) < len(rows):
        g, t = next(row for i, row in enumerate(rows) if row in rows[:i])
        raise SpecError(f"target {g:g} uS at t_s = {t:g} is there twice; allowed: once")
    of_target: dict[float, list[float]] = {}
    for g, t in rows:
        if of_target.get(g, [-math.inf])[-1] > t:
            raise SpecError(
                f"t_s = {t:g} after {of_target[g][-1]:g} for target {g:g} uS; allowed: the times "
                "of a target in ascending order"
            )
        of_target.setdefault(g, []).append(t)
    every = sorted({t for _, t in rows})
    for g, times in of_target.items():
        lacks = [t for t in every if t not in times]
        if lacks:
            raise SpecError(
                f"a hole: target {g:g} uS has no row at t_s = {_short(lacks)}, others have; "
                "allowed: all targets at the same times"
            )


def _parts(
    values: Mapping[str, tuple[float, ...]], rows: list[tuple[float, float]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the spread between devices and that of readings, from the columns there are."""
    for name in _SPREADS:
        for value, (g, t) in zip(values.get(name, ()), rows, strict=False):
            if value < 0:
                raise SpecError(
                    f"{name} = {value:g} at target {g:g} uS, t_s = {t:g}; allowed: >= 0"
                )
    whole, device, reading = (values.get(name) for name in _SPREADS)
    if whole is None:
        assert device is not None
        return device, reading or tuple(0.0 for _ in device)
    if device is None and reading is None:
        return whole, tuple(0.0 for _ in whole)
    if device is not None and reading is not None:
        for total, a, b, (g, t) in zip(whole, device, reading, rows, strict=True):
            if abs(total - math.hypot(a, b)) > _AGREE * max(total, 1e-9):
                raise SpecError(
                    f"sd_us = {total:g} at target {g:g} uS, t_s = {t:g}, but the parts give "
                    f"{math.hypot(a, b):g}; allowed: sd_us^2 = prog_sd_us^2 + read_sd_us^2 within "
                    "1 %, or leave sd_us out"
                )
        return device, reading
    name, part = ("read_sd_us", reading) if device is None else ("prog_sd_us", device)
    assert part is not None
    for total, known, (g, t) in zip(whole, part, rows, strict=True):
        if known > total:
            raise SpecError(
                f"{name} = {known:g} is more than sd_us = {total:g} at target {g:g} uS, "
                f"t_s = {t:g}; allowed: a part of it"
            )
    rest = tuple(
        math.sqrt(max(total**2 - known**2, 0.0)) for total, known in zip(whole, part, strict=True)
    )
    return (rest, part) if device is None else (part, rest)
