"""Spans of a run, from `optimize` to each HTTP request, and none without a provider."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("opentelemetry.sdk")

from doc_tools import blocks_of
from fake_server import FakeServer, dropped, status
from llm_tools import Pauses, make
from time_tools import HANG
from tracing_tools import Spans, traceparent

import zopo_fast as zf
from zopo_fast.errors import AuthenticationError

POOL = [f"Secret instruction {i}" for i in range(6)]
TASK = zf.Task("t", tuple(zf.Example(f"secret input {i}", ("yes",)) for i in range(3)), metric="contains")
HELDOUT = zf.Task(
    "t", TASK.train, tuple(zf.Example(f"held {i}", ("yes",)) for i in range(2)), metric="contains"
)
CONFIG = zf.RunConfig(budget=4, initial=3, seed=0, racing=False, stop_at_perfect=False, heldout=True)


def run(
    scenario: Callable[[FakeServer, zf.OpenAIClient], Coroutine[Any, Any, Any]], **plan: Any
) -> FakeServer:
    """Run a scenario with a client of a fake server, whose pauses take no time."""

    async def work() -> FakeServer:
        async with FakeServer(lambda _: "yes secret answer", **plan) as server:
            async with make(server, Pauses(), embedding_model="e") as client:
                await scenario(server, client)
            return server

    return asyncio.run(work())


async def optimized(server: FakeServer, client: zf.OpenAIClient, task: Any = HELDOUT, **given: Any) -> Any:
    embeddings = np.random.default_rng(0).normal(size=(len(POOL), 4))
    return await zf.optimize(task, POOL, client, CONFIG, embeddings=embeddings, **given)


def test_a_run_is_one_tree(spans: Spans) -> None:
    server = run(optimized)
    root = spans.one("zopo_fast.optimize")
    assert root.parent is None
    scored = spans.of(root)
    assert {span.name for span in scored} == {"zopo_fast.score_prompt"}
    parts = [span.attributes["zopo_fast.part"] for span in scored]
    assert parts.count("train") == CONFIG.budget
    assert parts.count("heldout") >= 1
    for span in scored:
        calls = spans.of(span)
        assert [call.name for call in calls] == ["chat m"] * span.attributes["zopo_fast.examples"]
        for call in calls:
            (attempt,) = spans.of(call)
            assert attempt.name == "POST"
    assert len(spans.all()) == 1 + len(scored) + 2 * len(server.requests)
    assert {traceparent(span) for span in spans.named("POST")} == {
        request.headers["traceparent"] for request in server.requests
    }


def test_attributes_follow_the_conventions(spans: Spans) -> None:
    from opentelemetry.semconv import _incubating

    server = run(optimized)
    host, port = server.url.removeprefix("http://").removesuffix("/v1").split(":")
    call = spans.named("chat m")[0]
    assert call.kind.name == "CLIENT"
    assert dict(call.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m",
        "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": call.attributes["gen_ai.usage.input_tokens"],
        "gen_ai.usage.output_tokens": 3,
        "server.address": host,
        "server.port": int(port),
    }
    assert call.attributes["gen_ai.usage.input_tokens"] > 0
    scored = spans.named("zopo_fast.score_prompt")[0]
    assert scored.attributes["zopo_fast.prompt.index"] in range(6)
    (event,) = scored.events
    assert event.name == "gen_ai.evaluation.result"
    assert dict(event.attributes) == {
        "gen_ai.evaluation.name": "contains",
        "gen_ai.evaluation.score.value": 1.0,
    }
    attempt = spans.named("POST")[0]
    assert attempt.attributes["http.response.status_code"] == 200
    assert attempt.attributes["url.full"] == f"{server.url}/chat/completions"
    folder = Path(_incubating.__path__[0]).parent
    known = "\n".join(path.read_text() for path in folder.rglob("*attributes*.py"))
    names = {name for span in spans.all() for name in span.attributes}
    names |= {name for span in spans.all() for event in span.events for name in event.attributes}
    for name in names:
        assert name.startswith("zopo_fast.") or f'"{name}"' in known, name


def test_no_span_holds_a_prompt_or_an_answer(spans: Spans) -> None:
    async def refused(server: FakeServer, client: zf.OpenAIClient) -> None:
        with pytest.raises(AuthenticationError, match="secret input"):
            await optimized(server, client, TASK)

    run(optimized)
    run(refused, plan=status(401))
    texts = [span.to_json() for span in spans.all()]
    assert any("AuthenticationError" in text for text in texts)
    assert not any("ecret" in text for text in texts)


def test_each_attempt_has_a_span_below_that_of_the_call(spans: Spans) -> None:
    async def asked(server: FakeServer, client: zf.OpenAIClient) -> None:
        await client.chat([{"role": "user", "content": "hi"}])

    run(asked, plan=[status(429), dropped()])
    call = spans.one("chat m")
    assert call.attributes["zopo_fast.retries"] == 2
    assert call.status.is_unset
    attempts = spans.of(call)
    assert [span.attributes.get("error.type") for span in attempts] == ["429", "UnreachableError", None]
    assert [span.status.status_code.name for span in attempts] == ["ERROR", "ERROR", "UNSET"]


def test_a_failed_call_fails_all_spans_above_it(spans: Spans) -> None:
    async def refused(server: FakeServer, client: zf.OpenAIClient) -> None:
        with pytest.raises(AuthenticationError):
            await optimized(server, client, TASK)

    run(refused, plan=status(401))
    root = spans.one("zopo_fast.optimize")
    failed = next(span for span in spans.named("chat m") if span.attributes["error.type"] != "CancelledError")
    for span in (root, failed):
        assert span.attributes["error.type"] == "AuthenticationError"
        assert span.status.status_code.name == "ERROR"
        assert not span.status.description
        assert not [event for event in span.events if event.name == "exception"]


def test_embeddings_have_a_span_a_batch(spans: Spans) -> None:
    async def embedded(server: FakeServer, client: zf.OpenAIClient) -> None:
        await client.embed(["a", "b"])

    server = run(embedded)
    call = spans.one("embeddings e")
    assert call.attributes["gen_ai.operation.name"] == "embeddings"
    assert call.attributes["gen_ai.embeddings.dimension.count"] > 0
    (request,) = server.requests
    assert request.headers["traceparent"] == traceparent(spans.one("POST"))


def test_answers_of_the_cache_are_counted_and_have_no_span(spans: Spans, tmp_path: Path) -> None:
    async def twice(server: FakeServer, client: zf.OpenAIClient) -> None:
        for _ in range(2):
            await optimized(server, client, TASK, cache=zf.AnswerCache(tmp_path / "cache"))

    server = run(twice)
    assert len(spans.named("chat m")) == len(server.requests)
    second = spans.named("zopo_fast.optimize")[1]
    assert all(span.attributes["zopo_fast.cached"] == 3 for span in spans.of(second))


def test_the_span_of_the_caller_is_the_parent_also_across_threads(spans: Spans) -> None:
    from opentelemetry import trace

    tracer = trace.get_tracer_provider().get_tracer("caller")
    seen = []

    def score(prompt: str) -> float:
        seen.append(trace.get_current_span().get_span_context().span_id)
        return 0.5

    embeddings = np.random.default_rng(0).normal(size=(len(POOL), 4))
    with tracer.start_as_current_span("caller") as caller:
        zf.optimize_sync(score, POOL, config=CONFIG, embeddings=embeddings)
    root = spans.one("zopo_fast.optimize")
    assert root.parent.span_id == caller.get_span_context().span_id
    assert set(seen) == {span.context.span_id for span in spans.of(root)}


def test_nothing_is_sent_or_imported_without_a_provider() -> None:
    server = run(optimized)
    assert not any("traceparent" in request.headers for request in server.requests)
    script = (
        "import sys, zopo_fast as zf\n"
        "zf.optimize_sync(len, ['a', 'bb', 'ccc'], config=zf.RunConfig(budget=2, initial=2),"
        " embeddings=[[0., 1.], [1., 0.], [1., 1.]])\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=HANG)


def test_the_lines_of_the_page_record_spans() -> None:
    block = next(
        block for block in blocks_of("docs/integrations/opentelemetry.md") if block.language == "python"
    )
    done = subprocess.run(
        [sys.executable, "-c", block.code], capture_output=True, text=True, timeout=HANG, check=True
    )
    assert '"name": "zopo_fast.optimize"' in done.stdout
    assert '"name": "zopo_fast.score_prompt"' in done.stdout
