"""Loopback endpoint behind the metering proxy: the model that is scored and the writer, told apart by name.

`SimulatedModel` stands in for the scored model where the mechanics count and not the figures.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from types import TracebackType
from typing import Any

import aiohttp
import numpy as np
from aiohttp import web
from numpy.typing import NDArray

import zopo_fast as zf
from zopo_fast.tasks import template

from .editor import Parts, ScriptedWriter, rng_of
from .session import WRITER

DIM = 64  # of the embeddings without a model
Answerer = Callable[[Mapping[str, Any]], Awaitable[str]]
"""Function request body -> text of the answer."""


def text_of(body: Mapping[str, Any]) -> str:
    """Return the texts of all messages of a request."""
    return "\n\n".join(str(message["content"]) for message in body["messages"])


def scripted(parts: Parts) -> Answerer:
    """Return the scripted writer as a model."""
    writer = ScriptedWriter(parts)

    async def answer(body: Mapping[str, Any]) -> str:
        return writer.answer(text_of(body), int(body.get("seed") or 0))

    return answer


def forwarded(session: aiohttp.ClientSession, url: str, model: str) -> Answerer:
    """Return a model at an OpenAI-compatible endpoint.

    Args:
        session: HTTP session.
        url: endpoint, /v1 included.
        model: name of the model there.
    """

    async def answer(body: Mapping[str, Any]) -> str:
        async with session.post(f"{url}/chat/completions", json={**body, "model": model}) as response:
            document = await response.json()
            if response.status != 200:
                raise web.HTTPBadGateway(text=f"the model's server answered {response.status}: {document}")
            return str(document["choices"][0]["message"]["content"] or "")

    return answer


def local(model: zf.LocalModel) -> Answerer:
    """Return the embedded model as a model of the endpoint; the seed of a request is that of its sampling."""

    async def answer(body: Mapping[str, Any]) -> str:
        seeded = model.with_body({**model.body, "seed": int(body.get("seed") or 0)})
        return (await seeded.chat(list(body["messages"]))).text

    return answer


class SimulatedModel:
    """Model whose prompts differ by their parts: it answers an example rightly or wrongly by fixed chances.

    An answer is right where the quality of the prompt plus the ease of the example exceeds a threshold of the
    pair. All three follow from texts alone, so every process gets the same answers.

    Args:
        task: with the outputs of all examples.
        parts: whose qualities count; a prompt without any has a low quality.
    """

    def __init__(self, task: zf.Task, parts: Parts) -> None:
        self._parts = parts
        layout = template.resolve(task.template)
        self._examples: dict[str, zf.Example] = {}
        for example in (*task.train, *task.heldout):
            content = layout.render("\x00", example.input, (), example.columns)[-1]["content"]
            self._examples[content.split("\x00", 1)[1]] = example

    async def answer(self, body: Mapping[str, Any]) -> str:
        """Return the first output of the example, or a wrong answer."""
        text = text_of(body)
        ending = max((e for e in self._examples if text.endswith(e)), key=len)
        example, prompt = self._examples[ending], text.removesuffix(ending)
        found = self._parts.find(prompt)
        quality = -1.5 if not found else sum(_normal("part", part) for part in found[-1]) / math.sqrt(3)
        chance = 1 / (1 + math.exp(-(1.5 * quality + _normal("ease", example.input))))
        is_right = rng_of("threshold", prompt, example.input).random() < chance
        return example.outputs[0] if is_right else "none"


class WordEmbedder:
    """Embedder by sums of random vectors of the words, which needs no model."""

    name = "words"

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one row a text, (n, DIM)."""
        rows = [sum((_vector(word) for word in text.lower().split()), np.zeros(DIM)) for text in texts]
        return np.asarray(rows, dtype=np.float32)


@cache
def _vector(word: str) -> NDArray[np.float64]:
    rng = rng_of("word", word)
    return np.array([rng.gauss(0.0, 1.0) for _ in range(DIM)])


def _normal(*values: object) -> float:
    return rng_of(*values).gauss(0.0, 1.0)


class Endpoint:
    """OpenAI-compatible server of the scored model and the writer on the loopback interface.

        async with Endpoint(scored, writer) as endpoint:
            ...  # endpoint.url

    Args:
        scored: answers all requests but those to the writer.
        writer: answers the requests to WRITER.

    Attributes:
        counts: answered requests by name of the model.
    """

    def __init__(self, scored: Answerer, writer: Answerer) -> None:
        self._scored, self._writer = scored, writer
        self.counts: Counter[str] = Counter()
        self._runner: web.AppRunner | None = None

    async def _chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        model = str(body["model"])
        text = await (self._writer if model == WRITER else self._scored)(body)
        self.counts[model] += 1  # as the proxy counts: a call that fails is free
        return web.json_response(
            {
                "id": "completion",
                "object": "chat.completion",
                "model": model,
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": text},
                        "finish_reason": "stop",
                    }
                ],
                "usage": usage(text_of(body), text),
            }
        )

    async def __aenter__(self) -> Endpoint:
        app = web.Application(client_max_size=2**22)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()


def usage(asked: str, answered: str) -> dict[str, int]:
    """Return token counts of a completion by its words; no figure here is of tokens."""
    counts: Sequence[int] = len(asked.split()), len(answered.split())
    return {"prompt_tokens": counts[0], "completion_tokens": counts[1], "total_tokens": sum(counts)}
