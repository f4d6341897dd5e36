"""Mirror of a study's log: rebuilt files, refused writers, failed writes, and a run that moves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from resume_tools import Model, go
from time_tools import HANG

from zopo_fast.errors import StoreBusyError, StoreDamagedError, StoreError, StoreVersionError
from zopo_fast.llm.types import Answer, Usage
from zopo_fast.prompts.pool import Pool
from zopo_fast.storage import mirror as mirrors
from zopo_fast.storage.mirror import decode, encode, open_mirrored, rebuild
from zopo_fast.storage.schema import KEY_COLUMNS, insert
from zopo_fast.storage.store import Store


class Rows:
    """Mirror in memory."""

    def __init__(self) -> None:
        self.rows: dict[int, bytes] = {}
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def last(self) -> int:
        return max(self.rows, default=0)

    def write(self, number: int, data: bytes) -> None:
        assert self.gate.wait(HANG)
        if self.error is not None:
            raise self.error
        if number in self.rows:
            raise StoreBusyError("taken over")
        self.rows[number] = data

    def read(self, upto: int) -> Iterator[bytes]:
        return (self.rows[number] for number in sorted(self.rows) if number <= upto)


@pytest.fixture
def rows() -> Rows:
    return Rows()


def content(store: Store) -> dict[str, list[Any]]:
    """Return all rows of a study but the mark of its flushes."""
    everything = {
        table: store._all(f"SELECT * FROM {table} ORDER BY {key}") for table, key in KEY_COLUMNS.items()
    }
    everything["study"] = [row for row in everything["study"] if row[0] != "flushed"]
    return everything


def fill(store: Store) -> None:
    store.put_pool(Pool.from_texts(["first", "zweitens: ä\u0301 \U0001f600"], {1: 0.1}))
    store.put_array("Z", np.random.default_rng(0).normal(size=(30, 7)).astype(np.float16))
    store.put("name", {"a": [1, None, "\ud83d"]})
    for i in range(20):
        store.append("score", {"score": 0.1 * i})
        store.add_answer(b"\x00\xffkey", "model", Answer("yes \ud83d", Usage(3, 4, 1, 2, 1), "stop"))
        store.settled(f"call {i}", 1, 10, 0.1 * i)
        if i % 7 == 0:
            store.sync()
    store.rewind(18)


def test_a_file_is_rebuilt_bit_for_bit_from_the_mirror(tmp_path: Path, rows: Rows) -> None:
    with open_mirrored(tmp_path / "a", rows) as store:
        fill(store)
        store.sync()
        store.sync()  # nothing new: no row
        written = rows.last()
        assert written >= 4  # the claim, and a row a flush
        before, last = content(store), store.last_seq
    with open_mirrored(tmp_path / "b", rows) as store:
        assert rows.last() == written + 1
        assert content(store) == before
        assert store.append("score", {}) == last + 1
        store.sync()
        after = content(store)
    rebuild(tmp_path / "c", rows.read(rows.last()))
    with Store.open(tmp_path / "c") as store:
        assert content(store) == after


def test_an_earlier_writer_is_refused_once_the_study_is_taken_over(tmp_path: Path, rows: Rows) -> None:
    first = open_mirrored(tmp_path / "a", rows)
    first.append("score", {"n": 1})
    first.sync()
    with open_mirrored(tmp_path / "b", rows) as second:
        first.append("score", {"n": "lost"})
        with pytest.raises(StoreBusyError, match="taken over"):
            first.sync()
        with pytest.raises(StoreBusyError):
            first.append("score", {"n": "lost too"})
        second.append("score", {"n": 2})
        second.sync()
        assert [event.data["n"] for event in second.events()] == [1, 2]
    with pytest.raises(StoreBusyError):
        first.close()
    with Store.open(tmp_path / "a") as refused:  # the file lacks what the mirror refused
        assert [event.data["n"] for event in refused.events()] == [1]


def test_of_two_that_take_over_at_once_the_last_one_writes(
    tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Store] = []
    original = rows.last

    def last_with_a_rival() -> int:
        number = original()
        if not opened:
            monkeypatch.setattr(rows, "last", original)
            opened.append(open_mirrored(tmp_path / "rival", rows))
            opened[0].append("score", {"by": "rival"})
            opened[0].sync()
        return number

    monkeypatch.setattr(rows, "last", last_with_a_rival)
    with open_mirrored(tmp_path / "own", rows) as store:
        assert [event.data["by"] for event in store.events()] == ["rival"]
        opened[0].append("score", {})
        with pytest.raises(StoreBusyError):
            opened[0].close()


def test_a_run_that_a_later_one_has_replaced_cannot_take_over(tmp_path: Path, rows: Rows) -> None:
    rows.error = StoreBusyError("a later run has begun")  # whatever the number
    with pytest.raises(StoreBusyError, match="a later run"):
        open_mirrored(tmp_path / "a", rows)
    assert not (tmp_path / "a").exists()


def test_nothing_is_acknowledged_before_the_mirror_has_it(tmp_path: Path, rows: Rows) -> None:
    with open_mirrored(tmp_path / "a", rows) as store:
        rows.gate.clear()
        store.append("score", {})
        flushed = store._writer.flush()
        assert not flushed.done()
        assert rows.last() == 1
        rows.gate.set()
        flushed.result(HANG)
        assert rows.last() == 2


@pytest.mark.parametrize("error", [StoreError("the database is gone"), RuntimeError("the database is gone")])
def test_a_failed_mirror_ends_the_writer(tmp_path: Path, rows: Rows, error: Exception) -> None:
    store = open_mirrored(tmp_path / "a", rows)
    rows.error = error
    store.append("score", {})
    for _ in range(2):
        with pytest.raises(StoreError, match="the database is gone"):
            store.sync()
    with pytest.raises(StoreError):
        store.close()


def test_a_statement_that_fails_never_reaches_the_mirror(tmp_path: Path, rows: Rows) -> None:
    store = open_mirrored(tmp_path / "a", rows)
    store.settled("call", 2**70, 0, 0.0)  # more than an integer of SQLite holds
    with pytest.raises(StoreError):
        store.sync()
    assert rows.last() == 1
    with pytest.raises(StoreError):
        store.close()
    with open_mirrored(tmp_path / "b", rows) as again:
        assert again.charged() == (0, 0, 0.0)


def test_an_unreadable_row_is_reported(tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    good = encode([insert("events", 1, "score", "{}")])
    assert decode(good)[0][1][:2] == [1, "score"]
    for bad in (b"", good[:-5], b"x" + good):
        with pytest.raises(StoreDamagedError, match="a row is damaged"):
            rebuild(tmp_path / "a", [good, bad])
    assert not (tmp_path / "a").exists()
    monkeypatch.setattr(mirrors, "MIGRATIONS", ["", ""])
    with pytest.raises(StoreVersionError, match="schema 1; this version uses schema 2"):
        rebuild(tmp_path / "a", [good])


def test_a_run_resumes_from_the_mirror_alone_and_repeats_no_answered_call(tmp_path: Path, rows: Rows) -> None:
    whole = Model()
    undisturbed = go(tmp_path / "whole", whole)
    model = Model()
    first = open_mirrored(tmp_path / "a", rows)

    def stop(calls: int) -> None:
        if calls == 40:
            first.sync()  # these answers are acknowledged
            rows.error = StoreError("killed")  # nothing of the first machine arrives any more

    model.after = stop
    with pytest.raises(StoreError, match="killed"):
        go(first, model)
    with pytest.raises(StoreError, match="killed"):
        first.close()
    rows.error = None
    rest = Model()
    with open_mirrored(tmp_path / "b", rows) as second:
        kept = sum(map(len, second.answers().values()))
        result = go(second, rest)
    assert kept >= 39  # the fortieth was in flight
    assert len(rest.calls) == len(whole.calls) - kept
    assert (result.best_prompt, result.best_score) == (undisturbed.best_prompt, undisturbed.best_score)
