"""Store: round trips, order, failed writes, forks, and durability."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from zopo_fast import errors
from zopo_fast.llm.types import Answer, Usage
from zopo_fast.prompts.pool import Pool
from zopo_fast.runs.result import Trial
from zopo_fast.storage.store import Event, Store

ODD = 'a "quoted" \ud83d line\u2028with\x00 control \x1b[31m and \U0001f600'
POOL = Pool.from_texts(["first", "zweitens: ä\u0301 \U0001f600", "first"], {1: 0.1})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.sqlite3"


def entry(number: int) -> dict[str, object]:
    return {"number": number, "score": 0.1 * number}


# ---- round trips --------------------------------------------------------------------------------------


def test_round_trip(path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "float16": rng.normal(size=(5, 3)).astype(np.float16),
        "transposed": rng.normal(size=(4, 6)).T,
        "empty": np.empty((0, 7)),
        "big-endian": np.arange(6, dtype=">f4"),
    }
    config = {"a": [1, None, ODD], "b": {"c": 0.1 + 0.2}}
    usage = Usage(3, 4, 1, 2, 1)
    answers = [Answer(ODD, usage, "stop"), Answer("x" * 10_000_000, usage, None), Answer("again", Usage())]
    trial = Trial(1, 0, "first", 0.5, (0.5,), usage, 0.25, 0.5, usage, None, (3,))
    with Store.create(path, config, POOL) as store:
        for name, array in arrays.items():
            store.put_array(name, array)
        store.put("name", config)
        for key, answer in zip((b"k", b"j", b"k"), answers, strict=True):
            store.add_answer(key, "model", answer)
        store.add_trial(trial.number, asdict(trial))
        assert [store.append("score", entry(i)) for i in range(3)] == [1, 2, 3]
        assert list(store.events()) == [
            Event(i + 1, "score", entry(i)) for i in range(3)
        ]  # a read sees what was appended before it
    with Store.open(path) as store:
        assert (store.config, store.get("name"), store.get("missing")) == (config, config, None)
        pool = store.pool()
        assert pool is not None
        assert (pool, pool.scores) == (POOL, POOL.scores)
        for name, array in arrays.items():
            again = store.array(name)
            assert again is not None
            assert (again.dtype, again.shape) == (array.dtype, array.shape)
            assert again.tobytes() == np.ascontiguousarray(array).tobytes()
        assert store.array("missing") is None
        assert store.answers() == {b"k": [1, 3], b"j": [2]}
        assert [store.answer(i) for i in (1, 2, 3)] == answers
        assert store.trials()[0]["examples"] == [3]
        assert store.last_seq == 3
        assert store.append("score", {}) == 4
        assert not store.is_empty


def test_a_study_with_a_charged_call_is_not_empty(path: Path) -> None:
    """Removing the study would free budget that is spent."""
    with Store.create(path, {}) as store:
        assert store.is_empty
        store.settled("free", 0, 0, 0.0)
        assert store.is_empty
        store.settled("lost", 1, 20, 0.0)
        assert not store.is_empty


def test_large_arrays_are_stored_in_parts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zopo_fast.storage.store._MAX_PART_BYTES", 100)
    array = np.random.default_rng(0).normal(size=(7, 9))
    with Store.create(path, {}) as store:
        store.put_array("Z", np.ones((50, 50)))
        store.put_array("Z", array)
        again = store.array("Z")
        assert again is not None
        assert np.array_equal(again, array)


def test_a_pool_is_written_once_and_another_one_replaces_it(path: Path) -> None:
    other = Pool.from_texts(["first", "another"])
    with Store.create(path, {}, POOL) as store:
        statements: list[str] = []
        store.sync()
        store._connection.set_trace_callback(statements.append)
        store.put_pool(Pool(POOL.prompts, POOL.counts, POOL.scores))
        store.sync()
        assert not any("pool" in statement for statement in statements)
        for pool in (other, POOL, other):
            store.put_pool(pool)
            assert store.pool() == pool
    with Store.open(path) as store:
        assert store.pool() == other
        store.put_pool(POOL)
        assert store.pool() == POOL


def test_merging_skips_existing_entries(path: Path) -> None:
    events = [Event(i + 1, "tell", entry(i)) for i in range(5)]
    with Store.create(path, {}) as store:
        store.merge_events(events[:3])
        store.merge_events(events[1:])
        store.merge_events([])
        assert list(store.events()) == events
        assert store.append("tell", {}) == 6


def test_rewind_shortens_the_log_and_leaves_the_rest(path: Path) -> None:
    answer = Answer("yes", Usage(1, 1, 1))
    with Store.create(path, {}) as store:
        for i in range(5):
            store.append("score", entry(i))
            store.add_answer(b"k", "model", answer)
        store.rewind(9)
        assert store.last_seq == 5
        store.rewind(2)
        assert store.last_seq == 2
        assert store.append("score", entry(7)) == 3
    with Store.open(path) as store:
        assert [event.data for event in store.events()] == [entry(0), entry(1), entry(7)]
        assert len(store.answers()[b"k"]) == 5
        store.rewind(0)
        assert (store.last_seq, list(store.events())) == (0, [])


def test_reservations_never_settled_count_in_full(path: Path) -> None:
    with Store.create(path, {}) as store:
        assert store.charged() == (0, 0, 0.0)
        asyncio.run(store.reserved("1", 1, 1000, 0.5))
        asyncio.run(store.reserved("2", 1, 1000, 1))
        store.settled("1", 1, 10, 0.25)
    with Store.open(path) as store:
        assert store.charged() == (2, 1010, 1.25)


@pytest.mark.parametrize("value", [{1, 2}, object(), [[]]])
def test_values_beyond_json_are_refused_and_harm_nothing(path: Path, value: object) -> None:
    if isinstance(value, list):
        value.append(value)
    with Store.create(path, {}) as store:
        with pytest.raises(errors.StoreError, match="as JSON"):
            store.append("score", {"value": value})
        assert store.append("score", {}) == 1


# ---- writes ------------------------------------------------------------------------------------------


def test_a_killed_writer_leaves_a_prefix_with_all_that_was_flushed(path: Path) -> None:
    """Each copy of the files, taken while the store writes, is what kill -9 would leave."""
    told, lasts = 0, []

    async def write(store: Store) -> None:
        nonlocal told
        for i in range(1500):
            store.append("score", {**entry(i), "text": "x" * 100})
            if i % 50 == 49:
                await store.flush(durable=i % 100 == 99)
                told = i + 1

    with Store.create(path, {}) as store:
        writing = threading.Thread(target=lambda: asyncio.run(write(store)))
        writing.start()
        while writing.is_alive():
            before = told
            target = path.with_name(f"copy{len(lasts)}.sqlite3")
            # The write-ahead log stays below its checkpoint size, so that both copies belong together.
            for name in ("-wal", ""):
                if path.with_name(path.name + name).exists():
                    shutil.copyfile(f"{path}{name}", f"{target}{name}")
            lasts.append((before, target))
            writing.join(0.01)
    held = []
    for before, target in lasts[:8]:
        with Store.open(target) as copied:
            numbers = [event.data["number"] for event in copied.events()]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= before
        held.append(len(numbers))
    with Store.open(path) as store:
        assert store.last_seq == 1500


def test_a_value_that_cannot_be_written_ends_all_writing(path: Path) -> None:
    """Even an error that is not SQLite's reaches every caller that waits; earlier entries are kept."""
    with Store.create(path, {}) as store:
        store.append("score", {})
        store.settled(2**70, 1, 1, 0.0)
        with pytest.raises(errors.StoreError, match="could not be written"):
            asyncio.run(asyncio.wait_for(store.flush(), 10))
        with pytest.raises(errors.StoreError, match="could not be written"):
            store.append("score", {})
        with pytest.raises(errors.StoreError, match="could not be written"):
            store.close()
        store.close()
    with Store.open(path) as store:
        assert store.last_seq in (0, 1)  # in the same transaction, or in an earlier one


