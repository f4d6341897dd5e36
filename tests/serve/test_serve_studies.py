"""Studies over HTTP: operations, refusals, limits and idempotency."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import serving
from serve_study_tools import in_process, reference, run_to_the_end, score
from serve_tools import Client, InThread, packed, pool, served
from time_tools import HANG

import zopo_fast as zf
from zopo_fast.errors import ConfigError
from zopo_fast.serve.config import ServeConfig, ServerLimits
from zopo_fast.serve.server import create_app
from zopo_fast.serve.studies import study as study_module


def test_a_study_asks_the_same_as_a_search_in_process(call: Client) -> None:
    study = call.study(budget=20)
    assert run_to_the_end(call, study) == in_process(budget=20)
    shown = call.ok("GET", f"/v1/studies/{study}")
    assert (shown["asked"], shown["scored"], shown["pending"], shown["done"]) == (20, 20, [], True)
    best = call.ok("GET", f"/v1/studies/{study}/best")
    assert best == shown["best"]
    assert best["score"] == max(score(i) for i in in_process(budget=20))


def test_ask_tell_and_discard_one_by_one(call: Client) -> None:
    study = call.study(budget=6)
    optimizer = reference(budget=6)
    first = call.ok("POST", f"/v1/studies/{study}/ask", {"n": 4})["indices"]
    assert first == optimizer.ask(4)
    call.ok("POST", f"/v1/studies/{study}/discard", {"index": first[1]})
    optimizer.discard(first[1])
    tell = {"index": first[0], "score": 0.25, "noise": 0.01, "final": False}
    assert call.ok("POST", f"/v1/studies/{study}/tell", tell) == {
        "indices": [],
        "done": False,
        "prompts": None,
    }
    optimizer.tell(first[0], 0.25, 0.01, False)
    call.ok("POST", f"/v1/studies/{study}/tell", {"index": 29, "score": 1})  # prior data
    optimizer.tell(29, 1.0)
    assert call.ok("POST", f"/v1/studies/{study}/ask", {"n": 9})["indices"] == optimizer.ask(9)
    assert call("POST", f"/v1/studies/{study}/ask").body["error"] == "NothingToAsk"
    shown = call.ok("GET", f"/v1/studies/{study}")
    assert shown["pending"] == optimizer.pending
    assert (shown["asked"], shown["scored"]) == (6, 2)
    state = call.ok("GET", f"/v1/studies/{study}/state")["state"]
    again = zf.Zopo.from_state(pool(), state)
    assert again.pending == optimizer.pending


def test_asks_return_the_texts(call: Client) -> None:
    texts = [f"Answer in {n} words." for n in range(12)]
    wanted = {"texts": texts, "embeddings": pool(12).tolist(), "config": {"budget": 3, "initial": 2}}
    made = call.ok("POST", "/v1/studies", {**wanted, "name": "words"})
    assert (made["name"], made["texts"], made["dtype"]) == ("words", True, "float64")
    answer = call.ok("POST", f"/v1/studies/{made['id']}/ask", {"n": 2})
    assert answer["prompts"] == [texts[i] for i in answer["indices"]]
    assert call.ok("GET", f"/v1/studies/{made['id']}/state")["texts"] == texts


def test_the_embedder_may_be_at_an_endpoint_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ZOPO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-chat-0123456789")
    monkeypatch.setenv("EMBEDDING_KEY", "sk-embedding-0123456789")
    with serving(embed=lambda text: [1.0, 2.0]) as endpoint:
        settings: dict[str, Any] = {
            "embedder": "endpoint:e", "embedding_base_url": endpoint.url, "embedding_batch": 2,
            "embedding_body": {"dimensions": 2, "user": None},
        }  # fmt: skip
        for number, key in enumerate((None, "EMBEDDING_KEY")):
            data = tmp_path / f"data{number}"
            with served(data, **settings, embedding_key_env=key) as server, Client(server.url) as call:
                call.ok("POST", "/v1/studies", {"texts": [f"{word} {number}" for word in ("a", "b", "c")]})
        sent = [(len(r.body["input"]), r.headers.get("Authorization")) for r in endpoint.requests]
        assert sorted(sent[:2]) == [(1, None), (2, None)]
        assert {key for _, key in sent[2:]} == {"Bearer sk-embedding-0123456789"}
        assert set(endpoint.requests[0].body) == {"model", "input", "dimensions"}
    assert "all 3 embeddings are equal" in caplog.text
    with pytest.raises(ConfigError, match="embedding_batch needs the embedder endpoint:MODEL"):
        ServeConfig(data=tmp_path, embedder="local", embedding_batch=2)
    with pytest.raises(ConfigError, match="NO_SUCH_KEY is not set"):
        create_app(
            ServeConfig(data=tmp_path / "none", embedder="endpoint:e", embedding_key_env="NO_SUCH_KEY")
        )


def test_texts_alone_need_an_embedder_and_are_merged(tmp_path: Path, call: Client) -> None:
    texts = ["One.", "Two.", " One. "]
    reply = call("POST", "/v1/studies", {"texts": texts})
    assert reply.status == 422
    assert "--embedder" in reply.body["detail"]

    class Embedder:
        async def embed(self, texts: list[str]) -> Any:
            return np.array([[len(text), ord(text[0])] for text in texts], dtype=np.float32)

        async def aclose(self) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zopo_fast.prompts.embedders.resolve", lambda spec, **_: Embedder())
        with served(tmp_path / "other", embedder="mine") as other, Client(other.url) as client:
            made = client.ok("POST", "/v1/studies", {"texts": texts, "config": {"budget": 2, "initial": 1}})
            assert (made["prompts"], made["dimension"]) == (2, 2)


# ---- refusals ----------------------------------------------------------------------------------------


def test_an_invalid_request_gets_a_problem_with_the_name_of_the_error(call: Client) -> None:
    study = call.study()
    (index,) = call.ok("POST", f"/v1/studies/{study}/ask")["indices"]
    one = f"/v1/studies/{study}"
    call.ok("POST", f"{one}/tell", {"index": index, "score": 1})
    rows = pool(4, 3).tolist()
    cases: list[tuple[int, str, str, str, Any]] = [
        (409, "ConflictingScoreError", "POST", f"{one}/tell", {"index": index, "score": 2}),
        (422, "UnknownIndexError", "POST", f"{one}/tell", {"index": 30, "score": 2}),
        (422, "UnknownIndexError", "POST", f"{one}/discard", {"index": index}),
        (422, "ValidationError", "POST", f"{one}/tell", {"index": -1, "score": 2}),
        (422, "ValidationError", "POST", f"{one}/tell", {"index": 1, "score": 2, "nois": 1}),
        (422, "ValidationError", "POST", f"{one}/tell", {"index": 1, "score": "2"}),
        (422, "ValidationError", "POST", f"{one}/tell", {"index": True, "score": 2}),
        (422, "ValidationError", "POST", f"{one}/tell", {"index": 1, "score": 2, "noise": -1}),
        (422, "ValidationError", "POST", f"{one}/tell", b'{"index": 1, "score": 1e999}'),
        (400, "NotJSON", "POST", f"{one}/tell", b'{"index": 1, "score": NaN}'),
        (422, "ValidationError", "POST", f"{one}/tell", b"[" * 100_000),
        (400, "NotJSON", "POST", f"{one}/tell", b"\xff\xfe"),
        (400, "NoBody", "POST", f"{one}/tell", None),
        (400, "UnexpectedBody", "GET", one, {}),
        (422, "ValidationError", "POST", f"{one}/ask", {"n": 0}),
        (404, "NotFound", "POST", "/v1/studies/0000000000000000/ask", {}),
        (404, "NotFound", "GET", "/v1/studies/..%2f..%2fetc", None),
        (404, "NotFound", "GET", "/v1/nothing", None),
        (405, "MethodNotAllowed", "PUT", one, None),
        (422, "ConfigError", "POST", "/v1/studies", {}),
        (422, "ConfigError", "POST", "/v1/studies", {"embeddings": rows, "config": {"initial": [7]}}),
        (422, "ArrayError", "POST", "/v1/studies", {"embeddings": [[1.0, 2.0], [3.0]]}),
        (422, "ArrayError", "POST", "/v1/studies", {"embeddings": packed(pool(4, 3)) | {"shape": [4, 4]}}),
        (422, "PoolError", "POST", "/v1/studies", {"embeddings": rows, "texts": ["a", "b", " ", "d"]}),
        (422, "ConfigError", "POST", "/v1/studies", {"embeddings": rows, "texts": ["a", "b"]}),
        (422, "ConfigError", "POST", "/v1/studies", {"embeddings": rows, "texts": ["a", "b", "c", "c "]}),
        (422, "ValidationError", "POST", "/v1/studies", {"embeddings": rows, "config": {"power": 3}}),
        (422, "ValidationError", "GET", "/v1/studies?limit=0", None),
        (422, "ValidationError", "GET", "/v1/studies?limit=1&limit=2", None),
    ]  # fmt: skip
    infinite = pool(4, 3)
    infinite[2, 1] = np.inf
    cases.append((422, "ArrayError", "POST", "/v1/studies", {"embeddings": packed(infinite)}))
    before = call.ok("GET", one)
    for status, name, method, path, body in cases:
        reply = call(method, path, body)
        assert (reply.status, reply.body["error"]) == (status, name), (method, path, reply.body)
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert reply.body["type"] == f"urn:zopo-fast:{name}"
    assert call.ok("GET", one) == before  # no refused request changed anything


def test_bodies_other_than_plain_json_are_refused(call: Client) -> None:
    study = call.study()
    path = f"/v1/studies/{study}/tell"
    assert call("POST", path, {"index": 1, "score": 1}, Content_Type="text/plain").status == 415
    assert call("POST", path, {"index": 1, "score": 1}, Content_Encoding="gzip").status == 415
    assert (
        call("POST", path, {"index": 1, "score": 1}, Content_Type="application/json; charset=utf-8").status
        == 200
    )


def test_the_limits_hold(tmp_path: Path) -> None:
    limits = ServerLimits(
        max_body=20_000, max_pool=40, max_studies=2, max_pending=3, max_events=10, max_scores=3
    )
    with served(tmp_path / "data", limits) as server, Client(server.url) as call:
        too_long = call("POST", "/v1/studies", {"texts": ["x" * 30_000]})
        assert (too_long.status, too_long.body["error"]) == (413, "BodyTooLarge")
    with served(tmp_path / "data", limits) as server, Client(server.url) as call:
        reply = call("POST", "/v1/studies", {"embeddings": packed(pool(41, 2))})
        assert (reply.status, reply.body["error"]) == (413, "PoolTooLarge")
        studies = [call.study(), call.study(seed=1)]
        reply = call("POST", "/v1/studies", {"embeddings": packed(pool())})
        assert (reply.status, reply.body["error"]) == (429, "TooManyStudies")
        one = f"/v1/studies/{studies[0]}"
        reply = call("POST", f"{one}/ask", {"n": 4})
        assert (reply.status, reply.body["error"]) == (429, "TooManyPending")
        indices = call.ok("POST", f"{one}/ask", {"n": 3})["indices"]
        # A tell that frees one place can ask for one prompt; asking for two has no effect at all.
        tell = {"index": indices[0], "score": 1}
        assert call("POST", f"{one}/tell", {**tell, "ask": 2}).status == 429
        assert call.ok("GET", one)["scored"] == 0
        indices += call.ok("POST", f"{one}/tell", {**tell, "ask": 1})["indices"]
        for index in indices[1:3]:
            call.ok("POST", f"{one}/tell", {"index": index, "score": 1})
        reply = call("POST", f"{one}/tell", {"index": indices[3], "score": 1})
        assert (reply.status, reply.body["error"]) == (409, "TooManyScores")
        again = [call("POST", f"{one}/tell", {"index": indices[0], "score": 1}) for _ in range(5)]
        assert (again[0].status, again[-1].status, again[-1].body["error"]) == (200, 409, "LogFull")


def test_a_slow_body_times_out(tmp_path: Path) -> None:
    import socket

    with served(tmp_path / "data", ServerLimits(body_timeout=0.2, stop_timeout=5)) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=15) as connection:
            connection.sendall(
                b"POST /v1/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 1000\r\n\r\n{"
            )
            assert b" 408 " in connection.recv(4096).split(b"\r\n")[0]


# ---- several studies and clients ---------------------------------------------------------------------


def test_studies_are_listed_in_pages_and_deleted_permanently(tmp_path: Path) -> None:
    with served(tmp_path / "data") as server, Client(server.url) as call:
        made = sorted(call.study(seed=seed) for seed in range(5))
        first = call.ok("GET", "/v1/studies?limit=3")
        assert [entry["id"] for entry in first["studies"]] == made[:3]
        second = call.ok("GET", f"/v1/studies?limit=3&after={first['next']}")
        assert ([entry["id"] for entry in second["studies"]], second["next"]) == (made[3:], None)
        call.ok("POST", f"/v1/studies/{made[0]}/ask")
        assert call("DELETE", f"/v1/studies/{made[0]}").status == 204
        assert call("DELETE", f"/v1/studies/{made[0]}").status == 404
        assert call("POST", f"/v1/studies/{made[0]}/ask").status == 404
    assert sorted(path.stem for path in (tmp_path / "data" / "studies").iterdir()) == made[1:]
    with served(tmp_path / "data") as server, Client(server.url) as call:
        assert [entry["id"] for entry in call.ok("GET", "/v1/studies")["studies"]] == made[1:]


def test_many_clients_share_one_study(server: InThread, call: Client) -> None:
    study = call.study(m=200, budget=120)
    asked: list[int] = []
    problems: list[Any] = []

    def work() -> None:
        with Client(server.url) as client:
            while True:
                reply = client("POST", f"/v1/studies/{study}/ask")
                if reply.status != 200:
                    problems.append(reply.body["error"])
                    return
                (index,) = reply.body["indices"]
                asked.append(index)
                client.ok("POST", f"/v1/studies/{study}/tell", {"index": index, "score": score(index)})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == ["NothingToAsk"] * 4
    assert len(asked) == len(set(asked)) == 120
    assert call.ok("GET", f"/v1/studies/{study}")["scored"] == 120


def test_a_large_pool_does_not_delay_other_studies(
    server: InThread, call: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "MIN_LARGE_POOL", 50)
    large, small = call.study(m=100, budget=50), call.study()
    record = server.do(server.server.studies.get(large))
    entered, go = threading.Event(), threading.Event()
    assert record.study is not None
    ask = record.study.optimizer.ask

    def slow(n: int) -> Any:
        entered.set()
        assert go.wait(HANG)
        return ask(n)

    monkeypatch.setattr(record.study.optimizer, "ask", slow)
    asked: list[Any] = []

    def work() -> None:
        with Client(server.url) as client:
            asked.append(client.ok("POST", f"/v1/studies/{large}/ask")["indices"])

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert entered.wait(HANG)
    assert len(run_to_the_end(call, small, steps=10)) == 10  # while the large one is busy
    go.set()
    for thread in threads:
        thread.join(HANG)
    assert sorted(asked, key=str) == sorted(([i] for i in reference(m=100, budget=50).ask(2)), key=str)


# ---- idempotency keys --------------------------------------------------------------------------------


def test_a_retry_with_its_key_has_no_second_effect_even_after_a_restart(tmp_path: Path) -> None:
    create = {"embeddings": packed(pool()), "config": {"budget": 9, "initial": 3}}
    with served(tmp_path / "data") as server, Client(server.url) as call:
        made = call.ok("POST", "/v1/studies", create, Idempotency_Key="make")
        assert call.ok("POST", "/v1/studies", create, Idempotency_Key="make") == made
        one = f"/v1/studies/{made['id']}"
        (index,) = call.ok("POST", f"{one}/ask", {}, Idempotency_Key="a")["indices"]
        assert call.ok("POST", f"{one}/ask", {}, Idempotency_Key="a")["indices"] == [index]
        tell = {"index": index, "score": 0.5, "ask": 2}
        told = call.ok("POST", f"{one}/tell", tell, Idempotency_Key="t")
        assert call.ok("POST", f"{one}/tell", tell, Idempotency_Key="t") == told
        for path, body, key in (
            (f"{one}/tell", {**tell, "ask": 1}, "t"),
            (f"{one}/ask", {}, "t"),
            ("/v1/studies", {**create, "name": "x"}, "make"),
        ):
            reply = call("POST", path, body, Idempotency_Key=key)
            assert (reply.status, reply.body["error"]) == (422, "IdempotencyKeyReused")
        assert call("POST", f"{one}/tell", tell, Idempotency_Key="x" * 256).status == 400
        before = call.ok("GET", one)
        assert (before["asked"], before["scored"]) == (3, 1)
    with served(tmp_path / "data") as server, Client(server.url) as call:
        assert call.ok("POST", f"{one}/tell", tell, Idempotency_Key="t") == told
        again = call.ok("POST", "/v1/studies", create, Idempotency_Key="make")
        assert again == before  # the same study, in its current state
        assert len(call.ok("GET", "/v1/studies")["studies"]) == 1
