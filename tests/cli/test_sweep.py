"""`zopo-fast sweep` by processes of this machine: killed, interrupted, limited and resumed."""

from __future__ import annotations

import csv
import re
import signal
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from cli_tools import KEY, Done, ended, serving
from fake_server import Request, ok, status
from sweep_tools import (
    BUDGET,
    EXAMPLES,
    HELD_AT,
    HELDOUT,
    Gate,
    SweepBench,
    assert_is_complete,
    assert_nothing_is_paid_twice,
    is_alive,
)
from time_tools import HANG, until

from zopo_fast.cli.group import load_command
from zopo_fast.cli.params import read_toml
from zopo_fast.cli.sweep.config import SweepFile
from zopo_fast.cli.sweep.local import LocalProcesses
from zopo_fast.cli.sweep.rows import row_of
from zopo_fast.cli.sweep.worker import Amounts, Outcome, Work, execute


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> SweepBench:
    return SweepBench(tmp_path, tasks=getattr(request, "param", 2))


three_tasks = pytest.mark.parametrize("bench", [3], indirect=True)


def test_a_killed_process_is_restarted_and_nothing_is_paid_twice(bench: SweepBench) -> None:
    gate = Gate(closed=[0, 1])
    with serving(plan=gate) as server:
        process = bench.start("sweep", bench.write(server, "limit-calls = 500"), "--processes", "2")
        gate.wait(0, 1)
        gate.closed.clear()
        bench.kill(0)
        bench.kill(1)
        done = ended(process)
        assert_nothing_is_paid_twice(server)
    assert_is_complete(bench, done)
    assert [len(bench.processes(task)) for task in range(2)] == [2, 2]
    assert KEY not in done.text


def test_a_process_that_dies_again_and_again_is_given_up_alone(bench: SweepBench) -> None:
    gate = Gate(closed=[0])
    with serving(plan=gate) as server:
        name = bench.write(server, "limit-calls = 500", "retries = 1")
        process = bench.start("sweep", name, "--processes", "2")
        for attempt in (1, 2):
            until(lambda n=attempt: gate.held[0] == n)
            bench.kill(0)
        done = ended(process)
        failed = next(row for row in bench.rows() if row["run"] == "t0")
        assert (done.code, failed["stopped_by"]) == (75, "failed")
        assert "died 2 times, last with exit code -9" in failed["error"]
        assert [row["stopped_by"] for row in bench.rows() if row["run"] != "t0"] == ["budget"]
        assert_nothing_is_paid_twice(server)


@three_tasks
def test_the_command_itself_is_killed_and_resumes(bench: SweepBench) -> None:
    gate = Gate(closed=[1, 2])
    with serving(plan=gate) as server:
        name = bench.write(server, "limit-calls = 500", "processes = 2")
        process = bench.start("sweep", name)
        gate.wait(1, 2)
        children = [bench.processes(task)[-1] for task in (1, 2)]
        process.kill()
        ended(process)
        gate.closed.clear()
        done = bench.run("sweep", name)
        assert_nothing_is_paid_twice(server)
        assert_is_complete(bench, done)
        assert not any(map(is_alive, children))
        assert len(bench.processes(0)) == 1  # a complete run is not started again


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_stops_all_and_keeps_everything(bench: SweepBench, number: int, code: int) -> None:
    gate = Gate(closed=[0, 1])
    with serving(plan=gate) as server:
        name = bench.write(server, "limit-calls = 500", "processes = 2")
        process = bench.start("sweep", name)
        gate.wait(0, 1)
        children = [bench.processes(task)[-1] for task in (0, 1)]
        process.send_signal(number)
        done = ended(process)
        assert done.code == code, done
        assert "The same command resumes the sweep" in done.err
        assert not any(map(is_alive, children))
        assert [row["stopped_by"] for row in bench.rows()].count("interrupted") == 2
        if number == signal.SIGINT:
            gate.closed.clear()
            assert_is_complete(bench, bench.run("sweep", name))
            assert_nothing_is_paid_twice(server)


def test_a_process_stopped_before_it_handles_signals_is_interrupted(tmp_path: Path) -> None:
    work = Work("a", "t.jsonl", {}, tmp_path / "a", tmp_path / "a.log", tmp_path, Amounts())
    with closing(LocalProcesses(1, retries=3)) as processes:
        processes.start(work)
        processes.stop()  # a process begins with seconds of imports
        (ended,) = processes.wait(HANG)
    assert ended == ("a", Outcome(130, spent=Amounts(0, 0, 0.0)))


def test_limits_hold_over_the_sweep_and_can_be_raised(bench: SweepBench) -> None:
    limit = 25
    with serving() as server:
        name = bench.write(server, f"limit-calls = {limit}", "processes = 2")
        done = bench.run("sweep", name)
        assert done.code == 0, done
        assert "limit: calls" in done.out
        assert len(server.requests) == limit  # to the call
        assert_is_complete(bench, bench.run("sweep", name, "--limit-calls", "300"))
        assert_nothing_is_paid_twice(server)


def test_limits_hold_over_kills(bench: SweepBench) -> None:
    limit, gate = 25, Gate(closed=[0, 1])
    with serving(plan=gate) as server:
        name = bench.write(server, f"limit-calls = {limit}", "processes = 2")
        process = bench.start("sweep", name)
        gate.wait(0, 1)
        gate.closed.remove(0)
        bench.kill(0)
        until(lambda: len(bench.processes(0)) == 2)
        process.kill()
        ended(process)
        gate.closed.clear()
        assert bench.run("sweep", name).code == 0
        # A call that a kill interrupted counts too, even if it was not sent.
        assert limit - 6 <= len(server.requests) <= limit
        assert_nothing_is_paid_twice(server)


