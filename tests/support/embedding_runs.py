"""Cancel, share and repeat runs inside a program: executed under -X dev with warnings as errors.

    python -X dev -W error tests/support/embedding_runs.py asyncio|uvloop SCENARIO...

Prints the findings as JSON, by scenario. A leaked task, connection or file shows there, or as a warning on
stderr.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from fake_server import FakeServer, random_faults
from time_tools import HANG

import zopo_fast as zf

PROMPTS = [f"Do it in way number {i}." for i in range(12)]
EMBEDDINGS = np.random.default_rng(7).normal(size=(len(PROMPTS), 6))
TRAIN, HELDOUT = 4, 2


def answer(messages: Sequence[Mapping[str, str]]) -> str:
    """Answer about n of 12 questions correctly under prompt number n."""
    text = messages[-1]["content"]
    number = int(text.split("way number ")[1].split(".")[0])
    question = int(text.split("question ")[1].split("\n")[0])
    return "yes" if (question * 7 + 3) % 12 < number else "no"


def task(train: int = TRAIN) -> zf.Task:
    made = tuple(zf.Example(f"question {i}", ("yes",)) for i in range(train + HELDOUT))
    return zf.Task("toy", made[:train], made[train:])


class Endpoint:
    """Embedder that calls the fake server, so that a run can be cancelled during the embedding as well."""

    def __init__(self, client: zf.OpenAIClient) -> None:
        self._client = client

    async def embed(self, texts: Sequence[str]) -> Any:
        await self._client.embed(texts)
        return EMBEDDINGS


async def no_pause(_: float) -> None:
    await asyncio.sleep(0)


def client_of(server: FakeServer, **settings: Any) -> zf.OpenAIClient:
    config = zf.ClientConfig(
        "m", base_url=server.url, api_key="k", embedding_model="e", embedding_batch=4, **settings
    )
    return zf.OpenAIClient(config, sleep=no_pause, rng=random.Random(0))


def run(
    scenario: Coroutine[Any, Any, Any],
    loops: Callable[[], asyncio.AbstractEventLoop],
    debug: bool = sys.flags.dev_mode,
) -> Any:
    """Run a coroutine to its end in a new loop made by `loops`, like asyncio.run."""
    loop = loops()
    loop.set_debug(debug)
    try:
        return loop.run_until_complete(scenario)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def others(known: Collection[asyncio.Task[Any]] = ()) -> list[str]:
    """List the tasks of this loop except the current one, the `known` ones and the server's."""
    left = []
    for one in asyncio.all_tasks() - {asyncio.current_task(), *known}:
        coroutine = one.get_coro()
        file = coroutine.cr_code.co_filename  # type: ignore[union-attr]
        if "aiohttp/web" not in file.replace("\\", "/") and not file.endswith("fake_server.py"):
            left.append(repr(one))
    return left


