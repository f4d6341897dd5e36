"""A client for OpenAI-compatible chat and embedding endpoints that neither hangs nor tells the key.

    async with OpenAIClient(ClientConfig("gpt-4o-mini", body={"temperature": 0})) as client:
        answer = await client.chat([{"role": "user", "content": "hi"}])
        print(answer.text, client.usage.total_tokens)

A failed attempt is repeated on 408, 429, 5xx, timeouts, dropped connections and answers that break off, with
exponential backoff and jitter, or after what `Retry-After` asks for, within the bounds of `ClientConfig`; a
whole answer that is of no use (a web page, no JSON, no choices), up to three times. All else is a typed error
(see `errors`) at once. An attempt whose answer was lost may be billed all the same: `usage.lost_calls`.

Attempts go out at the pace that `ClientConfig` sets and 429s ask for (see `pacing`), and none go out while
the endpoint is down (see `breaker`).
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import aiohttp
import numpy as np

from zopo_fast._utils.aio import AsyncCloseable, gather_or_cancel
from zopo_fast._utils.fork import make_immortal, register_for_fork
from zopo_fast._utils.public import public
from zopo_fast.errors import ConfigError, InputError, MalformedAnswerError
from zopo_fast.llm import tokens
from zopo_fast.llm.openai.admission import Admission
from zopo_fast.llm.openai.circuit_breaker import CircuitBreaker
from zopo_fast.llm.openai.config import ClientConfig
from zopo_fast.llm.openai.endpoint import Endpoint, description_of, identity_of
from zopo_fast.llm.openai.rate_limit import RateLimiter
from zopo_fast.llm.openai.redaction import show_url
from zopo_fast.llm.openai.request import Call, R, Send
from zopo_fast.llm.openai.responses import (
    ChatCompletion,
    Document,
    Response,
    Vectors,
    read_chat,
    read_embeddings,
    read_response,
)
from zopo_fast.llm.openai.retry import Clock, Failure, Sleep, Time
from zopo_fast.llm.openai.transport import Transport
from zopo_fast.llm.tokens import chat_bound, completion_bound, texts_bound
from zopo_fast.llm.types import Answer, CallKey, ChatModel, EmbeddingModel, Message, Payer, Usage

__all__ = [
    "Answer",
    "ChatModel",
    "ClientConfig",
    "EmbeddingModel",
    "Message",
    "OpenAIClient",
    "Usage",
]


@public
class OpenAIClient(AsyncCloseable):
    """Chat and embeddings of an OpenAI-compatible server; an async context manager.

    A session is opened at the first call in each event loop and closed by `aclose()`, at the end of the
    `async with` block, or with `asyncio.run`. A session given by the caller is used and never closed. In a
    forked process the client opens connections of its own; with the caller's session it cannot be used there.
    `sleep`, `clock` and `rng` drive the pauses between attempts. Raises `ConfigError` for settings that
    cannot be used and `AuthenticationError` where OpenAI's own endpoint has no key.
    """

    def __init__(
        self,
        config: ClientConfig | str,
        *,
        session: aiohttp.ClientSession | None = None,
        sleep: Sleep = asyncio.sleep,
        clock: Clock = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.config = ClientConfig(config) if isinstance(config, str) else config
        self._endpoint = Endpoint(self.config)
        self._session = session
        self._clock = clock
        self._rng = rng or random.Random()
        self._usage = Usage()
        self._time = Time(clock, sleep)
        self._rate_limiter = RateLimiter(
            self.config.requests_per_minute,
            self.config.tokens_per_minute,
            now=self._time.now,
            patience=self.config.max_elapsed,
        )
        self._breaker = CircuitBreaker(
            self.config.breaker_failures, self.config.breaker_seconds, now=self._time.now
        )
        self._homes: dict[asyncio.AbstractEventLoop, tuple[Transport, Admission]] = {}
        self._prefix = ""
        self._forked = False
        register_for_fork(self)

    def after_fork_in_child(self) -> None:
        """Leave the connections of the process that was forked to that process."""
        self._forked = True
        make_immortal(self._homes)  # closing them here would take the event loop's files away from it
        self._homes = {}

    @property
    def usage(self) -> Usage:
        """What all calls of this client cost so far, those that failed in the end included."""
        return self._usage

    def __repr__(self) -> str:
        return f"OpenAIClient({self.config!r})"

    async def aclose(self) -> None:
        """Close this event loop's session, unless the caller gave it; a later call opens a new one."""
        home = self._homes.pop(asyncio.get_running_loop(), None)
        if home is not None:
            await home[0].aclose()

    @property
    def identity(self) -> Mapping[str, Any]:
        """Model, URL without secrets and body: what an answer depends on besides the messages."""
        return identity_of(self.config, self._endpoint)

    @property
    def description(self) -> Mapping[str, Any]:
        """Model name and body without secrets."""
        return description_of(self.config)

    @property
    def slots(self) -> int:
        """Number of calls in flight at most."""
        return self.config.concurrency

    @property
    def max_answer_tokens(self) -> int | None:
        """Upper bound of the tokens of all answers to one call, by the body; None: unbounded."""
        return completion_bound(self.config.body)

    async def chat(
        self, messages: Sequence[Message], *, key: CallKey | None = None, account: Payer | None = None
    ) -> Answer:
        """Answer `messages`.

        Args:
            messages: the chat so far.
            key: unused; see `ChatModel`.
            account: budget that pays for every attempt.

        Raises:
            LLMError: the retries are used up, or no retry can help.
            LimitReachedError: `account` has no room for the next attempt.
            ConfigError: `account` needs the longest answer, and the body does not limit it.
        """
        messages = _checked(messages)
        payload = {"model": self.config.model, "messages": messages, **self.config.body}
        bound = None
        if account is not None:
            bound = chat_bound(messages, self.config.body, required=account.bounded)
        transport, admission = self._home()
        call = Call(
            admission,
            self._sending(transport, "chat/completions", payload),
            read_chat,
            expected=self._expected(messages) if self._rate_limiter.counts_tokens else 0,
            account=account,
            bound=bound,
        )
        try:
            reading = await self._made(call)
        finally:
            self._usage += call.extra
        usage = await self._counted(reading, messages)
        return Answer(reading.text, usage + call.extra, reading.finish_reason)

    async def _counted(self, reading: ChatCompletion, messages: Sequence[Message]) -> Usage:
        """Return, and add to the client's, what an answer took; what it does not state is an estimate."""
        prompt, completion = reading.prompt_tokens, reading.completion_tokens
        if prompt is not None and completion is not None:
            usage = Usage(prompt, completion, calls=1)
            self._usage += usage
            return usage
        model = self.config.model
        # A rough one first: the answer has been paid for, also where the caller goes away now.
        rough = sum(tokens.estimate(message["content"]) for message in messages)
        usage = Usage(prompt or rough, completion or tokens.estimate(reading.text), 1, estimated_calls=1)
        try:
            # In a thread: the first estimate loads a vocabulary, which would hold up every other call.
            if prompt is None:
                prompt = (await asyncio.to_thread(tokens.count_messages, messages, model)).tokens
            if completion is None:
                completion = (await asyncio.to_thread(tokens.count_tokens, reading.text, model)).tokens
            usage = Usage(prompt, completion, calls=1, estimated_calls=1)
        finally:
            self._usage += usage
        return usage

    async def embed(self, texts: Sequence[str], *, account: Payer | None = None) -> Vectors:
        """Return one row a text, (n, d) float32, asked for in concurrent batches of `embedding_batch`.

        Every attempt is paid for from `account`, where there is one.
        Raises `ConfigError` without an `embedding_model`, an `LLMError` where any batch fails.
        """
        if self.config.embedding_model is None:
            raise ConfigError("embedding_model is not set: name the model that /embeddings is to use")
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise InputError("texts must be a sequence of strings")
        size = self.config.embedding_batch
        batches = [list(texts[start : start + size]) for start in range(0, len(texts), size)]
        parts = await gather_or_cancel([self._embed_batch(batch, account) for batch in batches])
        if len({part.shape[1] for part in parts}) > 1:
            raise MalformedAnswerError(f"{self._where('embeddings')}: batches differ in dimension")
        return np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)

    async def _embed_batch(self, texts: list[str], account: Payer | None) -> Vectors:
        model = self.config.embedding_model
        payload = {"model": model, "input": texts, **self.config.embedding_body}
        transport, admission = self._home()
        call = Call(
            admission,
            self._sending(transport, "embeddings", payload),
            lambda document: read_embeddings(document, len(texts)),
            expected=sum(map(tokens.estimate, texts)) if self._rate_limiter.counts_tokens else 0,
            account=account,
            bound=Usage(texts_bound(texts), calls=1),
        )
        try:
            reading = await self._made(call)
        finally:
            self._usage += call.extra
        prompt = reading.prompt_tokens
        estimated = prompt is None
        if prompt is None:
            counts = [await asyncio.to_thread(tokens.count_tokens, text, model) for text in texts]
            prompt = sum(count.tokens for count in counts)
        self._usage += Usage(prompt, calls=1, estimated_calls=int(estimated))
        return reading.vectors

    def _made(self, call: Call[R]) -> Coroutine[Any, Any, R]:
        return call(self.config.bounds, sleep=self._time.sleep, clock=self._clock, rng=self._rng)

    def _expected(self, messages: Sequence[Message]) -> int:
        """Tokens that a call may take, as its pace counts them until it is known."""
        prompt = sum(tokens.estimate(message["content"]) for message in messages)
        return prompt + (completion_bound(self.config.body) or 0)

    def _sending(self, transport: Transport, path: str, payload: Mapping[str, Any]) -> Send:
        body = json.dumps(payload).encode()

        async def send(allowed: float) -> Document | Failure:
            response = await transport.post(self._prefix + path, body, allowed)
            if (
                isinstance(response, Response)
                and response.status == 404
                and self._endpoint.bare
                and not self._prefix
            ):
                # The base URL is a bare host: servers keep the API at the root or, more often, below /v1.
                second = await transport.post("v1/" + path, body, allowed)
                if isinstance(second, Response) and second.status != 404:
                    self._prefix, response = "v1/", second
            return response if isinstance(response, Failure) else read_response(response, self._endpoint)

        return send

    def _where(self, path: str) -> str:
        return self._endpoint.redact(f"POST {show_url(self._endpoint.url(path))}")

    def _home(self) -> tuple[Transport, Admission]:
        """Return what belongs to the running event loop: its session, and its queue for a slot."""
        loop = asyncio.get_running_loop()
        if loop not in self._homes:
            if self._forked and self._session is not None:
                raise ConfigError("session: it belongs to the process that was forked; make a client here")
            # `asyncio.run` closed the sessions of the loops that ended.
            self._homes = {known: home for known, home in self._homes.items() if not known.is_closed()}
            transport = Transport(self._endpoint, self._session, self.config.max_response_bytes)
            where = self._where("").rstrip("/")
            admission = Admission(
                self.config.concurrency, self._rate_limiter, self._breaker, self._time, where
            )
            self._homes[loop] = transport, admission
        return self._homes[loop]


def _checked(messages: Sequence[Message]) -> list[dict[str, str]]:
    copies = [] if isinstance(messages, (str, Mapping)) else [dict(message) for message in messages]
    for message in copies:
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise InputError("each message must hold a role and a content, both strings")
    if not copies:
        raise InputError("messages must be a non-empty sequence of messages with a role and a content")
    return copies
