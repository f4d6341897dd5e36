"""Runs one function on bytes that are found by the branches they reach (atheris, which is libFuzzer).

    python tests/hostile/fuzz/fuzz_task.py -runs=10000 CORPUS

All of libFuzzer's options go; inputs that reach something new are written to the first folder given.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

HERE = Path(__file__).parent
# libFuzzer's own, unless typed: an input that takes longer than this many seconds is a hang.
DEFAULTS = {"-timeout": "20", "-rss_limit_mb": "4096", "-max_len": "4096", "-dict": str(HERE / "tokens.dict")}

instrumented = atheris.instrument_imports(include=["zopo_fast", "tomllib", "json", "email"])


def in_file(folder: Path, kinds: tuple[str, ...]) -> Callable[[bytes], Path]:
    """Writes an input to a file: its first byte says which ending the name has, the rest is the content."""

    def written(data: bytes) -> Path:
        ending = kinds[data[0] % len(kinds)] if data else kinds[0]
        path = folder / f"x{ending}"
        path.write_bytes(data[1:])
        return path

    return written


def fuzz(target: Callable[[Path, bytes], Any]) -> None:
    """Call `target(folder, data)` until libFuzzer's options say that it is enough.

    It may raise a typed error; anything else, a warning too, ends the run with the input in a file.
    """
    from zopo_fast.errors import ZopoError

    warnings.simplefilter("error")
    memory = Path("/dev/shm")
    where = Path(tempfile.mkdtemp(prefix="zopo-fuzz-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, where, ignore_errors=True)
    os.fsync = lambda _: None  # nothing written here has to outlive the process

    def once(data: bytes) -> None:
        try:
            target(where, data)
        except ZopoError as error:
            if len(str(error)) > 20_000:
                raise AssertionError("an error of a size that nobody can read") from error

    typed = {argument.split("=")[0] for argument in sys.argv[1:]}
    added = [f"{name}={value}" for name, value in DEFAULTS.items() if name not in typed]
    atheris.Setup([sys.argv[0], *added, *sys.argv[1:]], once)
    atheris.Fuzz()