async def settled(condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds: the loop notices a closed socket only after some iterations."""
    end = time.monotonic() + HANG
    while not condition() and time.monotonic() < end:
        await asyncio.sleep(0.001)
    return condition()


class Complaints(list[str]):
    """Exception handler of a loop: records exceptions never retrieved and callbacks that failed."""

    def __call__(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.append(f"{context.get('message')}: {context.get('exception')!r}")


# ---- cancelled -------------------------------------------------------------------------------------------

PHASES = ("embedding", "search", "random sample", "comparison")
VARIANTS: list[dict[str, Any]] = [
    {"plan": None, "racing": False, "times": 1},
    {"plan": None, "racing": True, "times": 2, "store": True},
    {"plan": random_faults(seed=1, share=0.3), "racing": True, "times": 3},
]


def cancel_after(task: asyncio.Future[Any], turns: int, times: int) -> None:
    """Cancel a task after `turns` iterations of the loop, in `times` successive iterations."""
    loop = asyncio.get_running_loop()

    def tick(left: int, times: int) -> None:
        if task.done():
            return
        if left == 0:
            task.cancel()
            times -= 1
        if times:
            loop.call_soon(tick, max(0, left - 1), times)

    loop.call_soon(tick, turns, times)


async def cancelled_run(
    start: str, turns: int, variant: Mapping[str, Any], own_client: bool, folder: str
) -> tuple[str, str]:
    """Cancel one run; return how it ended, and its phase at that moment.

    Args:
        start: phase from whose begin the iterations of the loop are counted.
        turns: number of those iterations before the cancellation.
        variant: one of VARIANTS.
        own_client: whether the client is closed together with the run, or used again afterwards.
        folder: directory for the study file.
    """
    phases, known = [], asyncio.all_tasks()
    config = zf.RunConfig(
        budget=4, initial=2, seed=1, stop_at_perfect=False, racing=variant["racing"], compare_random=True
    )

    async def on_trial(_: zf.Trial) -> None:
        await asyncio.sleep(0)

    def on_phase(phase: str) -> None:
        phases.append(phase)
        if phase == start and phases.count(phase) == 1:
            cancel_after(running, turns, variant["times"])

    async with FakeServer(answer, plan=variant["plan"]) as server:
        client = client_of(server, concurrency=8, timeout=HANG)
        store = Path(folder) / "study" if variant.get("store") else None

        async def optimize() -> zf.Result:
            return await zf.optimize(
                task(), PROMPTS, client, config,
                embedder=Endpoint(client), on_trial=on_trial, on_phase=on_phase, store=store,
            )  # fmt: skip

        async def optimize_and_close() -> zf.Result:
            async with client:
                return await optimize()

        running = asyncio.ensure_future(optimize_and_close() if own_client else optimize())
        on_phase("start")
        try:
            await running
            how = "ended"
        except asyncio.CancelledError:
            how = "cancelled"
        except zf.LLMError:  # more faults than retries
            how = "failed"
        phase = phases[-1]
        # A run must have cleaned up when it ends, not some iterations later.
        assert not (left := others(known)), left
        if not own_client:
            # Cancelled calls must be cancelled at the server too, and leave the client usable.
            assert await settled(lambda: server.in_flight == 0), "a request is still in flight"
            server._plan = None
            text = PROMPTS[3] + "\nquestion 1\n"
            assert (await client.chat([{"role": "user", "content": text}])).text in {"yes", "no"}
            if store is not None:  # the study is released: it can be resumed
                assert (await optimize()).stopped_by == "budget"
            await client.aclose()
        # A second cancellation while closing may leave the connections to the loop.
        assert await settled(lambda: server.open_connections == 0), "a connection is still open"
        assert not (left := others(known)), left
    return how, phase


def cancelled(loops: Callable[[], asyncio.AbstractEventLoop]) -> dict[str, Any]:
    """Cancel runs at iterations 0, 1, 2, ..., in growing steps, and in each phase."""
    # A quarter more each time: on a busy machine a run has many more iterations, but few more cancellations.
    longest = int(os.environ.get("ZOPO_CANCEL_EVERY", "1000"))
    found: Counter[str] = Counter()
    complaints = Complaints()
    files: list[int] = []

    async def cancel(start: str, turns: int, variant: Mapping[str, Any], own_client: bool) -> str:
        asyncio.get_running_loop().set_exception_handler(complaints)
        with tempfile.TemporaryDirectory() as folder:
            run = cancelled_run(start, turns, variant, own_client, folder)
            how, phase = await asyncio.wait_for(run, HANG)
        gc.collect()
        found[f"{how} in {phase}" if how == "cancelled" else how] += 1
        return how

    # The short form cancels runs of all variants on one loop, and of one variant on the other.
    all_variants = loops is asyncio.new_event_loop or "ZOPO_CANCEL_EVERY" in os.environ
    variants = VARIANTS if all_variants else VARIANTS[1:2]
    for number, variant in enumerate(variants):
        turns, own_client = 17 * number, number % 2 == 0  # the first iterations are alike in all variants
        # Debug mode is slow, so only the first variant runs in it.
        while run(cancel("start", turns, variant, own_client), loops, debug=number == 0) == "cancelled":
            turns += min(longest, max(1, turns // 4))
            own_client = not own_client
            files.append(open_files())
    # The number of iterations of a phase depends on the machine: count from the begin of each as well.
    for phase, turns in itertools.product(PHASES, (0, 3)):
        run(cancel(phase, turns, VARIANTS[turns > 0], own_client=turns == 0), loops)
        files.append(open_files())
    more_files = files[-1] - files[0]
    return {"found": dict(found), "complaints": complaints, "more_files": more_files, "ends": len(variants)}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


# ---- shared and repeated ---------------------------------------------------------------------------------


async def alone(llm: Any, seed: int, **settings: Any) -> zf.Result:
    """Run with one prompt in flight, so that the outcome does not depend on the order of the answers."""
    config = zf.RunConfig(
        budget=6, initial=3, seed=seed, stop_at_perfect=False, racing=False, prompts_in_flight=1, **settings
    )
    return await zf.optimize(task(4), PROMPTS, llm, config, embeddings=EMBEDDINGS)


def outcome(result: zf.Result) -> list[Any]:
    return [result.best_index, result.best_score, [trial.index for trial in result.trials]]


def shared(loops: Callable[[], asyncio.AbstractEventLoop]) -> dict[str, Any]:
    """Make two concurrent runs in one loop with one client; compare each with the same run alone."""

    async def scenario() -> dict[str, Any]:
        async with FakeServer(answer) as server, client_of(server) as client:
            apart = [await alone(client, seed) for seed in (1, 2)]
            before = client.usage
            server.gate = asyncio.Event()
            both = asyncio.gather(alone(client, 1), alone(client, 2))
            await asyncio.wait_for(server.wait_in_flight(2 * 4), HANG)  # one prompt of each run on 4 examples
            server.gate.set()
            together = await both
            return {
                "alike": [outcome(one) for one in apart] == [outcome(one) for one in together],
                "different": outcome(apart[0]) != outcome(apart[1]),
                "calls": client.usage.calls - before.calls == sum(one.usage.calls for one in together),
                "left": others(),
            }

    return run(scenario(), loops)


@contextmanager
def serving(loops: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[FakeServer]:
    """Run a server in a thread with a loop of its own."""
    loop = loops()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = FakeServer(answer)
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(HANG)
        yield server
        asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(HANG)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def soon(condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds that the server's thread brings about."""
    end = time.monotonic() + HANG
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def repeated(loops: Callable[[], asyncio.AbstractEventLoop]) -> dict[str, Any]:
    """Use one client in successive loops; only the end of each loop closes its connections."""
    with serving(loops) as server:
        client = client_of(server)
        results = [outcome(run(alone(client, 1), loops)) for _ in range(3)]
        closed = soon(lambda: not server.open_connections)
    return {"alike": all(one == results[0] for one in results), "closed": closed}


def threads(loops: Callable[[], asyncio.AbstractEventLoop]) -> dict[str, Any]:
    """Make runs in threads, each with its loop, on one client; compare each with the same run alone."""
    seeds, found = (1, 2, 3), {}
    with serving(loops) as server:
        client = client_of(server)
        apart = [outcome(run(alone(client, seed), loops)) for seed in seeds]

        def work(seed: int) -> None:
            found[seed] = outcome(run(alone(client, seed), loops))

        workers = [threading.Thread(target=work, args=(seed,)) for seed in seeds]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        closed = soon(lambda: not server.open_connections)
    return {"alike": [found.get(seed) for seed in seeds] == apart, "closed": closed}


def misused(loops: Callable[[], asyncio.AbstractEventLoop]) -> dict[str, Any]:
    """Call optimize_sync in a running loop, and pass a stop event of another loop."""
    said: dict[str, Any] = {}

    async def inside() -> None:
        try:
            zf.optimize_sync(lambda prompt: 0.0, PROMPTS, embeddings=EMBEDDINGS)
        except zf.EventLoopError as error:
            said["optimize_sync"] = str(error)

    async def bind(event: asyncio.Event) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(event.wait(), 0.01)

    async def stopped(event: asyncio.Event) -> None:
        calls = itertools.count()
        try:
            await zf.optimize(lambda prompt: float(next(calls)), PROMPTS, embeddings=EMBEDDINGS, stop=event)
        except zf.EventLoopError as error:
            said["stop"] = str(error)
        said["calls"] = next(calls)
        said["left"] = others()

    event = asyncio.Event()
    run(bind(event), loops)
    run(inside(), loops)
    run(stopped(event), loops)
    return said


def interrupted(loops: Callable[[], asyncio.AbstractEventLoop]) -> dict[str, Any]:
    """Interrupt optimize_sync by Ctrl-C, look for leaked threads, connections and files, and run it again."""
    trials: list[zf.Trial] = []

    def on_trial(trial: zf.Trial) -> None:
        trials.append(trial)
        if len(trials) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    found: dict[str, Any] = {"raised": False}
    with serving(loops) as server:
        config = zf.RunConfig(budget=6, initial=3, seed=1, stop_at_perfect=False)
        arguments = (task(), PROMPTS, client_of(server), config)
        threads, files = threading.active_count(), open_files()
        try:
            zf.optimize_sync(*arguments, embeddings=EMBEDDINGS, on_trial=on_trial)
        except KeyboardInterrupt:
            found["raised"] = True
        gc.collect()
        found["closed"] = soon(lambda: not server.open_connections)
        found["threads ended"] = soon(lambda: threading.active_count() == threads)
        found["again"] = zf.optimize_sync(*arguments, embeddings=EMBEDDINGS).stopped_by
        found["files closed"] = soon(lambda: open_files() <= files)
    return found


SCENARIOS: dict[str, Callable[[Callable[[], asyncio.AbstractEventLoop]], dict[str, Any]]] = {
    "cancelled": cancelled,
    "shared": shared,
    "repeated": repeated,
    "threads": threads,
    "misused": misused,
    "interrupted": interrupted,
}


def main() -> None:
    kind, *scenarios = sys.argv[1:]
    logging.getLogger("aiohttp.server").disabled = True  # logs disconnected clients
    loops: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if kind == "uvloop":
        import uvloop

        loops = uvloop.new_event_loop
        if sys.version_info < (3, 14):  # used by optimize_sync; deprecated in 3.14
            asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    print(json.dumps({scenario: SCENARIOS[scenario](loops) for scenario in scenarios}))


if __name__ == "__main__":
    main()
