"""Load generator of the benchmark `serve`: connections that ask and tell, one request in flight each.

    python -m zopo_fast.bench.micro.serve_load '{"port": 8321, "studies": [...], ...}'

It uses no HTTP library and one callback a response, to leave the CPU to the server.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import random
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any


@dataclass
class Load:
    """Load of one connection, and its measurements.

    Attributes:
        studies: ids of the studies that are not done.
        combined: a pair of ask and tell is one request.
        pairs: pairs finished.
        errors: responses other than 200.
        ask: latency of each ask, in seconds.
        tell: latency of each tell, in seconds.
        done: set once the connection is closed.
    """

    studies: deque[str]
    combined: bool
    pairs: int = 0
    errors: int = 0
    ask: list[float] = field(default_factory=list)
    tell: list[float] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Client(asyncio.Protocol):
    """Connection that takes a study, asks, tells, returns the study, and takes the next one."""

    def __init__(self, load: Load, seed: int) -> None:
        self._load, self._random = load, random.Random(seed)
        self._data = b""
        self._study = ""
        self._sent = 0.0
        self._is_telling = False
        self._asked: dict[str, int] = {}

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        self._load.done.set()

    def _next(self) -> None:
        if not self._load.studies:
            self._transport.close()
            return
        # Pick at random: studies in lockstep would all fit their models at the same moment.
        self._load.studies.rotate(self._random.randrange(len(self._load.studies)))
        self._study = self._load.studies.popleft()
        if self._load.combined and self._study in self._asked:
            self._tell(self._asked.pop(self._study), b',"ask":1}')
        else:
            self._is_telling = False
            self._send(b"ask", b"{}")

    def _tell(self, index: int, rest: bytes) -> None:
        self._is_telling = True
        self._send(b"tell", b'{"index":%d,"score":%r%s' % (index, self._random.gauss(0, 1), rest))

    def _send(self, what: bytes, body: bytes) -> None:
        self._sent = time.perf_counter()
        self._transport.write(
            b"POST /v1/studies/%s/%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (self._study.encode(), what, len(body), body)
        )

    def data_received(self, data: bytes) -> None:
        data = self._data + data
        head, found, body = data.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            self._data = data
            return
        self._data = b""
        load, seconds = self._load, time.perf_counter() - self._sent
        response = json.loads(body)
        (load.tell if self._is_telling else load.ask).append(seconds)
        if head[9:12] != b"200":
            load.errors += 1
            self._next()
        elif self._is_telling:
            load.pairs += 1
            if load.combined and response["indices"]:
                self._asked[self._study] = response["indices"][0]
            if not response["done"]:
                load.studies.append(self._study)
            self._next()
        elif load.combined:
            self._tell(response["indices"][0], b',"ask":1}')
        else:
            self._tell(response["indices"][0], b"}")


def _length(head: bytes) -> int:
    start = head.lower().index(b"content-length:") + 15
    return int(head[start:].split(b"\r\n", 1)[0])


async def _run(settings: dict[str, Any]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    connections = settings["connections"]
    loads = []
    start = time.perf_counter()
    for seed in range(connections):  # each connection has its own studies, so that tells do not conflict
        load = Load(deque(settings["studies"][seed::connections]), settings["combined"])
        loads.append(load)
        await loop.create_connection(partial(Client, load, seed), "127.0.0.1", settings["port"])
    for load in loads:
        await load.done.wait()
    return {
        "seconds": time.perf_counter() - start,
        "pairs": sum(load.pairs for load in loads),
        "errors": sum(load.errors for load in loads),
        "ask": [seconds for load in loads for seconds in load.ask],
        "tell": [seconds for load in loads for seconds in load.tell],
        "cpu": time.process_time(),
    }


def main() -> None:
    """Run the load that the argument describes, and print the measurements as JSON."""
    settings = json.loads(sys.argv[1])
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        uvloop.install()
    json.dump(asyncio.run(_run(settings)), sys.stdout)


if __name__ == "__main__":
    main()
