"""`--prefer-short`: the shorter winner in every file and line of a run, and another choice on resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_tools import HELDOUT, Bench, answer, chats, serving

import zopo_fast as zf
from zopo_fast.cli.terminal.summary import summary
from zopo_fast.llm.types import Usage
from zopo_fast.runs.result import Result

# The higher the number of a prompt, the more answers are right and the longer is its text.
TEXTS = [f"Do it in way number {i}." + " Think first." * i for i in range(12)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    (tmp_path / "pool.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return made


def result_of(bench: Bench) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bench.folder / "out" / "result.json").read_text())
    return found


def test_a_run_and_its_resumption_with_another_eps(bench: Bench) -> None:
    with serving(reply=answer) as server:
        args = bench.optimize(server, "--out", "out", "--prefer-short", "1", "--past-perfect", budget=12)
        done = bench.run(*args)
        assert done.code == 0, done
        result = result_of(bench)
        assert result["best_index"] == 0
        assert result["best_prompt"] == TEXTS[0]
        assert (bench.folder / "out" / "best_prompt.txt").read_text() == TEXTS[0] + "\n"
        front = result["front"]
        assert front[0]["index"] == 0
        assert len(front) > 1
        best = front[-1]
        text = f"the best score is {best['score']:.3f}, of prompt {best['index']}"
        assert f"Chosen for its length: {text}" in " ".join(done.out.split())
        assert "Score against length: " in done.out
        assert "  best score" in done.out
        roles = {row["role"]: row["prompt"] for row in result["heldout"]}
        assert roles["best score"] == TEXTS[best["index"]]
        assert result["settings"]["prefer_short"] == 1

        shown = bench.run("show", "out").out
        assert shown.startswith("Winner: prompt 0,")
        assert f"Chosen for its length: {text}." in shown
        assert f"with {best['tokens']:.1f} tokens a call: prompt {best['index']}" in shown
        document = json.loads(bench.run("show", "out", "--json").out)
        assert document["front"] == front
        per_call = {row["index"]: row["tokens_per_call"] for row in document["prompts"]}
        assert per_call[best["index"]] == best["tokens"]

        calls = len(chats(server))
        same = bench.run(*args, "--resume-or-start")
        assert same.code == 0, same
        assert len(chats(server)) == calls
        again = bench.run("optimize", "--resume", "out", "--prefer-short", "0")
        assert again.code == 0, again
        assert result_of(bench)["best_index"] == best["index"]
        assert "Chosen for its length" not in again.out
        assert (bench.folder / "out" / "best_prompt.txt").read_text() == TEXTS[best["index"]] + "\n"
        assert len(chats(server)) == calls  # every prompt compared now was compared before

        back = bench.run(*args, "--resume-or-start")  # the stored summary is of another choice
        assert back.code == 0, back
        assert result_of(bench)["best_index"] == 0
        assert len(chats(server)) == calls


@pytest.mark.parametrize("eps", ["-0.1", "nan", "short"])
def test_a_bad_eps_is_refused_before_any_call(bench: Bench, eps: str) -> None:
    with serving() as server:
        done = bench.run(*bench.optimize(server, f"--prefer-short={eps}"))
        assert done.code == 2
        assert "--prefer-short" in done.err
        assert not server.requests


def test_the_bounds_of_a_dry_run_have_the_prompt_of_the_best_score(bench: Bench) -> None:
    def calls(*more: str) -> int:
        text = bench.run(*bench.optimize("http://127.0.0.1:9/v1", "--dry-run", *more)).out
        return int(text.split("take at most ")[1].split(" calls")[0].replace(",", ""))

    assert calls("--prefer-short", "0.1") - calls() == HELDOUT


def result(count: int, *, estimated: bool = False, given_up: bool = False) -> Result:
    front = [
        zf.FrontPoint(i, f"prompt {i}", (i + 1) / 10, None, 10.0 * i + 5, None, estimated=estimated)
        for i in range(count)
    ]
    return Result(
        "prompt 0", 0.1 if given_up else count / 10, 0, [], Usage(), "budget", 1.0, front=front,
        prefer_short=1.0 if given_up else None,
    )  # fmt: skip


def test_the_summary_shows_a_front_where_there_is_a_choice() -> None:
    assert "length" not in summary(result(1))
    two = summary(result(2), columns=200)
    assert "Score against length: 0.100 with 5.0 tokens a call, 0.200 with 15.0 tokens a call" in two
    assert "Chosen for its length" not in two
    many = summary(result(7, given_up=True), columns=200)
    assert "Score against length: 3 shorter ones, 0.400 with 35.0 tokens a call" in many
    assert "best score is 0.700, of prompt 6 with 65.0 tokens a call." in many
    assert "about 15 tokens of text" in summary(result(2, estimated=True), columns=200)
    assert all(len(line) <= 40 for line in summary(result(7, given_up=True), columns=40).split("\n"))
