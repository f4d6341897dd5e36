"""Throughput and latency of asks and tells of two servers on one PostgreSQL database.

ZOPO_BENCH_DATABASE names an empty database of a PostgreSQL server, postgresql://USER@HOST/NAME.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np

from ..common.harness import Result, Row, Settings, absent
from . import serve
from .serve import Plan

QUESTION = (
    "How many asks and tells a second do two servers on one PostgreSQL database answer, at which latency?"
)
VARIABLE = "ZOPO_BENCH_DATABASE"
SERVERS = 2
FULL = Plan(studies=40, budget=60, rounds=1, connections=8, initial=20)
QUICK = Plan(studies=8, budget=20, rounds=1, connections=4, initial=8)


def run(settings: Settings) -> Result:
    """Run each way to ask and tell once, with one server and with two; the ratio is to one server."""
    url = os.environ.get(VARIABLE)
    why = absent("msgspec", "psycopg") or (None if url else f"needs a database: set {VARIABLE}")
    if why is not None or url is None:
        return Result(QUESTION, skipped={"serve_postgres": str(why)})
    plan = QUICK if settings.quick else FULL
    rows: list[Row] = []
    for combined in (False, True):
        one = one_round(url, plan, 1, combined, settings.seed)
        two = one_round(url, plan, SERVERS, combined, settings.seed)
        rows += [one, replace(two, ratio=two.median / one.median)]
    return Result(QUESTION, rows)


def one_round(url: str, plan: Plan, servers: int, combined: bool, seed: int) -> Row:
    """Run the load on servers, each with its share of the studies and a client process of its own."""
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(serve.server(url, 0.0)) for _ in range(servers)]
        loads = []
        for number, (_, port) in enumerate(running):
            ids = [serve.create(port, plan, seed + i) for i in range(number, plan.studies, servers)]
            settings: dict[str, Any] = {"port": port, "studies": ids, "combined": combined}
            settings["connections"] = plan.connections // servers
            command = [sys.executable, "-m", f"{__package__}.serve_load", json.dumps(settings)]
            loads.append(command)
        before = sum(serve.cpu_of(process.pid) for process, _ in running)
        clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in loads]
        reports = [json.loads(client.communicate()[0]) for client in clients]
        cpu = sum(serve.cpu_of(process.pid) for process, _ in running) - before
    pairs, errors = sum(each["pairs"] for each in reports), sum(each["errors"] for each in reports)
    if errors or pairs != plan.studies * plan.budget:
        raise RuntimeError(f"expected {plan.studies * plan.budget} pairs, got {pairs} and {errors} errors")
    each = max(report["seconds"] for report in reports) / pairs
    latency = [seconds for report in reports for seconds in report["ask"] + report["tell"]]
    extra = {
        "pairs_per_second": round(1 / each),
        "request_p50_ms": round(1e3 * float(np.percentile(latency, 50)), 2),
        "request_p99_ms": round(1e3 * float(np.percentile(latency, 99)), 2),
        "server_cpu_us_a_pair": round(1e6 * cpu / pairs),
    }
    what = f"ask + tell, {plan.studies} studies, n to {plan.budget}, {plan.connections} connections"
    how = "tell with ask, one request" if combined else "ask and tell, two requests"
    return Row(what, f"{servers} server(s), {how}", each, float(np.percentile(latency, 99)), 1, 1.0, extra)
