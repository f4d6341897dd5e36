"""`zopo-fast generate` and `optimize --generate` with a model that refuses or repeats itself."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from cli_tools import Bench, chats, read_lines, serving

GENERATE = (
    "generate",
    "task.jsonl",
    "--examples",
    "5",
    "--how",
    "induce",
    "--out",
    "p.jsonl",
    "--model",
    "m",
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_refusals_are_skipped_and_reported(bench: Bench) -> None:
    count = itertools.count()

    def answer(_: Any) -> str:
        number = next(count)
        return "I'm sorry, but I can't assist." if number % 2 else f"Instruction: Do it in way {number}."

    with serving(answer) as server:
        done = bench.run(*GENERATE, "-n", "4", "--base-url", server.url)
    assert done.code == 0, done
    prompts = [row["prompt"] for row in read_lines(bench.folder / "p.jsonl")]
    assert len(prompts) == 4
    assert all(prompt.startswith("Do it in way") for prompt in prompts)
    refused = len(chats(server)) - 4
    assert f"4 prompts written to p.jsonl; {refused} refused, the first: \"I'm sorry" in done.out


def test_optimize_reports_the_refusals_of_its_writer(bench: Bench) -> None:
    count = itertools.count()

    def answer(messages: Any) -> str:
        if "gave a friend an instruction" not in messages[-1]["content"]:
            return "yes"
        number = next(count)
        return "As an AI language model, I cannot do that." if number % 2 else f"Do it in way {number}."

    with serving(answer) as server:
        args = bench.optimize(server, "--generate", "8", "--how", "induce", "--out", "out")
        done = bench.run(*args)
    assert done.code == 0, done
    assert "8 prompts generated; " in done.err
    assert "refused, the first: 'As an AI language model, I cannot do that.'" in done.err
    pool = read_lines(bench.folder / "out" / "pool.jsonl")
    assert not [row for row in pool if "language model" in row["prompt"]]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("Say yes.", ("one prompt only from 12 calls: 'Say yes.'", "At least 2 distinct")),
        ("I cannot do that.", ("none of 12 answers", "12 refused, the first: 'I cannot do that.'")),
        ("{}", ("none of 12 answers",)),
    ],
)
@pytest.mark.parametrize("command", ["generate", "optimize"])
def test_fewer_than_two_prompts_is_an_error(
    bench: Bench, command: str, answer: str, says: tuple[str, ...]
) -> None:
    with serving(lambda _: answer) as server:
        if command == "generate":
            args = [*GENERATE, "-n", "3", "--base-url", server.url]
        else:
            args = bench.optimize(server, "--generate", "3", "--how", "induce", "--out", "out")
            at = args.index("--pool")
            del args[at : at + 2]
            at = args.index("--budget") if "--budget" in args else None
            if at is not None:
                args[at + 1] = "3"
        done = bench.run(*args)
    assert done.code == 2, done
    assert not (bench.folder / "p.jsonl").exists()
    assert all(part in done.err for part in says), done
    assert "Traceback" not in done.err
