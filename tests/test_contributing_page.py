"""CONTRIBUTING.md: the picture of the layout is that of the code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PICTURE = PAGE.split("## Layout")[1].split("```")[1]


def drawn() -> list[str]:
    """Return the modules and packages of aimc_bridge in the picture, in its order."""
    lines = PICTURE.split("aimc_bridge/\n")[1].split("\npresets/")[0].splitlines()
    return [word.rstrip("/") for line in lines for word in line[4:40].split()]


def test_each_name_of_the_picture_is_there() -> None:
    package = ROOT / "aimc_bridge"
    for name in drawn():
        assert (package / name).is_dir() or (package / f"{name}.py").is_file(), name
    for folder in re.findall(r"^(\w+)/", PICTURE, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder


def test_every_package_is_in_the_picture() -> None:
    folders = {path.parent.name for path in (ROOT / "aimc_bridge").glob("*/__init__.py")}
    assert folders <= set(drawn())
    for path in (ROOT / "benchmarks").glob("*/__init__.py"):
        assert f"{path.parent.name}/" in PICTURE
