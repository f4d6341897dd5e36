"""Benchmarks of the CUDA engine, one part per process: python -m zopo_fast.bench.gpu PART --out DIR.

    step, gram, pool, batch      run one benchmark and write gpu_<part>.json
    report                       print all tables and the goals

`zopo-fast bench` does not include them: a run without a GPU would replace results of one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zopo_fast import _core

from ..common import machine, runner
from ..common.harness import Result, Row, Settings

PARTS = ("step", "gram", "pool", "batch")
MISSED, NOT_RUN = "not reached", "not measured"


def run(part: str, settings: Settings, out: Path, device: str = "cuda", commit: str | None = None) -> Result:
    """Measure the ceilings, run one part, write its file and print its table.

    Args:
        device: "cuda"; "host" runs the code without a GPU, on the emulated device where available.
        commit: commit of the sources, for trees that are no checkout.
    """
    from . import timing as gpu_timing

    if device == "cuda":
        devices = gpu_timing.Devices()
    else:
        devices = gpu_timing.Devices("cuda" if _core.cuda_device_count() else "cpu", "cpu")
    about = machine.describe()
    about["commit"] = commit or about["commit"]
    about["gpu"] = gpu_timing.describe(devices)
    ceilings = gpu_timing.ceilings(devices, settings.quick)
    result: Result = importlib.import_module(f"zopo_fast.bench.gpu.{part}").run(settings, devices)
    runner.prepare(out)
    runner.write(out / f"gpu_{part}.json", runner.document(result, settings, about, ceilings))
    print(runner.table(result))
    return result


# ---- the report --------------------------------------------------------------------------------------


def report(out: Path) -> str:
    """Return all tables, then the goals; a part without a file is listed as not measured."""
    lines: list[str] = []
    goals: list[tuple[str, str, str, str]] = []
    first = True
    for part in PARTS:
        path = out / f"gpu_{part}.json"
        if not path.exists():
            goals.append((part, "-", "-", NOT_RUN))
            continue
        kept = json.loads(path.read_text(encoding="utf-8"))
        if first:
            lines += _machine(kept)
            first = False
        result = Result(
            kept["question"], [Row(**row) for row in kept["rows"]], kept["skipped"], kept["figures"]
        )
        lines += ["", f"{part}: {result.question}", runner.table(result)]
        goals += _goals(kept["figures"]) or [(part, "-", "-", NOT_RUN)]
    lines += ["", _aligned([("goal", "", "seen", ""), *goals])]
    return "\n".join(lines)


def _machine(kept: dict[str, Any]) -> list[str]:
    about, gpu = kept["machine"], kept["machine"]["gpu"]
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in kept["ceilings"].items())
    return [
        f"{gpu.get('name', gpu['engine'])}, driver {gpu['driver']}, torch {gpu['torch']}, {about['cpu']}, "
        f"{about['cores']} cores, commit {about['commit']}",
        f"ceilings: {numbers}",
        *(["tiny inputs: these figures say nothing"] if kept["settings"]["quick"] else []),
    ]


def _goals(figures: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return a row for every figure with `<name>_reached`: figure, goal, value, verdict."""
    found = []
    for what, values in figures.items():
        for key, reached in values.items() if isinstance(values, dict) else ():
            name = key.removesuffix("_reached")
            if name == key:
                continue
            seen, goal = values.get(name), values.get(f"{name}_goal")
            found.append(
                (
                    f"{what}: {name.replace('_', ' ')}",
                    "-" if goal is None else f"{'<=' if name.startswith('median') else '>='} {goal:,g}",
                    "-" if seen is None else f"{seen:,.4g}",
                    "reached" if reached else MISSED,
                )
            )
    return found


def _aligned(lines: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a part, or the report."""
    parser = argparse.ArgumentParser(prog="zopo_fast.bench.gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("part", choices=[*PARTS, "report"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seconds", type=float, default=6.0, help="for one comparison")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit", help="of the sources, where they are no checkout")
    parser.add_argument("--device", choices=["cuda", "host"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny inputs: tries the code, measures nothing")
    given = parser.parse_args(arguments)
    if given.part == "report":
        print(report(given.out))
        return 0
    if given.device == "cuda" and _core.cuda_device_count() == 0:
        print(_core.cuda_status(), file=sys.stderr)
        return 2
    settings = Settings(given.quick, given.seed, given.seconds)
    result = run(given.part, settings, given.out, given.device, given.commit)
    return 0 if any(row.who == "zopo_fast" for row in result.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
