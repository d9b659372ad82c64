"""The packages of the project under names that something else on the import path has too."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from aimc_bridge.errors import ShadowedError

_ROOT = Path(__file__).resolve().parents[1]


def check(*names: str) -> None:
    """Check that packages of the project are what Python imports under their names.

    A `presets.py` beside a user's script comes first on the import path. Without this check, its
    first use would end in an error that says nothing of the kind.

    Args:
        *names: Names of packages, such as "presets".

    Raises:
        ShadowedError: If Python finds, or has imported, something else under one of the names.
    """
    for name in names:
        other = shadow(name)
        if other is not None:
            raise ShadowedError(
                f"{other} shadows the package {name} of aimc-bridge, which is in {_ROOT / name}; "
                f'rename it, or start Python where "import {name}" does not find it first'
            )


def shadow(name: str) -> Path | None:
    """Return what Python imports in place of a package of the project.

    Args:
        name: The name of the package.

    Returns:
        The file, or the folder of another package, or a folder without `__init__.py`, which comes
        first if this project was installed by an import hook. None if nothing shadows the package.
    """
    try:
        spec = find_spec(name)
    except ValueError:  # a module without a spec: made in this process, not found on the path
        return None
    if spec is None:  # not installed
        return None
    if spec.origin is None:
        installed = (_ROOT / name / "__init__.py").is_file()
        folders = list(spec.submodule_search_locations or ())
        return Path(folders[0]) if installed and folders else None
    origin = Path(spec.origin)
    if origin.resolve().parent == _ROOT / name:
        return None
    return origin.parent if spec.submodule_search_locations else origin