def test_a_cancelled_flush_does_not_block_others(path: Path) -> None:
    async def work(store: Store) -> None:
        for i in range(50):
            store.append("score", entry(i))
            waiting = [asyncio.ensure_future(store.flush(durable=True)) for _ in range(4)]
            await asyncio.sleep(0)
            for one in waiting[::2]:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            assert not waiting[1].exception()
        await store.flush()

    with Store.create(path, {}) as store:
        asyncio.run(asyncio.wait_for(work(store), 30))
        assert store.last_seq == 50


def test_a_closed_store_refuses_calls(path: Path) -> None:
    store = Store.create(path, {})
    store.close()
    store.close()
    for use in (lambda: store.append("score", {}), store.sync, lambda: list(store.events())):
        with pytest.raises(errors.StoreError, match="is closed"):
            use()


def test_an_error_in_the_block_is_not_hidden_by_one_in_close(path: Path) -> None:
    def work() -> None:
        with Store.create(path, {}) as store:
            store.settled(2**70, 1, 1, 0.0)
            raise KeyError

    with pytest.raises(KeyError):
        work()


def test_a_store_that_is_never_closed_is_written_too(path: Path) -> None:
    store = Store.create(path, {})
    store.append("score", {})
    del store
    gc.collect()
    with Store.open(path) as store:
        assert store.last_seq == 1
    code = (
        "from zopo_fast.storage.store import Store; s = Store.open({!r}); "
        "[s.append('x', {{}}) for _ in range(500)]"
    )
    subprocess.run([sys.executable, "-c", code.format(str(path))], check=True, timeout=60)
    with Store.open(path) as store:
        assert store.last_seq == 501


