"""Files that notice damage: tensors and facts with a checksum in the file.

A file of tensors is a safetensors file. Its header holds the SHA-256 of all names, types, shapes,
values and of the rest of the header. A file of facts is JSON with the SHA-256 of its contents.
Reading checks everything before anybody uses a part of it. Files that were written before there
were checksums are read with a warning.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aimc_bridge.errors import CheckpointError, UsageError
from aimc_bridge.files import check_file, own_folder, read_text, replacing, write_text

if TYPE_CHECKING:
    from torch import Tensor

_SEAL = "aimc_bridge_sha256"
_MARK = "aimc_bridge_sealed"  # two entries: damage to the name of one does not hide the other
_JSON_SEAL = "sha256"


class Sealed(NamedTuple):
    """The contents of a file of tensors.

    Attributes:
        tensors: The tensors by name, on the CPU.
        metadata: The texts of the header, without the checksum.
        seal: The checksum; None if the file was written before there were checksums.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    seal: str | None


# --- tensors --------------------------------------------------------------------------------------


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write tensors of any device as a safetensors file with a checksum, whole or not at all.

    Args:
        path: The file; its folder must exist.
        tensors: The tensors by name. Tensors that share memory are written once per name.
        metadata: Text values for the header of the file.

    Returns:
        The checksum.

    Raises:
        CheckpointError: If the file cannot be written (a full disk, a missing folder).
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    about = {**(metadata or {}), _MARK: "1"}
    about[_SEAL] = _seal(plain, about)
    try:
        with replacing(path) as temporary, own_folder(temporary) as inside:
            # beside its target, safetensors makes a file of a random name: if the process is killed
            # there, nobody else could tell what it is
            save_file(plain, inside / temporary.name, metadata=about)
            os.replace(inside / temporary.name, temporary)
    except (SafetensorError, OSError, UsageError) as cause:
        raise CheckpointError(f"{path}: cannot be written ({cause})") from cause
    return about[_SEAL]


def read_tensors(path: str | os.PathLike[str], *, must: bool = False) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file; see `read_sealed`.

    Args:
        path: The file.
        must: Whether a file without a checksum is an error.

    Returns:
        The tensors by name, on the CPU.
    """
    return read_sealed(path, must=must).tensors


def read_sealed(
    path: str | os.PathLike[str], what: str = "a safetensors file", *, must: bool = False
) -> Sealed:
    """Read a whole safetensors file and compare it with its checksum.

    Args:
        path: The file.
        what: The kind of file, for the error.
        must: Whether a file without a checksum is an error.

    Raises:
        CheckpointError: If the file is missing or damaged.

    Warns:
        UserWarning: If the file has no checksum, and `must` is off.
    """
    from safetensors import SafetensorError, safe_open

    try:
        check_file(path)
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata: dict[str, str] = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as cause:
        raise CheckpointError(f"{path}: no such file") from cause
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError, AttributeError) as cause:
        # the last three: torch, of a type or a size in the header that it does not have
        raise CheckpointError(f"{path}: not {what}, or damaged ({cause})") from cause
    seal = metadata.pop(_SEAL, None)
    if seal is None and _MARK not in metadata:
        if must:
            raise CheckpointError(f"{path}: has no checksum")
        _warn_without(path)
    elif seal != _seal(tensors, metadata):
        raise CheckpointError(
            f"{path}: not {what}, or damaged (its contents do not fit its checksum);",
            "use a copy of it, or make it again",
        )
    metadata.pop(_MARK, None)
    return Sealed(tensors, metadata, seal)


def _seal(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of tensors with their names, and of the texts of a header."""
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        digest.update(json.dumps(name).encode())
        add_tensor(digest, tensors[name])
    return digest.hexdigest()


