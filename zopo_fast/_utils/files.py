"""Atomic writes, bounded reads of untrusted paths, and the cache directory."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from contextlib import suppress
from pathlib import Path

from zopo_fast.errors import OutputError

MAX_DATA_BYTES = 2**30  # task or pool file
MAX_SETTINGS_BYTES = 2**24  # configuration, template or rubric file

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def fsync_directory(folder: Path) -> None:
    """Flush a directory's entries to disk; no effect on systems without directory fsync."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems do not support fsync of a directory
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


class UnreadableFileError(Exception):
    """A file cannot be read; callers turn this into their own error.

    Attributes:
        missing: True when the file does not exist.
    """

    def __init__(self, reason: str, missing: bool = False) -> None:
        super().__init__(reason)
        self.missing = missing


def read_bytes(path: str | Path, max_bytes: int) -> bytes:
    """Read a regular file without blocking on a pipe or a device.

    Args:
        path: Path of the file.
        max_bytes: Largest accepted size, so that an endless file cannot exhaust memory.

    Raises:
        UnreadableFileError: The file is missing, not regular, too large or not readable.
    """
    try:
        require_regular_file(os.stat(path))  # check before opening: opening a device can have side effects
        # Check again after opening: the file may have been replaced. O_NONBLOCK: opening a pipe would block.
        flags = ("O_NONBLOCK", "O_NOCTTY", "O_BINARY")
        with open(path, "rb", opener=lambda name, mode: os.open(name, _with(mode, flags))) as file:
            status = os.fstat(file.fileno())
            require_regular_file(status)
            if status.st_size > max_bytes:
                raise UnreadableFileError(f"larger than {max_bytes:,} bytes")
            data = file.read(status.st_size + 1)
            while len(data) <= max_bytes and (more := file.read(2**20)):  # growing file, or unknown size
                data += more
    except OSError as error:
        raise UnreadableFileError(
            error.strerror or str(error), isinstance(error, FileNotFoundError)
        ) from error
    except ValueError as error:  # the path holds NUL or a lone surrogate
        raise UnreadableFileError(f"not a path: {error}") from error
    except MemoryError as error:
        raise UnreadableFileError("larger than the available memory") from error
    if len(data) > max_bytes:
        raise UnreadableFileError(f"larger than {max_bytes:,} bytes")
    return data


def _with(mode: int, flags: tuple[str, ...]) -> int:
    for name in flags:
        mode |= getattr(os, name, 0)
    return mode


def require_regular_file(status: os.stat_result) -> None:
    """Check that a file is regular: reading any other kind may block or never end.

    Raises:
        UnreadableFileError: The file is a directory, pipe, socket or device.
    """
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "a special file")
        raise UnreadableFileError(f"{kind}, not a regular file")


def is_file(path: str | Path) -> bool:
    """Return True if the path names a regular file; False for an invalid path too."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def exists(path: str | Path) -> bool:
    """Return True if an output path is already occupied, by a file of any kind or a dangling link.

    Raises:
        OutputError: The path is invalid, or its directory cannot be searched.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be written: {error_reason(error)}") from error
    return True


def expand_user(path: str | Path) -> Path:
    """Resolve `~`; return the path unchanged if the user has no home directory, as in some containers."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def error_reason(error: OSError | ValueError) -> str:
    """Return the operating system's description of an error, without errno and path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write a file atomically: readers see the old content or all of the new content.

    Raises:
        OutputError: The file cannot be written.
    """
    try:
        target = Path(os.path.realpath(path))
        partial = target.with_name(f".{target.name[:40]}.{secrets.token_hex(6)}.tmp")
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be written: {error_reason(error)}") from error


def default_cache_dir() -> Path:
    """Return `$ZOPO_CACHE_DIR`, or `zopo_fast` in the platform's user cache directory."""
    if configured := os.environ.get("ZOPO_CACHE_DIR", "").strip():
        return expand_user(configured)
    default = {"win32": "~/AppData/Local", "darwin": "~/Library/Caches"}.get(sys.platform, "~/.cache")
    variable = {"win32": "LOCALAPPDATA", "darwin": ""}.get(sys.platform, "XDG_CACHE_HOME")
    return expand_user(os.environ.get(variable) or default) / "zopo_fast"
