"""What goes to another process or into a copy comes out as it was: objects, results, and every error."""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast import errors
from zopo_fast.llm.types import Answer, Usage
from zopo_fast.runs.result import HeldOut, Interval

Z = np.random.default_rng(0).normal(size=(80, 12))
WAYS: dict[str, Callable[[Any], Any]] = {
    **{
        f"pickle {protocol}": lambda thing, protocol=protocol: pickle.loads(pickle.dumps(thing, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}
way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)

# ---- errors ----------------------------------------------------------------------------------------------

KINDS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.ZopoError)
}


def made(kind: type[BaseException]) -> list[BaseException]:
    """Errors of that kind as they are raised, with whatever they can carry."""
    if issubclass(kind, errors._FileError):
        given = [{}, {"path": "pool.jsonl"}, {"path": Path("pool.jsonl"), "line": 7}]
        made = [kind("no prompt", **arguments) for arguments in given]
    elif kind is zf.LimitReachedError:
        made = [kind("no call is left", limit) for limit in ("calls", "tokens", "cost", "time")]
    else:
        made = [kind(f"a {kind.__name__}"), kind()]
    for error in made:
        error.example_index = 3  # type: ignore[attr-defined] - an attribute that the evaluation adds
        error.__notes__ = ["said later"]  # what add_note() of Python 3.11 keeps
    return made


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_error(kind: type[BaseException]) -> None:
    for error in made(kind):
        for name, way in WAYS.items():
            again = way(error)
            assert type(again) is kind, name
            assert (str(again), again.args) == (str(error), error.args), name
            assert vars(again) == vars(error), name


def test_the_errors_are_all_there() -> None:
    """The one above can fail: the kinds are found, and those that carry something carry it."""
    assert len(KINDS) >= 35
    assert {"LimitReachedError", "TaskError", "StoreBusyError", "ConcurrentUseError"} <= set(KINDS)
    assert vars(made(zf.TaskError)[2])["line"] == 7


# ---- plain data ------------------------------------------------------------------------------------------

TRIAL = zf.Trial(1, 4, "Do it.", 0.5, (0.0, 1.0), Usage(9, 2, 1), 0.1, 0.5, Usage(9, 2, 1), None, (0, 3))
DATA = [
    zf.ZopoConfig(budget=30, initial=[1, 2, 3], search="gradient"),
    zf.ZopoConfig.official(budget=30, initial=4),
    zf.RunConfig(budget=9, incumbent="Do it.", score_range=(0.0, 2.0)),
    zf.ClientConfig("m", base_url="http://localhost:1/v1", headers={"a": "b"}, body={"temperature": 0}),
    zf.InfiniteNTK(3, bias_variance=0.5, parametrization="ntk"),
    zf.Example("in", ("out", "or")),
    zf.Task("toy", (zf.Example("in", ("out",)),), (zf.Example("other", ("out",)),), "f1"),
    zf.Pool.from_texts(["Do it.", "Do that.", "Do it. "]),
    zf.Pool(("Do it.", "Do that."), (2, 1), {1: 0.5}),
    zf.Posterior(1.0, 2.0, (0.0, 1.0), 3.0),
    Usage(1, 2, 3),
    Answer("yes", Usage(1, 2, 3)),
    Interval(0.1, 0.0, 0.2),
    HeldOut("winner", "Do it.", None, 0.5, (0.0, 1.0), Interval(0.1, 0.0, 0.2)),
    TRIAL,
]


@pytest.mark.parametrize("thing", DATA, ids=lambda thing: type(thing).__name__)
def test_settings_and_results(thing: Any) -> None:
    for name, way in WAYS.items():
        again = way(thing)
        assert type(again) is type(thing), name
        assert again == thing, name
        if dataclasses.is_dataclass(thing):
            assert dataclasses.asdict(again) == dataclasses.asdict(thing), name  # type: ignore[arg-type]


@way
def test_a_result_with_its_error(way: Callable[[Any], Any]) -> None:
    result = zf.Result(
        "Do it.", 0.5, 4, [TRIAL], Usage(9, 2, 1), "error", 0.2, error=zf.RateLimitError("429")
    )
    again = way(result)
    assert (type(again.error), str(again.error)) == (zf.RateLimitError, "429")
    assert dataclasses.replace(again, error=None) == dataclasses.replace(result, error=None)


# ---- objects ---------------------------------------------------------------------------------------------


def go_on(opt: zf.Zopo, asks: int = 15) -> list[int]:
    asked = []
    for _ in range(asks):
        asked.append(opt.ask())
        opt.tell(asked[-1], float(Z[asked[-1], 0]))
    return asked


