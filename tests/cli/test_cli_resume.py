"""`zopo-fast optimize --resume`: the real command after a kill, an interrupt or a failed endpoint."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import signal
import sqlite3
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cli_tools import (
    EXAMPLES,
    FILES,
    HEADER_KEY,
    KEY,
    PROMPTS,
    QUERY_KEY,
    Bench,
    Done,
    chats,
    ended,
    read_lines,
    serving,
)
from fake_server import FakeServer, Request, key_of, ok, slow, status
from resume_tools import events
from server_behaviours import only_first
from time_tools import until

import zopo_fast as zf
from zopo_fast.cli.group import cli
from zopo_fast.llm.types import Answer, Usage
from zopo_fast.prompts import generate
from zopo_fast.storage.store import Store


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def interrupt(bench: Bench, *more: str, by: int = signal.SIGKILL, answered: int = 2 * EXAMPLES + 2) -> Any:
    """Start a run, end it with a signal after a number of answers, and return the answered calls."""
    with serving(plan=only_first(answered, slow())) as server:
        process = bench.start(*bench.optimize(server, "--out", "out", *more))
        try:
            until(lambda: len(chats(server)) > answered)
            until(lambda: rows_in_log(bench, b'score{"prompt": ') >= answered)
        finally:
            process.send_signal(by)
            done = ended(process)
        return done, server.answered.copy()


def rows_in_log(bench: Bench, row: bytes) -> int:
    """Count the rows in the write-ahead log; the study itself is locked by the running command."""
    log = bench.folder / "out" / "study.sqlite3-wal"
    found = re.findall(re.escape(row) + rb"[^}]*", log.read_bytes() if log.exists() else b"")
    return len(set(found))


def resume(bench: Bench, server: FakeServer | str, *more: str, **how: Any) -> Done:
    url = server if isinstance(server, str) else server.url
    return bench.run("optimize", "--resume", "out", "--base-url", url, "--quiet", *more, **how)


def assert_complete(bench: Bench, done: Done, budget: int = 6) -> dict[str, Any]:
    """Check the files of a complete run; return its result and trials."""
    out = bench.folder / "out"
    assert done.code == 0, done
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    trials = read_lines(out / "trials.jsonl")
    assert [trial["number"] for trial in trials] == list(range(1, budget + 1))
    assert len({trial["index"] for trial in trials}) == budget
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    assert result["stopped_by"] == "budget"
    assert len(result["heldout"]) == 3
    assert (out / "best_prompt.txt").read_text().strip() == result["best_prompt"]
    assert result["best_prompt"] in done.out
    return {**result, "trials": trials}


def assert_shows_resume_command(done: Done) -> None:
    """Check that the command that resumes the run is printed once and can be typed as it is."""
    lines = [line for line in done.err.splitlines() if "--resume" in line]
    assert len(lines) == 1, done
    command = lines[0].split("without repeating a call: ")[1].split(",")[0]
    assert shlex.split(command) == ["zopo-fast", "optimize", "--resume", "out"]


def test_resume_after_a_kill(bench: Bench) -> None:
    _, before = interrupt(bench, "--concurrency", "1", "--quiet")
    out = bench.folder / "out"
    trials = read_lines(out / "trials.jsonl")
    assert not (out / "result.json").exists()
    (bench.folder / "task.jsonl").unlink()  # the study has what it needs
    (bench.folder / "pool.txt").unlink()
    with serving() as server:
        done = resume(bench, server)
        assert not before & server.answered, "an answered call was repeated"
        asked = Counter(request.path.rsplit("/", 1)[1] for request in server.requests)
    result = assert_complete(bench, done)
    assert asked["embeddings"] == 0
    assert read_lines(out / "trials.jsonl")[: len(trials)] == trials
    assert result["usage"]["calls"] == sum(before.values()) + asked["completions"]  # the embedding's too
    with serving() as server:  # resuming a complete run makes no call
        again = resume(bench, server)
        assert server.requests == []
    assert assert_complete(bench, again)["trials"] == result["trials"]


def test_resume_after_ctrl_c(bench: Bench) -> None:
    done, before = interrupt(bench, "--concurrency", "1", by=signal.SIGINT)
    assert done.code == 130, done
    assert_shows_resume_command(done)
    result = json.loads((bench.folder / "out" / "result.json").read_text())
    assert result["stopped_by"] == "interrupted"
    with serving() as server:
        assert_complete(bench, resume(bench, server))
        assert not set(before) & set(server.answered)


def test_resume_after_the_endpoint_failed_in_the_comparison(bench: Bench) -> None:
    answered = 6 * EXAMPLES + 3
    with serving(plan=only_first(answered, status(401, text="no"))) as server:
        done = bench.run(*bench.optimize(server, "--out", "out", "--concurrency", "1", "--quiet"))
        before = server.answered.copy()
    assert done.code == 2, done
    assert_shows_resume_command(done)
    assert done.err.splitlines()[-1].startswith("Error: ")
    with serving() as server:
        assert_complete(bench, resume(bench, server))
        assert not set(before) & set(server.answered)


def test_no_study_is_left_where_no_call_was_answered(bench: Bench) -> None:
    """A new run leaves no folder and no hint; a resumed study stays."""
    with serving(plan=only_first(0, status(401))) as server:
        done = bench.run(*bench.optimize(server, "--out", "out", "--quiet"))
    assert done.code == 2, done
    assert "--resume" not in done.err
    assert not (bench.folder / "out").exists()
    interrupt(bench, "--concurrency", "1", answered=1)
    with sqlite3.connect(bench.folder / "out" / "study.sqlite3") as connection:
        connection.execute("DELETE FROM answers")
        connection.execute("DELETE FROM events")
    connection.close()
    with serving(plan=only_first(0, status(401))) as server:
        assert resume(bench, server).code == 2
    with serving() as server:
        assert_complete(bench, resume(bench, server))


def test_the_second_process_is_refused(bench: Bench) -> None:
    with serving(plan=only_first(3, slow())) as server:
        process = bench.start(*bench.optimize(server, "--out", "out", "--concurrency", "1"))
        try:
            until(lambda: len(chats(server)) == 4)
            before = (bench.folder / "out" / "trials.jsonl").read_bytes()
            second = resume(bench, server)
            same = bench.run(*bench.optimize(server, "--out", "out"))
            assert len(chats(server)) == 4
            assert process.poll() is None
        finally:
            process.kill()
            ended(process)
    assert (second.code, second.out) == (75, "")
    said = "another process has this study open; wait until it ends, or stop it"
    assert second.err == f"Error: {Path('out/study.sqlite3')}: {said}\n"
    assert same.code == 2
    assert "already holds a run (study.sqlite3)" in same.err
    assert "or resume the run: --resume out" in same.err
    assert (bench.folder / "out" / "trials.jsonl").read_bytes() == before


def one_line(done: Done, *says: str) -> None:
    assert (done.code, done.out) == (2, ""), done
    lines = done.err.splitlines()
    assert len(lines) == 1, done
    assert lines[0].startswith("Error: ")
    for text in says:
        assert text in lines[0], done


def test_options_that_cannot_change_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: str, says: str) -> None:
        """Run the command in this process, which is faster."""
        with pytest.raises(zf.ZopoError) as caught:
            cli.main(["optimize", "--base-url", "http://127.0.0.1:9/v1", *args], standalone_mode=False)
        assert says in str(caught.value)

    interrupt(bench, "--concurrency", "1", "--seed", "3", answered=3)
    before = events(bench.folder / "out" / "study.sqlite3")
    for name in ("empty", "api"):
        (bench.folder / name).mkdir()
    Store.create(bench.folder / "api" / "study.sqlite3", {}).close()
    monkeypatch.chdir(bench.folder)
    refused("--resume", "out", "--budget", "9", says="--budget cannot change on resume: it was 6")
    refused("--resume", "out", "--model", "other", says="--model cannot change")
    refused("--resume", "out", "--pool", "other.txt", says="--pool cannot change")
    refused("--resume", "out", "--dry-run", says="--dry-run")
    refused("task.jsonl", "--resume", "out", says="leave TASK out")
    refused("--resume", "missing", says="missing/study.sqlite3: no study file there")
    refused("--resume", "empty", says="no study file there")
    refused("--resume", "api", says="not created by `zopo-fast optimize`")
    assert events(bench.folder / "out" / "study.sqlite3") == before
    with serving() as server:  # an option with its stored value is accepted
        assert_complete(bench, resume(bench, server, "--budget", "6", "--seed", "3", "--pool", "pool.txt"))


def test_a_damaged_study(bench: Bench) -> None:
    _, before = interrupt(bench, "--concurrency", "1")
    study = bench.folder / "out" / "study.sqlite3"
    assert events(study)  # and all of it in the file
    data = study.read_bytes()
    study.write_bytes(bytes(100) + data[100:])
    with serving() as server:
        one_line(resume(bench, server), "the file is damaged", "Saved to out/study.salvaged.sqlite3")
        study.with_name("study.salvaged.sqlite3").replace(study)
        assert_complete(bench, resume(bench, server))
        assert not set(before) & set(server.answered)


def test_secrets_are_not_stored_and_requested_again(bench: Bench) -> None:
    secret = [
        "--headers", json.dumps({"X-Api-Key": HEADER_KEY}), "--body", json.dumps({"user_api_key": KEY + "b"}),
    ]  # fmt: skip
    with serving(plan=only_first(EXAMPLES, slow())) as server:
        url = server.url.replace("http://", f"http://me:{KEY}@") + f"?key={QUERY_KEY}"
        process = bench.start(*bench.optimize(url, "--out", "out", "--concurrency", "1", "--quiet", *secret))
        try:
            until(lambda: len(chats(server)) > EXAMPLES)
        finally:
            process.send_signal(signal.SIGINT)
            done = ended(process)
    assert "--headers, --body, --base-url as before" in done.err, done
    everything = b"".join(path.read_bytes() for path in (bench.folder / "out").iterdir())
    for hidden in (KEY, QUERY_KEY, HEADER_KEY):
        assert hidden.encode() not in everything
    with serving() as server:
        url = server.url.replace("http://", f"http://me:{KEY}@") + f"?key={QUERY_KEY}"
        again = bench.run("optimize", "--resume", "out", "--quiet")
        one_line(again, "--headers, --body, --base-url: not stored, because of possible secrets", "again")
        assert server.requests == []
        assert_complete(bench, resume(bench, url, *secret))
        assert chats(server)[0].headers["X-Api-Key"] == HEADER_KEY
    everything = b"".join(path.read_bytes() for path in (bench.folder / "out").iterdir())
    for hidden in (KEY, QUERY_KEY, HEADER_KEY):
        assert hidden.encode() not in everything


def test_the_content_of_files_in_options_is_stored(bench: Bench) -> None:
    (bench.folder / "mine.txt").write_text(PROMPTS[7] + "\n")
    interrupt(bench, "--concurrency", "1", "--incumbent", "@mine.txt", answered=3)
    (bench.folder / "mine.txt").write_text("something else")
    with serving() as server:
        result = assert_complete(bench, resume(bench, server))
    assert result["trials"][0]["prompt"] == PROMPTS[7]


def writer(messages: Any) -> str:
    """Write a prompt, or answer a question."""
    content = messages[-1]["content"]
    if "I gave a friend an instruction" not in content:
        return "yes"
    return f"Do it in way number {zlib.crc32(content.encode()) % 997}."


def calls_of_writing(bench: Bench) -> Counter[str]:
    """Count the calls that generate 20 prompts, by their key."""

    class Model:
        async def chat(self, messages: Any) -> Answer:
            calls[key_of(messages)] += 1
            return Answer(writer(messages), Usage())

    calls: Counter[str] = Counter()
    task = zf.Task.load(bench.folder / "task.jsonl", examples=EXAMPLES)
    asyncio.run(generate.induce(Model(), task.train, 20, seed=0))
    return calls


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_resume_after_a_signal_while_the_pool_is_written(bench: Bench, by: int) -> None:
    written = 9

    def plan(request: Request) -> Any:
        nonlocal seen
        seen += 1
        return ok() if seen <= written else slow()

    seen = 0
    with serving(writer, plan=plan) as server:
        args = bench.optimize(server, "--out", "out", "--concurrency", "3", "--quiet")
        args[args.index("--pool") : args.index("--pool") + 2] = ["--generate", "20", "--how", "induce"]
        process = bench.start(*args, "--past-perfect")
        try:
            until(lambda: len(server.requests) == written + 3)
            until(lambda: rows_in_log(bench, b'writer{"text": ') >= written)
        finally:
            process.send_signal(by)
            done = ended(process)
        before = server.answered.copy()
    if by == signal.SIGINT:
        assert done.code == 130, done
        assert_shows_resume_command(done)
    with serving(writer) as server:
        done = resume(bench, server)
        assert done.code == 0, done
        asked = before + server.answered
    expected = calls_of_writing(bench)
    assert (
        Counter({key: asked[key] for key in expected}) == expected
    )  # each as often as in a run without a signal
    assert sum("I gave a friend" in key for key in asked) == len(expected)
    out = bench.folder / "out"
    assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, "pool.jsonl"])
    result = json.loads((out / "result.json").read_text())
    assert result["usage"]["calls"] == sum(before.values()) + sum(server.answered.values())


def test_a_kill_before_the_study_was_created_leaves_the_folder_free(bench: Bench) -> None:
    out = bench.folder / "out"
    out.mkdir()
    (out / "trials.jsonl").touch()
    with serving() as server:
        done = bench.run(*bench.optimize(server, "--out", "out", "--quiet"))
    assert_complete(bench, done)
    assert "--resume" not in done.err
