"""Servers of a fleet on one database, whose jobs call a model that counts and holds its answers."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cli_tools import serving
from fake_server import Behaviour, FakeServer, Request, ok, slow
from model_stub import PROMPTS
from serve_tools import Client, Process, packed, pool
from time_tools import until

EXAMPLES = 4
BUDGET = 8
CALLS = BUDGET * EXAMPLES
QUICK = ("--heartbeat", "0.2", "--stalled-after", "1")  # a dead server is noticed within about a second


class FleetModel:
    """Model of a fleet's jobs; prompts with an odd number score.

    Attributes:
        server: counts the answers.
        path: models file that names the model "small", which gets one call at a time.
    """

    def __init__(self, folder: Path) -> None:
        self._left = 10**6
        self._lock = threading.Lock()
        self._folder = folder
        self._loop: asyncio.AbstractEventLoop | None = None
        self.server: FakeServer
        self.path: Path

    def answer_only(self, number: int) -> None:
        """Answer this many further calls, and hold the others."""
        with self._lock:
            self._left = number

    def release(self) -> None:
        """Answer the calls that are held."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self.server.release.set)

    def plan(self, request: Request) -> Behaviour:
        self._loop = asyncio.get_running_loop()
        with self._lock:
            self._left -= 1
            return ok() if self._left >= 0 else slow()

    def file(self, name: str = "small") -> Path:
        """Write a models file that gives the model a name."""
        path = self._folder / f"{name}.toml"
        path.write_text(f'[{name}]\nmodel = "m"\nbase_url = "{self.server.url}"\nconcurrency = 1\n')
        return path

    def held(self) -> int:
        """Return the number of calls held so far."""
        return sum(request.behaviour == "slow" for request in self.server.requests)


def reply(messages: Any) -> str:
    number = re.search(r"way (\d+)\.", messages[-1]["content"])
    return "yes" if number is not None and int(number[1]) % 2 else "no"


@contextmanager
def fleet_model(folder: Path, latency: float = 0.0) -> Iterator[FleetModel]:
    """Run the model while the context is open."""
    model = FleetModel(folder)
    with serving(reply, plan=model.plan, latency=latency) as model.server:
        model.path = model.file()
        yield model


def replica(database: str, folder: Path, name: str, models: Path, *options: str) -> Process:
    """Start a server of the fleet."""
    return Process(database, "--models", str(models), *QUICK, *options, log=folder / f"{name}.log")


def job(**changes: Any) -> dict[str, Any]:
    """Return the request of a job with `CALLS` calls."""
    examples = [{"input": f"q{i}", "output": "yes"} for i in range(EXAMPLES)]
    config = {
        "budget": BUDGET,
        "initial": 3,
        "stop_at_perfect": False,
        "racing": False,
        "prompts_in_flight": 1,
    }
    body = {
        "task": {"examples": examples},
        "pool": PROMPTS,
        "model": "small",
        "embeddings": packed(pool(20, 4)),
        "config": {**config, **changes.pop("config", {})},
    }
    return {**body, **changes}


def wait_state(call: Client, name: str, *states: str) -> dict[str, Any]:
    """Wait until a job is in one of the states; return the job."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        found.append(call.ok("GET", f"/v1/jobs/{name}"))
        return found[-1]["state"] in states

    until(there)
    return found[-1]


def recorded(database: str, name: str) -> int:
    """Return the number of answers in the log of a job."""
    import psycopg

    from zopo_fast.storage.mirror import decode

    with psycopg.connect(database) as connection:
        query = "SELECT data FROM zopo_fast.job_log WHERE job = %s ORDER BY number"
        rows = connection.execute(query, (name,)).fetchall()
    statements = [sql for (data,) in rows for sql, _ in decode(bytes(data))]
    return sum("INTO answers" in sql for sql in statements)


def rows(database: str, name: str) -> list[Any]:
    """Return all that the database holds of a job."""
    import psycopg

    with psycopg.connect(database, options="-c search_path=zopo_fast") as connection:
        return [
            connection.execute(query, (name,)).fetchall()
            for query in (
                "SELECT run, state, saved, result FROM job WHERE id = %s",
                "SELECT * FROM job_event WHERE job = %s ORDER BY number",
                "SELECT * FROM job_log WHERE job = %s ORDER BY number",
            )
        ]
