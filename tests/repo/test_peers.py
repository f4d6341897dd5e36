"""Peers of the benchmarks compute the same results: a fast wrong answer is no comparison."""

from __future__ import annotations

import json
import warnings
from dataclasses import fields
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numeric_tools import assert_close, golden_names, load_golden

import zopo_fast as zf
from zopo_fast.bench import peers
from zopo_fast.bench.search import quality as search_quality
from zopo_fast.bench.search.replay import Landscape, initial_points
from zopo_fast.search.config import OfficialSettings

NEEDS = {
    "published": "torch",
    "torch_closed": "torch",
    "numpy_closed": "scipy",
    "gpytorch_peer": "botorch",
    "neural_tangents_peer": "neural_tangents",
    "sklearn_peer": "sklearn",
}


def load(name: str) -> ModuleType:
    """Import the module of a peer; skip the test if its library is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries warn about each other at import
        try:
            pytest.importorskip(NEEDS[name])
        except Exception as error:  # installed, but cannot be loaded
            pytest.skip(f"{NEEDS[name]} cannot be imported: {error}")
        skipped: dict[str, str] = {}
        modules = peers.load([name], skipped)
    assert not skipped
    module: ModuleType = modules[name]
    if hasattr(module, "compile_too"):
        module.compile_too = False  # compiling takes tens of seconds, and the eager code is the same
    return module


def closed_form() -> ModuleType:
    """Import the published loop without functorch and autograd."""
    load("published")
    from zopo_fast.bench.search import published as search_published

    return search_published


@pytest.fixture
def problem(rng: np.random.Generator) -> dict[str, Any]:
    d, n = 12, 30
    X = rng.normal(size=(n, d))
    return {"kernel": zf.NTK.random(d, width=16, depth=3), "X": X, "y": np.sin(X.sum(axis=1)), "noise": 0.1}


@pytest.mark.parametrize(
    ("name", "lookup"),
    [(name, lookup) for name in golden_names("trace") for lookup in ("index", "closed form")]
    + [(name, "embedding") for name in golden_names("trace") if "m60" in name or "small" in name],
)
def test_published_reproduces_recorded_runs_in_float64(name: str, lookup: str) -> None:
    published = load("published")
    import torch

    g = load_golden(name)
    stored = json.loads(str(g.data["settings"]))
    inputs = (
        g.data["Z"],
        zf.NTK(g.weights, g.biases),
        g.data["f"],
        g.data["init"].tolist(),
        int(g.data["budget"]),
        OfficialSettings(**{field.name: stored[field.name] for field in fields(OfficialSettings)}),
        torch.float64,
    )
    if lookup == "closed form":
        run = closed_form().ClosedFormZopo(*inputs)
    else:
        run = published.PublishedZopo(*inputs, lookup)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # many small calls
    try:
        while not run.done:
            run.step()
    finally:
        torch.set_num_threads(threads)
    assert run.evaluated == g.data["evaluated"].tolist()
    assert run.asked == g.data["asked"].tolist()
    assert sorted(run.explored) == sorted(g.data.get("explored", np.array([])).tolist())
    np.testing.assert_allclose(run.uncertainty, g.data["uncertainty"], rtol=1e-4)


def test_published_returns_where_the_published_loop_would_not() -> None:
    """With constant scores there is no gradient, and in the end no unscored neighbour."""
    published = load("published")
    Z = np.random.default_rng(0).normal(size=(30, 4))
    kernel = zf.NTK.random(4, initialization="normal")
    settings = OfficialSettings(neighbors=3)
    for loop in (published.PublishedZopo, closed_form().ClosedFormZopo):
        run = loop(Z, kernel, np.zeros(30), [0, 1, 2], 30, settings)
        while not run.done:
            run.step()
        assert sorted(run.evaluated) == list(range(30))


@pytest.mark.parametrize(("kind", "tolerance"), [("float64", 1e-11), ("float32", 1e-5)])
def test_closed_form_has_the_published_jacobian_and_gradient(kind: str, tolerance: float) -> None:
    published, closed = load("published"), closed_form()
    import torch

    dtype, settings = getattr(torch, kind), OfficialSettings(sigma=10.0)  # well conditioned
    rng = np.random.default_rng(5)
    X, y = (torch.tensor(a, dtype=dtype) for a in (rng.normal(size=(30, 12)), rng.normal(size=30)))
    X[:, 3] = 0.5  # a constant column is not scaled
    kernel = zf.NTK.random(12, width=16, depth=3, initialization="normal")
    theirs, ours = published.EmpiricalNTK(kernel, dtype), closed.ClosedFormNTK(kernel, dtype)
    for actual, expected in zip(ours.jacobian(X), theirs.jacobian(X), strict=True):
        assert_close(actual, expected, tolerance)
    for x in X[:4]:
        expected = published.Surrogate(theirs, X, y, X[0], settings).descent(x)
        actual = closed.ClosedFormSurrogate(ours, X, y, X[0], settings).descent(x)
        assert actual[0].dtype == dtype
        for a, b in zip(actual, expected, strict=True):
            assert_close(a, b, 100 * tolerance)


def test_adam_of_the_closed_form_equals_the_published_one() -> None:
    closed = closed_form()
    import torch

    ours, theirs = torch.nn.Parameter(torch.zeros(50)), torch.nn.Parameter(torch.zeros(50))
    mine, reference = closed.Adam(ours, 0.01), torch.optim.Adam([theirs], lr=0.01)
    for k in range(30):
        ours.grad = theirs.grad = torch.randn(50, generator=torch.Generator().manual_seed(k)) * 10.0**-k
        with torch.no_grad():
            mine.step()
        reference.step()
        assert_close(ours.detach(), theirs.detach(), 1e-6)


def test_the_closed_form_rounds_like_the_published_loop() -> None:
    """In float32 both have rounding errors of one size in the variance, far above the exact 1e-4."""
    published, closed = load("published"), closed_form()
    import torch

    landscape = Landscape.load(search_quality.BENCH / "landscapes" / "rhymes.json")
    scores, noise, rounds = landscape.scores.mean(axis=1), {}, {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for loop in (published.PublishedZopo, closed.ClosedFormZopo):
            runs = []
            for seed in range(3):
                kernel = zf.NTK.random(landscape.Z.shape[1], seed=seed, initialization="normal")
                run = loop(landscape.Z, kernel, scores, initial_points(len(scores), 10, seed), 50)
                while not run.done:
                    run.step()
                runs.append(run)
            noise[loop] = np.concatenate([run.uncertainty for run in runs])
            rounds[loop] = [len(run.uncertainty) - len(run.asked) for run in runs]
    finally:
        torch.set_num_threads(threads)
    theirs, ours = noise.values()
    for part in (0.25, 0.5, 0.75):
        assert 0.5 < np.quantile(ours, part) / np.quantile(theirs, part) < 2.0
    assert np.median(ours) > 100 * 1e-4
    theirs, ours = rounds.values()
    assert sum(ours) == pytest.approx(sum(theirs), abs=3)
    assert min(ours) > 0


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("torch_closed", 1e-13), ("numpy_closed", 1e-13), ("neural_tangents_peer", 1e-12), ("published", 1e-5)],
)
def test_the_gram_matrix_of_a_peer_is_ours(
    name: str, tolerance: float, problem: dict[str, Any], rng: np.random.Generator
) -> None:
    """The published peer computes in float32."""
    module, kernel, X = load(name), problem["kernel"], problem["X"]
    Y = rng.normal(size=(7, X.shape[1]))
    for other in (Y, None):
        cases = module.grams(kernel, X, other)
        assert cases
        for case in cases.values():
            assert_close(case(), kernel.gram(X, other), tolerance)


@pytest.mark.parametrize("name", ["torch_closed", "numpy_closed", "gpytorch_peer"])
def test_the_posterior_of_a_peer_is_ours(
    name: str, problem: dict[str, Any], rng: np.random.Generator
) -> None:
    found = load(name).processes(**problem)
    ours = zf.GaussianProcess(problem["kernel"], problem["noise"])
    ours.append(problem["X"], problem["y"])
    Q = rng.normal(size=(5, problem["X"].shape[1]))
    checked = 0
    for label, process in found.items():
        if "RBF" in label:
            continue
        checked += 1
        expected, points = ours.posterior(Q), process.points(Q)
        for actual, field in zip(process.predict(points), expected, strict=False):
            assert_close(actual, field, 1e-9)
        at_first = ours.posterior(Q[0])
        for actual, field in zip(process.posterior(points[:1]), at_first, strict=False):
            assert_close(np.ravel(actual), np.ravel(field), 1e-9)
    assert checked


@pytest.mark.parametrize("name", ["torch_closed", "numpy_closed", "sklearn_peer", "gpytorch_peer"])
def test_a_grown_and_shrunk_process_equals_a_new_fit(name: str, problem: dict[str, Any]) -> None:
    module = load(name)
    X, y = problem["X"], problem["y"]
    kernel, noise = problem["kernel"], problem["noise"]
    before = module.processes(kernel, X[:-1], y[:-1], noise)
    after = module.processes(kernel, X, y, noise)
    for label, process in before.items():
        if not hasattr(process, "appended"):
            continue
        at = process.points(X[:3] + 0.1)
        whole, grown = after[label], process.appended(process.points(X[-1:]), float(y[-1]))
        if hasattr(grown, "predict"):
            assert_close(grown.predict(at)[1], whole.predict(at)[1], 1e-8)
        else:  # the model of a library
            assert_close(grown(at).mean.detach(), whole.predict(at)[0], 1e-8)
        if hasattr(whole, "removed"):
            assert_close(whole.removed(len(X) - 1).predict(at)[0], process.predict(at)[0], 1e-8)


@pytest.mark.parametrize("name", ["torch_closed", "numpy_closed"])
def test_the_search_of_a_peer_asks_the_same_prompts(name: str, rng: np.random.Generator) -> None:
    """The run includes exploration, new centers and the selection of the noise."""
    module = load(name)
    Z = rng.normal(size=(250, 12))
    scores = np.sin(Z @ rng.normal(size=12))
    opt, order = zf.Zopo(Z, zf.ZopoConfig(search="gradient", budget=120, initial=20)), []
    while not opt.done:
        order.append(i := opt.ask())
        opt.tell(i, float(scores[i]))
    (search,) = module.searches(Z, zf.NTK.random(12), scores, order[:20]).values()
    while len(search.evaluated) < 120:
        search.step()
    assert search.evaluated == order


def test_the_botorch_search_runs(rng: np.random.Generator) -> None:
    module = load("gpytorch_peer")
    Z = rng.normal(size=(60, 6))
    (search,) = module.searches(Z, zf.NTK.random(6), Z[:, 0], list(range(10))).values()
    for _ in range(5):
        search.step()
    assert len(set(search.evaluated)) == 15


def test_a_missing_peer_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'")

    monkeypatch.setattr(peers.importlib, "import_module", missing)
    skipped: dict[str, str] = {}
    assert peers.load(["published"], skipped) == {}
    assert skipped == {"the published algorithm in PyTorch": "ModuleNotFoundError: No module named 'torch'"}


def test_a_failing_case_is_skipped_with_the_reason() -> None:
    def fails() -> None:
        raise RuntimeError("no compiler\nand a long story")

    skipped: dict[str, str] = {}
    assert list(peers.working({"good": lambda: 1, "bad": fails}, skipped)) == ["good"]
    assert skipped == {"bad": "RuntimeError: no compiler"}
