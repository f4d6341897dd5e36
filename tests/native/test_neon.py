"""AArch64: all native sources but the bindings compile without a warning, and the inner loops use NEON."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parents[2] / "csrc").rglob("*.cpp"))
COMPILER = os.environ.get("ZOPO_AARCH64_CXX") or shutil.which("aarch64-linux-gnu-g++")
FLAGS = [
    f"-I{Path(__file__).parents[2] / 'csrc'}",
    "-std=c++20",
    "-O3",
    "-ffp-contract=fast",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
    "-Werror",
]


def assemble(source: Path, out: Path) -> str:
    """Compile to assembly text, which needs no assembler and no library of the target."""
    if COMPILER is None:
        pytest.skip("no aarch64-linux-gnu-g++ here (Debian: g++-aarch64-linux-gnu, 46 MB)")
    done = subprocess.run(
        [*COMPILER.split(), *FLAGS, "-S", str(source), "-o", str(out)],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out.read_text()


def test_the_sources_are_found() -> None:
    names = {source.stem for source in SOURCES}
    assert {"baseline", "avx2", "avx512", "gaussian_process", "module"} <= names


# The bindings need the Python headers of the target.
@pytest.mark.parametrize("source", [s for s in SOURCES if s.parent.name != "bindings"], ids=lambda s: s.stem)
def test_a_source_compiles_for_aarch64(source: Path, tmp_path: Path) -> None:
    text = assemble(source, tmp_path / "out.s")
    assert ".arch armv8-a" in text
    if source.stem == "baseline":
        assert "fmla\tv" in text  # fused multiply-adds on vector registers
        assert ".2d" in text
    if source.stem in ("avx2", "avx512"):
        assert "fmla" not in text  # only reports that this machine lacks it
