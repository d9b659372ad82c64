"""Values that an engine keeps between the time steps of a recurrent layer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Open(threading.local):
    """The values kept in the innermost time loop of each thread; None outside of one."""

    kept: dict[object, Any] | None = None


_open = _Open()


@contextmanager
def time_steps() -> Iterator[None]:
    """Mark the loop over the time steps of one layer in one direction.

    The weights of the layer do not change in this block, whatever happens to them before and after
    it. So an engine may keep what it derives from them, such as the parts of a matrix that lie on
    the tiles. A step has few inputs, and deriving them again would take longer than its product.
    Everything kept is forgotten at the end of the block.
    """
    outer = _open.kept
    _open.kept = {}
    try:
        yield
    finally:
        _open.kept = outer


def kept_between_steps() -> dict[object, Any] | None:
    """Return the values that are kept in the time loop of this thread.

    Returns:
        A dict to read and to fill, with any keys, or None outside of a time loop.
    """
    return _open.kept
