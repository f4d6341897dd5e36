"""This package as a user runs it: zf.optimize with a budget of calls, from a growing or a fixed pool."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import zopo_fast as zf

from .session import MAX_WRITTEN, SCORED, WRITER, RefusedError, Run

SLOTS = 8  # completions in flight
TIMEOUT = 600.0  # seconds: the model may be busy with other runs
REQUEST = "Change one part of this prompt and return the new prompt only:\n\n{prompt}"


def paid_editor(run: Run) -> Any:
    """Return the scripted writer as a writer of a run: each draft is one completion.

    It is an editor of parts, so that the run adds no editor of its own.
    """
    from zopo_fast.prompts.writing.types import Draft, Written

    class PaidEditor(zf.PartEditor):  # type: ignore[name-defined]
        name = "scripted"
        calls = 1

        async def write(self, request: Any) -> Any:
            """Return one edit of a parent a draft; the parents take turns, the best first."""
            parents = [request.parents[number % len(request.parents)] for number in range(request.n)]
            bodies = [run.writer_body(REQUEST.replace("{prompt}", each.prompt)) for each in parents]
            try:
                texts = await asyncio.to_thread(run.client.ask, bodies)
            except RefusedError:
                return Written((), rejected=("the budget is spent",))
            drafts = [
                Draft(text, (parent.index,), "scripted edit")
                for parent, text in zip(parents, texts, strict=True)
            ]
            return Written(tuple(drafts), usage=zf.Usage(calls=len(texts)))

    return PaidEditor(run.problem.parts.lists())


def client(run: Run, model: str, **body: Any) -> zf.OpenAIClient:
    """Return a client of a model behind the metering proxy."""
    return zf.OpenAIClient(
        zf.ClientConfig(
            model,
            base_url=run.client.url,
            api_key=run.client.key,
            concurrency=SLOTS,
            # A refusal is final, and a retry of it would be one more refusal.
            max_attempts=1,
            timeout=TIMEOUT,
            body=body,
        )
    )


def can_grow() -> bool:
    """Return True where pools can grow."""
    return "grow" in {each.name for each in fields(zf.RunConfig)}


def fixed(run: Run) -> None:
    """Search a fixed pool; no prompt is written."""
    asyncio.run(_optimize(run, run.problem.pool, {}, **({"grow": False} if can_grow() else {})))


def grown(run: Run) -> None:
    """Search a pool that grows from the starting prompts; every draft of the writer is a completion."""
    asyncio.run(_grown(run))


def demonstrated(run: Run) -> None:
    """Search instructions together with demonstrations, which a third of the examples is set aside for."""
    asyncio.run(_grown(run, demonstrations="search"))


async def _grown(run: Run, **settings: Any) -> None:
    if run.problem.track == "local":
        async with client(run, WRITER, max_tokens=MAX_WRITTEN, temperature=0.7) as writer:
            await _optimize(run, run.problem.initial, {"writer": writer}, **settings)
    else:
        await _optimize(run, run.problem.initial, {"writers": [paid_editor(run)]}, **settings)


def grown_free(run: Run) -> None:
    """Search a pool that grows by the editor of this package, which makes no completion."""
    editor = zf.PartEditor(run.problem.parts.lists())  # type: ignore[attr-defined]
    asyncio.run(_optimize(run, run.problem.initial, {"writers": [editor]}))


# Pools grow by the writers given. With grow=True and no other model, the scored model would write, too.
async def _optimize(run: Run, pool: Sequence[str], arguments: dict[str, Any], **settings: Any) -> None:
    problem = run.problem
    config = zf.RunConfig(
        budget=max(1, problem.budget // problem.examples),
        calls=problem.budget,
        seed=problem.seed,
        concurrency=SLOTS,
        heldout=False,
        score_range=(0.0, 1.0),
        **settings,
    )
    best: tuple[bool, float] = (False, -1.0)

    def watch(trial: zf.Trial) -> None:
        """State the best prompt so far: one scored in full before any other."""
        nonlocal best
        if trial.score is not None and (not trial.partial, trial.score) > best:
            best = (not trial.partial, trial.score)
            run.take(trial.prompt, trial.total.calls)

    async with client(run, SCORED, max_tokens=problem.max_tokens, temperature=0) as model:
        result = await zf.optimize(
            problem.task, pool, model, config, on_trial=watch, embedder=problem.embedder, **arguments
        )
    run.take(result.best_prompt, result.usage.calls)
    run.notes.append(f"stopped by {result.stopped_by}; {len(result.prompts_scored())} prompts scored")
