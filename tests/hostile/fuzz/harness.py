"""Run one function on coverage-guided inputs (atheris, which is libFuzzer).

    python tests/hostile/fuzz/fuzz_task.py -runs=10000 CORPUS

Accepts the options of libFuzzer; inputs that reach new branches are written to the first folder given.
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
# Default of libFuzzer's option: an input that takes longer, in seconds, is a hang.
DEFAULTS = {"-timeout": "20", "-rss_limit_mb": "4096", "-max_len": "4096", "-dict": str(HERE / "tokens.dict")}

instrumented = atheris.instrument_imports(include=["zopo_fast", "tomllib", "json", "email"])


def in_file(folder: Path, kinds: tuple[str, ...]) -> Callable[[bytes], Path]:
    """Return a function that writes an input to a file: the first byte selects the suffix."""

    def written(data: bytes) -> Path:
        ending = kinds[data[0] % len(kinds)] if data else kinds[0]
        path = folder / f"x{ending}"
        path.write_bytes(data[1:])
        return path

    return written


def fuzz(target: Callable[[Path, bytes], Any]) -> None:
    """Call `target(folder, data)` as long as the options of libFuzzer say.

    The target may raise a typed error; any other exception or warning ends the run and saves the input.
    """
    from zopo_fast.errors import ZopoError

    warnings.simplefilter("error")
    memory = Path("/dev/shm")
    where = Path(tempfile.mkdtemp(prefix="zopo-fuzz-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, where, ignore_errors=True)
    os.fsync = lambda _: None  # the files need not survive a loss of power

    def once(data: bytes) -> None:
        try:
            target(where, data)
        except ZopoError as error:
            if len(str(error)) > 20_000:
                raise AssertionError("the error message is too long") from error

    typed = {argument.split("=")[0] for argument in sys.argv[1:]}
    added = [f"{name}={value}" for name, value in DEFAULTS.items() if name not in typed]
    atheris.Setup([sys.argv[0], *added, *sys.argv[1:]], once)
    atheris.Fuzz()
