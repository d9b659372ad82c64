"""Times as people write them: "1s", "1h", "1 day", "1y", "3600"."""

from __future__ import annotations

import math
import re
from numbers import Real

from aimc_bridge.errors import UsageError, shown

_UNITS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("w", "week", "weeks"), 7 * 86400.0),
    **dict.fromkeys(("month", "months"), 30 * 86400.0),
    **dict.fromkeys(("y", "year", "years"), 365 * 86400.0),
}
_LABELS = (("y", 365 * 86400.0), ("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))


def seconds(time: str | Real | float) -> float:
    """Return a time in seconds after programming.

    Args:
        time: A number of seconds, or a text with or without a unit: "1s", "30 min", "1h", "1 day",
            "2w", "1 month" (30 days), "1y" (365 days), "3600".

    Returns:
        Seconds.

    Raises:
        UsageError: If the time is not understood, negative or not finite.
    """
    error = UsageError(
        f"time {shown(time)} is not understood; allowed: seconds >= 0, or a number with a unit: "
        "s, min, h, d, w, month, y (examples: 1s, 1h, '1 day', 1y, 3600)"
    )
    if isinstance(time, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-z]*)\s*", time.lower())
        if match is None or (match[2] and match[2] not in _UNITS):
            raise error
        value = float(match[1]) * _UNITS.get(match[2], 1.0)
    elif isinstance(time, bool) or not isinstance(time, Real):  # numpy's numbers are Real
        raise error
    else:
        try:
            value = float(time)
        except (OverflowError, ValueError, TypeError):  # an integer beyond all floats
            raise error from None
    if not math.isfinite(value) or value < 0:
        raise error
    return value + 0.0  # -0.0 is 0.0


def label(t_s: float) -> str:
    """Return the shortest way to write a time: "1h" for 3600.0.

    Args:
        t_s: Seconds.

    Returns:
        A text from which `seconds` makes the same float.
    """
    t_s = float(t_s)
    for unit, size in _LABELS:
        count = t_s / size
        if count >= 1 and count.is_integer() and count * size == t_s:
            return f"{int(count)}{unit}"
    short = f"{t_s:g}"
    return f"{short}s" if float(short) == t_s else f"{t_s!r}s"
