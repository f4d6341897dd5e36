"""Invalid arguments at the native boundary, and in the public API: typed errors that name the argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast import _core, errors

D = 4


def network() -> Any:
    rng = np.random.default_rng(0)
    W = [rng.normal(size=(5, D)), rng.normal(size=(3, 5)), rng.normal(size=(1, 3))]
    return _core.Network(W, [np.zeros(5), np.zeros(3), np.zeros(1)])


def gp(n: int = 3) -> Any:
    process = _core.GaussianProcess(network())
    process.append(np.eye(n, D), np.arange(float(n)), np.full(n, 0.1))
    return process


def pool() -> Any:
    return _core.Pool(np.eye(3, D), np.zeros(D), np.ones(D))


X, x, y = np.eye(3, D), np.ones(D), np.ones(3)

# name: (replaced argument, valid value, call)
MATRICES: dict[str, tuple[str, Any, Callable[[Any], Any]]] = {
    "gram X": ("X", X, lambda a: _core.gram(network(), a)),
    "gram X of two": ("X", X, lambda a: _core.gram(network(), a, X)),
    "gram Y": ("Y", X, lambda a: _core.gram(network(), X, a)),
    "diag": ("X", X, lambda a: _core.diag(network(), a)),
    "gradient X": ("X", X, lambda a: _core.gradient(network(), x, a)),
    "append X": ("X", X, lambda a: gp().append(a, y, y)),
    "posterior": ("x", X, lambda a: gp().posterior(a)),
    "predict": ("x", X, lambda a: gp().predict(a)),
    "weights": (
        "weights[0]",
        np.ones((3, D)),
        lambda a: _core.Network([a, np.ones((1, 3))], [y, np.ones(1)]),
    ),
    "last weights": ("weights[1]", np.ones((1, 3)), lambda a: _core.Network([X, a], [y, np.ones(1)])),
}
VECTORS: dict[str, tuple[str, Any, Callable[[Any], Any]]] = {
    "gradient x": ("x", x, lambda a: _core.gradient(network(), a, X)),
    "gradient_prior_trace": ("x", x, lambda a: _core.gradient_prior_trace(network(), a)),
    "append y": ("y", y, lambda a: gp().append(X, a, y)),
    "append noise": ("noise", y, lambda a: gp().append(X, y, a)),
    "set_targets": ("y", y, lambda a: gp().set_targets(a)),
    "gradient_covariance": ("x", x, lambda a: gp().gradient_covariance(a)),
    "biases": ("biases[0]", y, lambda a: _core.Network([X, np.ones((1, 3))], [a, np.ones(1)])),
    "pool mean": ("mean", x, lambda a: _core.Pool(X, a, x)),
    "pool scale": ("scale", x, lambda a: _core.Pool(X, x, a)),
    "pool nearest": ("x", x, lambda a: pool().nearest(a)),
    "pool k_nearest": ("x", x, lambda a: pool().k_nearest(a, 2)),
    "pool distances": ("x", x, lambda a: pool().distances(a)),
}
EMBEDDINGS: dict[str, tuple[str, Any, Callable[[Any], Any]]] = {
    "pool": ("embeddings", X, lambda a: _core.Pool(a, np.zeros(D), x)),
    "column_moments": ("embeddings", X, _core.column_moments),
}
ALL = MATRICES | VECTORS | EMBEDDINGS


def spoilt(good: np.ndarray, value: float) -> np.ndarray:
    bad = good.copy()
    bad.flat[-1] = value
    return bad


def misaligned_rows(good: np.ndarray) -> np.ndarray:
    return np.repeat(good, 2, axis=-1)[..., ::2]


COMMON: dict[str, Callable[[np.ndarray], Any]] = {
    "NaN": lambda a: spoilt(a, np.nan),
    "infinity": lambda a: spoilt(a, np.inf),
    "minus infinity": lambda a: spoilt(a, -np.inf),
    "complex": lambda a: a.astype(complex),
    "int64": lambda a: a.astype(np.int64),
    "bool": lambda a: a.astype(bool),
    "longdouble": lambda a: a.astype(np.longdouble),
    "objects": lambda a: a.astype(object),
    "strings": lambda a: a.astype(str),
    "big-endian": lambda a: a.astype(">f8"),
    "strided": misaligned_rows,
    "an axis more": lambda a: a[None],
    "an axis less": lambda a: a[0],
    "a scalar": lambda a: np.array(1.0),
    "a list": lambda a: a.tolist(),
    "None": lambda a: None,
}


@pytest.mark.parametrize("fault", COMMON)
@pytest.mark.parametrize("call", ALL)
def test_the_native_layer_refuses_invalid_arrays(call: str, fault: str) -> None:
    name, good, f = ALL[call]
    f(good.copy())  # the valid call works
    if call == "gram Y" and fault == "None":
        return  # left out
    with pytest.raises(zf.ArrayError) as caught:
        f(COMMON[fault](good))
    assert str(caught.value).startswith(name)


@pytest.mark.parametrize("call", MATRICES | EMBEDDINGS)
def test_the_native_layer_refuses_fortran_order(call: str) -> None:
    name, good, f = ALL[call]
    if 1 in good.shape:
        pytest.skip("one row is both C- and Fortran-contiguous")
    with pytest.raises(zf.ArrayError) as caught:
        f(np.asfortranarray(good))
    assert str(caught.value).startswith(name)
    assert "contiguous" in str(caught.value)


@pytest.mark.parametrize("call", MATRICES | VECTORS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_native_layer_refuses_other_dtypes_except_for_embeddings(call: str, dtype: Any) -> None:
    name, good, f = ALL[call]
    with pytest.raises(zf.ArrayError, match="float64") as caught:
        f(good.astype(dtype))
    assert str(caught.value).startswith(name)


@pytest.mark.parametrize("call", ALL)
@pytest.mark.parametrize("change", [-1, 1])
def test_the_native_layer_refuses_another_last_dimension(call: str, change: int) -> None:
    if call in ("column_moments", "weights"):
        return  # these set the dimension
    name, good, f = ALL[call]
    with pytest.raises(zf.ArrayError) as caught:
        f(np.ones((*good.shape[:-1], good.shape[-1] + change)))
    # The embeddings set the dimension of a pool, so that the mean is reported.
    assert str(caught.value).startswith("mean" if call == "pool" else name)


def test_the_native_layer_refuses_negative_noise_and_scales() -> None:
    process = gp()
    for bad in (-1e-300, -1.0):
        with pytest.raises(zf.ArrayError, match="noise"):
            process.append(X, y, np.array([0.1, 0.1, bad]))
    assert len(process) == 3
    for bad in (0.0, -0.0, -1.0):
        with pytest.raises(zf.ArrayError, match="scale"):
            _core.Pool(X, x, np.array([1.0, 1.0, 1.0, bad]))


def test_the_native_layer_refuses_networks_of_mismatched_layers() -> None:
    one, three = np.ones(1), np.ones(3)
    for W, b in (
        ([], []),
        ([np.ones((1, D))], [one]),  # no hidden layer
        ([X, np.ones((1, 3))], [three]),
        ([X, np.ones((2, 3))], [three, np.ones(2)]),  # the last layer must have one row
        ([X, np.ones((1, 2))], [three, one]),
        ([X, np.ones((1, 3))], [one, one]),
        ([np.ones((3, 0)), np.ones((1, 3))], [three, one]),
        ([np.ones((0, D)), np.ones((1, 0))], [np.ones(0), one]),
    ):
        with pytest.raises(zf.ArrayError, match=r"weights|biases"):
            _core.Network(W, b)
        with pytest.raises(zf.ArrayError, match=r"weights|biases"):
            zf.NTK(W, b)


def test_the_native_layer_refuses_indices_out_of_range() -> None:
    for call in (pool().take, pool().release, pool().taken, pool().row, gp().remove):
        for i in (-1, 3, 2**62, -(2**62)):
            with pytest.raises(zf.UnknownIndexError, match=str(i)):
                call(i)
        call(2)
    for bad in ([0, 3], [-1], [0, 2**62]):
        with pytest.raises(zf.UnknownIndexError, match=str(bad[-1])):
            pool().rows(np.array(bad))
    for wrong in (np.array([0.5]), np.array([[0]]), np.array(["0"]), np.array(0)):
        with pytest.raises((zf.ArrayError, TypeError), match="indices"):
            pool().rows(wrong)
    with pytest.raises(zf.UnknownIndexError):
        gp(0).pop()
    with pytest.raises(zf.ArrayError, match="k"):
        pool().k_nearest(x, -1)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 1000])
def test_the_native_layer_finds_a_non_finite_value_at_any_place(size: int) -> None:
    """The check is vectorised, and must cover every lane and the tail."""
    for at in {0, size // 2, size - 1, max(0, size - 7)}:
        for dtype in (np.float16, np.float32, np.float64):
            for bad in (np.nan, np.inf, -np.inf):
                Z = np.full((1, size), np.finfo(dtype).max, dtype=dtype)
                _core.Pool(Z, np.zeros(size), np.ones(size))
                Z[0, at] = bad
                with pytest.raises(zf.ArrayError, match=f"embeddings.*{at}"):
                    _core.Pool(Z, np.zeros(size), np.ones(size))


PUBLIC: dict[str, tuple[str, Any, Callable[[zf.NTK, zf.GaussianProcess, Any], Any]]] = {
    "gram X": ("X", X, lambda k, g, a: k.gram(a)),
    "gram Y": ("Y", X, lambda k, g, a: k.gram(X, a)),
    "diag": ("X", X, lambda k, g, a: k.diag(a)),
    "gradient x": ("x", x, lambda k, g, a: k.gradient(a, X)),
    "gradient X": ("X", X, lambda k, g, a: k.gradient(x, a)),
    "gradient_prior_trace": ("x", x, lambda k, g, a: k.gradient_prior_trace(a)),
    "append X": ("X", X, lambda k, g, a: g.append(a, y)),
    "append y": ("y", y, lambda k, g, a: g.append(X, a)),
    "append noise": ("noise", y, lambda k, g, a: g.append(X, y, a)),
    "posterior": ("x", X, lambda k, g, a: g.posterior(a)),
    "gradient_covariance": ("x", x, lambda k, g, a: g.gradient_covariance(a)),
    "weights": ("weights[0]", X, lambda k, g, a: zf.NTK([a, np.ones((1, 3))], [y, np.ones(1)])),
    "biases": ("biases[0]", y, lambda k, g, a: zf.NTK([X, np.ones((1, 3))], [a, np.ones(1)])),
}
PUBLIC_FAULTS: dict[str, Callable[[np.ndarray], Any]] = {
    **{name: COMMON[name] for name in ("NaN", "infinity", "minus infinity", "complex", "strings")},
    "two axes more": lambda a: a[None, None],
    "another length": lambda a: np.ones((*a.shape[:-1], a.shape[-1] + 1)),
    "ragged": lambda a: [[1.0, 2.0], [3.0]],
    "words": lambda a: "words",
    "an object": lambda a: object(),
    "a dict": lambda a: {"a": 1.0},
}


@pytest.mark.parametrize("fault", PUBLIC_FAULTS)
@pytest.mark.parametrize("call", PUBLIC)
def test_the_public_api_refuses_the_same_arrays(call: str, fault: str) -> None:
    name, good, f = PUBLIC[call]
    kernel = zf.NTK.random(D, width=5)
    process = zf.GaussianProcess(kernel, noise=0.1)
    f(kernel, process, good)
    n = len(process)
    if (call, fault) == ("weights", "another length"):
        return  # sets the dimension
    with pytest.raises(zf.ArrayError) as caught:
        f(kernel, process, PUBLIC_FAULTS[fault](good))
    assert str(caught.value).startswith(name)
    assert len(process) == n


def test_every_error_is_a_zopo_error_and_a_standard_error() -> None:
    promised = {
        "InputError": ValueError, "ArrayError": ValueError, "ConfigError": ValueError,
        "ConflictingScoreError": ValueError, "EmbeddingMismatchError": ValueError, "TaskError": ValueError,
        "PoolError": ValueError, "NothingToAsk": RuntimeError, "UnknownIndexError": IndexError,
        "NotPositiveDefiniteError": ArithmeticError, "DeviceError": RuntimeError,
        "DeviceMemoryError": MemoryError, "DeviceLostError": RuntimeError,
        "MissingDependencyError": ImportError, "OutputError": OSError, "MetricError": RuntimeError,
        "LLMError": RuntimeError, "UnreachableError": ConnectionError, "RequestTimeoutError": TimeoutError,
        "AuthenticationError": PermissionError, "ModelNotFoundError": LookupError,
        "RequestRejectedError": ValueError, "RateLimitError": RuntimeError, "ServerError": RuntimeError,
        "MalformedAnswerError": ValueError, "StudyMismatchError": ValueError, "StoreError": OSError,
        "StoreBusyError": BlockingIOError, "StoreVersionError": OSError, "StoreDamagedError": OSError,
        "StoreFullError": OSError, "ConcurrentUseError": RuntimeError, "LimitReachedError": RuntimeError,
        "EndpointDownError": ConnectionError, "EventLoopError": RuntimeError,
    }  # fmt: skip
    public = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception) and name[0] != "_" and name != "ZopoError"
    }
    assert public.keys() == promised.keys()
    for name, standard in promised.items():
        assert getattr(zf, name) is public[name]
        assert issubclass(public[name], zf.ZopoError)
        assert issubclass(public[name], standard)
        more = ("calls",) if name == "LimitReachedError" else ()
        assert str(public[name]("what went wrong", *more)) == "what went wrong"
