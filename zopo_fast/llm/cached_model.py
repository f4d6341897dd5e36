"""Chat model with a cache of answers in front of it.

The key of an answer covers all it depends on: model, endpoint, parameters of the call, messages, and what
the endpoint serves under the name of the model. `GET /models` tells that where its response says more than
name and owner (see `model_card`). Elsewhere the responses tell it: the first call of a run whose answer is
cached is made all the same, and entries match whose `model` and `system_fingerprint` a response of this run
has stated.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from zopo_fast._utils.aio import cancel_and_wait
from zopo_fast.errors import ZopoError
from zopo_fast.llm.answer_cache import AnswerCache, Found
from zopo_fast.llm.answer_text import without_reasoning
from zopo_fast.llm.finish_reasons import ending_of
from zopo_fast.llm.middleware import ModelWrapper
from zopo_fast.llm.model_card import tells_model
from zopo_fast.llm.types import Answer, CallKey, ChatModel, Message, Payer, Usage

# The key of an answer holds the length at which it is cut. Other ends are failures, and unknown ones may be.
_KEPT_ENDINGS = frozenset({"regular", "cut"})

_MAX_CARD = 65_536  # bytes that each key is hashed with


@dataclass
class _Flight:
    """Call in flight with its number of waiting callers; the first caller to return takes its usage."""

    task: asyncio.Task[Answer]
    waiting: int = 0
    claimed: bool = False


@dataclass
class _Lookups:
    """Lookups of one event loop."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    probe: asyncio.Future[None] | None = None
    """Set at the end of a call that will tell the origin of the answers."""


