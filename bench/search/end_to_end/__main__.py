"""Held-out score of the prompt that each optimiser ends at, with equal numbers of completions.

    python -m zopo_fast.bench.search.end_to_end --model-url http://127.0.0.1:8000/v1
    python -m zopo_fast.bench.search.end_to_end --tracks "scripted writer" --tasks sentiment --seeds 1 --quick

Without --model-url a simulated model answers, and only mechanics are tested. Finished runs are kept in
<out>/search_end_to_end.runs.jsonl and not repeated. Writes <out>/search_end_to_end.json and .png;
bench/README.md explains them.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zopo_fast.cli.commands.bench import default_folder
from zopo_fast.errors import ZopoError

from ...common import machine, runner
from ...common.harness import absent
from . import figures
from .comparison import EXAMPLES, TASKS, Journal, Plan, Record, compare
from .methods import METHODS, SCRIPTED, TRACKS

NAME = "search_end_to_end"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    plan = Plan()
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model-url", help="endpoint of the scored model, /v1 included")
    made.add_argument("--model", default="SmolLM2-135M-Instruct", help="its name there")
    made.add_argument("--tracks", nargs="+", choices=TRACKS, help="default: all; without a model the first")
    made.add_argument("--tasks", nargs="+", default=list(TASKS), help="files of --folder, or simulated")
    made.add_argument("--folder", type=Path, default=EXAMPLES, help="folder of the task files")
    made.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    made.add_argument("--seeds", type=int, default=plan.seeds)
    made.add_argument(
        "--budgets", nargs="+", type=int, default=list(plan.budgets), help="completions of a run"
    )
    made.add_argument("--initial", type=int, default=plan.initial, help="starting prompts")
    made.add_argument("--pool", type=int, default=plan.pool, help="prompts of the fixed pool")
    made.add_argument("--max-tokens", type=int, default=plan.max_tokens, help="of an answer to an example")
    made.add_argument("--quick", action="store_true", help="one seed, the simulated task and a small budget")
    made.add_argument("--out", type=Path, help="folder of the results")
    return made


def plan_of(given: argparse.Namespace) -> Plan:
    """Return the plan of parsed arguments."""
    tracks = given.tracks or (TRACKS if given.model_url else (SCRIPTED,))
    values: dict[str, Any] = {
        "tracks": tuple(tracks),
        "tasks": tuple(given.tasks),
        "methods": tuple(given.methods),
        "seeds": given.seeds,
        "budgets": tuple(given.budgets),
        "initial": given.initial,
        "pool": given.pool,
        "max_tokens": given.max_tokens,
        "model": given.model if given.model_url else "simulated",
    }
    if given.quick:
        values |= {"seeds": 1, "budgets": (150,), "tasks": ("simulated",), "examples": 12, "pool": 60}
    return Plan(**values)


def publish(records: Sequence[Record], plan: Plan, skipped: dict[str, str], out: Path) -> None:
    """Print the table, and write JSON and plot."""
    found, differences = figures.rows(records), figures.pairs(records)
    print(figures.table(found, differences))
    mean = figures.curves(records)
    runner.publish(
        out / f"{NAME}.json",
        __doc__,
        plan,
        found,
        skipped,
        machine=machine.describe(),
        pairs=differences,
        curves=mean,
        runs=records,
    )
    if absent("matplotlib") is None:
        figures.plot(mean, out / f"{NAME}.png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison."""
    given = parser().parse_args(arguments)
    out = given.out or default_folder(given.quick)
    try:
        runner.prepare(out)
        plan = plan_of(given)
        journal = Journal(None if given.quick else out / f"{NAME}.runs.jsonl")
        records, skipped = asyncio.run(compare(plan, given.model_url, journal, folder=given.folder))
    except ZopoError as error:
        print(f"error: {error}")
        return 2
    if not records:
        print("no method could run")
        return 1
    publish(records, plan, skipped, out)
    return 1 if any(record["error"] for record in records) else 0


if __name__ == "__main__":
    raise SystemExit(main())
