"""Forked children: objects work there as in the parent, or refuse with the reason; nothing hangs."""

from __future__ import annotations

import asyncio
import functools
import gc
import multiprocessing
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from thread_tools import Gate, inside
from time_tools import HANG, until

import zopo_fast as zf
from zopo_fast._utils import fork as forks
from zopo_fast.gp import device
from zopo_fast.llm import local

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # Python 3.12, where there are threads
]

TESTS = Path(__file__).parents[1] / "support"
Z = np.random.default_rng(0).normal(size=(200, 12))
KERNEL = zf.NTK.random(12, seed=0)


def in_child(work: Callable[[], Any]) -> Any:
    """Run `work` in a forked child; return its result, or the exception that it raised there."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            outcome = work()
        except BaseException as error:
            outcome = error
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(outcome, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        ready = select.select([pipe], [], [], HANG)[0]
        if not ready:
            os.kill(pid, signal.SIGKILL)
        content = pipe.read()
    status = os.waitpid(pid, 0)[1]
    assert ready, f"the child hangs: no result after {HANG} s"
    assert status == 0
    return pickle.loads(content)


def advance(opt: zf.Zopo, asks: int = 25) -> list[int]:
    asked = []
    for _ in range(asks):
        asked.append(opt.ask())
        opt.tell(asked[-1], float(Z[asked[-1], 0]))
    return asked


@pytest.mark.parametrize(
    "config",
    [zf.ZopoConfig, functools.partial(zf.ZopoConfig, search="gradient"), zf.ZopoConfig.official],
    ids=["default", "gradient", "official"],
)
def test_a_search_continues_alike_in_parent_and_child(config: Callable[..., zf.ZopoConfig]) -> None:
    opt = zf.Zopo(Z, config(budget=60, initial=10, seed=3))
    advance(opt)
    pending = opt.ask(2)

    def work() -> tuple[Any, ...]:
        return opt.pending, advance(opt), opt.best, opt.state_dict()

    there, here = in_child(work), work()
    assert here[0] == pending
    assert there == here


def test_gaussian_process_and_batch_continue_in_a_child() -> None:
    gp = zf.GaussianProcess(KERNEL, noise=1.0)
    gp.append(Z[:20], Z[:20, 0])
    batch = zf.ZopoBatch([Z, Z[:50]], zf.ZopoConfig(search="gradient", budget=40, initial=10))

    def work() -> list[Any]:
        gp.append(Z[20:30], Z[20:30, 0])
        gp.remove(3)
        found = [*gp.posterior(Z[50:60])]
        for _ in range(12):
            indices = batch.ask()
            batch.tell(indices, Z[indices, 0])
            found.append(indices)
        return found

    for there, here in zip(in_child(work), work(), strict=True):
        np.testing.assert_array_equal(there, here)


def test_native_threads_are_started_again_in_a_child() -> None:
    """The Gram matrix is large enough for several threads, before the fork and after it."""
    X = np.random.default_rng(1).normal(size=(700, 12))
    zf.set_num_threads(4)
    try:
        here = KERNEL.gram(X)
        np.testing.assert_array_equal(in_child(lambda: KERNEL.gram(X)), here)
    finally:
        zf.set_num_threads(0)


def _report(opt: zf.Zopo, to: Any) -> None:
    to.send(advance(opt))
    to.close()


def test_children_of_multiprocessing() -> None:
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=60, initial=10, seed=3))
    advance(opt, 12)
    context = multiprocessing.get_context("fork")
    answers, children = [], []
    for _ in range(2):
        reader, writer = context.Pipe(duplex=False)
        children.append(context.Process(target=_report, args=(opt, writer)))
        children[-1].start()
        writer.close()
        answers.append(reader.recv() if reader.poll(HANG) else None)
        reader.close()
    for child in children:
        child.join(HANG)
        assert child.exitcode == 0
    assert answers == [advance(opt)] * 2


def refused_in_child(gp: zf.GaussianProcess) -> list[Any]:
    """Call `gp` from the child's first thread and from new ones, which may get the lost thread's id."""

    def attempt() -> None:
        for call in (len, lambda gp: gp.posterior(Z[0]), lambda gp: gp.append(Z[0], 1.0)):
            try:
                found.append(call(gp))
            except zf.ZopoError as error:
                found.append(error)

    found: list[Any] = []
    attempt()
    threads = [threading.Thread(target=attempt) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other = zf.GaussianProcess(KERNEL)  # an object that no thread was using works
    other.append(Z[0], 1.0)
    return [*found, len(other)]


def assert_refused(found: list[Any], kind: type[zf.ZopoError], what: str) -> None:
    *errors, other = found
    assert (len(errors), other) == (12, 1)
    for error in errors:
        assert type(error) is kind, error
        assert what in str(error)


def test_a_fork_while_another_thread_is_inside() -> None:
    gp = zf.GaussianProcess(KERNEL, noise=1.0)
    gp.append(Z[:4], np.arange(4.0))
    gate = Gate(Z[4])
    with inside(lambda: gp.append(gate, 4.0), gate):
        found = in_child(lambda: refused_in_child(gp))
    assert_refused(found, zf.ConcurrentUseError, "when this process was forked")
    assert len(gp) == 5  # the call in the parent is complete
    assert in_child(lambda: len(gp)) == 5


def test_a_fork_while_another_thread_holds_the_native_lock() -> None:
    """A lock that a long native call holds at the fork is never released in the child."""
    gp = zf.GaussianProcess(KERNEL, noise=1.0)
    X = np.random.default_rng(2).normal(size=(1000, 12))
    gp.append(X, X[:, 0])

    def is_held() -> bool:
        try:
            return len(gp) < 0
        except zf.ConcurrentUseError:
            return True

    # The call takes four times as long with each attempt, until the fork falls into it.
    for copies in (30, 120, 480, 1920):
        points = np.tile(X, (copies, 1))
        thread = threading.Thread(target=gp.predict, args=(points,))
        thread.start()
        until(lambda thread=thread: is_held() or not thread.is_alive())
        time.sleep(0.01)  # the check of the arguments comes before the native call
        found = in_child(lambda: refused_in_child(gp))
        was_held = is_held()
        thread.join()
        if was_held:
            break
    assert was_held, "every call was over before the fork"
    assert_refused(found, zf.ConcurrentUseError, "when this process was forked")
    assert len(gp) == 1000


def test_an_object_on_a_cuda_device_is_refused_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    gp = zf.GaussianProcess(KERNEL)
    gp._access.device = "cuda:0"  # without a device
    assert_refused(in_child(lambda: refused_in_child(gp)), zf.DeviceError, "lies on cuda:0")
    monkeypatch.setattr(device, "_users", {os.getpid()})

    def look() -> list[Any]:
        try:
            KERNEL.gram(Z, device="cuda")
        except zf.DeviceError as error:
            return [zf.cuda_available(), zf.cuda_status(), str(error)]
        return []

    available, status, error = in_child(look)
    assert not available
    assert "was in use when this process was forked" in status
    assert status in error


def test_hooks_run_in_the_child_while_their_object_lives() -> None:
    class Listed:
        def __init__(self) -> None:
            self.told = 0
            forks.register_for_fork(self)

        def after_fork_in_child(self) -> None:
            self.told += 1

    kept, gone = Listed(), Listed()
    names = {id(kept), id(gone)}
    del gone
    gc.collect()
    assert in_child(lambda: [thing.told for thing in forks._registered if id(thing) in names]) == [1]
    assert kept.told == 0


# ---- clients ---------------------------------------------------------------------------------------------


def script(code: str, *arguments: str) -> list[str]:
    """Run a program under -X dev with warnings as errors; return its lines, stderr must stay empty."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-W", "ignore:.*fork:DeprecationWarning"]
    done = subprocess.run(
        [*command, "-c", code, *arguments],
        capture_output=True, text=True, timeout=HANG, check=False, cwd=TESTS,
    )  # fmt: skip
    told = [
        line for line in done.stderr.splitlines() if not line.startswith("Executing <")
    ]  # asyncio reports slow callbacks
    assert (done.returncode, told) == (0, []), done
    return done.stdout.splitlines()


