"""Model that answers one call at a time in a given order, to interrupt a study at any answer."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from resume_tools import EXAMPLES, answer, asked_for, copy
from time_tools import HANG

import zopo_fast as zf
from zopo_fast.storage.store import Event, Store

Pair = tuple[int, int]  # prompt and example


class Conductor:
    """Holds all calls of a search and releases one at a time, each after the log has grown.

    Args:
        store: study with the log.
        order: log entries that give the order of release; other calls are released at random.
        reject: prompts that the model refuses.
        reject_examples: examples that the model refuses.
        images: called with the number of log entries whenever it has grown; may copy the study.
        seed: seed of the random order.
    """

    def __init__(
        self,
        store: Store,
        order: Iterable[Event] = (),
        *,
        reject: Sequence[int] = (),
        reject_examples: Sequence[int] = (),
        images: Callable[[int], None] = lambda _: None,
        seed: int = 0,
    ) -> None:
        self.calls: list[Pair] = []
        self.graded: list[Pair] = []
        self._store, self._reject, self._images = store, frozenset(reject), images
        self._reject_examples = frozenset(reject_examples)
        self._order = {entry.seq: pair for entry in order if (pair := pair_of(entry)) is not None}
        self._rng = random.Random(seed)
        self._waiting: dict[Pair, asyncio.Future[None]] = {}
        self._free = False
        self._beat: asyncio.Task[None] | None = None

    # ---- functions of a run -----------------------------------------------------------------------------

    async def model(self, messages: Any) -> str:
        """Answer a call once it is released."""
        pair = asked_for(messages)
        self.calls.append(pair)
        await self._turn(pair)
        if pair[0] in self._reject and pair[1] < EXAMPLES:
            raise zf.RequestRejectedError(f"prompt {pair[0]} is refused")
        if pair[1] in self._reject_examples:
            raise zf.RequestRejectedError("a filter", code="content_filter")
        return answer(messages)

    async def function(self, prompt: str) -> float:
        """Score a prompt once it is released: a task function."""
        number = int(prompt.split("number ")[1].rstrip("."))
        self.calls.append((number, 0))
        await self._turn((number, 0))
        return number / 60

    async def by_example(self, prompt: str, example: int) -> float:
        """Score a prompt on one example once it is released: a task function of both."""
        pair = int(prompt.split("number ")[1].rstrip(".")), example
        self.calls.append(pair)
        await self._turn(pair)
        return float((pair[1] * 7 + 3 * pair[0]) % 60 < pair[0])

    async def chatty(self, messages: Any) -> str:
        """Answer at once, for a judge."""
        self.calls.append(asked_for(messages))
        return f"{answer(messages)}, says way number {asked_for(messages)[0]}"

    async def judge(self, messages: Any) -> str:
        """Grade an answer once the call is released."""
        pair = asked_for(messages)
        self.graded.append(pair)
        await self._turn(pair)
        return "Score: 10" if "yes, says" in messages[-1]["content"] else "Score: 0"

    def phase(self, name: str) -> None:
        """Release all calls after the search."""
        self._free = name not in ("embedding", "search")

    # ---- release --------------------------------------------------------------------------

    async def _turn(self, pair: Pair) -> None:
        if self._free:
            return
        if self._beat is None:
            self._beat = asyncio.ensure_future(self._conduct())
        turn = self._waiting[pair] = asyncio.get_running_loop().create_future()
        try:
            await turn
        finally:
            self._waiting.pop(pair, None)

    async def _conduct(self) -> None:
        while True:
            for _ in range(5):  # let all concurrent calls arrive before choosing one
                await asyncio.sleep(0)
            pair = self._next()
            if pair is None:
                continue
            before = self._store.last_seq
            self._waiting[pair].set_result(None)
            end = time.monotonic() + HANG
            while self._store.last_seq == before and not self._free:
                assert time.monotonic() < end, f"{pair} was answered, and the log has not grown"
                await asyncio.sleep(0)
            self._images(self._store.last_seq)

    def _next(self) -> Pair | None:
        # A call that the run has cancelled is there until its task has ended.
        waiting = [pair for pair, turn in self._waiting.items() if not turn.done()]
        ahead = [
            seq for seq in self._order if seq > self._store.last_seq
        ]  # recorded answers are replayed without a call
        if ahead:
            pair = self._order[min(ahead)]
            return pair if pair in waiting else None
        return self._rng.choice(waiting) if waiting else None

    async def stop(self) -> None:
        """Stop releasing calls; raise the error of the release task."""
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.wait([self._beat])
            if not self._beat.cancelled():
                self._beat.result()


def pair_of(entry: Event) -> Pair | None:
    """Return the call of a log entry; None for an entry that follows from others without a call."""
    if entry.kind == "score":
        return entry.data["prompt"], entry.data["example"]
    found = re.search(r"example (\d+)", entry.data["error"]) if entry.kind == "failed" else None
    return None if found is None else (entry.data["prompt"], int(found[1]))


Run = Callable[[Conductor, Store], Any]
"""Function that returns the coroutine of a run."""


def conducted(
    run: Run, path: Path, order: Iterable[Event] = (), *, kind: type[Any] = Conductor, **how: Any
) -> tuple[zf.Result, Any, Any]:
    """Start or resume a run; return its result, its conductor, of class `kind`, and its log."""

    async def work(store: Store) -> tuple[zf.Result, Any, list[Event]]:
        conductor = kind(store, order, **how)
        running = asyncio.ensure_future(run(conductor, store))
        try:
            result = await running
        finally:
            running.cancel()
            await conductor.stop()
        return result, conductor, list(store.events())

    there = path.exists()
    with Store.open(path) if there else Store.create(path, {}) as store:
        return asyncio.run(asyncio.wait_for(work(store), 2 * HANG))


class Images:
    """Copies of a study at some of its log entries, as `kill -9` would leave the file."""

    def __init__(self, path: Path, every: int) -> None:
        self.paths: list[Path] = []
        self._path, self._every, self._next = path, every, 1

    def __call__(self, entries: int) -> None:
        if entries >= self._next:
            self._next = entries + self._every
            self.paths.append(copy(self._path, self._path.with_name(f"image{entries}.sqlite3")))