@way
@pytest.mark.parametrize(
    "config",
    [zf.ZopoConfig, functools.partial(zf.ZopoConfig, search="gradient"), zf.ZopoConfig.official],
    ids=["default", "gradient", "official"],
)
def test_an_optimizer_goes_on_alike(config: Callable[..., zf.ZopoConfig], way: Callable[[Any], Any]) -> None:
    opt = zf.Zopo(Z, config(budget=60, initial=10, seed=3))
    go_on(opt)
    opt.ask(2)
    again = way(opt)
    assert (again.pending, again.best, again.config) == (opt.pending, opt.best, opt.config)
    asked = go_on(again)
    assert len(opt.pending) == 2  # the two have nothing in common that changes
    assert asked == go_on(opt)
    assert again.state_dict() == opt.state_dict()


@way
def test_a_batch_goes_on_alike(way: Callable[[Any], Any]) -> None:
    batch = zf.ZopoBatch([Z, Z[:50]], zf.ZopoConfig(search="gradient", budget=30, initial=5))

    def steps(batch: zf.ZopoBatch) -> list[Any]:
        out = []
        for _ in range(10):
            indices = batch.ask()
            batch.tell(indices, Z[indices, 0])
            out.append(indices.tolist())
        return out

    steps(batch)
    again = way(batch)
    assert len(again) == 2
    assert steps(again) == steps(batch)


@way
def test_a_process_answers_alike(way: Callable[[Any], Any]) -> None:
    gp = zf.GaussianProcess(zf.NTK.random(12, seed=1), noise=0.5)
    gp.append(Z[:20], Z[:20, 0])
    gp.append(Z[20], 1.0, noise=2.0)
    again = way(gp)
    assert (len(again), again.default_noise) == (21, 0.5)
    assert again.number != gp.number
    gp.append(Z[21], 0.0)
    again.append(Z[21], 0.0)
    posterior = again.posterior(Z[30:40])
    assert type(posterior) is zf.Posterior
    for mine, theirs in zip(posterior, gp.posterior(Z[30:40]), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-10)
    gp.pop()
    assert len(again) == 22


@way
def test_a_kernel_answers_alike(way: Callable[[Any], Any]) -> None:
    for kernel in (zf.NTK.random(12, seed=1), zf.NTK([np.eye(3, 12), np.ones((1, 3))], [np.ones(3), [0.0]])):
        again = way(kernel)
        assert again.recipe == kernel.recipe
        np.testing.assert_array_equal(again.gram(Z), kernel.gram(Z))
        assert not again.weights[0].flags.writeable


@way
def test_a_posterior_s_arrays(way: Callable[[Any], Any]) -> None:
    gp = zf.GaussianProcess(zf.NTK.random(12, seed=1), noise=0.5)
    gp.append(Z[:20], Z[:20, 0])
    posterior = gp.posterior(Z[30:40])
    for mine, theirs in zip(way(posterior), posterior, strict=True):
        np.testing.assert_array_equal(mine, theirs)


# ---- another process -------------------------------------------------------------------------------------


def work(opt: zf.Zopo, gp: zf.GaussianProcess) -> tuple[list[int], Any, zf.Zopo]:
    return go_on(opt), gp.posterior(Z[:5]), opt


def fail(kind: str) -> None:
    raise made(getattr(importlib.import_module("zopo_fast.errors"), kind))[-1]


def test_objects_and_errors_go_through_a_spawned_process() -> None:
    """As to a pool of workers: there and back, and what is raised there is raised here."""
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=60, initial=10, seed=3))
    go_on(opt)
    gp = zf.GaussianProcess(zf.NTK.random(12, seed=1), noise=0.5)
    gp.append(Z[:20], Z[:20, 0])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply_async(work, (opt, gp))
        failing = {kind: pool.apply_async(fail, (kind,)) for kind in ("PoolError", "LimitReachedError")}
        asked, posterior, back = there.get(60)
        for kind, answer in failing.items():
            with pytest.raises(getattr(errors, kind)) as caught:
                answer.get(60)
            expected = made(getattr(errors, kind))[-1]
            assert str(caught.value) == str(expected)
            assert caught.value.example_index == 3
        pool.close()
        pool.join()
    assert asked == go_on(opt)
    assert back.state_dict() == opt.state_dict()
    for mine, theirs in zip(posterior, gp.posterior(Z[:5]), strict=True):
        np.testing.assert_array_equal(mine, theirs)
