"""Search methods of the comparison: random, published ZOPO, APE, TRIPLE and this package's search."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

import zopo_fast as zf
from zopo_fast.errors import NothingToAsk
from zopo_fast.scoring import race as racing

from .replay import Method, Problem, Search, in_full


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
    """

    def __init__(
        self, name: str = "zopo_fast", in_flight: int = 1, networks: int = 0, **settings: Any
    ) -> None:
        self.name, self.in_flight, self.networks, self.settings = name, in_flight, networks, settings

    def config(self, problem: Problem) -> zf.ZopoConfig:
        """Return the settings of one run."""
        return zf.ZopoConfig(
            budget=problem.prompts, initial=problem.initial, seed=problem.seed, **self.settings
        )

    def kernels(self, problem: Problem) -> list[zf.NTK] | None:
        """Return the random networks of one run; None for the default kernel."""
        drawn = np.random.default_rng([problem.seed, 4]).integers(2**31, size=self.networks)
        return [zf.NTK.random(problem.Z.shape[1], seed=int(seed)) for seed in drawn] or None

    def search(self, problem: Problem) -> Search:
        optimizer = zf.Zopo(problem.Z, self.config(problem), self.kernels(problem))
        waiting: deque[int] = deque()
        while not optimizer.done:
            try:
                while len(waiting) < self.in_flight:
                    waiting.append(optimizer.ask())
            except NothingToAsk:
                pass  # the last prompts are in flight
            index = waiting.popleft()
            optimizer.tell(index, (yield from in_full(problem, index)))


class Racing(Zopo):
    """This package's search as its driver races it: mini-batches, and early stopping of weak prompts."""

    partial = shuffles = True

    def __init__(
        self, name: str = "zopo_fast, racing", race: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        super().__init__(name, **settings)
        self.race = race or {}

    def search(self, problem: Problem) -> Search:
        optimizer = zf.Zopo(problem.Z, self.config(problem))
        race = racing.Race(problem.examples, problem.calls, initial=len(problem.initial), **self.race)
        while (index := race.choose(not optimizer.done)) is not None:
            index = optimizer.ask() if index == racing.NEW else index
            had, count = len(race.scores(index)), len(race.start(index))
            scores = yield index, count
            given_up = race.finish(index, scores[had:].tolist())
            self.decided(race, index, given_up)
            racing.tell(optimizer, race, index, given_up)

    def decided(self, race: racing.Race, index: int, given_up: Sequence[int]) -> None:
        """Hook after every mini-batch of `index`, for subclasses that judge the race."""


class Official(Zopo):
    """The published loop in float64: the `official` preset."""

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


class SequentialHalving(Method):
    """TRIPLE-SH (arXiv 2402.09723): each round halves the candidates and doubles their examples.

    Rounds cost about the same. The first round scores `first` examples of as many candidates (the initial
    points, then random ones) as the budget carries to the end, and more examples where that is the whole
    pool. Its initial points are scored in full only if they survive.
    """

    name = "TRIPLE, halving"
    partial = True
    first = 2

    def search(self, problem: Problem) -> Search:
        first = min(self.first, problem.examples)
        while (
            first < problem.examples
            and self.cost(len(problem.Z), first + 1, problem.examples) <= problem.calls
        ):
            first += 1
        n = max(
            k for k in range(1, len(problem.Z) + 1)
            if k == 1 or self.cost(k, first, problem.examples) <= problem.calls
        )  # fmt: skip
        alive, had = order(problem)[:n], 0
        for size, upto in self.rounds(n, first, problem.examples):
            alive = alive[:size]
            means: dict[int, float] = {}
            for index in alive:
                means[index] = float((yield index, upto - had).mean())
            alive, had = sorted(alive, key=lambda i: -means[i]), upto

    @staticmethod
    def rounds(n: int, first: int, examples: int) -> list[tuple[int, int]]:
        """Return (candidates, examples of each so far) by round, until all examples are used."""
        found = [(n, first)]
        while found[-1][1] < examples:
            size, upto = found[-1]
            found.append(((size + 1) // 2, min(2 * upto, examples)))
        return found

    @classmethod
    def cost(cls, n: int, first: int, examples: int) -> int:
        """Return the calls of all rounds."""
        rounds = cls.rounds(n, first, examples)
        return n * first + sum(size * (upto - had) for (_, had), (size, upto) in itertools.pairwise(rounds))


def order(problem: Problem) -> list[int]:
    """Return all prompts: the initial points, then the others in random order."""
    taken = set(problem.initial)
    shuffled = problem.rng.permutation(len(problem.Z))
    return problem.initial + [int(i) for i in shuffled if int(i) not in taken]


def methods() -> dict[str, Method]:
    """Return every method by its name."""
    from . import processes

    listed: list[Method] = [
        RandomSearch(),
        Official("official"),
        OfficialFloat32(),
        BestOfInit(),
        SequentialHalving(),
        processes.RbfProcess("GP-EI, RBF", processes.expected_improvement),
        processes.RbfProcess("GP-TS, RBF", processes.thompson),
        processes.NeuralUCB(),
        processes.InfiniteNTK(),
        Zopo(),
        Zopo("zopo_fast, gradient", search="gradient"),
        Racing(),
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
