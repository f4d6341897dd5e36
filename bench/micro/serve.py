"""Throughput and latency of durable asks and tells over HTTP."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import zopo_fast as zf

from ..common.harness import Result, Row, Settings, absent

QUESTION = "How many durable asks and tells a second does a server answer, at which latency?"
GOAL_PAIRS, GOAL_P99 = 1500, 0.020  # pairs per second; seconds
SLOW_DISK = 0.004  # seconds added to each commit, to simulate a disk with a slow fdatasync
M, D = 500, 384  # prompts, dimensions
_COMMAND = """
import time
from zopo_fast.cli import main
from zopo_fast.serve.studies.journal import Journal

delay, commit = {delay}, Journal._commit

def commit_slowly(self, batches):
    if batches:
        time.sleep(delay)
    commit(self, batches)

if delay:
    Journal._commit = commit_slowly
main()
"""


@dataclass(frozen=True)
class Plan:
    """Size of the load.

    Args:
        studies: number of studies.
        budget: pairs of ask and tell in each study.
        rounds: repetitions.
        connections: connections, each with one request in flight.
        initial: random prompts at the start of each study.
    """

    studies: int
    budget: int
    rounds: int
    connections: int
    initial: int = 40


FULL = Plan(studies=200, budget=165, rounds=3, connections=16)
QUICK = Plan(studies=8, budget=20, rounds=1, connections=8, initial=8)


@dataclass(frozen=True)
class Variant:
    """One way to ask and tell.

    Args:
        name: name in the result.
        combined: a pair of ask and tell is one request.
        delay: seconds added to each commit.
    """

    name: str
    combined: bool
    delay: float = 0.0


VARIANTS = (
    Variant("ask and tell, two requests", combined=False),
    Variant("tell with ask, one request", combined=True),
    Variant("two requests, commits 4 ms longer", combined=False, delay=SLOW_DISK),
    Variant("one request, commits 4 ms longer", combined=True, delay=SLOW_DISK),
)


@dataclass(frozen=True)
class Round:
    """Measurements of one round.

    Attributes:
        pairs: pairs of ask and tell.
        seconds: duration of the round.
        ask: latency of each ask, in seconds.
        tell: latency of each tell, in seconds.
        server_cpu: CPU seconds of the server.
        client_cpu: CPU seconds of the client.
    """

    pairs: int
    seconds: float
    ask: list[float]
    tell: list[float]
    server_cpu: float
    client_cpu: float

    @property
    def p99(self) -> float:
        """99th percentile of the latency of all requests, in seconds."""
        return float(np.percentile(self.ask + self.tell, 99))


def run(settings: Settings) -> Result:
    """Run each variant on a server of its own, interleaved with the same studies in process."""
    if (why := absent("msgspec", "prometheus_client", "pythonjsonlogger")) is not None:
        return Result(QUESTION, skipped={"serve": why.replace("[bench]", "[serve]")})
    plan = QUICK if settings.quick else FULL
    measured: dict[str, list[Round]] = {variant.name: [] for variant in VARIANTS}
    alone: list[float] = []
    for number in range(plan.rounds):
        for variant in VARIANTS:
            if number == 0 or not variant.delay:  # one round shows the effect of a slow disk
                measured[variant.name].append(one_round(plan, variant, settings.seed))
        alone.append(in_process(plan, settings.seed))
    return Result(QUESTION, rows_of(plan, measured, alone), figures=figures_of(measured, alone))


def one_round(plan: Plan, variant: Variant, seed: int) -> Round:
    """Start a server, create the studies, run the load in another process, and stop the server."""
    with (
        tempfile.TemporaryDirectory() as folder,
        server(Path(folder) / "data", variant.delay) as (process, port),
    ):
        ids = [create(port, plan, seed + number) for number in range(plan.studies)]
        load = {"port": port, "studies": ids, "combined": variant.combined, "connections": plan.connections}
        before = cpu_of(process.pid)
        command = [sys.executable, "-m", f"{__package__}.serve_load", json.dumps(load)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        report = json.loads(done.stdout)
        server_cpu = cpu_of(process.pid) - before
    expected = plan.studies * plan.budget
    if report["errors"] or report["pairs"] != expected:
        raise RuntimeError(f"expected {expected} pairs, got {report['pairs']} and {report['errors']} errors")
    return Round(report["pairs"], report["seconds"], report["ask"], report["tell"], server_cpu, report["cpu"])


@contextlib.contextmanager
def server(data: Path | str, delay: float) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run `zopo-fast serve` in a process of its own; yields the process and its port."""
    command = [
        sys.executable,
        "-c",
        _COMMAND.format(delay=delay),
        "serve",
        "--data",
        str(data),
        "--port",
        "0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            found = re.search(r":(\d+)$", process.stdout.readline() if process.stdout else "")
            if found is None:
                raise RuntimeError("the server did not start; run `zopo-fast serve --data FOLDER` to see why")
            yield process, int(found.group(1))
            process.send_signal(signal.SIGTERM)
            if process.wait(60) != 0:
                raise RuntimeError(f"the server exited with code {process.returncode}")
        finally:
            process.kill()


def create(port: int, plan: Plan, seed: int) -> str:
    """Create a study; return its id."""
    import http.client

    rows = embeddings(seed)
    packed = {"base64": base64.b64encode(rows.tobytes()).decode(), "dtype": "float32", "shape": [M, D]}
    config = {"budget": plan.budget, "initial": min(plan.initial, plan.budget), "seed": seed}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"embeddings": packed, "config": config})
    connection.request("POST", "/v1/studies", body, {"Content-Type": "application/json"})
    made = json.load(connection.getresponse())
    connection.close()
    return str(made["id"])


