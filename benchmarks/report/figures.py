"""Files of figures, and what a figure was drawn from."""

from __future__ import annotations

from pathlib import Path

from aimc_bridge.drawing import new, save

__all__ = ["description_of", "new", "save"]


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
