"""Fleet of servers on one database: kills and misrouted requests lose nothing and ask nothing twice."""

from __future__ import annotations

import http.client
import os
import queue
import random
import threading
import time
from pathlib import Path
from typing import Any

from postgres_tools import Cluster
from serve_study_tools import score
from serve_tools import SECONDS, Client, Process, Reply, packed, pool
from time_tools import until

import zopo_fast as zf

KILLS = int(os.environ.get("ZOPO_SERVE_KILLS", "3"))
STEPS = 12  # asks of each client around one kill
M, CONFIG = 2 * 2 * STEPS * (KILLS + 2), {"budget": 2 * 2 * STEPS * (KILLS + 1), "initial": 10}


class Fleet:
    """Two replicas behind no load balancer at all: each request goes to a random one."""

    def __init__(self, database: str, folder: Path) -> None:
        self._database, self._folder = database, folder
        self.replicas = [self._start(number) for number in range(2)]

    def _start(self, number: int) -> Process:
        return Process(self._database, log=self._folder / f"replica{number}.log")

    def replace(self, number: int) -> None:
        """Kill a replica and start another one."""
        with self.replicas[number] as replica:
            replica.kill()
        self.replicas[number] = self._start(number)

    def stop(self) -> None:
        for replica in self.replicas:
            with replica:
                pass


class Worker:
    """Client that asks and tells as often as it is allowed to, and repeats each request until it is answered.

    Attributes:
        steps: permits; None ends the client.
        done: number of permits used up.
        asked: prompts that answers named.
        told: prompts whose tells were acknowledged.
        problems: responses that no client should see.
    """

    def __init__(self, fleet: Fleet, study: str, seed: int) -> None:
        self._fleet, self._path, self._random = fleet, f"/v1/studies/{study}", random.Random(seed)
        self.asked: list[int] = []
        self.told: list[int] = []
        self.problems: list[Any] = []
        self.steps: queue.SimpleQueue[bool | None] = queue.SimpleQueue()
        self.done = 0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while self.steps.get():
                asked = self._send("ask", {"n": self._random.randint(1, 2)}).body["indices"]
                self.asked += asked
                for index in asked:
                    self._send("tell", {"index": index, "score": score(index)})
                    self.told.append(index)
                self.done += 1
        except Exception as error:  # the test reports it
            self.problems.append(error)

    def _send(self, kind: str, body: dict[str, Any]) -> Reply:
        key = f"{self._random.getrandbits(64):x}"
        end = time.monotonic() + SECONDS
        while True:
            assert time.monotonic() < end, "no answer"
            url = self._random.choice(self._fleet.replicas).url
            try:
                with Client(url) as call:
                    reply = call("POST", f"{self._path}/{kind}", body, Idempotency_Key=key)
            except (OSError, ValueError, http.client.HTTPException):  # killed, perhaps within a response
                time.sleep(0.01)
                continue
            if reply.status == 200:
                return reply
            assert reply.status == 503, reply
            time.sleep(0.01)


def test_kills_and_misrouted_requests_lose_nothing_and_ask_nothing_twice(
    postgres: Cluster, database: str, tmp_path: Path
) -> None:
    fleet = Fleet(database, tmp_path)
    try:
        with Client(fleet.replicas[0].url) as call:
            studies = [
                call.ok("POST", "/v1/studies", {"embeddings": packed(pool(M, 8, seed)), "config": CONFIG})[
                    "id"
                ]
                for seed in range(2)
            ]
        workers = {
            study: [Worker(fleet, study, 7 * i + j) for j in range(2)] for i, study in enumerate(studies)
        }
        everyone = [worker for each in workers.values() for worker in each]
        for number in range(KILLS):
            for worker in everyone:
                for _ in range(STEPS):
                    worker.steps.put(True)
            begun = sum(worker.done for worker in everyone)
            until(lambda: sum(worker.done for worker in everyone) > begun + 4)  # noqa: B023
            fleet.replace(number % 2)
            if number == KILLS // 2:
                postgres.restart()
            until(lambda: any(w.problems for w in everyone) or all(w.steps.empty() for w in everyone))
        for worker in everyone:
            worker.steps.put(None)
        for worker in everyone:
            worker.thread.join(SECONDS)
        assert [worker.problems for worker in everyone] == [[]] * len(everyone)
        logs = []
        for replica in fleet.replicas:
            with Client(replica.url) as call:
                logs.append(
                    [call.ok("GET", f"/v1/studies/{study}/state")["state"]["log"] for study in studies]
                )
        assert logs[0] == logs[1]
        for seed, (study, log) in enumerate(zip(studies, logs[0], strict=True)):
            asked = [index for kind, *rest in log if kind == "ask" for index in rest[1]]
            told = [rest[0] for kind, *rest in log if kind == "tell"]
            assert len(asked) == len(set(asked))
            assert sorted(asked) == sorted(index for worker in workers[study] for index in worker.asked)
            assert sorted(told) == sorted(index for worker in workers[study] for index in worker.told)
            optimizer = zf.Zopo(pool(M, 8, seed), zf.ZopoConfig(**CONFIG))
            for kind, *rest in log:  # the same asks in one process, bit for bit
                if kind == "ask":
                    assert optimizer.ask(rest[0]) == rest[1]
                else:
                    optimizer.tell(rest[0], score(rest[0]))
            print(f"study {seed}: {len(asked)} asked, {len(told)} told")
    finally:
        fleet.stop()
