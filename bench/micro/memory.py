"""Native memory of a search, as the growth of a fresh process by many of them.

    python bench/micro/memory.py                          of the installed package
    PYTHONPATH=CHECKOUT python bench/micro/memory.py      of another built checkout

It needs the public API alone, so that earlier versions can be measured beside this one. The benchmark `batch`
keeps its figures.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

M, DIM = 500, 384
FIRST, BUDGET = 40, 165
COUNT = 64  # searches of a measurement, without an argument
CASES = ("improvement", "thompson", "gradient", "improvement, batch")  # ", batch": in one ZopoBatch


def of_search(case: str, count: int, budget: int = BUDGET) -> dict[str, float]:
    """Measure `count` searches in a fresh interpreter.

    Returns:
        KB (1,000 bytes) of a search, without its pool: constructed, after 41 scores and at the end, and the
        peak.

    Raises:
        RuntimeError: The process failed; the message is its last line.
    """
    plan = json.dumps({"case": case, "count": count, "budget": budget})
    # -P: the names in this folder must not hide modules.
    command = [sys.executable, "-P", str(Path(__file__).resolve()), plan]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def grown(case: str, count: int, budget: int) -> dict[str, float]:
    """Run the searches in this process; see `of_search`."""
    import numpy as np

    import zopo_fast as zf

    search, _, kind = case.partition(", ")
    rng = np.random.default_rng(0)
    pools = [rng.standard_normal((M, DIM), dtype=np.float32).astype(np.float16) for _ in range(count)]
    waves = (rng.normal(size=(DIM, 3)) / np.sqrt(DIM)).astype(np.float32)
    scores = np.array([np.sin(3.0 * (pool.astype(np.float32) @ waves)).sum(axis=1) for pool in pools])
    every = np.arange(count)

    def config(seed: int) -> Any:
        # A value read at run time: earlier versions name other searches.
        return zf.ZopoConfig(budget=budget, initial=min(FIRST, budget), seed=seed, search=search)  # type: ignore[arg-type]

    def make(members: list[Any]) -> Any:
        configs = [config(seed) for seed in range(len(members))]
        if kind:
            return zf.ZopoBatch(members, configs)
        return [zf.Zopo(pool, each) for pool, each in zip(members, configs, strict=True)]

    def advance(searches: Any, steps: int) -> None:
        for _ in range(steps):
            if kind:
                indices = searches.ask()
                searches.tell(indices, scores[every[: len(indices)], indices])
                continue
            for b, one in enumerate(searches):
                i = one.ask()
                one.tell(i, float(scores[b, i]))

    warm = make(pools[:1])  # modules and scratch of the process are no memory of a search
    advance(warm, budget)
    del warm
    gc.collect()
    start = resident()
    reset_peak()
    searches = make(pools)
    sizes = {"constructed_kb": resident()}
    advance(searches, min(FIRST + 1, budget))
    sizes["kb_at_41"] = resident()
    advance(searches, budget - min(FIRST + 1, budget))
    sizes[f"kb_at_{budget}"] = resident()
    sizes["peak_kb"] = max(peak(), *sizes.values())
    return {name: (size - start) / count / 1e3 for name, size in sizes.items()}


def resident() -> int:
    """Return the resident bytes of this process, exact to a page, without freed memory."""
    trim()
    return _bytes("smaps_rollup", "Rss:")


def peak() -> int:
    """Return the largest resident bytes since `reset_peak`."""
    return _bytes("status", "VmHWM:")


def reset_peak() -> None:
    """Set the peak to the present size; do nothing where the system forbids it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def trim() -> None:
    """Return freed memory to the system; glibc only."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return


def _bytes(file: str, name: str) -> int:
    with Path("/proc/self", file).open() as lines:
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def main(arguments: list[str]) -> None:
    """Print one case as JSON, or a table of all."""
    if arguments:
        print(json.dumps(grown(**json.loads(arguments[0]))))
        return
    for case in CASES:
        try:
            found = of_search(case, COUNT)
        except RuntimeError as error:
            print(f"{case}: {error}")
            continue
        print(f"{case}: " + ", ".join(f"{name} {size:,.0f}" for name, size in found.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
