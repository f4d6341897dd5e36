"""File of the answer cache: bounded, shared, and harmless where it is damaged."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cache_tools import Model, chat, run, turns

from zopo_fast import errors
from zopo_fast.llm.answer_cache import FILE, AnswerCache
from zopo_fast.llm.cached_model import CachedModel, key_of
from zopo_fast.llm.types import Answer, Usage


def key(number: int) -> bytes:
    return key_of("m", chat(str(number)))


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path, max_bytes=10_000)
    for number in range(9):
        cache.put(key(number), Answer("x" * 900, Usage()))
    assert cache.get(key(0)) is not None
    cache.put(key(9), Answer("x" * 900, Usage()))
    kept = [number for number in range(10) if cache.get(key(number)) is not None]
    assert kept == [0, 3, 4, 5, 6, 7, 8, 9]
    count, size = cache.held()
    assert count == 8
    assert size <= 10_000
    cache.put(key(10), Answer("x" * 20_000, Usage()))  # larger than max_bytes
    assert cache.get(key(10)) is None
    assert cache.held() == (count, size)


def test_a_hit_is_free_and_knows_the_tokens_of_the_answer(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    cache.put(key(1), Answer("one", Usage(120, 7, calls=1)))
    cache.put(key(2), Answer("two", Usage(calls=1)))
    cache.put(key(2), Answer("two", Usage(calls=1)), "origin")
    found = cache.get(key(1))
    assert found is not None
    assert (found.usage, found.usage.total_tokens, found.usage.answer_tokens) == (
        Usage(cached=1),
        0,
        (120, 7),
    )
    unknown = cache.get(key(2))
    assert unknown is not None
    assert unknown.usage.answer_tokens is None
    cache.put(key(1), Answer("one", Usage(90, 5, calls=1)))
    assert cache.get(key(1)).usage.answer_tokens == (90, 5)  # type: ignore[union-attr]
    cache.put(key(1), Answer("one", Usage(calls=1)))
    assert cache.get(key(1)).usage.answer_tokens is None  # type: ignore[union-attr]


@pytest.mark.parametrize("change", ["prompt = 'many'", "completion = -1", "prompt = NULL", "prompt = 1e300"])
def test_a_broken_count_is_no_count(tmp_path: Path, change: str) -> None:
    cache = AnswerCache(tmp_path)
    cache.put(key(1), Answer("one", Usage(120, 7, calls=1)))
    with closing(sqlite3.connect(tmp_path / FILE)) as connection, connection:
        connection.execute(f"UPDATE tokens SET {change}")
    assert cache.get(key(1)).usage.answer_tokens is None  # type: ignore[union-attr]


def test_an_earlier_version_shares_the_file(tmp_path: Path) -> None:
    """It knows no counts: it writes and deletes rows of `answers` alone."""
    cache = AnswerCache(tmp_path)
    cache.put(key(1), Answer("one", Usage(120, 7, calls=1)))
    with closing(sqlite3.connect(tmp_path / FILE)) as connection, connection:
        row = connection.execute("SELECT * FROM answers").fetchone()
        connection.execute("DELETE FROM answers")
        assert connection.execute("SELECT COUNT(*) FROM tokens").fetchone()[0] == 0
        connection.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    found = cache.get(key(1))
    assert found is not None
    assert (found.text, found.usage.answer_tokens) == ("one", None)


def test_the_file_stays_bounded(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path, max_bytes=200_000)
    for number in range(2000):
        cache.put(key(number), Answer("y" * 500, Usage()))
        cache.put(key(number), Answer("z" * 500, Usage()))
    cache.close()
    assert cache.path.stat().st_size < 2 * 200_000
    smaller = AnswerCache(tmp_path, max_bytes=20_000)
    smaller.put(key(0), Answer("y", Usage()))
    assert smaller.held()[1] <= 20_000
    smaller.close()
    assert smaller.path.stat().st_size < 80_000


@pytest.mark.parametrize("value", [0, -1, 1.5, "big", True])
def test_sizes_that_cannot_be_are_refused(value: Any) -> None:
    with pytest.raises(errors.ConfigError, match="max_bytes"):
        AnswerCache("nowhere", max_bytes=value)


@pytest.mark.parametrize("change", ["answer = 'text'", "answer = X'5B5D'", "digest = NULL", "answer = NULL"])
def test_a_broken_entry_is_asked_for_again(tmp_path: Path, change: str) -> None:
    cache = AnswerCache(tmp_path)
    cache.put(key(1), Answer("one", Usage()))
    with closing(sqlite3.connect(tmp_path / FILE)) as connection, connection:
        connection.execute(f"UPDATE answers SET {change}")
    assert cache.get(key(1)) is None
    cache.put(key(1), Answer("one", Usage()))
    assert cache.get(key(1)) == Answer("one", Usage(cached=1))


def test_a_broken_file_is_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).write_bytes(b"this is not a database" * 1000)
    cache = AnswerCache(tmp_path)
    cache.put(key(1), Answer("one", Usage()))
    assert cache.get(key(1)) is not None
    assert "replaced by a new one" in caplog.text
    assert (tmp_path / FILE).with_suffix(".broken").read_bytes().startswith(b"this is not")


def test_a_cache_that_cannot_be_used_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")

    async def scenario() -> None:
        model = Model()
        cached = CachedModel(model, AnswerCache(tmp_path / "file" / "cache"))
        for text in ("a", "a", "b"):
            assert (await cached.chat(chat(text))).text == text.upper()
            await cached.written()
        assert model.asked == ["a", "a", "b"]

    with caplog.at_level(logging.WARNING):
        run(scenario())
    assert caplog.text.count("cannot be used") == 1


def test_several_processes_share_a_cache(tmp_path: Path) -> None:
    code = """
        import sys
        from zopo_fast.llm.answer_cache import AnswerCache
        from zopo_fast.llm.cached_model import key_of
        from zopo_fast.llm.types import Answer, Usage
        cache = AnswerCache(sys.argv[1], max_bytes=40_000)
        for number in range(150):
            key = key_of("m", [{"role": "user", "content": str(number)}])
            found = cache.get(key)
            assert found is None or found.text == str(number) * 50
            cache.put(key, Answer(str(number) * 50, Usage()))
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        _, told = process.communicate(timeout=60)
        assert (process.returncode, told) == (0, b"")
    count, size = AnswerCache(tmp_path, max_bytes=40_000).held()
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        assert connection.execute("SELECT COUNT(*), SUM(size) FROM answers").fetchone() == (count, size)
    assert size <= 40_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_opens_the_file_itself(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    cache.put(key(1), Answer("one", Usage()))

    process = multiprocessing.get_context("fork").Process(target=_in_child, args=(cache,))
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert cache.get(key(1)) is not None
    assert cache.get(key(2)) is not None


def _in_child(cache: AnswerCache) -> None:
    found = cache.get(key(1))
    cache.put(key(2), Answer("two", Usage()))
    os._exit(0 if found is not None and cache._file._inherited else 1)


def test_the_event_loop_does_not_wait_for_the_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        cache = AnswerCache(tmp_path)
        cache.put(key(1), Answer("one", Usage()))
        with closing(sqlite3.connect(tmp_path / FILE)) as other:
            other.execute("BEGIN EXCLUSIVE")
            call = asyncio.ensure_future(CachedModel(Model(), cache).chat(chat("1")))
            await turns()  # the event loop is not blocked
            assert not call.done()
            other.rollback()
        assert (await call).text == "one"

    run(scenario())
