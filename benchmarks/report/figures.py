"""Figures, drawn without matplotlib's global state (pyplot, the current backend)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Figure, Any]:
    """Make a figure with a grid of panels.

    Args:
        rows: Rows of panels.
        columns: Columns of panels.
        size: Width and height, inches.
        **options: More arguments of `Figure.subplots`, such as sharex=True.

    Returns:
        The figure, and an array of its axes, shape (rows, columns).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


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
