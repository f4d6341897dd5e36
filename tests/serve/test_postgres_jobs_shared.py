"""Jobs of a fleet on PostgreSQL: what its servers share, and what a failing database does to a job."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet_tools import CALLS, FleetModel, fleet_model, job, recorded, rows, wait_state
from postgres_tools import Cluster
from serve_tools import Client, served
from test_serve_jobs import events, followed
from time_tools import until

from zopo_fast.errors import ConfigError, StoreBusyError, StoreError
from zopo_fast.serve.config import ServerLimits

pytest.importorskip("psycopg")
pytest.importorskip("procrastinate")

LIMITS: dict[str, Any] = {"heartbeat": 0.2, "stalled_after": 5, "stop_timeout": 5}


@pytest.fixture
def model(tmp_path: Path) -> Iterator[FleetModel]:
    with fleet_model(tmp_path) as running:
        yield running


def server(database: str, models: Path, **limits: Any) -> Any:
    return served(database, ServerLimits(**{**LIMITS, **limits}), models=models)


def test_one_idempotency_key_makes_one_job_in_the_fleet(database: str, model: FleetModel) -> None:
    with (
        server(database, model.path) as a,
        server(database, model.path) as b,
        Client(a.url) as here,
        Client(b.url) as there,
    ):
        name = here.ok("POST", "/v1/jobs", job(), Idempotency_Key="k")["id"]
        assert there.ok("POST", "/v1/jobs", job(), Idempotency_Key="k")["id"] == name
        assert there("POST", "/v1/jobs", job(name="other"), Idempotency_Key="k").status == 422
        assert [each["id"] for each in there.ok("GET", "/v1/jobs")["jobs"]] == [name]
        wait_state(here, name, "done")
        assert model.server.answered_total == CALLS
        assert there("DELETE", f"/v1/jobs/{name}").status == 204
        assert here.ok("POST", "/v1/jobs", job(), Idempotency_Key="k")["id"] != name


def test_the_limit_of_kept_jobs_holds_for_the_fleet(
    database: str, model: FleetModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.answer_only(0)
    with (
        server(database, model.path, max_kept_jobs=2) as a,
        server(database, model.path, max_kept_jobs=2) as b,
        Client(a.url) as here,
        Client(b.url) as there,
    ):
        names = [call.ok("POST", "/v1/jobs", job())["id"] for call in (here, there)]
        for call in (here, there):
            reply = call("POST", "/v1/jobs", job())
            assert (reply.status, reply.body["error"]) == (429, "TooManyJobs")

        async def count() -> dict[str, int]:
            return {}

        # As if both servers had counted before either created its job.
        monkeypatch.setattr(b.server.jobs._backend, "count", count)
        assert there("POST", "/v1/jobs", job()).status == 429
        until(lambda: model.held() == 2)
        for name in names:
            assert here("POST", f"/v1/jobs/{name}/cancel").status == 202
        for name in names:  # without the held calls, after a pause for them
            wait_state(there, name, "cancelled")
        assert there("DELETE", f"/v1/jobs/{names[0]}").status == 204
        assert here("POST", "/v1/jobs", job()).status == 201


def test_a_job_runs_where_its_model_is_known(database: str, model: FleetModel) -> None:
    with (
        server(database, model.file("other")) as a,
        server(database, model.path) as b,
        Client(a.url) as here,
        Client(b.url) as there,
    ):
        assert here("POST", "/v1/jobs", job()).status == 422
        for _ in range(3):
            name = there.ok("POST", "/v1/jobs", job())["id"]
            assert wait_state(here, name, "done")["trials"] == 8
        assert here.ok("GET", f"/v1/jobs/{name}/result")["result"]["best_score"] == 1.0
        assert 'zopo_jobs{state="done"} 3.0' in here.ok("GET", "/metrics").decode()


def test_a_database_that_restarts_neither_ends_a_job_nor_repeats_a_call(
    postgres: Cluster, database: str, tmp_path: Path
) -> None:
    with (
        fleet_model(tmp_path, latency=0.03) as model,
        server(database, model.path) as running,
        Client(running.url) as call,
    ):
        name = call.ok("POST", "/v1/jobs", job())["id"]
        until(lambda: model.server.answered_total > 9)
        postgres.restart(immediately=True)
        assert model.server.answered_total < CALLS  # the restart fell into the run
        wait_state(call, name, "done")
        assert len(model.server.answered) == model.server.answered_total == CALLS
        with followed(running.url, name) as response:
            numbers = [int(event["id"]) for event in events(response)]
        assert numbers == list(range(1, len(numbers) + 1))


def test_a_job_is_resumed_after_a_database_that_was_away_too_long(
    postgres: Cluster,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("zopo_fast.serve.postgres.job_log.RETRY_SECONDS", 0.1)
    with (
        fleet_model(tmp_path, latency=0.03) as model,
        server(database, model.path) as running,
        Client(running.url) as call,
    ):
        name = call.ok("POST", "/v1/jobs", job())["id"]
        until(lambda: model.server.answered_total > 9)
        postgres.stop(immediately=True)
        try:
            until(lambda: "job interrupted" in caplog.messages)
        finally:
            postgres.start()
        assert wait_state(call, name, "done", "failed")["error"] is None
        assert len(model.server.answered) == CALLS


def test_a_job_without_an_entry_of_the_queue_gets_one(database: str, model: FleetModel) -> None:
    import psycopg

    with (
        server(database, model.file("other")) as a,
        server(database, model.path, heartbeat=100, stalled_after=200) as b,
        Client(a.url) as here,
        Client(b.url) as there,
    ):
        model.answer_only(0)
        first = there.ok("POST", "/v1/jobs", job())["id"]
        second = there.ok("POST", "/v1/jobs", job())["id"]
        third = there.ok("POST", "/v1/jobs", job())["id"]
        until(lambda: model.held() == 2)  # no place is left for the third
        with psycopg.connect(database, options="-c search_path=zopo_fast") as connection:
            delete = "DELETE FROM procrastinate_jobs WHERE lock = %s AND status = 'todo'"
            assert connection.execute(delete, (third,)).rowcount == 1
        model.answer_only(10**6)
        for name in (first, second):
            assert there("POST", f"/v1/jobs/{name}/cancel").status == 202
        wait_state(here, third, "done")  # the other server looks for such jobs


def test_old_events_are_dropped_and_the_gap_is_reported(database: str, model: FleetModel) -> None:
    with server(database, model.path, max_job_events=4) as a, Client(a.url) as call:
        name = call.ok("POST", "/v1/jobs", job())["id"]
        wait_state(call, name, "done")
        with followed(a.url, name) as response:
            seen = list(events(response))
    assert seen[0] == {"event": "gap", "data": {"missing": 8}}
    assert [event["id"] for event in seen[1:]] == ["9", "10", "11", "12"]


def test_only_the_newest_run_writes_to_the_log(database: str, model: FleetModel) -> None:
    from zopo_fast.serve.postgres.database import Database
    from zopo_fast.serve.postgres.job_log import PostgresMirror

    with server(database, model.path) as a, Client(a.url) as call:
        name = call.ok("POST", "/v1/jobs", job())["id"]
        wait_state(call, name, "done")
    mirrors = [PostgresMirror(Database(database), name, run) for run in (1, 0)]
    first, reader = mirrors
    number = first.last()
    first.write(number + 1, b"x")
    first.write(number + 1, b"x")  # the answer to the first attempt was lost
    again = PostgresMirror(Database(database), name, 1)
    for writer, next_number in ((again, number + 1), (reader, number + 2)):
        with pytest.raises(StoreBusyError, match="taken the job over"):
            writer.write(next_number, b"y")
    assert list(reader.read(number + 1))[-1] == b"x"
    assert len(list(reader.read(number))) == number
    for mirror in (*mirrors, again):
        mirror.close()


def test_a_run_that_lost_its_job_leaves_the_row_alone(
    database: str, model: FleetModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    monkeypatch.setattr("zopo_fast.serve.postgres.jobs.WATCH_SECONDS", 1000)  # only writes find out
    model.answer_only(6)
    with server(database, model.path, heartbeat=100, stalled_after=200) as a, Client(a.url) as call:
        name = call.ok("POST", "/v1/jobs", job())["id"]
        until(lambda: model.held() == 1)
        until(lambda: recorded(database, name) == 6)
        with psycopg.connect(database, options="-c search_path=zopo_fast") as connection:
            connection.execute("UPDATE job SET run = run + 1")
        before = rows(database, name)
        model.answer_only(10**6)
        model.release()
        until(lambda: not a.server.jobs._backend._running)  # type: ignore[attr-defined]
        assert rows(database, name) == before


def test_a_server_that_takes_over_its_own_job_ends_the_earlier_run(database: str, model: FleetModel) -> None:
    model.answer_only(6)
    with server(database, model.path, heartbeat=100, stalled_after=200) as a, Client(a.url) as call:
        backend: Any = a.server.jobs._backend
        name = call.ok("POST", "/v1/jobs", job())["id"]
        until(lambda: model.held() == 1)
        until(lambda: recorded(database, name) == 6)
        earlier = backend._running[name].job.task
        asyncio.run_coroutine_threadsafe(backend._execute(name), a.loop)
        until(earlier.done)  # its call is still held
        model.answer_only(10**6)
        wait_state(call, name, "done")
        assert set(model.server.answered.values()) == {1}


def test_a_deletion_whose_answer_was_lost_is_acknowledged(
    database: str, model: FleetModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(database, model.path) as a, Client(a.url) as call:
        name = call.ok("POST", "/v1/jobs", job())["id"]
        wait_state(call, name, "done")
        shared: Any = a.server.jobs._backend._database  # type: ignore[attr-defined]
        retry = shared.retry

        async def twice(work: Any, *limit: float) -> Any:
            await retry(work, *limit)
            return await retry(work, *limit)

        monkeypatch.setattr(shared, "retry", twice)
        assert call("DELETE", f"/v1/jobs/{name}").status == 204
        assert call("DELETE", f"/v1/jobs/{name}").status == 404


def test_progress_whose_write_failed_is_written_again(
    database: str, model: FleetModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.answer_only(12)
    with server(database, model.path) as a, Client(a.url) as call:
        backend: Any = a.server.jobs._backend
        write, failures = backend._database.transaction, []

        async def transaction(work: Any) -> Any:
            is_last = any(run.job.saved.trials == 3 for run in backend._running.values())
            if is_last and not failures:
                failures.append(StoreError("away"))
                raise failures[0]
            return await write(work)

        monkeypatch.setattr(backend._database, "transaction", transaction)
        name = call.ok("POST", "/v1/jobs", job())["id"]
        until(lambda: call.ok("GET", f"/v1/jobs/{name}")["trials"] == 3)  # no further event follows
        assert failures


def test_a_server_without_its_database_is_refused(postgres: Cluster) -> None:
    with pytest.raises(StoreError, match="missing"), served(postgres.url("missing")):
        raise AssertionError("started")


def test_a_time_to_stall_below_two_heartbeats_is_refused() -> None:
    with pytest.raises(ConfigError, match="stalled_after: 5 is less than two heartbeats of 3"):
        ServerLimits(heartbeat=3, stalled_after=5)
