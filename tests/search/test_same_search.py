"""The same random calls on Zopo, on ZopoBatch with any number of threads, and on the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from random_calls import SCORES, Call, RandomCalls, made, random_sources, shown
from reference_search import Followed, ReferenceSearch

import zopo_fast as zf

pytestmark = pytest.mark.filterwarnings("ignore:budget .* is clipped")
CALLS = 100
D = 5
Settings = dict[str, Any]

IMPROVEMENT: dict[str, Settings] = {
    "default": {},
    "power 1": {"power": 1},
    "no emphasis": {"emphasis": 0.0},
    "large emphasis": {"emphasis": 1.0, "initial": 1},
    "zscore": {"zscore": True},
    "noise": {"noise": 0.2},
    "little noise": {"noise": 0.01, "initial": [7, 3, 30]},
    "patience": {"patience": 2},
    "endless patience": {"patience": 0},
    "region": {"region": 12},
    "region, patience": {"region": 12, "patience": 1},
    "region, no step": {"region": 9, "step": 0.0, "patience": 3},
    "region of one": {"region": 1},
    "outgrown region": {"region": 51, "patience": 2},
    "all at once": {"initial": 30, "budget": 30},
    "exhausted": {"budget": 30},
    "region, exhausted": {"budget": 30, "region": 8, "patience": 2},
}
THOMPSON: dict[str, Settings] = {
    "thompson": {},
    "thompson, no emphasis": {"emphasis": 0.0, "zscore": True},
    "thompson, noise": {"noise": 0.2},
    "thompson, region": {"region": 12, "patience": 2},
    "thompson, outgrown region": {"region": 51},
    "thompson, exhausted": {"budget": 30},
}
GRADIENT: dict[str, Settings] = {
    "gradient": {},
    "gradient, no exploration": {"exploration": 0},
    "gradient, explores": {"exploration": 2, "exploration_quantile": 0.3, "initial": [4, 2]},
    "gradient, noise": {"noise": 0.1},
    "gradient, no step": {"step": 0.0},
    "gradient, exhausted": {"budget": 30},
    "gradient, neighbors": {"neighbors": 3, "step": 1.0, "initial": 15},
}
FEATURES: dict[str, Settings] = {
    "features": {},
    "features, power 1": {"power": 1},
    "features, noise": {"noise": 0.2},
    "features, zscore": {"zscore": True},
    "features, patience": {"patience": 2},
    "features, region": {"region": 12, "patience": 2},
    "features, outgrown region": {"region": 51},
    "features, exhausted": {"budget": 30},
}
KERNELS: dict[str, Callable[[], Any]] = {
    "closed form": lambda: zf.InfiniteNTK(3, parametrization="standard"),
    "finite": lambda: zf.NTK.random(D, width=16, depth=2, seed=1),
    "several": lambda: [zf.NTK.random(D, seed=seed) for seed in range(3)],
    "mixed": lambda: [zf.InfiniteNTK(1), zf.NTK.random(D, seed=0)],
}


def config_of(name: str, seed: int) -> zf.ZopoConfig:
    search = next((s for s in ("thompson", "gradient") if name.startswith(s)), "improvement")
    settings = {**IMPROVEMENT, **THOMPSON, **GRADIENT, **FEATURES}.get(name, {})
    return zf.ZopoConfig(**{"search": search, "budget": 36, "initial": 6, "seed": seed, **settings})


def kernel_of(name: str) -> Any:
    for given, kernel in KERNELS.items():
        if name.endswith(f"{given} kernel"):
            return kernel()
    return None


CASES = [
    *IMPROVEMENT,
    *THOMPSON,
    *GRADIENT,
    *FEATURES,
    "features, closed form kernel",
    *(f"{given} kernel" for given in KERNELS),
    *(f"thompson, {given} kernel" for given in KERNELS),
    "gradient, finite kernel",
]


def size_of(name: str) -> int:
    """Return the size of a pool; one below the budget, for discarded prompts to be offered again."""
    return 16 if name.endswith("exhausted") else 50


def pool(seed: int, m: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(m, D)) * np.linspace(0.5, 2, D)


def features_of(Z: np.ndarray) -> np.ndarray:
    """Return features that tell the candidates apart in another way than their embeddings do."""
    return np.asarray(np.sin(3.0 * Z.astype(float) @ np.random.default_rng(9).normal(size=(D, 7))))


def described(name: str, Z: np.ndarray) -> np.ndarray | None:
    return features_of(Z) if name.startswith("features") else None


def calls_of(name: str, Z: np.ndarray, seed: int, adds: bool = True) -> RandomCalls:
    return RandomCalls(Z, seed, adds, features_of if name.startswith("features") else None)


def sources_of(name: str, seed: int, Z: np.ndarray) -> list[dict[str, Any]]:
    """Return the earlier searches that a search learns from; none for a gradient search, and for a third."""
    n = CASES.index(name) + seed
    return [] if name in GRADIENT or name.startswith("gradient") or n % 3 == 0 else random_sources(Z, n)


# ---- the reference ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "learns"), [*((seed, False) for seed in range(len(SCORES))), (0, True), (1, True)]
)
@pytest.mark.parametrize("name", CASES)
def test_a_search_equals_the_reference(name: str, seed: int, learns: bool) -> None:
    Z, config, kernel = pool(seed, size_of(name)), config_of(name, seed), kernel_of(name)
    features = described(name, Z)
    both = Followed(
        zf.Zopo(Z, config, kernel, features), ReferenceSearch(Z, config, kernel, features=features)
    )
    for source in random_sources(Z, CASES.index(name) + 100 * seed) if learns else ():
        if config.search != "gradient":
            both.learn_from(**source)
            continue
        with pytest.raises(zf.ConfigError):  # and the search stays as the reference without sources
            both.opt.learn_from(**source)
    calls = calls_of(name, Z, seed)
    for _ in range(CALLS):
        made(both, calls.next(both.opt))
    assert both.compared > CALLS // 10


# ---- the batch -------------------------------------------------------------------------------------


class Recorded:
    """Random calls on a search of its own, with the answers and all that it showed."""

    def __init__(self, name: str, Z: np.ndarray, seed: int, calls: RandomCalls, learns: bool = True) -> None:
        self.features = described(name, Z)
        opt = zf.Zopo(Z, config_of(name, seed), kernel_of(name), self.features)
        self.config, self.kernels = opt.config, opt._problem.kernels
        self.sources = sources_of(name, seed, Z) if learns else []
        for source in self.sources:
            opt.learn_from(**source)
        self.calls: list[Call] = []
        self.answers: list[Any] = []
        self.shown: list[Any] = []
        for _ in range(CALLS):
            self.calls.append(calls.next(opt))
            self.answers.append(made(opt, self.calls[-1]))
            self.shown.append(shown(opt))
        self.state = opt.state_dict()
        self.uncertainty = opt._native.gradient_uncertainty()[0]


class Replay:
    """Makes the calls of many searches on one batch, singly or together, in a random order or in step."""

    def __init__(
        self, batch: zf.ZopoBatch, recorded: list[Recorded], seed: int, in_step: bool = False
    ) -> None:
        self.in_step = in_step
        self.batch, self.recorded, self.rng = batch, recorded, np.random.default_rng(seed)
        for search, record in zip(batch, recorded, strict=True):
            for source in record.sources:
                search.learn_from(**source)
        self.at = [0] * len(recorded)
        self.together = 0  # calls that served several searches

    def run(self) -> None:
        while unfinished := [b for b, r in enumerate(self.recorded) if self.at[b] < len(r.calls)]:
            if self.in_step:
                self.several(sorted(unfinished, key=self.at.__getitem__))
                continue
            chosen = [b for b in unfinished if self.rng.random() < 0.8]
            if chosen and self.rng.random() < 0.9:
                self.several(chosen)
            else:
                b = int(self.rng.choice(unfinished))
                self.check(b, made(self.batch[b], self.recorded[b].calls[self.at[b]]))
            if self.rng.random() < 0.1:
                self.check_views()

    def several(self, chosen: list[int]) -> None:
        """Make the next call of those of the chosen searches whose calls are of one form."""

        def form(b: int) -> Any:
            name, *arguments = self.recorded[b].calls[self.at[b]]
            if name == "tell" and arguments[0] in self.batch[b].pending:
                return name, arguments[2] is None, arguments[3]
            return (name,) if name == "discard" or (name, arguments) == ("ask", []) else None

        wanted = form(chosen[0])
        alike = sorted(b for b in chosen if wanted is not None and form(b) == wanted)
        if not alike:
            b = chosen[0]
            self.check(b, made(self.batch[b], self.recorded[b].calls[self.at[b]]))
            return
        calls = {b: self.recorded[b].calls[self.at[b]] for b in alike}
        self.together += len(alike) > 1
        indices = np.full(len(self.recorded), -1)
        answers: dict[int, Any] = dict.fromkeys(alike)
        if wanted[0] == "ask":
            asked = self.batch.ask(self.rng.permutation(alike), ahead=True)
            assert (np.delete(asked, alike) == -1).all()
            answers = {b: int(asked[b]) for b in alike}
        else:
            for b, call in calls.items():
                indices[b] = call[1]
            if wanted[0] == "discard":
                self.batch.discard(indices)
            else:
                scores, noise = np.zeros(len(indices)), np.zeros(len(indices))
                for b, call in calls.items():
                    scores[b], noise[b] = call[2], call[3] or 0.0
                self.batch.tell(indices, scores, None if wanted[1] else noise, final=wanted[2])
        for b, answer in answers.items():
            self.check(b, answer)

    def check_views(self) -> None:
        """Check the properties of the batch against what its searches have shown."""
        best, score = self.batch.best
        views = zip(self.batch.pending, self.batch.done, best, score, strict=True)
        for at, recorded, (waiting, done, index, value) in zip(self.at, self.recorded, views, strict=True):
            if at > 0:
                pending, is_done, known, *_ = recorded.shown[at - 1]
                assert (waiting, done) == (pending[0] if pending else -1, is_done)
                assert (index, value) == known if known else index == -1 and np.isnan(value)

    def check(self, b: int, answer: Any) -> None:
        recorded, at = self.recorded[b], self.at[b]
        assert answer == recorded.answers[at], (b, at, recorded.calls[at])
        assert shown(self.batch[b]) == recorded.shown[at], (b, at, recorded.calls[at])
        self.at[b] += 1


@pytest.fixture
def threads() -> Iterator[None]:
    yield
    zf.set_num_threads(0)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("seed", range(2))
def test_a_batch_gives_what_each_search_would_alone(seed: int) -> None:
    """Searches of every kind share a batch, which answers calls for one and for several of them."""
    zf.set_num_threads(1)
    pools = [pool(n, size_of(name) + n % 7) for n, name in enumerate(CASES)]
    pools[0] = np.repeat(pools[0][:20], 2, axis=0)
    pools[1], pools[2] = pools[1].astype(np.float16), pools[2].astype(np.float32)
    recorded = [
        Recorded(name, Z, 7 * seed + n, calls_of(name, Z, 7 * seed + n))
        for n, (name, Z) in enumerate(zip(CASES, pools, strict=True))
    ]
    for count in (1, 2):
        zf.set_num_threads(count)
        batch = zf.ZopoBatch(
            pools,
            [r.config for r in recorded],
            kernels=[r.kernels for r in recorded],
            features=[r.features for r in recorded],
        )
        replay = Replay(batch, recorded, seed)
        replay.run()
        assert replay.together > CALLS
        assert [search.state_dict() for search in batch] == [r.state for r in recorded]
        np.testing.assert_array_equal(batch.gradient_uncertainty, [r.uncertainty for r in recorded])


@pytest.mark.usefixtures("threads")
def test_a_batch_on_several_threads_gives_what_each_search_would_alone() -> None:
    """The searches are large enough for threads to share a call, and most of their calls are of one form."""
    zf.set_num_threads(1)
    names = ["default", "features", "power 1", "region, patience", "thompson", "gradient"] * 5
    pools = [pool(n, 900) for n in range(len(names))]
    recorded = [
        Recorded(name, Z, n, calls_of(name, Z, 0, adds=False), learns=False)
        for n, (name, Z) in enumerate(zip(names, pools, strict=True))
    ]
    zf.set_num_threads(4)
    batch = zf.ZopoBatch(pools, [r.config for r in recorded], features=[r.features for r in recorded])
    replay = Replay(batch, recorded, 0, in_step=True)
    replay.run()
    assert replay.together > CALLS
    assert [search.state_dict() for search in batch] == [r.state for r in recorded]
