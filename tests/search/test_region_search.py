"""The default search: regions, trust regions, pending and partial scores, switches, extreme scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from region_tools import landscape, made, search_of
from search_tools import play, pool, score
from time_tools import time_limit

import zopo_fast as zf

REGIONS = {"whole": 1024, "trust region": 16}
SEARCHES = ["improvement", "thompson"]


def model_of(opt: zf.Zopo) -> dict[int, tuple[float, float]]:
    """What the model says of each member, the scores' unit taken anew."""
    search = search_of(opt)
    search._sync()
    assert search._model is not None
    search._refresh(search._model)
    search._sync()
    mean, variance = search._model.posterior()
    return {int(i): (mean[c], variance[c]) for c, i in enumerate(search._members)}


def assert_same_model(a: dict[int, tuple[float, float]], b: dict[int, tuple[float, float]]) -> None:
    assert a.keys() == b.keys()
    for i, known in a.items():
        assert known == pytest.approx(b[i], abs=1e-4)


# ---- partial scores, noise, prior data, discards ---------------------------------------------------


@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
@pytest.mark.parametrize("search", SEARCHES)
def test_the_model_is_that_of_the_scores_as_they_stand(search: str, region: int) -> None:
    """Partial scores that were replaced, in any mix with other calls, leave nothing behind in it."""
    rng, opt = np.random.default_rng(0), made(search=search, region=region)
    checked = 0
    while not opt.done:
        while len(opt.pending) < 4 and opt._can_offer():
            opt.ask()
        i = opt.pending[int(rng.integers(len(opt.pending)))]
        what = rng.random()
        if what < 0.5:
            n = int(rng.integers(1, 20))
            opt.tell(i, score(i) + float(rng.normal()) / n, noise=1.0 / n, final=False)
        elif what < 0.6 and i not in opt._seen:
            opt.discard(i)
        elif what < 0.7:
            j = int(rng.integers(120))
            if j not in opt.pending and j not in opt._seen:
                opt.tell(j, score(j))
        else:
            opt.tell(i, score(i), noise=0.1 if what < 0.8 else None)
        search_ = search_of(opt)
        if search_._model is not None and not search_._stale and not search_._designing:
            kept = model_of(opt)
            assert len(search_._model) == len(opt._seen)
            members = search_._members.copy()
            search_._model = None
            built = search_._neighbors
            search_._neighbors = lambda m=members, o=opt: [  # type: ignore[method-assign]
                int(i) for i in m if not o._pool.taken(int(i))
            ]
            search_._build()
            search_._neighbors = built  # type: ignore[method-assign]
            fresh = model_of(opt)
            assert_same_model({i: kept[i] for i in fresh}, fresh)
            checked += 1
    assert checked > 20


def test_a_final_score_counts_as_if_there_had_been_no_partial_one() -> None:
    models = []
    for partial in (True, False):
        opt = made()
        for k in range(20):
            i = opt.ask()
            if partial:
                opt.tell(i, 5.0, noise=4.0, final=False)
                opt.tell(i, score(i) + 0.1, noise=0.1, final=False)
            opt.tell(i, score(i))
            if k == 7:  # from here on the asks may differ
                models.append(model_of(opt))
                break
    assert_same_model(*models)


def test_a_score_that_is_replaced_is_replaced_at_once() -> None:
    """Not only when the scores' unit is next taken anew, at which the model is filled again anyway."""
    opt = made(initial=30)
    out = opt.ask(30)
    for i in out[2:]:
        opt.tell(i, score(i))
    for i in out[:2]:
        opt.tell(i, 1.0, final=False)
    out.append(opt.ask())
    search = search_of(opt)
    search._refresh_at = 1000
    models = []
    for told_before in (False, True):
        if told_before:
            search._build()
            search._refresh_at = 1000
        else:
            opt.tell(out[0], -1.0, final=False)
            opt.tell(out[1], 0.5)
        search._sync()
        assert search._model is not None
        models.append(search._model.posterior())
    for kept, fresh in zip(*models, strict=True):
        np.testing.assert_allclose(kept, fresh, atol=1e-5)


def clusters() -> tuple[np.ndarray, np.ndarray]:
    """Two tight groups of prompts, 100 each, and which one each belongs to."""
    rng = np.random.default_rng(0)
    label = np.arange(200) % 2
    return rng.normal(size=(200, 6)) * 0.5 + 3.0 * label[:, None], label


