"""Studies that learn from earlier scores: those of a request, and those of other studies."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from serve_study_tools import reference, run_to_the_end, score
from serve_tools import Client, InThread, Process, packed, pool, served
from time_tools import HANG

import zopo_fast as zf
from zopo_fast.serve.studies import schemas, study as study_module

EARLIER: dict[str, Any] = {
    "indices": list(range(3, 18)),
    "scores": [2 * score(i) + 0.1 for i in range(3, 18)],
    "noise": [0.01] * 15,
}


def taught(*sources: dict[str, Any], **config: Any) -> zf.Zopo:
    """Return the search in process that has learnt the same."""
    opt = reference(**config)
    for source in sources:
        opt.learn_from(**source)
    return opt


def rest_of(opt: zf.Zopo) -> list[int]:
    order = []
    while not opt.done:
        order.append(opt.ask())
        opt.tell(order[-1], score(order[-1]))
    return order


def refused(call: Client, path: str, body: Any) -> tuple[int, str]:
    reply = call("POST", path, body)
    assert reply.headers["Content-Type"] == "application/problem+json"
    return reply.status, reply.body["error"]


def test_a_study_learns_from_scores_and_studies_as_a_search_in_process(call: Client) -> None:
    earlier = call.study(budget=9, seed=0)
    order = run_to_the_end(call, earlier)
    noisy, unsure, *_ = (i for i in range(30) if i not in order)
    partial = {"index": noisy, "score": 1, "noise": 0.2, "final": False}
    call.ok("POST", f"/v1/studies/{earlier}/tell", partial)
    call.ok("POST", f"/v1/studies/{earlier}/tell", {"index": unsure, "score": 9, "final": False})  # no noise
    study = call.study(budget=12)
    path = f"/v1/studies/{study}/learn"
    first = call.ok("POST", path, EARLIER)
    assert first == {"source": "source 1", "scores": 15, "sources": ["source 1"]}
    second = call.ok("POST", path, {"study": earlier})
    assert second == {"source": earlier, "scores": len(order) + 1, "sources": ["source 1", earlier]}
    third = {"indices": [0, 1, 2], "scores": [3, 1, 2], "source": "third"}
    assert call.ok("POST", path, third)["sources"] == ["source 1", earlier, "third"]
    assert call.ok("GET", f"/v1/studies/{study}")["sources"] == ["source 1", earlier, "third"]
    of_study = {
        "indices": [*order, noisy],
        "scores": [*map(score, order), 1.0],
        "noise": [0.0] * len(order) + [0.2],
        "source": earlier,
    }
    expected = taught(EARLIER, of_study, third, budget=12)
    assert expected._problem.sources == zf.Zopo.from_state(pool(), _state(call, study))._problem.sources
    order = rest_of(expected)
    assert run_to_the_end(call, study) == order
    assert order != rest_of(reference(budget=12))


def _state(call: Client, study: str) -> dict[str, Any]:
    state: dict[str, Any] = call.ok("GET", f"/v1/studies/{study}/state")["state"]
    return state


def test_a_source_with_the_same_name_is_replaced(call: Client) -> None:
    study = call.study(budget=12)
    path = f"/v1/studies/{study}/learn"
    call.ok("POST", path, {"indices": [0, 1, 2], "scores": [3, 1, 2], "source": "model A"})
    call.ok("POST", path, EARLIER | {"source": "model A"})
    assert run_to_the_end(call, study) == rest_of(taught(EARLIER, budget=12))


def test_what_a_study_learnt_survives_kill_9(tmp_path: Path) -> None:
    expected = rest_of(taught(EARLIER, budget=12))
    with Process(tmp_path / "data") as server, Client(server.url) as call:
        earlier = call.study(budget=9, seed=1)
        run_to_the_end(call, earlier)
        study, other = call.study(budget=12), call.study(budget=12, seed=1)
        path = f"/v1/studies/{study}/learn"
        answer = call.ok("POST", path, EARLIER, Idempotency_Key="learn")
        learnt = call.ok("POST", f"/v1/studies/{other}/learn", {"study": earlier}, Idempotency_Key="learn")
        server.kill()
    with Process(tmp_path / "data") as server, Client(server.url) as call:
        assert call.ok("GET", f"/v1/studies/{study}")["sources"] == ["source 1"]
        assert call.ok("POST", path, EARLIER, Idempotency_Key="learn") == answer
        order = run_to_the_end(call, study, steps=5)
        call.ok("DELETE", f"/v1/studies/{earlier}")  # the scores are the study's own now
        again = call.ok("POST", f"/v1/studies/{other}/learn", {"study": earlier}, Idempotency_Key="learn")
        assert again == learnt
        server.kill()
    with Process(tmp_path / "data") as server, Client(server.url) as call:
        (index,) = call.ok("GET", f"/v1/studies/{study}")["pending"]
        order.append(index)
        call.ok("POST", f"/v1/studies/{study}/tell", {"index": index, "score": score(index)})
        assert order + run_to_the_end(call, study) == expected
        assert len(run_to_the_end(call, other)) == 12
        assert server.stop() == 0


def test_what_a_study_learnt_is_in_its_file_after_a_checkpoint(tmp_path: Path) -> None:
    with served(tmp_path / "data") as server, Client(server.url) as call:
        study = call.study(budget=12)
        call.ok("POST", f"/v1/studies/{study}/learn", EARLIER)
        server.do(server.server.studies.store.checkpoint())
    with served(tmp_path / "data") as server, Client(server.url) as call:
        assert run_to_the_end(call, study) == rest_of(taught(EARLIER, budget=12))


def test_invalid_requests_to_learn_change_nothing(call: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    study, other = call.study(), call.study(seed=1)
    gradient, begun = call.study(search="gradient"), call.study()
    run_to_the_end(call, other, steps=5)
    call.ok("POST", f"/v1/studies/{begun}/ask")
    one = f"/v1/studies/{study}/learn"
    two = {"indices": [0, 1], "scores": [1.0, 2.0]}
    nowhere = "0" * 16
    cases: list[tuple[int, str, str, Any]] = [
        (422, "InputError", one, {}),
        (422, "InputError", one, {"indices": [1]}),
        (422, "InputError", one, {"indices": [1, 1], "scores": [1, 2]}),
        (422, "InputError", one, {"indices": [1, 2], "scores": [1]}),
        (422, "InputError", one, two | {"noise": [0.1]}),
        (422, "InputError", one, two | {"study": other}),
        (422, "InputError", one, {"study": study}),  # without a score
        (422, "UnknownIndexError", one, {"indices": [1, 30], "scores": [1, 2]}),
        (422, "UnknownStudy", one, {"study": nowhere}),
        (422, "ValidationError", one, two | {"noise": -1}),
        (422, "ValidationError", one, {"study": "../etc"}),
        (422, "ValidationError", one, {"indices": [], "scores": []}),
        (409, "EmbeddingMismatchError", one, {"study": other}),
        (422, "ConfigError", f"/v1/studies/{gradient}/learn", two),
        (409, "StudyBegun", f"/v1/studies/{begun}/learn", two),
        (404, "NotFound", f"/v1/studies/{nowhere}/learn", {"study": other}),
    ]
    for status, name, path, body in cases:
        assert refused(call, path, body) == (status, name), (path, body)
    assert call.ok("GET", f"/v1/studies/{study}")["sources"] == []
    monkeypatch.setattr(study_module, "MAX_SOURCE_SCORES", 4)
    assert refused(call, one, {"study": other}) == (409, "TooManyScores")
    monkeypatch.setattr(study_module, "MAX_SOURCES", 1)
    call.ok("POST", one, two)
    assert refused(call, one, two) == (409, "TooManySources")
    call.ok("POST", one, two | {"source": "source 1"})  # replaces the first
    assert len(_state(call, study)["sources"]) == 1


def test_a_source_has_a_limited_number_of_scores(call: Client) -> None:
    n = schemas.MAX_SOURCE_SCORES + 1
    made = call.ok("POST", "/v1/studies", {"embeddings": packed(pool(n, 2)), "config": {"budget": 9}})
    many = {"indices": list(range(n)), "scores": [0.0] * n}
    assert refused(call, f"/v1/studies/{made['id']}/learn", many) == (422, "ValidationError")


def test_learning_does_not_delay_other_studies(
    server: InThread, call: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, other = call.study(budget=12), call.study()
    loaded = server.do(server.server.studies.get(slow)).study
    assert loaded is not None
    entered, go, learn = threading.Event(), threading.Event(), loaded.optimizer.learn_from

    def slowly(*arguments: Any) -> None:
        entered.set()
        assert go.wait(HANG)
        learn(*arguments)

    monkeypatch.setattr(loaded.optimizer, "learn_from", slowly)

    def work() -> None:
        with Client(server.url) as client:
            client.ok("POST", f"/v1/studies/{slow}/learn", EARLIER)

    thread = threading.Thread(target=work)
    thread.start()
    assert entered.wait(HANG)
    assert len(run_to_the_end(call, other, steps=10)) == 10  # while the first one learns
    go.set()
    thread.join(HANG)
    assert run_to_the_end(call, slow) == rest_of(taught(EARLIER, budget=12))
