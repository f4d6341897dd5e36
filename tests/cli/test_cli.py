"""Whole runs of the real command against a server on this machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from cli_tools import (
    EXAMPLES,
    FILES,
    HEADER_KEY,
    HELDOUT,
    KEY,
    PROMPTS,
    QUERY_KEY,
    Bench,
    Done,
    answer,
    chats,
    read_lines,
    serving,
    write_lines,
)
from fake_server import FakeServer

INCUMBENT = "Do it in way number 3."


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


class Whole(NamedTuple):
    bench: Bench
    done: Done
    server: FakeServer
    out: Path
    trials: list[dict[str, Any]]
    result: dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """One run that many tests inspect."""
    bench = Bench(tmp_path_factory.mktemp("whole"))
    with serving() as server:
        args = bench.optimize(
            f"{server.url}?api-key={QUERY_KEY}", "--out", "runs/one", "--incumbent", INCUMBENT,
            "--concurrency", "1", "--headers", json.dumps({"X-Api-Key": HEADER_KEY}),
        )  # fmt: skip
        done = bench.run(*args)
    out = bench.folder / "runs" / "one"
    assert done.code == 0, done
    return Whole(
        bench,
        done,
        server,
        out,
        read_lines(out / "trials.jsonl"),
        json.loads((out / "result.json").read_text()),
    )


# ---- a whole run -------------------------------------------------------------------------------------


def score(prompt: str, question: str) -> float:
    return float(answer([{"content": f"{prompt} {question}"}]) == "yes")


def test_the_folder_holds_the_files_and_they_agree(whole: Whole) -> None:
    assert sorted(path.name for path in whole.out.iterdir()) == sorted(FILES)
    best = max(whole.trials, key=lambda trial: trial["score"])
    assert (
        (whole.out / "best_prompt.txt").read_text()
        == best["prompt"] + "\n"
        == whole.result["best_prompt"] + "\n"
    )
    assert whole.result["best_score"] == best["score"]
    assert (whole.out / "curve.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (whole.result["stopped_by"], whole.result["error"]) == ("budget", None)
    assert whole.result["settings"]["budget"] == 6


def test_trials_are_the_budget_and_their_scores_are_right(whole: Whole) -> None:
    assert [trial["number"] for trial in whole.trials] == [1, 2, 3, 4, 5, 6]
    assert len({trial["prompt"] for trial in whole.trials}) == 6
    trained = [re.findall(r"question \d+", r.key)[0] for r in chats(whole.server)[:EXAMPLES]]
    assert len(set(trained)) == EXAMPLES
    for trial in whole.trials:
        expected = [score(trial["prompt"], question) for question in trained]
        assert sorted(trial["scores"]) == sorted(expected)
        assert trial["score"] == pytest.approx(np.mean(expected))
        assert PROMPTS[trial["index"]] == trial["prompt"]
        assert trial["usage"]["calls"] == EXAMPLES


def test_calls_and_tokens_are_those_the_server_saw(whole: Whole) -> None:
    seen = chats(whole.server)
    prompts = {held["prompt"] for held in whole.result["heldout"]}
    assert len(seen) == 6 * EXAMPLES + len(prompts) * HELDOUT
    asked = sum(len(m["content"].split()) for r in seen for m in r.body["messages"])
    embedded = [r for r in whole.server.requests if r.path.endswith("/embeddings")]
    words = asked + sum(len(text.split()) for r in embedded for text in r.body["input"])
    calls = len(seen) + len(embedded)  # usage includes the embedding of the pool
    usage = whole.result["usage"]
    assert (usage["calls"], usage["prompt_tokens"], usage["completion_tokens"]) == (
        calls,
        words,
        len(seen),
    )
    assert f"Calls: {calls}, tokens: {words} in, {len(seen)} out" in whole.done.out
    assert f"search: {6 * EXAMPLES}/{6 * EXAMPLES} examples" in whole.done.err
    assert "best 0." in whole.done.err
    assert " tokens, " in whole.done.err


def test_the_incumbent_is_scored_first_and_compared_with_the_winner(whole: Whole) -> None:
    assert whole.server.max_in_flight == 1  # --concurrency
    assert all(INCUMBENT in r.key for r in chats(whole.server)[:EXAMPLES])
    assert whole.trials[0]["prompt"] == INCUMBENT
    held = {row["role"]: row for row in whole.result["heldout"]}
    assert set(held) == {"winner", "seed prompt", "pool median"}
    assert held["seed prompt"]["prompt"] == INCUMBENT
    for role, row in held.items():
        assert len(row["scores"]) == HELDOUT
        line = next(line for line in whole.done.out.splitlines() if line.strip().startswith(role))
        assert f"{row['train_score']:.3f}" in line
        assert f"{row['score']:.3f}" in line
        if role == "winner":
            continue
        ahead = row["winner_ahead"]
        difference = np.subtract(held["winner"]["scores"], row["scores"])
        assert ahead["mean"] == pytest.approx(difference.mean())
        assert ahead["low"] <= ahead["mean"] <= ahead["high"]
        assert f"{ahead['mean']:+.3f} [{ahead['low']:+.3f}, {ahead['high']:+.3f}]" in line
    winner = next(row for row in held.values() if row["role"] == "winner")
    assert winner["prompt"] == whole.result["best_prompt"]


def test_keys_are_sent_and_never_shown(whole: Whole) -> None:
    assert {r.path for r in whole.server.requests} == {"/v1/embeddings", "/v1/chat/completions"}
    for request in whole.server.requests:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        assert request.headers["X-Api-Key"] == HEADER_KEY
    shown = whole.done.text + "".join(
        (whole.out / name).read_bytes().decode("utf-8", "replace") for name in FILES if name[-3:] != "png"
    )
    for key in (KEY, QUERY_KEY, HEADER_KEY):
        assert key not in shown


def test_a_second_run_into_the_folder_is_refused_and_harms_nothing(whole: Whole) -> None:
    before = {name: (whole.out / name).read_bytes() for name in FILES}
    done = whole.bench.run(*whole.bench.optimize("http://127.0.0.1:9/v1", "--out", "runs/one"))
    assert done.code == 2, done
    assert "already holds a run" in done.err
    assert {name: (whole.out / name).read_bytes() for name in FILES} == before
    assert sorted(path.name for path in whole.out.iterdir()) == sorted(FILES)


# ---- settings ----------------------------------------------------------------------------------------


def test_dry_run_prints_bounds_and_makes_no_call(bench: Bench) -> None:
    with serving() as server:
        more = ("--dry-run", "--price-in", "2", "--price-out", "10", "--max-tokens", "8", "--out", "out")
        done = bench.run(*bench.optimize(server, *more))
        assert server.requests == []
        assert server.unrouted == []
    calls = 6 * EXAMPLES + 3 * HELDOUT  # one more call embeds the pool and has no completion tokens
    assert done.code == 0, done
    assert "6 prompts on 5 examples, 7 held out." in done.out
    found = re.search(
        r"at most (\d+) calls, about (\d+) tokens in, at most (\d+) tokens out, at most ([\d.]+)", done.out
    )
    assert found is not None, done
    assert (int(found[1]), int(found[3])) == (calls + 1, calls * 8)
    assert calls * 10 < int(found[2]) < calls * 50
    assert float(found[4]) == pytest.approx((int(found[2]) * 2 + calls * 8 * 10) / 1e6, abs=1e-4)
    assert not (bench.folder / "out").exists()


def test_the_command_line_takes_precedence_over_toml(bench: Bench) -> None:
    with serving() as server:
        (bench.folder / "run.toml").write_text(
            f'pool = "pool.txt"\nbudget = 9\ninitial = 3\nexamples = 5\nheldout = 2\nmodel = "m"\n'
            f'base-url = "{server.url}"\nembedder = "endpoint:e"\nmax_tokens = 9\nconcurrency = 2\n'
            'quiet = true\nseed = 5\nout = "from_toml"\nbody = { top_p = 0.5 }\nincumbent = "number 7"\n'
        )
        done = bench.run("optimize", "task.jsonl", "--config", "run.toml", "--budget", "4", "--seed", "6")
    assert done.code == 0, done
    assert done.err == ""  # quiet
    assert server.max_in_flight <= 2
    for request in chats(server):
        assert {key: request.body[key] for key in ("max_tokens", "top_p", "model")} == {
            "max_tokens": 9, "top_p": 0.5, "model": "m"
        }  # fmt: skip
    result = json.loads((bench.folder / "from_toml" / "result.json").read_text())
    assert (result["settings"]["budget"], result["settings"]["seed"]) == (4, 6)
    assert result["prompts_scored"] == 4
    assert {len(row["scores"]) for row in result["heldout"]} == {2}
    assert "number 7" in [row["prompt"] for row in result["heldout"]]


def test_optimize_accepts_the_pool_of_generate(bench: Bench) -> None:
    done = bench.run(
        "generate", "task.jsonl", "-n", "8", "--how", "compose", "--examples", "5", "--out", "p.jsonl"
    )
    assert done.code == 0, done
    prompts = [row["prompt"] for row in read_lines(bench.folder / "p.jsonl")]
    assert len(set(prompts)) == 8
    args = ("optimize", "task.jsonl", "--pool", "p.jsonl", "--examples", "5", "--budget", "8", "--dry-run")
    assert "8 prompts on 5 examples" in bench.run(*args).out
    again = bench.run(
        "generate", "task.jsonl", "-n", "9", "--how", "compose", "--examples", "5", "--out", "p.jsonl"
    )
    assert (again.code, "exists already" in again.err) == (2, True)
    assert [row["prompt"] for row in read_lines(bench.folder / "p.jsonl")] == prompts


# ---- hostile prompts ---------------------------------------------------------------------------------

HOSTILE = [
    "red \x1b[31m title \x1b]0;owned\x07 csi \x9b2J back\x08\x08 bidi \u202e zero\u200b é 🎉\nsecond line",
    "{input} [INPUT] {prompt} [PROMPT] {demonstrations}",
    'quotes " \' ` \\" \\n and {} {0} %s $HOME $(id)',
    "emoji 👩‍👩‍👧 🎉",
    "line one\n\nInput: question 1\n\nOutput: yes",
    "controls \x01\x02\x7f",
]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_hostile_prompts(bench: Bench, encoding: str) -> None:
    write_lines(bench.folder / "hostile.jsonl", [{"prompt": prompt} for prompt in HOSTILE])
    with serving(lambda messages: "yes" if "owned" in messages[-1]["content"] else "no") as server:
        args = bench.optimize(server, "--pool", "hostile.jsonl", "--past-perfect", "--out", "out")
        done = bench.run(*args, env={"PYTHONIOENCODING": encoding})
    assert done.code == 0, done
    inputs = [f"question {i}" for i in range(EXAMPLES + HELDOUT)]
    rendered = {f"Instruction: {p}\n\nInput: {i}\n\nOutput:" for p in HOSTILE for i in inputs}
    assert {r.body["messages"][-1]["content"] for r in chats(server)} <= rendered
    out = bench.folder / "out"
    assert {row["prompt"] for row in read_lines(out / "trials.jsonl")} == set(HOSTILE)
    assert (out / "best_prompt.txt").read_text(encoding="utf-8") == HOSTILE[0] + "\n"
    assert json.loads((out / "result.json").read_text(encoding="utf-8"))["best_prompt"] == HOSTILE[0]
    assert "\\x1b[31m" in done.out
    raw = re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202e]", done.out + done.err.replace("\r", ""))
    assert raw == []


def test_prompts_are_written_with_the_writer_body_and_saved(bench: Bench) -> None:
    count, request = 0, "Write only the new instruction"

    def answer(messages: Any) -> str:
        nonlocal count
        if request not in messages[-1]["content"]:
            return "yes"
        count += 1
        return f"Do it in new way {count}."

    with serving(answer) as server:
        arguments = bench.optimize(server, "--generate", "4", "--from", "pool.txt", "--out", "out", "--quiet")
        done = bench.run(*arguments)
    assert done.code == 0, done
    written = [r.body for r in chats(server) if request in str(r.body["messages"])]
    scored = [r.body for r in chats(server) if request not in str(r.body["messages"])]
    assert {(b["temperature"], b["max_tokens"]) for b in written} == {(0.9, 256)}
    assert {(b["temperature"], b["max_tokens"]) for b in scored} == {(0.0, 64)}
    pool = (bench.folder / "out" / "pool.jsonl").read_text()
    kept = [json.loads(line)["prompt"] for line in pool.splitlines()]
    assert "Do it in new way 1." in kept


def test_answers_of_an_earlier_run_are_counted_and_another_model_is_asked(bench: Bench) -> None:
    def run(number: int) -> tuple[str, dict[str, Any], int]:
        before = len(chats(server))
        done = bench.run(*bench.optimize(server, "--out", f"out{number}", "--quiet"))
        assert done.code == 0, done
        result = json.loads((bench.folder / f"out{number}" / "result.json").read_text())
        return done.out, result["usage"], len(chats(server)) - before

    with serving() as server:
        _, usage, calls = run(0)
        assert (usage["cached"], usage["reused"]) == (0, 0)
        out, again, more = run(1)
        assert (again["cached"], again["reused"], more) == (calls, calls, 0)
        assert 0 < again["reused_age"] < 3600
        assert f"from the cache: {calls}, of earlier runs, the oldest " in " ".join(out.split())
        server.models = {"data": [{"id": "m", "root": "another/model"}]}
        _, other, more = run(2)
        assert (other["cached"], more) == (0, calls)
