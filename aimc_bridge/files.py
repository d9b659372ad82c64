"""Files that are written whole or not at all, and files of strangers that are read.

No other module replaces a file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from aimc_bridge.errors import UsageError

if TYPE_CHECKING:
    from types import TracebackType

_PARTIAL = re.compile(r"\..*\.(?:(?P<host>[^.]*)-)?(?P<process>[0-9]+)\.partial(?:\.[^.]*)?")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path, which replaces `path` if the block succeeds.

    It lies in the same folder. The temporary name starts with a point, contains the host and the
    process id and keeps the suffix, so that libraries which choose a format by suffix still work.
    If the block fails, the temporary file is removed and `path` stays as it was. What a killed
    process left in the folder is removed too. The file gets the permissions of any new file,
    whatever the library that writes it does.

    Args:
        path: The file to write or to replace. Its folder must exist.

    Yields:
        The path to write to.

    Raises:
        UsageError: If the path cannot be encoded here.
    """
    path = check_path(path)
    remove_partial(path.parent)
    temporary = path.with_name(f".{path.stem}.{_host()}-{os.getpid()}.partial{path.suffix}")
    try:
        temporary.touch()  # as the umask says
        mode = temporary.stat().st_mode & 0o777
        yield temporary
        if temporary.stat().st_mode & 0o777 != mode:
            temporary.chmod(mode)  # safetensors makes files that only their owner can read
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None or os.fspath(temporary) in (error.filename, error.filename2):
            error.filename = os.fspath(path)  # on a full disk the system does not say which it was
        error.filename2 = None  # of os.replace, the temporary one is no use to anybody
        raise
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to show
            temporary.unlink(missing_ok=True)


