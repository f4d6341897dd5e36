#!/usr/bin/env python3
"""Compile the CUDA sources and list the report of ptxas on each kernel: registers, shared memory, spills.

    tests/native/ptxas.py [--architectures 80,90] [--jobs 2] [--build FOLDER] [csrc/cuda/ntk/ntk.cu ...]

If a build under FOLDER kept the output of its compiler (tests/native/kept_output.sh), and that is newer than
every native source, the script reads it instead of compiling again. The exit code is 1 after any warning, and
for any kernel with spilled registers or a stack frame that EXCEPTIONS does not list. nvcc is CUDACXX, or the
one on PATH or under /usr/local/cuda; without one the script says so and exits with 0.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The flags of CMakeLists.txt, and every warning an error.
FLAGS = (
    "-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xptxas=-v", "-Xcompiler=-fvisibility=hidden",
    "-Werror=all-warnings", "-DZOPO_HAS_CUDA", f"-I{ROOT / 'csrc'}",
)  # fmt: skip
# Kernels that may spill or use a stack, by name without parameters, and the reason.
EXCEPTIONS: dict[str, str] = {}

_ENTRY = re.compile(r"Compiling entry function '([^']+)' for '([^']+)'")
_PROPERTIES = re.compile(r"Function properties for (\S+)")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+)(?:\+\d+)? bytes smem")


@dataclass(frozen=True)
class Function:
    """Kernel, or device function that was not inlined (without registers of its own), for one architecture.

    Sizes are in bytes; `shared` is the static part, without that of a launch.
    """

    name: str
    architecture: str
    stack: int
    stores: int
    loads: int
    registers: int | None = None
    shared: int = 0

    @property
    def spills(self) -> bool:
        """True when the function uses local memory."""
        return self.stack + self.stores + self.loads > 0


def parse(text: str) -> list[Function]:
    """Return every function that `-Xptxas=-v` reports on, in its order.

    Raises:
        ValueError: a kernel has no figures: the format is unknown.
    """
    functions: list[Function] = []
    architecture, named, entries = "", None, 0
    for line in text.splitlines():
        if entry := _ENTRY.search(line):
            architecture, entries = entry[2], entries + 1
        elif properties := _PROPERTIES.search(line):
            named = properties[1]
        elif named and (spills := _SPILLS.search(line)):
            functions.append(Function(named, architecture, *map(int, spills.groups())))
            named = None
        elif functions and (used := _USED.search(line)):
            shared = _SHARED.search(line)
            functions[-1] = replace(
                functions[-1], registers=int(used[1]), shared=int(shared[1]) if shared else 0
            )
    kernels = sum(f.registers is not None for f in functions)
    if kernels != entries:
        raise ValueError(f"ptxas names {entries} kernels, but figures were read of {kernels}")
    return functions


def faults(functions: Sequence[Function]) -> list[Function]:
    """Return the functions that use local memory and are not listed in EXCEPTIONS."""
    return [f for f in functions if f.spills and f.name not in EXCEPTIONS]


def demangled(functions: Sequence[Function]) -> list[Function]:
    """Return the functions with demangled names without parameters; unchanged without c++filt."""
    tool = shutil.which("c++filt") or shutil.which("cu++filt")
    if not tool or not functions:
        return list(functions)
    text = "\n".join(f.name for f in functions)
    names = subprocess.run([tool], input=text, capture_output=True, text=True, check=True).stdout.split("\n")
    return [replace(f, name=short(name)) for f, name in zip(functions, names, strict=False)]


def short(name: str) -> str:
    """Return a demangled name without return type, parameters and the namespaces of the package."""
    name = name.replace("(anonymous namespace)::", "").replace("zopo::", "").removeprefix("void ")
    depth = 0
    for i, character in enumerate(name):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            return name[:i]
    return name


def table(functions: Sequence[Function]) -> str:
    """Return a table with one line per function, which marks spills."""
    head = ("kernel", "for", "registers", "shared", "stack", "spill stores", "spill loads")
    lines = [
        (
            f.name, f.architecture, "-" if f.registers is None else str(f.registers), str(f.shared),
            str(f.stack), str(f.stores), str(f.loads) + ("  <- local memory" if f.spills else ""),
        )
        for f in sorted(functions, key=lambda f: (f.name, f.architecture))
    ]  # fmt: skip
    widths = [max(len(line[k]) for line in (head, *lines)) for k in range(len(head) - 1)]
    return "\n".join(
        "  ".join([*(c.ljust(w) for c, w in zip(line, widths, strict=False)), line[-1]])
        for line in (head, *lines)
    )


def find_nvcc() -> str | None:
    """Return the compiler: CUDACXX, the one on PATH, or that of /usr/local/cuda."""
    return (
        shutil.which(os.environ.get("CUDACXX") or "nvcc")
        or shutil.which("nvcc")
        or shutil.which("/usr/local/cuda/bin/nvcc")
    )


def compiled(nvcc: str, source: Path, architectures: Sequence[str]) -> tuple[bool, str]:
    """Compile one source; return whether there was no warning, and the output."""
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    done = subprocess.run(
        [nvcc, *FLAGS, *targets, "-c", str(source), "-o", os.devnull],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    return done.returncode == 0 and "warning" not in done.stdout.lower(), done.stdout


def kept(build: Path, source: Path) -> str | None:
    """Return the output that tests/native/kept_output.sh kept of a build; None if it is outdated."""
    texts = list(build.rglob(f"{source.name}.o.said"))
    tree = next((folder for folder in source.resolve().parents if folder.name == "csrc"), source.parent)
    newest = max(path.stat().st_mtime for path in tree.rglob("*") if path.is_file())
    if len(texts) != 1 or texts[0].stat().st_mtime < newest:
        return None
    return texts[0].read_text(encoding="utf-8", errors="replace")


def said(nvcc: str, source: Path, architectures: Sequence[str], build: Path | None) -> tuple[bool, bool, str]:
    """Return whether a source was compiled now, whether without a warning, and the output."""
    text = None if build is None else kept(build, source)
    # A source without kernels names no architecture.
    if text is not None and {entry[1] for entry in _ENTRY.findall(text)} in (
        set(),
        {f"sm_{a}" for a in architectures},
    ):
        return False, "warning" not in text.lower(), text
    return (True, *compiled(nvcc, source, architectures))


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, print the table and the problems; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--architectures", default="80,90")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--build", type=Path)
    parser.add_argument("sources", nargs="*", type=Path, default=sorted((ROOT / "csrc").rglob("*.cu")))
    wanted = parser.parse_args(arguments)
    nvcc = find_nvcc()
    if nvcc is None:
        print("nvcc is not here: the CUDA sources are not compiled")
        return 0
    architectures = wanted.architectures.split(",")
    failed, functions, times = [], [], 0
    with ThreadPoolExecutor(wanted.jobs) as jobs:
        done = jobs.map(lambda source: said(nvcc, source, architectures, wanted.build), wanted.sources)
        for source, (anew, clean, text) in zip(wanted.sources, done, strict=True):
            times += anew
            if clean:
                functions += parse(text)
            else:
                failed.append(source.name)
                print(text, file=sys.stderr)
    functions = demangled(functions)
    print(table(functions))
    print(f"{len(wanted.sources)} sources; {times} of them compiled for this")
    for source_name in failed:
        print(f"{source_name}: does not compile without a warning", file=sys.stderr)
    for f in faults(functions):
        print(
            f"{f.name} for {f.architecture}: {f.stack} bytes of stack, {f.stores} of spill stores, "
            f"{f.loads} of spill loads; keep its arrays in registers, or give the reason in EXCEPTIONS",
            file=sys.stderr,
        )
    return 1 if failed or faults(functions) else 0


if __name__ == "__main__":
    sys.exit(main())