@three_tasks
def test_an_unspent_share_returns_to_the_others(bench: SweepBench) -> None:
    """The first run is perfect at once; without its unspent share the others could not end."""
    needed = 1 + BUDGET * EXAMPLES + 3 * HELDOUT

    def answer(messages: object) -> str:
        return "yes" if "of task 0" in str(messages) else "no"

    with serving(answer) as server:
        limit = 2 * needed + 1 + EXAMPLES * 2 + 3 * HELDOUT
        name = bench.write(server, f"limit-calls = {limit}", "processes = 3")
        done = bench.run("sweep", name)
        assert len(server.requests) <= limit
    assert done.code == 0, done
    ends = {row["run"]: row["stopped_by"] for row in bench.rows()}
    assert ends == {"t0": "perfect", "t1": "budget", "t2": "budget"}


def test_a_limit_of_seconds_that_is_over_starts_nothing(bench: SweepBench) -> None:
    with serving() as server:
        done = bench.run("sweep", bench.write(server, "limit-seconds = 0.001"))
        assert (done.code, server.requests) == (0, []), done
    assert {row["stopped_by"] for row in bench.rows()} == {"time"}


def test_a_run_ends_at_the_deadline_of_the_sweep(bench: SweepBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bench.folder)
    for name, value in bench.env().items():
        monkeypatch.setenv(name, value)
    gate, seconds = Gate(closed=[0]), 1.0
    with serving(plan=gate) as server:
        path = Path(bench.write(server))
        run = SweepFile.of(path, read_toml(path)).runs(load_command("optimize"))[0]
        while not gate.held[0]:  # the deadline of a busy machine may pass before the first call
            work = Work(
                "t0", run.task, run.options, bench.folder / f"out{seconds}", bench.folder / "log",
                bench.folder, Amounts(), time.time() + seconds,
            )  # fmt: skip
            outcome = execute(work)
            seconds *= 4
    assert (outcome.code, outcome.error) == (0, None)
    assert row_of(run, work.folder, outcome).stopped_by == "time"


@three_tasks
def test_a_failed_run_does_not_end_the_others(bench: SweepBench) -> None:
    def plan(request: Request) -> object:
        return status(401) if "of task 1" in str(request.body) else ok()

    with serving(plan=plan) as server:
        done = bench.run("sweep", bench.write(server, "processes = 1"))
    assert done.code == 2, done
    ends = {row["run"]: row["stopped_by"] for row in bench.rows()}
    assert ends == {"t0": "budget", "t1": "failed", "t2": "budget"}
    assert re.search(r"^Error: t1: .*401", done.err, re.MULTILINE)


def test_axes_files_and_table(tmp_path: Path) -> None:
    bench = SweepBench(tmp_path, tasks=1)
    tables = """
    [models.small]
    model = "a"
    price-in = 1.0
    price-out = 2.0
    [models.large]
    model = "b"
    price-in = 10.0
    price-out = 20.0
    [settings.plain]
    template = "system"
    """
    with serving() as server:
        name = bench.write(server, "seeds = [3]", "limit-cost = 5.0", more=tables)
        dry = bench.run("sweep", name, "--dry-run")
        assert (dry.code, len(server.requests)) == (0, 0), dry
        assert "t0-small-plain-seed3: at most" in dry.out
        assert "2 runs, at most" in dry.out
        assert "limits: 5 cost. No call was made." in dry.out
        assert not (tmp_path / "sweep").exists()
        done = bench.run("sweep", name, "--processes", "1")
        assert done.code == 0, done
        used = Counter(request.body["model"] for request in server.requests)
        assert set(used) == {"a", "b", "e"}
        changed = bench.write(server, "seeds = [3]", "limit-cost = 5.0", more=tables + "target = 0.5\n")
        refused = bench.run("sweep", changed)
        assert refused.code == 2
        assert "options are not those" in refused.err
    rows = bench.rows()
    assert [row["seed"] for row in rows] == [3, 3]
    assert {(row["task"], row["model"], row["settings"]) for row in rows} == {
        ("t0", "small", "plain"), ("t0", "large", "plain"),
    }  # fmt: skip
    by_model = {row["model"]: row for row in rows}
    tokens = by_model["small"]["prompt_tokens"] + 2 * by_model["small"]["completion_tokens"]
    assert by_model["small"]["cost"] == pytest.approx(tokens / 1e6)
    for row in rows:
        assert row["heldout_low"] <= row["heldout_score"] <= row["heldout_high"]
    with (tmp_path / "sweep" / "sweep.csv").open(newline="") as file:
        assert [row["run"] for row in csv.DictReader(file)] == [row["run"] for row in rows]
    assert_is_a_table(done, [row["run"] for row in rows])


def assert_is_a_table(done: Done, names: list[str]) -> None:
    lines = done.out.splitlines()
    assert lines[0].split() == [
        "run", "held-out", "95", "%", "interval", "train", "calls", "tokens", "cost", "end"
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[1 : len(names) + 1]] == [
        name if len(name) <= 12 else lines[i + 1].split()[0] for i, name in enumerate(names)
    ]
    assert max(map(len, lines[: len(names) + 1])) <= 80


def test_the_held_call_is_within_the_run() -> None:
    assert HELD_AT < BUDGET * EXAMPLES