@contextmanager
def own_folder(temporary: Path) -> Iterator[Path]:
    """Make a folder for a library that makes temporary files of its own; remove it at the end.

    What a killed process left is removed as `replacing` says.

    Args:
        temporary: A path that `replacing` yields.

    Yields:
        The folder, beside that path.
    """
    folder = temporary.with_suffix(".folder")
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_writable(path: Path) -> None:
    """Check that a file can be written, before any work is done for it; nothing is left.

    Args:
        path: The file. Its folder need not exist: it is made and removed again.

    Raises:
        OSError: If no file can be made beside it, or if it is not a file.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a file", os.fspath(path))
    new = [folder for folder in path.absolute().parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    probe = path.with_name(f".{path.stem}.{_host()}-{os.getpid()}.partial{path.suffix}")
    try:
        probe.touch()
        probe.unlink()
    finally:
        for folder in new:
            folder.rmdir()


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Keep other sweeps, of any process or thread, from a file while the block runs.

    A hidden file beside it is locked. The system takes the lock back when the process ends, in
    whatever way it ends. A file system without locks gives none.

    Args:
        path: The file; it need not exist, and its folder is made.

    Raises:
        UsageError: If somebody else has it.
    """
    new = [folder for folder in path.absolute().parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    place = path.with_name(f".{path.name}.lock")
    held = FileLock(place, thread_local=False)
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise UsageError(
            f"{path}: another sweep is writing this file; wait until it is done, or name another"
        ) from None
    except (NotImplementedError, OSError):  # no locks here; what cannot be written is told later
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # before the release: afterwards it may be another's
            place.unlink(missing_ok=True)
        held.release()
        with contextlib.suppress(OSError):  # only folders in which nothing was written
            for folder in new:
                folder.rmdir()


def remove_partial(folder: Path, *, below: bool = False) -> None:
    """Remove the temporary files and folders of processes of this machine that are dead.

    Args:
        folder: The folder; nothing happens if it does not exist.
        below: Whether the folders in it are looked through, too.
    """
    with contextlib.suppress(OSError):
        for path in folder.rglob(".*.partial*") if below else folder.glob(".*.partial*"):
            match = _PARTIAL.fullmatch(path.name)
            if match is None or match["host"] not in (None, _host()):
                continue
            if _alive(int(match["process"])):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def is_partial(path: Path) -> bool:
    """Return whether a path has the name of a temporary file or folder of `replacing`.

    Args:
        path: The path.
    """
    return _PARTIAL.fullmatch(path.name) is not None


def _host() -> str:
    """Return a short name of this machine that a file's name may contain."""
    return re.sub("[^A-Za-z0-9_]+", "_", socket.gethostname())[:40]


def _alive(process: int) -> bool:
    """Return whether a process of this machine is running."""
    if os.name == "nt":  # there, signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Give an OSError of the block the name of a file, if it has none.

    A full disk does not say which file could not be written.

    Args:
        path: The file that the block writes.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def check_path(path: str | os.PathLike[str]) -> Path:
    """Return a path, if this process can use it and every text file can hold it.

    Args:
        path: A path.

    Raises:
        UsageError: If it holds bytes that are no UTF-8, characters that the locale of this process
            cannot encode, or a zero byte.
    """
    text = os.fspath(path)
    try:
        text.encode("utf-8")
        usable = b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise UsageError(
            f"path {ascii(text)} cannot be written in UTF-8 and in the encoding of this locale; "
            "rename it, or set a locale such as LC_ALL=C.UTF-8"
        )
    return Path(text)


# --- reading --------------------------------------------------------------------------------------

MOST_BYTES = 2**28
"""The largest text that is read as a whole, if nothing else is said: 256 MiB."""
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_file(path: str | os.PathLike[str], most: int | None = None) -> None:
    """Check that a path is a file, which has an end and does not make its reader wait.

    Args:
        path: The path. A symbolic link is followed.
        most: The largest number of bytes allowed; None allows any.

    Raises:
        OSError: If there is no such file, if it is a folder, a pipe or a device, or too large.
        UsageError: If the path cannot be encoded here.
    """
    path = check_path(path)
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file", os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"{kind}, not a file", os.fspath(path))
    if most is not None and status.st_size > most:
        size = f"{status.st_size:,} bytes; allowed: up to {most:,}"
        raise OSError(errno.EFBIG, size, os.fspath(path))


def read_bytes(path: str | os.PathLike[str], most: int = MOST_BYTES) -> bytes:
    """Read a whole file.

    Args:
        path: The file.
        most: The largest number of bytes allowed.

    Raises:
        OSError: As `check_file`, or if the file cannot be read.
        UsageError: If the path cannot be encoded here.
    """
    check_file(path, most)
    return Path(path).read_bytes()


def read_text(path: str | os.PathLike[str], most: int = MOST_BYTES) -> str:
    """Read a whole text file in UTF-8; line ends stay as they are.

    Args:
        path: The file.
        most: The largest number of bytes allowed.

    Raises:
        OSError: As `check_file`, or if the file cannot be read.
        UnicodeDecodeError: If it is not UTF-8.
        UsageError: If the path cannot be encoded here.
    """
    return read_bytes(path, most).decode("utf-8")


# --- writing --------------------------------------------------------------------------------------


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Args:
        path: The file; its folder must exist.
        text: The whole content; line ends are written as they are.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


class Lines:
    """A text file in UTF-8 to which whole lines are added, each of them at once.

    A line that does not fit on the disk is taken back. Only the death of the process or of the
    machine can leave a part of one. Use it as a context manager.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Args:
            path: The file; its folder must exist.

        Raises:
            OSError: If it cannot be opened.
        """
        self.path = path
        self._file = path.open("ab", buffering=0)

    def __enter__(self) -> Lines:
        """Return the file itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def write(self, line: str) -> None:
        """Add a line, as `csv.writer` does.

        Args:
            line: The line with its end.

        Raises:
            OSError: If the disk is full; it names the file.
        """
        size = os.fstat(self._file.fileno()).st_size
        left = memoryview(line.encode("utf-8"))
        with naming(self.path):
            try:
                while left:
                    left = left[self._file.write(left) :]
            except BaseException:
                with contextlib.suppress(OSError):  # the first error is the one to show
                    self._file.truncate(size)
                raise

    def close(self) -> None:
        """Close the file."""
        with naming(self.path):
            self._file.close()
