"""One study in memory: its search, and what its log, its pending prompts and its answered keys are."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from zopo_fast.errors import NothingToAsk, StoreDamagedError, ZopoError
from zopo_fast.search.config import ZopoConfig
from zopo_fast.search.optimizer import Zopo
from zopo_fast.serve.config import Limits
from zopo_fast.serve.http.problems import Problem
from zopo_fast.serve.studies.journal import Event
from zopo_fast.serve.studies.schemas import Asked, Scored, Tell

KEPT_KEYS = 4096  # of a study, the newest
LARGE = 50_000  # prompts: an ask on more takes long enough to hold up everyone else's

_encode = msgspec.json.Encoder().encode
_MOST_EVENTS = 4  # more than any request makes


class Study:
    """A search and the events that its calls make.

    Every change is a call of `ask`, `tell`, `step`, `discard` or `remember`; what it did is to be taken with
    `take_events` and put into the journal as one entry. Replaying the events on the same pool leads to the
    same search, bit for bit.
    """

    def __init__(
        self, study: str, config: ZopoConfig, embeddings: Any, prompts: Sequence[str] | None
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a budget above the pool is clipped, as the answer says
            self.optimizer = Zopo(embeddings, config)
        self.id = study
        self.prompts = prompts
        self.size, self.dimension = embeddings.shape
        self.dtype = embeddings.dtype.name
        self.budget = min(config.budget, self.size)
        self.large = self.size > LARGE
        self.dead = False  # undone: what is in memory is ahead of what is on disk
        self.seq = 0  # of the newest event
        self.pending: set[int] = set()
        self.scored: set[int] = set()
        self.asked = 0
        self.keys: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._events: list[Event] = []

    # ---- calls -------------------------------------------------------------------------------------

    def ask(self, n: int, limits: Limits) -> list[int]:
        """Ask for at most n prompts; raises as Zopo.ask does, and a Problem beyond the limits."""
        self._room(limits)
        self._may_ask(n, len(self.pending), limits)
        indices = self.optimizer.ask(n)
        self.pending.update(indices)
        self.asked += len(indices)
        self._add("ask", [n, indices])
        return indices

    def tell(self, index: int, score: float, noise: float | None, final: bool, limits: Limits) -> None:
        """Tell a score; raises as Zopo.tell does."""
        self._room(limits)
        if len(self.scored) >= limits.max_scores and index not in self.scored:
            raise Problem(409, "TooManyScores", f"at most {limits.max_scores} prompts of a study are scored")
        self.optimizer.tell(index, score, noise, final)
        self.scored.add(index)
        if final:
            self.pending.discard(index)
        self._add("tell", [index, score, noise, final])

    def step(self, told: Tell, limits: Limits) -> list[int]:
        """Tell a score and ask for the next prompts, or do neither; empty where nothing is left to ask."""
        if told.ask is None:
            self.tell(told.index, told.score, told.noise, told.final, limits)
            return []
        freed = told.final and told.index in self.pending
        self._may_ask(told.ask, len(self.pending) - freed, limits)
        self.tell(told.index, told.score, told.noise, told.final, limits)
        try:
            return self.ask(told.ask, limits)
        except NothingToAsk:
            return []

    def discard(self, index: int, limits: Limits) -> None:
        """Give a pending prompt back; raises as Zopo.discard does."""
        self._room(limits)
        self.optimizer.discard(index)
        self.pending.discard(index)
        self.asked -= 1
        self._add("discard", [index])

    def remember(self, key: str, digest: str, answer: bytes) -> None:
        """Keep the answer to a request with an idempotency key."""
        self._keep(key, digest, answer)
        self._add("key", [key, digest, answer.decode()])

    def answered(self, key: str, digest: str) -> bytes | None:
        """The answer to an earlier request with this key; a Problem where that was another request."""
        known = self.keys.get(key)
        if known is None:
            return None
        if known[0] != digest:
            raise Problem(422, "IdempotencyKeyReused", "this Idempotency-Key was used for another request")
        return known[1]

    def take_events(self) -> list[Event]:
        """What was done since the last time, for the journal."""
        events, self._events = self._events, []
        return events

    # ---- views -------------------------------------------------------------------------------------

    def asked_for(self, indices: list[int]) -> Asked:
        """The answer that names these prompts."""
        texts = None if self.prompts is None else [self.prompts[i] for i in indices]
        return Asked(indices, self.optimizer.done, texts)

    def best(self) -> Scored | None:
        """The best prompt so far; None before the first score."""
        try:
            index, score = self.optimizer.best
        except NothingToAsk:
            return None
        return Scored(index, score, None if self.prompts is None else self.prompts[index])

    # ---- the log -----------------------------------------------------------------------------------

    def _add(self, kind: str, data: Any) -> None:
        self.seq += 1
        self._events.append(Event(self.id, self.seq, kind, msgspec.Raw(_encode(data))))

    def _room(self, limits: Limits) -> None:
        if self.seq + _MOST_EVENTS > limits.max_events:
            raise Problem(
                409, "LogFull", f"the study's log has reached its limit of {limits.max_events} events"
            )

    def _may_ask(self, n: int, pending: int, limits: Limits) -> None:
        if pending + n > limits.max_pending:
            raise Problem(429, "TooManyPending", f"at most {limits.max_pending} prompts may be pending")

    def _keep(self, key: str, digest: str, answer: bytes) -> None:
        self.keys[key] = digest, answer
        if len(self.keys) > KEPT_KEYS:
            self.keys.popitem(last=False)

    def replay(self, events: Iterable[tuple[int, str, Any]]) -> None:
        """Do again what a log holds; StoreDamagedError where that cannot be."""
        try:
            for seq, kind, data in events:
                if seq != self.seq + 1:
                    raise StoreDamagedError(f"study {self.id}: event {self.seq + 1} is missing from its log")
                self._replay(kind, data)
                self.seq = seq
        except StoreDamagedError:
            raise
        except (ZopoError, LookupError, TypeError, ValueError) as error:
            raise StoreDamagedError(
                f"study {self.id}: event {self.seq + 1} cannot be done again: {error!r}"
            ) from error

    def _replay(self, kind: str, data: list[Any]) -> None:
        if kind == "ask":
            n, asked = data
            if (again := self.optimizer.ask(n)) != asked:
                raise StoreDamagedError(f"study {self.id}: an ask answered {asked} then and {again} now")
            self.pending.update(asked)
            self.asked += len(asked)
        elif kind == "tell":
            index, score, noise, final = data
            self.optimizer.tell(index, float(score), noise, final)
            self.scored.add(index)
            if final:
                self.pending.discard(index)
        elif kind == "discard":
            self.optimizer.discard(*data)
            self.pending.discard(*data)
            self.asked -= 1
        elif kind == "key":
            key, digest, answer = data
            self._keep(key, digest, answer.encode())
        else:
            raise StoreDamagedError(f"study {self.id}: unknown event {kind!r}")
