"""Damage files: edit bytes, and put odd values at random places of nested data.

`AIMC_BRIDGE_FUZZ=20000 python -m pytest tests/fuzz` tries that many cases per reader; the suite
tries a few, the same ones every time.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

_COUNT = os.environ.get("AIMC_BRIDGE_FUZZ", "")
CASES = settings(
    max_examples=int(_COUNT or 100),
    derandomize=not _COUNT,
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),  # to shrink a damaged file takes minutes
    suppress_health_check=list(HealthCheck),
)

SLOW = settings(CASES, max_examples=int(_COUNT or 25))
HUGE = 10**400
_DEEP = b"[" * 2000
_WORDS = st.sampled_from(
    [b"nan", b"-inf", b"1e999", b"-1", b"0", b"null", b"true", b"[]", b"{}", b'""', b'"', b",",
     b"\n", b"\x00", b"\xff", b"\xef\xbb\xbf", b"=1+1", b"9" * 400, _DEEP, "\u2028".encode()]
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Return bytes with one to four edits: bits, bytes and spans changed, cut, repeated, added."""
    for _ in range(draw(st.integers(1, 4))):
        size = len(data)
        at = draw(st.integers(0, max(0, size - 1)))
        stop = min(size, at + draw(st.sampled_from([1, 2, 8, 64, 1000])))
        kind = draw(st.sampled_from(["bit", "byte", "cut", "end", "repeat", "word", "bytes"]))
        if kind == "bit" and size:
            bit = 1 << draw(st.integers(0, 7))
            data = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
        elif kind == "byte":
            data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at] + data[stop:]
        elif kind == "end":
            data = data[:at]
        elif kind == "repeat":
            data = data[:stop] + data[at:]
        elif kind == "word":
            data = data[:at] + draw(_WORDS) + data[stop:]
        else:
            data = data[:at] + draw(st.binary(max_size=16)) + data[at:]
    return data


ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, HUGE, 2**63, 1e308, 1e-308, -0.0, "", " ", "none", "nan"]),
    st.floats(allow_nan=True),
    st.text(max_size=8),
    st.lists(st.floats(allow_nan=True) | st.text(max_size=3), max_size=5),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place of nested data: a container, and a key or index of it."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


@st.composite
def changed(draw: st.DrawFn, data: Any) -> Any:
    """Return nested data with one to three places replaced, removed, renamed, moved or added."""
    data = copy.deepcopy(data)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(data))
        if not places:
            return data
        holder, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "move"]))
        if kind == "replace":
            holder[key] = draw(ODD)
        elif kind == "remove":
            del holder[key]
        elif kind == "rename" and isinstance(holder, dict):
            holder[draw(st.text(max_size=6))] = holder.pop(key)
        else:
            other, place = draw(st.sampled_from(places))
            other[place] = copy.deepcopy(holder[key])
    return data
