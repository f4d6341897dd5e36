"""Files that are whole or not there, and files of the user's that may be anything."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from contextlib import suppress
from pathlib import Path

from zopo_fast.errors import OutputError

MAX_DATA_BYTES = 2**30  # bytes of a task or a pool
MAX_SETTINGS_BYTES = 2**24  # bytes of a configuration, a template, a rubric

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def fsync_directory(folder: Path) -> None:
    """Have a folder's entries on disk, where the system knows such a thing."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # not all file systems can
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


class UnreadableFileError(Exception):
    """Why a file cannot be read; `missing`: there is none."""

    def __init__(self, reason: str, missing: bool = False) -> None:
        super().__init__(reason)
        self.missing = missing


def read_bytes(path: str | Path, most: int) -> bytes:
    """Return a regular file's content; raises `UnreadableFileError`, and never waits for a pipe or a device.

    Args:
        most: bytes that it may have: a file that does not end must not take all memory.
    """
    try:
        require_regular_file(os.stat(path))  # before it is opened: to open a device may do something
        # And after: another file may have taken its place. O_NONBLOCK: a pipe's open would wait for a writer.
        flags = ("O_NONBLOCK", "O_NOCTTY", "O_BINARY")
        with open(path, "rb", opener=lambda name, mode: os.open(name, _with(mode, flags))) as file:
            status = os.fstat(file.fileno())
            require_regular_file(status)
            if status.st_size > most:
                raise UnreadableFileError(f"larger than {most:,} bytes")
            data = file.read(status.st_size + 1)
            while len(data) <= most and (more := file.read(2**20)):  # it grew, or its size is not known
                data += more
    except OSError as error:
        raise UnreadableFileError(
            error.strerror or str(error), isinstance(error, FileNotFoundError)
        ) from error
    except ValueError as error:  # NUL, or half a surrogate pair
        raise UnreadableFileError(f"not a path: {error}") from error
    except MemoryError as error:
        raise UnreadableFileError("larger than the memory that is left") from error
    if len(data) > most:
        raise UnreadableFileError(f"larger than {most:,} bytes")
    return data


def _with(mode: int, flags: tuple[str, ...]) -> int:
    for name in flags:
        mode |= getattr(os, name, 0)
    return mode


def require_regular_file(status: os.stat_result) -> None:
    """Raise `UnreadableFileError` for what may never end, or wait."""
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "something")
        raise UnreadableFileError(f"{kind}, not a file")


def is_file(path: str | Path) -> bool:
    """Whether there is a regular file; False also where that is no path at all."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def exists(path: str | Path) -> bool:
    """Whether there is anything at a path that is to be written; raises `OutputError` where none can be."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be written: {error_reason(error)}") from error
    return True


def expand_user(path: str | Path) -> Path:
    """The path with `~` resolved, where there is such a user (a container's may have no home)."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def error_reason(error: OSError | ValueError) -> str:
    """Why, in the system's words."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write a file, whole or not at all; raises `OutputError`."""
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
    """Return `$ZOPO_CACHE_DIR`, else `zopo_fast` in the platform's folder for a user's caches."""
    if given := os.environ.get("ZOPO_CACHE_DIR", "").strip():
        return expand_user(given)
    usual = {"win32": "~/AppData/Local", "darwin": "~/Library/Caches"}.get(sys.platform, "~/.cache")
    variable = {"win32": "LOCALAPPDATA", "darwin": ""}.get(sys.platform, "XDG_CACHE_HOME")
    return expand_user(os.environ.get(variable) or usual) / "zopo_fast"