@pytest.mark.parametrize("region", [1024, 64])
def test_a_very_noisy_score_counts_little(region: int) -> None:
    """One prompt of a group is said to be best, exactly or not at all reliably."""
    Z, label = clusters()
    inside = {}
    for noise in (None, 0.01, 100.0):
        opt = zf.Zopo(Z, zf.ZopoConfig(budget=60, initial=[0, 2, 4, 6, 1, 3, 5, 7], region=region))
        for i in opt.ask(8):
            good = 0.5 + 0.02 * (i % 5) if label[i] == 0 else 0.3 + 0.02 * (i % 5)
            opt.tell(i, good)
        opt.tell(9, 1.0, noise=noise)
        inside[noise] = label[opt.ask(6)].sum()
        if noise is None:
            sure = model_of(opt)
        elif noise == 100.0:
            doubtful = model_of(opt)
        else:
            nearly = model_of(opt)
    assert sure[9][0] > doubtful[9][0] + 0.2 * (sure[9][0] - min(v[0] for v in sure.values()))
    assert abs(nearly[9][0] - sure[9][0]) < abs(doubtful[9][0] - sure[9][0])
    assert inside[None] >= inside[100.0]


@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
@pytest.mark.parametrize("search", SEARCHES)
def test_units_of_score_and_noise(search: str, region: int) -> None:
    runs = []
    for unit in (1.0, 2.0**10, 2.0**-300, 2.0**300):
        opt, order = made(search=search, region=region), []
        while not opt.done:
            order.append(i := opt.ask())
            opt.tell(i, unit * (score(i) + 0.2), noise=0.3 * unit**2, final=False)
            opt.tell(i, unit * score(i), noise=0.1 * unit**2 if i % 3 == 0 else None)
        runs.append(order)
    assert runs[0] == runs[1] == runs[2] == runs[3]


@pytest.mark.parametrize("when", ["before the first ask", "while the first are out", "in mid-run"])
def test_prior_data_outside_the_trust_region_moves_it(when: str) -> None:
    """A prompt never asked, far from all that was, is by far the best: its neighbours are next."""
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(3000, 8))
    Z[:200] += 8.0
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=60, initial=list(range(500, 510)), region=100, seed=1))

    def play_some(n: int) -> None:
        for _ in range(n):
            i = opt.ask()
            opt.tell(i, 0.1 * float(Z[i, 0]))

    if when == "before the first ask":
        opt.tell(7, 5.0)
        play_some(10)
    elif when == "while the first are out":
        out = opt.ask(10)
        opt.tell(7, 5.0)
        for i in out:
            opt.tell(i, 0.1 * float(Z[i, 0]))
    else:
        play_some(25)
        opt.tell(7, 5.0)
    following = []
    for _ in range(10):
        following.append(i := opt.ask())
        opt.tell(i, 0.1 * float(Z[i, 0]))
    assert sum(i < 200 for i in following) >= 8
    assert opt.best == (7, 5.0)
    assert search_of(opt)._trust.center == 7


@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
@pytest.mark.parametrize("search", SEARCHES)
def test_a_discarded_prompt_is_neither_pending_nor_offered(search: str, region: int) -> None:
    opt = made(m=60, search=search, region=region)
    given_up = []
    asked = []
    with time_limit():
        while len(asked) < 59 and not opt.done:
            i = opt.ask()
            if len(given_up) < 5 and len(asked) % 7 == 3 and i not in given_up:
                given_up.append(i)
                opt.discard(i)
                assert i not in search_of(opt)._pending
                continue
            asked.append(i)
            opt.tell(i, score(i))
    assert len(given_up) == 5
    assert set(asked[:55]).isdisjoint(given_up)
    assert len(set(asked)) == len(asked)
    opt.tell(given_up[-1], 9.0)  # a late score is data
    assert opt.best == (given_up[-1], 9.0)


