"""Whole runs against a faulty server, and the checks of each run."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from chaos_server import FAULTS, Books, ChaosServer, right_answer
from time_tools import HANG

import zopo_fast as zf
from zopo_fast.errors import LimitReachedError, LLMError, ZopoError
from zopo_fast.llm.budget import Account
from zopo_fast.llm.limits import Limits
from zopo_fast.llm.openai.client import ClientConfig, OpenAIClient

PROMPTS = 40
SLOTS = 64
TIMEOUT = 4.0  # less than the 5 s from which aiohttp rounds up; skipped where an answer is slow
PAUSE = 0.001  # real duration of any pause; the client's clock counts the full one
MAX_SECONDS = 600.0  # of one run, the skipped ones included

POOL = [f"Answer in way {i}." for i in range(PROMPTS)]
EMBEDDINGS = np.random.default_rng(5).normal(size=(PROMPTS, 6))


@dataclass(frozen=True)
class Size:
    """Size of a run: number of prompts scored, and of examples for each."""

    budget: int = 8
    examples: int = 5


@dataclass
class Row:
    """Outcome of the runs with one kind of fault."""

    fault: str
    runs: int = 0
    requests: int = 0
    faults: int = 0
    answered: int = 0
    retries: int = 0
    lost: int = 0
    scored: int = 0
    failed: int = 0
    """Prompts that were reported as failed."""
    ended_by: Counter[str] = field(default_factory=Counter)
    limits_reached: int = 0
    slowest_run_s: float = 0.0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    """Violated invariants."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        values = {**vars(self), "ended_by": dict(self.ended_by.most_common())}
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()}


@dataclass
class Watch:
    """Reports of the event loop, and exceptions that could not be raised."""

    problems: list[str] = field(default_factory=list)


@asynccontextmanager
async def watched() -> AsyncIterator[Watch]:
    """Collect unhandled exceptions during a block."""
    watch, loop = Watch(), asyncio.get_running_loop()
    before, hook = loop.get_exception_handler(), sys.unraisablehook

    def unraisable(args: Any) -> None:
        watch.problems.append(f"unraisable: {args.exc_value!r} in {args.object!r}")

    loop.set_exception_handler(lambda _, context: watch.problems.append(f"event loop: {context}"))
    sys.unraisablehook = unraisable
    try:
        yield watch
    finally:
        gc.collect()
        loop.set_exception_handler(before)
        sys.unraisablehook = hook


async def short_sleep(seconds: float) -> None:
    """Sleep for at most PAUSE seconds."""
    await asyncio.sleep(min(seconds, PAUSE))


async def runs(
    fault: str, count: int, *, share: float = 0.3, seed: int = 0, step: int = 1, size: Size | None = None
) -> Row:
    """Make `count` successive runs with a fault, "none" or "all mixed".

    Their seeds are `seed`, `seed + step` and so on; those that are multiples of 3 meet no limit.
    """
    row = Row(fault)
    began = time.monotonic()
    async with watched() as watch, ChaosServer() as server:
        server.timeout = TIMEOUT
        for number in range(count):
            await _one_run(row, server, share, seed + step * number, size or Size())
    row.seconds = time.monotonic() - began
    row.problems += watch.problems
    return row


def faults_of(name: str) -> tuple[str, ...]:
    """Return the faults behind a name."""
    return {"none": (), "all mixed": FAULTS}.get(name, (name,))


