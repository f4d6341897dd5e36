"""Client of OpenAI-compatible chat and embedding endpoints, with retries, rate limit and circuit breaker.

    async with OpenAIClient(ClientConfig("gpt-4o-mini", body={"temperature": 0})) as client:
        answer = await client.chat([{"role": "user", "content": "hi"}])
        print(answer.text, client.usage.total_tokens)

The client retries on 408, 429, 5xx, timeouts, dropped connections and truncated responses, within the bounds
of `ClientConfig`. Between attempts it waits as long as the response asks for in a header or its body, else
with exponential backoff and jitter. A complete but malformed response (a web page, no JSON, no choices) is
retried up to three times. All other failures raise a typed error at once, which tells whether it concerns the
call, the account or the endpoint (see `errors` and `refusals.kinds`). An attempt whose answer was lost may be
billed all the same: `usage.lost_calls` counts these.

Attempts respect the rate limits of `ClientConfig` and of 429 responses (see `rate_limit`), and stop while the
endpoint is down (see `circuit_breaker`).
"""

from __future__ import annotations

import asyncio
import copy
import random
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import aiohttp

from zopo_fast._utils import tracing
from zopo_fast._utils.aio import AsyncCloseable
from zopo_fast._utils.fork import make_immortal, register_for_fork
from zopo_fast._utils.public import public
from zopo_fast.errors import ConfigError, InputError, MalformedAnswerError
from zopo_fast.llm import tokens
from zopo_fast.llm.model_card import read_card
from zopo_fast.llm.openai.admission import Admission
from zopo_fast.llm.openai.circuit_breaker import CircuitBreaker
from zopo_fast.llm.openai.config import ClientConfig
from zopo_fast.llm.openai.embeddings.batches import BatchSize, BatchTransport, embed_in_batches, joined
from zopo_fast.llm.openai.embeddings.vectors import Vectors, read_embeddings
from zopo_fast.llm.openai.endpoint import Endpoint, description_of, identity_of
from zopo_fast.llm.openai.exchange import EndpointFacts, Exchange
from zopo_fast.llm.openai.health import Health
from zopo_fast.llm.openai.rate_limit import RateLimiter
from zopo_fast.llm.openai.redaction import show_url
from zopo_fast.llm.openai.request import Call, R
from zopo_fast.llm.openai.responses import (
    ChatCompletion,
    Document,
    read_chat,
)
from zopo_fast.llm.openai.retry import Admit, Clock, Failure, Retry, Sleep, Time, WaitWarnings
from zopo_fast.llm.openai.transport import Transport
from zopo_fast.llm.tokens import chat_bound, completion_bound, texts_bound
from zopo_fast.llm.types import Answer, CallKey, ChatModel, EmbeddingModel, Message, Payer, Usage

