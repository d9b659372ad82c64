"""docs/tutorial.md: its blocks run one after the other, and show what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "tutorial.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
SHORTER = {"range(30)": "range(10)", "epochs=10": "epochs=3", "chips=10": "chips=4"}


def test_the_page_runs_and_shows_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = "\n".join(BLOCKS)
    assert all(word in whole for word in SHORTER)
    names: dict[str, Any] = {"__name__": "tutorial"}
    for block in BLOCKS:
        text = block
        for long, short in SHORTER.items():
            text = text.replace(long, short)
        exec(compile(text, str(PAGE), "exec"), names)
    year = {
        name: names[name].groupby("t_inference").value.mean().iloc[-1]
        for name in ("direct", "aware")
    }
    # Drift costs many points, and training brings most of them back: far beyond any test image.
    assert names["digital"] > 0.9
    assert year["direct"] < names["digital"] - 0.1
    assert year["aware"] > year["direct"] + 0.05
    printed = capsys.readouterr().out
    assert "digital: 9" in printed and "on aihwkit, one chip at 1y: " in printed
    assert (tmp_path / "drift.svg").stat().st_size > 1000
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "hardware-aware less direct, 1y after programming: +" in report and "A*" in report
