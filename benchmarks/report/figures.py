"""Figures, drawn without matplotlib's global state (pyplot, the current backend)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aimc_bridge import files
from aimc_bridge.drawing import new

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["description_of", "new", "save"]


def save(figure: Figure, path: str | Path, dpi: int = 150, description: str | None = None) -> None:
    """Write a figure as PNG, whole or not at all.

    Args:
        figure: The figure.
        path: The file, .png.
        dpi: Pixels per inch.
        description: A text for the file's metadata; it tells what the figure was drawn from.
    """
    metadata = None if description is None else {"Description": description}
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi, metadata=metadata)


def description_of(path: Path) -> str | None:
    """Return the description in a PNG's metadata.

    Args:
        path: The file.

    Returns:
        The text; None if there is none, or no such file.
    """
    from PIL import Image

    if not path.exists():
        return None
    with Image.open(path) as image:
        text = image.info.get("Description")
    return None if text is None else str(text)
