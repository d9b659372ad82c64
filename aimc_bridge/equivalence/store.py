"""Finished parts on disk, so that an interrupted cross-check goes on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from aimc_bridge.errors import DataError
from aimc_bridge.files import add_tensor, write_text


class Store:
    """A folder of parts, or nothing where `folder` is None.

    Raises:  DataError where the folder holds another cross-check, or is damaged.
    """

    def __init__(self, folder: Path | None, claim: Mapping[str, Any]) -> None:
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
        if self.folder is None:
            return None
        readable = re.sub(r"[^A-Za-z0-9.=-]+", "-", key)[:80]
        return self.folder / f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.json"

    def get(self, key: str) -> Any:
        """What was kept under that key, or None."""
        file = self._file(key)
        return _read(file) if file is not None and file.exists() else None

    def put(self, key: str, value: Any) -> None:
        """Keep plain data under a key, whole or not at all."""
        file = self._file(key)
        if file is not None:
            write_text(file, json.dumps(value) + "\n")


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise DataError(f"{file} is damaged ({cause}); remove it to do this part again") from cause


def digest(*values: Any) -> str:
    """SHA-256 of tensors and of whatever else has a faithful repr, nested as they are."""
    sha = hashlib.sha256()
    for value in values:
        _add(sha, value)
    return sha.hexdigest()


def _add(sha: hashlib._Hash, value: Any) -> None:
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
