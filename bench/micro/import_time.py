"""Import time and memory: one statement per fresh interpreter, interleaved."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

from ..common.harness import Result, Settings, Timing, absent, rows

QUESTION = "How long does a fresh interpreter take to import the package, and how much memory does it cost?"
GOAL_SECONDS, GOAL_BYTES = 0.100, 60e6
HEAVY = ("torch", "aiohttp", "tiktoken")
OURS = "zopo_fast"
BARE = "bare interpreter"

# Only the statement is timed. Peak memory is the kernel's high-water mark of this process where available:
# on Linux ru_maxrss starts at the parent's memory before exec.
CHILD = """
import json, sys, time
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
loaded = [name for name in {heavy!r} if name in sys.modules]
try:
    with open("/proc/self/status") as status:
        kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
except (OSError, StopIteration):
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kib = peak // 1024 if sys.platform == "darwin" else peak
print(json.dumps([seconds, kib * 1024, loaded]))
"""
STATEMENTS = {
    OURS: "import zopo_fast",
    # Names load at first use; this measures the import with the usual ones.
    f"{OURS}, names in use": "import zopo_fast as zf; zf.Zopo; zf.GaussianProcess; zf.NTK",
    f"{OURS}, end to end": "import zopo_fast as zf; zf.Zopo; zf.optimize; zf.Task; zf.Pool",
    "numpy": "import numpy",
    "scikit-learn": "import sklearn.gaussian_process",
    "torch": "import torch",
    "gpytorch": "import gpytorch",
    "botorch": "import botorch",
}
SLOW = ("gpytorch", "botorch")  # they load torch: skipped in a quick run
OPTIONAL = {"optuna": "import optuna", "dspy": "import dspy"}  # measured where installed


def run(settings: Settings) -> Result:
    """Measure all imports, interleaved."""
    result = Result(QUESTION)
    cases = {BARE: "pass", **STATEMENTS, **OPTIONAL}
    for name, statement in list(cases.items()):
        module = statement.split()[1].rstrip(";").split(".")[0] if statement != "pass" else "json"
        reason = "left out of a quick run" if settings.quick and name in SLOW else absent(module)
        if reason is not None:
            del cases[name]
            if name not in OPTIONAL:
                result.skipped[name] = reason
    samples = _sample(cases, settings, result)
    bare = _memory(samples[BARE])
    timings = {
        name: Timing(tuple(s[0] for s in found)) for name, found in samples.items() if name != BARE and found
    }
    for row in rows("import", timings, ours=OURS):
        peak = _memory(samples[row.who])
        row.extra.update(peak_mb=peak / 1e6, over_bare_mb=(peak - bare) / 1e6)
        result.rows.append(row)
    result.figures.update(_goals(samples, bare))
    return result


def _sample(cases: dict[str, str], settings: Settings, result: Result) -> dict[str, list[Any]]:
    """Time all cases in rotating rounds until the time is up, after one round that warms the disk cache."""
    least, most = (2, 2) if settings.quick else (10, 200)
    order = list(cases)
    for name in list(order):
        try:
            child(cases[name])
        except subprocess.CalledProcessError as error:
            if name in (BARE, OURS):
                raise
            order.remove(name)
            last = error.stderr.strip().splitlines()[-1:] or ["no message"]
            result.skipped[name] = f"its import fails: {last[0]}"
    samples: dict[str, list[Any]] = {name: [] for name in order}
    end = time.monotonic() + 3 * settings.seconds
    while len(samples[OURS]) < least or (time.monotonic() < end and len(samples[OURS]) < most):
        for name in order:
            samples[name].append(child(cases[name]))
        order.append(order.pop(0))
    return samples


def child(statement: str) -> list[Any]:
    """Run a statement in a fresh interpreter; return seconds, peak bytes and loaded modules of HEAVY."""
    script = CHILD.format(statement=statement, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _memory(found: list[Any]) -> float:
    return float(statistics.median(sample[1] for sample in found))


def _goals(samples: dict[str, list[Any]], bare: float) -> dict[str, Any]:
    """Return the figures of `import zopo_fast`, alone and with the usual names (NumPy and native code)."""
    figures: dict[str, Any] = {"bare_interpreter_mb": bare / 1e6}
    for name in (OURS, f"{OURS}, names in use"):
        seconds = statistics.median(sample[0] for sample in samples[name])
        loaded = sorted({module for sample in samples[name] for module in sample[2]})
        figures[name] = {
            "seconds": seconds,
            "goal_seconds": GOAL_SECONDS,
            "peak_mb": _memory(samples[name]) / 1e6,
            "goal_mb": GOAL_BYTES / 1e6,
            "heavy_modules_loaded": loaded,
            "reached": seconds <= GOAL_SECONDS and _memory(samples[name]) <= GOAL_BYTES and not loaded,
        }
    return figures
