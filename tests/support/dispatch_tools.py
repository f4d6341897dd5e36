"""Scripts run with one instruction set in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

import pytest

REFUSED = """
import zopo_fast as zf
try:
    zf.NTK.random(3).gram([[1.0, 2.0, 3.0]])
except zf.ConfigError as error:
    print(error)
else:
    from zopo_fast import _core
    print("runs", _core.isa())
"""


def run(script: str, isa: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "ZOPO_ISA"}
    if isa is not None:
        environment["ZOPO_ISA"] = isa
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@cache
def answer(isa: str) -> str:
    done = run(REFUSED, isa)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def require(isa: str) -> None:
    if (said := answer(isa)) != f"runs {isa}":
        pytest.skip(said)
