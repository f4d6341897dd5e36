"""Exclusive access: a second thread is refused while another is inside a call, and accepted afterwards."""

from __future__ import annotations

import copy
import functools
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from thread_tools import Gate, at_once, frequent_switches, inside
from time_tools import HANG

import zopo_fast as zf

__all__ = ["frequent_switches"]

Z = np.random.default_rng(0).normal(size=(200, 12))
KERNEL = zf.NTK.random(12, seed=0)


class Watched:
    """Native search that calls a function in the middle of each ask."""

    def __init__(self, native: Any, before: Callable[[], Any]) -> None:
        self._native, self._before = native, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def ask(self, number: int) -> int:
        self._before()
        return int(self._native.ask(number))


def held_in_ask(opt: zf.Zopo, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Make the next ask() wait in the middle until the gate is opened."""
    gate = Gate(None)
    monkeypatch.setattr(opt, "_native", Watched(opt._native, gate))
    return gate


OF_ZOPO: dict[str, Callable[[zf.Zopo], Any]] = {
    "ask": lambda opt: opt.ask(),
    "ask(n)": lambda opt: opt.ask(2),
    "tell": lambda opt: opt.tell(0, 1.0),
    "discard": lambda opt: opt.discard(0),
    "add": lambda opt: opt.add(Z[:1]),
    "best": lambda opt: opt.best,
    "pending": lambda opt: opt.pending,
    "done": lambda opt: opt.done,
    "state_dict": lambda opt: opt.state_dict(),
}


def test_zopo_refuses_a_second_thread_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=20, initial=5))
    opt.tell(opt.ask(), 1.0)
    proposal = copy.copy(opt).ask()
    with monkeypatch.context() as patch:
        gate = held_in_ask(opt, patch)
        with inside(opt.ask, gate):
            for name, call in OF_ZOPO.items():
                with pytest.raises(zf.ConcurrentUseError, match="Zopo: called from thread 'MainThread'") as e:
                    call(opt)
                assert "hold a lock around each call, or give each thread an object" in str(e.value), name
    # The first call returned its proposal, the refused ones changed nothing, and every call works again.
    assert opt.pending == [proposal]
    assert [entry[0] for entry in opt.state_dict()["log"]] == ["ask", "tell", "ask"]
    again = zf.Zopo.from_state(Z, opt.state_dict())
    answers: list[Any] = []
    at_once(lambda: answers.append(opt.ask(3)))  # from a thread that has not used the object before
    assert answers == [again.ask(3)]


OF_PROCESS: dict[str, Callable[[zf.GaussianProcess], Any]] = {
    "append": lambda gp: gp.append(Z[5], 1.0),
    "pop": lambda gp: gp.pop(),
    "remove": lambda gp: gp.remove(0),
    "len": len,
    "jitter": lambda gp: gp.jitter,
    "posterior": lambda gp: gp.posterior(Z[:2]),
    "predict": lambda gp: gp.predict(Z[:2]),
    "derivatives": lambda gp: gp.derivatives(Z[:2]),
    "gradient_covariance": lambda gp: gp.gradient_covariance(Z[0]),
    "log_marginal_likelihood": lambda gp: gp.log_marginal_likelihood(),
    "pickle": lambda gp: gp.__getstate__(),
}


@pytest.mark.parametrize("change", [True, False], ids=["in append", "in posterior"])
def test_process_refuses_a_second_thread(change: bool) -> None:
    gp = zf.GaussianProcess(KERNEL, noise=1.0)
    gp.append(Z[:4], np.arange(4.0))
    gate = Gate(Z[4])
    with inside(lambda: gp.append(gate, 4.0) if change else gp.posterior(gate), gate):
        for call in OF_PROCESS.values():
            with pytest.raises(zf.ConcurrentUseError, match=r"GaussianProcess: .*one thread at a time"):
                call(gp)
    assert len(gp) == 4 + change
    for call in OF_PROCESS.values():
        at_once(functools.partial(call, gp))
    assert len(gp) == 3 + change


OF_BATCH: dict[str, Callable[[zf.ZopoBatch], Any]] = {
    "ask": lambda batch: batch.ask(),
    "tell": lambda batch: batch.tell([0, 0], [1.0, 1.0]),
    "done": lambda batch: batch.done,
    "pending": lambda batch: batch.pending,
    "best": lambda batch: batch.best,
    "gradient_uncertainty": lambda batch: batch.gradient_uncertainty,
    "state_dict": lambda batch: batch.state_dict(),
    "discard": lambda batch: batch.discard([-1, -1]),
    **{
        f"search, {name}": lambda batch, call=call: call(batch[1])  # type: ignore[misc]
        for name, call in OF_ZOPO.items()
    },
}


def test_batch_refuses_a_second_thread() -> None:
    batch = zf.ZopoBatch([Z, Z])
    gate = Gate(None)

    def hold() -> None:
        with batch._access:
            gate()

    with inside(hold, gate):
        for call in OF_BATCH.values():
            with pytest.raises(zf.ConcurrentUseError, match=r"ZopoBatch: .*one thread at a time"):
                call(batch)
    at_once(batch.ask)
    assert (batch.pending >= 0).all()


@pytest.mark.parametrize(
    "config",
    [zf.ZopoConfig, functools.partial(zf.ZopoConfig, search="gradient"), zf.ZopoConfig.official],
    ids=["default", "gradient", "official"],
)
def test_one_optimizer_is_shared_by_threads_with_a_lock(config: Callable[..., zf.ZopoConfig]) -> None:
    """Four workers score every prompt once, keep to the budget, and leave a log that restores."""
    opt, lock = zf.Zopo(Z, config(budget=150, initial=20, seed=4)), threading.Lock()
    stop = time.monotonic() + HANG
    asked: list[int] = []

    def work() -> None:
        while True:
            assert time.monotonic() < stop, "the run does not end"
            try:
                with lock:
                    if opt.done:
                        return
                    i = opt.ask()
            except zf.NothingToAsk:  # the rest is pending with the other workers
                continue
            asked.append(i)
            with lock:
                if len(asked) % 7 == 0:
                    opt.tell(i, 0.0, final=False)
                opt.tell(i, float(Z[i, 0]))

    at_once(work, work, work, work)
    assert len(asked) == len(set(asked)) == 150
    assert opt.pending == []
    assert opt.best[1] == max(Z[asked, 0])
    assert zf.Zopo.from_state(Z, opt.state_dict()).best == opt.best


def test_threads_without_a_lock_are_refused_and_tear_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call is complete or refused; every tenth proposal waits until another thread was refused."""
    opt, stop = zf.Zopo(Z, zf.ZopoConfig(budget=150, initial=20, seed=4)), time.monotonic() + HANG
    told: dict[int, float] = {}
    refused, numbers = threading.Event(), itertools.count()

    def colliding() -> None:
        # As long as a prompt is left, the others go on calling; after that nobody would be refused.
        if next(numbers) % 10 == 0 and len(told) < 150:
            refused.clear()
            assert refused.wait(HANG), "no other thread was refused"

    monkeypatch.setattr(opt, "_native", Watched(opt._native, colliding))

    def persist(call: Callable[[], Any]) -> Any:
        while True:
            assert time.monotonic() < stop, "the run does not end"
            try:
                return call()
            except zf.ConcurrentUseError:
                refused.set()
                time.sleep(1e-6)

    def work() -> None:
        while not persist(lambda: opt.done):
            try:
                i = persist(opt.ask)
            except zf.NothingToAsk:
                continue
            assert i not in told
            told[i] = float(Z[i, 0])
            persist(lambda i=i: opt.tell(i, told[i]))

    at_once(work, work, work, work)
    assert next(numbers) > 100
    assert len(told) == 150
    again = zf.Zopo.from_state(Z, opt.state_dict())
    assert (again.best, again.done) == (opt.best, True)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no signals to send")
def test_a_signal_handler_may_read_but_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler runs in the thread that is inside the call: waiting for that call would never end."""
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=100, initial=90))
    opt.tell(opt.ask(), 1.0)
    proposal, seen, refused = copy.copy(opt).ask(), [], []

    def handler(*_: object) -> None:
        seen.append((opt.best[1], opt.pending, opt.done))
        for name in ("ask", "ask(n)", "tell", "discard", "add", "state_dict"):
            with pytest.raises(zf.ConcurrentUseError, match="in the middle of another call of the same"):
                OF_ZOPO[name](opt)
            refused.append(name)

    monkeypatch.setattr(opt, "_native", Watched(opt._native, lambda: os.kill(os.getpid(), signal.SIGALRM)))
    before = signal.signal(signal.SIGALRM, handler)
    try:
        assert opt.ask() == proposal
    finally:
        signal.signal(signal.SIGALRM, before)
    assert seen == [(1.0, [], False)]
    assert len(refused) == 6
    assert (opt.pending, opt.best[1]) == ([proposal], 1.0)  # access was released completely
    at_once(lambda: opt.tell(proposal, 2.0))


def test_a_signal_handler_reads_a_consistent_state_at_every_line() -> None:
    """A signal may interrupt ask and tell anywhere: here it does at each line that they execute."""
    opt, scored = zf.Zopo(Z, zf.ZopoConfig(budget=30, initial=5, seed=1)), {7: -3.0}
    opt.tell(7, -3.0)
    seen: list[float] = []

    def look(frame: Any, event: str, argument: Any) -> Any:
        if event == "line" and frame.f_code.co_filename.endswith("optimizer.py"):
            index, score = opt.best
            assert scored[index] == score
            assert len(opt.pending) <= 1
            seen.append(score)
        return look

    before = sys.gettrace()
    while not opt.done:
        sys.settrace(look)
        try:
            i = opt.ask()
            scored[i] = float(Z[i, 0])
            opt.tell(i, scored[i])
        finally:
            sys.settrace(before)
    assert len(seen) > 300
    assert seen == sorted(seen)
    assert opt.best[1] == max(scored.values())


def test_refused_and_failed_calls_release_access() -> None:
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=3, initial=3))
    opt.tell(0, 1.0)
    failing: list[tuple[type[Exception], Callable[[], Any]]] = [
        (zf.ConflictingScoreError, lambda: opt.tell(0, 2.0)),
        (zf.UnknownIndexError, lambda: opt.discard(0)),
    ]
    for kind, call in failing:
        with pytest.raises(kind):
            call()
    gp = zf.GaussianProcess(KERNEL)
    with pytest.raises(zf.UnknownIndexError):
        gp.pop()
    with pytest.raises(zf.ArrayError):
        gp.posterior(Z[:, :3])
    at_once(opt.ask, lambda: gp.append(Z[0], 1.0))
