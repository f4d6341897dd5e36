"""`zopo-fast landscape` against a server: whole runs, interrupted and resumed runs, and their files."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import EXAMPLES, KEY, PROMPTS, Bench, answer, chats, ended, serving, write_lines
from fake_server import FakeServer, Request, ok, slow, status
from resume_tools import events, recorded
from server_behaviours import only_first
from time_tools import until

M = len(PROMPTS)
STUDY, SCORES, ROWS = "land/mine.study.sqlite3", "land/mine.json", "land/mine.npy"


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


def assert_landscape(bench: Bench, prompts: list[str] = PROMPTS) -> dict[str, Any]:
    """Check that the two files hold these prompts with the scores of the answers by `answer`."""
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
    document = assert_landscape(bench)
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


def test_ctrl_c_and_resume_repeat_no_call(bench: Bench) -> None:
    """The interruption comes in the middle of a prompt; answers for that prompt are kept too."""
    calls = 2 * EXAMPLES + 3
    with serving(plan=only_first(calls, slow())) as server:
        process = bench.start(*arguments(server, "--concurrency", "1", "--no-cache"))
        try:
            until(lambda: len(chats(server)) == calls + 1)
        finally:
            process.send_signal(signal.SIGINT)
            cut = ended(process)
        assert cut.code == 130, cut
        assert "Traceback" not in cut.text
        assert "mine.study.sqlite3; run the same command again to resume" in " ".join(cut.err.split())
        assert files(bench) == ["mine.study.sqlite3"]
        assert KEY.encode() not in (bench.folder / STUDY).read_bytes()
        before = len(chats(server))

        server._plan = None
        done = bench.run(*arguments(server, "--concurrency", "7", "--no-cache", "--quiet"))
        assert done.code == 0, done
        assert done.err == ""
        assert len(chats(server)) - before == M * EXAMPLES - calls
    assert set(server.answered.values()) == {1}  # the embeddings too
    assert f"Calls: {M * EXAMPLES + 1}, " in done.out  # of both runs
    assert_landscape(bench)


def test_kill_and_resume_repeat_no_scored_call(bench: Bench) -> None:
    calls = 2 * EXAMPLES + 3
    with serving(plan=only_first(calls, slow())) as server:
        process = bench.start(*arguments(server, "--concurrency", "1", "--no-cache"))
        try:
            until(lambda: len(chats(server)) == calls + 1)
            until(lambda: recorded(bench.folder / STUDY, "score") == calls)
        finally:
            process.kill()
            assert ended(process).code == -signal.SIGKILL
        server._plan = None
        done = bench.run(*arguments(server, "--no-cache"))
    assert done.code == 0, done
    assert set(server.answered.values()) == {1}
    assert_landscape(bench)


def test_an_unreachable_endpoint_keeps_the_answers(bench: Bench) -> None:
    with serving(plan=only_first(EXAMPLES + 2, status(401))) as server:
        lost = bench.run(*arguments(server, "--concurrency", "1", "--no-cache"))
        assert (lost.code, "HTTP 401" in lost.err) == (2, True), lost
        assert "run the same command again to resume" in " ".join(lost.err.split())
        assert "a prompt failed" not in lost.err
        server._plan = None
        done = bench.run(*arguments(server, "--no-cache"))
    assert done.code == 0, done
    assert set(server.answered.values()) == {1}
    assert_landscape(bench)


def test_nothing_answered_leaves_nothing(bench: Bench) -> None:
    with serving(plan=only_first(0, status(401))) as server:
        done = bench.run(*arguments(server))
    assert done.code == 2, done
    assert "to resume" not in done.err
    assert not (bench.folder / "land").exists()


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        (("--limit-calls", "23"), "Error: the limit of calls is reached: 4 of 12 prompts are scored"),
        (("--limit-tokens", "500", "--max-tokens", "4"), "Error: the limit of tokens is reached: "),
        (
            ("--limit-cost", "0.0005", "--price-in", "1", "--price-out", "1", "--max-tokens", "4"),
            "Error: the limit of cost is reached: ",
        ),
    ],
)
def test_a_limit_holds_over_all_runs(bench: Bench, limit: tuple[str, ...], says: str) -> None:
    body = limit[-2:] if "--max-tokens" in limit else ()
    with serving() as server:
        done = bench.run(*arguments(server, "--no-cache", *limit))
        assert (done.code, files(bench)) == (2, ["mine.study.sqlite3"]), done
        assert says in done.err
        assert "run the same command again to resume" in " ".join(done.err.split())
        asked = len(server.requests)
        assert asked < M * EXAMPLES
        if limit[0] == "--limit-calls":
            assert asked == 23  # the one that embeds included
        again = bench.run(*arguments(server, "--no-cache", *limit))
        assert (again.code, says in again.err) == (2, True), again
        assert len(server.requests) == asked
        done = bench.run(*arguments(server, "--no-cache", *body))  # without the limit
    assert done.code == 0, done
    assert set(server.answered.values()) == {1}
    assert_landscape(bench)


def test_a_time_limit(bench: Bench) -> None:
    with serving(plan=only_first(EXAMPLES, slow())) as server:
        done = bench.run(*arguments(server, "--no-cache", "--concurrency", "1", "--limit-seconds", "1"))
        assert (done.code, "the time is up: 1 of 12 prompts" in done.err) == (2, True), done
        server._plan = None
        done = bench.run(*arguments(server, "--no-cache", "--limit-seconds", "60"))
    assert done.code == 0, done
    assert_landscape(bench)


def test_answers_come_from_the_cache(bench: Bench) -> None:
    with serving() as server:
        assert bench.run(*arguments(server)).code == 0
        asked = len(chats(server))
        done = bench.run(*arguments(server, "--name", "other"))
        assert done.code == 0, done
        assert len(chats(server)) == asked
        assert f"from the cache: {M * EXAMPLES}" in done.out
        done = bench.run(*arguments(server, "--name", "third", "--no-cache"))
        assert done.code == 0, done
        assert len(chats(server)) == 2 * asked
    names = ("mine", "other", "third")
    documents = [json.loads((bench.folder / "land" / f"{name}.json").read_text()) for name in names]
    assert documents[0] == documents[1] == documents[2]


def test_scores_in_the_pool_file_are_no_scores_of_examples(bench: Bench) -> None:
    """The scores in the file are means, perhaps of another task: every prompt is scored on every example."""
    pool = bench.folder / "pool.jsonl"
    write_lines(pool, [{"prompt": prompt, "score": 0.5, "count": 2} for prompt in PROMPTS])
    with serving() as server:
        done = bench.run(*arguments(server, "--pool", "pool.jsonl"))
    assert done.code == 0, done
    assert len(chats(server)) == M * EXAMPLES
    assert_landscape(bench)


def interrupted(bench: Bench, server: FakeServer) -> None:
    """Leave a study of one prompt and some answers."""
    server._plan = only_first(EXAMPLES + 2, status(401))
    assert bench.run(*arguments(server, "--concurrency", "1", "--no-cache")).code == 2
    server._plan = None
    assert files(bench) == ["mine.study.sqlite3"]


OTHERS = {
    "pool": ((), "pool: "),
    "examples": (("--examples", "6"), "task: "),
    "split": (("--seed", "1"), "task: "),
    "metric": (("--metric", "contains"), "task: "),
    "template": (("--template", "system"), "task: "),
    "model": (("--model", "n"), "model: {'model': 'm', "),
    "body": (("--max-tokens", "9"), "model: {'model': 'm', "),
    "rubric": (("--rubric", "{input} {references} {answer}"), "rubric: None then, {input} "),
    "embedder": (("--embedder", "endpoint:f"), "embedder: endpoint:e then, endpoint:f now"),
}


def test_a_study_of_other_settings_is_refused(bench: Bench) -> None:
    with serving() as server:
        interrupted(bench, server)
        asked = len(server.requests)
        log = events(bench.folder / STUDY)
        for name, (more, says) in OTHERS.items():
            if name == "pool":
                (bench.folder / "pool.txt").write_text("\n".join([*PROMPTS[:-1], "another"]))
            done = bench.run(*arguments(server, *more))
            (bench.folder / "pool.txt").write_text("\n".join(PROMPTS))
            assert done.code == 2, done
            assert f"mine.study.sqlite3 was started with other settings: {says}" in done.err, done
            assert "to resume" not in done.err
            if name != "split":  # the seed is a setting too, beside the task that it splits
                assert done.err.count(" then, ") == 1, done  # and nothing else differs
        assert len(server.requests) == asked
        assert events(bench.folder / STUDY) == log
        assert bench.run(*arguments(server)).code == 0
    assert_landscape(bench)


def test_an_interrupted_export_is_repeated(bench: Bench) -> None:
    """A kill between the two files leaves the embeddings beside the study."""
    with serving() as server:
        interrupted(bench, server)
        (bench.folder / ROWS).write_bytes(b"anything")
        assert bench.run(*arguments(server, "--no-cache")).code == 0
        assert set(server.answered.values()) == {1}
        assert_landscape(bench)
        (bench.folder / SCORES).unlink()
        done = bench.run(*arguments(server))
    assert (done.code, "mine.npy: exists already" in done.err) == (2, True), done


def test_two_commands_do_not_share_a_study(bench: Bench) -> None:
    with serving(plan=only_first(EXAMPLES, slow())) as server:
        process = bench.start(*arguments(server, "--concurrency", "1", "--no-cache"))
        try:
            until(lambda: len(chats(server)) == EXAMPLES + 1)
            second = bench.run(*arguments(server, "--no-cache"))
            assert (second.code, "another process has this study open" in second.err) == (75, True), second
        finally:
            process.send_signal(signal.SIGINT)
            assert ended(process).code == 130
        server._plan = None
        assert bench.run(*arguments(server, "--no-cache")).code == 0
    assert set(server.answered.values()) == {1}
    assert_landscape(bench)


def test_a_damaged_study_is_refused_and_stays(bench: Bench) -> None:
    with serving() as server:
        interrupted(bench, server)
        path = bench.folder / STUDY
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        done = bench.run(*arguments(server))
    assert (done.code, "the file is damaged" in done.err) == (2, True), done
    assert path.read_bytes() == data[: len(data) // 2]


def refused(number: int) -> Any:
    """Return a plan that refuses the calls of this prompt."""

    def plan(request: Request) -> Any:
        asked = request.path.endswith("/chat/completions") and re.search(rf"number {number}\.", request.key)
        return status(400, text="a filter") if asked else ok()

    return plan


def test_a_prompt_that_fails_is_left_out(bench: Bench) -> None:
    with serving(plan=refused(4)) as server:
        done = bench.run(*arguments(server))
    assert done.code == 0, done
    document = assert_landscape(bench, [prompt for prompt in PROMPTS if prompt != PROMPTS[4]])
    assert [row["prompt"] for row in document["failed"]] == [PROMPTS[4]]
    assert "a filter" in document["failed"][0]["error"]
    assert f"Warning: 1 of {M} prompts failed and are left out." in done.err


def test_an_unanswered_example_scores_zero_and_is_listed(bench: Bench) -> None:
    def plan(request: Request) -> Any:
        bad = request.path.endswith("/chat/completions") and re.search(r"(4|7)\..*question 1\b", request.key)
        return status(400, text="a filter") if bad else ok()

    with serving(plan=plan) as server:
        done = bench.run(*arguments(server))
        assert (done.code, "1 example unanswered in 2 calls: " in done.out) == (0, True), done
        document = json.loads((bench.folder / SCORES).read_text())
        assert document["prompts"] == PROMPTS
        bad = [example["input"] for example in document["examples"]].index("question 1")
        assert [row[:2] for row in document["unanswered"]] == [[4, bad], [7, bad]]
        assert all(reason for _, _, reason in document["unanswered"])
        assert document["scores"][4][bad] == document["scores"][7][bad] == 0
        done = bench.run(*arguments(server, "--unanswered", "skip"))
    assert (done.code, "'skip' is not one of 'zero', 'fail'" in done.err) == (2, True), done


def test_too_many_failures_end_the_run_and_the_next_one_retries_them(bench: Bench) -> None:
    refusing, refusals = refused(4), 0

    def plan(request: Request) -> Any:
        """Hold every call after the refusal, so that only those in flight are counted."""
        nonlocal refusals
        if refusals:
            return slow()
        behaviour = refusing(request)
        refusals += not behaviour.good
        return behaviour

    with serving(plan=plan) as server:
        more = ("--max-failed", "0.05", "--no-cache", "--unanswered", "fail")
        done = bench.run(*arguments(server, *more, "--concurrency", "1"))
        assert done.code == 2, done
        assert f"1 of {M} prompts failed, more than --max-failed 0.05 allows" in done.err
        assert len(chats(server)) <= (4 + 2) * EXAMPLES  # of 12 * EXAMPLES: none but those in flight follow
        assert files(bench) == ["mine.study.sqlite3"]
        server._plan = None
        done = bench.run(*arguments(server, *more))
    assert done.code == 0, done
    assert set(server.answered.values()) == {1}
    assert "failed" not in assert_landscape(bench)


def test_a_failed_prompt_is_retried_after_an_interruption(bench: Bench) -> None:
    """The log is rewound to before the failure, yet no answered call is repeated."""
    first = refused(2)

    def plan(request: Request) -> Any:
        late = request.path.endswith("/chat/completions") and re.search(r"number (9|1\d)\.", request.key)
        return status(401) if late else first(request)

    with serving(plan=plan) as server:
        done = bench.run(*arguments(server, "--concurrency", "1", "--no-cache"))
        assert (done.code, "HTTP 401" in done.err) == (2, True), done
        assert done.err.count("a prompt failed and is left out") == 1
        server._plan = refused(2)
        done = bench.run(*arguments(server, "--no-cache"))
        assert done.code == 0, done
        assert done.err.count("a prompt failed and is left out") == 1
        asked = Counter(request.key for request in chats(server) if "number 2." in request.key)
        assert max(asked.values()) == 2  # the one that was refused
    assert set(server.answered.values()) == {1}
    document = assert_landscape(bench, [prompt for prompt in PROMPTS if prompt != PROMPTS[2]])
    assert [row["prompt"] for row in document["failed"]] == [PROMPTS[2]]


def test_at_least_two_prompts_are_needed(bench: Bench) -> None:
    with serving(plan=lambda request: status(400) if "chat" in request.path else ok()) as server:
        done = bench.run(*arguments(server, "--max-failed", "1"))
    assert done.code == 2, done
    assert re.search(rf"only [01] of {M} prompts could be scored", done.err), done


def test_fractional_scores_are_exported_unrounded(bench: Bench) -> None:
    (bench.folder / "mine.py").write_text("def score(answer, references):\n    return 1 / 3\n")
    with serving() as server:
        done = bench.run(*arguments(server, "--metric", "mine:score"))
    assert done.code == 0, done
    assert json.loads((bench.folder / SCORES).read_text())["scores"] == [[1 / 3] * EXAMPLES] * M


def test_dry_run_makes_no_call(bench: Bench) -> None:
    with serving() as server:
        done = bench.run(*arguments(server, "--dry-run", "--max-tokens", "8"))
        assert server.requests == []
    assert done.code == 0, done
    assert f"{M} prompts on {EXAMPLES} examples." in done.out
    assert f"at most {M * EXAMPLES + 1} calls" in done.out
    assert not (bench.folder / "land").exists()


def test_the_name_must_not_be_a_path(bench: Bench) -> None:
    with serving() as server:
        done = bench.run(*arguments(server, "--name", "a/b"))
    assert (done.code, "--name 'a/b'" in done.err) == (2, True), done
