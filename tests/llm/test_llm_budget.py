"""Budgets of the client: charged per attempt and outcome, checked against the server's count."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from fake_server import (
    Behaviour,
    FakeServer,
    absurd_usage,
    dropped,
    edited,
    html,
    no_usage,
    null_content,
    ok,
    random_faults,
    slow,
    status,
    truncated,
)
from llm_tools import HELLO, Pauses, make, no_environment, run, settle, timed_out  # noqa: F401

from zopo_fast import errors
from zopo_fast.llm.budget import Account
from zopo_fast.llm.limits import Limits, Prices
from zopo_fast.llm.middleware import MeteredModel
from zopo_fast.llm.openai.client import ClientConfig, OpenAIClient
from zopo_fast.llm.tokens import chat_bound
from zopo_fast.llm.types import Usage

BODY = {"max_tokens": 20}
WHOLE = chat_bound(HELLO, BODY, required=True).total_tokens


@pytest.mark.parametrize(
    ("fault", "calls", "tokens"),
    [
        (status(429), 0, 0),
        (status(500), 0, 0),
        (status(503), 0, 0),
        (status(502), 1, WHOLE),
        (status(504), 1, WHOLE),
        (dropped(), 1, WHOLE),
        (truncated(), 1, WHOLE),
        (truncated("close"), 1, WHOLE),
        (slow(), 1, WHOLE),
        (html(), 1, WHOLE),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_an_attempt_that_failed_is_charged_what_it_may_have_cost(
    fault: Behaviour, calls: int, tokens: int
) -> None:
    async def scenario() -> None:
        server = FakeServer(plan=timed_out(30.0, times=1) if fault.hold else [fault])
        async with server, make(server, body=BODY, timeout=30.0) as client:
            account = Account(Limits(calls=9, tokens=10_000))
            answer = await MeteredModel(client, account).chat(HELLO)
            assert answer.usage == client.usage == Usage(2, 2, calls=1, retries=1, lost_calls=calls)
            assert account.outstanding == 0
            assert (account.spent.calls, account.spent.tokens) == (calls + 1, tokens + 4)

    run(scenario())


@pytest.mark.parametrize(
    ("behaviour", "error", "calls", "tokens"),
    [
        (status(400), errors.RequestRejectedError, 0, 0),
        (status(401), errors.AuthenticationError, 0, 0),
        (null_content(), errors.MalformedAnswerError, 1, WHOLE),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_call_that_fails_for_good_is_charged_alike(
    behaviour: Behaviour, error: type[errors.LLMError], calls: int, tokens: int
) -> None:
    async def scenario() -> None:
        async with FakeServer(plan=behaviour) as server, make(server, body=BODY) as client:
            account = Account(Limits(calls=9, tokens=10_000))
            with pytest.raises(error):
                await client.chat(HELLO, account=account)
            assert (account.spent.calls, account.spent.tokens) == (calls, tokens)
            assert account.outstanding == 0

    run(scenario())


def test_a_call_that_never_connects_costs_nothing() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"

        async def scenario() -> None:
            account = Account(Limits(calls=1))
            async with OpenAIClient(ClientConfig("m", base_url=url), sleep=Pauses()) as client:
                with pytest.raises(errors.UnreachableError):
                    await client.chat(HELLO, account=account)
                assert client.usage == Usage(retries=5)
            assert account.spent.calls == account.outstanding == 0

        run(scenario())


@pytest.mark.parametrize("when", ["sent", "queued"])
def test_a_cancelled_call_counts_once_it_is_sent(when: str) -> None:
    async def scenario() -> None:
        async with FakeServer(plan=slow()) as server, make(server, body=BODY, concurrency=1) as client:
            account = Account(Limits(calls=9, tokens=10_000))
            calls = [asyncio.ensure_future(client.chat(HELLO, account=account)) for _ in range(2)]
            await server.wait_requests(1)
            assert await settle(lambda: account.outstanding == 2)
            call = calls[0 if when == "sent" else 1]
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert account.outstanding == 1
            assert account.spent.tokens == (WHOLE if when == "sent" else 0)
            assert client.usage == Usage(lost_calls=int(when == "sent"))
            await _cancelled(calls)
            assert account.outstanding == 0

    run(scenario())


async def _cancelled(calls: list[Any]) -> None:
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize("behaviour", [no_usage(), absurd_usage(None, "x")], ids=lambda b: b.name)
def test_an_answer_that_does_not_say_what_it_took_is_charged_in_full(behaviour: Behaviour) -> None:
    async def scenario() -> None:
        async with FakeServer(plan=behaviour) as server, make(server, body=BODY) as client:
            account = Account(Limits(tokens=10_000))
            answer = await client.chat(HELLO, account=account)
            assert answer.usage.estimated_calls == 1
            assert account.spent.tokens == WHOLE

    run(scenario())


def test_a_usage_above_the_bound_is_charged_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        plan = edited(lambda a: {**a, "usage": {"prompt_tokens": 5, "completion_tokens": 9_000_000}})
        async with FakeServer(plan=plan) as server, make(server, body=BODY) as client:
            account = Account(Limits(tokens=10_000))
            await client.chat(HELLO, account=account)
            assert account.spent.tokens == 9_000_005
            with pytest.raises(errors.LimitReachedError):
                await client.chat(HELLO, account=account)

    run(scenario())
    assert "charged as stated" in caplog.text


def test_a_limit_of_tokens_needs_the_longest_answer() -> None:
    async def scenario() -> None:
        async with FakeServer() as server, make(server) as client:
            with pytest.raises(errors.ConfigError, match="max_tokens"):
                await client.chat(HELLO, account=Account(Limits(tokens=100)))
            await client.chat(HELLO, account=Account(Limits(calls=1)))
            assert len(server.requests) == 1

    run(scenario())


@pytest.mark.parametrize("limits", [Limits(calls=70), Limits(tokens=20_000)], ids=["calls", "tokens"])
def test_64_calls_at_once_never_exceed_a_limit(limits: Limits) -> None:
    kinds = (status(429), status(500), dropped(), truncated(), html(), status(502))

    async def scenario() -> None:
        server = FakeServer(plan=random_faults(seed=11, share=0.3, kinds=kinds, at_most=99))
        async with server, make(server, body=BODY, concurrency=64) as client:
            account = Account(limits)
            model = MeteredModel(client, account)
            chats = [[{"role": "user", "content": f"question number {i}"}] for i in range(300)]
            outcomes = await asyncio.gather(*(model.chat(chat) for chat in chats), return_exceptions=True)
            reached = [o for o in outcomes if isinstance(o, errors.LimitReachedError)]
            assert reached
            assert not [
                o for o in outcomes if isinstance(o, Exception) and not isinstance(o, errors.ZopoError)
            ]
            # A server may bill every request that it does not refuse.
            refused = {"status 429", "status 500"}
            billed = [r for r in server.requests if r.behaviour not in refused]
            words = sum(sum(len(m["content"].split()) for m in r.body["messages"]) for r in billed)
            assert account.outstanding == 0
            if limits.calls is not None:
                assert len(billed) == account.spent.calls == limits.calls  # the whole budget was used
            assert 2 * words <= account.spent.tokens
            assert limits.tokens is None or account.spent.tokens <= limits.tokens

    run(scenario())


def test_waiting_for_money_holds_no_slot() -> None:
    async def scenario() -> None:
        server = FakeServer(plan=[slow(), *[ok()] * 9])
        async with server, make(server, concurrency=2) as client:
            account = Account(Limits(calls=1))
            first = asyncio.ensure_future(client.chat(HELLO, account=account))
            await server.wait_requests(1)
            waiting = [asyncio.ensure_future(client.chat(HELLO, account=account)) for _ in range(5)]
            assert (await client.chat(HELLO)).text == "say hello"  # the other slot is free
            await _cancelled([first])
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {errors.LimitReachedError}

    run(scenario())


def test_an_estimate_that_is_cut_short_counts_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        estimating = asyncio.Event()

        async def never(*_: Any) -> Any:
            estimating.set()
            await asyncio.Event().wait()

        async with FakeServer(plan=no_usage()) as server, make(server) as client:
            monkeypatch.setattr("zopo_fast.llm.openai.client.asyncio.to_thread", never)
            call = asyncio.ensure_future(client.chat(HELLO))
            await estimating.wait()
            await _cancelled([call])
            assert (client.usage.calls, client.usage.estimated_calls) == (1, 1)
            assert client.usage.total_tokens > 0

    run(scenario())


def test_reasoning_beside_the_completion_is_paid_for(caplog: pytest.LogCaptureFixture) -> None:
    """xAI and Gemini bill reasoning that `completion_tokens` leaves out."""
    usage = {"prompt_tokens": 30, "completion_tokens": 3, "total_tokens": 1033}

    async def scenario() -> None:
        plan = edited(lambda answer: {**answer, "usage": usage}, good=True)
        async with FakeServer(plan=plan) as server, make(server, body=BODY) as client:
            account = Account(Limits(cost=0.001), Prices(1.0, 2.0))
            await client.chat(HELLO, account=account)
            assert account.spent.tokens == 1033
            assert account.spent.cost == pytest.approx((30 * 1.0 + 1003 * 2.0) / 1e6)
            with pytest.raises(errors.LimitReachedError):
                await client.chat(HELLO, account=account)

    run(scenario())
    assert "a call exceeded its upper bound" in caplog.text
