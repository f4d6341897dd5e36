"""Round of a growing pool beside its embeddings: writing, guards, description, prediction and screening.

The writer edits one part of composed prompts. The embeddings are random: their values do not matter here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

import zopo_fast as zf
from zopo_fast.prompts import generate
from zopo_fast.prompts.writing.guards import Guard, near_duplicates
from zopo_fast.prompts.writing.part_editor import PartEditor
from zopo_fast.prompts.writing.types import Parent, WriteRequest, Written
from zopo_fast.runs.driver.grower import NEAR
from zopo_fast.runs.growth.describe import Description
from zopo_fast.runs.growth.screening import screen

from ..common.harness import Result, Row, Settings, Timing, uncollected

QUESTION = "What does a round of writing and screening 100 candidates cost, beside embedding them?"
POOLS, OBSERVED, DIM, WRITTEN, PARENTS, ENTRANTS = (60, 500), 50, 384, 100, 4, 8
ROUNDS = 40
STEPS = (
    "write",
    "guard",
    "describe",
    "compare embeddings",
    "predict the pool",
    "predict the drafts",
    "screen",
)


def run(settings: Settings) -> Result:
    """Measure the steps of a round, and the whole of it, for two sizes of the pool."""
    result = Result(QUESTION)
    for m in POOLS[: 1 if settings.quick else None]:
        seconds = _rounds(m, 3 if settings.quick else ROUNDS, settings.seed)
        whole = Timing(tuple(map(sum, zip(*seconds.values(), strict=True))))
        rows = {"whole round": whole, **{step: Timing(tuple(times)) for step, times in seconds.items()}}
        for what, timing in rows.items():
            count = len(timing.samples)
            name = f"{what}, m = {m}"
            result.rows.append(Row(name, "zopo_fast", timing.median, timing.p99, count, 1.0, timing.tail()))
    return result


def _run(runner: asyncio.Runner, editor: PartEditor, order: WriteRequest) -> Written:
    return runner.run(editor.write(order))


def _rounds(m: int, rounds: int, seed: int) -> dict[str, list[float]]:
    """Return the seconds of each step, one a round."""
    rng = np.random.default_rng(seed)
    pool = generate.compose(m, seed, kind="sentiment").prompts
    Z = rng.normal(size=(m, DIM)).astype(np.float32)
    examples = [zf.Example(f"a film that lasted {k} hours too long for me", ("negative",)) for k in range(40)]
    description, guard = Description(pool), Guard(examples, known=pool)
    editor = PartEditor.for_pool(pool)
    assert editor is not None
    search = zf.Zopo(Z, zf.ZopoConfig(budget=OBSERVED, seed=seed), features=description.features(pool))
    while not search.done:
        search.tell(search.ask(), float(rng.random()))
    parents = tuple(Parent(k, pool[k], 0.5) for k in range(PARENTS))
    seconds: dict[str, list[float]] = {step: [] for step in STEPS}

    def timed(step: str, work: Callable[..., Any], *args: Any, **options: Any) -> Any:
        begun = perf_counter()
        made = work(*args, **options)
        seconds[step].append(perf_counter() - begun)
        return made

    with asyncio.Runner() as runner, uncollected():
        for number in range(rounds):
            order = WriteRequest(parents, WRITTEN, number, pool)
            written = timed("write", _run, runner, editor, order)
            texts = [draft.prompt for draft in written.drafts]
            E = rng.normal(size=(len(texts), DIM)).astype(np.float32)
            timed("guard", guard.reasons, texts)
            F = timed("describe", description.features, texts)
            timed("compare embeddings", near_duplicates, E, Z, NEAR)
            known = timed("predict the pool", search.predict, latent=True)
            found = timed("predict the drafts", search.predict, E, F, latent=True)
            target = search.best[1]
            timed(
                "screen",
                screen,
                found.mean,
                found.variance,
                known.mean,
                known.variance,
                target,
                ENTRANTS,
            )
    return seconds
