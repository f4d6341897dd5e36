"""Jobs of a fleet on PostgreSQL: kill, take over, cancel, follow and stop, with processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fleet_tools import CALLS, EXAMPLES, FleetModel, fleet_model, job, recorded, replica, rows, wait_state
from page_tools import Visitor
from serve_tools import Client, Process, served
from test_serve_jobs import events, followed
from time_tools import until

from zopo_fast.serve.config import ServerLimits

pytest.importorskip("psycopg")
pytest.importorskip("procrastinate")


@pytest.fixture
def model(tmp_path: Path) -> Iterator[FleetModel]:
    with fleet_model(tmp_path) as running:
        yield running


def undisturbed(folder: Path, model: FleetModel) -> dict[str, Any]:
    """Return the result of the same job on a server with a data folder."""
    with served(folder / "undisturbed", models=model.path) as server, Client(server.url) as call:
        name = call.ok("POST", "/v1/jobs", job())["id"]
        wait_state(call, name, "done")
        result: dict[str, Any] = call.ok("GET", f"/v1/jobs/{name}/result")
    model.server.answered.clear()
    model.server.requests.clear()
    return result


def found(result: dict[str, Any]) -> dict[str, Any]:
    """Return what a result says about the prompts, without times and retries."""
    usage = result["result"]["usage"]
    return {
        "trials": [
            [trial[name] for name in ("number", "index", "prompt", "score", "partial", "best_score", "error")]
            for trial in result["trials"]
        ],
        "best": [
            result["result"][name] for name in ("best_index", "best_prompt", "best_score", "stopped_by")
        ],
        "usage": [usage[name] for name in ("calls", "prompt_tokens", "completion_tokens")],
    }


def once(model: FleetModel) -> bool:
    """Return whether every call was answered, and none twice."""
    answered = model.server.answered
    return len(answered) == answered.total() == CALLS


@contextmanager
def running_at(
    database: str, folder: Path, model: FleetModel, answers: int
) -> Iterator[tuple[Process, str, str]]:
    """Run a job in a process, which has these answers and waits for the next; start another server.

    Yields:
        The process that runs the job, the URL of the other server, and the id of the job.
    """
    model.answer_only(answers)
    with replica(database, folder, "a", model.path) as first:
        with Client(first.url) as call:
            name = call.ok("POST", "/v1/jobs", job(name="mine"))["id"]
        wait_recorded(database, name, model, held=1, answers=answers)
        with other_server(database, model) as second:
            yield first, second, name


def wait_recorded(database: str, name: str, model: FleetModel, held: int, answers: int = 0) -> None:
    """Wait until the log has all answers (ten for each call held), and the next call waits."""
    until(lambda: model.held() == held)
    expected = answers or 10 * held
    until(lambda: recorded(database, name) == expected)
    until(lambda: progress(database, name)["trials"] == expected // EXAMPLES)


def progress(database: str, name: str) -> dict[str, Any]:
    """Return what the row of a job says about its progress."""
    ((_, _, saved, _),), *_ = rows(database, name)
    found: dict[str, Any] = json.loads(bytes(saved))
    return found


def lose_last_trial(database: str, name: str) -> None:
    """Undo the last write of a job's progress, as if its server had been killed before it."""
    import psycopg

    with psycopg.connect(database, options="-c search_path=zopo_fast") as connection:
        deleted = connection.execute(
            "DELETE FROM job_event WHERE job = %s AND kind = 'trial' AND number = "
            "(SELECT max(number) FROM job_event WHERE job = %s)",
            (name, name),
        )
        assert deleted.rowcount == 1
        found = progress(database, name)
        values = (json.dumps({**found, "trials": found["trials"] - 1}).encode(), name)
        connection.execute("UPDATE job SET saved = %s WHERE id = %s", values)


@contextmanager
def other_server(database: str, model: FleetModel) -> Iterator[str]:
    """Run a server of the fleet in a thread; the value is its URL."""
    limits = ServerLimits(heartbeat=0.2, stalled_after=1, stop_timeout=5)
    with served(database, limits, models=model.path) as server:
        yield server.url