async def _one_run(row: Row, server: ChaosServer, share: float, seed: int, size: Size) -> None:
    rng = random.Random(seed)
    books = server.begin(faults_of(row.fault), share, seed)
    whole = size.budget * size.examples
    limits = [
        Limits(calls=100 * whole, tokens=10**8),
        Limits(calls=rng.randint(whole // 4, whole)),
        Limits(tokens=rng.randint(whole // 4, whole) * 100),
    ][seed % 3]
    account = Account(limits)
    tasks = asyncio.all_tasks()
    config = ClientConfig(
        "m",
        base_url=server.url,
        api_key="sk-chaos-0123456789",
        concurrency=SLOTS,
        timeout=TIMEOUT if "slow" in faults_of(row.fault) else HANG,
        body={"max_tokens": 8},
        max_response_bytes=2**16,
    )
    began = time.monotonic()
    async with OpenAIClient(config, sleep=short_sleep, rng=rng) as client:
        result: zf.Result | ZopoError
        try:
            result = await asyncio.wait_for(
                zf.optimize(
                    zf.Task(
                        "chaos", tuple(zf.Example(f"question {i}", ("yes",)) for i in range(size.examples))
                    ),
                    POOL,
                    client,
                    _run_config(seed, size.budget),
                    embeddings=EMBEDDINGS,
                    account=account,
                ),
                MAX_SECONDS,
            )
        except (TimeoutError, ZopoError) as error:
            result = error if isinstance(error, ZopoError) else ZopoError(f"still running: {error!r}")
            if not isinstance(error, (LLMError, LimitReachedError)):
                row.problems.append(f"seed {seed}: {error!r}")
        usage = client.usage
    seconds = time.monotonic() - began
    _add(row, books, usage, result, seconds)
    row.problems += [f"seed {seed}: {problem}" for problem in _wrong(books, usage, result, account, size)]
    if account.spent.calls + account.spent.tokens and _at_limit(result):
        row.limits_reached += 1
    end = time.monotonic() + HANG
    while server.open_connections and time.monotonic() < end:  # closed a moment ago
        await asyncio.sleep(0.01)
    if server.open_connections:
        row.problems.append(f"seed {seed}: {server.open_connections} connections left open")
    # The server's own handlers of connections end with these.
    left = [task for task in asyncio.all_tasks() - tasks if "web_protocol" not in repr(task)]
    if left:
        row.problems.append(f"seed {seed}: tasks left: {left}")


def _run_config(seed: int, budget: int) -> zf.RunConfig:
    return zf.RunConfig(
        budget=budget,
        initial=5,
        seed=seed,
        stop_at_perfect=False,
        racing=False,
        heldout=False,
        max_failures=5,
    )


def _at_limit(result: zf.Result | ZopoError) -> bool:
    if isinstance(result, zf.Result):
        return result.stopped_by in ("calls", "tokens", "cost", "time")
    return isinstance(result, LimitReachedError)


def _add(row: Row, books: Books, usage: Any, result: zf.Result | ZopoError, seconds: float) -> None:
    row.runs += 1
    row.requests += books.requests
    row.faults += books.faults.total()
    row.answered += usage.calls
    row.retries += usage.retries
    row.lost += usage.lost_calls
    row.slowest_run_s = max(row.slowest_run_s, seconds)
    if _at_limit(result):
        row.ended_by["limit"] += 1
    elif isinstance(result, zf.Result):
        row.ended_by[result.stopped_by] += 1
    else:
        row.ended_by[type(result).__name__] += 1
    if isinstance(result, zf.Result):
        row.scored += sum(trial.score is not None for trial in result.trials)
        row.failed += sum(trial.score is None for trial in result.trials)


def _wrong(
    books: Books, usage: Any, result: zf.Result | ZopoError, account: Account, size: Size
) -> list[str]:
    """List the violated invariants of a run."""
    found = []
    limits, spent = account.limits, account.spent
    for name, limit, billed, charged in (
        ("calls", limits.calls, books.billed_calls, spent.calls),
        ("tokens", limits.tokens, books.billed_tokens, spent.tokens),
    ):
        if limit is not None and billed > limit:
            found.append(f"{billed} {name} billed, the limit is {limit}")
        if billed > charged:
            found.append(f"{billed} {name} billed, {charged} charged")
    if account.outstanding:
        found.append(f"{account.outstanding} reservations left")
    if not usage.calls <= books.answered <= usage.calls + usage.lost_calls:
        found.append(f"{books.answered} answers delivered, {usage.calls} taken, {usage.lost_calls} lost")
    if isinstance(result, zf.Result):
        indices = [trial.index for trial in result.trials]
        if len(set(indices)) != len(indices):
            found.append("a prompt was reported twice")
        for trial in result.trials:
            found += _wrong_trial(trial, size)
    return found


def _wrong_trial(trial: zf.Trial, size: Size) -> list[str]:
    """Check that every example was scored exactly once, or the prompt reported as failed."""
    if trial.error is not None:
        return [] if trial.score is None else [f"prompt {trial.index} failed and has a score"]
    expected = [float(right_answer(trial.index, example) == "yes") for example in range(size.examples)]
    if list(trial.scores) == expected:
        return []
    return [f"prompt {trial.index}: scores {trial.scores}, not {expected}"]
