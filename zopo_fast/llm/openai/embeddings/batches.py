"""Batches of texts that are halved until the endpoint accepts them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from zopo_fast._utils.aio import gather_or_cancel
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import LLMError, RequestRejectedError
from zopo_fast.llm.openai.embeddings.vectors import Vectors
from zopo_fast.llm.openai.endpoint import Endpoint
from zopo_fast.llm.openai.redaction import show_url
from zopo_fast.llm.openai.responses import Response, error_status
from zopo_fast.llm.openai.retry import Failure
from zopo_fast.llm.openai.transport import Transport

E = TypeVar("E", bound=LLMError)

_REFUSED = frozenset({400, 413, 422})
_SHOWN_CHARACTERS = 80

# Messages about the number or the length of the inputs, with any status below 600.
_TOO_LARGE = re.compile(
    r"batch.{0,40}(?:size|length|limit|large|long|big|exceed|max|invalid|tokens|items|inputs)"
    r"|(?:size|items|inputs|texts|tokens|requests|documents|strings)\W{1,3}(?:\w+\W+){0,4}batch"
    r"|max(?:imum)?\W{1,3}(?:\w+\W+){0,4}(?:batch|inputs?|texts|items|array|documents|strings|tokens)"
    r"|too (?:many|large|long|big)|at most \d+|too_long|above_max_length|too_large|exceed\w*|not be larger"
    r"|cannot (?:have|contain) more than|out of memory|payload|entity too large",
    re.IGNORECASE | re.DOTALL,
)
# Refusals of a request that are the same for one text.
_NOT_THE_SIZE = re.compile(
    r"(?:unknown|unrecogni[sz]ed|unsupported|unexpected|invalid|missing|required|extra)\W{1,3}(?:\w+\W+){0,3}"
    r"(?:parameter|argument|field|property|model|key|header)"
    r"|encoding_format|\bdimensions?\b|api.?key|does not (?:exist|support)|not (?:found|supported|permitted)",
    re.IGNORECASE,
)


class BatchTooLargeError(RequestRejectedError):
    """The endpoint refuses a batch that it may accept in parts."""


class BatchSize:
    """Number of texts in a batch that the endpoint accepts, as far as its refusals tell."""

    def __init__(self, size: int) -> None:
        self.size = size

    def lower(self, size: int) -> None:
        self.size = max(1, min(self.size, size))


class BatchTransport(Transport):
    """Transport of one batch: recognises the refusal of its size, and a bare list as the answer.

    Args:
        transport: sends the requests.
        endpoint: redacts the messages.
        count: number of texts in the batch.
    """

    def __init__(self, transport: Transport, endpoint: Endpoint, count: int) -> None:
        self._inner, self._endpoint, self._count = transport, endpoint, count

    async def post(self, path: str, body: bytes, timeout: float) -> Response | Failure:
        """Return the response to `POST path`, or the failure of a batch that is too large."""
        response = await self._inner.post(path, body, timeout)
        if isinstance(response, Failure):
            return response
        status = _status_of(response)
        if self._count > 1 and status is not None and is_refused_for_size(status, response.body):
            where = self._endpoint.redact(f"POST {show_url(response.url)}")
            message = f"{where}: HTTP {response.status}, a batch of {self._count} texts is refused"
            quoted = self._endpoint.quote(response.body) or "nothing"
            return Failure(BatchTooLargeError, f"{message}. The server said: {quoted}", final=True)
        if response.status // 100 == 2 and response.body.lstrip()[:1] == b"[":
            return replace(response, body=b'{"embeddings":' + response.body + b"}")  # the shape of TEI
        return response


def is_refused_for_size(status: int, body: bytes) -> bool:
    """Return whether the refusal of a batch may be due to its size.

    A refusal that names no reason counts: smaller batches then find the text that is refused.
    """
    text = body.decode("utf-8", "replace")
    if status == 413:
        return True
    if status in _REFUSED:
        return _TOO_LARGE.search(text) is not None or _NOT_THE_SIZE.search(text) is None
    if status == 429:  # more tokens in one request than the limit of a minute
        return re.search(r"request too large", text, re.IGNORECASE) is not None
    return status == 500 and re.search(r"out of memory|batch size|too l(?:arge|ong)", text, re.I) is not None


def _status_of(response: Response) -> int | None:
    """Return the status of a refusal, also of one that comes with status 200; None for an answer."""
    status = error_status(response)
    if status is None and re.match(rb'\s*\{\s*"error"\s*:\s*["{]', response.body):
        return 400
    return status


async def embed_in_batches(
    texts: Sequence[str],
    size: BatchSize,
    slots: int,
    call: Callable[[list[str]], Awaitable[Vectors]],
) -> list[Vectors]:
    """Embed texts in concurrent batches; halve a batch that the endpoint refuses for its size.

    Args:
        texts: texts in the order of the result.
        size: texts in a batch; lowered here for all batches to come.
        slots: batches in flight at most.
        call: embeds one batch.

    Raises:
        LLMError: a batch failed; the error of a single text names the text.
    """
    free, before = asyncio.Semaphore(slots), size.size

    async def embed(start: int, end: int) -> list[Vectors]:
        async with free:
            # Looked up with the slot in hand: a batch before may have lowered the size meanwhile.
            if end - start <= size.size:
                try:
                    return [await call(list(texts[start:end]))]
                except BatchTooLargeError:
                    size.lower((end - start) // 2)
                except RequestRejectedError as error:
                    if end - start > 1:
                        raise
                    size.size = before  # not the size, but this text was refused
                    raise _naming(error, texts[start], start, len(texts)) from None
        return await parts(start, end)

    async def parts(start: int, end: int, *, first_alone: bool = True) -> list[Vectors]:
        step = size.size
        batches = [(at, min(at + step, end)) for at in range(start, end, step)]
        # After a refusal the first part goes ahead: where the size is not the reason, few calls are refused.
        found = [await embed(*batches.pop(0))] if first_alone else []
        found += await gather_or_cancel([embed(*batch) for batch in batches])
        return [part for each in found for part in each]

    return await parts(0, len(texts), first_alone=False)


def joined(parts: Sequence[Vectors]) -> Vectors:
    """Return the rows of all batches."""
    return np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)


def _naming(error: E, text: str, index: int, count: int) -> E:
    """Return the error of a batch of one text, with that text."""
    shown = short_repr(text, _SHOWN_CHARACTERS)
    message = f"text {index + 1} of {count}, {shown} ({len(text)} characters), cannot be embedded: {error}"
    return type(error)(message, concerns=error.concerns, code=error.code)
