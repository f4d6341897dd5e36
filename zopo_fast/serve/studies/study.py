"""Loaded study: the search, and the events that its changes produce."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from zopo_fast.errors import InputError, NothingToAsk, StoreDamagedError, ZopoError
from zopo_fast.search.config import ZopoConfig
from zopo_fast.search.optimizer import Zopo
from zopo_fast.serve.config import ServerLimits
from zopo_fast.serve.http.idempotency import IdempotencyKey, key_reused
from zopo_fast.serve.http.problems import Problem
from zopo_fast.serve.studies.journal import JournalEvent
from zopo_fast.serve.studies.schemas import MAX_SOURCE_SCORES, Asked, Learned, Scored, Tell

MAX_KEYS = 4096  # idempotency keys a study remembers, the newest
MIN_LARGE_POOL = 50_000  # prompts; an ask on a larger pool would delay the requests of other studies
MAX_EVENTS_PER_REQUEST = 4  # upper bound
MAX_SOURCES = 16  # earlier searches that a study learns from

_encode = msgspec.json.Encoder().encode


class KnownScores(NamedTuple):
    """Scores of a study that another one can learn from.

    Attributes:
        indices: prompts.
        scores: score of each.
        noise: variance of each score.
        pool: fingerprint of the embeddings.
    """

    indices: list[int]
    scores: list[float]
    noise: list[float]
    pool: dict[str, Any]


class LoadedStudy:
    """Search of one study in memory, with the events that its changes produce.

    `learn`, `ask`, `tell`, `step`, `discard` and `record_response` change the study. After each request, pass
    `take_events()` to the journal as one entry. Replaying the events on the same pool rebuilds the same
    search, bit for bit.

    Args:
        study: id of the study.
        config: settings of the search.
        embeddings: (m, d).
        prompts: m texts; None: the pool has embeddings only.

    Attributes:
        is_large: the pool is so large that calls run outside the event loop.
        is_stale: the study is ahead of what is on disk, and has been discarded.
        seq: number of the newest event.
        has_begun: a prompt was asked or told.
        different: replayed asks that this version would have made for other prompts.
        asked: prompts asked, less those discarded.
        sources: names of the earlier searches that the study learns from.

    Raises:
        ConfigError: the settings do not fit the pool.
        ArrayError: the embeddings cannot be searched.
    """

    def __init__(
        self, study: str, config: ZopoConfig, embeddings: Any, prompts: Sequence[str] | None
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a clipped budget is reported in the response instead
            self.optimizer = Zopo(embeddings, config)
        self.id = study
        self.prompts = prompts
        self.size, self.dimension = embeddings.shape
        self.dtype = embeddings.dtype.name
        self.budget = min(config.budget, self.size)
        self.is_large = self.size > MIN_LARGE_POOL
        self.is_stale = False
        self.seq = 0
        self.pending: set[int] = set()
        self.scored: set[int] = set()
        self.has_begun = False
        self.sources: list[str] = []
        self.asked = 0
        self.different = 0
        self._responses: OrderedDict[str, tuple[str, bytes]] = OrderedDict()  # key: digest, body
        self._events: list[JournalEvent] = []

    # ---- changes -----------------------------------------------------------------------------------

    def learn(
        self,
        indices: Sequence[int],
        scores: Sequence[float],
        noise: float | Sequence[float] | None,
        source: str | None,
        limits: ServerLimits,
    ) -> Learned:
        """Learn from the scores of an earlier search; see `Zopo.learn_from`.

        Raises:
            UnknownIndexError: the pool has no such prompt.
            InputError: the values do not fit together, or the search cannot use them.
            Problem: the study has begun, or a limit of the server is reached.
        """
        self._check_log(limits)
        name = f"source {len(self.sources) + 1}" if source is None else source
        if self.has_begun:
            raise Problem(
                409,
                "StudyBegun",
                "the study has begun, and learns before its first ask or tell only; create a new study",
            )
        if name not in self.sources and len(self.sources) >= MAX_SOURCES:
            raise Problem(409, "TooManySources", f"the study has reached its limit of {MAX_SOURCES} sources")
        self._learn(indices, scores, noise, name)
        self._add("learn", [indices, scores, noise, name])
        return Learned(name, len(indices), list(self.sources))

    def _learn(self, indices: Any, scores: Any, noise: Any, name: str) -> None:
        self.optimizer.learn_from(indices, scores, noise, name)
        if name not in self.sources:
            self.sources.append(name)

    def ask(self, n: int, limits: ServerLimits) -> list[int]:
        """Ask for at most n prompts.

        Raises:
            NothingToAsk: the pool or the budget is used up.
            Problem: a limit of the server is reached.
        """
        self._check_log(limits)
        self._check_pending(n, len(self.pending), limits)
        indices = self.optimizer.ask(n)
        self.has_begun = True
        self.pending.update(indices)
        self.asked += len(indices)
        self._add("ask", [n, indices])
        return indices

    def tell(self, index: int, score: float, noise: float | None, final: bool, limits: ServerLimits) -> None:
        """Tell the score of a prompt.

        Raises:
            UnknownIndexError: the pool has no such prompt.
            ConflictingScoreError: the prompt already has another score.
            Problem: a limit of the server is reached.
        """
        self._check_log(limits)
        if len(self.scored) >= limits.max_scores and index not in self.scored:
            raise Problem(
                409,
                "TooManyScores",
                f"the study has reached its limit of {limits.max_scores} scored prompts; create a new study",
            )
        self.optimizer.tell(index, score, noise, final)
        self.has_begun = True
        self.scored.add(index)
        if final:
            self.pending.discard(index)
        self._add("tell", [index, score, noise, final])

    def step(self, told: Tell, limits: ServerLimits) -> list[int]:
        """Tell a score and ask for the next prompts, atomically.

        Returns:
            The next prompts; empty if none were asked for or none are left.

        Raises:
            UnknownIndexError: the pool has no such prompt.
            ConflictingScoreError: the prompt already has another score.
            Problem: a limit of the server is reached.
        """
        if told.ask is None:
            self.tell(told.index, told.score, told.noise, told.final, limits)
            return []
        freed = told.final and told.index in self.pending
        self._check_pending(told.ask, len(self.pending) - freed, limits)
        self.tell(told.index, told.score, told.noise, told.final, limits)
        try:
            return self.ask(told.ask, limits)
        except NothingToAsk:
            return []

    def discard(self, index: int, limits: ServerLimits) -> None:
        """Return a pending prompt without a score.

        Raises:
            UnknownIndexError: the prompt is not pending.
            Problem: a limit of the server is reached.
        """
        self._check_log(limits)
        self.optimizer.discard(index)
        self.pending.discard(index)
        self.asked -= 1
        self._add("discard", [index])

    def record_response(self, key: IdempotencyKey, body: bytes) -> None:
        """Record the response to a request with an idempotency key."""
        self._remember(key.value, key.digest, body)
        self._add("key", [key.value, key.digest, body.decode()])

    def recorded_response(self, key: IdempotencyKey) -> bytes | None:
        """Look up the response to an earlier request with this key.

        Raises:
            Problem: 422, the key belongs to a different request.
        """
        known = self._responses.get(key.value)
        if known is None:
            return None
        digest, body = known
        if digest != key.digest:
            raise key_reused()
        return body

    def take_events(self) -> list[JournalEvent]:
        """Return and clear the events since the last call."""
        events, self._events = self._events, []
        return events

    # ---- views -------------------------------------------------------------------------------------

    def known_scores(self) -> KnownScores:
        """Return the scores that another study on the same embeddings can learn from.

        Partial scores count where their noise was told: without it they would look exact.

        Raises:
            InputError: there is no score yet.
            Problem: there are more scores than a source may have.
        """
        told: dict[int, tuple[float, float]] = {}
        for kind, *call in self.optimizer.state_dict()["log"]:
            if kind == "tell":
                index, score, noise, final = call
                if final or noise is not None:
                    told[index] = score, noise or 0.0
        if not told:
            raise InputError(f"study: {self.id} has no score yet; tell one first, or send indices and scores")
        if len(told) > MAX_SOURCE_SCORES:
            raise Problem(
                409,
                "TooManyScores",
                f"study {self.id} has {len(told)} scores, and a source at most {MAX_SOURCE_SCORES}; send the "
                "indices and scores of some",
            )
        scores, noise = zip(*told.values(), strict=True)
        return KnownScores(list(told), list(scores), list(noise), self.pool_fingerprint())

    def pool_fingerprint(self) -> dict[str, Any]:
        """Return what identifies the embeddings."""
        fingerprint: dict[str, Any] = self.optimizer.state_dict()["embeddings"]
        return fingerprint

    def asked_response(self, indices: list[int]) -> Asked:
        """Build the response body that names these prompts."""
        texts = None if self.prompts is None else [self.prompts[i] for i in indices]
        return Asked(indices, self.optimizer.done, texts)

    def best(self) -> Scored | None:
        """Return the best prompt; None before the first score."""
        try:
            index, score = self.optimizer.best
        except NothingToAsk:
            return None
        return Scored(index, score, None if self.prompts is None else self.prompts[index])

    # ---- log ---------------------------------------------------------------------------------------

    def _add(self, kind: str, data: Any) -> None:
        self.seq += 1
        self._events.append(JournalEvent(self.id, self.seq, kind, msgspec.Raw(_encode(data))))

    def _check_log(self, limits: ServerLimits) -> None:
        if self.seq + MAX_EVENTS_PER_REQUEST > limits.max_events:
            raise Problem(
                409,
                "LogFull",
                f"the study has reached its limit of {limits.max_events} events; create a new study, or "
                "continue this one elsewhere from its state",
            )

    def _check_pending(self, n: int, pending: int, limits: ServerLimits) -> None:
        if pending + n > limits.max_pending:
            raise Problem(
                429,
                "TooManyPending",
                f"the study would have {pending + n} pending prompts, above the limit of "
                f"{limits.max_pending}; tell or discard some first",
            )

    def _remember(self, key: str, digest: str, body: bytes) -> None:
        self._responses[key] = digest, body
        if len(self._responses) > MAX_KEYS:
            self._responses.popitem(last=False)

    def replay(self, events: Iterable[tuple[int, str, Any]]) -> None:
        """Apply the events of a log, as (seq, kind, data).

        Raises:
            StoreDamagedError: an event is missing or cannot be applied.
        """
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
                f"study {self.id}: event {self.seq + 1} cannot be replayed: {error!r}"
            ) from error

    def _replay(self, kind: str, data: list[Any]) -> None:
        self.has_begun |= kind in ("ask", "tell")
        if kind == "ask":
            n, asked = data
            self.different += self.optimizer.repeat_ask(asked, n)
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
        elif kind == "learn":
            self._learn(*data)
        elif kind == "key":
            key, digest, body = data
            self._remember(key, digest, body.encode())
        else:
            raise StoreDamagedError(f"study {self.id}: unknown event {kind!r} in its log")