class CachedModel(ModelWrapper):
    """Chat model of one run with a cache of answers in front; a model without identity is not cached.

    Identical calls in flight are made once, and the call runs until its last caller is cancelled. A hit takes
    no slot and, with the metered model inside (`CachedModel(MeteredModel(client, ...), ...)`), no budget.
    """

    def __init__(self, model: ChatModel, cache: AnswerCache) -> None:
        super().__init__(model)
        self._cache = cache
        self._started = cache.clock()
        self._flights: dict[tuple[asyncio.AbstractEventLoop, bytes], _Flight] = {}
        self._writing: dict[asyncio.Task[None], tuple[bytes, Answer]] = {}
        self._lookups: WeakKeyDictionary[asyncio.AbstractEventLoop, _Lookups] = WeakKeyDictionary()
        self._card = b""
        self._has_card = False
        self._by_origin = False  # entries match by the origin that responses state
        self._origins: set[str] = set()

    async def chat(
        self, messages: Sequence[Message], *, key: CallKey | None = None, account: Payer | None = None
    ) -> Answer:
        """Answer `messages` from the cache, else by the wrapped model, whose errors it raises."""
        identity = self.identity
        if identity is None:
            return await super().chat(messages, key=key, account=account)
        place = (asyncio.get_running_loop(), key_of(identity, messages))
        flight = self._flights.get(place)
        if flight is None:
            call = functools.partial(super().chat, messages, key=key, account=account)
            task = asyncio.ensure_future(self._answer(place[1], call))
            flight = self._flights[place] = _Flight(task)
            task.add_done_callback(lambda _: self._landed(place, task))
        flight.waiting += 1
        try:
            answer = await asyncio.shield(flight.task)
        except ZopoError as error:
            # A copy for each caller: the evaluator adds a caller's example to the message.
            raise copy.copy(error).with_traceback(error.__traceback__) from error.__cause__
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._landed(place, flight.task)  # no new caller may join a call that is being cancelled
                await cancel_and_wait([flight.task])
        if flight.claimed:
            return _free(answer)
        flight.claimed = True
        return answer

    def _landed(self, place: tuple[asyncio.AbstractEventLoop, bytes], task: asyncio.Task[Answer]) -> None:
        flight = self._flights.get(place)
        if flight is not None and flight.task is task:
            del self._flights[place]

    async def _answer(self, key: bytes, call: Callable[[], Awaitable[Answer]]) -> Answer:
        for known, answer in self._writing.values():
            if known == key:
                return answer
        lookups = self._lookups.setdefault(asyncio.get_running_loop(), _Lookups())
        # One lookup at a time, so that calls reach the model in the order in which they were made.
        async with lookups.lock:
            if not self._has_card:
                await self._read_card()
            stored, tried = self._stored_key(key), self._matching
            found = await self._find(stored, tried)
        while found.answer is None and found.is_known and self._by_origin:
            if tried == self._matching:  # else another call has told more meanwhile
                if tried:
                    break
                if lookups.probe is None:
                    return await self._probe(lookups, stored, key, call)
                await asyncio.shield(lookups.probe)
            tried = self._matching
            found = await self._find(stored, tried)
        return self._reused(found) or await self._live(stored, key, call)

    @property
    def _matching(self) -> frozenset[str]:
        """Origins of the entries that match; "" where card or identity tell what answers."""
        return frozenset(self._origins if self._by_origin else {""})

    async def _read_card(self) -> None:
        """Read the card of a model at an endpoint; the identity of other models tells what answers."""
        model: Any = self.model
        while isinstance(model, ModelWrapper):
            model = model.model
        read = getattr(model, "model_card", None)
        if read is not None:
            card = await read()
            self._by_origin = not tells_model(card, str(self.description.get("model")))
            self._card = b"" if card is None else _card_bytes(card)
        self._has_card = True

    def _stored_key(self, key: bytes) -> bytes:
        """Return the key of an entry: that of the call with the model's card."""
        return hashlib.sha256(key + self._card).digest() if self._card else key

    async def _find(self, stored: bytes, origins: frozenset[str]) -> Found:
        return await asyncio.to_thread(self._cache.find, stored, origins)

    async def _probe(
        self, lookups: _Lookups, stored: bytes, key: bytes, call: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """Make a call whose answer is cached, so that the response tells which entries match."""
        lookups.probe = probe = asyncio.get_running_loop().create_future()
        try:
            return await self._live(stored, key, call)
        finally:
            lookups.probe = None
            probe.set_result(None)

    async def _live(self, stored: bytes, key: bytes, call: Callable[[], Awaitable[Answer]]) -> Answer:
        answer = await call()
        if isinstance(answer, Answer):
            origin = (answer.origin or "") if self._by_origin else ""
            self._origins.add(origin)
            if is_kept(answer):
                # Written in the background: cancelling the call during the write must not lose the answer.
                writing = asyncio.ensure_future(asyncio.to_thread(self._cache.put, stored, answer, origin))
                self._writing[writing] = key, _free(answer)
                writing.add_done_callback(lambda done: self._writing.pop(done, None))
        return answer

    def _reused(self, found: Found) -> Answer | None:
        """Return the found answer; its usage tells the age of an answer of an earlier run."""
        answer = found.answer
        if answer is None or found.created >= self._started:
            return answer
        age = max(0.0, self._cache.clock() - found.created)
        return _free(answer, reused=1, reused_age=age)

    async def written(self) -> None:
        """Wait until the cache holds all answers so far; call it before the event loop ends."""
        if self._writing:
            await asyncio.wait(list(self._writing))


def _free(answer: Answer, **details: Any) -> Answer:
    """Return an answer as a hit: free, with the tokens that it took when it was made."""
    usage = Usage(cached=1, **details).with_answer_tokens(answer.usage.answer_tokens)
    return Answer(answer.text, usage, answer.finish_reason)


def _card_bytes(card: Any) -> bytes:
    """Return the part of a key that stands for a card: its JSON, or the hash of long JSON."""
    text = json.dumps(card, sort_keys=True).encode()
    return text if len(text) <= _MAX_CARD else hashlib.sha256(text).digest()


def is_kept(answer: Answer) -> bool:
    """Return whether an answer may be cached: it has text beyond its reasoning, and no sign of a failure."""
    if not isinstance(answer.text, str):
        return False
    is_whole = ending_of(answer.finish_reason) in _KEPT_ENDINGS
    return is_whole and bool((without_reasoning(answer.text) or "").strip())


def key_of(identity: Any, messages: Sequence[Message]) -> bytes:
    """Return the key of a call: the SHA-256 of canonical JSON of identity and messages.

    Caches on disk hold these bytes: a change here makes every call a miss.
    """
    asked = [identity, [dict(message) for message in messages]]
    return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).digest()
