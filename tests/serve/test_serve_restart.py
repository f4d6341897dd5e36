"""Studies of a server over restarts, full disks, damaged files and internal errors."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from serve_study_tools import in_process, run_to_the_end, score
from serve_tools import Client, InThread, served


@pytest.mark.parametrize("search", ["improvement", "thompson", "gradient"])
def test_a_restarted_study_asks_the_same_bit_for_bit(tmp_path: Path, search: str) -> None:
    order: list[int] = []
    study = ""
    for part in range(4):
        with served(tmp_path / "data") as server, Client(server.url) as call:
            study = study or call.study(budget=24, search=search)
            if part == 2:  # part of the log in the study file, the rest in the journal
                server.do(server.server.studies.store.checkpoint())
            pending = call.ok("GET", f"/v1/studies/{study}")["pending"]
            for index in pending:
                call.ok("POST", f"/v1/studies/{study}/tell", {"index": index, "score": score(index)})
            for _ in range(6):
                (index,) = call.ok("POST", f"/v1/studies/{study}/ask")["indices"]
                order.append(index)
                if len(order) % 6:
                    call.ok("POST", f"/v1/studies/{study}/tell", {"index": index, "score": score(index)})
    assert order == in_process(budget=24, search=search)


def test_repeating_a_checkpoint_changes_nothing(tmp_path: Path) -> None:
    with served(tmp_path / "data") as server, Client(server.url) as call:
        studies = server.server.studies
        study = call.study(budget=20)
        order = run_to_the_end(call, study, steps=5)
        record = server.do(studies.get(study))
        events = list(record.tail)
        server.do(studies.store.checkpoint())
        assert record.tail == []
        record.file.append(events)  # as after a crash before the journal is truncated
        server.loop.call_soon_threadsafe(record.unload)
        (index,) = call.ok("GET", f"/v1/studies/{study}")["pending"]
        order.append(index)
        answer = call.ok(
            "POST", f"/v1/studies/{study}/tell", {"index": index, "score": score(index), "ask": 1}
        )
        assert order + answer["indices"] == in_process(budget=20)[:7]


def _limit(server: InThread, pages: int | None) -> None:
    """Limit the pages of the journal file; None: to its current size."""
    connection = server.server.studies.store._journal._connection
    if pages is None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")


def test_a_full_disk_loses_no_acknowledged_change_and_the_server_recovers(
    server: InThread, call: Client
) -> None:
    studies = [call.study(budget=20), call.study(budget=20, seed=1)]
    order = run_to_the_end(call, studies[0], steps=4)
    long = [f"{i}" * 200 for i in range(10)]
    _limit(server, None)
    full = asked = 0
    path = f"/v1/studies/{studies[1]}/ask"
    for key in long * 5:  # until the last page is full
        reply = call("POST", path, {}, Idempotency_Key=key)
        full += reply.status == 507
        asked += reply.status == 200
        if full:
            assert reply.body["error"] == "StoreFullError"
            break
    assert full
    (index,) = call.ok("GET", f"/v1/studies/{studies[0]}")["pending"]
    tell = {"index": index, "score": score(index), "ask": 1}
    failed = call("POST", f"/v1/studies/{studies[0]}/tell", tell, Idempotency_Key="again")
    assert failed.status in (200, 507)
    _limit(server, 1_000_000)
    assert call.ok("GET", f"/v1/studies/{studies[1]}")["asked"] == asked
    if failed.status == 507:
        assert call.ok("GET", f"/v1/studies/{studies[0]}")["scored"] == 4  # reset to what is on disk
    order.append(index)
    told = call.ok("POST", f"/v1/studies/{studies[0]}/tell", tell, Idempotency_Key="again")
    assert order + told["indices"] == in_process(budget=20)[:6]
    metrics = call.ok("GET", "/metrics").decode()
    assert "\nzopo_commit_failures_total 0.0" not in metrics


def test_an_internal_error_in_a_step_is_undone(server: InThread, call: Client) -> None:
    study = call.study()
    (index,) = call.ok("POST", f"/v1/studies/{study}/ask")["indices"]
    optimizer = server.do(server.server.studies.get(study)).study.optimizer
    optimizer.ask = lambda n: 1 / 0  # type: ignore[method-assign,assignment]
    reply = call("POST", f"/v1/studies/{study}/tell", {"index": index, "score": 1, "ask": 1})
    assert (reply.status, reply.body["error"]) == (500, "InternalError")
    assert "division" not in reply.body["detail"]
    shown = call.ok("GET", f"/v1/studies/{study}")
    assert (shown["scored"], shown["pending"]) == (0, [index])


def test_a_damaged_study_does_not_affect_the_others(tmp_path: Path) -> None:
    with served(tmp_path / "data") as server, Client(server.url) as call:
        bad, gone, good = call.study(), call.study(seed=1), call.study(seed=2)
        for study in (bad, gone, good):
            call.ok("POST", f"/v1/studies/{study}/ask")
    folder = tmp_path / "data" / "studies"
    connection = sqlite3.connect(folder / f"{bad}.sqlite3")
    connection.execute("UPDATE arrays SET data = zeroblob(length(data))")
    connection.commit()
    connection.close()
    (folder / f"{gone}.sqlite3").write_bytes(b"not a database, not at all" * 100)
    (folder / ".half.sqlite3.123.tmp").write_bytes(b"partial")
    with served(tmp_path / "data") as server, Client(server.url) as call:
        reply = call("POST", f"/v1/studies/{bad}/ask")
        assert (reply.status, reply.body["error"]) == (503, "StoreDamagedError")
        assert call("POST", f"/v1/studies/{gone}/ask").status == 404
        assert len(call.ok("POST", f"/v1/studies/{good}/ask")["indices"]) == 1
    assert not list(folder.glob(".*.tmp"))


def test_a_server_starts_without_loading_its_studies(tmp_path: Path) -> None:
    with served(tmp_path / "data") as server, Client(server.url) as call:
        first = call.study()
        run_to_the_end(call, first, steps=3)
    folder = tmp_path / "data" / "studies"
    whole = (folder / f"{first}.sqlite3").read_bytes()
    for number in range(199):
        (folder / f"{number:016x}.sqlite3").write_bytes(whole)
    with served(tmp_path / "data") as server, Client(server.url) as call:
        records = server.do(server.server.studies.list_all())
        assert [record.study for record in records] == [None] * 200
        assert call.ok("GET", f"/v1/studies/{first}")["scored"] == 3
        assert call("POST", f"/v1/studies/{first}/ask").status == 200
        assert sum(record.study is not None for record in records) == 1
