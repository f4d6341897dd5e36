"""Native instruction counts of the operations of a step, independent of the machine's load.

    python bench/micro/instructions.py             print counts beside the baseline
    python bench/micro/instructions.py --check     fail when a count grew by more than a tenth
    python bench/micro/instructions.py --update    write a new baseline (the commit says why)

valgrind's callgrind counts in a process of its own. Only instructions inside the extension module count,
because the C library's loops differ between processors. AVX2 is forced, because valgrind hides AVX-512. One
core is visible, because ranges are split by the number of cores. Two runs give the same counts.

Counts of two compilers are not comparable: with another major version than the baseline's the check says so
and passes, also in CI. A new compiler needs a new baseline.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BASELINE = ROOT / "bench" / "results" / "instructions.json"
ALLOWED = 1.10
MARKERS = """
#include <valgrind/callgrind.h>
void start(void) { CALLGRIND_START_INSTRUMENTATION; CALLGRIND_ZERO_STATS; }
void stop(const char *name) { CALLGRIND_DUMP_STATS_AT(name); CALLGRIND_STOP_INSTRUMENTATION; }
int get_nprocs(void) { return 1; } /* what std::thread::hardware_concurrency asks */
"""


class Unavailable(Exception):  # noqa: N818 - a reason, not a failure
    """A tool for counting is missing on this machine."""


def extension() -> Path:
    """Return the path of the extension module in a process like the one that is counted."""
    code = "from zopo_fast import _core; print(_core.__file__)"
    command, here = [sys.executable, "-c", code], Path(__file__).parent  # the workload's own import path
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    return Path(done.stdout.strip()).resolve()


def compiler(module: Path) -> str:
    """Return the compiler's identification from the module file."""
    found = re.search(rb"GCC: \([^)]*\) [\d.]+|clang version [\d.]+", module.read_bytes())
    return found.group().decode() if found else "unknown"


def major(version: str) -> str:
    """Return compiler and major version: "GCC 12" for "GCC: (Debian 12.2.0-14) 12.2.0"."""
    numbers = re.findall(r"[\d.]+", version)
    return f"{version.split(maxsplit=1)[0].rstrip(':')} {numbers[-1].split('.')[0]}" if numbers else version


def flags() -> str:
    """Return the optimisation flags of a release build from CMakeLists.txt."""
    text = (ROOT / "CMakeLists.txt").read_text()
    loops = re.search(r"set\(ZOPO_LOOP_FLAGS (.*?)\)", text)
    avx2 = re.search(r'\$\{ZOPO_LOOP_FLAGS\};(-mavx2[^"]*)"', text)
    return f"-O3 -DNDEBUG; AVX2 loops: {loops and loops[1]} {avx2 and avx2[1].replace(';', ' ')}"


def count() -> dict[str, int]:
    """Count the instructions in the extension for each operation, by name."""
    if shutil.which("valgrind") is None:
        raise Unavailable("valgrind is not installed (Debian: apt-get install valgrind)")
    module = extension()
    with tempfile.TemporaryDirectory() as folder:
        markers = Path(folder, "markers.so")
        source = Path(folder, "markers.c")
        source.write_text(MARKERS)
        built = subprocess.run(
            ["cc", "-shared", "-fPIC", "-o", str(markers), str(source)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if built.returncode != 0:
            raise Unavailable(f"the markers do not compile: {built.stderr.strip().splitlines()[0]}")
        environment = {**os.environ, "ZOPO_ISA": "avx2", "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
        environment["LD_PRELOAD"] = str(markers)
        command = [
            "valgrind", "--tool=callgrind", "--instr-atstart=no",
            "--compress-strings=no", "--compress-pos=no", f"--callgrind-out-file={folder}/out",
            sys.executable, str(Path(__file__).with_name("instructions_workload.py")), str(markers),
        ]  # fmt: skip
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"the workload failed under valgrind:\n{done.stdout}{done.stderr}")
        dumps = sorted(Path(folder).glob("out.*"), key=lambda path: int(path.suffix[1:]))
        counts = dict(own_cost(path.read_text(), str(module)) for path in dumps)
    counts.pop("", None)  # the remainder after the last operation
    if not counts or min(counts.values()) < 1000:
        raise RuntimeError(f"callgrind saw {counts}, which cannot be")
    return counts


def own_cost(dump: str, module: str) -> tuple[str, int]:
    """Return the name and the instructions within `module` of one callgrind dump, without outside calls."""
    name = re.search(r"^desc: Trigger: Client Request: (.*)$", dump, re.MULTILINE)
    total, inside, skip = 0, False, False
    for line in dump.splitlines():
        if line.startswith("ob="):
            inside = line[3:] == module
        elif line.startswith("calls="):
            skip = True  # the next line is the inclusive cost of the call
        elif line[:1].isdigit():
            if inside and not skip:
                total += int(line.split()[1])
            skip = False
    return (name[1] if name else ""), total


def table(now: dict[str, int], before: dict[str, int]) -> str:
    """Return one line per operation: count, baseline and change in percent."""
    lines = [f"{'instructions':<44}{'now':>14}{'baseline':>14}{'change':>10}"]
    for name, value in now.items():
        old = before.get(name)
        known, change = ("-", "new") if old is None else (f"{old:,}", f"{100.0 * (value / old - 1):+.1f} %")
        too_many = "  TOO MANY" if grew(value, old) else ""
        lines.append(f"{name:<44}{value:>14,}{known:>14}{change:>10}{too_many}")
    lines += [f"{name:<44}{'gone':>14}{old:>14,}" for name, old in before.items() if name not in now]
    return "\n".join(lines)


def grew(value: int, old: int | None) -> bool:
    """Return whether a count exceeds the allowed growth."""
    return old is not None and value > ALLOWED * old


def check(now: dict[str, int], before: dict[str, int]) -> int:
    """Return 1 when a count grew too much or the operations differ, else 0."""
    if set(now) != set(before):
        print("the operations are not those of the baseline; run --update")
        return 1
    worse = [name for name in now if grew(now[name], before[name])]
    if worse:
        print(
            f"{len(worse)} of {len(now)} grew by more than {100 * (ALLOWED - 1):.0f} %; if that is meant, run"
        )
        print("python bench/micro/instructions.py --update and say in the commit why")
    return int(bool(worse))


def main() -> int:
    """Count, compare, and write the counts on --update."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="exit 1 when a count grew by more than a tenth")
    parser.add_argument("--update", action="store_true", help="write the counts as the new baseline")
    options = parser.parse_args()
    recorded: dict[str, Any] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    here = compiler(extension())
    if options.check and recorded and major(recorded["compiler"]) != major(here):
        print(f"not compared: the baseline is of {recorded['compiler']}, this module of {here}")
        return 0
    try:
        now = count()
    except Unavailable as problem:
        print(f"not counted: {problem}")
        return 1 if os.environ.get("CI") or options.update else 0
    before = recorded.get("instructions", {})
    print(table(now, before))
    if options.update:
        record = {"compiler": here, "flags": flags(), "isa": "avx2", "instructions": now}
        BASELINE.write_text(json.dumps(record, indent=2) + "\n")
        return 0
    return check(now, before) if options.check else 0


if __name__ == "__main__":
    sys.exit(main())
