"""Faulty providers: the short form of `make chaos`."""

from __future__ import annotations

import asyncio

import pytest
from chaos_runs import runs
from chaos_server import FAULTS, HARMLESS


@pytest.mark.parametrize("fault", ["none", *FAULTS, "all mixed"])
def test_runs_survive_a_faulty_server(fault: str) -> None:
    row = asyncio.run(runs(fault, 6 if fault == "all mixed" else 3, seed=99))
    assert row.problems == []
    assert row.scored > 0
    assert (row.faults > 0) is (fault != "none")
    assert (row.retries > 0) is (fault not in HARMLESS | {"none"})
    assert row.limits_reached > 0


@pytest.mark.parametrize("fault", ["429", "429 with Retry-After", "500", "dropped", "slow", "web page"])
def test_a_run_ends_when_every_request_fails(fault: str) -> None:
    row = asyncio.run(runs(fault, 1, seed=99, share=1.0))
    assert row.problems == []
    assert (row.runs, row.answered, row.scored) == (1, 0, 0)
    down = {"EndpointDownError", "ServerError"}  # in the queue, or after an attempt of its own
    expected = {
        "429": {"RateLimitError"},
        "429 with Retry-After": {"RateLimitError"},
        # Its own attempts end, or its wait for the circuit breaker: the order of the calls decides.
        "dropped": {"UnreachableError", "EndpointDownError"},
        "slow": {"RequestTimeoutError"},
        "web page": {"MalformedAnswerError"},
    }
    (ended_by,) = row.ended_by
    assert ended_by in expected.get(fault, down)


def test_the_checks_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not charge lost calls is noticed."""
    from zopo_fast.llm.budget import Account

    monkeypatch.setattr(Account, "forfeit", Account.release)
    row = asyncio.run(runs("truncated", 3, seed=99))
    assert any("billed" in problem for problem in row.problems)
