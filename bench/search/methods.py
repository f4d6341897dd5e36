"""Search methods of the comparison: random, published ZOPO, APE, TRIPLE and this package's search."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import zopo_fast as zf
from zopo_fast.errors import NothingToAsk
from zopo_fast.llm.types import Usage

from . import race_view
from .halving import Halving
from .item_response import ItemResponse
from .replay import Method, Problem, Request, Search, in_full, order

if TYPE_CHECKING:
    from zopo_fast.runs.state import RunState


class RandomSearch(Method):
    """Random search: the initial points, then the others in random order."""

    name = "random"

    def search(self, problem: Problem) -> Search:
        for index in order(problem):
            yield from in_full(problem, index)


class Zopo(Method):
    """This package's search with keywords of ZopoConfig, so that an ablation is one line.

    Args:
        in_flight: prompts asked before the first is told, as by a driver that scores that many at a time;
            told in the order of asking.
        networks: number of random finite networks whose averaged kernel replaces the default one.
        starts: initial prompts: "own", the package's default, or "given", those of the other methods.
        reads: whether the model has the words of the prompts, as `zf.optimize` gives them.
    """

    def __init__(
        self,
        name: str = "zopo_fast",
        in_flight: int = 1,
        networks: int = 0,
        starts: Literal["own", "given"] = "own",
        reads: bool = True,
        **settings: Any,
    ) -> None:
        self.name, self.in_flight, self.networks, self.settings = name, in_flight, networks, settings
        self.plans = starts == "own"
        is_default = not networks and settings.keys().isdisjoint(("search", "region"))
        self.reads = reads and is_default

    def config(self, problem: Problem) -> zf.ZopoConfig:
        """Return the settings of one run: the defaults at the given budget."""
        start: dict[str, Any] = {} if self.plans else {"initial": problem.initial}
        return zf.ZopoConfig(budget=problem.prompts, seed=problem.seed, **start, **self.settings)

    def kernels(self, problem: Problem) -> list[zf.NTK] | None:
        """Return the random networks of one run; None for the default kernel."""
        drawn = np.random.default_rng([problem.seed, 4]).integers(2**31, size=self.networks)
        return [zf.NTK.random(problem.Z.shape[1], seed=int(seed)) for seed in drawn] or None

    def search(self, problem: Problem) -> Search:
        words = zf.word_features(problem.texts) if self.reads and problem.texts else None
        optimizer = zf.Zopo(problem.Z, self.config(problem), self.kernels(problem), words)
        waiting: deque[int] = deque()
        while not optimizer.done:
            try:
                while len(waiting) < self.in_flight:
                    waiting.append(optimizer.ask())
            except NothingToAsk:
                pass  # the last prompts are in flight
            index = waiting.popleft()
            optimizer.tell(index, (yield from in_full(problem, index)))


class Racing(Method):
    """This package's race as `zf.optimize` runs it: mini-batches, and early stopping of weak prompts.

    Args:
        slots: number of calls in flight.
        one_difficulty: whether the race takes all examples as equally difficult.
        settings: of RunConfig, beside the budget.
    """

    partial = plans = True

    def __init__(
        self,
        name: str = "zopo_fast, racing",
        slots: int = 1,
        one_difficulty: bool = False,
        **settings: Any,
    ) -> None:
        self.name, self.slots, self.settings = name, slots, settings
        self.one_difficulty = one_difficulty

    def search(self, problem: Problem) -> Search:
        state = race_view.start(problem, self.slots, **self.settings)
        if self.one_difficulty:
            race_view.ignore_difficulty(state)
        for work, examples in race_view.Flight(state, self.slots).calls():
            scores = yield Request(work.index, examples, race_view.complete(state))
            for example, score in zip(examples, scores[-len(examples) :].tolist(), strict=False):
                state.record_score(work.index, example, score, Usage(), 0.0)
            self.decided(state, work.index)
        return race_view.incumbent(state)

    def decided(self, state: RunState, index: int) -> None:
        """Hook after the scores of prompt `index`, for subclasses that judge the race."""


class Official(Zopo):
    """The published loop in float64: the `official` preset, from the given initial prompts."""

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(name, starts="given", reads=False, **settings)

    def config(self, problem: Problem) -> zf.ZopoConfig:
        return zf.ZopoConfig.official(problem.prompts, problem.initial, problem.seed, **self.settings)


class OfficialFloat32(Method):
    """The published loop in float32, where its exploration follows rounding noise; the preset's network."""

    name = "official, float32"
    replays = True
    needs = ("torch",)

    def search(self, problem: Problem) -> Search:
        from .published import ClosedFormZopo

        kernel = zf.NTK.random(problem.Z.shape[1], seed=problem.seed, initialization="normal")
        run = ClosedFormZopo(problem.Z, kernel, problem.recorded, problem.initial, problem.prompts)
        told = 0
        while True:
            for index in run.evaluated[told:]:
                yield from in_full(problem, index)
            told = len(run.evaluated)
            if run.done or run.step() < 0:
                return


