"""Which aihwkit works with which torch, found out before aihwkit is imported."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from aimc_bridge.errors import VersionError

AIHWKIT = "1.1.0"
TORCH = ("2.10", "2.11")
INSTALL = 'pip install "aihwkit==1.1.0" "torch>=2.10,<2.12" "torchvision>=0.25,<0.27"'


def found(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def check(aihwkit: str | None = None, torch: str | None = None) -> None:
    """Raise VersionError unless the pair of packages is one that was tried.

    The wheels of aihwkit are bound to a torch version. With torch 2.9 they do not import; with 2.13
    they import, and the C++ tile then fails inside a conversion.

    Args:    aihwkit, torch  versions; the installed ones by default. What follows a "+" names a
             build ("2.11.0+cpu") and does not count.
    """
    aihwkit = aihwkit or found("aihwkit")
    torch = torch or found("torch")
    if _public(aihwkit) == AIHWKIT and ".".join(_public(torch).split(".")[:2]) in TORCH:
        return
    works = " or ".join(TORCH)
    raise VersionError(
        f"the aihwkit engine needs aihwkit {AIHWKIT} with torch {works}; found aihwkit "
        f"{aihwkit or 'not installed'} with torch {torch or 'not installed'}; run: {INSTALL}"
    )


def _public(text: str | None) -> str:
    return (text or "").split("+")[0]
