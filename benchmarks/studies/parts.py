"""The parts of a run that take time: done once, timed, and known to the run that goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aimc_bridge.errors import CheckpointError
from benchmarks.files import replace_file


class Parts:
    """Seconds of each part, and which an interruption cut in two; in a file where `keep`."""

    def __init__(self, file: Path, keep: bool) -> None:
        self.file, self.keep = file, keep
        self.started: list[str] = []
        self.wall_s: dict[str, float] = {}
        self.interrupted: list[str] = []

    def timed(self, name: str, work: Callable[..., Any], *args: Any) -> Any:
        """Do a part and note its seconds, once: a finished part keeps those of its own run.

        A part that an interruption cut in two counts from the interruption on, and is listed so.
        """
        began = time.monotonic()
        if name in self.wall_s:
            return work(*args)
        if name in self.started and name not in self.interrupted:
            self.interrupted.append(name)
        self.started.append(name)
        self._note()
        result = work(*args)
        self.wall_s[name] = round(time.monotonic() - began, 1)
        self._note()
        return result

    def more(self, name: str) -> str:
        """The name of a part, or of what is done beyond it where it was finished before."""
        while name in self.wall_s:
            name += ", more"
        return name

    def _note(self) -> None:
        if self.keep:
            kept = {"started": self.started, "wall_s": self.wall_s, "interrupted": self.interrupted}
            replace_file(self.file, json.dumps(kept, indent=1) + "\n")

    def recall(self) -> None:
        """What an earlier run noted.

        Raises:  CheckpointError where the file is damaged.
        """
        if not self.file.exists():
            return
        try:
            kept = json.loads(self.file.read_text())
            self.started = kept["started"]
            self.wall_s, self.interrupted = kept["wall_s"], kept["interrupted"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self.file} is damaged ({error}); remove it to go on without the times measured "
                "before"
            ) from None