class BestOfInit(Method):
    """APE (arXiv 2211.01910) without resampling, on a given pool.

    The whole budget goes into the initial candidates. Half of the calls score random candidates on a
    quarter of the examples; the other half scores the best of them on the rest. With full scores only, APE
    would be random search.
    """

    name = "APE, best of init"
    partial = True

    def search(self, problem: Problem) -> Search:
        count = max(1, problem.examples // 4)
        candidates = order(problem)[: max(1, problem.calls // 2 // count)]
        means: dict[int, float] = {}
        for index in candidates:
            means[index] = float((yield index, count).mean())
        for index in sorted(candidates, key=lambda i: -means[i]):
            if problem.examples > count:
                yield index, problem.examples - count


def methods() -> dict[str, Method]:
    """Return every method by its name."""
    from . import processes
    from .hyperband import HyperbandProcess

    listed: list[Method] = [
        RandomSearch(),
        Official("official"),
        OfficialFloat32(),
        BestOfInit(),
        Halving("TRIPLE, halving", first=2),
        Halving("halving, own order", first=1, shuffles=True),
        Halving("halving, same order", first=1),
        HyperbandProcess(),
        ItemResponse(),
        processes.RbfProcess("GP-EI, RBF", processes.expected_improvement),
        processes.GridProcess("GP-EI, RBF, grid", processes.expected_improvement),
        processes.RbfProcess("GP-TS, RBF", processes.thompson),
        processes.NeuralUCB(),
        processes.InfiniteNTK(),
        Zopo(),
        Zopo("zopo_fast, embeddings alone", reads=False),
        Zopo("zopo_fast, 10 random", starts="given"),
        Zopo("zopo_fast, gradient", search="gradient"),
        Racing(),
        Racing("zopo_fast, racing, 16 in flight", slots=16),
        Racing("zopo_fast, racing, one difficulty", one_difficulty=True),
    ]
    return {method.name: method for method in listed}


def ablations() -> dict[str, Method]:
    """Return our search with one ingredient changed or removed."""
    listed = [
        Zopo("zopo_fast, power 1", power=1),
        Zopo("zopo_fast, no emphasis", emphasis=0.0),
        Zopo("zopo_fast, z-scores", zscore=True),
        Zopo("zopo_fast, one noise level", noise=0.1),
        Zopo("zopo_fast, Thompson", search="thompson"),
        Zopo("zopo_fast, never shrinking", patience=0),
        Zopo("zopo_fast, region 64", region=64),
        Zopo("zopo_fast, region 64, no step", region=64, step=0.0),
        Zopo("zopo_fast, 1 finite network", networks=1),
        Zopo("zopo_fast, 5 finite networks", networks=5),
    ]
    return {method.name: method for method in listed}


def parallel() -> dict[str, Method]:
    """Return our search with several prompts in flight."""
    return {method.name: method for method in (Zopo(f"zopo_fast, {n} in flight", n) for n in (4, 16))}


def every() -> dict[str, Method]:
    """Return all methods, ablations and parallel variants by name."""
    return methods() | ablations() | parallel()