CLIENT = """
import asyncio, gc, os, sys, threading
import zopo_fast as zf
from fake_server import FakeServer

HELLO = [{"role": "user", "content": "hello"}]
servers = asyncio.new_event_loop()
thread = threading.Thread(target=servers.run_forever)
thread.start()

def there(work):
    return asyncio.run_coroutine_threadsafe(work, servers).result(60)

server = FakeServer()
there(server.__aenter__())
client = zf.OpenAIClient(zf.ClientConfig("m", base_url=server.url, api_key="k"))
loop = asyncio.new_event_loop()
loop.run_until_complete(client.chat(HELLO))
pid = os.fork()
if pid == 0:
    run = asyncio.run if sys.argv[1] == "new" else loop.run_until_complete
    for _ in range(2):
        run(client.chat(HELLO))
    del client
    gc.collect()
    print("child", len(server.connections), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print("connections", len(server.connections))
for _ in range(2):
    answer = loop.run_until_complete(asyncio.wait_for(client.chat(HELLO), 60))
print("parent", answer.text, len(server.connections), client.usage.calls)
loop.run_until_complete(client.aclose())
loop.close()
there(server.__aexit__(None, None, None))
servers.call_soon_threadsafe(servers.stop)
thread.join()
servers.close()
"""


@pytest.mark.parametrize(("loop", "connections"), [("new", 3), ("the parent's", 2)])
def test_a_client_opens_connections_of_its_own_in_a_child(loop: str, connections: int) -> None:
    """The parent's connection stays open and unused, even if the child runs the parent's event loop."""
    lines = script(CLIENT, loop)
    assert lines == ["child 1", f"connections {connections}", f"parent hello {connections} 3"]


SESSION = """
import asyncio, os
import aiohttp, zopo_fast as zf

async def main():
    async with aiohttp.ClientSession() as session:
        client = zf.OpenAIClient(zf.ClientConfig("m", base_url="http://127.0.0.1:9/v1"), session=session)
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(client.chat([{"role": "user", "content": "hello"}]))
            except zf.ConfigError as error:
                print(error, flush=True)
            os._exit(0)
        os.waitpid(pid, 0)

asyncio.run(main())
"""


def test_a_session_of_the_parent_is_refused_in_a_child() -> None:
    assert script(SESSION) == [
        "session: it belongs to the parent process; create a client in the forked process"
    ]


def test_the_embedded_model_is_refused_in_a_child_of_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child lacks llama.cpp's threads: calling or freeing the server there would hang."""
    server = local._LlamaServer(lambda _: None, verbose=False)
    server._client = zf.OpenAIClient(zf.ClientConfig("m", base_url="http://127.0.0.1:9/v1"))
    server._server = object()
    monkeypatch.setattr(local, "_loaded_by", {os.getpid()})
    monkeypatch.setattr(local, "_engine", lambda: None)
    server._lock.acquire()  # as while it is loaded: the child must not wait for the lock

    def work() -> Any:
        assert server._server is None
        return asyncio.run(server.client(Path("m.gguf"), 1))

    error = in_child(work)
    assert isinstance(error, zf.ConfigError)
    assert "in use when this process was forked" in str(error)
    assert server._server is not None
