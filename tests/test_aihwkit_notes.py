"""The scripts of docs/aihwkit-notes.md, which show what the versions of aihwkit they name do."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

NOTES = (Path(__file__).parents[1] / "docs" / "aihwkit-notes.md").read_text(encoding="utf-8")
BEGINNING, *_ = re.findall(r"```python\n(.*?)```", NOTES, re.DOTALL)
SCRIPTS = re.findall(
    r"### ([^\n]+)\n\nHolds for: ([^\n]+)\.\n(?:(?!###).)*?```python\n(.*?)```", NOTES, re.DOTALL
)
HOLDS = {
    "1.1.0 and 1.2.0": {"1.1.0", "1.2.0"},
    "1.1.0 only; mended in 1.2.0": {"1.1.0"},
    "1.2.0 only": {"1.2.0"},
}


def test_every_note_has_a_script() -> None:
    assert [title for title, _, _ in SCRIPTS] == re.findall(r"^### (.+)$", NOTES, re.MULTILINE)
    assert len(SCRIPTS) == NOTES.count("```python") - 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("holds", "script"), [s[1:] for s in SCRIPTS], ids=[title for title, *_ in SCRIPTS]
)
def test_it_is_so_in_the_versions_that_the_note_names(holds: str, script: str) -> None:
    torch.manual_seed(0)
    code = compile(BEGINNING + script, "aihwkit-notes.md", "exec")
    if version("aihwkit") in HOLDS[holds]:
        exec(code, {"__name__": "notes"})
    else:
        with pytest.raises(AssertionError):
            exec(code, {"__name__": "notes"})


def test_a_mended_one_would_be_noticed() -> None:
    """The last assertion of a script decides."""
    title, _, script = SCRIPTS[0]
    mended = script.replace("assert not ", "assert ")
    with pytest.raises(AssertionError):
        exec(compile(BEGINNING + mended, title, "exec"), {"__name__": "notes"})