@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
@pytest.mark.parametrize("search", SEARCHES)
def test_a_batch_is_as_many_single_asks(search: str, region: int) -> None:
    one, many = (made(search=search, region=region) for _ in range(2))
    for n in (3, 8, 5, 1, 7):
        batch = many.ask(n)
        assert [one.ask() for _ in range(n)] == batch
        assert len(set(batch)) == n
        for i in batch[: n // 2]:
            one.tell(i, score(i))
            many.tell(i, score(i))
    assert one.pending == many.pending


def test_what_is_pending_spreads_a_batch() -> None:
    """A batch is not the best few of one moment, which lie together: fantasised scores push them apart."""
    Z, _ = clusters()
    f = Z @ np.linspace(1, 2, 6)
    spread = []
    for excluded in (False, True):
        opt = zf.Zopo(Z, zf.ZopoConfig(budget=60, initial=10, seed=0))
        for i in opt.ask(10):
            opt.tell(i, float(f[i]))
        opt.ask()
        if excluded:  # as if nothing was known of those pending
            model = search_of(opt)._model
            assert model is not None
            picks = [int(search_of(opt)._members[c]) for c in _without_fantasies(opt, 8)]
        else:
            picks = opt.ask(8)
        X = Z[picks]
        spread.append(float(np.linalg.norm(X[:, None] - X[None, :], axis=2).mean()))
    assert spread[0] > spread[1]


def _without_fantasies(opt: zf.Zopo, n: int) -> list[int]:
    search = search_of(opt)
    model = search._model
    assert model is not None
    picks = []
    for _ in range(n):
        picks.append(model.propose([], search._incumbent(), 2))
        model.exclude(picks[-1])
    return picks


# ---- switches --------------------------------------------------------------------------------------

SWITCHES: dict[str, dict[str, Any]] = {
    "power": {"power": 1},
    "no emphasis": {"emphasis": 0.0},
    "much emphasis": {"emphasis": 3.0},
    "zscore": {"zscore": True},
    "noise": {"noise": 1.0},
    "thompson": {"search": "thompson"},
    "region": {"region": 20},
    "seed": {"seed": 9},
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_changes_the_run(switch: str) -> None:
    Z = pool(200) * np.linspace(0.5, 3, 6)
    runs = [
        play(zf.Zopo(Z, zf.ZopoConfig(**{"budget": 80, "initial": 8, "seed": 2, **changed})))
        for changed in ({}, SWITCHES[switch])
    ]
    assert runs[0] != runs[1]
    if switch != "seed":
        assert runs[0][:8] == runs[1][:8]  # the same initial points


def test_the_step_along_the_gradient_changes_the_region() -> None:
    members = []
    for step in (0.0, 0.5, 2.0):
        opt = made(m=400, region=40, step=step)
        for i in opt.ask(8):
            opt.tell(i, float(pool(400)[i] @ np.ones(6)))
        opt.ask()
        members.append(set(search_of(opt)._members.tolist()))
        assert len(members[-1]) == 40 + 8
    assert members[0] != members[1] != members[2]
    Z = pool(400) @ np.ones(6)
    level = [float(np.mean(Z[sorted(m)])) for m in members]
    assert level[0] < level[1] < level[2]  # uphill


KERNELS: dict[str, Callable[[], Any]] = {
    "infinite": lambda: zf.InfiniteNTK(3, parametrization="standard"),
    "finite": lambda: zf.NTK.random(6, width=16, depth=2, seed=1),
    "several": lambda: [zf.NTK.random(6, seed=s) for s in range(3)],
    "mixed": lambda: [zf.InfiniteNTK(1), zf.NTK.random(6, seed=0)],
}


@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels(kernel: str, search: str, region: int) -> None:
    order = play(made(kernel=KERNELS[kernel](), search=search, region=region))
    assert len(set(order)) == 60
    assert order == play(made(kernel=KERNELS[kernel](), search=search, region=region))
    assert order != play(made(search=search, region=region))


def test_the_default_kernel_by_name_is_the_default() -> None:
    from zopo_fast.search.problem import DEFAULT_KERNEL

    assert play(made(kernel=DEFAULT_KERNEL)) == play(made()) == play(made(kernel=[DEFAULT_KERNEL]))


def test_the_native_kernel_is_that_of_python() -> None:
    """The same kernel twice is their mean, computed by its Python form: the same model but for rounding."""
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
        *(("region", v) for v in (0, -1, 2.5, "x", None, True)),
        *(("power", v) for v in (0, 3, -1, 1.5, None)),
        *(("emphasis", v) for v in (-0.1, np.nan, np.inf, "x", None)),
        *(("patience", v) for v in (-1, 0.5, "x", None)),
        *(("zscore", v) for v in (0, 1, "yes", None)),
        *(("noise", v) for v in (0.0, -1.0, np.nan, np.inf, "x")),
        *(("step", v) for v in (-1.0, np.nan, np.inf, "x")),
        *(("search", v) for v in ("", "Improvement", None, 3, "random")),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(name: str, bad: Any) -> None:
    with pytest.raises(zf.ConfigError, match=name):
        zf.ZopoConfig(**{name: bad})


# ---- scores of any size ----------------------------------------------------------------------------

SCORES: dict[str, Callable[[int], float]] = {
    "1e300": lambda i: 1e300 * score(i),
    "-1e300": lambda i: -1e300,
    "both ends": lambda i: (1.7e308, -1.7e308, 0.0)[i % 3],
    "1e-300 apart": lambda i: 1e-300 * i,
    "1e-160 apart": lambda i: 1e-160 * (i % 7),
    "denormal": lambda i: 5e-324 * (i % 5),
    "a rounding apart": lambda i: 1.0 + 2e-16 * (i % 3),
    "all equal": lambda i: 3.3,
    "on a hill": lambda i: 1e9 + score(i),
    "one far above": lambda i: 1e200 if i == 25 else score(i),
    "one far below": lambda i: -1e308 if i == 25 else score(i),
}


@pytest.mark.parametrize("noise", [None, 1e-300, 1.0, 1.7e308])
@pytest.mark.parametrize("scores", SCORES)
def test_scores_of_any_size(scores: str, noise: float | None) -> None:
    """No warning, no error, each prompt once; whatever the search and its settings."""
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


@pytest.mark.parametrize("scores", ["1e300", "1e-160 apart", "on a hill"])
def test_small_and_large_scores_are_told_apart(scores: str) -> None:
    """Not only survived: the same run as in a usual unit."""
    plain = {"1e300": score, "1e-160 apart": lambda i: float(i % 7), "on a hill": score}[scores]
    unit = {"1e300": 2.0**990, "1e-160 apart": 2.0**-530, "on a hill": 1.0}[scores]
    shift = 2.0**20 if scores == "on a hill" else 0.0
    for settings in ({}, {"emphasis": 0.0}, {"region": 16}, {"search": "thompson"}):
        runs = []
        for a, b in ((0.0, 1.0), (shift, unit)):
            runs.append(play(made(**settings), lambda i, a=a, b=b: a + b * round(plain(i) * 1024) / 1024))
        same = sum(x == y for x, y in zip(*runs, strict=True))
        assert same == 60 or (shift and same >= 20)


@pytest.mark.parametrize("noise", [1e-300, 1e-12, 1e-6, 1e6, 1e300])
def test_noise_settings_of_any_size(noise: float) -> None:
    """Also with prompts that coincide and scores of theirs that do not."""
    Z = pool(80)
    Z[40:] = Z[:40]
    for region in REGIONS.values():
        for search in SEARCHES:
            opt = zf.Zopo(Z, zf.ZopoConfig(budget=80, initial=8, noise=noise, region=region, search=search))
            with time_limit():
                assert sorted(play(opt)) == list(range(80))


def test_exact_scores_are_believed() -> None:
    """With little noise the model's mean at a scored prompt is its score, coincident prompts or not."""
    Z = pool(80)
    Z[40:] = Z[:40]
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=60, initial=20, noise=1e-9, emphasis=0.0))
    f = Z @ np.linspace(-1, 1, 6)
    for i in opt.ask(20):
        opt.tell(i, float(f[i]))
    model, search = model_of(opt), search_of(opt)
    for i in opt._seen.indices:
        assert model[i][0] == pytest.approx(search._transform.value(float(f[i])), abs=0.02)
        assert model[(i + 40) % 80][0] == pytest.approx(model[i][0], abs=0.02)


