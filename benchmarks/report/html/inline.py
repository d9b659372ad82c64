"""Figures inside of a page: SVG whose colours the page decides, with a text for each point.

Matplotlib draws them with the project's own style, so that a report and a paper show the same
figure. Here the SVG loses what a page does not need (metadata, styles, ids that nothing refers to),
colours become variables of CSS, and each artist gets its series, its role and its tooltip.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from aimc_bridge import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_VARIABLES = {
    **{colour: f"--c{number}" for number, colour in enumerate(drawing.COLOURS)},
    **{colour: f"--t{number}" for number, colour in enumerate(drawing.SCALE)},
    drawing.INK: "--ink",
    drawing.MUTED: "--muted",
    drawing.GRID: "--grid",
    "#ffffff": "--paper",
    "#000000": "--ink",
}
_COLOUR = re.compile("|".join(_VARIABLES), re.IGNORECASE)


class Marks:
    """The meaning of the artists of one figure; see `curves.Mark`.

    Attributes:
        prefix: A text that no other figure of the page has; all ids begin with it.
        known: Id -> series, role and tooltip.
    """

    def __init__(self, prefix: str) -> None:
        """Begin a figure.

        Args:
            prefix: A text that no other figure of the page has.
        """
        self.prefix = prefix
        self.known: dict[str, tuple[str, str, str]] = {}

    def __call__(self, artist: Any, key: str, role: str, text: str) -> None:
        """Remember what an artist stands for.

        Args:
            artist: The artist.
            key: Its series.
            role: What it is: "chip", "point", "line", "bar" or "band".
            text: Its tooltip; "" for none.
        """
        name = f"mark{len(self.known)}"
        artist.set_gid(name)
        self.known[name] = (key, role, text)


def drawn(
    size: tuple[float, float], prefix: str, draw: Callable[[Axes, Marks], None], label: str
) -> str:
    """Draw one panel as SVG that can stand in a page.

    Args:
        size: Width and height, inches. Some 4 inches of width fit a phone without a change of size.
        prefix: A text that no other figure of the page has.
        draw: Draws into the axes, and marks its artists.
        label: What the figure shows, for readers who do not see it.

    Returns:
        An `<svg>` element.
    """
    figure, axes = drawing.new(1, 1, size)
    marks = Marks(prefix)
    draw(axes[0][0], marks)
    axes[0][0].set_title("")  # the page has it
    return as_svg(figure, marks, label)


def as_svg(figure: Figure, marks: Marks, label: str) -> str:
    """Return a figure as SVG that can stand in a page.

    Args:
        figure: The figure.
        marks: What its artists stand for.
        label: What it shows, for readers who do not see it.

    Returns:
        An `<svg>` element.
    """
    import matplotlib

    written = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "aimc-bridge"}):
        figure.savefig(written, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(written.getvalue())
    _drop(root, {f"{_SVG}metadata", f"{_SVG}style"})
    targets = {name for element in root.iter() for name in _references(element)}
    for element in list(root.iter()):
        _adapt(element, marks, targets)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", label)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
    return ElementTree.tostring(root, encoding="unicode")


def marker_path(marker: str, middle: tuple[float, float], size: float) -> str:
    """Return a marker as a path of SVG.

    Args:
        marker: Its name in matplotlib, such as "o".
        middle: The place of its middle.
        size: Its width.

    Returns:
        The `d` of a `<path>`.
    """
    from matplotlib.markers import MarkerStyle

    style = MarkerStyle(marker)
    path = style.get_path().transformed(style.get_transform())
    letters = {path.MOVETO: "M", path.LINETO: "L", path.CURVE3: "Q", path.CURVE4: "C"}
    parts = []
    for points, code in path.iter_segments(simplify=False, curves=True):
        if code == path.CLOSEPOLY:
            parts.append("Z")
            continue
        pairs = points.reshape(-1, 2) * (size, -size) + middle  # y of SVG goes down
        parts.append(letters[code] + " ".join(f"{x:.2f} {y:.2f}" for x, y in pairs.tolist()))
    return "".join(parts)


def _drop(root: ElementTree.Element, tags: set[str]) -> None:
    for parent in root.iter():
        for child in list(parent):
            if child.tag in tags:
                parent.remove(child)


def _references(element: ElementTree.Element) -> Iterator[str]:
    """Yield the ids that an element refers to."""
    yield from re.findall(r"url\(#([^)]+)\)", " ".join(element.attrib.values()))
    if _LINK in element.attrib:
        yield element.attrib[_LINK][1:]


def _adapt(element: ElementTree.Element, marks: Marks, targets: set[str]) -> None:
    """Rename what other figures may have too, and add what the page needs."""
    name = element.attrib.pop("id", None)
    if name in targets:
        element.set("id", f"{marks.prefix}{name}")
    if name in marks.known:
        key, role, text = marks.known[name]
        element.set("class", f"mark {role}")
        element.set("data-series", key)
        if text:
            title = ElementTree.Element(f"{_SVG}title")
            title.text = text
            element.insert(0, title)
    link = element.attrib.pop(_LINK, None)
    if link is not None:
        element.set("href", f"#{marks.prefix}{link[1:]}")
    for attribute, value in element.attrib.items():
        if attribute == "style" or "url(#" in value:
            value = value.replace("url(#", f"url(#{marks.prefix}")
            element.set(attribute, _COLOUR.sub(_variable, value))
    if element.tag == f"{_SVG}text":
        style = re.sub(r"'[^']*'(, )?|sans-serif", "", element.get("style", ""))
        size = re.search(r"([\d.]+)px", style)
        anchor = re.search(r"text-anchor: \w+", style)
        fill = re.search(r"fill: [^;]+", style)
        kept = [f"font-size: {size[1]}px" if size else "", anchor[0] if anchor else ""]
        element.set("style", "; ".join(filter(None, [*kept, fill[0] if fill else ""])))


def _variable(found: re.Match[str]) -> str:
    return f"var({_VARIABLES[found[0].lower()]})"
