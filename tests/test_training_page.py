"""docs/training.md: its blocks run as a reader would run them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = Path(__file__).parent.parent / "docs" / "training.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::UserWarning:torch.utils")
def test_every_block_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "training"}
    for text in BLOCKS:
        exec(compile(text, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "6 mini-batches" in printed
    assert "goes on after mini-batch 1" in printed
    assert names["result"].global_step == 6
    assert names["trainer"].global_step == 6
    assert len(BLOCKS) == 5
