"""Replay of searches: scored landscapes, the interface of a method, one counted run."""

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
    """Landscape: a pool of prompts, each scored once.

    Args:
        Z: (m, d) embeddings in their stored precision.
        scores: (m, examples), higher is better.
    """

    name: str
    Z: NDArray[Any]
    scores: Array

    @classmethod
    def load(cls, path: Path) -> Landscape:
        """Read NAME.json and NAME.npy beside it.

        Raises:
            InputError: a file is missing or damaged, or the two files do not match.
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
    """Read every landscape of a folder, by name.

    Raises:
        InputError: the folder holds none.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise InputError(f"{folder}: no landscape (NAME.json and NAME.npy) lies there")
    return [Landscape.load(path) for path in paths]


def normalised(scores: Array) -> Array:
    """Return normalised means over the examples, (m,): worst prompt 0, best 1; all 1 if all are equal."""
    means = scores.mean(axis=1)
    spread = means.max() - means.min()
    scaled: Array = (means - means.min()) / spread if spread > 0 else np.ones(len(means))
    return scaled


# ---- methods -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """Problem that a method receives.

    Args:
        Z: (m, d) embeddings.
        examples: number per prompt, and so the calls of a full score.
        initial: first prompts, the same for all methods of a seed.
        prompts: number of prompts that the budget can score in full.
        rng: source of the method's own random choices.
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
        """Budget in single calls."""
        return self.prompts * self.examples


class Method(ABC):
    """Search method.

    `search` yields (prompt, examples), a request to score the prompt on that many further examples, and
    receives all of the prompt's scores so far, in the order of their examples. The replay stops it at the
    end of the budget.

    Attributes:
        partial: whether it scores prompts on a part of the examples; only a budget in calls is fair then.
        shuffles: whether every prompt has its own order of examples instead of the run's.
        replays: whether it is a complete program that looks its scores up itself.
        needs: required modules.
    """

    name: str
    partial: bool = False
    shuffles: bool = False
    replays: bool = False
    needs: tuple[str, ...] = ()

    @abstractmethod
    def search(self, problem: Problem) -> Search:
        """Yield scoring requests until the budget is spent or no candidate is left."""


def in_full(problem: Problem, index: int) -> Generator[tuple[int, int], Array, float]:
    """Score a prompt on all examples and return the mean."""
    return float((yield index, problem.examples).mean())


# ---- one run -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """Record of one search.

    Args:
        asked: prompts in the order of their first score.
        calls: cumulative calls after each request.
        incumbents: deployable prompt after each request: the highest mean among those with most examples.
    """

    asked: list[int]
    calls: list[int]
    incumbents: list[int]

    def curve(self, value: Array, grid: Sequence[int]) -> Array:
        """Return the incumbent's value (by prompt) after each number of calls; 0 before the first."""
        at = np.searchsorted(self.calls, grid, side="right") - 1
        held: Array = np.where(at >= 0, value[np.array(self.incumbents)[at]], 0.0)
        return held

    def calls_to(self, value: Array, level: float) -> float:
        """Return the calls after which the incumbent's value stays at `level`; infinite for never."""
        below = np.flatnonzero(value[np.array(self.incumbents)] < level)
        after = int(below[-1]) + 1 if len(below) else 0
        return float(self.calls[after]) if after < len(self.calls) else float("inf")


def replay(
    method: Method, landscape: Landscape, examples: NDArray[np.intp], prompts: int, first: int, seed: int
) -> Run:
    """Run a method once on the given examples of a landscape, in that order.

    Args:
        prompts: the budget, in fully scored prompts.
        first: number of initial points, drawn by the seed alone.
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
        if standing > best:  # ties keep the earlier prompt; the incumbent's own new examples give it a lead
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
    """Return the first prompts of a seed, the same for every method."""
    return [int(i) for i in np.random.default_rng(seed).permutation(m)[:count]]


def halves(examples: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split the examples by the seed into a half for selection and a half that selection never sees."""
    order = np.random.default_rng([seed, 2]).permutation(examples)
    return order[: examples // 2], order[examples // 2 :]


def expected_random(value: Array, draws: int) -> Array:
    """Return the expected best of 1 .. `draws` prompts drawn without replacement, (draws,)."""
    ranked, m = np.sort(value), len(value)
    return np.array(
        [
            sum(math.comb(i, k - 1) / math.comb(m, k) * best for i, best in enumerate(ranked))
            for k in range(1, draws + 1)
        ]
    )
