"""Cache of embeddings."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zopo_fast.errors import ArrayError, InputError
from zopo_fast.llm.types import Usage
from zopo_fast.prompts import embedders as embed
from zopo_fast.prompts.embedders import CachedEmbedder


class Fake:
    """Embeds a text as its length and its first character; records the requests."""

    def __init__(self, name: str = "fake", width: int = 2) -> None:
        self.name = name
        self.width = width
        self.asked: list[list[str]] = []
        self.open = True

    async def embed(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        self.asked.append(list(texts))
        rows = [[len(text) + 0.1, ord(text[0]), *range(self.width)][: self.width] for text in texts]
        return np.array(rows, dtype=np.float32)

    async def aclose(self) -> None:
        self.open = False


def run(embedder: embed.Embedder, *texts: str) -> np.ndarray[Any, Any]:
    return asyncio.run(embedder.embed(texts))


def rows(folder: Path, *, change: str = "") -> list[Any]:
    with closing(sqlite3.connect(folder / "embeddings-1.sqlite3")) as connection, connection:
        if change:
            connection.execute(change)
        return connection.execute("SELECT key, vector FROM embeddings ORDER BY key").fetchall()


def test_only_missing_texts_are_embedded(tmp_path: Path) -> None:
    fake = Fake()
    first = run(CachedEmbedder(fake, tmp_path), "b", "aa", "b")
    assert fake.asked == [["b", "aa"]]
    np.testing.assert_array_equal(first, asyncio.run(Fake().embed(["b", "aa", "b"])))
    again = run(CachedEmbedder(fake, tmp_path), "aa", "ccc", "b")
    assert fake.asked == [["b", "aa"], ["ccc"]]
    np.testing.assert_array_equal(again, asyncio.run(Fake().embed(["aa", "ccc", "b"])))
    assert again.dtype == np.float32
    assert again.flags.c_contiguous
    run(CachedEmbedder(fake, tmp_path), "ccc")
    assert len(fake.asked) == 2
    assert run(CachedEmbedder(fake, tmp_path)).shape == (0, 0)


def test_embedders_do_not_share_entries(tmp_path: Path) -> None:
    run(CachedEmbedder(Fake("one"), tmp_path), "a")
    other = Fake("other", width=3)
    assert run(CachedEmbedder(other, tmp_path), "a").shape == (1, 3)
    assert other.asked == [["a"]]


@pytest.mark.parametrize(
    "value",
    ["zeroblob(8)", "substr(vector, 1, 4)", "substr(vector, 1, 7)", "NULL", "'text'", "X''"],
)
def test_a_broken_entry_is_computed_again(tmp_path: Path, value: str) -> None:
    good = run(CachedEmbedder(Fake(), tmp_path), "a", "bb")
    kept = rows(tmp_path)
    rows(
        tmp_path,
        change=f"UPDATE embeddings SET vector = {value} WHERE key = (SELECT min(key) FROM embeddings)",
    )
    fake = Fake()
    np.testing.assert_array_equal(run(CachedEmbedder(fake, tmp_path), "a", "bb"), good)
    assert [len(asked) for asked in fake.asked] == [1]
    assert rows(tmp_path) == kept


def test_a_broken_file_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "embeddings-1.sqlite3"
    path.write_bytes(b"this is not a database" * 100)
    fake = Fake()
    for _ in range(2):
        assert run(CachedEmbedder(fake, tmp_path), "a").shape == (1, 2)
    assert fake.asked == [["a"]]
    assert "replaced by a new one" in caplog.text
    assert path.with_suffix(".broken").read_bytes().startswith(b"this is not")


def test_a_cache_that_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    embedder = CachedEmbedder(Fake(), tmp_path / "file" / "cache")
    with caplog.at_level(logging.WARNING):
        assert run(embedder, "a", "bb").shape == (2, 2)
    assert "cannot be used" in caplog.text
    # SQLite refuses to write, although the folder permits it
    (tmp_path / "embeddings-1.sqlite3").mkdir()
    caplog.clear()
    assert run(CachedEmbedder(Fake(), tmp_path), "a").shape == (1, 2)
    assert "cannot be used" in caplog.text


def test_cached_vectors_of_another_length_are_computed_again(tmp_path: Path) -> None:
    run(CachedEmbedder(Fake(width=2), tmp_path), "a", "b")
    wider = Fake(width=3)
    assert run(CachedEmbedder(wider, tmp_path), "a", "c").shape == (2, 3)
    assert wider.asked == [["c"], ["a", "c"]]
    assert run(CachedEmbedder(wider, tmp_path), "a", "c").shape == (2, 3)
    assert len(wider.asked) == 2


def test_embeddings_before_a_failure_are_kept(tmp_path: Path) -> None:
    class Failing(Fake):
        async def embed(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
            if self.asked:
                raise ConnectionError("gone")
            return await super().embed(texts)

    texts = [f"text {i}" for i in range(300)]
    with pytest.raises(ConnectionError):
        run(CachedEmbedder(Failing(), tmp_path), *texts)
    fake = Fake()
    assert run(CachedEmbedder(fake, tmp_path), *texts).shape == (300, 2)
    assert [len(asked) for asked in fake.asked] == [300 - 256]


def test_several_processes_share_a_cache(tmp_path: Path) -> None:
    code = f"""
        import asyncio, numpy as np, sys
        from zopo_fast.prompts.embedders import CachedEmbedder
        class Fake:
            name = "fake"
            async def embed(self, texts):
                return np.array([[len(text), 1] for text in texts], dtype=np.float32)
        for i in range(20):
            texts = ["x" * (j + 1) for j in range(i * 5, i * 5 + 20)]
            found = asyncio.run(CachedEmbedder(Fake(), {str(tmp_path)!r}).embed(texts))
            assert found[:, 0].tolist() == [len(text) for text in texts]
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=60)[1] for process in running] == ["", "", ""]
    assert len(rows(tmp_path)) == 115


