"""Prompt optimisers end to end on a simulated model: mechanics and own time, no figures of real models.

`python -m zopo_fast.bench.search.end_to_end` compares them on real models. Every method makes the same
number of completions through a metering proxy; its time is that of a whole run, whose completions cost next
to nothing.
"""

from __future__ import annotations

import asyncio
import statistics

from ..common.harness import Result, Row, Settings
from ..search.end_to_end.comparison import Plan, Record, compare
from ..search.end_to_end.methods import FIXED, SCRIPTED
from ..search.end_to_end.session import SCORED, WRITER

QUESTION = "Which optimisers run with equal completions, and how long do they take by themselves?"
QUICK = Plan(tracks=(SCRIPTED,), tasks=("simulated",), seeds=1, budgets=(120,), examples=12, pool=40)
FULL = Plan(tracks=(SCRIPTED,), tasks=("simulated",), seeds=3, budgets=(500,), examples=40, pool=200)


def run(settings: Settings) -> Result:
    """Run all methods that are installed.

    Raises:
        RuntimeError: a method failed.
    """
    plan = QUICK if settings.quick else FULL
    records, skipped = asyncio.run(compare(plan, show=lambda _: None))
    if failed := [f"{record['method']}: {record['error']}" for record in records if record["error"]]:
        raise RuntimeError("; ".join(failed))
    result = Result(QUESTION, skipped=skipped)
    by_method: dict[str, list[Record]] = {}
    for record in records:
        by_method.setdefault(record["method"], []).append(record)
    unit = statistics.median(record["seconds"] for record in by_method[FIXED]) or 1e-3
    for method, runs in by_method.items():
        seconds = [record["seconds"] for record in runs]
        median = statistics.median(seconds)
        extra = {
            "heldout": statistics.fmean(record["heldout"] for record in runs),
            "scored": statistics.fmean(record["completions"][SCORED] for record in runs),
            "written": statistics.fmean(record["completions"][WRITER] for record in runs),
        }
        what = f"{plan.budgets[0]} completions, simulated model"
        result.rows.append(Row(what, method, median, max(seconds), len(runs), median / unit, extra))
    return result
