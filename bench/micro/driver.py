"""Use of a model's slots in a whole run, on a stub model of fixed latency."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

import zopo_fast as zf

from ..common.harness import Result, Row, Settings, Timing, rows

QUESTION = "How much longer than calls x latency / slots does a whole optimisation take?"
GOAL = 1.15
OURS = "zopo_fast"
POOL, DIM, INITIAL = 500, 384, 40


@dataclass(frozen=True)
class Plan:
    """Size of a run; `latency` in seconds."""

    budget: int
    latency: float
    repeats: int
    sample: int  # prompts scored one at a time, scaled up to all
    examples: int = 20
    slots: int = 32

    @property
    def ideal(self) -> float:
        """Seconds of all calls if every slot were always busy."""
        return self.budget * self.examples * self.latency / self.slots


FULL = Plan(budget=165, latency=0.2, repeats=3, sample=10)
QUICK = Plan(budget=60, latency=0.05, repeats=1, sample=4)


class Stub:
    """Chat model that answers after a fixed time and counts its calls, in total and concurrent."""

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self.calls = self.now = self.most = 0

    async def __call__(self, messages: Sequence[Any]) -> str:
        """Answer correctly for some prompts and wrongly for others."""
        self.calls += 1
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self._latency)
        self.now -= 1
        return "yes" if len(messages[-1]["content"]) * 7 % 11 < 5 else "no"


@dataclass(frozen=True)
class Ran:
    """Measurement of one run: wall and CPU seconds, calls, peak concurrency, scores in order."""

    wall: float
    cpu: float
    calls: int
    most: int
    scores: tuple[float, ...]


def optimise(plan: Plan, budget: int, seed: int, prompts_in_flight: int | None = None) -> Ran:
    """Run zf.optimize to the end of its budget, with given embeddings and no held-out examples."""
    examples = tuple(zf.Example(f"question {'?' * (i % 5)} {i}", ("yes",)) for i in range(plan.examples))
    task = zf.Task("stub", examples, metric="contains")
    prompts = [f"Answer in way {i}{'!' * (i % 13)}" for i in range(POOL)]
    config = zf.RunConfig(
        budget=budget,
        initial=min(INITIAL, budget),
        seed=seed,
        concurrency=plan.slots,
        prompts_in_flight=prompts_in_flight,
        racing=False,  # every run makes the same calls
        stop_at_perfect=False,
    )
    stub = Stub(plan.latency)
    wall, cpu = time.perf_counter(), time.process_time()
    result = zf.optimize_sync(task, prompts, stub, config, embeddings=embeddings(seed))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if stub.calls != budget * plan.examples or result.stopped_by != "budget":
        raise RuntimeError(
            f"{stub.calls} calls, stopped by {result.stopped_by}: not the run that was planned"
        )
    return Ran(wall, cpu, stub.calls, stub.most, tuple(t.score for t in result.trials if t.score is not None))


def embeddings(seed: int) -> np.ndarray[Any, Any]:
    """Return random embeddings, (POOL, DIM) float16."""
    return np.random.default_rng(seed).standard_normal((POOL, DIM)).astype(np.float16)


def optimiser_seconds(plan: Plan, scores: Sequence[float], seed: int) -> float:
    """Time ask and tell alone on the same scores, with as many prompts in flight."""
    start = time.perf_counter()
    config = zf.ZopoConfig(budget=plan.budget, initial=INITIAL, seed=seed)
    optimizer = zf.Zopo(embeddings(seed), config)
    waiting = list(optimizer.ask(3))
    for score in scores:
        optimizer.tell(waiting.pop(0), score)
        if len(waiting) < 3 and not optimizer.done:
            try:
                waiting.append(optimizer.ask())
            except zf.NothingToAsk:  # the last prompts are in flight
                continue
    return time.perf_counter() - start


def run(settings: Settings) -> Result:
    """Run the plan a few times, interleaved with one prompt at a time on a smaller budget."""
    plan = QUICK if settings.quick else FULL
    optimise(plan, 2, settings.seed)  # warm up lazy imports
    whole, single = [], []
    for _ in range(plan.repeats):
        whole.append(optimise(plan, plan.budget, settings.seed))
        single.append(optimise(plan, plan.sample, settings.seed, prompts_in_flight=1))
    scale = plan.budget / plan.sample
    timings = {
        OURS: Timing(tuple(ran.wall for ran in whole)),
        "one prompt at a time": Timing(tuple(ran.wall * scale for ran in single)),
    }
    what = f"{plan.budget} prompts x {plan.examples} examples, {plan.slots} slots of {plan.latency:g} s"
    compared = rows(what, timings, ours=OURS, most_calls_at_once=max(ran.most for ran in whole))
    compared[1].extra["extrapolated_from_prompts"] = plan.sample
    compared.append(_one_call_at_a_time(what, plan, timings[OURS].median))
    return Result(QUESTION, compared, figures=_figures(plan, whole, settings.seed))


def _one_call_at_a_time(what: str, plan: Plan, unit: float) -> Row:
    seconds = plan.budget * plan.examples * plan.latency
    return Row(what, "one call at a time", seconds, seconds, 0, seconds / unit, {"computed": True})


def _figures(plan: Plan, whole: list[Ran], seed: int) -> dict[str, Any]:
    wall = median(ran.wall for ran in whole)
    optimiser = median(optimiser_seconds(plan, ran.scores, seed) for ran in whole)
    return {
        "ideal_seconds": plan.ideal,
        "over_ideal": wall / plan.ideal,
        "goal_over_ideal": GOAL,
        "reached": wall / plan.ideal <= GOAL,
        "cpu_share": median(ran.cpu for ran in whole) / wall,
        "optimiser_share": optimiser / wall,
        "optimiser_seconds": optimiser,
    }