def add_tensor(digest: hashlib._Hash, tensor: Tensor) -> None:
    """Add a tensor's dtype, shape and bytes to a digest.

    Args:
        digest: A hash object of `hashlib`.
        tensor: A tensor of any dtype and device.
    """
    import torch

    plain = tensor.detach().cpu().contiguous()
    digest.update(repr((plain.dtype, tuple(plain.shape))).encode())
    digest.update(plain.flatten().view(torch.uint8).numpy().data)


def misfits(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], *, exact: bool = False
) -> list[str]:
    """Say which tensors of a file do not fit those of a model, and why.

    Args:
        expected: The tensors that the model has now, by name.
        tensors: The tensors of the file, by name.
        exact: Whether types must be the same. If not, weights may be stored in another precision.

    Returns:
        Sentences such as "'fc.weight' is missing", by name; empty if all fit. NaN and infinite
        values fit only where the model has such values now, as masks do.
    """
    wrong = []
    for name in sorted(expected.keys() | tensors.keys()):
        reason = _misfit(expected.get(name), tensors.get(name), exact)
        if reason:
            wrong.append(f"{name!r} {reason}")
    return wrong


def _misfit(now: Tensor | None, stored: Tensor | None, exact: bool) -> str:
    """Return why a stored tensor does not fit a model's one; an empty text if it does."""
    if stored is None or now is None:
        return "is missing" if stored is None else "is not of this model"
    if stored.shape != now.shape:
        return f"has the shape {tuple(stored.shape)}, not {tuple(now.shape)}"
    floats = stored.is_floating_point() and now.is_floating_point()
    if stored.dtype != now.dtype and (exact or not floats):
        return f"has the type {stored.dtype}, not {now.dtype}"
    if not bool(stored.isfinite().all()) and bool(now.isfinite().all()):
        return "holds NaN or infinite values"
    return ""


# --- facts ----------------------------------------------------------------------------------------


def write_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Write plain values as JSON with a checksum, whole or not at all.

    Args:
        path: The file; its folder must exist.
        facts: The values by name.
    """
    plain = json.loads(json.dumps(facts))
    write_text(path, json.dumps({**plain, _JSON_SEAL: _json_seal(plain)}, indent=1) + "\n")


def read_facts(path: Path) -> dict[str, Any]:
    """Read a file of `write_facts` and compare it with its checksum.

    Args:
        path: The file.

    Raises:
        CheckpointError: If the file is missing or damaged.

    Warns:
        UserWarning: If the file has no checksum.
    """
    facts = read_json(path)
    if _JSON_SEAL not in facts:
        if any(re.fullmatch("[0-9a-f]{64}", str(value)) for value in facts.values()):
            raise CheckpointError(f"{path} is damaged (its checksum has another name)")
        _warn_without(path)
    elif facts.pop(_JSON_SEAL) != _json_seal(facts):
        raise CheckpointError(f"{path} is damaged (its contents do not fit its checksum)")
    return facts


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.

    Raises:
        CheckpointError: If the file is missing, damaged or holds something else.
    """
    try:
        facts = json.loads(read_text(path))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error})") from None
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path} is damaged (it holds a {type(facts).__name__}, no table)")
    return facts


def damaged(path: str | os.PathLike[str], error: Exception, advice: str) -> CheckpointError:
    """Return the error for a file whose reader failed; it names the file and the damage once.

    Args:
        path: The file.
        error: The error of the reader. A CheckpointError, such as `read_facts` raises, names the
            file itself; the advice of `read_sealed` is left out.
        advice: What the user can do.
    """
    if isinstance(error, CheckpointError) and error.args:
        what = str(error.args[0]).rstrip(";")
    else:
        cause = f"it lacks {error}" if isinstance(error, KeyError) else error
        what = f"{path} is damaged ({cause})"
    return CheckpointError(f"{what}; {advice}")


def _json_seal(plain: Mapping[str, Any]) -> str:
    """Return the SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _warn_without(path: str | os.PathLike[str]) -> None:
    """Warn of a file without a checksum."""
    warnings.warn(
        f"{path}: no checksum (an older version or another program wrote it), so damage to it "
        "would go unnoticed",
        stacklevel=4,
    )
