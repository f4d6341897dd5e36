"""Defaults that fit pool and task, and the plan that a command prints before its first call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_tools import EXAMPLES, HELDOUT, PROMPTS, Bench, chats, serving, write_lines

N = len(PROMPTS)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def untyped(url: str, *more: str) -> list[str]:
    """Return a command that gives neither --budget nor --initial."""
    common = ["--model", "m", "--base-url", url, "--embedder", "endpoint:e", "--examples", str(EXAMPLES)]
    return ["optimize", "task.jsonl", "--pool", "pool.txt", *common, *more]


def test_a_budget_that_was_not_typed_is_the_pool(bench: Bench) -> None:
    with serving() as server:
        done = bench.run(*untyped(server.url, "--out", "out"))
    assert done.code == 0, done
    assert f"Note: the budget is {N} instead of 50 prompts: the pool has no more to score." in done.err
    assert f"Prompts scored: {N}\n" in done.out
    settings = json.loads((bench.folder / "out" / "result.json").read_text())["settings"]
    assert (settings["budget"], settings.get("initial")) == (N, None)


@pytest.mark.parametrize("how", ["typed", "in a file"])
def test_a_typed_budget_above_the_pool_is_an_error(bench: Bench, how: str) -> None:
    (bench.folder / "c.toml").write_text("budget = 13\n")
    more = ("--budget", "13") if how == "typed" else ("--config", "c.toml")
    done = bench.run(*untyped("http://127.0.0.1:9/v1", *more))
    assert (done.code, f"--budget 13 is larger than the pool of {N} prompts" in done.err) == (2, True), done


def test_initial_prompts_that_leave_no_room_for_the_search_are_noted(bench: Bench) -> None:
    with serving() as server:
        untold = bench.run(*untyped(server.url, "--budget", "6", "--dry-run"))
        typed = bench.run(*untyped(server.url, "--budget", "6", "--initial", "10", "--dry-run"))
    assert "Note:" not in untold.err
    assert "Note: --initial takes the whole --budget; all prompts are drawn at random." in typed.err


def test_an_incumbent_and_scored_prompts_count(bench: Bench) -> None:
    rows = [{"prompt": prompt, "score": 0.1} for prompt in PROMPTS[:4]]
    write_lines(bench.folder / "pool.jsonl", [*rows, *PROMPTS[4:]])
    with serving() as server:
        args = untyped(server.url, "--pool", "pool.jsonl", "--incumbent", "Something else.", "--dry-run")
        done = bench.run(*args)
    assert "Note: the budget is 9 instead of 50" in done.err, done


def test_a_resumed_run_keeps_the_fitted_budget(bench: Bench) -> None:
    with serving() as server:
        first = bench.run(*untyped(server.url, "--out", "out", "--limit-calls", "40"))
        assert "the limit of calls is reached" in first.out, first
        done = bench.run("optimize", "--resume", "out", "--limit-calls", "1000", "--base-url", server.url)
    assert done.code == 0, done
    assert f"Prompts scored: {N}\n" in done.out
    assert "Note:" not in done.err


def test_a_pool_that_a_model_writes_is_fitted_when_it_is_known(bench: Bench) -> None:
    written = 0

    def writes(messages: list[dict[str, str]]) -> str:
        nonlocal written
        if messages[-1]["content"].startswith("Instruction:"):
            return "yes"
        written += 1
        return f"Answer the question in manner {'abcdefghi'[written % 9]}."

    with serving(reply=writes) as server:
        args = [arg for arg in untyped(server.url, "--out", "out") if arg not in ("--pool", "pool.txt")]
        done = bench.run(*args, "--generate", "30", "--how", "induce")
    assert done.code == 0, done
    stored = json.loads((bench.folder / "out" / "result.json").read_text())["settings"]["budget"]
    size = len((bench.folder / "out" / "pool.jsonl").read_text().splitlines())
    assert stored == size < 50
    assert f"Note: the budget is {size} instead of" in done.err


def test_held_out_examples_that_were_not_typed_are_at_most_300(bench: Bench) -> None:
    rows = [{"input": f"question {i}", "output": "yes"} for i in range(400)]
    write_lines(bench.folder / "task.jsonl", rows)
    with serving() as server:
        done = bench.run(*untyped(server.url, "--dry-run", "--budget", "6", "--initial", "3"))
        assert f"{EXAMPLES} examples, 300 held out." in done.out, done
        assert f"Note: 300 of {400 - EXAMPLES} held-out examples are used; --heldout takes more." in done.err
        typed = bench.run(*untyped(server.url, "--dry-run", "--heldout", "350", "--budget", "6"))
    assert f"{EXAMPLES} examples, 350 held out." in typed.out, typed
    assert "held-out examples are used" not in typed.err


@pytest.mark.parametrize(
    ("train", "test", "free", "heldout", "shown"),
    [
        (12, 8, 0, None, "12 examples, 8 held out."),
        (50, 8, 0, None, "20 examples, 8 held out."),
        (12, 8, 0, "4", "12 examples, 4 held out."),
        (12, 8, 6, "14", "12 examples, 14 held out."),
        (0, 0, 30, None, "15 examples, 15 held out."),
        (0, 0, 30, "5", "20 examples, 5 held out."),
        (0, 0, 12, "3", "6 examples, 3 held out."),
    ],
)
def test_examples_that_were_not_typed_follow_the_splits_of_the_file(
    bench: Bench, train: int, test: int, free: int, heldout: str | None, shown: str
) -> None:
    splits = ["train"] * train + ["test"] * test + [""] * free
    rows = [{"input": f"question {i}", "output": "yes", "split": split} for i, split in enumerate(splits)]
    write_lines(bench.folder / "task.jsonl", rows)
    args = untyped("http://127.0.0.1:9/v1", "--dry-run", "--budget", "6")
    at = args.index("--examples")
    del args[at : at + 2]
    done = bench.run(*args, *(() if heldout is None else ("--heldout", heldout)))
    assert shown in done.out, done


def test_the_plan_comes_before_the_first_call(bench: Bench) -> None:
    with serving() as server:
        host = server.url.split("/")[2]
        done = bench.run(*bench.optimize(server, "--price-in", "1", "--price-out", "2"))
        plan, after = next(
            (line, done.err[done.err.index(line) :]) for line in done.err.splitlines() if "Plan: " in line
        )
        most = 6 * EXAMPLES + 3 * HELDOUT + 1
        what = f"6 of {N} prompts on {EXAMPLES} examples, {HELDOUT} held-out examples"
        assert plan.startswith(f"Plan: {what}; at most {most} calls, ")
        assert " in money; " in plan
        assert plan.endswith(f"model m at {host}.")
        assert "Embedding" in after
        assert len(chats(server)) <= most
        quiet = bench.run(*bench.optimize(server, "--quiet"))
        assert "Plan: " not in quiet.err
        land = bench.run(
            "landscape", "task.jsonl", "--pool", "pool.txt", "--model", "m", "--base-url", server.url,
            "--embedder", "endpoint:e", "--out", "land",
        )  # fmt: skip
        assert f"Plan: {N} prompts on 6 examples each; at most {N * 6 + 1} calls, " in land.err, land
        made = bench.run("generate", "task.jsonl", "-n", "20", "--how", "compose", "--out", "p.jsonl")
        assert "Plan: generate 20 prompts (compose) without any call." in made.err, made


def test_the_plan_shows_no_secret(bench: Bench) -> None:
    with serving() as server:
        url = server.url.replace("http://", "http://name:sk-password@") + "?key=sk-query-000"
        done = bench.run(*bench.optimize(url))
    assert "Plan: " in done.err
    assert "sk-" not in done.err
