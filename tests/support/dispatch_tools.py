"""Run scripts in a new process with a given instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

import pytest
from time_tools import HANG

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
    """Run a script with ZOPO_ISA set to `isa`, or unset."""
    environment = {k: v for k, v in os.environ.items() if k != "ZOPO_ISA"}
    if isa is not None:
        environment["ZOPO_ISA"] = isa
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG, check=False)


@cache
def answer(isa: str) -> str:
    """Return "runs ISA", or the error of an instruction set that cannot run here."""
    done = run(REFUSED, isa)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def require(isa: str) -> None:
    """Skip the test if an instruction set cannot run here."""
    if (said := answer(isa)) != f"runs {isa}":
        pytest.skip(said)
