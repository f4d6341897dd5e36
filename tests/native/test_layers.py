"""Includes of the native sources point down, and pybind11 and CUDA stay where they belong.

base < simd < {ntk, pool} < gp < model < search < bindings, and cuda/runtime < cuda/linalg <
cuda/{ntk, pool} < cuda/gp < cuda/model, where a folder of cuda/ may include the folder of its CPU twin and
those below it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
RANKS = {"base": 0, "simd": 1, "ntk": 2, "pool": 2, "gp": 3, "model": 4, "search": 5, "bindings": 6}
CUDA_RANKS = {"runtime": 0, "linalg": 1, "ntk": 2, "pool": 2, "gp": 3, "model": 4}
# Plain C++ with definitions for builds without CUDA too: the module reports the devices in every build.
CUDA_FROM_OUTSIDE = {("bindings/module.cpp", "cuda/runtime/device.hpp")}
CUDA_HEADER = re.compile(r"(?:cuda_\w+|cublas\w*|mma|cooperative_groups)\.h\w*$")


def includes(text: str) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', text, re.MULTILINE)


def points_down(path: str, included: str) -> bool:
    """True if the file may include the other by their folders."""
    own, other = path.split("/"), included.split("/")
    if own[0] != "cuda":
        return other[0] == "cuda" or other[0] == own[0] or RANKS[other[0]] < RANKS[own[0]]
    if other[0] == "cuda":
        return other[1] == own[1] or CUDA_RANKS[other[1]] < CUDA_RANKS[own[1]]
    if own[1] in RANKS:  # its twin on the CPU
        return other[0] == own[1] or RANKS[other[0]] < RANKS[own[1]]
    return other[0] == "base"


def violations(csrc: Path) -> list[str]:
    """Every include that breaks a rule, as "file: what"."""
    found = []
    for source in sorted(p for p in csrc.rglob("*") if p.is_file()):
        path, text = source.relative_to(csrc).as_posix(), source.read_text()
        within_cuda = path.startswith("cuda/")
        device_code = within_cuda and source.suffix in (".cu", ".cuh")
        for included in includes(text):
            if included.startswith("pybind11/") and not path.startswith("bindings/"):
                found.append(f"{path}: pybind11")
            if CUDA_HEADER.match(included) and not device_code:
                found.append(f"{path}: a CUDA header, {included}")
            if "/" not in included or included.split("/")[0] not in {*RANKS, "cuda"}:
                continue
            if not (csrc / included).exists():
                found.append(f"{path}: {included} does not exist")
            elif not points_down(path, included):
                found.append(f"{path}: includes {included}, which is not below it")
            elif included.endswith(".cuh") and not device_code:
                found.append(f"{path}: device code, {included}")
            if (
                included.startswith("cuda/")
                and not within_cuda
                and not path.startswith("bindings/cuda_")
                and (path, included) not in CUDA_FROM_OUTSIDE
            ):
                found.append(f"{path}: includes {included} from outside cuda/")
    return found


def test_the_sources_keep_the_layers() -> None:
    assert {p.name for p in CSRC.iterdir()} == {*RANKS, "cuda"}
    assert {p.name for p in (CSRC / "cuda").iterdir() if p.is_dir()} == set(CUDA_RANKS)
    assert violations(CSRC) == []


FILES = (
    "base/error.hpp", "simd/simd.hpp", "ntk/ntk.hpp", "pool/pool.hpp", "gp/engine.hpp", "search/search.hpp",
    "bindings/bindings.hpp", "cuda/runtime/device.hpp", "cuda/runtime/support.cuh", "cuda/linalg/gemm.cuh",
    "cuda/ntk/ntk.hpp", "cuda/pool/pool.hpp", "cuda/gp/model.cuh", "cuda/model/view.cuh",
)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "included", "broken"),
    [
        ("simd/a.cpp", '"base/error.hpp"', ""),
        ("base/a.hpp", '"simd/simd.hpp"', "not below"),
        ("ntk/a.hpp", '"pool/pool.hpp"', "not below"),
        ("pool/a.cpp", '"gp/engine.hpp"', "not below"),
        ("gp/a.cpp", '"ntk/ntk.hpp"', ""),
        ("gp/a.hpp", '"search/search.hpp"', "not below"),
        ("gp/a.hpp", '"cuda/ntk/ntk.hpp"', "from outside cuda/"),
        ("search/a.cpp", '"cuda/pool/pool.hpp"', "from outside cuda/"),
        ("search/a.cpp", '"bindings/bindings.hpp"', "not below"),
        ("bindings/a.cpp", '"cuda/ntk/ntk.hpp"', "from outside cuda/"),
        ("bindings/module.cpp", '"cuda/runtime/device.hpp"', ""),
        ("bindings/module.cpp", '"cuda/ntk/ntk.hpp"', "from outside cuda/"),
        ("bindings/cuda_a.cpp", '"cuda/ntk/ntk.hpp"', ""),
        ("bindings/cuda_a.cpp", '"cuda/gp/model.cuh"', "device code"),
        ("cuda/runtime/a.cu", '"cuda/ntk/ntk.hpp"', "not below"),
        ("cuda/runtime/a.cu", '"pool/pool.hpp"', "not below"),
        ("cuda/ntk/a.cu", '"pool/pool.hpp"', "not below"),
        ("cuda/ntk/a.cu", '"cuda/pool/pool.hpp"', "not below"),
        ("cuda/gp/a.cu", '"gp/engine.hpp"', ""),
        ("cuda/gp/a.hpp", '"cuda/gp/model.cuh"', "device code"),
        ("cuda/model/a.cu", '"bindings/bindings.hpp"', "not below"),
        ("gp/a.hpp", "<pybind11/numpy.h>", "pybind11"),
        ("cuda/gp/a.cu", "<pybind11/numpy.h>", "pybind11"),
        ("bindings/a.cpp", "<pybind11/numpy.h>", ""),
        ("bindings/cuda_a.cpp", "<cuda_runtime.h>", "CUDA header"),
        ("cuda/ntk/a.hpp", "<cuda_fp16.h>", "CUDA header"),
        ("cuda/ntk/a.cu", "<cuda_fp16.h>", ""),
        ("gp/a.cpp", '"gp/gone.hpp"', "does not exist"),
    ],
)
def test_a_broken_rule_is_reported(path: str, included: str, broken: str, tmp_path: Path) -> None:
    for name in (*FILES, path):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#include {included}\n" if name == path else "#pragma once\n")
    found = violations(tmp_path)
    assert [broken in line for line in found] == [True] * bool(broken), found
