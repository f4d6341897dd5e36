"""Embedding endpoint from the command line: address, key, batches, and warnings about its vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_tools import HEADER_KEY, KEY, PROMPTS, Bench, chats, serving
from fake_server import FakeServer, Request, status
from server_behaviours import batch_limit

from zopo_fast.cli.models import EmbeddingSettings, ModelSettings

EMBEDDING_KEY = "sk-embedding-0123456789abcdef"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def embeddings(server: FakeServer) -> list[Request]:
    return [r for r in server.requests if r.path.endswith("/embeddings")]


def test_another_endpoint_gets_its_own_key_and_no_secret_of_the_model(bench: Bench) -> None:
    with serving() as model, serving() as other:
        given = ["--embedding-base-url", other.url, "--headers", f'{{"X-Api-Key": "{HEADER_KEY}"}}']
        for key in (None, EMBEDDING_KEY):
            named = () if key is None else ("--embedding-key-env", "EMBEDDING_KEY")
            env = (
                {} if key is None else {"EMBEDDING_KEY": key, "ZOPO_CACHE_DIR": str(bench.folder / "second")}
            )
            done = bench.run(*bench.optimize(model, *given, *named, "--quiet"), env=env)
            assert done.code == 0, done
            sent = embeddings(other)[-1].headers
            assert sent.get("Authorization") == (None if key is None else f"Bearer {key}")
            assert not any(secret in str(sent) for secret in (KEY, HEADER_KEY))
        assert not embeddings(model)
        assert not chats(other)
        assert chats(model)[0].headers["X-Api-Key"] == HEADER_KEY


def test_the_endpoint_of_the_model_gets_its_key_and_headers(bench: Bench) -> None:
    with serving() as model:
        given = ("--embedding-base-url", model.url + "/", "--headers", f'{{"X-Api-Key": "{HEADER_KEY}"}}')
        done = bench.run(*bench.optimize(model, *given, "--quiet"))
        assert done.code == 0, done
        sent = embeddings(model)[0].headers
        assert (sent["Authorization"], sent["X-Api-Key"]) == (f"Bearer {KEY}", HEADER_KEY)


def test_batch_and_body(bench: Bench) -> None:
    with serving() as server:
        given = ("--embedding-batch", "5", "--embedding-body", '{"dimensions": 8, "user": null}')
        done = bench.run(*bench.optimize(server, *given, "--quiet"))
        assert done.code == 0, done
        assert sorted(len(r.body["input"]) for r in embeddings(server)) == [2, 5, 5]
        assert {tuple(sorted(r.body)) for r in embeddings(server)} == {("dimensions", "input", "model")}


def test_a_configuration_file_sets_the_endpoint(bench: Bench) -> None:
    with serving() as model, serving() as other:
        (bench.folder / "run.toml").write_text(
            f'embedding-base-url = "{other.url}"\nembedding-batch = 4\n'
            "embedding-body = { dimensions = 8 }\n"
        )
        done = bench.run(*bench.optimize(model, "--config", "run.toml", "--quiet"))
        assert done.code == 0, done
        assert [len(r.body["input"]) for r in embeddings(other)] == [4, 4, 4]


def test_a_batch_that_is_too_large_is_no_reason_to_stop(bench: Bench) -> None:
    plan: Any = batch_limit(4, status(422, text="batch size 12 > maximum allowed batch size 4"))
    with serving(plan=plan) as server:
        done = bench.run(*bench.optimize(server, "--quiet"))
        assert done.code == 0, done


def test_landscape_has_the_same_options(bench: Bench) -> None:
    with serving() as model, serving() as other:
        done = bench.run(
            "landscape", "task.jsonl", "--examples", "5", "--pool", "pool.txt", "--model", "m", "--base-url",
            model.url, "--embedder", "endpoint:e", "--embedding-base-url", other.url, "--embedding-batch",
            "6", "--embedding-key-env", "EMBEDDING_KEY", "--out", "out", "--quiet",
            env={"EMBEDDING_KEY": EMBEDDING_KEY},
        )  # fmt: skip
        assert done.code == 0, done
        assert [len(r.body["input"]) for r in embeddings(other)] == [6, 6]
        assert embeddings(other)[0].headers["Authorization"] == f"Bearer {EMBEDDING_KEY}"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--embedder", "minilm", "--embedding-batch", "8"), "--embedding-batch needs --embedder"),
        (("--embedding-key-env", "NO_SUCH_KEY"), "--embedding-key-env: the environment variable NO_SUCH_KEY"),
        (("--embedding-base-url", "ftp://x"), "base_url is not an http(s) URL"),
        (("--embedding-base-url", "https://api.openai.com/v1"), "--embedding-key-env names the variable"),
        (("--embedding-body", '{"input": 1}'), "must not set 'input'"),
        (("--embedding-batch", "0"), "--embedding-batch"),
    ],
)  # fmt: skip
def test_options_that_cannot_work_are_refused_before_a_call(
    bench: Bench, given: tuple[str, ...], says: str
) -> None:
    with serving() as server:
        done = bench.run(*bench.optimize(server, *given, "--out", "out"))
        assert done.code == 2, done
        assert says in done.err
        assert not server.requests
    assert not (bench.folder / "out").exists()


def test_a_key_in_the_url_is_not_stored(bench: Bench) -> None:
    with serving() as server:
        given = ("--embedding-base-url", server.url + "?key=sk-query-0123456789", "--limit-calls", "8")
        done = bench.run(*bench.optimize(server, *given, "--out", "out", "--quiet"))
        assert b"sk-query" not in (bench.folder / "out" / "study.sqlite3").read_bytes()
        assert "sk-query" not in done.text
        assert "and --embedding-base-url as before" in done.err


def test_the_embedded_model_with_an_embedding_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("EMBEDDING_KEY", EMBEDDING_KEY)
    model = ModelSettings(True, *[None] * 9, {}, {"X-Api-Key": HEADER_KEY})

    def key(base_url: str | None, key_env: str | None) -> str | None:
        opened = EmbeddingSettings(base_url, key_env, 3, {"dimensions": 4}).open("endpoint:e", model)
        client = opened._embedder.client
        assert (client.config.embedding_batch, client.config.embedding_body) == (3, {"dimensions": 4})
        assert "X-Api-Key" not in client._endpoint.headers
        return client._endpoint.headers.get("Authorization")  # type: ignore[no-any-return]

    assert key(None, None) == f"Bearer {KEY}"  # OpenAI's own endpoint
    assert key("http://localhost:8080/v1", None) is None
    assert key("http://localhost:8080/v1", "EMBEDDING_KEY") == f"Bearer {EMBEDDING_KEY}"
    assert key("https://api.openai.com/v1/", None) == f"Bearer {KEY}"


def test_the_estimate_counts_the_calls_of_the_batches(bench: Bench) -> None:
    def calls(*given: str) -> int:
        done = bench.run(*bench.optimize("http://127.0.0.1:9/v1", "--dry-run", *given))
        return int(done.out.partition("at most ")[2].split()[0])

    assert calls("--embedding-batch", "1") - calls() == len(PROMPTS) - 1


@pytest.mark.parametrize(("vector", "says"), [([1.0, 2.0], "are equal"), ([0.0, 0.0], "are zero")])
def test_vectors_without_information_are_reported_once(bench: Bench, vector: list[float], says: str) -> None:
    with serving(embed=lambda text: vector) as server:
        done = bench.run(*bench.optimize(server))
        assert done.code == 0, done
        assert done.err.count(f"Warning: all 12 embeddings {says}") == 1, done
