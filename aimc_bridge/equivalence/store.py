"""Finished parts on disk, so that an interrupted cross-check can go on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from aimc_bridge.errors import DataError
from aimc_bridge.files import read_text, write_text
from aimc_bridge.sealed_files import add_tensor


class Store:
    """A folder with one file per finished part, or no folder at all."""

    def __init__(self, folder: Path | None, claim: Mapping[str, Any]) -> None:
        """Open the folder, or make it.

        Args:
            folder: The folder. Without one, nothing is kept and nothing is ever there.
            claim: Plain data that tells this cross-check from others. It is kept in the folder.

        Raises:
            DataError: If the folder holds another cross-check, is damaged or cannot be written.
        """
        self.folder = folder
        if folder is None:
            return
        claim = json.loads(json.dumps(claim))
        about = folder / "crosscheck.json"
        if about.exists():
            before = _read(about)
            differs = sorted(key for key in claim if before.get(key) != claim[key])
            if differs:
                raise DataError(
                    f"{folder} holds another cross-check ({', '.join(differs)} differ); "
                    "give resume= another folder, or repeat its arguments"
                )
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(about, json.dumps(claim, indent=1) + "\n")
        except OSError as cause:
            raise DataError(
                f"resume={str(folder)!r} cannot be written ({cause.strerror}); name another folder"
            ) from cause

    def _file(self, key: str) -> Path | None:
        """Return the file of a key: its name is readable, and a digest makes it unique."""
        if self.folder is None:
            return None
        readable = re.sub(r"[^A-Za-z0-9.=-]+", "-", key)[:80]
        return self.folder / f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.json"

    def get(self, key: str) -> Any:
        """Return what was kept under a key, or None.

        Raises:
            DataError: If the file is damaged.
        """
        file = self._file(key)
        return _read(file) if file is not None and file.exists() else None

    def put(self, key: str, value: Any) -> None:
        """Keep plain data under a key."""
        file = self._file(key)
        if file is not None:
            write_text(file, json.dumps(value) + "\n")


def _read(file: Path) -> Any:
    """Read plain data from a file."""
    try:
        return json.loads(read_text(file))
    except (OSError, ValueError, RecursionError) as cause:
        raise DataError(f"{file} is damaged ({cause}); remove it to do this part again") from cause


def digest(*values: Any) -> str:
    """Return the SHA-256 of tensors, numbers and texts, in dicts and lists or not.

    Args:
        *values: Tensors, mappings, lists, tuples, and whatever else has a repr that tells it from
            others.
    """
    sha = hashlib.sha256()
    for value in values:
        _add(sha, value)
    return sha.hexdigest()


def _add(sha: hashlib._Hash, value: Any) -> None:
    """Add a value to a digest."""
    if isinstance(value, Tensor):
        add_tensor(sha, value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            sha.update(repr(key).encode())
            _add(sha, inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _add(sha, inner)
    else:
        sha.update(repr(value).encode())
