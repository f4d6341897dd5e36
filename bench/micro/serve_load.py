"""Load on a server from a process of its own: connections that ask and tell, each waiting its turn.

    python -m zopo_fast.bench.micro.serve_load '{"port": 8321, "studies": [...], ...}'

Light, so that two cores show what the server can do: no HTTP library, a callback an answer.
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
    """What is to be done and what came of it; times in seconds."""

    studies: deque[str]
    combined: bool  # one request a pair
    pairs: int = 0
    errors: int = 0
    ask: list[float] = field(default_factory=list)
    tell: list[float] = field(default_factory=list)
    open: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Client(asyncio.Protocol):
    """One connection: takes a study, asks, tells, puts the study back, and takes the next one."""

    def __init__(self, load: Load, seed: int) -> None:
        self._load, self._random = load, random.Random(seed)
        self._data = b""
        self._study = ""
        self._sent = 0.0
        self._telling = False
        self._asked: dict[str, int] = {}

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._load.open += 1
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        self._load.open -= 1
        if not self._load.open:
            self._load.done.set()

    def _next(self) -> None:
        if not self._load.studies:
            self._transport.close()
            return
        # One of its own at random: studies in step would all build their models in the same moment.
        self._load.studies.rotate(self._random.randrange(len(self._load.studies)))
        self._study = self._load.studies.popleft()
        if self._load.combined and self._study in self._asked:
            self._tell(self._asked.pop(self._study), b',"ask":1}')
        else:
            self._telling = False
            self._send(b"ask", b"{}")

    def _tell(self, index: int, rest: bytes) -> None:
        self._telling = True
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
        load, took = self._load, time.perf_counter() - self._sent
        answer = json.loads(body)
        (load.tell if self._telling else load.ask).append(took)
        if head[9:12] != b"200":
            load.errors += 1
            self._next()
        elif self._telling:
            load.pairs += 1
            if load.combined and answer["indices"]:
                self._asked[self._study] = answer["indices"][0]
            if not answer["done"]:
                load.studies.append(self._study)
            self._next()
        elif load.combined:
            self._tell(answer["indices"][0], b',"ask":1}')
        else:
            self._tell(answer["indices"][0], b"}")


def _length(head: bytes) -> int:
    start = head.lower().index(b"content-length:") + 15
    return int(head[start:].split(b"\r\n", 1)[0])


async def _run(settings: dict[str, Any]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    shares = settings["connections"]
    loads = []
    start = time.perf_counter()
    for seed in range(shares):  # studies of its own each, so that no two connections tell one study
        load = Load(deque(settings["studies"][seed::shares]), settings["combined"])
        loads.append(load)
        await loop.create_connection(partial(Client, load, seed), "127.0.0.1", settings["port"])
    for load in loads:
        await load.done.wait()
    return {
        "seconds": time.perf_counter() - start,
        "pairs": sum(load.pairs for load in loads),
        "errors": sum(load.errors for load in loads),
        "ask": [took for load in loads for took in load.ask],
        "tell": [took for load in loads for took in load.tell],
        "cpu": time.process_time(),
    }


def main() -> None:
    """Run the load of the argument; print what came of it as JSON."""
    settings = json.loads(sys.argv[1])
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        uvloop.install()
    json.dump(asyncio.run(_run(settings)), sys.stdout)


if __name__ == "__main__":
    main()