def embeddings(seed: int) -> np.ndarray[Any, Any]:
    """Return random embeddings, (M, D) float32."""
    return np.random.default_rng(seed).standard_normal((M, D)).astype("<f4")


def in_process(plan: Plan, seed: int) -> float:
    """Return the seconds of one pair, on the same studies in this process."""
    rng = np.random.default_rng(seed)
    initial = min(plan.initial, plan.budget)
    studies = [
        zf.Zopo(embeddings(number), zf.ZopoConfig(budget=plan.budget, initial=initial, seed=number))
        for number in range(seed, seed + plan.studies)
    ]
    scores = rng.standard_normal(plan.budget * plan.studies).tolist()
    start = time.perf_counter()
    for _ in range(plan.budget):
        for study in studies:
            study.tell(study.ask(), scores.pop())
    return (time.perf_counter() - start) / (plan.budget * plan.studies)


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a process; NaN where /proc is missing."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


def rows_of(plan: Plan, measured: dict[str, list[Round]], alone: list[float]) -> list[Row]:
    """Build the rows: seconds a pair in the median round, and ratios to the calls in process."""
    what = f"ask + tell, {plan.studies} studies, m = {M}, d = {D}, n to {plan.budget}"
    unit = statistics.median(alone)
    rows = [Row(what, "in process, nothing on disk", unit, max(alone), len(alone), 1.0)]
    for name, rounds in measured.items():
        each = statistics.median(one.seconds / one.pairs for one in rounds)
        p99 = statistics.median(one.p99 for one in rounds)
        extra = {
            "pairs_per_second": round(1 / each),
            "request_p50_ms": round(1e3 * statistics.median(np.median(r.ask + r.tell) for r in rounds), 2),
            "request_p99_ms": round(1e3 * p99, 2),
            "server_cpu_us_a_pair": round(1e6 * statistics.median(r.server_cpu / r.pairs for r in rounds)),
            "rounds_pairs_per_second": [round(one.pairs / one.seconds) for one in rounds],
        }
        rows.append(Row(what, name, each, p99, len(rounds), each / unit, extra))
    return rows


def figures_of(measured: dict[str, list[Round]], alone: list[float]) -> dict[str, Any]:
    """Build the figures: goals, which variants reach them, and the time of an fdatasync."""
    figures: dict[str, Any] = {"goal_pairs_per_second": GOAL_PAIRS, "goal_p99_ms": 1e3 * GOAL_P99}
    figures["fdatasync_ms"] = round(1e3 * sync_seconds(), 3)
    figures["in_process_us_a_pair"] = round(1e6 * statistics.median(alone), 1)
    for variant in VARIANTS:
        rounds = measured[variant.name]
        pairs = statistics.median(one.pairs / one.seconds for one in rounds)
        p99 = statistics.median(one.p99 for one in rounds)
        figures[f"reached: {variant.name}"] = bool(pairs >= GOAL_PAIRS and p99 <= GOAL_P99)
    return figures


def sync_seconds(times: int = 50) -> float:
    """Return the median seconds of one fdatasync of a page, on the disk of the servers."""
    samples = []
    with tempfile.TemporaryFile() as file:
        for _ in range(times):
            file.write(b"x" * 4096)
            file.flush()
            start = time.perf_counter()
            os.fsync(file.fileno())
            samples.append(time.perf_counter() - start)
    return statistics.median(samples)
