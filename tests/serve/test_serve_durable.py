"""Durability: acknowledged changes survive kill -9 and a full disk; fdatasync precedes each response."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serve_tools import SECONDS, Client, Process, packed, pool

import zopo_fast as zf

KILLS = int(os.environ.get("ZOPO_SERVE_KILLS", "3"))
M, CONFIG = 400, {"budget": 300, "initial": 10}


def score(study: int, index: int) -> float:
    return float(np.sin(index + study) * 3)


class Hammer:
    """Client of one study that asks and tells without pause, and logs what the server acknowledged."""

    def __init__(self, number: int) -> None:
        self.number, self.id = number, ""
        self.log: list[tuple[str, Any]] = []  # acknowledged
        self.open: tuple[str, Any] | None = None  # sent but not acknowledged: may or may not be applied

    def create(self, url: str) -> None:
        with Client(url) as call:
            body = {"embeddings": packed(pool(M, 8, self.number)), "config": {**CONFIG, "seed": self.number}}
            self.id = call.ok("POST", "/v1/studies", body)["id"]

    def run(self, url: str) -> None:
        """Ask and tell until the server is gone or no prompt is left."""
        try:
            with Client(url) as call:
                pending = call.ok("GET", f"/v1/studies/{self.id}")["pending"]
                while True:
                    if not pending:
                        answer = self._send(call, "ask", {"n": 2})
                        if answer.status == 409:
                            return
                        pending = list(answer.body["indices"])
                    index = pending.pop(0)
                    self._send(call, "tell", {"index": index, "score": score(self.number, index)})
        except (OSError, ValueError):  # killed, perhaps in the middle of a response
            return
        except Exception as error:
            if "http.client" not in type(error).__module__:
                raise

    def _send(self, call: Client, kind: str, body: dict[str, Any]) -> Any:
        self.open = (kind, body)
        reply = call("POST", f"/v1/studies/{self.id}/{kind}", body)
        if reply.status == 200:
            self.log.append((kind, reply.body["indices"] if kind == "ask" else body["index"]))
        self.open = None
        return reply

    def check(self, url: str) -> None:
        """Check that the server has all that was acknowledged and at most the open request; adopt its log."""
        with Client(url) as call:
            log = call.ok("GET", f"/v1/studies/{self.id}/state")["state"]["log"]
        found = [(kind, rest[1] if kind == "ask" else rest[0]) for kind, *rest in log]
        assert found[: len(self.log)] == self.log
        more = found[len(self.log) :]
        assert len(more) <= (self.open is not None)
        if more and self.open is not None:
            assert more[0][0] == self.open[0]
        self.log, self.open = found, None
        # Replaying the log in this process gives the same asks, bit for bit.
        optimizer = zf.Zopo(pool(M, 8, self.number), zf.ZopoConfig(**{**CONFIG, "seed": self.number}))
        for kind, value in self.log:
            if kind == "ask":
                assert optimizer.ask(2) == value
            else:
                optimizer.tell(value, score(self.number, value))


def acknowledged(hammers: list[Hammer]) -> int:
    return sum(len(hammer.log) for hammer in hammers)


def test_kill_9_at_random_moments_loses_nothing_acknowledged(tmp_path: Path) -> None:
    moments = np.random.default_rng(9).uniform(0.0, 0.5, KILLS)
    hammers: list[Hammer] = []
    for moment in moments:
        live = [hammer for hammer in hammers if len(hammer.log) < 200]  # the others soon run out of prompts
        new = [Hammer(len(hammers) + i) for i in range(4 - len(live))]
        hammers, live = hammers + new, live + new
        with Process(tmp_path / "data") as server:
            for hammer in new:
                hammer.create(server.url)
            for hammer in live:
                hammer.check(server.url)
            before = acknowledged(live)
            threads = [threading.Thread(target=hammer.run, args=(server.url,)) for hammer in live]
            for thread in threads:
                thread.start()
            until = time.monotonic() + SECONDS
            while acknowledged(live) == before:  # kill only once there is something to lose
                assert time.monotonic() < until
                time.sleep(0.001)
            time.sleep(moment)
            server.kill()
            for thread in threads:
                thread.join(SECONDS)
    print(f"{KILLS} kills, {len(hammers)} studies, {acknowledged(hammers)} asks and tells acknowledged")
    with Process(tmp_path / "data") as server:
        for hammer in hammers:
            hammer.check(server.url)
        assert server.stop() == 0
    with Process(tmp_path / "data") as server:  # the checkpoint at shutdown emptied the journal
        for hammer in hammers:
            hammer.check(server.url)


# ---- failed writes -----------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="resource.prlimit needs Linux")
def test_changes_are_refused_while_the_disk_cannot_be_written(tmp_path: Path) -> None:
    import resource

    with Process(tmp_path / "data") as server, Client(server.url) as call:
        pid = server.process.pid
        study = call.study(m=M, budget=300)
        optimizer = zf.Zopo(pool(M), zf.ZopoConfig(budget=300, initial=5, seed=0))
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        for _ in range(3):
            answer = call.ok("POST", f"/v1/studies/{study}/ask")["indices"]
            assert answer == [optimizer.ask()]
            for size in (0, hard):  # forbid the process to grow any file, then allow it again
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
                reply = call("POST", f"/v1/studies/{study}/tell", {"index": answer[0], "score": 0.5})
                assert reply.status == (200 if size else 503), reply
                if not size:
                    assert reply.body["error"] == "StoreError"
                    assert call("POST", f"/v1/studies/{study}/ask").status == 503
            optimizer.tell(answer[0], 0.5)
        shown = call.ok("GET", f"/v1/studies/{study}")
        assert (shown["asked"], shown["scored"], shown["pending"]) == (3, 3, [])
        assert call.ok("POST", f"/v1/studies/{study}/ask")["indices"] == [optimizer.ask()]
        assert server.stop() == 0


# ---- order of the system calls -----------------------------------------------------------------------


def traced() -> str | None:
    """Return why system calls cannot be traced here; None if they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(
        ["strace", "-o", os.devnull, sys.executable, "-c", ""], capture_output=True, check=False
    )
    return None if done.returncode == 0 else f"strace cannot trace here: {done.stderr.decode()[:200]}"


