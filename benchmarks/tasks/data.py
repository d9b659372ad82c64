"""Finding data, caching what was decoded, and batches in a repeatable order."""

import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aimc_bridge.errors import CheckpointError, DataError
from aimc_bridge.files import read_tensors, write_tensors
from aimc_bridge.rng import stream

DATA_VARIABLE = "AIMC_BRIDGE_DATA"
CACHE_VARIABLE = "AIMC_BRIDGE_CACHE"


# --- where things are -----------------------------------------------------------------------------


def data_dir(given: Path | None) -> Path | None:
    """The data folder: the one given, else AIMC_BRIDGE_DATA, else None (download).

    Raises:  DataError where the folder named is not there.
    """
    variable = os.environ.get(DATA_VARIABLE)
    folder = given if given is not None else Path(variable) if variable else None
    if folder is not None and not folder.is_dir():
        source = "--data-dir" if given is not None else DATA_VARIABLE
        raise DataError(f"no data folder {folder} (from {source}); name a folder that exists")
    return folder


def cache_dir() -> Path:
    """The folder for decoded data and downloads: AIMC_BRIDGE_CACHE, else ~/.cache/aimc_bridge."""
    variable = os.environ.get(CACHE_VARIABLE)
    folder = Path(variable) if variable else Path.home() / ".cache" / "aimc_bridge"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the cache folder {folder} cannot be made ({error.strerror}); "
            f"point {CACHE_VARIABLE} at a folder that can be written"
        ) from None
    return folder


@dataclass(frozen=True)
class DataSet:
    """The files of a data set, and where they are looked for under the data folder.

    Attributes:
        name: What tables and errors call it.
        choices: Sets of paths relative to the data folder. One set of which all files exist is
            enough; the first such set is read.
    """

    name: str
    choices: tuple[tuple[str, ...], ...]

    def whole(self, folder: Path) -> tuple[str, ...] | None:
        """Return the first set of paths that all exist under a folder, or None."""
        for choice in self.choices:
            if all((folder / name).exists() for name in choice):
                return choice
        return None

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths that are looked for."""
        return tuple(name for choice in self.choices for name in choice)

    @property
    def wanted(self) -> str:
        """What is looked for, as errors say it."""
        return " or ".join(", ".join(choice) for choice in self.choices)

    def find(self, folder: Path) -> list[Path]:
        """Return the paths of the first set that is whole.

        Raises:
            DataError: If none is; it says which files were looked for where.
        """
        choice = self.whole(folder)
        if choice is None:
            raise DataError(
                f"{self.name} not found: looked in {folder} for {self.wanted}; "
                f"point --data-dir or {DATA_VARIABLE} at the folder that holds them"
            )
        return [folder / name for name in choice]


@dataclass(frozen=True)
class PackagedModel:
    """A pretrained model that comes as a Python package.

    Attributes:
        name: What tables and errors call it.
        module: The package's import name.
        inside: The folder in it that holds the model.
        install: What pip calls the package.
    """

    name: str
    module: str
    inside: str
    install: str

    @property
    def folder(self) -> Path | None:
        """The folder with the model; None if the package is not installed."""
        spec = importlib.util.find_spec(self.module)
        if spec is None or spec.origin is None:
            return None
        folder = Path(spec.origin).parent / self.inside
        return folder if folder.is_dir() else None


def check_digest(path: Path, content: bytes, published: str) -> None:
    """Check that a file is the one that was published.

    Args:
        path: The file, for the error.
        content: What is in it.
        published: The published MD5 (32 digits) or SHA-1 (40 digits).

    Raises:
        DataError: If it is another file.
    """
    kind = "md5" if len(published) == 32 else "sha1"
    digest = hashlib.new(kind, content, usedforsecurity=False).hexdigest()
    if digest != published:
        raise DataError(
            f"{path} is damaged or another file: its {kind.upper()} is {digest}, that of the "
            f"published one {published}; copy the file again"
        )


def cannot_download(what: str, error: Exception) -> DataError:
    """The error for data that is neither here nor downloadable."""
    return DataError(
        f"{what} could not be downloaded ({first_line(error)}); "
        f"point --data-dir or {DATA_VARIABLE} at a folder that holds it"
    )


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def cached(
    name: str, sources: Sequence[Path], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Tensors made once from files and kept in the cache folder until a file changes.

    Args:    name     what the cache file is called.
             sources  the files they come from; path, size and time of change name the version.
    """
    facts = [
        f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in sources
    ]
    version = hashlib.blake2b("\n".join(facts).encode(), digest_size=8).hexdigest()
    file = cache_dir() / f"{name}-{version}.safetensors"
    if file.exists():
        try:
            return read_tensors(file)
        except CheckpointError:  # half a cache, of another program's crash: made again
            file.unlink()
    tensors = make()
    write_tensors(file, tensors)
    return tensors


# --- batches --------------------------------------------------------------------------------------


class Loader:
    """Training batches; each pass over it is the next epoch.

    Order is a function of (seed, epoch) and a batch's augmentation of (seed, epoch, position): an
    interrupted epoch goes on at any position without the work of the batches before it.

    Args:    plan  (epoch, generator) -> the epoch's batches as anything `make` understands.
             make  (item, generator, epoch) -> batch.
             size  number of batches in an epoch.
    """

    def __init__(
        self,
        plan: Callable[[int, torch.Generator], Sequence[Any]],
        make: Callable[[Any, torch.Generator, int], Any],
        size: int,
        seed: int,
    ) -> None:
        if size < 1:
            raise DataError("the training data is smaller than one batch; lower the batch size")
        self.plan, self.make, self.size, self.seed = plan, make, size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Any]:
        epoch = self.epoch
        self.epoch += 1
        return self.passing(epoch)

    def passing(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of one epoch from position `start`."""
        items = self.plan(epoch, stream(self.seed, "order", epoch))
        for position in range(start, self.size):
            yield self.make(items[position], stream(self.seed, "batch", epoch, position), epoch)


def shuffled(n: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Indices 0..n-1 in random order, in whole batches; the rest is left to the next epoch."""
    order = torch.randperm(n, generator=generator)
    return list(order[: n - n % batch_size].split(batch_size))
