"""docs/scaling.md: its blocks run one after the other, and its commands are commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.command_lines import settings_of

PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"
TEXT = PAGE.read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own assertion compares the merged shards with the whole table."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "scaling"}
    for block in blocks("python"):
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(names["table"]) == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "chips.csv",
        *(f"shard-{number}.csv" for number in (1, 2, 3)),
    ]


def test_the_job_scripts_are_commands_that_exist() -> None:
    script, merging = blocks("bash")
    command = script.partition("srun ")[2].replace("\\\n", " ")
    command = command.replace("$SLURM_ARRAY_TASK_ID", "3")
    assert settings_of(command).share(25) == (3, 25, 25)
    assert "--merge" in merging