def test_the_job_of_killed_servers_ends_elsewhere_and_no_answered_call_is_repeated(
    database: str, tmp_path: Path, model: FleetModel
) -> None:
    expected = undisturbed(tmp_path, model)
    with contextlib.ExitStack() as servers:
        name = ""
        for number, process in enumerate("ab", start=1):  # each is killed once it has answers
            model.answer_only(10)
            running = servers.enter_context(replica(database, tmp_path, process, model.path))
            if not name:
                with Client(running.url) as call:
                    name = call.ok("POST", "/v1/jobs", job(name="mine"))["id"]
            wait_recorded(database, name, model, number)
            running.kill()
        lose_last_trial(database, name)
        second = servers.enter_context(other_server(database, model))
        call = servers.enter_context(Client(second))
        response = servers.enter_context(followed(second, name))
        assert call.ok("GET", f"/v1/jobs/{name}")["state"] == "running"
        model.answer_only(CALLS)
        seen = list(events(response))
        assert wait_state(call, name, "done")["trials"] == 8
        result = call.ok("GET", f"/v1/jobs/{name}/result")
        assert found(result) == found(expected)
        assert once(model)
        assert [event["data"] for event in seen if event["event"] == "trial"] == result["trials"]
        assert [int(event["id"]) for event in seen] == list(range(1, len(seen) + 1))
        states = [event["data"]["state"] for event in seen if event["event"] == "state"]
        assert states == ["queued", "running", "running", "running", "done"]
        with followed(second, name, after=seen[4]["id"]) as rest:
            assert list(events(rest)) == seen[5:]


def test_a_server_that_was_only_slow_writes_nothing_after_its_job_was_taken_over(
    database: str, tmp_path: Path, model: FleetModel
) -> None:
    with running_at(database, tmp_path, model, 13) as (first, second, name), Client(second) as call:
        os.killpg(first.process.pid, signal.SIGSTOP)
        model.answer_only(CALLS)
        done = wait_state(call, name, "done")
        result = call.ok("GET", f"/v1/jobs/{name}/result")
        written = rows(database, name)
        model.release()  # the slow server gets its answer now
        os.killpg(first.process.pid, signal.SIGCONT)
        until(lambda: "taken over by another server" in first.log.read_text())
        with Client(first.url) as late:
            assert late.ok("GET", f"/v1/jobs/{name}") == done
            assert late.ok("GET", f"/v1/jobs/{name}/result") == result
            # The queue of the slow server works on.
            other = late.ok("POST", "/v1/jobs", job())["id"]
            wait_state(late, other, "done")
        assert rows(database, name) == written
        assert first.stop() == 0


def test_a_job_is_watched_cancelled_resumed_and_deleted_at_another_server(
    database: str, tmp_path: Path, model: FleetModel
) -> None:
    with (
        running_at(database, tmp_path, model, 13) as (first, second, name),
        Client(first.url) as there,
        Client(second) as here,
    ):
        visitor = Visitor(second)
        assert {"mine", "running"} <= set(visitor.get("/").words().split())
        assert "way" in visitor.get(f"/ui/jobs/{name}/report").text  # rebuilt from the log
        assert here("DELETE", f"/v1/jobs/{name}").status == 409
        assert here("POST", f"/v1/jobs/{name}/resume").status == 409
        assert here("GET", f"/v1/jobs/{name}/result").status == 409
        assert visitor.post(f"/ui/jobs/{name}/stop", {}).status == 303
        wait_state(there, name, "cancelled")  # without the held call, after a pause for it
        model.answer_only(CALLS)
        assert here("POST", f"/v1/jobs/{name}/cancel").status == 409
        here.ok("POST", f"/v1/jobs/{name}/resume")
        wait_state(there, name, "done")
        assert once(model)
        assert there("DELETE", f"/v1/jobs/{name}").status == 204
        assert here("GET", f"/v1/jobs/{name}").status == 404
        assert here.ok("GET", "/v1/jobs")["jobs"] == []
        assert rows(database, name) == [[], [], []]


def test_a_server_that_stops_in_order_hands_its_job_over(
    database: str, tmp_path: Path, model: FleetModel
) -> None:
    with running_at(database, tmp_path, model, 13) as (first, second, name), Client(second) as call:
        model.answer_only(CALLS)
        assert first.stop() == 0
        wait_state(call, name, "done")
        assert once(model)


def test_a_job_cancelled_while_its_server_is_gone_is_not_run_again(
    database: str, tmp_path: Path, model: FleetModel
) -> None:
    with running_at(database, tmp_path, model, 13) as (first, second, name), Client(second) as call:
        first.kill()
        assert call("POST", f"/v1/jobs/{name}/cancel").status == 202
        model.answer_only(CALLS)
        wait_state(call, name, "cancelled")
        assert len(model.server.requests) == 14
