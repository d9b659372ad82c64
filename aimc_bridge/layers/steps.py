"""What may be kept from one time step of a recurrent layer to the next."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Open(threading.local):
    """The innermost time loop of each thread; None outside of one."""

    kept: dict[object, Any] | None = None


_open = _Open()


@contextmanager
def time_steps() -> Iterator[None]:
    """Mark the loop over the time steps of one layer in one direction.

    The weights of the layer do not change in this block, whatever happens to them before and after
    it. An engine may therefore keep what it derives from them, such as the parts of a matrix that
    lie on the tiles: a step has few inputs, and would spend more time on that than on its product.
    All of it is forgotten at the end of the block.
    """
    outer = _open.kept
    _open.kept = {}
    try:
        yield
    finally:
        _open.kept = outer


def kept_between_steps() -> dict[object, Any] | None:
    """Return what is kept in the time loop that runs in this thread.

    Returns:
        A dict to read and to fill, with any keys, or None outside of a time loop.
    """
    return _open.kept
