"""Files that are written whole or not at all. No other module replaces a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aimc_bridge.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path, which replaces `path` if the block succeeds.

    It lies in the same folder. The temporary name starts with a point, contains the process id and
    keeps the suffix, so that libraries which choose a format by suffix still work. If the block
    fails, the temporary file is removed and `path` stays as it was.

    Args:
        path: The file to write or to replace. Its folder must exist.

    Yields:
        The path to write to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None:  # on a full disk the system does not say which file it was
            error.filename = os.fspath(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Args:
        path: The file; its folder must exist.
        text: The whole content; line ends are written as they are.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors of any device as a safetensors file, whole or not at all.

    Args:
        path: The file; its folder must exist.
        tensors: The tensors by name. Tensors that share memory are written once per name.
        metadata: Text values for the header of the file.

    Raises:
        CheckpointError: If the file cannot be written (a full disk, a missing folder).
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    try:
        with replacing(path) as temporary:
            save_file(plain, temporary, metadata=None if metadata is None else dict(metadata))
    except (SafetensorError, OSError) as cause:
        raise CheckpointError(f"{path}: cannot be written ({cause})") from cause


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file.

    Args:
        path: The file.

    Returns:
        The tensors by name, on the CPU.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as cause:
        raise CheckpointError(f"{path}: no such file") from cause
    except (SafetensorError, OSError) as cause:
        raise CheckpointError(f"{path}: damaged, or not a safetensors file ({cause})") from cause


def add_tensor(digest: hashlib._Hash, tensor: Tensor) -> None:
    """Add a tensor's dtype, shape and bytes to a digest.

    Args:
        digest: A hash object of `hashlib`.
        tensor: A tensor of any dtype and device.
    """
    import torch

    plain = tensor.detach().cpu().contiguous()
    digest.update(repr((plain.dtype, tuple(plain.shape))).encode())
    digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
