"""Early ends of the real command: perfect score, Ctrl-C, a failed endpoint, a closed terminal."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from cli_tools import EXAMPLES, FILES, KEY, Bench, chats, ended, read_lines, serving
from fake_server import ok, slow, status
from server_behaviours import only_first
from time_tools import until


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_perfect_score_ends_the_run_without_past_perfect(bench: Bench) -> None:
    always = "Do it in way number 24."
    with serving() as server:
        args = bench.optimize(
            server, "--incumbent", always, "--no-comparison", "--quiet", "--concurrency", "1"
        )
        stopped, continued = bench.run(*args), bench.run(*args, "--past-perfect")
    assert (stopped.code, continued.code) == (0, 0), (stopped, continued)
    assert "a perfect score" in stopped.out
    assert "Prompts scored: 1\n" in stopped.out
    assert "Prompts scored: 6\n" in continued.out
    assert "Train score: 1.000" in continued.out


def test_trials_are_on_disk_as_they_end_and_ctrl_c_keeps_them(bench: Bench) -> None:
    out = bench.folder / "out"
    with serving(plan=only_first(2 * EXAMPLES + 2, slow())) as server:
        process = bench.start(*bench.optimize(server, "--out", "out", "--concurrency", "1"))
        try:
            until(lambda: len(chats(server)) == 2 * EXAMPLES + 3)
            until(lambda: len(read_lines(out / "trials.jsonl")) == 2)
            assert process.poll() is None
            assert not (out / "result.json").exists()
        finally:
            process.send_signal(signal.SIGINT)
            done = ended(process)
        assert len(chats(server)) == 2 * EXAMPLES + 3  # no call of the comparison
    assert done.code == 130, done
    assert "Traceback" not in done.text
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert len(read_lines(out / "trials.jsonl")) == 2
    result = json.loads((out / "result.json").read_text())
    assert (result["stopped_by"], result["prompts_scored"], result["heldout"]) == ("interrupted", 2, [])
    assert (
        result["usage"]["calls"] == 2 * EXAMPLES + 2 + 1
    )  # usage counts every paid call, the embedding included
    assert result["best_prompt"] in done.out


@pytest.mark.parametrize("where", ["/embeddings", "/chat/completions"])
def test_ctrl_c_before_the_first_score(bench: Bench, where: str) -> None:
    with serving(plan=lambda r: slow() if r.path.endswith(where) else ok()) as server:
        process = bench.start(*bench.optimize(server, "--out", "out"))
        try:
            until(lambda: any(r.path.endswith(where) for r in server.requests))
        finally:
            process.send_signal(signal.SIGINT)
            done = ended(process)
    assert done.code == 130, done
    assert "Traceback" not in done.text
    assert not (bench.folder / "out").exists()  # no result yet, so the name stays free


def test_a_failing_endpoint_keeps_the_results_so_far(bench: Bench) -> None:
    lost = status(401, text=f"bad key {KEY} \x1b[31m")
    with serving(plan=only_first(2 * EXAMPLES, lost)) as server:
        done = bench.run(*bench.optimize(server, "--out", "out", "--concurrency", "1"))
    out = bench.folder / "out"
    result = json.loads((out / "result.json").read_text())
    assert (done.code, result["stopped_by"], result["prompts_scored"]) == (2, "error", 2), done
    assert "401" in result["error"]
    assert done.err.splitlines()[-1].startswith("Error: ")
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert KEY not in done.text + (out / "result.json").read_text() + (out / "trials.jsonl").read_text()
    assert "\x1b[31m" not in done.text


def test_files_are_written_when_the_terminal_is_closed(bench: Bench) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with serving() as server:
            done = bench.run(*bench.optimize(server, "--out", "out", "--quiet"), stdout=writer)
    finally:
        os.close(writer)
    assert "Traceback" not in done.err
    assert sorted(path.name for path in (bench.folder / "out").iterdir()) == sorted(FILES)


@pytest.mark.parametrize(
    ("value", "more", "scored"), [(80.0, (), 6), (1.0, (), 6), (1.0, ("--target", "1"), 1)]
)
def test_only_a_target_ends_the_run_of_an_unbounded_metric(
    bench: Bench, value: float, more: tuple[str, ...], scored: int
) -> None:
    """A custom metric may exceed 1, so 1 is not a perfect score."""
    (bench.folder / "mine.py").write_text(f"def score(answer, references):\n    return {value}\n")
    with serving() as server:
        common = ("--metric", "mine:score", "--no-comparison", "--quiet", "--concurrency", "1")
        done = bench.run(*bench.optimize(server, *common, *more))
    assert done.code == 0, done
    assert f"Prompts scored: {scored}\n" in done.out
