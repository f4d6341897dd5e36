"""Instruction sets: all give the same numbers, and the environment selects one, in a new process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dispatch_tools import answer, require, run
from numeric_tools import assert_close

import zopo_fast as zf

ISAS = ["baseline", "avx2", "avx512"]

COMPUTE = """
import sys
import numpy as np
import zopo_fast as zf
from zopo_fast import _core

rng = np.random.default_rng(0)
out = {"isa": np.array(_core.isa())}
for d in (1, 7, 37, 129):
    kernel = zf.NTK.random(d, width=19, depth=2, seed=1)
    X, Q = rng.normal(size=(45, d)), rng.normal(size=(5, d))
    out[f"K{d}"] = kernel.gram(X)
    out[f"cross{d}"] = kernel.gram(X, Q)
    gp = zf.GaussianProcess(kernel, noise=1.0)
    gp.append(X, np.sin(np.arange(45.0)))
    gp.remove(7)
    out.update({f"{name}{d}": np.asarray(v) for name, v in gp.posterior(Q)._asdict().items()})
    for dtype in ("float16", "float32", "float64"):
        pool = _core.Pool(rng.normal(size=(203, d)).astype(dtype), np.full(d, 0.1), np.full(d, 2.0))
        pool.take(3)
        near = [pool.k_nearest(q, 25, available_only=True) for q in Q]
        out[f"near{d}{dtype}"] = np.stack([*near])
    local = _core.LocalGradient(kernel.network, pool)
    for i in range(20):
        local.append(i, float(i % 6), 1.0)
        local.center(i // 5)
    out[f"local gradient{d}"] = local.gradient()
    out[f"local uncertainty{d}"] = np.array(local.relative_uncertainty([31, 32], 1.0))
    out[f"near step{d}"] = np.array(local.step(1.0))
# No register tile divides all of these sizes; K is of one set and of two.
for n, m, widths in [
    (1, 1, [3]), (2, 5, [9, 4]), (3, 17, [33]), (13, 11, [5, 7, 6]), (67, 49, [32, 32]), (101, 8, [64])
]:
    sizes = [23, *widths, 1]
    W = [rng.normal(size=(o, i)) for i, o in zip(sizes, sizes[1:])]
    kernel = zf.NTK(W, [rng.normal(size=o) for o in sizes[1:]])
    X, Y = rng.normal(size=(n, 23)), rng.normal(size=(m, 23))
    out[f"K {n}"] = kernel.gram(X)
    out[f"K {n} twice"] = kernel.gram(X, X)
    out[f"K {n} x {m}"] = kernel.gram(X, Y)
    out[f"K diagonal {n}"] = kernel.diag(X)
    out[f"gradient {n}"] = kernel.gradient(Y[0], X)
Z = rng.integers(-2, 3, size=(500, 21))  # full of ties
for dtype in ("float16", "float32", "float64"):
    pool = _core.Pool(Z.astype(dtype), np.zeros(21), np.ones(21))
    for k in (1, 40, 500):
        out[f"near grid {dtype} {k}"] = pool.k_nearest(np.zeros(21), k)
Z = rng.normal(size=(150, 24)).astype(np.float32)
for search in ("gradient", "improvement"):
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=60, initial=15, seed=3, search=search))
    asked = []
    while not opt.done:
        asked.append(opt.ask())
        opt.tell(asked[-1], float(np.cos(asked[-1])))
    out["near whole run " + search] = np.array(asked)
out["near normals"] = _core.normals(5, 6, 7, 1001)
np.savez(sys.argv[1], **out)
"""


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return compute("baseline", tmp_path_factory.mktemp("isa") / "baseline.npz")


def compute(isa: str | None, path: Path) -> dict[str, np.ndarray]:
    done = run(COMPUTE, isa, str(path))
    assert done.returncode == 0, done.stderr
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


def test_baseline_runs_everywhere(baseline: dict[str, np.ndarray]) -> None:
    assert str(baseline["isa"]) == "baseline"


@pytest.mark.parametrize("isa", ["avx2", "avx512", None])
def test_every_instruction_set_gives_the_same_numbers(
    isa: str | None, baseline: dict[str, np.ndarray], tmp_path: Path
) -> None:
    if isa is not None:
        require(isa)
    here = compute(isa, tmp_path / "here.npz")
    assert isa is None or str(here["isa"]) == isa
    assert here.keys() == baseline.keys()
    for name in here.keys() - {"isa"}:
        if name.startswith("near"):  # indices, and numbers without fused multiply-adds
            np.testing.assert_array_equal(here[name], baseline[name], err_msg=name)
        else:
            assert_close(here[name], baseline[name], 1e-12 if name[0] in "Kc" else 1e-9)
    for name in (name for name in here if name.startswith("K") and name.endswith("twice")):
        symmetric = here[name.removesuffix(" twice")]
        np.testing.assert_array_equal(symmetric, symmetric.T)
        assert_close(symmetric, here[name], 1e-12)


def test_the_best_instruction_set_is_the_default() -> None:
    runs = [isa for isa in ISAS if answer(isa) == f"runs {isa}"]
    assert answer("baseline") == "runs baseline"
    done = run("from zopo_fast import _core; print(_core.isa())", None)
    assert done.stdout.strip() == runs[-1]
    empty = run("from zopo_fast import _core; print(_core.isa())", "")
    assert empty.stdout.strip() == runs[-1]


@pytest.mark.parametrize("isa", ["sse9", "AVX2", "avx", "avx2 ", "avx5123"])
def test_an_unknown_value_is_a_config_error_that_lists_the_valid_ones(isa: str) -> None:
    said = answer(isa)
    assert not said.startswith("runs")
    assert "ZOPO_ISA" in said
    assert isa.strip() in said
    for known in ISAS:
        if answer(known) == f"runs {known}":
            assert known in said.split(":", 1)[1]


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_an_unsupported_instruction_set_is_refused(isa: str) -> None:
    """Running it would end the process by a signal."""
    assert answer(isa) == f"runs {isa}" or "baseline" in answer(isa)


def test_an_unknown_value_stops_a_search_as_well() -> None:
    """No result may come from an instruction set that was not requested."""
    script = """
import numpy as np
import zopo_fast as zf
try:
    opt = zf.Zopo(np.random.default_rng(0).normal(size=(30, 5)), zf.ZopoConfig(budget=20, initial=5))
    while not opt.done:
        opt.tell(i := opt.ask(), float(i))
except zf.ConfigError as error:
    print(error)
"""
    done = run(script, "sse9")
    assert done.returncode == 0, done.stderr
    assert "sse9" in done.stdout
    assert issubclass(zf.ConfigError, ValueError)
