"""Versions of aihwkit and torch that work together, checked before aihwkit is imported."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from aimc_bridge.errors import VersionError


class Pair(NamedTuple):
    """A version of aihwkit with what it needs beside it.

    Attributes:
        aihwkit: The version of aihwkit.
        torch: The first two numbers of the torch versions that its wheel works with.
        install: The requirements of aihwkit, torch and torchvision, as in setup.cfg.
    """

    aihwkit: str
    torch: tuple[str, ...]
    install: tuple[str, str, str]

    @property
    def command(self) -> str:
        """Return the command that installs the pair."""
        return "pip install " + " ".join(f'"{requirement}"' for requirement in self.install)


PAIRS = (
    Pair(
        "1.1.0",
        ("2.10", "2.11"),
        ("aihwkit==1.1.0", "torch>=2.10,<2.12", "torchvision>=0.25,<0.27"),
    ),
    Pair(
        "1.2.0",
        ("2.13", "2.14"),
        ("aihwkit==1.2.0", "torch>=2.13,<2.15", "torchvision>=0.28,<0.30"),
    ),
)
"""The pairs that were tried, oldest first."""

NEWEST_FROM = (3, 12)
"""The Python from which on aihwkit has wheels of the newest pair."""


TORCHVISION = {
    "2.10": "0.25",
    "2.11": "0.26",
    "2.12": "0.27",
    "2.13": "0.28",
    "2.14": "0.29",
}
"""The torchvision that is built for each torch. The native engine runs with all of them."""


def pair_for(python: tuple[int, int] = sys.version_info[:2]) -> Pair:
    """Return the pair that is installed with a version of Python.

    Args:
        python: The first two numbers of the version; those of this Python by default.
    """
    return PAIRS[-1] if python >= NEWEST_FROM else PAIRS[0]


def torchvision_for(torch: str) -> str | None:
    """Return the first two numbers of the torchvision that is built for a torch.

    Args:
        torch: Version of torch, such as "2.11.0+cpu".

    Returns:
        The numbers, such as "0.26"; None if this torch was not tried.
    """
    return TORCHVISION.get(minor(torch))


def installed(package: str) -> str | None:
    """Return the installed version of a package, or None.

    Args:
        package: Name of the package.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def works(aihwkit: str | None, torch: str | None) -> bool:
    """Return whether versions of aihwkit and torch are a pair that was tried.

    Args:
        aihwkit: Version of aihwkit; None if it is missing.
        torch: Version of torch; None if it is missing.
    """
    return any(_public(aihwkit) == pair.aihwkit and minor(torch) in pair.torch for pair in PAIRS)


def check(aihwkit: str | None = None, torch: str | None = None) -> None:
    """Check that the versions of aihwkit and torch are a pair that was tried.

    The wheels of aihwkit are bound to a torch version. With another one they do not import, or they
    import and the C++ tile fails inside a conversion.

    Args:
        aihwkit: Version of aihwkit; the installed one by default.
        torch: Version of torch; the installed one by default. Text after a "+" names a build, as in
            "2.11.0+cpu", and does not count.

    Raises:
        VersionError: If the pair was not tried, or a package is missing.
    """
    aihwkit = aihwkit or installed("aihwkit")
    torch = torch or installed("torch")
    if works(aihwkit, torch):
        return
    python = ".".join(map(str, sys.version_info[:2]))
    tried = "; ".join(f"{pair.aihwkit} with torch {' or '.join(pair.torch)}" for pair in PAIRS)
    raise VersionError(
        f"the aihwkit engine needs aihwkit {tried}; found aihwkit {aihwkit or 'not installed'} "
        f"with torch {torch or 'not installed'}; on Python {python} run: {pair_for().command}"
    )


def broken(problem: Exception) -> VersionError:
    """Return the error for an aihwkit of the right version that cannot be imported.

    Args:
        problem: The error of the import.
    """
    repair = f'pip install --force-reinstall --no-deps "aihwkit=={pair_for().aihwkit}"'
    return VersionError(
        f"aihwkit {installed('aihwkit')} cannot be imported ({type(problem).__name__}: {problem}); "
        f"run: {repair}"
    )


def minor(text: str | None) -> str:
    """Return the first two numbers of a version: "2.10.1+cpu" gives "2.10".

    Args:
        text: A version; None gives "".
    """
    return ".".join(_public(text).split(".")[:2])


def _public(text: str | None) -> str:
    """Return a version without the name of its build."""
    return (text or "").split("+")[0]
