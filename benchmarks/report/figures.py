"""Files of figures: PNG for pages, SVG for papers, and what a figure was drawn from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aimc_bridge import files
from aimc_bridge.drawing import new

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["description_of", "new", "save"]


def save(
    figure: Figure,
    path: str | Path,
    dpi: int = 150,
    description: str | None = None,
    *,
    vector: bool = True,
) -> None:
    """Write a figure as PNG, and as SVG beside it, each whole or not at all.

    Args:
        figure: The figure.
        path: The file, .png.
        dpi: Pixels per inch.
        description: A text for the PNG's metadata; it tells what the figure was drawn from.
        vector: Whether to write the SVG too.
    """
    metadata = None if description is None else {"Description": description}
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi, metadata=metadata)
    if vector:
        import matplotlib

        # the same figure gives the same file: no date, no random names in it
        with (
            files.replacing(Path(path).with_suffix(".svg")) as temporary,
            matplotlib.rc_context({"svg.hashsalt": "aimc-bridge"}),
        ):
            figure.savefig(temporary, format="svg", metadata={"Date": None})


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
