"""Make 1,000 runs against a faulty server, and print a table of faults and outcomes (make chaos).

    python tests/hostile/chaos/run.py --out bench/results/chaos.json

30 % of the requests fail, by each fault alone and then by all of them; then by servers where every request
fails. The exit code is 1 if an invariant was violated.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import time
from pathlib import Path

from chaos_runs import Row, Size, runs
from chaos_server import FAULTS

from zopo_fast.bench.common import machine

DOWN = ("429", "429 with Retry-After", "500", "dropped", "slow", "web page")
DOWN_RUNS = 5
MAX_GROWTH_MIB = 16.0  # of the resident memory, over the last three quarters of the mixed runs
COLUMNS = ("runs", "requests", "faults", "answered", "retries", "lost", "scored", "failed")


def main() -> int:
    """Make the runs, print the table, write the results; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--runs", type=int, default=1000, help="runs with 30 %% faults in all")
    options = parser.parse_args()
    size = Size(budget=12, examples=8)
    alone = max(1, options.runs // (2 * (len(FAULTS) + 1)))
    mixed = max(4, options.runs - alone * (len(FAULTS) + 1))
    began = time.monotonic()
    print(header())
    rows = [shown(asyncio.run(runs(fault, alone, seed=1000, size=size))) for fault in ("none", *FAULTS)]
    quarters, memory = [], []
    for quarter in range(4):
        count = mixed // 4 + (mixed % 4 if quarter == 3 else 0)
        quarters.append(asyncio.run(runs("all mixed", count, seed=10_000 * (quarter + 1), size=size)))
        memory.append(resident_mib())
    rows.append(shown(together(quarters)))
    down = [asyncio.run(runs(fault, DOWN_RUNS, seed=99, step=3, share=1.0, size=size)) for fault in DOWN]
    for row in down:
        row.fault = f"always {row.fault}"
        shown(row)
    growth = memory[-1] - memory[0]
    problems = [f"{row.fault}: {problem}" for row in rows + down for problem in row.problems]
    problems += [f"{row.fault}: answered?" for row in down if row.answered]
    if growth > MAX_GROWTH_MIB:
        problems.append(f"memory grew by {growth:.1f} MiB over the mixed runs")
    total = sum(row.runs for row in rows)
    print(f"\n{total} runs with faults, {DOWN_RUNS * len(DOWN)} without an answer: "
          f"{time.monotonic() - began:.0f} s. Resident memory: {memory[0]:.1f} MiB after a quarter of the "
          f"mixed runs, {memory[-1]:.1f} MiB after all.")  # fmt: skip
    print(*(problems or ["every check held"]), sep="\n")
    if options.out is not None:
        document = {
            "what": "runs against a chat endpoint that misbehaves; see tests/hostile/chaos",
            "machine": machine.describe(),
            "size": vars(size),
            "rows": [row.to_dict() for row in rows + down],
            "resident_mib": [round(value, 1) for value in memory],
            "problems": problems,
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 1 if problems else 0


def header() -> str:
    """Return the header of the table."""
    return f"{'fault':28}" + "".join(f"{name:>9}" for name in COLUMNS) + "  slowest run  ended by"


def shown(row: Row) -> Row:
    """Print a row, and return it."""
    ended = ", ".join(f"{how} {count}" for how, count in row.ended_by.most_common())
    counts = "".join(f"{getattr(row, name):>9}" for name in COLUMNS)
    print(f"{row.fault:28}{counts}{row.slowest_run_s:>11.2f} s  {ended}", flush=True)
    return row


def together(parts: list[Row]) -> Row:
    """Return the sum of rows of one fault."""
    whole = Row(parts[0].fault)
    for part in parts:
        for name in (*COLUMNS, "limits_reached", "seconds", "ended_by", "problems"):
            setattr(whole, name, getattr(whole, name) + getattr(part, name))
        whole.slowest_run_s = max(whole.slowest_run_s, part.slowest_run_s)
    return whole


def resident_mib() -> float:
    """Return the resident memory of this process; 0 if the system does not report it."""
    gc.collect()
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    sys.exit(main())