FORK = """
    import os, sys
    from zopo_fast import errors
    from zopo_fast.storage.store import Store
    path = sys.argv[1]
    store = Store.create(path, {})
    store.append("score", {}); store.sync()
    child = os.fork()
    if not child:
        try:
            store.append("score", {})
        except errors.StoreError as error:
            assert "forked" in str(error)
            store.close()
            del store
            sys.exit(5)     # regular exit, which runs all finalizers
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    for _ in range(10):
        store.append("score", {}); store.sync()
    assert os.path.exists(path + "-wal")
    os._exit(6)             # as after a kill
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_can_neither_use_nor_harm_the_store(path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(FORK), str(path)]
    done = subprocess.run(command, timeout=60, capture_output=True, text=True, check=False)
    assert done.returncode == 6, done
    with Store.open(path) as store:
        assert store.last_seq == 11


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
def test_a_durable_flush_is_on_disk(path: Path, tmp_path: Path) -> None:
    """kill -9 cannot show this: a durable flush, and no other, synchronises the file before it returns."""
    code = """
        import asyncio, os, sys
        from zopo_fast.storage.store import Store
        async def work(store):
            say = os.open("/dev/null", os.O_WRONLY)
            for durable in (True, False, True, True):
                store.append("score", {})
                await store.flush(durable=durable)
                os.write(say, b"told " + str(durable).encode())
            await store.flush(durable=True)          # nothing is left to synchronise
            os.write(say, b"told again")
        with Store.create(sys.argv[1], {}) as store:
            store.sync()
            asyncio.run(work(store))
    """
    log = tmp_path / "strace"
    trace = ["strace", "-f", "-o", str(log), "-e", "trace=fdatasync,fsync,write"]
    command = [*trace, sys.executable, "-c", textwrap.dedent(code), str(path)]
    done = subprocess.run(command, timeout=60, capture_output=True, text=True, check=False)
    if "ptrace" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr[:100]}")
    assert done.returncode == 0, done
    calls = [line for line in log.read_text().splitlines() if "sync(" in line or '"told' in line]
    synced, seen = False, []
    for line in calls:
        if "sync(" in line:
            synced = True
        else:
            seen.append((line.split('"')[1], synced))
            synced = False
    expected = [("told True", True), ("told False", False), ("told True", True), ("told True", True)]
    assert seen == [*expected, ("told again", False)]
