"""docs/extend.md: its blocks run as a reader would run them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import presets
from aimc_bridge.engines import match

PAGE = Path(__file__).parent.parent / "docs" / "extend.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_every_block_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(match, "_REGISTERED", {})
    monkeypatch.setattr(presets, "_PRESETS", dict(presets._PRESETS))
    monkeypatch.setitem(presets.SOURCES, "ours2026", "")  # The page sets it.
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "extend"}
    for kind, text in BLOCKS:
        if kind == "toml":
            title = re.match(r"# (\S+\.toml)\n", text)
            assert title is not None, "a file says its name in its first line"
            (tmp_path / title[1]).write_text(text, encoding="utf-8")
        else:
            assert kind == "python"
            exec(compile(text, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "handler convert_low_rank" in printed
    assert "changed, measured in our lab, 2026, preset rasch2023" in printed
    assert "ours2026: Ours et al. 2026, A chip" in printed
    assert presets.get("my_chip") == names["mine"]


def test_the_page_has_blocks_of_both_kinds() -> None:
    kinds = [kind for kind, _ in BLOCKS]
    assert kinds.count("toml") == 1 and kinds.count("python") >= 8
