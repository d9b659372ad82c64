"""Files that a run leaves."""

import os
from pathlib import Path


def replace_file(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
