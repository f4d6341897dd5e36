"""`--grow`, `--no-grow` and `--writer-model`: what grows, what it costs, and how it resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_tools import Bench, chats, serving, write_lines
from growth_tools import answer, written

LISTS = """
[toy]
roles = ["", "Role 1:", "Role 2:", "Role 3:", "Role 4:"]
instructions = ["Do it in way number 0.", "Do it in way number 1.", "Do it in way number 2."]
formats = ["", "Format 1!", "Format 2!"]
"""


def reply(messages: Any) -> str:
    return answer(messages) if "question" in messages[-1]["content"][-40:] else written(messages)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    rows = [{"input": f"question {i}", "output": "yes"} for i in range(12)]
    write_lines(tmp_path / "task.jsonl", rows)
    (tmp_path / "lists.toml").write_text(LISTS, encoding="utf-8")
    return made


def arguments(url: str, *more: str) -> list[str]:
    return [
        "optimize", "task.jsonl", "--generate", "12", "--how", "compose", "--lists", "lists.toml", "--kind",
        "toy", "--examples", "5", "--no-comparison", "--budget", "12", "--initial", "4", "--past-perfect",
        "--model", "m", "--base-url", url, "--embedder", "endpoint:e", "--quiet", *more,
    ]  # fmt: skip


def result_of(bench: Bench, out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bench.folder / out / "result.json").read_text())
    return found


def models(server: Any) -> list[str]:
    return [request.body["model"] for request in chats(server)]


def test_a_composed_pool_grows_and_a_model_writes_on_request(bench: Bench) -> None:
    with serving(reply=reply) as server:
        done = bench.run(*arguments(server.url, "--out", "own"))
        assert done.code == 0, done
        assert {one["writer"] for one in result_of(bench, "own")["grown"]} == {"edit"}
        assert set(models(server)) == {"m"}

        fixed = bench.run(*arguments(server.url, "--out", "fixed", "--no-grow"))
        assert fixed.code == 0, fixed
        assert result_of(bench, "fixed")["grown"] == []

        before = len(chats(server))
        args = arguments(server.url, "--out", "written", "--grow", "--writer-model", "w")
        done = bench.run(*args)
        assert done.code == 0, done
        result = result_of(bench, "written")
        asked = models(server)[before:]
        assert 0 < asked.count("w") <= 6  # a tenth of 60 calls
        assert result["usage"]["calls"] + result["usage"]["cached"] >= len(asked)
        assert result["grown"]

        one = result["grown"][0]
        shown = bench.run("show", "written", "--prompt", str(one["index"]))
        assert shown.code == 0, shown
        assert f"Written by {one['writer']}" in shown.out
        parents = ", ".join(map(str, one["parents"]))
        assert f"parents: {parents}" in shown.out
        document = json.loads(bench.run("show", "written", "--json").out)
        rows = {row["index"]: row["grown"] for row in document["prompts"]}
        assert all((value is not None) == (index >= 12) for index, value in rows.items())

        calls = len(chats(server))
        again = bench.run("optimize", "--resume", "written")
        assert again.code == 0, again
        assert len(chats(server)) == calls
        assert result_of(bench, "written")["grown"] == result["grown"]


def test_options_that_cannot_work(bench: Bench) -> None:
    with serving(reply=reply) as server:
        refused = bench.run(*arguments(server.url, "--grow", "--official"))
        assert refused.code != 0
        assert "grow: " in refused.err
        nameless = bench.run(*arguments(server.url, "--writer-base-url", server.url))
        assert "--writer-base-url needs --writer-model" in nameless.err
        dry = bench.run(*arguments(server.url, "--grow", "--dry-run"))
        assert dry.code == 0, dry
        assert "at most 61 calls" in dry.out  # one embeds the pool
        assert chats(server) == []
