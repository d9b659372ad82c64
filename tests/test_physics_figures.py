"""docs/physics_figures.py: the committed figures show what the library's functions return."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

DOCS = Path(__file__).parent.parent / "docs"
SCRIPT = runpy.run_path(str(DOCS / "physics_figures.py"))
FIGURES: dict[str, Any] = SCRIPT["FIGURES"]


def test_every_figure_is_on_the_page_and_small() -> None:
    page = (DOCS / "physics.md").read_text(encoding="utf-8")
    shown = re.findall(r"\]\(figures/law-(\w+)\.png\)", page)
    assert sorted(shown) == sorted(FIGURES)
    for name in FIGURES:
        assert (DOCS / "figures" / f"law-{name}.png").stat().st_size < 60_000


@pytest.mark.parametrize("name", FIGURES)
def test_the_committed_figure_shows_the_functions_of_today(name: str) -> None:
    with Image.open(DOCS / "figures" / f"law-{name}.png") as image:
        committed = json.loads(image.info["Description"])
    drawn = SCRIPT["numbers"](FIGURES[name]())
    assert len(drawn) == len(committed) > 0
    for line, then in zip(drawn, committed, strict=True):
        assert line == pytest.approx(then, rel=0.01, abs=1e-3)