@pytest.mark.skipif(traced() is not None, reason=str(traced()))
@pytest.mark.parametrize("rest", ['"score":0.125}', '"score":0.5,"ask":1}'])
def test_an_acknowledgement_follows_an_fdatasync_that_follows_the_tell(tmp_path: Path, rest: str) -> None:
    index, trace = 7, tmp_path / "trace"
    body = f'{{"index":{index},{rest}'
    wrapped = ("strace", "-f", "-s", "8000", "-o", str(trace), "-e",
               "trace=read,recvfrom,recvmsg,write,pwrite64,writev,sendto,fdatasync,fsync")  # fmt: skip
    with Process(tmp_path / "data", wrapped=wrapped) as server, Client(server.url) as call:
        study = call.study()
        reply = call("POST", f"/v1/studies/{study}/tell", body.encode())
        assert reply.status == 200
        assert server.stop() == 0
    lines = trace.read_text(errors="replace").splitlines()
    quoted = body.replace('"', '\\"')
    arrived = next(i for i, line in enumerate(lines) if "/tell HTTP/1.1" in line and "POST" in line)
    arrived = next(i for i in range(arrived, len(lines)) if quoted in lines[i])
    answered = next(
        i for i in range(arrived, len(lines))
        if re.search(r"(write|writev|sendto|sendmsg)\(", lines[i]) and "HTTP/1.1 200 OK" in lines[i]
    )  # fmt: skip
    between = lines[arrived:answered]
    # The fdatasync returned before the response was written.
    synced = [i for i, line in enumerate(between) if re.search(r"(fdatasync|fsync)(\(| resumed).*= 0", line)]
    assert synced, "\n".join(between)
    # The journal page with this tell was written before that fdatasync.
    written = [i for i, line in enumerate(between) if "pwrite64(" in line and f',\\"tell\\",[{index}' in line]
    assert written, "\n".join(between)
    assert written[0] < synced[-1]
