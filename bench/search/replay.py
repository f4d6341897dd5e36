"""What a search is replayed on, and how: measured landscapes, the interface of a method, one counted run."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zopo_fast.errors import InputError

Array = NDArray[np.float64]
Search = Generator[tuple[int, int], Array, None]


# ---- landscapes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Landscape:
    """Prompts scored once.

    Args:
        Z: (m, d) embeddings, as they were saved.
        scores: (m, examples), higher is better.
    """

    name: str
    Z: NDArray[Any]
    scores: Array

    @classmethod
    def load(cls, path: Path) -> Landscape:
        """Read NAME.json and NAME.npy beside it.

        Raises:
            InputError: a file is missing or damaged, or the two do not belong together.
        """
        try:
            scores = np.array(json.loads(path.read_text(encoding="utf-8"))["scores"], dtype=np.float64)
            Z = np.load(path.with_suffix(".npy"))
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InputError(f"{path}: not a landscape ({error}); see bench/landscapes/README.md") from error
        if scores.ndim != 2 or Z.ndim != 2 or len(scores) != len(Z) or scores.shape[1] < 2:
            raise InputError(f"{path}: scores {scores.shape} and embeddings {Z.shape} do not belong together")
        return cls(path.stem, Z, scores)


def load_folder(folder: Path) -> list[Landscape]:
    """Every landscape of a folder, by name; InputError where there is none."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise InputError(f"{folder}: no landscape (NAME.json and NAME.npy) lies there")
    return [Landscape.load(path) for path in paths]


def normalised(scores: Array) -> Array:
    """Mean over the examples, (m,): the worst prompt 0, the best 1; all 1 when none is better."""
    means = scores.mean(axis=1)
    spread = means.max() - means.min()
    scaled: Array = (means - means.min()) / spread if spread > 0 else np.ones(len(means))
    return scaled


# ---- methods -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """What a method is given.

    Args:
        Z: (m, d) embeddings.
        examples: of each prompt; scoring one in full costs so many calls.
        initial: prompts to begin with, the same for all methods of a seed.
        prompts: how many prompts the budget can score in full.
        rng: of the method's own choices.
        recorded: (m,) mean scores, for a method that `replays`; None for all others.
    """

    Z: NDArray[Any]
    examples: int
    initial: list[int]
    prompts: int
    seed: int
    rng: np.random.Generator
    recorded: Array | None = None

    @property
    def calls(self) -> int:
        """The budget in single calls."""
        return self.prompts * self.examples


class Method(ABC):
    """A way to search.

    `search` yields (prompt, examples): "score this prompt on its next so many examples"; it is sent all the
    prompt's scores so far, in the order of their examples. It is stopped when the budget is spent.

    Attributes:
        partial: scores prompts on a part of the examples, so that only a budget in calls is fair to it.
        shuffles: every prompt sees the examples in an order of its own, not of the run's.
        replays: a finished program that looks its scores up by itself.
        needs: modules that must be installed.
    """

    name: str
    partial: bool = False
    shuffles: bool = False
    replays: bool = False
    needs: tuple[str, ...] = ()

    @abstractmethod
    def search(self, problem: Problem) -> Search:
        """Yield what to score until the budget is spent or nothing is left."""


def in_full(problem: Problem, index: int) -> Generator[tuple[int, int], Array, float]:
    """Score a prompt on all examples; returns the mean."""
    return float((yield index, problem.examples).mean())


# ---- one run -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What one search did.

    Args:
        asked: prompts in the order they were first scored.
        calls: made after each request, ascending.
        incumbents: the prompt one would deploy then: the highest mean among those with most examples.
    """

    asked: list[int]
    calls: list[int]
    incumbents: list[int]

    def curve(self, value: Array, grid: Sequence[int]) -> Array:
        """Value, by prompt, of the incumbent after so many calls; 0 before the first."""
        at = np.searchsorted(self.calls, grid, side="right") - 1
        held: Array = np.where(at >= 0, value[np.array(self.incumbents)[at]], 0.0)
        return held

    def calls_to(self, value: Array, level: float) -> float:
        """Calls after which the incumbent's value is at `level` and stays there; infinite for never."""
        below = np.flatnonzero(value[np.array(self.incumbents)] < level)
        after = int(below[-1]) + 1 if len(below) else 0
        return float(self.calls[after]) if after < len(self.calls) else float("inf")


def replay(
    method: Method, landscape: Landscape, examples: NDArray[np.intp], prompts: int, first: int, seed: int
) -> Run:
    """One run of a method on the given examples of a landscape, each in that order.

    Args:
        prompts: the budget, in prompts scored in full.
        first: how many initial points are drawn, by the seed alone.
    """
    scores = landscape.scores[:, examples]
    if method.shuffles:
        scores = np.random.default_rng([seed, 4]).permuted(scores, axis=1)
    problem = Problem(
        landscape.Z,
        len(examples),
        initial_points(len(scores), first, seed),
        min(prompts, len(scores)),
        seed,
        np.random.default_rng([seed, 1]),
        scores.mean(axis=1) if method.replays else None,
    )
    seen: dict[int, int] = {}
    run, spent, best, incumbent = Run([], [], []), 0, (0, 0.0), -1
    search = method.search(problem)
    request = next(search, None)
    while request is not None:
        index, count = request
        had = seen.get(index, 0)
        count = min(count, len(examples) - had, problem.calls - spent)
        if count < 1:
            if spent >= problem.calls:
                break
            raise InputError(f"{method.name}: prompt {index} was scored on every example already")
        seen[index] = had + count
        spent += count
        so_far = scores[index, : had + count]
        standing = (had + count, float(so_far.mean()))
        if had == 0:
            run.asked.append(index)
        if standing > best:  # the first of equals stays; the incumbent's own new examples give it a lead
            best, incumbent = standing, index
        run.calls.append(spent)
        run.incumbents.append(incumbent)
        try:
            request = search.send(so_far)
        except StopIteration:
            request = None
    search.close()
    return run


def initial_points(m: int, count: int, seed: int) -> list[int]:
    """The first prompts of a seed, the same for every method."""
    return [int(i) for i in np.random.default_rng(seed).permutation(m)[:count]]


def halves(examples: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Two halves of the examples, drawn by the seed: one to select on, one that selection never sees."""
    order = np.random.default_rng([seed, 2]).permutation(examples)
    return order[: examples // 2], order[examples // 2 :]


def expected_random(value: Array, draws: int) -> Array:
    """Expected best of the first 1 .. `draws` prompts drawn without replacement, (draws,)."""
    ranked, m = np.sort(value), len(value)
    return np.array(
        [
            sum(math.comb(i, k - 1) / math.comb(m, k) * best for i, best in enumerate(ranked))
            for k in range(1, draws + 1)
        ]
    )
