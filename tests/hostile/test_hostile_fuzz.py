"""Short runs of the coverage-guided fuzz targets; `make fuzz` runs them longer."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent / "fuzz"
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in FUZZ.glob("fuzz_*.py"))


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FUZZ / "run.py"), *args],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
@pytest.mark.parametrize("target", TARGETS)
def test_a_fuzz_target_finds_no_failure(tmp_path: Path, target: str) -> None:
    done = run(
        target, "--runs", "300", "--corpus", str(tmp_path / "corpus"), "--out", str(tmp_path / "found")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "held" in done.stdout
    assert any(
        (tmp_path / "corpus" / target).iterdir()
    )  # coverage guides the search: some inputs reached new branches


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_a_failing_target_is_reported(tmp_path: Path) -> None:
    """The target fails on every input but the empty one."""
    (tmp_path / "corpus").mkdir()
    for name in ("harness.py", "run.py", "tokens.dict"):
        (tmp_path / name).write_bytes((FUZZ / name).read_bytes())
    (tmp_path / "fuzz_bad.py").write_text(
        "from harness import fuzz\n"
        "def target(folder, data):\n    if data: raise ValueError('no')\n"
        "fuzz(target)\n"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "run.py"), "--runs", "50", "--out", str(tmp_path / "found")],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 1
    assert "BROKEN" in done.stdout
    assert "ValueError: no" in done.stdout
    assert list((tmp_path / "found").iterdir())


def test_an_unknown_target_is_refused() -> None:
    assert run("nothing").returncode in ((0, 2) if importlib.util.find_spec("atheris") is None else (2,))
