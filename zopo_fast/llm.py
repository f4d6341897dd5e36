"""A client for OpenAI-compatible chat and embedding endpoints that neither hangs nor tells the key.

    async with OpenAIClient(ClientConfig("gpt-4o-mini", body={"temperature": 0})) as client:
        answer = await client.chat([{"role": "user", "content": "hi"}])
        print(answer.text, client.usage.total_tokens)

A failed attempt is repeated on 408, 429, 5xx, timeouts, dropped connections and answers that break off, with
exponential backoff and jitter, or after what `Retry-After` asks for, within the bounds of `ClientConfig`.
All else is a typed error (see `errors`) at once. An attempt whose answer was lost may be billed all the same.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, TypeVar

import aiohttp
import numpy as np

from . import tokens
from .answers import Document, Reply, Vectors, judge, read_chat, read_embeddings
from .concurrency import Closing, all_or_none
from .endpoint import ClientConfig, Endpoint, show_url
from .errors import (
    ConfigError,
    InputError,
    LLMError,
    MalformedAnswerError,
    RequestTimeoutError,
    UnreachableError,
)
from .forks import abandon, enlist
from .retry import Clock, Failure, Retry, Sleep
from .usage import Answer, ChatModel, EmbeddingModel, Message, Usage, stated_tokens

__all__ = [
    "Answer",
    "ChatModel",
    "ClientConfig",
    "EmbeddingModel",
    "Message",
    "OpenAIClient",
    "Usage",
]

T = TypeVar("T")
_ERROR_BODY_BYTES = 2**16


class OpenAIClient(Closing):
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
        self._sleep = sleep
        self._clock = clock
        self._rng = rng or random.Random()
        self._usage = Usage()
        self._homes: dict[asyncio.AbstractEventLoop, _Home] = {}
        self._prefix = ""
        self._forked = False
        enlist(self)

    def in_child(self) -> None:
        """Leave the connections of the process that was forked to that process."""
        self._forked = True
        abandon(self._homes)  # closing them here would take the event loop's files away from it
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
        if home is not None and home.opened is not None:
            await home.opened.aclose()

    async def chat(self, messages: Sequence[Message]) -> Answer:
        """Answer `messages`; raises an `LLMError` once retries are spent or cannot help."""
        messages = _checked(messages)
        payload = {"model": self.config.model, "messages": messages, **self.config.body}
        document, retries = await self._call("chat/completions", payload)
        text, finish_reason = read_chat(document)
        prompt = stated_tokens(document.values, "prompt_tokens", least=1)
        completion = stated_tokens(document.values, "completion_tokens", least=1 if text else 0)
        estimated = prompt is None or completion is None
        # In a thread: the first estimate loads a vocabulary, which would hold up every other call.
        if prompt is None:
            prompt = (await asyncio.to_thread(tokens.count_messages, messages, self.config.model)).tokens
        if completion is None:
            completion = (await asyncio.to_thread(tokens.count_tokens, text, self.config.model)).tokens
        usage = Usage(prompt, completion, calls=1, estimated_calls=int(estimated))
        self._usage += usage
        return Answer(text, usage + Usage(retries=retries), finish_reason)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one row a text, (n, d) float32, asked for in concurrent batches of `embedding_batch`.

        Raises `ConfigError` without an `embedding_model`, an `LLMError` where any batch fails.
        """
        if self.config.embedding_model is None:
            raise ConfigError("embedding_model is not set: name the model that /embeddings is to use")
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise InputError("texts must be a sequence of strings")
        size = self.config.embedding_batch
        batches = [list(texts[start : start + size]) for start in range(0, len(texts), size)]
        parts = await all_or_none([self._embed_batch(batch) for batch in batches])
        if len({part.shape[1] for part in parts}) > 1:
            raise MalformedAnswerError(f"{self._where('embeddings')}: batches differ in dimension")
        return np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)

    async def _embed_batch(self, texts: list[str]) -> Vectors:
        model = self.config.embedding_model
        payload = {"model": model, "input": texts, **self.config.embedding_body}
        document, _ = await self._call("embeddings", payload)
        vectors = read_embeddings(document, len(texts))
        prompt = stated_tokens(document.values, "prompt_tokens", least=1)
        estimated = prompt is None
        if prompt is None:
            counts = [await asyncio.to_thread(tokens.count_tokens, text, model) for text in texts]
            prompt = sum(count.tokens for count in counts)
        self._usage += Usage(prompt, calls=1, estimated_calls=int(estimated))
        return vectors

    async def _call(self, path: str, payload: Mapping[str, Any]) -> tuple[Document, int]:
        """Return the answer to one call and how many of its attempts were repeated."""
        home = self._home()
        body = json.dumps(payload).encode()
        retry: Retry[Document] = Retry(
            self.config.bounds, home.slots, sleep=self._sleep, clock=self._clock, rng=self._rng
        )
        try:
            document = await retry(lambda allowed: self._attempt(home, path, body, allowed))
        finally:
            retries = max(0, retry.attempts - 1)
            self._usage += Usage(retries=retries)
        return document, retries

    async def _attempt(self, home: _Home, path: str, body: bytes, allowed: float) -> Document | Failure:
        session = await home.session()
        if session.closed:
            return Failure(LLMError, f"{self._where(path)}: the client was closed meanwhile", final=True)
        reply = await self._post(session, self._prefix + path, body, allowed)
        if isinstance(reply, Reply) and reply.status == 404 and self._endpoint.bare and not self._prefix:
            # The base URL is a bare host: servers keep the API at the root or, more often, below /v1.
            second = await self._post(session, "v1/" + path, body, allowed)
            if isinstance(second, Reply) and second.status != 404:
                self._prefix, reply = "v1/", second
        return reply if isinstance(reply, Failure) else judge(reply, self._endpoint)

    async def _post(
        self, session: aiohttp.ClientSession, path: str, body: bytes, allowed: float
    ) -> Reply | Failure:
        """Return the answer read whole, or why there is none."""
        url, where = self._endpoint.url(path), self._where(path)
        limit = self.config.max_response_bytes
        try:
            async with session.post(
                url,
                data=body,
                headers=self._endpoint.headers,
                timeout=aiohttp.ClientTimeout(total=allowed),
                allow_redirects=False,  # the Authorization header stays with the host it is meant for
                raise_for_status=False,
            ) as response:
                good = response.status // 100 == 2
                content, whole = await _read(response, limit if good else min(limit, _ERROR_BODY_BYTES))
                if good and not whole:
                    problem = f"the answer is larger than max_response_bytes={limit}"
                    return Failure(MalformedAnswerError, f"{where}: {problem}", final=True)
                return Reply(url, response.status, response.headers, content)
        except asyncio.TimeoutError:
            problem = f"no whole answer within {allowed:.3g} s; raise timeout if the model is that slow"
            return Failure(RequestTimeoutError, f"{where}: {problem}")
        except (aiohttp.ClientSSLError, aiohttp.InvalidURL) as error:
            problem = "no secure connection; check base_url and the server's certificate"
            return Failure(UnreachableError, f"{where}: {problem}: {self._told(error)}", final=True)
        except (aiohttp.ClientError, OSError) as error:
            problem = "the server cannot be reached or dropped the connection; check base_url"
            return Failure(UnreachableError, f"{where}: {problem}: {self._told(error)}")

    def _told(self, error: Exception) -> str:
        return self._endpoint.quote(f"{type(error).__name__}: {error}")

    def _where(self, path: str) -> str:
        return self._endpoint.redact(f"POST {show_url(self._endpoint.url(path))}")

    def _home(self) -> _Home:
        """Return what belongs to the running event loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._homes:
            if self._forked and self._session is not None:
                raise ConfigError("session: it belongs to the process that was forked; make a client here")
            # `asyncio.run` closed the sessions of the loops that ended.
            self._homes = {known: home for known, home in self._homes.items() if not known.is_closed()}
            proxies = not self._endpoint.loopback
            self._homes[loop] = _Home(self.config.concurrency, self._session, proxies=proxies)
        return self._homes[loop]


class _Home:
    """One event loop's part of a client: the slots of its calls and its session, opened at first use."""

    def __init__(self, concurrency: int, session: aiohttp.ClientSession | None, *, proxies: bool) -> None:
        self.slots = asyncio.Semaphore(concurrency)
        self.opened: AsyncGenerator[aiohttp.ClientSession, None] | None = None
        self._session = session
        self._proxies = proxies

    async def session(self) -> aiohttp.ClientSession:
        """Return the session, opened at the first call."""
        if self._session is None:
            self.opened = _open_session(self._proxies)
            self._session = await anext(self.opened)
        return self._session


async def _open_session(proxies: bool) -> AsyncGenerator[aiohttp.ClientSession, None]:
    """Yield a session, and close it in the end.

    A generator, because an event loop closes those it still holds when it shuts down: a client used in
    several `asyncio.run` without `aclose` leaves no connection behind.
    """
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),  # the slots are the limit
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=proxies,
    )
    try:
        yield session
    finally:
        await session.close()
        await asyncio.sleep(0)  # lets the transports, told to close, do so


async def _read(response: aiohttp.ClientResponse, limit: int) -> tuple[bytes, bool]:
    """Return at most `limit` bytes of the answer, and whether that is all of it."""
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > limit:
            response.close()
            return bytes(content[:limit]), False
    return bytes(content), True


def _checked(messages: Sequence[Message]) -> list[dict[str, str]]:
    copies = [] if isinstance(messages, (str, Mapping)) else [dict(message) for message in messages]
    for message in copies:
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise InputError("each message must hold a role and a content, both strings")
    if not copies:
        raise InputError("messages must be a non-empty sequence of messages with a role and a content")
    return copies
