"""docs/periphery.md: its blocks run as a reader would run them, and its table has every field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from aimc_bridge.spec import CrossbarSpec

PAGE = (Path(__file__).parent.parent / "docs" / "periphery.md").read_text(encoding="utf-8")


def test_every_block_of_the_page_runs() -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "periphery"}
    for text in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(compile(text, "periphery.md", "exec"), names)
    assert list(names["table"]["r_series"].unique()) == [0.0, 0.01, 0.1]
    assert len(names["table"]) == 9


def test_the_table_has_every_field_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", PAGE, flags=re.MULTILINE))
    defaults = {name: str(value).strip('"') for name, value in CrossbarSpec.optional().items()}
    assert list(rows) == list(defaults)
    for name, default in defaults.items():
        written = rows[name].strip('`"')
        assert written == default or float(written) == float(default)
