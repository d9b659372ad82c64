"""The table that `Preset.explain` returns."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd

from aimc_bridge.spec.base import Spec
from aimc_bridge.spec.bibliography import SOURCES

_AS_WRITTEN = dict.fromkeys(("value", "first", "second"), str)
"""pandas would print 2.5e-07 s as 0.0."""
ABSENT = "absent"
"""The value of a field that one of two specs does not have."""
_UNITS = {"_us": "uS", "_s": "s", "_bits": "bit"}  # unit of a field by the end of its name


class Explanation(pd.DataFrame):
    """A DataFrame that prints whole, with the works that it names below it.

    It cuts neither rows nor texts; pandas would cut both.
    """

    @classmethod
    def of(cls, specs: Mapping[str, Spec]) -> Explanation:
        """Return the table of some specs.

        Args:
            specs: Specs by the names of their parts.

        Returns:
            One row per number: part, field, value, unit, source. `attrs["works"]` has the full
            citation of each source's key.
        """
        rows = [
            {
                "part": part,
                "field": name,
                "value": value,
                "unit": unit_of(name),
                "source": str(spec.sources[name]),
            }
            for part, spec in specs.items()
            for name, value in spec.identity().items()
        ]
        table = cls(rows, dtype=object)  # a None stays None, not NaN
        keys = {source.key for spec in specs.values() for source in spec.sources.values()}
        table.attrs["works"] = {key: SOURCES.get(key, "") for key in sorted(keys)}
        return table

    @property
    def _constructor(self) -> Any:
        """Return the class that pandas builds selections of this table with."""
        return Explanation

    def _works(self) -> dict[str, str]:
        """Return the citations of the works that the rows of this table name."""
        sources = list(self["source"]) if "source" in self.columns else []
        keys = {str(source).partition(", ")[0] for source in sources}
        return {key: work for key, work in self.attrs.get("works", {}).items() if key in keys}

    def __repr__(self) -> str:
        """Return the whole table and its works as text."""
        with _whole():
            table = pd.DataFrame(self).to_string(formatters=_AS_WRITTEN)
        works = [
            textwrap.fill(f"{key}: {work}" if work else key, 100, subsequent_indent="  ")
            for key, work in self._works().items()
        ]
        return "\n".join([table, "", *works]) if works else table

    def __str__(self) -> str:
        """Return the same text as `repr`."""
        return repr(self)

    def _repr_html_(self) -> str:
        """Return the whole table and its works as HTML, for notebooks."""
        with _whole():
            table = str(pd.DataFrame(self).to_html(formatters=_AS_WRITTEN))
        works = "".join(
            f"<dt>{html.escape(key)}</dt><dd>{html.escape(work)}</dd>"
            for key, work in self._works().items()
        )
        return f"{table}<dl>{works}</dl>" if works else table


def differences(first: Mapping[str, Spec], second: Mapping[str, Spec]) -> Explanation:
    """Return the numbers in which some specs differ from others.

    Args:
        first: Specs by the names of their parts.
        second: The specs they are compared with.

    Returns:
        One row per number that differs: part, field, unit, first, second, first_source,
        second_source. What one side does not have is "absent" there.
    """
    rows = []
    for part in dict.fromkeys((*first, *second)):
        sides = [side.get(part) for side in (first, second)]
        values = [{} if spec is None else spec.identity() for spec in sides]
        for name in dict.fromkeys((*values[0], *values[1])):
            pair = [side.get(name, ABSENT) for side in values]
            if pair[0] == pair[1]:
                continue
            sources = [
                str(spec.sources[name]) if spec is not None and name in spec.values() else ""
                for spec in sides
            ]
            rows.append((part, name, unit_of(name), *pair, *sources))
    columns = ["part", "field", "unit", "first", "second", "first_source", "second_source"]
    return Explanation(rows, columns=columns, dtype=object)


def unit_of(name: str) -> str:
    """Return the unit of a field by the end of its name; "" if it has none."""
    return next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")


def _whole() -> Any:
    """Return a context in which pandas prints everything."""
    return pd.option_context(
        *("display.max_colwidth", None),
        *("display.max_rows", None),
        *("display.max_columns", None),
        *("display.width", None),
    )
