"""The scripts of docs/aihwkit-notes.md: if one fails, aihwkit has fixed what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

NOTES = (Path(__file__).parents[1] / "docs" / "aihwkit-notes.md").read_text(encoding="utf-8")
BEGINNING, *_ = re.findall(r"```python\n(.*?)```", NOTES, re.DOTALL)
SCRIPTS = re.findall(r"### ([^\n]+)\n(?:(?!###).)*?```python\n(.*?)```", NOTES, re.DOTALL)


def test_every_note_has_a_script() -> None:
    assert [title for title, _ in SCRIPTS] == re.findall(r"^### (.+)$", NOTES, re.MULTILINE)
    assert len(SCRIPTS) == NOTES.count("```python") - 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("script", [s for _, s in SCRIPTS], ids=[title for title, _ in SCRIPTS])
def test_it_is_still_so(script: str) -> None:
    torch.manual_seed(0)
    exec(compile(BEGINNING + script, "aihwkit-notes.md", "exec"), {"__name__": "notes"})


def test_a_mended_one_would_be_noticed() -> None:
    """The last assertion of a script decides."""
    title, script = SCRIPTS[0]
    mended = script.replace("assert not ", "assert ")
    with pytest.raises(AssertionError):
        exec(compile(BEGINNING + mended, title, "exec"), {"__name__": "notes"})
