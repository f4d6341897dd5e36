"""Replay of searches: scored landscapes, the interface of a method, one counted run."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zopo_fast.errors import InputError

Array = NDArray[np.float64]


class Request(NamedTuple):
    """Request of a method to score one prompt.

    Args:
        prompt: index of the prompt.
        examples: number of further examples in the order of the run, or the examples themselves.
        deploy: prompt that the method would deploy before this request; None: the rule of `Run.incumbents`.
    """

    prompt: int
    examples: int | Sequence[int]
    deploy: int | None = None


# Yields requests, receives the prompt's scores in the order of scoring, and returns the prompt to deploy.
Search = Generator[Request | tuple[int, int], Array, Any]


# ---- landscapes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Landscape:
    """Landscape: a pool of prompts, each scored once.

    Args:
        Z: (m, d) embeddings in their stored precision.
        scores: (m, examples), higher is better.
        examples_a_call: number of examples whose mean a score is.
        texts: the prompts; none where a source has embeddings alone.
    """

    name: str
    Z: NDArray[Any]
    scores: Array
    examples_a_call: int = 1
    texts: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Landscape:
        """Read NAME.json and NAME.npy beside it.

        Raises:
            InputError: a file is missing or damaged, or the two files do not match.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            scores, texts = np.array(document["scores"], dtype=np.float64), tuple(document.get("prompts", ()))
            Z = np.load(path.with_suffix(".npy"))
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InputError(f"{path}: not a landscape ({error}); see bench/landscapes/README.md") from error
        if scores.ndim != 2 or Z.ndim != 2 or len(scores) != len(Z) or scores.shape[1] < 2:
            raise InputError(f"{path}: scores {scores.shape} and embeddings {Z.shape} do not belong together")
        if texts and len(texts) != len(Z):
            raise InputError(f"{path}: {len(texts)} prompts for {len(Z)} embeddings")
        return cls(path.stem, Z, scores, texts=texts)


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
        calls: the budget in single calls.
        rng: source of the method's own random choices.
        recorded: (m,) mean scores, for a method that `replays`; None for all others.
        is_binary: whether every score is 0 or 1; otherwise scores lie between them.
        examples_a_call: number of examples whose mean a score is.
        texts: the prompts, or none.
    """

    Z: NDArray[Any]
    examples: int
    initial: list[int]
    prompts: int
    calls: int
    seed: int
    rng: np.random.Generator
    recorded: Array | None = None
    is_binary: bool = True
    examples_a_call: int = 1
    texts: tuple[str, ...] = ()


class Method(ABC):
    """Search method.

    `search` yields a Request, or the pair of a prompt and a number of examples. It receives all scores of
    that prompt so far, in the order of scoring. It may return the prompt to deploy. The replay stops it at
    the end of the budget.

    Attributes:
        partial: whether it scores prompts on a part of the examples; only a budget in calls is fair then.
        shuffles: whether every prompt has its own order of examples instead of the run's.
        replays: whether it is a complete program that looks its scores up itself.
        plans: whether it chooses its initial prompts itself instead of starting from the given ones.
        needs: required modules.
    """

    name: str
    partial: bool = False
    shuffles: bool = False
    replays: bool = False
    plans: bool = False
    needs: tuple[str, ...] = ()

    @abstractmethod
    def search(self, problem: Problem) -> Search:
        """Yield scoring requests until the budget is spent or no candidate is left."""


def in_full(problem: Problem, index: int) -> Generator[tuple[int, int], Array, float]:
    """Score a prompt on all examples and return the mean."""
    return float((yield index, problem.examples).mean())


def order(problem: Problem) -> list[int]:
    """Return all prompts: the initial points, then the others in random order."""
    taken = set(problem.initial)
    shuffled = problem.rng.permutation(len(problem.Z))
    return problem.initial + [int(i) for i in shuffled if int(i) not in taken]


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
    method: Method,
    landscape: Landscape,
    examples: NDArray[np.intp],
    prompts: int,
    first: int,
    seed: int,
    calls: int | None = None,
) -> Run:
    """Run a method once on the given examples of a landscape, in that order.

    Args:
        prompts: the budget, in fully scored prompts.
        first: number of initial points, drawn by the seed alone.
        calls: the budget in single calls, which replaces `prompts`.
    """
    scores = landscape.scores[:, examples]
    calls = prompts * len(examples) if calls is None else calls
    calls = min(calls, scores.size)
    if method.shuffles:
        scores = np.random.default_rng([seed, 4]).permuted(scores, axis=1)
    problem = Problem(
        landscape.Z,
        len(examples),
        initial_points(len(scores), first, seed),
        max(1, calls // len(examples)),
        calls,
        seed,
        np.random.default_rng([seed, 1]),
        scores.mean(axis=1) if method.replays else None,
        bool(np.isin(scores, (0.0, 1.0)).all()),
        landscape.examples_a_call,
        landscape.texts,
    )
    seen: dict[int, list[int]] = {}
    run, spent, best, incumbent = Run([], [], []), 0, (0, 0.0), -1
    search = method.search(problem)
    request, deploy = _next(search)
    while request is not None:
        index, wanted, _ = request
        had = seen.setdefault(index, [])
        further = _further(wanted, had, len(examples))[: problem.calls - spent]
        if not further:
            if spent >= problem.calls:
                break
            raise InputError(f"{method.name}: prompt {index} was scored on every example already")
        if not had:
            run.asked.append(index)
        had += further
        spent += len(further)
        so_far = scores[index, had]
        standing = (len(had), float(so_far.mean()))
        if standing > best:  # ties keep the earlier prompt; the incumbent's own new examples give it a lead
            best, incumbent = standing, index
        request, deploy = _next(search, so_far)
        run.calls.append(spent)
        run.incumbents.append(incumbent if deploy is None else deploy)
    search.close()
    return run


def _next(search: Search, scores: Array | None = None) -> tuple[Request | None, int | None]:
    """Return the next request, None at the end, and the prompt that the method would deploy now."""
    try:
        request = Request(*(next(search) if scores is None else search.send(scores)))
    except StopIteration as end:
        return None, end.value
    return request, request.deploy


def _further(wanted: int | Sequence[int], had: Sequence[int], count: int) -> list[int]:
    """Return the examples of a request that the prompt has no score on."""
    taken = set(had)
    if isinstance(wanted, int):
        return [example for example in range(count) if example not in taken][:wanted]
    return [example for example in wanted if example not in taken]


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
