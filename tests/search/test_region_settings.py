"""Search in a region: settings, kernels, and scores and noise of any magnitude."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from region_tools import REGIONS, SEARCHES, assert_same_model, made, model_of, region_of
from search_tools import play, pool, score
from time_tools import time_limit

import zopo_fast as zf

SETTINGS: dict[str, dict[str, Any]] = {
    "power": {"power": 1},
    "no emphasis": {"emphasis": 0.0},
    "large emphasis": {"emphasis": 3.0},
    "zscore": {"zscore": True},
    "noise": {"noise": 1.0},
    "thompson": {"search": "thompson"},
    "region": {"region": 20},
    "seed": {"seed": 9},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_setting_changes_the_run(setting: str) -> None:
    Z = pool(200) * np.linspace(0.5, 3, 6)
    runs = [
        play(zf.Zopo(Z, zf.ZopoConfig(**{"budget": 80, "initial": 8, "seed": 2, **changed})))
        for changed in ({}, SETTINGS[setting])
    ]
    assert runs[0] != runs[1]
    if setting != "seed":
        assert runs[0][:8] == runs[1][:8]  # the same initial points


def test_a_longer_gradient_step_moves_the_region_uphill() -> None:
    members = []
    for step in (0.0, 0.5, 2.0):
        opt = made(m=400, region=40, step=step)
        for i in opt.ask(8):
            opt.tell(i, float(pool(400)[i] @ np.ones(6)))
        opt.ask()
        members.append(set(region_of(opt).members.tolist()))
        assert len(members[-1]) == 40 + 8
    assert members[0] != members[1] != members[2]
    Z = pool(400) @ np.ones(6)
    level = [float(np.mean(Z[sorted(m)])) for m in members]
    assert level[0] < level[1] < level[2]


KERNELS: dict[str, Callable[[], Any]] = {
    "infinite": lambda: zf.InfiniteNTK(3, parametrization="standard"),
    "finite": lambda: zf.NTK.random(6, width=16, depth=2, seed=1),
    "several": lambda: [zf.NTK.random(6, seed=s) for s in range(3)],
    "mixed": lambda: [zf.InfiniteNTK(1), zf.NTK.random(6, seed=0)],
}


@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_run_with_any_kernel_is_reproducible(kernel: str, search: str, region: int) -> None:
    order = play(made(kernel=KERNELS[kernel](), search=search, region=region))
    assert len(set(order)) == 60
    assert order == play(made(kernel=KERNELS[kernel](), search=search, region=region))
    assert order != play(made(search=search, region=region))


def test_passing_the_default_kernel_gives_the_same_run() -> None:
    from zopo_fast.search.problem import DEFAULT_KERNEL

    assert play(made(kernel=DEFAULT_KERNEL)) == play(made()) == play(made(kernel=[DEFAULT_KERNEL]))


def test_the_native_kernel_equals_the_python_kernel() -> None:
    """A kernel passed twice is averaged with itself; both models agree up to rounding."""
    from zopo_fast.search.problem import DEFAULT_KERNEL

    models = []
    for kernel in (DEFAULT_KERNEL, [DEFAULT_KERNEL, DEFAULT_KERNEL]):
        opt = made(kernel=kernel)
        for i in opt.ask(8):
            opt.tell(i, score(i))
        models.append(model_of(opt))
    assert_same_model(*models)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *(("region", v) for v in (0, -1, 2.5, "x", True)),
        *(("power", v) for v in (0, 3, -1, 1.5, None)),
        *(("emphasis", v) for v in (-0.1, np.nan, np.inf, "x", None)),
        *(("patience", v) for v in (-1, 0.5, "x", None)),
        *(("zscore", v) for v in (0, 1, "yes", None)),
        *(("noise", v) for v in (0.0, -1.0, np.nan, np.inf, "x")),
        *(("step", v) for v in (-1.0, np.nan, np.inf, "x")),
        *(("search", v) for v in ("", "Improvement", None, 3, "random")),
    ],
)  # fmt: skip
def test_invalid_settings_are_refused(name: str, bad: Any) -> None:
    with pytest.raises(zf.ConfigError, match=name):
        zf.ZopoConfig(**{name: bad})


SCORES: dict[str, Callable[[int], float]] = {
    "1e300": lambda i: 1e300 * score(i),
    "-1e300": lambda i: -1e300,
    "both ends": lambda i: (1.7e308, -1.7e308, 0.0)[i % 3],
    "1e-300 apart": lambda i: 1e-300 * i,
    "1e-160 apart": lambda i: 1e-160 * (i % 7),
    "denormal": lambda i: 5e-324 * (i % 5),
    "a rounding apart": lambda i: 1.0 + 2e-16 * (i % 3),
    "all equal": lambda i: 3.3,
    "large offset": lambda i: 1e9 + score(i),
    "one huge score": lambda i: 1e200 if i == 25 else score(i),
    "one hugely negative score": lambda i: -1e308 if i == 25 else score(i),
}


@pytest.mark.parametrize("noise", [None, 1e-300, 1.0, 1.7e308])
@pytest.mark.parametrize("scores", SCORES)
def test_scores_of_any_magnitude_are_accepted(scores: str, noise: float | None) -> None:
    """With any of the settings a run ends without a warning and asks no prompt twice."""
    f = SCORES[scores]
    for settings in (
        {}, {"emphasis": 0.0}, {"emphasis": 30.0}, {"region": 16}, {"region": 16, "emphasis": 0.0},
        {"search": "thompson"}, {"search": "thompson", "emphasis": 0.0, "region": 16},
    ):  # fmt: skip
        opt, order = made(m=80, budget=40, **settings), []
        while not opt.done:
            order.append(i := opt.ask())
            if i % 4 == 0:
                opt.tell(i, f(i), noise=noise, final=False)
            opt.tell(i, f(i), noise=noise if i % 2 else None)
        assert len(set(order)) == 40


@pytest.mark.parametrize("scores", ["1e300", "1e-160 apart", "large offset"])
def test_tiny_and_huge_scores_give_the_same_run_as_ordinary_scores(scores: str) -> None:
    plain = {"1e300": score, "1e-160 apart": lambda i: float(i % 7), "large offset": score}[scores]
    unit = {"1e300": 2.0**990, "1e-160 apart": 2.0**-530, "large offset": 1.0}[scores]
    shift = 2.0**20 if scores == "large offset" else 0.0
    for settings in ({}, {"emphasis": 0.0}, {"region": 16}, {"search": "thompson"}):
        runs = []
        for a, b in ((0.0, 1.0), (shift, unit)):
            runs.append(play(made(**settings), lambda i, a=a, b=b: a + b * round(plain(i) * 1024) / 1024))
        same = sum(x == y for x, y in zip(*runs, strict=True))
        assert same == 60 or (shift and same >= 20)


@pytest.mark.parametrize("noise", [1e-300, 1e-12, 1e-6, 1e6, 1e300])
def test_noise_of_any_magnitude_is_accepted(noise: float) -> None:
    """Every prompt coincides with another prompt that has a different score."""
    Z = pool(80)
    Z[40:] = Z[:40]
    for region in REGIONS.values():
        for search in SEARCHES:
            opt = zf.Zopo(Z, zf.ZopoConfig(budget=80, initial=8, noise=noise, region=region, search=search))
            with time_limit():
                assert sorted(play(opt)) == list(range(80))


@pytest.mark.parametrize("value", [0.5, 0.7, 1e-9])
def test_equal_scores_are_no_scale_for_their_noise(value: float) -> None:
    """The mean of equal scores is not always exact, and its rounding error is no deviation of the scores."""
    for n in range(1, 12):
        models = []
        for told in (0.0, value):
            opt = made(initial=n)
            for i in opt.ask(n):
                opt.tell(i, told, noise=0.01)
            models.append(model_of(opt))
        assert_same_model(*models)


def test_the_model_interpolates_exact_scores() -> None:
    """With negligible noise the mean at a scored prompt, and at its duplicate, equals the score."""
    Z = pool(80)
    Z[40:] = Z[:40]
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=60, initial=20, noise=1e-9, emphasis=0.0))
    f = Z @ np.linspace(-1, 1, 6)
    asked = opt.ask(20)
    for i in asked:
        opt.tell(i, float(f[i]))
    model, seen = model_of(opt), f[asked]
    for i in asked:
        assert model[i][0] == pytest.approx((f[i] - seen.max()) / seen.std(), abs=0.02)
        assert model[(i + 40) % 80][0] == pytest.approx(model[i][0], abs=0.02)
