"""Web service that finds the best prompt from the feedback of its users.

    python examples/aiohttp_service.py pool.jsonl embeddings.npy --state state.json
    curl localhost:8080/prompt                                      # {"prompt": "...", "index": 17}
    curl localhost:8080/feedback -d '{"index": 17, "score": 1}'     # thumbs up
    curl localhost:8080/best

The state file keeps the search and the feedback over restarts. With `--task examples.jsonl --model
gpt-4o-mini` the service also scores prompts on examples, in the background. Everything runs in one event
loop, so no lock is needed; an ask or a tell takes less than a millisecond.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web

import zopo_fast as zf

MIN_RATINGS = 5  # ratings until the score of a prompt is final
MAX_TRIALS = 4  # prompts on trial at a time
TRIAL_INTERVAL = 4  # one request in four gets a prompt on trial; the others get the best prompt


class Prompts:
    """Choice of the next prompt; the score of a prompt is its mean rating, from 0 to 1."""

    def __init__(self, pool: zf.Pool, embeddings: Any, state: Path) -> None:
        self._pool, self._path = pool, state
        self._feedback: dict[int, list[float]] = {}
        self._requests = 0
        if state.exists():
            saved = json.loads(state.read_text(encoding="utf-8"))
            self._search = zf.Zopo.from_state(embeddings, saved["search"])
            self._feedback = {int(index): scores for index, scores in saved["feedback"].items()}
        else:
            self._search = zf.Zopo(embeddings, zf.ZopoConfig(budget=len(pool), seed=0))

    def next(self) -> dict[str, Any]:
        """Choose the best prompt, or at regular intervals a prompt on trial."""
        self._requests += 1
        try:
            index, _ = self._search.best
        except zf.NothingToAsk:  # no ratings yet
            index = None
        wants_trial = index is None or self._requests % TRIAL_INTERVAL == 0
        if wants_trial and (trial := self._on_trial()) is not None:
            index = trial
        return {"prompt": self._pool.prompts[index], "index": index}

    def _on_trial(self) -> int | None:
        """Return the prompt on trial with the fewest ratings; None if all prompts have a final score."""
        with suppress(zf.NothingToAsk):
            while len(self._search.pending) < MAX_TRIALS:
                self._search.ask()
        return min(self._search.pending, key=lambda i: len(self._feedback.get(i, ())), default=None)

    def best(self) -> dict[str, Any]:
        index, score = self._search.best
        return {"prompt": self._pool.prompts[index], "index": index, "score": score}

    def feedback(self, index: int, score: float) -> None:
        """Tell the search a rating; ignored if the score of the prompt is final."""
        if not 0.0 <= score <= 1.0:
            raise ValueError(f"score: expected a number from 0 to 1, got {score}")
        if index not in self._search.pending:
            return
        scores = [*self._feedback.get(index, ()), score]
        # The mean of a few ratings is noisy: pass its variance to the search.
        noise = (np.var(scores) + 0.05) / len(scores)
        self._search.tell(index, np.mean(scores), noise=noise, final=len(scores) >= MIN_RATINGS)
        self._feedback[index] = scores

    def scored(self, trial: zf.Trial) -> None:
        """Tell the search a score on examples; users then need not try the prompt."""
        if trial.score is not None and not trial.partial and trial.index not in self._feedback:
            with suppress(zf.ConflictingScoreError):  # scored before the last restart
                self._search.tell(trial.index, trial.score)

    def save(self) -> None:
        new = self._path.with_suffix(".new")
        saved = {"search": self._search.state_dict(), "feedback": self._feedback}
        new.write_text(json.dumps(saved), encoding="utf-8")
        new.replace(self._path)  # atomic


PROMPTS = web.AppKey("PROMPTS", Prompts)


async def get_prompt(request: web.Request) -> web.Response:
    return web.json_response(request.app[PROMPTS].next())


async def get_best(request: web.Request) -> web.Response:
    try:
        return web.json_response(request.app[PROMPTS].best())
    except zf.NothingToAsk as error:
        raise web.HTTPNotFound(text=str(error)) from None


async def post_feedback(request: web.Request) -> web.Response:
    try:
        rating = json.loads(await request.text())
        request.app[PROMPTS].feedback(int(rating["index"]), float(rating["score"]))
    except (zf.ZopoError, ValueError, LookupError, TypeError) as error:
        raise web.HTTPBadRequest(text=str(error)) from None
    return web.json_response({})


def log_failure(run: asyncio.Task[zf.Result]) -> None:
    if not run.cancelled() and (error := run.exception()):
        logging.error("the background run failed: %s", error)


def make_app(options: argparse.Namespace) -> web.Application:
    pool, embeddings = zf.Pool.load(options.pool), np.load(options.embeddings)

    async def keep(app: web.Application) -> AsyncIterator[None]:
        app[PROMPTS] = Prompts(pool, embeddings, options.state)
        yield
        app[PROMPTS].save()

    async def background(app: web.Application) -> AsyncIterator[None]:
        task, config = zf.Task.load(options.task), zf.RunConfig(budget=options.budget)
        async with zf.OpenAIClient(options.model) as llm:
            run = asyncio.create_task(
                zf.optimize(task, pool, llm, config, embeddings=embeddings, on_trial=app[PROMPTS].scored)
            )
            run.add_done_callback(log_failure)
            yield
            run.cancel()  # cancels its calls; finished trials are already told
            await asyncio.wait([run])

    app = web.Application()
    app.add_routes([
        web.get("/prompt", get_prompt), web.get("/best", get_best), web.post("/feedback", post_feedback),
    ])  # fmt: skip
    app.cleanup_ctx.append(keep)  # cleaned up last, after the background run
    if options.task:
        app.cleanup_ctx.append(background)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pool", type=Path)
    parser.add_argument("embeddings", type=Path)
    parser.add_argument("--state", type=Path, default=Path("state.json"))
    parser.add_argument("--task", type=Path)
    parser.add_argument("--model", default="gpt-4o-mini")
    parser.add_argument("--budget", type=int, default=20)
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()
    web.run_app(make_app(options), host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
