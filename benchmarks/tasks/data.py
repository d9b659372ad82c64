"""Data folders, a cache for decoded data, and batches in a repeatable order."""

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
from aimc_bridge.rng import stream
from aimc_bridge.sealed_files import read_tensors, write_tensors

DATA_VARIABLE = "AIMC_BRIDGE_DATA"
CACHE_VARIABLE = "AIMC_BRIDGE_CACHE"


# --- where things are -----------------------------------------------------------------------------


def named_dir(given: str | Path | None) -> Path | None:
    """Return the data folder that the user names, whether it exists or not.

    Args:
        given: The folder of an option; None takes the one in AIMC_BRIDGE_DATA.

    Returns:
        The folder; None if none is named.
    """
    if given is not None:
        return Path(given)
    variable = os.environ.get(DATA_VARIABLE)
    return Path(variable) if variable else None


def data_dir(given: str | Path | None) -> Path | None:
    """Return the data folder.

    Args:
        given: The folder that the user names; None takes the one in AIMC_BRIDGE_DATA.

    Returns:
        The folder; None if none is named, which means download.

    Raises:
        DataError: If the folder does not exist.
    """
    folder = named_dir(given)
    if folder is not None and not folder.is_dir():
        source = DATA_VARIABLE if folder == named_dir(None) else "--data-dir"
        raise DataError(f"no data folder {folder} (from {source}); name a folder that exists")
    return folder


def cache_dir() -> Path:
    """Return the folder for decoded data and downloads, and make it if needed.

    It is the folder in AIMC_BRIDGE_CACHE, or else ~/.cache/aimc_bridge.

    Raises:
        DataError: If the folder cannot be made.
    """
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
    """The files of a data set, and the places where they are looked for.

    Attributes:
        name: What tables and errors call it.
        choices: Sets of paths relative to the data folder. One set is enough if all its files
            exist; the first such set is read.
    """

    name: str
    choices: tuple[tuple[str, ...], ...]

    def whole(self, folder: Path) -> tuple[str, ...] | None:
        """Return the first set of paths that all exist under a folder, or None.

        Args:
            folder: The data folder.
        """
        for choice in self.choices:
            if all((folder / name).exists() for name in choice):
                return choice
        return None

    @property
    def paths(self) -> tuple[str, ...]:
        """Return all paths that are looked for."""
        return tuple(name for choice in self.choices for name in choice)

    @property
    def wanted(self) -> str:
        """Return what is looked for, as errors say it; of many files in a folder, how many."""
        return " or ".join(map(_files, self.choices))

    def find(self, folder: Path) -> list[Path]:
        """Return the paths of the first set that is whole.

        Args:
            folder: The data folder.

        Raises:
            DataError: If no set is whole; it says what is missing of the set that is nearest to it,
                and which other sets would do.
        """
        choice = self.whole(folder)
        if choice is not None:
            return [folder / name for name in choice]
        lacking = [[n for n in names if not (folder / n).exists()] for names in self.choices]
        shares = [len(part) / len(all_) for part, all_ in zip(lacking, self.choices, strict=True)]
        nearest = shares.index(min(shares))
        looked = f"looked in {folder} for {self.wanted}"
        if shares[nearest] < 1:
            missing, count = lacking[nearest], len(self.choices[nearest])
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            looked = f"{folder} lacks {', '.join(missing[:3])}{more} of {count} files"
            others = [_files(names) for i, names in enumerate(self.choices) if i != nearest]
            looked += f", or else all of {' or '.join(others)}" if others else ""
        raise DataError(
            f"{self.name} not found: {looked}; "
            f"point --data-dir or {DATA_VARIABLE} at the folder that holds them"
        )


def _files(names: Sequence[str]) -> str:
    """Return the names of files; of more than three, the folder and how many."""
    if len(names) <= 3:
        return ", ".join(names)
    return f"{names[0]} to {names[-1].rpartition('/')[2]} ({len(names)} files)"


@dataclass(frozen=True)
class PackagedModel:
    """A pretrained model that comes as a Python package.

    Attributes:
        name: What tables and errors call it.
        module: The package's import name.
        inside: The folder in the package that holds the model.
        install: What pip calls the package.
    """

    name: str
    module: str
    inside: str
    install: str

    @property
    def folder(self) -> Path | None:
        """Return the folder with the model; None if the package is not installed."""
        spec = importlib.util.find_spec(self.module)
        if spec is None or spec.origin is None:
            return None
        folder = Path(spec.origin).parent / self.inside
        return folder if folder.is_dir() else None


