"""Jobs: run, follow, cancel, interrupt and resume."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from model_stub import KEY, PROMPTS, Model
from serve_tools import SECONDS, Client, Process, packed, pool, served

from zopo_fast.errors import ConfigError
from zopo_fast.serve.config import ServerLimits
from zopo_fast.serve.jobs.events import JobEvents
from zopo_fast.serve.jobs.runner import task_of
from zopo_fast.serve.jobs.schemas import JobTask
from zopo_fast.serve.models import load_models


def job(**changes: Any) -> dict[str, Any]:
    task = {"examples": [{"input": f"q{i}", "output": "yes"} for i in range(4)], "metric": "exact_match"}
    config = {"budget": 8, "initial": 3, "stop_at_perfect": False, **changes.pop("config", {})}
    return {
        "task": task,
        "pool": PROMPTS,
        "model": "small",
        "embeddings": packed(pool(20, 4)),
        "config": config,
        **changes,
    }


def until(call: Client, name: str, *states: str) -> dict[str, Any]:
    def there() -> dict[str, Any] | None:
        shown: dict[str, Any] = call.ok("GET", f"/v1/jobs/{name}")
        return shown if shown["state"] in states else None

    return waited(there)


def waited(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if (value := condition()) is not None:
            return value
        time.sleep(0.01)
    raise AssertionError("the condition never became true")


def scores_in_log(folder: Path) -> int:
    """Count the scores in the write-ahead log of the only study below a folder."""
    (log,) = folder.rglob("study.sqlite3-wal")
    return len(set(re.findall(rb'score{"prompt": [^}]*', log.read_bytes())))


@contextmanager
def followed(url: str, name: str, after: str | None = None) -> Iterator[Any]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=SECONDS)
    headers = {} if after is None else {"Last-Event-ID": after}
    connection.request("GET", f"/v1/jobs/{name}/events", headers=headers)
    response = connection.getresponse()
    assert response.status == 200
    assert response.getheader("Content-Type") == "text/event-stream"
    try:
        yield response
    finally:
        response.close()
        connection.close()


def events(response: Any) -> Iterator[dict[str, Any]]:
    """Parse a stream of server-sent events to its end."""
    event: dict[str, Any] = {}
    for line in response:
        text = line.decode().rstrip("\n")
        if not text:
            if event:
                yield event
            event = {}
        elif not text.startswith(":"):
            name, _, value = text.partition(": ")
            event[name] = json.loads(value) if name == "data" else value


def test_a_job_runs_to_its_result_and_its_events_can_be_followed_and_resumed(
    tmp_path: Path, models: Path, model: Model
) -> None:
    with served(tmp_path / "data", models=models) as server, Client(server.url) as call:
        model.go.clear()
        made = call.ok("POST", "/v1/jobs", job(name="mine"), Idempotency_Key="k")
        assert call.ok("POST", "/v1/jobs", job(name="mine"), Idempotency_Key="k")["id"] == made["id"]
        name = made["id"]
        until(call, name, "running")
        assert call("GET", f"/v1/jobs/{name}/result").status == 409
        assert call("DELETE", f"/v1/jobs/{name}").status == 409
        with followed(server.url, name) as response:
            model.go.set()
            seen = list(events(response))
        shown = until(call, name, "done")
        assert (shown["trials"], shown["usage"]["calls"], shown["error"]) == (8, 32, None)
        result = call.ok("GET", f"/v1/jobs/{name}/result")
        assert result["result"]["best_score"] == 1.0 == shown["best_score"]
        assert PROMPTS[shown["best_index"]] == result["result"]["best_prompt"]
        assert [trial["number"] for trial in result["trials"]] == list(range(1, 9))
        trials = [event for event in seen if event["event"] == "trial"]
        assert [event["data"] for event in trials] == result["trials"]
        assert [event["data"]["state"] for event in seen if event["event"] == "state"] == [
            "queued",
            "running",
            "done",
        ]
        assert [int(event["id"]) for event in seen] == list(range(1, len(seen) + 1))
        with followed(server.url, name, after=seen[4]["id"]) as response:
            assert list(events(response)) == seen[5:]
        assert call("GET", f"/v1/jobs/{name}/events", Last_Event_ID="x").status == 422
        metrics = call.ok("GET", "/metrics").decode()
        assert 'zopo_calls_total{model="small"} 32.0' in metrics
        assert 'zopo_tokens_total{model="small",side="prompt"} 224.0' in metrics
        assert 'zopo_jobs{state="done"} 1.0' in metrics
        assert model.keys == {f"Bearer {KEY}"}
    with served(tmp_path / "data", models=models) as server, Client(server.url) as call:
        assert call.ok("GET", "/v1/jobs")["jobs"] == [shown]
        with followed(server.url, name, after=seen[4]["id"]) as response:
            assert list(events(response)) == seen[5:]
        assert call("POST", f"/v1/jobs/{name}/resume").status == 409
        assert call("DELETE", f"/v1/jobs/{name}").status == 204
        assert call("GET", f"/v1/jobs/{name}").status == 404
    assert not list((tmp_path / "data" / "jobs").iterdir())
    kept = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())
    assert KEY.encode() not in kept


def test_a_follower_that_disconnects_is_not_a_failure(
    tmp_path: Path, models: Path, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    with served(tmp_path / "data", models=models) as server, Client(server.url) as call:
        model.go.clear()
        name = call.ok("POST", "/v1/jobs", job())["id"]
        until(call, name, "running")
        with followed(server.url, name) as response:
            next(events(response))
        model.go.set()
        until(call, name, "done")
        assert "zopo_problems_total{" not in call.ok("GET", "/metrics").decode()
    assert not [record for record in caplog.records if record.message == "request failed"]


def test_a_job_stops_at_its_limits_and_its_result_names_the_limit(
    tmp_path: Path, models: Path, model: Model
) -> None:
    with served(tmp_path / "data", models=models) as server, Client(server.url) as call:
        name = call.ok("POST", "/v1/jobs", job(config={"limits": {"calls": 10}}))["id"]
        shown = until(call, name, "done")
        assert shown["usage"]["calls"] == model.calls == 10
        assert call.ok("GET", f"/v1/jobs/{name}/result")["result"]["stopped_by"] == "calls"
        # A cost limit needs prices in the models file.
        assert call("POST", "/v1/jobs", job(config={"limits": {"cost": 1}})).status == 422


def test_a_job_may_prefer_a_short_prompt(tmp_path: Path, models: Path, model: Model) -> None:
    with served(tmp_path / "data", models=models) as server, Client(server.url) as call:
        config = {"prefer_short": 1.0, "racing": False, "heldout": False}
        name = call.ok("POST", "/v1/jobs", job(config=config))["id"]
        done = until(call, name, "done")
        result = call.ok("GET", f"/v1/jobs/{name}/result")["result"]
        assert result["front"][0]["index"] == result["best_index"] == done["best_index"]
        assert result["prefer_short"] == 1.0
        assert call("POST", "/v1/jobs", job(config={"prefer_short": -1})).status == 422


def test_jobs_are_queued_and_a_cancelled_one_keeps_its_results(
    tmp_path: Path, models: Path, model: Model
) -> None:
    with (
        served(tmp_path / "data", ServerLimits(max_jobs=1, stop_timeout=5), models=models) as server,
        Client(server.url) as call,
    ):
        model.go.clear()
        first, second = (call.ok("POST", "/v1/jobs", job())["id"] for _ in range(2))
        until(call, first, "running")
        assert call.ok("GET", f"/v1/jobs/{second}")["state"] == "queued"
        assert call("POST", f"/v1/jobs/{second}/cancel").status == 202
        assert until(call, second, "cancelled")["trials"] == 0
        waited(lambda: model.calls or None)
        assert call("POST", f"/v1/jobs/{first}/cancel").status == 202
        model.go.set()
        until(call, first, "cancelled")
        assert call("POST", f"/v1/jobs/{first}/cancel").status == 409
        call.ok("POST", f"/v1/jobs/{second}/resume")
        assert until(call, second, "done")["trials"] == 8


def test_a_job_is_interrupted_by_kill_9_and_resumes(tmp_path: Path, models: Path, model: Model) -> None:
    options = ("--models", str(models))
    model.answers = 12
    with Process(tmp_path / "data", *options) as server, Client(server.url) as call:
        name = call.ok("POST", "/v1/jobs", job())["id"]
        waited(lambda: model.calls == 14 or None)  # two are in flight
        waited(lambda: scores_in_log(tmp_path / "data") == 12 or None)  # written in the background
        server.kill()
    model.over.set()
    model.answers = 10**6
    with Process(tmp_path / "data", *options) as server, Client(server.url) as call:
        assert call.ok("GET", f"/v1/jobs/{name}")["state"] == "interrupted"
        call.ok("POST", f"/v1/jobs/{name}/resume")
        shown = until(call, name, "done")
        assert shown["trials"] == 8
        # 32 calls, and the two in flight at the kill once more: no recorded answer is asked for again.
        assert model.calls == 34
        result = call.ok("GET", f"/v1/jobs/{name}/result")
        assert [trial["number"] for trial in result["trials"]] == list(range(1, 9))
        assert call.ok("GET", f"/v1/jobs/{name}")["usage"]["calls"] >= 32
        model.go.clear()
        other = call.ok("POST", "/v1/jobs", job())["id"]
        until(call, other, "running")
        with followed(server.url, other) as response:
            next(events(response))
            assert server.stop() == 0  # bounded in time, despite an open stream and a silent model
    log = server.log.read_text()
    assert KEY not in log
    assert "Say it" not in log
    with served(tmp_path / "data", models=models) as again, Client(again.url) as call:
        assert call.ok("GET", f"/v1/jobs/{other}")["state"] == "interrupted"


def test_a_refused_call_fails_the_job_and_not_the_server(tmp_path: Path, models: Path, model: Model) -> None:
    model.status = 401
    with served(tmp_path / "data", models=models) as server, Client(server.url) as call:
        name = call.ok("POST", "/v1/jobs", job())["id"]
        shown = until(call, name, "failed")
        assert "401" in shown["error"]
        assert KEY not in json.dumps(shown)
        model.status = 200
        call.ok("POST", f"/v1/jobs/{name}/resume")
        assert until(call, name, "done")["error"] is None


def test_a_job_that_cannot_run_is_refused_at_creation(tmp_path: Path, models: Path, model: Model) -> None:
    with served(tmp_path / "data", models=models) as server, Client(server.url) as call:
        for status, changes in (
            (422, {"model": "other"}),
            (422, {"judge": "http://127.0.0.1/"}),
            (422, {"embeddings": None}),
            (422, {"embeddings": packed(pool(19, 4))}),
            (422, {"pool": ["same", "same"]}),
            (422, {"base_url": "http://127.0.0.1:1"}),  # a request cannot choose the endpoint
            (422, {"task": {"examples": [{"input": "q", "output": "a"}], "metric": "os:system"}}),
            (422, {"task": {"examples": [{"input": "q", "output": "a"}], "template": "file.json"}}),
            (422, {"config": {"budget": 0}}),
        ):
            reply = call("POST", "/v1/jobs", job(**changes))
            assert reply.status == status, (changes, reply)
    assert model.calls == 0


def test_a_models_file_leaves_default_parameters_out(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(
        '[a]\nmodel = "m"\nbase_url = "http://localhost:1/v1"\nbody = { max_tokens = "unset" }\n'
        '[b]\nmodel = "m"\nbase_url = "http://localhost:1/v1"\nbody = { max_completion_tokens = 900 }\n'
        '[local]\nbody = { max_tokens = "unset", top_p = 0.5 }\n'
    )
    models = load_models(path)
    bodies = {name: models[name].client.chat_body for name in "ab"}  # type: ignore[union-attr]
    assert bodies == {"a": {"temperature": 0.0}, "b": {"temperature": 0.0, "max_completion_tokens": 900}}
    assert models["local"].body == {"temperature": 0.0, "max_tokens": None, "top_p": 0.5}


def test_a_models_file_bounds_waits_and_rates(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    bounds = "timeout = 30\nmax_wait = 90\nrequests_per_minute = 60\ntokens_per_minute = 9000\n"
    path.write_text(f'[a]\nmodel = "m"\nbase_url = "http://localhost:1/v1"\n{bounds}')
    client = load_models(path)["a"].client
    assert client is not None
    found = (client.timeout, client.max_elapsed, client.requests_per_minute, client.tokens_per_minute)
    assert found == (30, 90, 60, 9000)
    for line in bounds.splitlines():
        path.write_text(f"[local]\n{line}\n")
        with pytest.raises(ConfigError, match=r"models\.toml: \[local\]: the embedded model has only"):
            load_models(path)


def test_a_models_file_takes_prices_from_the_list(tmp_path: Path) -> None:
    pytest.importorskip("genai_prices")
    path = tmp_path / "models.toml"
    path.write_text('[a]\nmodel = "gpt-4o-mini"\nbase_url = "http://localhost:1/v1"\nprice = "auto"\n')
    assert load_models(path)["a"].prices == (0.15, 0.6)
    path.write_text('[a]\nmodel = "nonsense"\nbase_url = "http://localhost:1/v1"\nprice = "auto"\n')
    with pytest.raises(ConfigError, match=r"models\.toml: \[a\]: no price of the model 'nonsense'"):
        load_models(path)


def test_an_empty_output_is_accepted(tmp_path: Path) -> None:
    task = msgspec.convert(
        {"examples": [{"input": "q", "output": ""}, {"input": "p", "output": ["", "a"]}]}, JobTask
    )
    assert [example.outputs for example in task_of(task).train] == [("",), ("", "a")]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"examples": [{"input": "", "output": "a"}]}, JobTask)


def test_an_invalid_models_file_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.toml"
    assert list(load_models(None)) == ["local"]
    for text, match in (
        ('[a]\nmodel = "m"', "needs model and base_url"),
        ('[a]\nmodel = "m"\nbase_url = "nowhere"', "not an http"),
        ('[a]\nmodel = "m"\nbase_url = "http://h/v1"\nkey_env = "UNSET"', "UNSET is not set"),
        (f'[a]\nmodel = "m"\nbase_url = "http://h/v1"\napi_key = "{KEY}"', "unknown field"),
        ('[a]\nmodel = "m"\nbase_url = "http://h/v1"\nprice_in = 1.0', "go together"),
        (
            '[a]\nmodel = "m"\nbase_url = "http://h/v1"\nprice = "auto"\nprice_in = 1.0\nprice_out = 1.0',
            "give one",
        ),
        ('[a]\nmodel = "m"\nbase_url = "http://h/v1"\nprice = "cheap"', "price"),
        ('[local]\nmodel = "m"', "embedded model"),
        ("a = 1", "Expected `object`"),
        ("[a", "m.toml"),
    ):
        path.write_text(text)
        monkeypatch.delenv("UNSET", raising=False)
        with pytest.raises(ConfigError, match=match) as raised:
            load_models(path)
        assert KEY not in str(raised.value)


def test_events_are_bounded_and_a_gap_is_reported(tmp_path: Path) -> None:
    import asyncio

    async def read(kept: JobEvents, after: int) -> list[bytes]:
        return [text async for text in kept.follow(after, 1)]

    events = JobEvents(tmp_path / "e", max_events=3)
    for number in range(20):
        events.add("trial", number)
    events.close()
    texts = asyncio.run(read(events, 5))
    assert texts[0] == b'event: gap\ndata: {"missing":12}\n\n'
    assert [text.split(b"\n")[0] for text in texts[1:]] == [b"id: 18", b"id: 19", b"id: 20"]
    assert len((tmp_path / "e").read_bytes().splitlines()) <= 6
    again = JobEvents(tmp_path / "e", max_events=3)
    again.add("state", 1)
    again.close()
    assert asyncio.run(read(again, 20)) == [b"id: 21\nevent: state\ndata: 1\n\n"]
