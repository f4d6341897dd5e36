"""The real command `zopo-fast check`: exit codes, output, limits and Ctrl-C."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from cli_tools import HELDOUT, KEY, Bench, chats, ended, serving
from fake_server import FakeServer, ok, slow, status
from server_behaviours import only_first
from time_tools import until

ALWAYS = "Do it in way number 24."  # every answer is right


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def arguments(server: FakeServer, *more: str, prompt: str = ALWAYS, at_least: str = "0.5") -> list[str]:
    return [
        "check", "task.jsonl", "--prompt", prompt, "--at-least", at_least, "--examples", "5",
        "--model", "m", "--base-url", server.url, "--no-cache", *more,
    ]  # fmt: skip


def test_the_exit_code_tells_on_which_side_the_score_is(bench: Bench) -> None:
    with serving() as server:
        above = bench.run(*arguments(server))
        below = bench.run(*arguments(server, prompt="Do it in way number 0."))
    assert (above.code, below.code) == (0, 1), (above, below)
    assert above.out.startswith("Score: 1.000 on 7 examples, 95 % interval 0.646 to 1.000; at or above")
    assert "Wrong" not in above.out
    assert "below the threshold of 0.5" in below.out
    assert below.out.count("Wrong: 'question ") == 3
    assert f"Plan: check on {HELDOUT} held-out examples; at most {HELDOUT} calls" in above.err
    assert f"Calls: {HELDOUT}, tokens" in above.out


def test_a_file_holds_the_prompt_and_json_the_outcome(bench: Bench) -> None:
    (bench.folder / "best_prompt.txt").write_text(ALWAYS + "\n", encoding="utf-8")
    with serving() as server:
        done = bench.run(*arguments(server, "--json", "--all", "--quiet", prompt="best_prompt.txt"))
    assert done.code == 0, done
    assert done.err == ""
    found = json.loads(done.out)
    assert (found["passed"], found["score"], found["examples"], found["prompt"]) == (True, 1.0, 12, ALWAYS)
    assert found["interval"][0] == pytest.approx(0.757, abs=1e-3)
    assert (found["is_clear"], found["wrong"], found["usage"]["calls"]) == (True, [], 12)


def test_a_missing_file_is_not_taken_for_a_prompt(bench: Bench) -> None:
    with serving() as server:
        done = bench.run(*arguments(server, prompt="best_promt.txt"))
        assert chats(server) == []
    assert done.code == 2, done
    assert "--prompt 'best_promt.txt': cannot be read" in done.err


def test_errors_have_the_codes_of_the_other_commands(bench: Bench) -> None:
    with serving(plan=status(401)) as server:
        refused = bench.run(*arguments(server))
    with serving(plan=status(503)) as server:
        down = bench.run(*arguments(server, "--max-wait", "0.2"))
    with serving() as server:
        limited = bench.run(*arguments(server, "--limit-calls", "3"))
        calls = len(chats(server))
        untyped = bench.run(*arguments(server, at_least="high"))
    assert (refused.code, down.code, limited.code, untyped.code) == (2, 75, 2, 2), (refused, down, limited)
    assert calls == 3
    assert "the limit of 3 calls is reached" in limited.err
    assert KEY not in refused.text + down.text + limited.text


def test_ctrl_c_keeps_the_answers_in_the_cache(bench: Bench) -> None:
    first = only_first(3, slow())
    hangs = True
    with serving(plan=lambda request: first(request) if hangs else ok()) as server:
        words = [word for word in arguments(server, "--concurrency", "1") if word != "--no-cache"]
        process = bench.start(*words)
        try:
            until(lambda: len(chats(server)) == 4)
        finally:
            process.send_signal(signal.SIGINT)
            done = ended(process)
        assert done.code == 130, done
        assert "Interrupted" in done.err
        hangs = False
        again = bench.run(*words)
        assert again.code == 0, again
        assert "from the cache: 3" in again.out
        assert len(chats(server)) == HELDOUT + 1  # that in flight at Ctrl-C is asked for again


def test_a_dry_run_makes_no_call(bench: Bench) -> None:
    with serving() as server:
        done = bench.run(*arguments(server, "--dry-run"))
        assert chats(server) == []
    assert done.code == 0, done
    assert f"at most {HELDOUT} calls" in done.out