def test_closing_the_cache_closes_its_embedder(tmp_path: Path) -> None:
    fake = Fake()
    asyncio.run(CachedEmbedder(fake, tmp_path).aclose())
    assert not fake.open


def test_the_cache_reports_the_usage_of_its_embedder(tmp_path: Path) -> None:
    class Billed(Fake):
        @property
        def usage(self) -> Usage:
            return Usage(7, calls=len(self.asked))

    cached = CachedEmbedder(Billed(), tmp_path)
    for texts in (["a"], ["a"], ["a", "b"]):
        run(cached, *texts)
    assert cached.usage == Usage(7, calls=2)
    assert CachedEmbedder(Fake(), tmp_path).usage == Usage()


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (np.zeros((3, 2)), "shape"),
        (np.zeros(2), "shape"),
        (np.zeros((2, 0)), "shape"),
        (np.array([[0.0, 1.0], [np.nan, 0.0]]), "row 1"),
        (np.array([[1e300, 1.0], [0.0, 0.0]]), "row 0"),
        ([[1.0], [1.0, 2.0]], "not an array"),
        ([["a"], ["b"]], "not an array"),
        (None, "shape|not an array"),
    ],
)
def test_the_array_of_an_embedder_is_checked(tmp_path: Path, given: object, word: str) -> None:
    class Bad:
        name = "bad"

        async def embed(self, texts: Sequence[str]) -> Any:
            return given

    with pytest.raises(ArrayError, match=f"'bad'.*({word})"):
        run(CachedEmbedder(Bad(), tmp_path), "a", "b")
    assert rows(tmp_path) == []


def test_texts_are_checked(tmp_path: Path) -> None:
    for texts in ("abc", ["a", 3]):
        with pytest.raises(InputError, match="strings"):
            asyncio.run(CachedEmbedder(Fake(), tmp_path).embed(texts))  # type: ignore[arg-type]
