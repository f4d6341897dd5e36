"""Invalid arrays and extreme numbers: calls work or raise typed errors, and never hang."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hostile_tools import HUGE, arrays, damaged, numbers, typed
from hypothesis import Phase, given, settings, strategies as st

import zopo_fast as zf

D = 3
NO_SHRINKING = (Phase.explicit, Phase.generate)  # shrinking a whole run would take minutes
# Documented behaviour: a kernel of duplicates has no factor, a pool may be smaller than the budget.
SAID = pytest.mark.filterwarnings(
    "ignore:the kernel matrix was not positive definite:RuntimeWarning",
    "ignore:budget .* is larger than the pool:UserWarning",
)


@given(arrays(4, D), arrays(D), arrays(2, D), arrays(4, 2), st.sampled_from([None, 1.0, 1e200, 1e-200]))
def test_kernels_of_any_arrays(X: Any, x: Any, Y: Any, weight: Any, size: float | None) -> None:
    finite = zf.NTK.random(D, width=4, seed=1)
    if size is not None:
        finite = zf.NTK([w * size for w in finite.weights], finite.biases)
    for kernel in (finite, zf.InfiniteNTK(), zf.InfiniteNTK(depth=1, weight_variance=1e300, bias_variance=0)):
        typed(kernel.gram, X)
        typed(kernel.gram, X, Y)
        typed(kernel.diag, X)
        typed(kernel.gradient, x, X)
        typed(kernel.gram_gradient, X, Y, weight)
        typed(kernel.gradient_prior_trace, x)


@given(st.lists(arrays(2, 2), max_size=3), st.lists(arrays(2), max_size=3), numbers)
def test_networks_of_any_weights(weights: list[Any], biases: list[Any], number: Any) -> None:
    typed(zf.NTK, weights, biases)
    for name in ("dim", "width", "depth", "seed", "initialization"):
        typed(zf.NTK.random, **{"dim": 2, "width": 2, name: number})
    for name in ("depth", "weight_variance", "bias_variance", "parametrization"):
        kernel = typed(zf.InfiniteNTK, **{name: number})
        if kernel is not None:
            typed(kernel.gram, np.eye(2))
    typed(zf.set_num_threads, number)
    zf.set_num_threads(0)


def test_absurd_sizes_are_refused_at_once() -> None:
    for sizes in ({"width": 10**12}, {"depth": 10**12}, {"dim": 2**62}, {"width": 2**14, "depth": 3}):
        with pytest.raises(zf.ConfigError, match="too large"):
            zf.NTK.random(**{"dim": 2, **sizes})
    with pytest.raises(zf.ConfigError, match="from 1 to 1000"):
        zf.InfiniteNTK(depth=10**9)
    with pytest.raises(zf.ConfigError, match="at most 4096"):
        zf.set_num_threads(2**40)
    with pytest.raises(zf.ConfigError, match="128 bits"):
        zf.ZopoConfig(seed=HUGE)


def test_a_kernel_that_overflows_is_an_error() -> None:
    kernel = zf.InfiniteNTK(depth=1000, weight_variance=10.0)
    for call in (kernel.gram, kernel.diag, lambda X: kernel.gradient(X[0], X)):
        with pytest.raises(zf.ArrayError, match="beyond float64"):
            call(np.eye(3))


def test_masked_entries_are_refused() -> None:
    masked = np.ma.masked_array(np.eye(3), mask=np.eye(3))
    with pytest.raises(zf.ArrayError, match="masked"):
        zf.NTK.random(3).gram(masked)
    nothing = np.ma.masked_array(np.eye(3), mask=False)
    assert np.array_equal(zf.NTK.random(3).gram(nothing), zf.NTK.random(3).gram(np.eye(3)))


@SAID
@given(st.data(), arrays(4, D), arrays(4), st.one_of(st.none(), numbers, arrays(4)), arrays(2, D))
def test_gaussian_process_of_any_arrays(data: st.DataObject, X: Any, y: Any, noise: Any, Q: Any) -> None:
    default = data.draw(st.sampled_from([1e-4, 0.0, 1e308, 5e-324]))
    gp = zf.GaussianProcess(zf.NTK.random(D, width=4), noise=default)
    typed(zf.GaussianProcess, gp.kernel, noise=noise)
    gp.append(np.eye(2, D), np.ones(2), 1.0)
    typed(gp.append, X, y, noise)
    for call in (gp.posterior, gp.predict, gp.derivatives, gp.gradient_covariance):
        typed(call, Q)
    typed(gp.log_marginal_likelihood)
    typed(gp.remove, data.draw(numbers), also=(IndexError,))
    typed(gp.pop)
    typed(gp.posterior, np.ones(D))


@st.composite
def configs(draw: st.DrawFn) -> zf.ZopoConfig:
    size = st.sampled_from([1, 2, 5, 20, 10**9, 2**53])
    if draw(st.integers(0, 4)) == 0:
        return zf.ZopoConfig.official(
            budget=draw(size), initial=draw(st.sampled_from([1, 3])),
            lr=draw(st.sampled_from([0.0, 0.01, 1e308])),
            gp_queries=draw(size), neighbors=draw(size), uncertainty_count=draw(size), tolerance=draw(size),
            max_steps=draw(st.sampled_from([1, 2, 1000])), sigma=draw(st.sampled_from([0.0, 0.01, 1e150])),
            uncertainty_threshold=draw(st.sampled_from([0.0, 0.01, 1e308])),
        )  # fmt: skip
    return zf.ZopoConfig(
        budget=draw(size), initial=draw(st.sampled_from([1, 3])), seed=draw(st.sampled_from([0, 2**127])),
        search=draw(st.sampled_from(["improvement", "thompson", "gradient"])), region=draw(size),
        patience=draw(st.sampled_from([0, 1, 2**53])), power=draw(st.sampled_from([1, 2])),
        neighbors=draw(size), emphasis=draw(st.sampled_from([0.0, 0.3, 1e308, 5e-324])),
        zscore=draw(st.booleans()),
        step=draw(st.sampled_from([0.0, 1.0, 1e308, 5e-324])),
        exploration=draw(st.sampled_from([0, 3, 2**53])),
        exploration_quantile=draw(st.sampled_from([0.0, 0.5, 1.0])),
        noise=draw(st.sampled_from([None, 1e-300, 0.1, 1e300])),
    )  # fmt: skip


def told(opt: zf.Zopo, index: Any, score: Any, noise: Any) -> bool:
    opt.tell(index, score, noise)
    return True


def discarded(opt: zf.Zopo, index: Any) -> bool:
    opt.discard(index)
    return True


SCORES = st.sampled_from([0.0, -0.0, 1.0, 2.5, 1e308, -1e308, 5e-324, 1e154, np.float32(0.5), True])


@SAID
@settings(max_examples=40, phases=NO_SHRINKING)
@given(st.data(), configs(), arrays(7, D))
def test_searches_with_any_calls(data: st.DataObject, config: zf.ZopoConfig, Z: Any) -> None:
    """Any ask, tell, add and discard works or is refused, and a refused call changes nothing."""
    opt = typed(zf.Zopo, Z, config)
    for _ in range(12 if opt is not None else 0):
        assert opt is not None
        before = opt.state_dict()
        n = data.draw(st.one_of(st.none(), st.sampled_from([1, 2, 10**30]), numbers))
        asked = typed(opt.ask, n)
        for index in [] if asked is None else [asked] if isinstance(asked, int) else asked:
            noise = data.draw(st.sampled_from([None, None, 0.0, 1.0, 1e308, 5e-324]))
            typed(opt.tell, index, data.draw(SCORES), noise, data.draw(st.booleans()))
        before = opt.state_dict()
        if typed(told, opt, *(data.draw(numbers) for _ in range(3))) is None:
            assert opt.state_dict() == before
        if typed(discarded, opt, data.draw(numbers)) is None:
            assert opt.state_dict()["log"][: len(before["log"])] == before["log"]
        typed(opt.add, data.draw(arrays(2, D)))
        _ = opt.done, opt.pending
        typed(lambda opt: opt.best, opt)


@SAID
@settings(max_examples=30)
@given(st.data(), configs(), arrays(5, D), numbers, numbers)
def test_batches_of_any_arrays(
    data: st.DataObject, config: zf.ZopoConfig, Z: Any, pools: Any, other: Any
) -> None:
    typed(zf.ZopoBatch, pools, other, also=(TypeError,))
    batch = typed(zf.ZopoBatch, [Z, np.eye(5, D)], config)
    for _ in range(6 if batch is not None else 0):
        assert batch is not None
        typed(batch.ask, data.draw(st.one_of(numbers, arrays(2))))
        typed(batch.tell, data.draw(arrays(2)), data.draw(arrays(2)))
        asked = typed(batch.ask)
        if asked is not None:
            typed(batch.tell, asked, data.draw(arrays(2)))
        _ = batch.best, batch.done, batch.pending, batch.gradient_uncertainty


def test_an_index_that_would_overflow_is_unknown() -> None:
    batch = zf.ZopoBatch([np.eye(5)], zf.ZopoConfig(search="gradient", budget=4, initial=2))
    batch.ask()
    with pytest.raises(zf.UnknownIndexError):
        batch.tell(np.array([2**64 - 1], dtype=np.uint64), [1.0])
    for text in ("0.5", b"0.5", np.array([0.5])):
        opt = zf.Zopo(np.eye(5), zf.ZopoConfig(budget=4, initial=2))
        with pytest.raises(zf.InputError, match="finite number"):
            opt.tell(0, text)


# ---- states ------------------------------------------------------------------------------------------


def state_of(config: zf.ZopoConfig, kernel: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
    Z = np.random.default_rng(0).normal(size=(9, D))
    opt = zf.Zopo(Z[:8], config, kernel)
    for step in range(4):
        opt.tell(opt.ask(), float(step))
    opt.add(Z[8:])
    opt.ask(2)
    opt.discard(opt.pending[0])
    return Z, opt.state_dict()


def _states() -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    small = {"budget": 7, "initial": 2}
    networks = [zf.NTK.random(D, width=2, seed=s) for s in range(2)]
    plain = zf.NTK(networks[0].weights, networks[0].biases)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "default": state_of(zf.ZopoConfig(**small)),
            "infinite": state_of(zf.ZopoConfig(**small), zf.InfiniteNTK()),
            "several": state_of(zf.ZopoConfig(search="thompson", **small), networks),
            "weights": state_of(zf.ZopoConfig(search="gradient", **small), plain),
            "official": state_of(zf.ZopoConfig.official(**small)),
        }


STATES = _states()


@SAID
@pytest.mark.parametrize("name", STATES)
@given(data=st.data())
def test_a_damaged_state_is_refused_or_continues(name: str, data: st.DataObject) -> None:
    Z, state = STATES[name]
    broken = data.draw(damaged(state))
    opt = typed(zf.Zopo.from_state, Z, broken)
    if opt is None:
        return
    assert opt.pending == opt.state_dict()["pending"]
    while not opt.done:  # a restored search must run to its end
        for index in opt.pending or [opt.ask()]:
            opt.tell(index, 0.5)


@SAID
@given(st.one_of(numbers, st.dictionaries(st.sampled_from(["version", "log", "config"]), numbers)))
def test_an_invalid_state_is_refused(state: Any) -> None:
    for call in (zf.Zopo.from_state, zf.ZopoBatch.from_state):
        with pytest.raises(zf.InputError):
            call([np.eye(3)] if call == zf.ZopoBatch.from_state else np.eye(3), state)
    typed(zf.ZopoConfig.from_dict, state)


@SAID
@given(data=st.data())
def test_a_damaged_state_of_a_batch_is_refused_or_continues(data: st.DataObject) -> None:
    pools = [np.random.default_rng(0).normal(size=(6, D))] * 2
    batch = zf.ZopoBatch(pools, zf.ZopoConfig(search="gradient", budget=5, initial=2))
    for score in range(3):
        batch.tell(batch.ask(), np.full(2, float(score)))
    batch.ask([0])
    broken = data.draw(damaged(batch.state_dict()))
    again = typed(zf.ZopoBatch.from_state, pools, broken)
    if again is not None:
        _ = again.best, again.done


@pytest.mark.parametrize(
    ("kernel", "says"),
    [
        ({"dim": D, "width": 10**9, "depth": 2, "seed": 0, "initialization": "he"}, "parameters"),
        ({"dim": 10**9, "width": 2, "depth": 2, "seed": 0, "initialization": "he"}, "dimension"),
        ({"infinite": {"depth": 10**15}}, "from 1 to 1000"),
        ({"several": [{"infinite": {}}] * 10**5}, "at most 10000"),
        (
            {"several": [{"dim": D, "width": 8000, "depth": 2, "seed": 0, "initialization": "he"}] * 9},
            "parameters",
        ),
        ({"weights": [{"shape": [10**9, 10**9], "float64": ""}], "biases": []}, "damaged"),
    ],
)
def test_a_state_cannot_request_all_memory(kernel: dict[str, Any], says: str) -> None:
    Z, state = STATES["default"]
    with pytest.raises(zf.InputError, match=says):
        zf.Zopo.from_state(Z, {**state, "kernel": kernel})
    huge = {**state, "embeddings": {**state["embeddings"], "shape": [10**18, 10**18]}}
    with pytest.raises(zf.EmbeddingMismatchError):
        zf.Zopo.from_state(Z, huge)
    for counts in ([["add", 10**18]], [["add", -1]], [["add", 0.5]], [["add", 5], ["add", 5]]):
        with pytest.raises(zf.InputError):
            zf.Zopo.from_state(Z, {**state, "log": counts})
