"""`zopo-fast show`: the winner, the best prompts, and the answers of one prompt."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cli_tools import EXAMPLES, HELDOUT, PROMPTS, Bench, answer, chats, ended, serving
from fake_server import Request, ok, slow, status
from server_behaviours import only_first
from time_tools import until

import zopo_fast as zf

BEST, REFUSED = 9, "question 9"
NASTY = "\x1b[2J\u202e\r\nScore: 1"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def thinking(messages: Any) -> str:
    return f"<think>is it\nyes?</think>\n{answer(messages)}"


def finished(bench: Bench, reply: Any = answer, plan: Any = None, *more: str) -> None:
    with serving(reply=reply, plan=plan) as server:
        args = bench.optimize(server, "--out", "out", "--incumbent", PROMPTS[3], *more, budget=8)
        done = bench.run(*args)
    assert done.code == 0, done


def refusing(request: Request) -> Any:
    bad = request.path.endswith("/chat/completions") and REFUSED in request.key
    return status(400, text=f"a filter {NASTY}") if bad else ok()


def blocks(text: str) -> list[list[str]]:
    """Return the lines about each example."""
    return [block.splitlines() for block in text.split("\n\n")[1:]]


def test_winner_and_table(bench: Bench) -> None:
    finished(bench)
    result = json.loads((bench.folder / "out" / "result.json").read_text())
    done = bench.run("show", "out")
    assert (done.code, done.err) == (0, ""), done
    lines = done.out.splitlines()
    score = f"{result['best_score']:.3f}"
    assert (
        lines[0]
        == f"Winner: prompt {result['best_index']}, score {score} on {EXAMPLES} of {EXAMPLES} examples"
    )
    assert lines[1] == f"  {result['best_prompt']}"
    rows = [line.split() for line in lines if re.match(r" +\d+ +\d+ ", line)]
    assert [row[0] for row in rows] == [str(rank) for rank in range(1, 9)]
    assert [float(row[2]) for row in rows] == sorted((float(row[2]) for row in rows), reverse=True)
    assert all(row[3:5] == [f"{EXAMPLES}/{EXAMPLES}", str(EXAMPLES)] for row in rows)


def test_answers_of_a_prompt_wrong_ones_first_and_held_out_ones(bench: Bench) -> None:
    finished(bench)
    result = json.loads((bench.folder / "out" / "result.json").read_text())
    done = bench.run("show", "out", "--prompt", str(result["best_index"]))
    found = blocks(done.out)
    assert len(found) == EXAMPLES + HELDOUT
    for part, count in (("train", EXAMPLES), ("heldout", HELDOUT)):
        of_part = [block for block in found if block[0].startswith(part)]
        scores = [float(block[0].split("score ")[1]) for block in of_part]
        assert scores == sorted(scores)
        assert len(of_part) == count
        for block, score in zip(of_part, scores, strict=True):
            question = block[1].removeprefix("  input:    ")
            right = answer([{"content": f"{result['best_prompt']} {question}"}])
            assert block[2] == "  expected: yes"
            assert block[3] == f"  answer:   {right}"
            assert score == (right == "yes")


def test_an_answer_with_reasoning_is_shown_as_the_metric_got_it(bench: Bench) -> None:
    finished(bench, thinking)
    done = bench.run("show", "out", "--prompt", "3")
    for block in blocks(done.out):
        assert block[3:5] == ["  answer:   <think>is it", "            yes?</think>"]
        assert block[5].strip() == block[6].removeprefix("  reduced:  ")


def test_unanswered_examples_have_their_reason_and_cannot_control_the_terminal(bench: Bench) -> None:
    finished(bench, answer, refusing)
    done = bench.run("show", "out", "--prompt", "3")
    (block,) = [block for block in blocks(done.out) if f"  input:    {REFUSED}" in block]
    assert "  unanswered: " in "\n".join(block)
    assert "a filter" in "\n".join(block)
    assert "\x1b" not in done.text
    assert "\u202e" not in done.text
    assert not any(line.startswith("Score: 1") for line in done.out.splitlines())


def test_json(bench: Bench) -> None:
    finished(bench, answer, refusing)
    best = json.loads(bench.run("show", "out", "--json").out)
    assert best["stopped_by"] == "budget"
    assert [row["rank"] for row in best["prompts"]] == list(range(1, 9))
    assert best["winner"] == best["prompts"][0]["index"]
    one = json.loads(bench.run("show", "out", "--json", "--prompt", "3").out)
    assert one["index"] == 3
    assert {row["part"] for row in one["answers"]} == {"train", "heldout"}
    assert [row["answer"] for row in one["answers"] if row["input"] == REFUSED] == [None]


def test_long_texts_are_cut(bench: Bench) -> None:
    finished(bench, lambda _: "word " * 100)
    cut = bench.run("show", "out", "--prompt", "3")
    whole = bench.run("show", "out", "--prompt", "3", "--full")
    assert "... (499 characters)" in cut.out or "... (500 characters)" in cut.out, cut
    assert "word " * 99 in whole.out
    assert "characters)" not in whole.out


def test_a_run_in_progress_is_shown_and_not_disturbed(bench: Bench) -> None:
    with serving(plan=only_first(2 * EXAMPLES + 2, slow())) as server:
        process = bench.start(*bench.optimize(server, "--out", "out", "--concurrency", "1"))
        try:
            until(lambda: len(chats(server)) == 2 * EXAMPLES + 3)
            until(lambda: len((bench.folder / "out" / "trials.jsonl").read_text().splitlines()) == 2)
            before = sorted(path.name for path in (bench.folder / "out").iterdir())
            done = bench.run("show", "out")
            assert done.code == 0, done
            assert done.out.startswith("Winner so far: prompt "), done
            assert f" {EXAMPLES}/{EXAMPLES} " in done.out
            assert process.poll() is None
            assert sorted(path.name for path in (bench.folder / "out").iterdir()) == before
        finally:
            process.kill()
            ended(process)


def test_a_failed_prompt_and_one_without_scores(bench: Bench) -> None:
    def plan(request: Request) -> Any:
        bad = request.path.endswith("/chat/completions") and "number 3." in request.key
        return status(400, text="too long\nWinner: me") if bad else ok()

    finished(bench, answer, plan)
    done = bench.run("show", "out")
    assert "Failed: prompt 3: all 5 examples tried are unanswered" in done.out
    assert not any(line.startswith("Winner: me") for line in done.out.splitlines())
    scored = {row["index"] for row in json.loads(bench.run("show", "out", "--json").out)["prompts"]}
    other = next(index for index in range(len(PROMPTS)) if index not in scored)
    assert f"Prompt {other}: not scored" in bench.run("show", "out", "--prompt", str(other)).out


def test_a_study_of_a_python_program(bench: Bench) -> None:
    path = bench.folder / "mine.sqlite3"
    task = zf.Task("t", (zf.Example("question 1", ("yes",)), zf.Example("question 2", ("yes",))))
    config = zf.RunConfig(budget=3, initial=2)
    embeddings = [[float(i), 1.0] for i in range(4)]
    zf.optimize_sync(task, PROMPTS[:4], answer, config, embeddings=embeddings, store=path)
    done = bench.run("show", "mine.sqlite3")
    assert (done.code, "on 2 of 2 examples" in done.out) == (0, True), done
    one = bench.run("show", "mine.sqlite3", "--prompt", "0")
    assert (one.code, one.err) == (0, ""), one


def test_a_folder_of_a_landscape(bench: Bench) -> None:
    out = bench.folder / "out"
    out.mkdir()
    for name in ("words.json", "words.npy"):
        (out / name).touch()
    done = bench.run("show", "out")
    assert (done.code, "holds a landscape" in done.err, "out/words.json" in done.err) == (2, True, True), done
    (out / "more.study.sqlite3").touch()
    done = bench.run("show", "out")
    assert (done.code, "holds an unfinished landscape" in done.err) == (2, True), done
    assert "show out/more.study.sqlite3 lists its scores so far" in done.err, done


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("nowhere",), "no study file there"),
        (("task.jsonl",), "task.jsonl: is damaged, or not a study"),
        (("out", "--prompt", "99"), f"prompt 99: the pool has {len(PROMPTS)} prompts, counted from 0"),
    ],
)
def test_bad_input(bench: Bench, args: tuple[str, ...], says: str) -> None:
    if args[0] == "out":
        finished(bench)
    done = bench.run("show", *args)
    assert (done.code, done.out) == (2, ""), done
    assert says in done.err, done
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "document",
    ["", "[]", '{"heldout": 3, "best_index": "x"}', '{"heldout": [{"prompt": 1}, 2], "best_index": 99}'],
)
def test_a_result_file_of_another_shape_is_ignored(bench: Bench, document: str) -> None:
    finished(bench)
    (bench.folder / "out" / "result.json").write_text(document)
    done = bench.run("show", "out", "--prompt", "3")
    assert (done.code, done.err) == (0, ""), done
    assert bench.run("show", "out").code == 0
