"""Files that are whole or not there."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from .errors import OutputError


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file, whole or not at all; raises `OutputError`."""
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
