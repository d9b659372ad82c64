"""Versions of aihwkit and torch that work together, checked before the import."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from aimc_bridge.errors import VersionError

AIHWKIT = "1.1.0"
TORCH = ("2.10", "2.11")
INSTALL = 'pip install "aihwkit==1.1.0" "torch>=2.10,<2.12" "torchvision>=0.25,<0.27"'


def found(package: str) -> str | None:
    """Return the installed version of a package, or None.

    Args:
        package: Name of the package.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def check(aihwkit: str | None = None, torch: str | None = None) -> None:
    """Check that the versions of aihwkit and torch are a pair that was tried.

    The wheels of aihwkit are bound to a torch version. With torch 2.9 they do not import. With 2.13
    they import, but the C++ tile fails inside a conversion.

    Args:
        aihwkit: Version of aihwkit; the installed one by default.
        torch: Version of torch; the installed one by default. Text after a "+" names a build, as in
            "2.11.0+cpu", and does not count.

    Raises:
        VersionError: If the pair was not tried, or a package is missing.
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
    """Return a version without the name of its build."""
    return (text or "").split("+")[0]
