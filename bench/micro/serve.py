"""Asks and tells over HTTP, each on disk before it is answered: how many, and how soon?"""

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

QUESTION = "How many asks and tells a second does a server answer, each on disk, and how soon?"
GOAL_PAIRS, GOAL_P99 = 1500, 0.020  # a second; seconds
SLOW_DISK = 0.004  # seconds more for each commit: a disk whose fdatasync takes that long
M, D = 500, 384
_COMMAND = """
import time
from zopo_fast.cli import main
from zopo_fast.serve.studies.journal import Journal

more, commit = {more}, Journal._commit

def slowly(self, batch):
    if batch:
        time.sleep(more)
    commit(self, batch)

if more:
    Journal._commit = slowly
main()
"""


@dataclass(frozen=True)
class Plan:
    """How much load; `connections` wait for their answer each before they send again."""

    studies: int
    budget: int
    rounds: int
    connections: int
    initial: int = 40


FULL = Plan(studies=200, budget=165, rounds=3, connections=16)
QUICK = Plan(studies=8, budget=20, rounds=1, connections=8, initial=8)


@dataclass(frozen=True)
class Variant:
    """One way to ask and tell. `combined`: a pair is one request. `more`: seconds added to each commit."""

    name: str
    combined: bool
    more: float = 0.0


VARIANTS = (
    Variant("ask and tell, two requests", combined=False),
    Variant("tell with ask, one request", combined=True),
    Variant("two requests, commits 4 ms longer", combined=False, more=SLOW_DISK),
    Variant("one request, commits 4 ms longer", combined=True, more=SLOW_DISK),
)


@dataclass(frozen=True)
class Ran:
    """One round: seconds, latencies of requests in seconds, CPU seconds of server and client."""

    pairs: int
    seconds: float
    ask: list[float]
    tell: list[float]
    server_cpu: float
    client_cpu: float

    @property
    def p99(self) -> float:
        """Of all requests."""
        return float(np.percentile(self.ask + self.tell, 99))


def run(settings: Settings) -> Result:
    """Run every variant on a server of its own, in turn with the same studies in process."""
    if (why := absent("msgspec", "prometheus_client", "pythonjsonlogger")) is not None:
        return Result(QUESTION, skipped={"serve": why.replace("[bench]", "[serve]")})
    plan = QUICK if settings.quick else FULL
    ran: dict[str, list[Ran]] = {variant.name: [] for variant in VARIANTS}
    alone: list[float] = []
    for number in range(plan.rounds):
        for variant in VARIANTS:
            if number == 0 or not variant.more:  # of the slow disk one round is enough to see
                ran[variant.name].append(one_round(plan, variant, settings.seed))
        alone.append(in_process(plan, settings.seed))
    return Result(QUESTION, rows_of(plan, ran, alone), figures=figures_of(ran, alone))


def one_round(plan: Plan, variant: Variant, seed: int) -> Ran:
    """Start a server, make the studies, load it from another process until all are done, and stop it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        server(Path(folder) / "data", variant.more) as (process, port),
    ):
        ids = [create(port, plan, seed + number) for number in range(plan.studies)]
        load = {"port": port, "studies": ids, "combined": variant.combined, "connections": plan.connections}
        before = cpu_of(process.pid)
        command = [sys.executable, "-m", f"{__package__}.serve_load", json.dumps(load)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        came = json.loads(done.stdout)
        spent = cpu_of(process.pid) - before
    if came["errors"] or came["pairs"] != plan.studies * plan.budget:
        raise RuntimeError(f"{came['pairs']} pairs, {came['errors']} errors: not the load that was planned")
    return Ran(came["pairs"], came["seconds"], came["ask"], came["tell"], spent, came["cpu"])


@contextlib.contextmanager
def server(data: Path, more: float) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`zopo-fast serve` as a process of its own, and its port."""
    command = [sys.executable, "-c", _COMMAND.format(more=more), "serve", "--data", str(data), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            found = re.search(r":(\d+)$", process.stdout.readline() if process.stdout else "")
            if found is None:
                raise RuntimeError("the server does not start: see zopo-fast serve --data FOLDER")
            yield process, int(found.group(1))
            process.send_signal(signal.SIGTERM)
            if process.wait(60) != 0:
                raise RuntimeError(f"the server ended with {process.returncode}")
        finally:
            process.kill()


def create(port: int, plan: Plan, seed: int) -> str:
    """Make a study; its id."""
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
    """Random ones, (M, D) float32."""
    return np.random.default_rng(seed).standard_normal((M, D)).astype("<f4")


def in_process(plan: Plan, seed: int) -> float:
    """Seconds of a pair on the same studies, in turn, in this process."""
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
    """CPU seconds of a process; NaN where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


def rows_of(plan: Plan, ran: dict[str, list[Ran]], alone: list[float]) -> list[Row]:
    """Seconds a pair, of the median round; ratios against the calls in process."""
    what = f"ask + tell, {plan.studies} studies, m = {M}, d = {D}, n to {plan.budget}"
    unit = statistics.median(alone)
    rows = [Row(what, "in process, nothing on disk", unit, max(alone), len(alone), 1.0)]
    for name, rounds in ran.items():
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


def figures_of(ran: dict[str, list[Ran]], alone: list[float]) -> dict[str, Any]:
    """The goal, whether it is reached, and what the disk takes."""
    found: dict[str, Any] = {"goal_pairs_per_second": GOAL_PAIRS, "goal_p99_ms": 1e3 * GOAL_P99}
    found["fdatasync_ms"] = round(1e3 * sync_seconds(), 3)
    found["in_process_us_a_pair"] = round(1e6 * statistics.median(alone), 1)
    for variant in VARIANTS:
        rounds = ran[variant.name]
        pairs = statistics.median(one.pairs / one.seconds for one in rounds)
        p99 = statistics.median(one.p99 for one in rounds)
        found[f"reached: {variant.name}"] = bool(pairs >= GOAL_PAIRS and p99 <= GOAL_P99)
    return found


def sync_seconds(times: int = 50) -> float:
    """What one fdatasync of a page takes where the servers had their data; the median."""
    took = []
    with tempfile.TemporaryFile() as file:
        for _ in range(times):
            file.write(b"x" * 4096)
            file.flush()
            start = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - start)
    return statistics.median(took)
