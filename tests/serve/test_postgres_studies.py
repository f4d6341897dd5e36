"""Studies of two servers on one database, and of one whose database fails."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from page_tools import Visitor
from postgres_tools import Cluster
from serve_study_tools import in_process, reference, run_to_the_end, score
from serve_tools import SECONDS, Client, InThread, packed, pool, served
from time_tools import HANG, until

from zopo_fast.errors import StoreError
from zopo_fast.serve.config import ServerLimits

psycopg = pytest.importorskip("psycopg")


@pytest.fixture
def server(database: str) -> Iterator[InThread]:
    with served(database) as running:
        yield running


@pytest.fixture
def other(server: InThread, database: str) -> Iterator[Client]:
    with served(database) as running, Client(running.url) as client:
        yield client


@pytest.fixture
def both(call: Client, other: Client) -> list[Client]:
    return [call, other]


# ---- two servers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("looks", [True, False])
def test_servers_that_take_turns_ask_as_one_search_in_process(both: list[Client], looks: bool) -> None:
    study = both[0].study(budget=20)
    order = []
    answer = both[0].ok("POST", f"/v1/studies/{study}/ask")
    while answer["indices"]:
        (index,) = answer["indices"]
        order.append(index)
        call = both[len(order) % 2]
        if looks:  # a view sees the last change; else the tell itself meets it
            assert call.ok("GET", f"/v1/studies/{study}")["pending"] == [index]
        answer = call.ok(
            "POST", f"/v1/studies/{study}/tell", {"index": index, "score": score(index), "ask": 1}
        )
    assert order == in_process(budget=20)
    assert {call("POST", f"/v1/studies/{study}/ask").body["error"] for call in both} == {"NothingToAsk"}
    states = [call.ok("GET", f"/v1/studies/{study}/state") for call in both]
    assert states[0] == states[1]


def test_the_number_of_studies_in_the_metrics_is_that_of_the_database(
    server: InThread, both: list[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = both[0].study()
    assert "zopo_studies 1.0" in both[1].ok("GET", "/metrics").decode()

    async def count() -> int:
        raise StoreError("away")

    monkeypatch.setattr(server.server.studies.store, "count", count)
    assert both[0]("DELETE", f"/v1/studies/{study}").status == 204  # the study is deleted: no error
    assert "zopo_studies 1.0" in both[0].ok("GET", "/metrics").decode()
    assert "zopo_studies 0.0" in both[1].ok("GET", "/metrics").decode()


def test_an_error_counts_on_the_newest_state_only(both: list[Client]) -> None:
    study = both[0].study(budget=4, initial=2)
    path = f"/v1/studies/{study}"
    asked = both[0].ok("POST", f"{path}/ask", {"n": 4})["indices"]
    assert both[1]("POST", f"{path}/ask").body["error"] == "NothingToAsk"
    both[0].ok("POST", f"{path}/discard", {"index": asked[0]})
    # The other server last saw a search without a prompt to ask.
    assert len(both[1].ok("POST", f"{path}/ask")["indices"]) == 1
    both[1].ok("POST", f"{path}/tell", {"index": asked[1], "score": 0.5})
    assert both[0]("POST", f"{path}/discard", {"index": asked[1]}).body["error"] == "UnknownIndexError"


def test_a_key_has_one_effect_whichever_server_gets_it(both: list[Client]) -> None:
    create = {"embeddings": packed(pool()), "config": {"budget": 9, "initial": 3}}
    made = [call.ok("POST", "/v1/studies", create, Idempotency_Key="make") for call in both]
    assert made[0] == made[1]
    path = f"/v1/studies/{made[0]['id']}"
    asked = [call.ok("POST", f"{path}/ask", {}, Idempotency_Key="ask") for call in both]
    assert asked[0] == asked[1]
    tell = {"index": asked[0]["indices"][0], "score": 0.5, "ask": 2}
    told = [call.ok("POST", f"{path}/tell", tell, Idempotency_Key="tell") for call in reversed(both)]
    assert told[0] == told[1]
    for call in both:
        for where, body, key in (
            (f"{path}/tell", {}, "ask"),
            ("/v1/studies", {**create, "name": "x"}, "make"),
        ):
            sent = {**tell, **body} if where != "/v1/studies" else body
            reply = call("POST", where, sent, Idempotency_Key=key)
            assert (reply.status, reply.body["error"]) == (422, "IdempotencyKeyReused")
        assert call.ok("GET", path)["asked"] == 3
        assert len(call.ok("GET", "/v1/studies")["studies"]) == 1


def _together(works: list[Callable[[], Any]]) -> list[Any]:
    """Run works at the same time; return their results."""
    results: list[Any] = [None] * len(works)
    barrier = threading.Barrier(len(works))

    def run(number: int) -> None:
        barrier.wait(HANG)
        results[number] = works[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    return results


def test_one_key_and_one_limit_hold_for_creations_at_the_same_time(database: str) -> None:
    limits = ServerLimits(max_studies=3, stop_timeout=5)
    with (
        served(database, limits) as first, served(database, limits) as second,
        Client(first.url) as one, Client(second.url) as two,
    ):  # fmt: skip
        body = {"embeddings": packed(pool())}
        for key in ("a", "b"):
            made = _together(
                [
                    lambda call=call, key=key: call("POST", "/v1/studies", body, Idempotency_Key=key)
                    for call in (one, two)
                ]
            )
            assert [reply.status for reply in made] == [201, 201]
            assert made[0].body["id"] == made[1].body["id"]
        made = _together([lambda call=call: call("POST", "/v1/studies", body) for call in (one, two)])
        assert sorted(reply.status for reply in made) == [201, 429]
        assert {reply.body.get("error") for reply in made} == {None, "TooManyStudies"}
        studies = one.ok("GET", "/v1/studies")["studies"]
        assert two.ok("GET", "/v1/studies")["studies"] == studies
        first_page = two.ok("GET", "/v1/studies?limit=2")
        assert [first_page["studies"], first_page["next"]] == [studies[:2], studies[1]["id"]]
        assert two.ok("GET", f"/v1/studies?after={first_page['next']}")["studies"] == studies[2:]


def test_a_study_deleted_at_one_server_is_gone_at_the_other(both: list[Client]) -> None:
    used, changed, unused = (both[0].study() for _ in range(3))
    for study in (used, changed):
        both[1].ok("POST", f"/v1/studies/{study}/ask")
    both[1].ok("GET", f"/v1/studies/{unused}")
    for study, method, path in ((used, "GET", ""), (changed, "POST", "/ask"), (unused, "GET", "/state")):
        assert both[0]("DELETE", f"/v1/studies/{study}").status == 204
        assert both[1](method, f"/v1/studies/{study}{path}").status == 404
        assert both[1]("DELETE", f"/v1/studies/{study}").status == 404
    assert both[1].ok("GET", "/v1/studies")["studies"] == []


def test_a_page_shows_the_changes_of_the_other_server(server: InThread, both: list[Client]) -> None:
    study = both[0].study(budget=3, initial=1)
    visitor = Visitor(server.url)
    assert "0 of 3" in visitor.get("/ui/runs").words()
    before = server.server._changes.revision(study)
    run_to_the_end(both[1], study)
    words = visitor.get("/ui/runs").words()
    assert "3 of 3" in words
    assert "done" in words
    assert server.server._changes.revision(study) > before
    assert both[1]("DELETE", f"/v1/studies/{study}").status == 204
    assert "No runs yet" in visitor.get("/ui/runs").words()


def test_a_busy_server_does_not_starve_the_other(server: InThread, both: list[Client]) -> None:
    study = both[0].study(m=400, budget=400)
    path, stop = f"/v1/studies/{study}", threading.Event()
    busy: list[int] = []

    def hammer() -> None:
        with Client(server.url) as client:
            while not stop.is_set():
                (index,) = client.ok("POST", f"{path}/ask")["indices"]
                client.ok("POST", f"{path}/discard", {"index": index})
                busy.append(index)

    threads = [threading.Thread(target=hammer) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(busy) > 10)
    for _ in range(10):  # each request conflicts with those of the busy server
        (index,) = both[1].ok("POST", f"{path}/ask")["indices"]
        both[1].ok("POST", f"{path}/tell", {"index": index, "score": score(index)})
    seen = len(busy)
    until(lambda: len(busy) > seen)
    stop.set()
    for thread in threads:
        thread.join(HANG)
    shown = both[0].ok("GET", path)
    assert (shown["asked"], shown["scored"]) == (10, 10)


# ---- failures of the database ------------------------------------------------------------------------


def test_requests_wait_for_a_database_that_restarts(
    postgres: Cluster, server: InThread, call: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zopo_fast.serve.postgres.database.RETRY_SECONDS", HANG)
    study = call.study(budget=20)
    order = run_to_the_end(call, study, steps=4)
    (index,) = call.ok("GET", f"/v1/studies/{study}")["pending"]
    postgres.stop(immediately=True)
    sent = {"index": index, "score": score(index), "ask": 1}
    answers: list[Any] = []
    waiting = threading.Thread(
        target=lambda: answers.append(call.ok("POST", f"/v1/studies/{study}/tell", sent))
    )
    waiting.start()
    until(lambda: server.server.studies._pending)
    postgres.start()
    waiting.join(HANG)
    assert [*order, index, *answers[0]["indices"]] == in_process(budget=20)[:6]


def test_a_database_out_of_reach_is_a_problem_until_it_is_back(
    postgres: Cluster, server: InThread, call: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = call.study(budget=20)
    order = run_to_the_end(call, study, steps=4)
    (index,) = call.ok("GET", f"/v1/studies/{study}")["pending"]
    tell = {"index": index, "score": score(index), "ask": 1}
    postgres.stop()
    monkeypatch.setattr("zopo_fast.serve.postgres.database.RETRY_SECONDS", 0.3)
    try:
        for method, path, body in (
            ("POST", f"/v1/studies/{study}/tell", tell),
            ("GET", f"/v1/studies/{study}", None),
            ("GET", "/v1/studies", None),
            ("POST", "/v1/studies", {"embeddings": packed(pool())}),
        ):
            reply = call(method, path, body)
            assert (reply.status, reply.body["error"]) == (503, "StoreError"), path
            assert reply.headers["Retry-After"] == "1"
            assert "tester" not in reply.body["detail"]
        assert call.ok("GET", "/healthz")["status"] == "ok"
    finally:
        postgres.start()
        monkeypatch.undo()
    until(lambda: call("GET", f"/v1/studies/{study}").status == 200)
    assert call.ok("GET", f"/v1/studies/{study}")["pending"] == [index]
    answer = call.ok("POST", f"/v1/studies/{study}/tell", tell)
    assert [*order, index, *answer["indices"]] == in_process(budget=20)[:6]


@pytest.mark.parametrize("is_contended", [False, True])
@pytest.mark.parametrize("is_written", [False, True])
def test_a_commit_with_unknown_outcome_counts_once(
    server: InThread, call: Client, monkeypatch: pytest.MonkeyPatch, is_contended: bool, is_written: bool
) -> None:
    from zopo_fast.serve.postgres import log

    study = call.study(budget=20)
    order = run_to_the_end(call, study, steps=3)
    (index,) = call.ok("GET", f"/v1/studies/{study}")["pending"]
    if is_contended:
        server.do(server.server.studies.get(study)).note_other_server()
    insert, calls = log.insert, []

    async def lose(connection: Any, round: Any, batches: Any, **options: Any) -> Any:
        calls.append(round)
        if len(calls) > 1:
            return await insert(connection, round, batches, **options)
        if is_written:
            await insert(connection, round, batches, **options)
            if is_contended:
                await connection.execute("COMMIT")
        await connection.close()
        raise psycopg.OperationalError("the connection is lost")

    monkeypatch.setattr(log, "insert", lose)
    tell = {"index": index, "score": score(index), "ask": 1}
    answer = call.ok("POST", f"/v1/studies/{study}/tell", tell)
    assert len(calls) > 1
    assert [*order, index, *answer["indices"]] == in_process(budget=20)[:5]
    log_ = call.ok("GET", f"/v1/studies/{study}/state")["state"]["log"]
    assert len(log_) == 9  # five asks, four tells


def test_a_server_does_not_append_to_a_log_that_lost_its_end(
    postgres: Cluster, database: str, call: Client
) -> None:
    study = call.study(budget=20)
    run_to_the_end(call, study, steps=4)
    with postgres.connect(database.rsplit("/", 1)[1]) as connection:  # as a restored backup
        connection.execute("DELETE FROM zopo_fast.study_log WHERE version > 4")
    shown = call.ok("GET", f"/v1/studies/{study}")
    order = in_process(budget=20)
    assert (shown["scored"], shown["pending"]) == (2, [order[2]])
    call.ok("POST", f"/v1/studies/{study}/tell", {"index": order[2], "score": score(order[2])})
    assert call.ok("POST", f"/v1/studies/{study}/ask")["indices"] == [order[3]]


def test_a_long_log_is_loaded(postgres: Cluster, database: str) -> None:
    count, row = 50_000, 100
    optimizer = reference()
    events: list[Any] = []
    while len(events) < count:
        (index,) = optimizer.ask(1)
        optimizer.discard(index)
        events += [("ask", [1, [index]]), ("discard", [index])]
    with (
        served(database, ServerLimits(max_events=count, stop_timeout=5)) as server,
        Client(server.url) as call,
    ):
        study = call.study()
        rows = "COPY zopo_fast.study_log (study, version, round, events) FROM STDIN"
        with (
            postgres.connect(database.rsplit("/", 1)[1]) as connection, connection.cursor() as cursor,
            cursor.copy(rows) as copy,
        ):  # fmt: skip
            for first in range(0, count, row):
                numbered = [
                    [study, first + i + 1, *event] for i, event in enumerate(events[first : first + row])
                ]
                copy.write_row((study, first + 1, UUID(int=1), json.dumps(numbered).encode()))
        start = time.perf_counter()
        reply = call.ok("GET", f"/v1/studies/{study}")
        print(f"{count} events loaded in {time.perf_counter() - start:.1f} s")
        assert (reply["asked"], reply["pending"]) == (0, [])
        assert call("POST", f"/v1/studies/{study}/ask").body["error"] == "LogFull"
