"""Files of any kind of the project, read to their end."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import tomllib
from PIL import Image
from safetensors import safe_open


def check_whole(path: Path) -> None:
    """Assert that a file is read to its end."""
    data = path.read_bytes()
    if path.suffix == ".json":
        json.loads(data)
    elif path.suffix == ".toml":
        tomllib.loads(data.decode())
    elif path.suffix == ".csv":
        rows = [*csv.reader(data.decode().splitlines())]
        assert data.endswith(b"\n") and len({len(row) for row in rows}) == 1, path
    elif path.suffix == ".safetensors":
        with safe_open(path, "pt") as opened:
            assert [opened.get_tensor(name) for name in opened.keys()]  # noqa: SIM118
    elif path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".svg":
        ET.fromstring(data)
    elif path.suffix == ".html":
        assert data.rstrip().endswith(b"</html>"), path
    else:
        assert data.endswith(b"\n"), path


def content(path: Path) -> object:
    """Return the bytes of a file; of tensors, whose header has no fixed order, what they are."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, "np") as file:
        return file.metadata(), {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
