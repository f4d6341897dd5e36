"""Read-only view of a study, also while a run writes it: a copy in a temporary folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zopo_fast.errors import StoreBusyError, StoreDamagedError, StoreError
from zopo_fast.storage.store import Store, open_here

_ATTEMPTS = 10
_WAL_HEADER = 32  # bytes; they change when the log begins anew after a checkpoint


@contextmanager
def snapshot(path: Path) -> Iterator[Store]:
    """Open a copy of a study for a block; the study itself stays unchanged and unlocked.

    A study that this process has open is copied by its Store: closing another handle of the file would
    release the locks of the Store.

    Raises:
        StoreError: the study is missing or cannot be read; the classes are those of `Store.open`.
        StoreBusyError: the study changes faster than it can be copied.
    """
    with tempfile.TemporaryDirectory(prefix="zopo-show-") as folder:
        copy = Path(folder) / path.name
        try:
            store = open_here(path)
            if store is None:
                _copy(path, copy)
            else:
                store.copy(copy)
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
        try:
            store = Store.open(copy)
        except StoreDamagedError:
            raise StoreDamagedError(
                f"{path}: is damaged, or not a study; --resume salvages what it can"
            ) from None
        except StoreError as error:
            raise type(error)(str(error).replace(str(copy), str(path))) from None
        with store:
            yield store


def _copy(path: Path, copy: Path) -> None:
    """Copy the write-ahead log, then the file, until no checkpoint has changed the file meanwhile."""
    if not path.is_file():
        raise StoreError(f"{path}: no study file there")
    log = path.with_name(path.name + "-wal")
    log_copy = copy.with_name(copy.name + "-wal")
    for _ in range(_ATTEMPTS):
        before = _state(path, log)
        log_copy.unlink(missing_ok=True)
        if log.exists():
            shutil.copyfile(log, log_copy)
        shutil.copyfile(path, copy)
        if _state(path, log) == before:
            return
    raise StoreBusyError(f"{path}: changes too fast to be copied; try again")


def _state(path: Path, log: Path) -> tuple[int, int, bytes]:
    status = path.stat()
    header = b""
    if log.exists():
        with log.open("rb") as file:
            header = file.read(_WAL_HEADER)
    return status.st_mtime_ns, status.st_size, header
