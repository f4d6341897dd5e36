"""Commands as batch systems run them: repeated commands, exit codes, SIGTERM, `python -m`, completion."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_tools import EXAMPLES, Bench, chats, ended, read_lines, serving, write_lines
from fake_server import ok, slow, status
from resume_tools import recorded
from server_behaviours import only_first
from time_tools import until

import zopo_fast as zf
from zopo_fast.cli.group import exit_code


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# ---- --resume-or-start ---------------------------------------------------------------------------------


def repeated(bench: Bench, server: Any, *more: str) -> list[str]:
    return bench.optimize(server, "--out", "out", "--resume-or-start", "--quiet", *more)


def test_resume_or_start_does_what_is_needed(bench: Bench) -> None:
    (bench.folder / "out").mkdir()  # an empty folder, as a batch script may make it
    with serving(plan=only_first(2 * EXAMPLES + 2, slow())) as server:
        process = bench.start(*repeated(bench, server, "--concurrency", "1"))
        try:
            until(lambda: len(chats(server)) == 2 * EXAMPLES + 3)
            until(lambda: recorded(bench.folder / "out" / "study.sqlite3", "score") == 2 * EXAMPLES + 2)
        finally:
            process.kill()
            ended(process)
        before = server.answered.copy()
        server._plan = None
        resumed = bench.run(*repeated(bench, server, "--concurrency", "1"))
        assert resumed.code == 0, resumed
        assert "Prompts scored: 6\n" in resumed.out
        assert all(server.answered[key] == 1 for key in before)
        calls = len(server.requests)
        finished = bench.run(*repeated(bench, server, "--concurrency", "1"))
        assert len(server.requests) == calls
    assert finished.code == 0, finished
    assert finished.out.strip() in resumed.out
    assert "Best prompt:" in finished.out


def test_resume_or_start_refuses_other_settings(bench: Bench) -> None:
    with serving() as server:
        assert bench.run(*repeated(bench, server)).code == 0
        calls = len(server.requests)
        for more, says in (
            (("--race-error", "0.1"), "--race-error cannot change on resume"),
            (("--budget", "7"), "--budget cannot change on resume"),
            (("--seed", "5"), "--seed cannot change on resume"),
            (("--metric", "f1"), "--metric cannot change on resume"),
            (("--examples", "4"), "--examples cannot change on resume"),
            (("--heldout", "2"), "--heldout cannot change on resume"),
            (("--template", "{prompt} {input}"), "--template cannot change on resume"),
        ):
            done = bench.run(*repeated(bench, server, *more))
            assert (done.code, says in done.err) == (2, True), done
        pool = (bench.folder / "pool.txt").read_text()
        (bench.folder / "pool.txt").write_text(pool + "Another one.\n")
        done = bench.run(*repeated(bench, server))
        assert (done.code, "--pool pool.txt is not the pool of" in done.err) == (2, True), done
        for count, says in ((12, "TASK: the file has changed since"), (13, "from 12 examples to 13, since")):
            rows = [{"input": f"other {i}", "output": "no"} for i in range(count)]
            write_lines(bench.folder / "task.jsonl", rows)
            done = bench.run(*repeated(bench, server))
            assert (done.code, says in done.err) == (2, True), done
        assert len(server.requests) == calls


def test_resume_or_start_writes_missing_results_again(bench: Bench) -> None:
    out = bench.folder / "out"
    with serving() as server:
        assert bench.run(*repeated(bench, server)).code == 0
        calls, best = len(server.requests), (out / "best_prompt.txt").read_text()
        for name in ("best_prompt.txt", "result.json"):
            (out / name).unlink()
            done = bench.run(*repeated(bench, server))
            assert (done.code, "written again from the study" in done.err) == (0, True), done
            assert (out / "best_prompt.txt").read_text() == best
            assert json.loads((out / "result.json").read_text())["stopped_by"] == "budget"
        assert len(server.requests) == calls


def test_resume_or_start_replaces_an_empty_study(bench: Bench) -> None:
    out = bench.folder / "out"
    out.mkdir()
    (out / "study.sqlite3").touch()
    with serving() as server:
        done = bench.run(*repeated(bench, server))
        assert done.code == 0, done
        best = (out / "best_prompt.txt").read_text()
        (out / "study.sqlite3").write_bytes(b"")
        done = bench.run(*repeated(bench, server))
    assert (done.code, "renamed to *.old" in done.err) == (0, True), done
    assert (out / "best_prompt.txt.old").read_text() == best
    assert (out / "study.sqlite3").stat().st_size


def test_progress_of_a_repeated_run_counts_the_earlier_calls(bench: Bench) -> None:
    args = bench.optimize("URL", "--out", "out", "--resume-or-start")
    with serving() as server:
        args[args.index("URL")] = server.url
        first = bench.run(*args)
        (bench.folder / "out" / "result.json").unlink()
        again = bench.run(*args)

    def used(err: str) -> str:
        return re.findall(r"(\d+ calls, \d+ tokens)", err)[-1]

    assert used(again.err) == used(first.err)


def test_no_comparison_is_begun_without_held_out_examples(bench: Bench) -> None:
    with serving() as server:
        done = bench.run(*bench.optimize(server, "--heldout", "0"))
    assert done.code == 0, done
    assert "Scoring the held-out examples" not in done.text


def test_resume_or_start_needs_a_folder(bench: Bench) -> None:
    done = bench.run("optimize", "task.jsonl", "--pool", "pool.txt", "--resume-or-start")
    assert (done.code, "--resume-or-start needs --out" in done.err) == (2, True), done
    done = bench.run("optimize", "--resume", "out", "--resume-or-start")
    assert (done.code, "contradict each other" in done.err) == (2, True), done


# ---- exit codes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (zf.UnreachableError("refused"), 75),
        (zf.EndpointDownError("down"), 75),
        (zf.ServerError("HTTP 503"), 75),
        (zf.RequestTimeoutError("slow"), 75),
        (zf.RateLimitError("HTTP 429"), 75),
        (zf.RequestRejectedError("HTTP 402", concerns="account"), 75),
        (zf.StoreBusyError("in use"), 75),
        (zf.ServerError("HTTP 500", concerns="call"), 2),
        (zf.AuthenticationError("HTTP 401"), 2),
        (zf.ModelNotFoundError("HTTP 404"), 2),
        (zf.RequestRejectedError("HTTP 400"), 2),
        (zf.LLMError("the model function failed"), 2),
        (zf.ConfigError("bad"), 2),
        (zf.LimitReachedError("no more", "calls"), 2),
        (zf.StoreFullError("full"), 2),
    ],
)
def test_exit_code_of_an_error(error: Exception, code: int) -> None:
    assert exit_code(error) == code


def test_an_endpoint_that_is_down_is_tried_again_later(bench: Bench) -> None:
    done = bench.run(*bench.optimize("http://127.0.0.1:9/v1", "--max-wait", "2", "--quiet"))
    assert done.code == 75, done


def test_help_states_the_exit_codes(bench: Bench) -> None:
    done = bench.run("--help")
    assert "75 try again later" in " ".join(done.out.split())


# ---- SIGTERM --------------------------------------------------------------------------------------------


def test_sigterm_ends_a_run_in_order_with_its_results(bench: Bench) -> None:
    with serving(plan=only_first(2 * EXAMPLES + 2, slow())) as server:
        process = bench.start(*bench.optimize(server, "--out", "out", "--concurrency", "1"))
        try:
            until(lambda: len(chats(server)) == 2 * EXAMPLES + 3)
            until(lambda: len(read_lines(bench.folder / "out" / "trials.jsonl")) == 2)
        finally:
            process.send_signal(signal.SIGTERM)
            done = ended(process)
    assert done.code == 143, done
    assert "Traceback" not in done.text
    assert "--resume out" in done.err
    assert json.loads((bench.folder / "out" / "result.json").read_text())["stopped_by"] == "interrupted"


@pytest.mark.parametrize("command", ["optimize", "landscape", "generate"])
def test_sigterm_before_there_are_results(bench: Bench, command: str) -> None:
    with serving(plan=lambda r: slow() if "embed" in r.path or command == "generate" else ok()) as server:
        common = ["task.jsonl", "--model", "m", "--base-url", server.url]
        more = {
            "optimize": ["--pool", "pool.txt", "--embedder", "endpoint:e", "--out", "out"],
            "landscape": ["--pool", "pool.txt", "--embedder", "endpoint:e", "--out", "out"],
            "generate": ["--out", "p.jsonl"],
        }
        process = bench.start(command, *common, *more[command])
        try:
            until(lambda: bool(server.requests))
        finally:
            process.send_signal(signal.SIGTERM)
            done = ended(process)
    assert done.code == 143, done
    assert "Traceback" not in done.text
    assert "Terminated." in done.err
    assert not (bench.folder / "out").exists()


# ---- other ways to start ----------------------------------------------------------------------------------


def test_python_m(bench: Bench) -> None:
    args = [sys.executable, "-m", "zopo_fast", "--version"]
    done = subprocess.run(args, capture_output=True, text=True, env=bench.env(), check=True, cwd=os.getcwd())
    assert zf.__version__ in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(bench: Bench, shell: str) -> None:
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("click asks bash for its version")
    script = bench.run(env={"_ZOPO_FAST_COMPLETE": f"{shell}_source"})
    assert script.code == 0, script
    assert "_ZOPO_FAST_COMPLETE" in script.out
    for typed, current, says in (
        ("zopo-fast ", "", "optimize"),
        ("zopo-fast optimize ", "--unans", "--unanswered"),
    ):
        words = {"COMP_WORDS": typed + current, "COMP_CWORD": str(len(typed.split()))}
        if shell == "fish":
            words["COMP_CWORD"] = current
        done = bench.run(env={"_ZOPO_FAST_COMPLETE": f"{shell}_complete", **words})
        assert says in done.out, done


def test_every_request_names_the_package(bench: Bench) -> None:
    with serving(plan=lambda r: status(401)) as server:
        bench.run(*bench.optimize(server))
        bench.run(*bench.optimize(server, "--headers", '{"user-agent": "mine"}'))
    agents = [request.headers["User-Agent"] for request in server.requests]
    assert agents[0] == f"zopo_fast/{zf.__version__}"
    assert agents[-1] == "mine"