# ---- the same again --------------------------------------------------------------------------------


@pytest.mark.parametrize("search", SEARCHES)
def test_restored_in_the_middle_with_prompts_pending(search: str) -> None:
    """In a large pool, after moves of the region, with partial scores out; as JSON."""
    Z, f = landscape(3000, 8, 1)
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=120, initial=10, region=64, patience=2, search=search, seed=3))
    rng = np.random.default_rng(0)

    def turn(o: zf.Zopo, picks: np.random.Generator) -> tuple[Any, ...]:
        while len(o.pending) < 5 and o._can_offer():
            o.ask()
        i = o.pending[int(picks.integers(len(o.pending)))]
        what = picks.random()
        if what < 0.3:
            o.tell(i, float(f[i]) + 0.1, noise=0.2, final=False)
        elif what < 0.35 and i not in o._seen:
            o.discard(i)
        else:
            o.tell(i, float(f[i]))
        return (*o.pending, i)

    for _ in range(70):
        turn(opt, rng)
    state = json.loads(json.dumps(opt.state_dict()))
    assert len(state["pending"]) >= 4
    again = zf.Zopo.from_state(Z, state)
    twin = np.random.default_rng(0)
    twin.bit_generator.state = rng.bit_generator.state
    for _ in range(40):
        assert turn(opt, rng) == turn(again, twin)
    for a, b in zip(*(search_of(o)._model.posterior() for o in (opt, again)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert vars(search_of(opt)._trust) == vars(search_of(again)._trust)