def check_digest(path: Path | str, content: bytes, published: str, of: str = "") -> None:
    """Check that a file is the published one.

    Args:
        path: The file, or where else its bytes come from, for the error.
        content: The bytes of the file.
        published: The published MD5 (32 digits) or SHA-1 (40 digits).
        of: What of the file the bytes are, for the error; "" means all of it.

    Raises:
        DataError: If it is another file.
    """
    kind = "md5" if len(published) == 32 else "sha1"
    digest = hashlib.new(kind, content, usedforsecurity=False).hexdigest()
    if digest != published:
        name = f"the {kind.upper()} of {of}" if of else f"its {kind.upper()}"
        raise DataError(
            f"{path} is damaged or another file: {name} is {digest}, that of the "
            f"published one {published}; copy the file again"
        )


def cannot_download(what: str, error: Exception) -> DataError:
    """Return the error for data that are not here and cannot be downloaded.

    Args:
        what: The name of the data.
        error: What went wrong in the download.
    """
    return DataError(
        f"{what} could not be downloaded ({reason(error)}); "
        f"point --data-dir or {DATA_VARIABLE} at a folder that holds it"
    )


MOST_REASON = 400
"""The largest number of letters that a message quotes of another library's error."""


def reason(error: Exception) -> str:
    """Return the message of an error on one line; if it is long, its beginning and its end.

    Args:
        error: Any error. The reason can stand in its first line, in its last, or between them.
    """
    text = " ".join(str(error).split()) or repr(error)
    if len(text) <= MOST_REASON:
        return text
    return f"{text[: MOST_REASON // 2].rstrip()} ... {text[-MOST_REASON // 2 :].lstrip()}"


def cached(
    name: str, sources: Sequence[Path], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return tensors that are made once from files and then read from the cache.

    They stay in the cache folder until one of the files changes.

    Args:
        name: What the cache file is called.
        sources: The files that the tensors come from. Path, size and time of change of all of them
            name the version.
        make: Makes the tensors.

    Returns:
        The tensors by name.
    """
    facts = [
        f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in sources
    ]
    version = hashlib.blake2b("\n".join(facts).encode(), digest_size=8).hexdigest()
    file = cache_dir() / f"{name}-{version}.safetensors"
    if file.exists():
        try:
            return read_tensors(file, must=True)
        except CheckpointError:  # half written by a program that crashed: make it again
            file.unlink()
    tensors = make()
    write_tensors(file, tensors)
    return tensors


# --- batches --------------------------------------------------------------------------------------


class Loader:
    """Training batches; each pass over it is the next epoch.

    The order is a function of (seed, epoch), and the augmentation of a batch is a function of
    (seed, epoch, position). So an interrupted epoch goes on at any position without the work of the
    batches before it.

    Attributes:
        plan: (epoch, generator) -> the batches of the epoch, as anything that `make` understands.
        make: (item, generator, epoch) -> batch.
        size: The number of batches in an epoch.
        seed: Decides all random numbers.
        epoch: The epoch of the next pass.
    """

    def __init__(
        self,
        plan: Callable[[int, torch.Generator], Sequence[Any]],
        make: Callable[[Any, torch.Generator, int], Any],
        size: int,
        seed: int,
    ) -> None:
        """Prepare the batches.

        Args:
            plan: (epoch, generator) -> the batches of the epoch, as anything that `make`
                understands.
            make: (item, generator, epoch) -> batch.
            size: The number of batches in an epoch.
            seed: Decides all random numbers.

        Raises:
            DataError: If there is not one batch in an epoch.
        """
        if size < 1:
            raise DataError("the training data is smaller than one batch; lower the batch size")
        self.plan, self.make, self.size, self.seed = plan, make, size, seed
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self.size

    def __iter__(self) -> Iterator[Any]:
        """Return the batches of the next epoch."""
        epoch = self.epoch
        self.epoch += 1
        return self.passing(epoch)

    def passing(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Yield the batches of one epoch.

        Args:
            epoch: The epoch.
            start: The position of the first batch.
        """
        items = self.plan(epoch, stream(self.seed, "order", epoch))
        for position in range(start, self.size):
            yield self.make(items[position], stream(self.seed, "batch", epoch, position), epoch)


def shuffled(n: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Return the indices 0 to n - 1 in random order, cut into whole batches.

    Indices that do not fill a batch are left out until the next epoch.

    Args:
        n: The number of indices.
        batch_size: Indices per batch.
        generator: The random numbers.
    """
    order = torch.randperm(n, generator=generator)
    return list(order[: n - n % batch_size].split(batch_size))