_CARD_SECONDS = 5.0  # for one response to GET /models, which is no reason to wait

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

    The first call in an event loop opens a session. `aclose()`, the end of the `async with` block or the end
    of `asyncio.run` closes it. In a forked process the client opens connections of its own.

    Args:
        config: settings, or the name of a model.
        session: session of the caller, which is never closed and cannot be used in a forked process.
        sleep: pauses between attempts.
        clock: time in seconds.
        rng: jitter of the pauses.

    Raises:
        ConfigError: a setting is invalid.
        AuthenticationError: OpenAI's own endpoint without a key.
    """

    _endpoint_type: type[Endpoint] = Endpoint

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
        self._endpoint = self._endpoint_type(self.config)
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
        self._exchange = Exchange(self._endpoint, self.config, EndpointFacts())
        self._health = Health(self.config.concurrency)
        self._warnings = WaitWarnings(self._time.now)
        self._batch_size = BatchSize(self.config.embedding_batch)
        self._forked = False
        register_for_fork(self)

    def after_fork_in_child(self) -> None:
        """Leave the connections of the parent process to that process."""
        self._forked = True
        make_immortal(
            self._homes
        )  # closing them here would close the file descriptors of the parent's event loop
        self._homes = {}

    def with_body(self, body: Mapping[str, Any], default_body: Mapping[str, Any] | None = None) -> Self:
        """Return a client of the same endpoint with another body of its chat calls.

        Both clients share connections, slots, rate limits and circuit breaker; each has its own `usage`.
        Closing one closes the connections of both.

        Args:
            body: as in `ClientConfig`.
            default_body: as in `ClientConfig`.
        """
        other = copy.copy(self)
        other.config = replace(self.config, body=body, default_body=default_body or {})
        other._endpoint = self._endpoint_type(other.config)
        other._exchange = Exchange(other._endpoint, other.config, self._exchange.facts)
        other._usage = Usage()
        register_for_fork(other)
        return other

    @property
    def usage(self) -> Usage:
        """Usage of all calls of this client so far, failed calls included."""
        return self._usage

    def __repr__(self) -> str:
        return f"OpenAIClient({self.config!r})"

    async def aclose(self) -> None:
        """Close the session of this event loop, unless it is the caller's; a later call opens a new one."""
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
        return completion_bound(self._exchange.fields.body)

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
        messages = _checked_messages(messages)
        payload = {"model": self.config.model, "messages": messages}
        bound = None
        if account is not None:
            bound = chat_bound(messages, self._exchange.fields.body, required=account.bounded)
        transport, admission = self._home()
        keep_limit = account is not None and account.bounded

        def send(timeout: float) -> Awaitable[Document | Failure]:
            return self._exchange.post_chat(transport, payload, timeout, keep_limit=keep_limit)

        call = Call(
            admission,
            send,
            read_chat,
            expected=self._expected(messages) if self._rate_limiter.counts_tokens else 0,
            account=account,
            bound=bound,
        )
        try:
            completion = await self._run(call, "chat", self.config.model)
        finally:
            self._usage += call.extra
        usage = await self._count(completion, messages)
        return Answer(completion.text, usage + call.extra, completion.finish_reason, completion.origin)

    async def model_card(self) -> Any:
        """Return what `GET /models` says of the model now; None where it says nothing or cannot be had."""
        transport, _ = self._home()
        # The API of a bare host may be at its root or, more often, below /v1.
        known = self._exchange.facts.prefix
        prefixes = [known] if known or not self._endpoint.is_bare else ["v1/", ""]
        for prefix in prefixes:
            begun = time.monotonic()
            response = await transport.get(f"{prefix}models", _CARD_SECONDS)
            failed = response is None or response.status >= 500
            if failed and time.monotonic() - begun < _CARD_SECONDS / 2:  # dropped, not timed out
                response = await transport.get(f"{prefix}models", _CARD_SECONDS)
            if response is None:
                return None
            if response.status // 100 == 2:
                card = read_card(response.body, self.config.model, time.time())
                if card is not None:
                    return card
        return None

    async def _count(self, completion: ChatCompletion, messages: Sequence[Message]) -> Usage:
        """Return the usage of a chat response and add it to the client's; estimate unstated counts."""
        stated_in, stated_out = completion.prompt_tokens, completion.completion_tokens
        if stated_in is not None and stated_out is not None:
            usage = Usage(stated_in, stated_out, calls=1)
            self._usage += usage
            return usage
        model = self.config.model
        # A rough estimate first: the call is paid for even if it is cancelled while counting.
        rough_in = sum(tokens.estimate(message["content"]) for message in messages)
        rough_out = tokens.estimate(completion.text)
        usage = Usage(stated_in or rough_in, stated_out or rough_out, calls=1, estimated_calls=1)
        try:
            # In a thread: the first count loads a vocabulary, which would block the event loop.
            if stated_in is None:
                stated_in = (await asyncio.to_thread(tokens.count_messages, messages, model)).tokens
            if stated_out is None:
                stated_out = (await asyncio.to_thread(tokens.count_tokens, completion.text, model)).tokens
            usage = Usage(stated_in, stated_out, calls=1, estimated_calls=1)
        finally:
            self._usage += usage
        return usage

    async def embed(self, texts: Sequence[str], *, account: Payer | None = None) -> Vectors:
        """Embed texts in concurrent batches of `embedding_batch`.

        A batch that the endpoint refuses for its size is halved; this client then keeps to the smaller size.

        Args:
            texts: n texts.
            account: budget that pays for every attempt.

        Returns:
            (n, d) float32, one row a text.

        Raises:
            ConfigError: the configuration has no `embedding_model`.
            LLMError: a batch failed.
            LimitReachedError: `account` has no room for the next attempt.
        """
        if self.config.embedding_model is None:
            raise ConfigError("embedding_model is not set: give the name of the model for /embeddings")
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise InputError("texts: expected a sequence of strings")
        parts = await embed_in_batches(
            texts, self._batch_size, self.config.concurrency, lambda batch: self._embed_batch(batch, account)
        )
        if len({part.shape[1] for part in parts}) > 1:
            raise MalformedAnswerError(f"{self._where('embeddings')}: batches differ in dimension")
        return joined(parts)

    async def _embed_batch(self, texts: list[str], account: Payer | None) -> Vectors:
        model = self.config.embedding_model or ""
        payload = {"model": model, "input": texts, **self.config.embedding_body}
        transport, admission = self._home()
        transport = BatchTransport(transport, self._endpoint, len(texts))
        call = Call(
            admission,
            lambda timeout: self._exchange.post_embeddings(transport, payload, timeout),
            lambda document: read_embeddings(document, len(texts), payload.get("dimensions")),
            expected=sum(map(tokens.estimate, texts)) if self._rate_limiter.counts_tokens else 0,
            account=account,
            bound=Usage(texts_bound(texts), calls=1),
        )
        try:
            embeddings = await self._run(call, "embeddings", model)
        finally:
            self._usage += call.extra
        prompt = embeddings.prompt_tokens
        estimated = prompt is None
        if prompt is None:
            counts = [await asyncio.to_thread(tokens.count_tokens, text, model) for text in texts]
            prompt = sum(count.tokens for count in counts)
        self._usage += Usage(prompt, calls=1, estimated_calls=int(estimated))
        return embeddings.vectors

    async def _run(self, call: Call[R], operation: str, model: str) -> R:
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "openai",  # the conventions' name of this interface, whoever serves it
            "gen_ai.request.model": model,
            **self._endpoint.server,
        }
        with (
            self._health.call() as health,
            tracing.span(f"{operation} {model}", attributes, kind="CLIENT") as span,
        ):

            def retry_of(admit: Admit) -> Retry[R]:
                return Retry(
                    self.config.bounds,
                    admit,
                    sleep=self._time.sleep,
                    clock=self._clock,
                    rng=self._rng,
                    health=health,
                    has_response=lambda: self._exchange.facts.has_response,
                    warnings=self._warnings,
                )

            try:
                parsed = await call(health, retry_of)
            finally:
                span.set({"zopo_fast.retries": call.extra.retries or None})
            span.describe(parsed)
            return parsed

    def _expected(self, messages: Sequence[Message]) -> int:
        """Return the tokens a call may take, for the rate limiter until the response states them."""
        prompt = sum(tokens.estimate(message["content"]) for message in messages)
        return prompt + (completion_bound(self._exchange.fields.body) or 0)

    def _where(self, path: str) -> str:
        return self._endpoint.redact(f"POST {show_url(self._endpoint.url(path))}")

    def _new_transport(self) -> Transport:
        return Transport(self._endpoint, self._session, self.config.max_response_bytes)

    def _home(self) -> tuple[Transport, Admission]:
        """Return transport and admission queue of the running event loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._homes:
            if self._forked and self._session is not None:
                raise ConfigError(
                    "session: it belongs to the parent process; create a client in the forked process"
                )
            # Closed event loops have closed their sessions themselves.
            for closed in [known for known in self._homes if known.is_closed()]:
                del self._homes[closed]  # in place: clients made by `with_body` share it
            transport = self._new_transport()
            where = self._where("").rstrip("/")
            admission = Admission(
                self.config.concurrency, self._rate_limiter, self._breaker, self._time, where, self._warnings
            )
            self._homes[loop] = transport, admission
        return self._homes[loop]


def _checked_messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    copies = [] if isinstance(messages, (str, Mapping)) else [dict(message) for message in messages]
    for message in copies:
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise InputError("messages: each must have a role and a content, both strings")
    if not copies:
        raise InputError("messages: expected a non-empty sequence of messages with a role and a content")
    return copies
