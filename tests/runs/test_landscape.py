"""`zopo-fast landscape`: whole runs, runs that are cut and go on, and what they leave, at a real server."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import EXAMPLES, KEY, PROMPTS, Bench, answer, chats, ended, read_lines, serving
from fake_server import FakeServer, Request, ok, slow, status
from server_behaviours import only_first
from time_tools import until

from zopo_fast.errors import InputError
from zopo_fast.runs.landscape import Journal

M = len(PROMPTS)
JOURNAL, SCORES, ROWS = "land/mine.journal.jsonl", "land/mine.json", "land/mine.npy"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def arguments(server: FakeServer, *more: str) -> list[str]:
    return [
        "landscape", "task.jsonl", "--pool", "pool.txt", "--examples", str(EXAMPLES), "--model", "m",
        "--base-url", server.url, "--embedder", "endpoint:e", "--out", "land", "--name", "mine", *more,
    ]  # fmt: skip


def files(bench: Bench) -> list[str]:
    folder = bench.folder / "land"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def assert_right(bench: Bench, prompts: list[str] = PROMPTS) -> dict[str, Any]:
    """The two files hold these prompts with the scores that `answer` earns them."""
    assert files(bench) == ["mine.json", "mine.npy"]
    document: dict[str, Any] = json.loads((bench.folder / SCORES).read_text())
    assert document["prompts"] == prompts
    inputs = [example["input"] for example in document["examples"]]
    assert len(set(inputs)) == EXAMPLES
    expected = [
        [int(answer([{"content": f"{prompt} {question}"}]) == "yes") for question in inputs]
        for prompt in prompts
    ]
    assert document["scores"] == expected
    Z = np.load(bench.folder / ROWS)
    assert (Z.dtype, len(Z), len(np.unique(Z, axis=0))) == (np.float16, len(prompts), len(prompts))
    return document


def test_a_whole_run(bench: Bench) -> None:
    with serving() as server:
        done = bench.run(*arguments(server))
    assert done.code == 0, done
    document = assert_right(bench)
    kept = {name: document[name] for name in ("task", "model", "template", "metric")}
    assert kept == {
        "task": "task",
        "model": "m, temperature 0",
        "template": "Instruction: {prompt}\n\n{demonstrations}Input: {input}\n\nOutput:",
        "metric": "exact_match",
    }
    assert "failed" not in document
    assert set(server.answered.values()) == {1}
    assert len(chats(server)) == M * EXAMPLES
    assert f"Prompts scored: {M} on {EXAMPLES} examples" in done.out
    assert f"Calls: {M * EXAMPLES + 1}, " in done.out  # and one that embeds
    again = bench.run(*arguments(server))
    assert (again.code, "mine.json: exists already" in again.err) == (2, True), again


def test_the_benchmark_reads_it(bench: Bench) -> None:
    from zopo_fast.bench.search import quality as search_quality

    with serving() as server:
        assert bench.run(*arguments(server)).code == 0
    size = ["--seeds", "2", "--budget", "6", "--initial", "3", "--workers", "1"]
    folders = ["--landscapes", str(bench.folder / "land"), "--out", str(bench.folder / "results")]
    search_quality.main(["--methods", "random", "zopo_fast", *folders, *size])
    rows = json.loads((bench.folder / "results" / "search_quality.json").read_text())["rows"]
    assert {(row["landscape"], row["method"]) for row in rows} >= {("mine", "random"), ("mine", "zopo_fast")}
    assert all(0.0 <= row["final"] <= 1.0 for row in rows)


def test_ctrl_c_and_going_on_ask_for_nothing_twice(bench: Bench) -> None:
    """The run is cut in the midst of a prompt; what that prompt was answered is not asked again either."""
    calls = 2 * EXAMPLES + 3
    with serving(plan=only_first(calls, slow())) as server:
        process = bench.start(*arguments(server, "--concurrency", "1"))
        try:
            until(lambda: len(chats(server)) == calls + 1)
            until(lambda: len(read_lines(bench.folder / JOURNAL)) == 3)  # two prompts are on disk by now
        finally:
            process.send_signal(signal.SIGINT)
            cut = ended(process)
        assert cut.code == 130, cut
        assert "Traceback" not in cut.text
        assert "mine.journal.jsonl; the same command goes on from there" in " ".join(cut.err.split())
        assert files(bench) == ["mine.journal.jsonl"]
        assert KEY not in (bench.folder / JOURNAL).read_text()
        before = len(chats(server))

        server._plan = None
        done = bench.run(*arguments(server, "--concurrency", "7", "--quiet"))
        assert done.code == 0, done
        assert done.err == ""
        assert len(chats(server)) - before == M * EXAMPLES - calls
    assert set(server.answered.values()) == {1}  # the embeddings too
    assert_right(bench)


def test_a_lost_endpoint_keeps_what_was_answered(bench: Bench) -> None:
    with serving(plan=only_first(EXAMPLES + 2, status(401))) as server:
        lost = bench.run(*arguments(server, "--concurrency", "1"))
        assert (lost.code, "HTTP 401" in lost.err) == (2, True), lost
        assert "the same command goes on from there" in " ".join(lost.err.split())
        server._plan = None
        done = bench.run(*arguments(server))
    assert done.code == 0, done
    assert set(server.answered.values()) == {1}
    assert_right(bench)


def test_nothing_answered_leaves_nothing(bench: Bench) -> None:
    with serving(plan=only_first(0, status(401))) as server:
        done = bench.run(*arguments(server))
    assert done.code == 2, done
    assert "goes on from there" not in done.err
    assert not (bench.folder / "land").exists()


def begun(bench: Bench, server: FakeServer) -> None:
    """Leave a journal of one prompt and some answers."""
    server._plan = only_first(EXAMPLES + 2, status(401))
    assert bench.run(*arguments(server, "--concurrency", "1")).code == 2
    server._plan = None
    assert files(bench) == ["mine.journal.jsonl"]


OTHERS = {
    "pool": ((), "pool: 12 prompts ("),
    "examples": (("--examples", "6"), "examples: 5 examples ("),
    "split": (("--seed", "1"), "examples: 5 examples ("),
    "metric": (("--metric", "contains"), "metric: exact_match then, contains now"),
    "template": (("--template", "system"), "template: instruction ("),
    "model": (("--model", "n"), "model: m, temperature 0 then, n, temperature 0 now"),
    "body": (("--max-tokens", "9"), "body: 2 parameters ("),
}


def test_another_run_than_the_journals_is_refused(bench: Bench) -> None:
    with serving() as server:
        begun(bench, server)
        journal, asked = (bench.folder / JOURNAL).read_bytes(), len(server.requests)
        for name, (more, says) in OTHERS.items():
            if name == "pool":
                (bench.folder / "pool.txt").write_text("\n".join([*PROMPTS[:-1], "another"]))
            done = bench.run(*arguments(server, *more))
            (bench.folder / "pool.txt").write_text("\n".join(PROMPTS))
            assert done.code == 2, done
            assert says in done.err, done
            assert "another --name" in done.err
            assert done.err.count(" then, ") == 1, done  # and nothing else differs
            assert "goes on from there" not in done.err
        assert len(server.requests) == asked
        assert (bench.folder / JOURNAL).read_bytes() == journal
        assert bench.run(*arguments(server)).code == 0
    assert_right(bench)


@pytest.mark.parametrize("cut", [1, 30])
def test_a_line_that_a_crash_cut_short_is_dropped(bench: Bench, cut: int) -> None:
    with serving() as server:
        begun(bench, server)
        path = bench.folder / JOURNAL
        path.write_bytes(path.read_bytes()[:-cut])
        assert bench.run(*arguments(server)).code == 0
    assert_right(bench)


def refused(number: int) -> Any:
    """A plan: the calls of this prompt are refused."""

    def plan(request: Request) -> Any:
        asked = request.path.endswith("/chat/completions") and re.search(rf"number {number}\.", request.key)
        return status(400, text="a filter") if asked else ok()

    return plan


def test_a_prompt_that_fails_is_left_out(bench: Bench) -> None:
    with serving(plan=refused(4)) as server:
        done = bench.run(*arguments(server))
    assert done.code == 0, done
    document = assert_right(bench, [prompt for prompt in PROMPTS if prompt != PROMPTS[4]])
    assert [row["prompt"] for row in document["failed"]] == [PROMPTS[4]]
    assert "a filter" in document["failed"][0]["error"]
    assert f"Warning: 1 of {M} prompts failed and are left out." in done.err


def test_too_many_failures_end_it_and_a_later_run_tries_them_again(bench: Bench) -> None:
    with serving(plan=refused(4)) as server:
        done = bench.run(*arguments(server, "--max-failed", "0.05", "--concurrency", "1"))
        assert done.code == 2, done
        assert f"1 of {M} prompts failed, more than --max-failed 0.05 allows" in done.err
        assert len(chats(server)) < (6 + 1) * EXAMPLES  # nothing is paid for in vain
        assert files(bench) == ["mine.journal.jsonl"]
        server._plan = None
        done = bench.run(*arguments(server, "--max-failed", "0.05"))
    assert done.code == 0, done
    assert set(server.answered.values()) == {1}
    assert "failed" not in assert_right(bench)


def test_scores_stay_as_the_metric_gives_them(bench: Bench) -> None:
    (bench.folder / "mine.py").write_text("def score(answer, references):\n    return 1 / 3\n")
    with serving() as server:
        done = bench.run(*arguments(server, "--metric", "mine:score"))
    assert done.code == 0, done
    assert json.loads((bench.folder / SCORES).read_text())["scores"] == [[1 / 3] * EXAMPLES] * M


def test_dry_run_counts_and_calls_nobody(bench: Bench) -> None:
    with serving() as server:
        done = bench.run(*arguments(server, "--dry-run", "--max-tokens", "8"))
        assert server.requests == []
    assert done.code == 0, done
    assert f"{M} prompts on {EXAMPLES} examples." in done.out
    assert f"at most {M * EXAMPLES + 1} calls" in done.out
    assert not (bench.folder / "land").exists()


def test_a_name_is_no_path(bench: Bench) -> None:
    with serving() as server:
        done = bench.run(*arguments(server, "--name", "a/b"))
    assert (done.code, "--name 'a/b'" in done.err) == (2, True), done


@pytest.mark.parametrize(
    "line", ["null", "{", '{"index": 3, "scores": [1, 1]}', '{"index": 0, "scores": [1]}', '{"index": -1}']
)
def test_a_file_that_is_no_journal(tmp_path: Path, line: str) -> None:
    path = tmp_path / "x.jsonl"
    journal = Journal(path, {"a": 1}, 2, 2)
    journal.add(0, [1.0, None])
    journal.close()
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=rf"{path.name}:3: not a line of a journal"):
        Journal(path, {"a": 1}, 2, 2)
    path.write_text(line + "\n")
    with pytest.raises(InputError, match=rf"{path.name}:1: not a line of a journal"):
        Journal(path, {"a": 1}, 2, 2)


def test_the_journal_goes_on_where_a_crash_left_it(tmp_path: Path) -> None:
    """Also where the line that was cut short is longer than all that comes after it."""
    path = tmp_path / "x.jsonl"
    for row in ([1.0, None], [1.0, 0.5]):
        journal = Journal(path, {"a": 1}, 2, 2)
        journal.add(0, list(row))
        journal.close()
        with path.open("ab") as file:
            file.write(b'{"index": 0, "scores": [' + b"9" * 500)
    journal = Journal(path, {"a": 1}, 2, 2)
    assert journal.rows == [[1.0, 0.5], [None, None]]
    journal.close()
    assert len(path.read_bytes().splitlines()) == 3
