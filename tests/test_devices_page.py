"""docs/devices.md: its blocks run as a reader would run them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "devices.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_every_block_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "examples" / "pcm_table.csv", tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "devices"}
    for kind, text in BLOCKS:
        if kind == "toml":
            title = re.match(r"# (\S+\.toml)\n", text)
            assert title is not None, "a file says its name in its first line"
            (tmp_path / title[1]).write_text(text, encoding="utf-8")
        else:
            exec(compile(text, str(PAGE), "exec"), names)
    assert names["preset"].pcm.law == "table" and names["own"].pcm.law == "own"


def test_both_ways_are_short() -> None:
    python = [text for kind, text in BLOCKS if kind == "python"]
    assert len(python) == 9 and all(len(text.splitlines()) < 30 for text in python)
