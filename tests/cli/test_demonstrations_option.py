"""`--demonstrations search` of the commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cli_tools import EXAMPLES, HELDOUT, PROMPTS, Bench, chats, serving

RESERVE = HELDOUT // 2


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def taught(messages: object) -> str:
    """Answer rightly where demonstrations are shown, else rarely."""
    content = messages[-1]["content"]  # type: ignore[index]
    question = re.findall(r"question (\d+)", content)[-1]
    return "yes" if content.count("Output: yes") > 1 or int(question) % 4 == 0 else "no"


def test_a_run_finds_demonstrations_and_resumes(bench: Bench) -> None:
    args = ("--demonstrations", "search", "--out", "out", "--past-perfect")
    with serving(taught) as server:
        first = bench.run(*bench.optimize(server, *args, "--limit-calls", "20", budget=30))
        assert "the limit of calls is reached" in first.out, first
        done = bench.run("optimize", "--resume", "out", "--limit-calls", "1000", "--base-url", server.url)
        sent = [request.body["messages"][-1]["content"] for request in chats(server)]
    assert done.code == 0, done
    best = (bench.folder / "out" / "best_prompt.txt").read_text()
    assert best.count("Output: yes") > 1
    assert any(content.startswith(f"Instruction: {best.strip()}\n\nInput: question") for content in sent)
    # No example of the reserve is asked, and none of the others is shown.
    shown = {int(n) for n in re.findall(r"question (\d+)\n\nOutput: yes", "\n".join(sent))}
    asked = {int(re.findall(r"question (\d+)", content)[-1]) for content in sent}
    assert len(shown) <= RESERVE
    assert not shown & asked
    again = bench.run(*bench.optimize("http://127.0.0.1:9/v1", *args, "--resume-or-start", budget=30))
    assert again.code == 0, again


def test_a_budget_may_exceed_the_pool(bench: Bench) -> None:
    plain = bench.run(*bench.optimize("http://127.0.0.1:9/v1", "--dry-run", budget=40))
    assert f"--budget 40 is larger than the pool of {len(PROMPTS)} prompts" in plain.err
    search = ("--demonstrations", "search", "--dry-run")
    done = bench.run(*bench.optimize("http://127.0.0.1:9/v1", *search, budget=40))
    assert done.code == 0, done
    assert f"40 prompts on {EXAMPLES} examples, {HELDOUT - RESERVE} held out" in done.out


def test_the_bound_counts_the_demonstrations(bench: Bench) -> None:
    def tokens(*more: str) -> int:
        done = bench.run(*bench.optimize("http://127.0.0.1:9/v1", "--heldout", "2", "--dry-run", *more))
        found = re.search(r"(\d+) tokens in", done.out)
        assert found, done
        return int(found[1])

    assert tokens("--demonstrations", "search") > tokens() + 50 * EXAMPLES


@pytest.mark.parametrize("value", ["-1", "some", "1.5", "searched"])
def test_other_values_are_refused(bench: Bench, value: str) -> None:
    done = bench.run(*bench.optimize("http://127.0.0.1:9/v1", "--demonstrations", value))
    assert (done.code, "--demonstrations" in done.err, "search" in done.err) == (2, True, True), done
