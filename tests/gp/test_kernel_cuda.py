"""CUDA engine of the kernel: precisions, sizes around its tiles, matrix products."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from numeric_tools import assert_close, random_network

import zopo_fast as zf
from zopo_fast import _core
from zopo_fast.gp import reference
from zopo_fast.gp.device import parse_device

# Relative to the largest entry: a few roundings of float32 in sums of at most 200 numbers.
RTOL = {"float64": 1e-12, "float32": 1e-6, "tf32x3": 2e-6}
PRECISIONS = sorted(RTOL)
NETWORKS = [(1, [1]), (15, [16]), (16, [17, 15]), (33, [31, 8, 65]), (130, [48, 3])]


@pytest.fixture(params=[pytest.param("cuda", marks=pytest.mark.cuda)])
def cuda(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("dim", "widths"), NETWORKS, ids=str)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 65), (31, 33), (64, 63), (65, 32), (129, 1)])
def test_sizes_around_small_tiles(
    cuda: str, rng: np.random.Generator, dim: int, widths: list[int], n: int, m: int, precision: str
) -> None:
    W, b = random_network(rng, dim, widths)
    kernel, X, Y = zf.NTK(W, b), rng.normal(size=(n, dim)), 2 * rng.normal(size=(m, dim)) + 1
    K = kernel.gram(X, device=cuda, precision=precision)
    assert K.dtype == (np.float64 if precision == "float64" else np.float32)
    np.testing.assert_array_equal(K, K.T)
    assert_close(K, reference.gram(W, b, X), RTOL[precision])
    K = kernel.gram(X, Y, device=cuda, precision=precision)
    assert K.dtype == (np.float64 if precision == "float64" else np.float32)
    assert_close(K, reference.gram(W, b, X, Y), RTOL[precision])


def points_for(tile: int) -> int:
    """Return a number of points for which K has more than two large tiles for each multiprocessor."""
    multiprocessors = 4 if "emulated" in _core.cuda_status() else 160
    return int(np.sqrt(4 * multiprocessors * tile)) + 3


@pytest.mark.parametrize("precision", PRECISIONS)
def test_large_tiles(cuda: str, rng: np.random.Generator, precision: str) -> None:
    W, b = random_network(rng, 5, [7, 3])
    n = points_for(128 * 64 if precision == "float64" else 128 * 128)
    kernel, X, Y = zf.NTK(W, b), rng.normal(size=(n, 5)), rng.normal(size=(n // 2 + 70, 5))
    K = kernel.gram(X, device=cuda, precision=precision)
    np.testing.assert_array_equal(K, K.T)
    assert_close(K, zf.NTK(W, b).gram(X), RTOL[precision])
    assert_close(
        kernel.gram(X, Y, device=cuda, precision=precision), zf.NTK(W, b).gram(X, Y), RTOL[precision]
    )


@pytest.mark.parametrize("n", [3, 40])
def test_points_of_any_precision(cuda: str, rng: np.random.Generator, n: int) -> None:
    """Half and single precision are exact in float64: the result has the bits of converted points."""
    kernel = zf.NTK(*random_network(rng, 37, [9, 5]))
    X, Y = rng.normal(size=(n, 37)), rng.normal(size=(11, 37))
    for of_x, of_y in itertools.product((np.float16, np.float32, np.float64), repeat=2):
        x, y = X.astype(of_x), Y.astype(of_y)
        for precision in PRECISIONS:
            for first, second in ((x, None), (x, y)):
                wide = None if second is None else second.astype(float)
                np.testing.assert_array_equal(
                    kernel.gram(first, second, device=cuda, precision=precision),
                    kernel.gram(first.astype(float), wide, device=cuda, precision=precision),
                )


def test_invalid_points_are_refused(cuda: str) -> None:
    kernel, X = zf.NTK.random(3, width=2), np.zeros((4, 3), np.float16)
    X[1, 2] = np.inf
    with pytest.raises(zf.ArrayError, match="X: NaN or infinity at flat index 5"):
        kernel.gram(X, device=cuda)
    with pytest.raises(zf.ArrayError, match=r"Y: expected \(n, 3\), got shape \(4, 2\)"):
        kernel.gram(np.zeros((1, 3)), X[:, :2], device=cuda)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_results_are_reproducible_in_every_precision(
    cuda: str, rng: np.random.Generator, precision: str
) -> None:
    kernel, X = zf.NTK.random(20, width=9), rng.normal(size=(70, 20))
    first = kernel.gram(X, device=cuda, precision=precision)
    np.testing.assert_array_equal(kernel.gram(X, device=cuda, precision=precision), first)


def test_float32_and_tf32x3_at_the_size_of_embeddings(cuda: str, rng: np.random.Generator) -> None:
    """The errors are those documented, with a margin for the order of sums on a GPU."""
    kernel, X = zf.NTK.random(768, width=32, depth=2, seed=1), rng.normal(size=(24, 768))
    exact = kernel.gram(X)
    for precision, most in (("float32", 1e-6), ("tf32x3", 3e-6)):
        K = kernel.gram(X, device=cuda, precision=precision)
        assert 0 < np.abs(K - exact).max() <= most * np.abs(exact).max()


@pytest.mark.parametrize("n", [1, 8, 9, 31, 33, 400])
@pytest.mark.parametrize(("dim", "widths"), [*NETWORKS, (7, [300]), (40, [9, 130, 70])], ids=str)
def test_features_of_few_and_of_many_points(
    cuda: str, rng: np.random.Generator, dim: int, widths: list[int], n: int
) -> None:
    """The diagonal and a row of the gradient depend on every feature; small and large n differ in code."""
    kernel, X = zf.NTK(*random_network(rng, dim, widths)), rng.normal(size=(n, dim))
    assert_close(kernel.diag(X, device=cuda), kernel.diag(X), 1e-12)
    assert_close(kernel.gradient(X[0], X, device=cuda), kernel.gradient(X[0], X), 1e-12)


def test_a_wide_network_takes_few_points_at_a_time(cuda: str, rng: np.random.Generator) -> None:
    kernel, X = zf.NTK(*random_network(rng, 3, [2000])), rng.normal(size=(20, 3))
    assert_close(kernel.gram(X, device=cuda), kernel.gram(X), 1e-12)


def test_networks_that_do_not_fit_are_refused(cuda: str, rng: np.random.Generator) -> None:
    deep = zf.NTK(*random_network(rng, 2, [1] * 9))
    wide = zf.NTK(*random_network(rng, 1, [1, 15_000]))
    for kernel, what in ((deep, "9 hidden layers"), (wide, "15001 hidden units")):
        with pytest.raises(zf.ConfigError, match=f"{what}.*device='cpu'"):
            kernel.gram(np.zeros((2, kernel.dim)), device=cuda)


def test_threads_take_turns(cuda: str, rng: np.random.Generator) -> None:
    kernel, sets = zf.NTK.random(6, width=5), [rng.normal(size=(n, 6)) for n in (3, 20, 40, 65)]
    found: dict[int, np.ndarray] = {}

    def work(i: int) -> None:
        found[i] = kernel.gram(sets[i], device=cuda)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(sets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, X in enumerate(sets):
        assert_close(found[i], kernel.gram(X), 1e-12)


SIZES = [(0, 5, 3), (5, 0, 3), (4, 7, 0), (1, 1, 1), (2, 31, 17), (63, 65, 33), (64, 64, 16), (130, 66, 97)]


@pytest.mark.parametrize("pad", [0, 1, 2])
@pytest.mark.parametrize(
    ("transpose_a", "transpose_b"), [(False, False), (True, False), (False, True), (True, True)]
)
@pytest.mark.parametrize(("m", "n", "k"), SIZES)
def test_product(
    cuda: str,
    rng: np.random.Generator,
    m: int,
    n: int,
    k: int,
    transpose_a: bool,
    transpose_b: bool,
    pad: int,
) -> None:
    """`pad` makes the leading dimensions larger than the columns; the padding is not read."""
    ordinal = parse_device(cuda)
    assert ordinal is not None
    for lower_a in (False, True) if m in (k, 130) else (False,):
        inner, batch = m if lower_a else k, 3 if pad == 1 else 1
        A, B = rng.normal(size=(batch, m, inner)), rng.normal(size=(batch, inner, n))
        C = rng.normal(size=(batch, m, n))
        stored_a = A.transpose(0, 2, 1) if transpose_a else A
        if lower_a:
            stored_a = np.tril(stored_a)
            A = stored_a.transpose(0, 2, 1) if transpose_a else stored_a
            stored_a = np.where(np.tri(m, dtype=bool), stored_a, np.nan)
        stored_b = B.transpose(0, 2, 1) if transpose_b else B
        beyond = ((0, 0), (0, 0), (0, pad))
        padded = [
            np.ascontiguousarray(np.pad(x, beyond, constant_values=np.nan)) for x in (stored_a, stored_b)
        ]
        for add in (False, True):
            for lower_c in (False, True):
                got = _core.cuda_gemm(
                    *padded, C, inner, transpose_a, transpose_b, add, lower_a, lower_c, ordinal
                )
                want = A @ B + (C if add else 0.0)
                if lower_c:
                    got, want = np.tril(got), np.tril(want)
                assert_close(got, want, 1e-13)


@pytest.mark.parametrize(
    "name", ["", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda: 0", "cuda:0 ", "cpu:0", 0]
)
def test_unknown_names_of_devices_are_refused(name: str) -> None:
    with pytest.raises(zf.DeviceError, match="expected 'cpu', 'cuda' or 'cuda:N'"):
        parse_device(name)


def test_known_names_of_devices_are_parsed() -> None:
    assert parse_device(None) is None
    assert parse_device("cpu") is None
    count = _core.cuda_device_count()
    with pytest.raises(zf.DeviceError, match=r"does not exist|no usable CUDA device|CPU engine only"):
        parse_device(f"cuda:{count}")
    if count:
        assert parse_device("cuda") == 0
        assert parse_device(f"cuda:{count - 1}") == count - 1


@pytest.mark.devices
def test_a_missing_device_is_refused(rng: np.random.Generator) -> None:
    kernel, X = zf.NTK.random(3, width=2), rng.normal(size=(2, 3))
    with pytest.raises(zf.DeviceError):
        kernel.gram(X, device="cuda:99")
    with pytest.raises(zf.DeviceError):
        kernel.diag(X, device="cuda:99")
    with pytest.raises(zf.DeviceError):
        kernel.gradient(X[0], X, device="cuda:99")
    with pytest.raises(zf.DeviceError):
        kernel.gradient_prior_trace(X[0], device="cuda:99")


def test_precisions_of_cuda_are_refused_on_the_cpu(rng: np.random.Generator) -> None:
    kernel, X = zf.NTK.random(3, width=2), rng.normal(size=(2, 3))
    assert kernel.gram(X, precision="float64").dtype == np.float64
    for precision in ("float32", "tf32x3"):
        with pytest.raises(zf.ConfigError, match=f"{precision}.*the CPU computes in float64.*device='cuda'"):
            kernel.gram(X, precision=precision)
    with pytest.raises(zf.ConfigError, match="must be one of float64, float32, tf32x3, got 'half'"):
        kernel.gram(X, precision="half")
