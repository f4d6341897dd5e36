"""Kernel matrix on the GPU, as a share of the rate of PyTorch's matrix product in the same run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import zopo_fast as zf
from zopo_fast.gp.ntk import GramPrecision

from .. import peers
from ..common import limits
from ..common.harness import Result, Settings, rows
from .timing import Devices, products, spread, throughput

QUESTION = "How fast is the kernel matrix on the GPU, beside PyTorch's matrix product and closed form?"
N, DIM, WIDTH, DEPTH = 8192, 768, 32, 2
SETS = 3  # sets of points, used in turn
# Our precision, PyTorch's type of the same inputs, and the product whose rate is the reference.
PRECISIONS: dict[GramPrecision, Any] = {
    "float64": (torch.float64, "float64"),
    "float32": (torch.float32, "float32"),
    "tf32x3": (torch.float32, "tf32"),
}
GOAL_OF_MATMUL = {"float64": 0.60, "float32": 0.60}
GOAL_RATIO = {"float64": 2.5, "tf32x3": 5.0}  # relative to PyTorch's eager closed form of the same type
EAGER, COMPILED = "PyTorch closed form, eager", "PyTorch closed form, compiled"


def run(settings: Settings, devices: Devices) -> Result:
    """Measure gram(X) and gram(X, Y) in each precision; flops count the whole matrix, without symmetry."""
    result = Result(QUESTION)
    n, dim = (96, 24) if settings.quick else (N, DIM)
    kernel = zf.NTK.random(dim, width=WIDTH, depth=DEPTH, seed=settings.seed)
    generator = devices.generator(settings.seed)
    shape = (2, SETS, n, dim)
    X, Y = torch.randn(shape, dtype=torch.float64, device=devices.torch, generator=generator)
    for precision in PRECISIONS:
        for symmetric in (True, False):
            try:
                _compare(result, settings, devices, kernel, X, None if symmetric else Y, precision)
            except Exception as error:  # the other precisions still run
                result.skipped[f"zopo_fast, {precision}, symmetric {symmetric}"] = peers.reason(error)
    return result


def _compare(
    result: Result,
    settings: Settings,
    devices: Devices,
    kernel: zf.NTK,
    X: Any,
    Y: Any | None,
    precision: GramPrecision,
) -> None:
    dtype, arithmetic = PRECISIONS[precision]
    n, dim = X[0].shape
    A = [x.to(dtype) for x in X]
    B = [None] * SETS if Y is None else [y.to(dtype) for y in Y]
    ours = _in_turn(
        lambda x, y: kernel.gram(x, y, precision=precision),
        [devices.give(a) for a in A],
        [None if b is None else devices.give(b) for b in B],
    )
    cases: dict[str, Callable[[], Any]] = {"zopo_fast": ours}
    cases |= _torch_cases(result, settings, devices, kernel, A, B)
    if precision == "tf32x3":
        doubles = [x.double() for x in A], [None if y is None else y.double() for y in B]
        cases[f"{EAGER}, float64"] = _eager(kernel, devices, *doubles)
    size = 64 if settings.quick else N
    cases[f"matmul {size}, {arithmetic}"] = products(size, devices)[arithmetic]
    what = f"gram({'X' if Y is None else 'X, Y'}), n = {n:,}, d = {dim}, {precision}"
    error = _error(kernel, devices.take(ours()), A[0], B[0], devices)
    timings = throughput(cases, devices, settings.seconds * 0.3, least=2 if settings.quick else 5)
    alone = throughput({"zopo_fast": _waiting(ours, devices)}, devices, 0.0, least=5)["zopo_fast"]
    flops = limits.gram_flops(n, n, dim, WIDTH, DEPTH)
    matmul = 2.0 * size**3 / timings[f"matmul {size}, {arithmetic}"].median
    for row in rows(what, timings):
        row.extra["spread"] = spread(timings[row.who])
        if row.who.startswith("matmul"):
            row.extra["tflops"] = matmul / 1e12
        else:
            rate = flops / row.median
            row.extra.update({"tflops": rate / 1e12, "of_matmul": rate / matmul})
        result.rows.append(row)
    figures: dict[str, Any] = {
        "of_matmul": flops / timings["zopo_fast"].median / matmul,
        "max_relative_error": error,
        "one_call_and_wait_ms": 1e3 * alone.median,
    }
    if precision in GOAL_OF_MATMUL:
        figures["of_matmul_goal"] = GOAL_OF_MATMUL[precision]
        figures["of_matmul_reached"] = figures["of_matmul"] >= GOAL_OF_MATMUL[precision]
    for who, name in (
        (EAGER, "times_faster_than_eager"),
        (COMPILED, "times_faster_than_compiled"),
        (f"{EAGER}, float64", "times_faster_than_eager_in_float64"),
    ):
        if who in timings:
            figures[name] = timings[who].median / timings["zopo_fast"].median
    if precision in GOAL_RATIO and EAGER in timings:
        figures["times_faster_than_eager_goal"] = GOAL_RATIO[precision]
        figures["times_faster_than_eager_reached"] = (
            figures["times_faster_than_eager"] >= GOAL_RATIO[precision]
        )
    result.figures[what] = figures


def _in_turn(gram: Callable[[Any, Any], Any], A: list[Any], B: list[Any]) -> Callable[[], Any]:
    turn = -1

    def call() -> Any:
        nonlocal turn
        turn += 1
        return gram(A[turn % SETS], B[turn % SETS])

    return call


def _waiting(case: Callable[[], Any], devices: Devices) -> Callable[[], None]:
    """Time a caller that waits for each result before the next call."""

    def call() -> None:
        case()
        devices.wait()

    return call


def _torch_cases(
    result: Result,
    settings: Settings,
    devices: Devices,
    kernel: zf.NTK,
    A: list[Any],
    B: list[Any],
) -> dict[str, Callable[[], Any]]:
    from ..peers.torch_closed import Network

    cases = {EAGER: _eager(kernel, devices, A, B)}
    if not settings.quick and B[0] is None:  # compilation is slow
        net = Network(kernel, devices.torch, A[0].dtype)
        cases[COMPILED] = _in_turn(torch.compile(net.gram, dynamic=False), A, B)
    return peers.working(cases, result.skipped)


def _eager(kernel: zf.NTK, devices: Devices, A: list[Any], B: list[Any]) -> Callable[[], Any]:
    from ..peers.torch_closed import Network

    return _in_turn(Network(kernel, devices.torch, A[0].dtype).gram, A, B)


def _error(kernel: zf.NTK, K: Any, x: Any, y: Any | None, devices: Devices) -> float:
    """Return the largest difference from PyTorch's float64 on the same inputs, over the largest entry."""
    from ..peers.torch_closed import Network

    expected = Network(kernel, devices.torch).gram(x.double(), None if y is None else y.double())
    return ((K.double() - expected).abs().amax() / expected.abs().amax()).item()
