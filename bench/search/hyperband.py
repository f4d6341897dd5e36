"""Hyperband brackets whose candidates a Gaussian process proposes, from the idea of HbBoPs."""

from __future__ import annotations

import math

import numpy as np

from .processes import expected_improvement, spectral_evidence, unit_norm
from .replay import Array, Method, Problem, Search

RATE = 2.0  # growth of the examples from round to round
DRAWN = 0.1  # share of a bracket's candidates that is random
FLOOR = 10  # candidates with a score before the process proposes any


class HyperbandProcess(Method):
    """HbBoPs-like (arXiv 2412.07820), from its idea: hyperband with a process on embeddings.

    A bracket halves its candidates and doubles their examples, to the full number; all candidates share the
    order of examples. The brackets start at ever more examples and repeat until the budget is spent. The
    process learns the scores at the largest number of examples that has FLOOR candidates, and proposes new
    candidates by expected improvement. An RBF kernel with noise by evidence replaces the deep kernel of
    HbBoPs.
    """

    partial = True
    name = "HbBoPs-like"

    def search(self, problem: Problem) -> Search:
        X = unit_norm(problem.Z)
        squared = np.maximum(2.0 - 2.0 * X @ X.T, 0.0)
        K = np.exp(-0.5 * squared / (np.median(squared) or 1.0))
        scores: dict[int, Array] = {}
        rounds = max(1, int(math.log(problem.examples, RATE)) + 1)
        while True:
            before = sum(map(len, scores.values()))
            for bracket in reversed(range(rounds)):
                count = math.ceil(rounds / (bracket + 1) * RATE**bracket)
                alive = self._candidates(problem, K, scores, min(count, len(X)))
                for level in reversed(range(bracket + 1)):
                    upto = max(1, round(problem.examples * RATE**-level))
                    for index in alive:
                        had = len(scores.get(index, ()))
                        if had < upto:
                            scores[index] = yield index, upto - had
                    alive = sorted(alive, key=lambda i: -float(scores[i][:upto].mean()))
                    alive = alive[: max(1, int(len(alive) / RATE))]
            if sum(map(len, scores.values())) == before:  # the brackets know their candidates: complete them
                unfinished = [i for i in range(len(X)) if len(scores.get(i, ())) < problem.examples]
                if not unfinished:
                    return
                index = max(unfinished, key=lambda i: float(scores[i].mean()) if i in scores else -math.inf)
                scores[index] = yield index, problem.examples - len(scores.get(index, ()))

    @staticmethod
    def _candidates(problem: Problem, K: Array, scores: dict[int, Array], count: int) -> list[int]:
        """Return the candidates of a bracket: new ones first; known ones where the pool is exhausted."""
        chosen: list[int] = []
        start = [i for i in problem.initial if i not in scores]
        ranked = _proposals(problem, K, scores)
        free = [int(i) for i in problem.rng.permutation(len(K)) if int(i) not in scores]
        while len(chosen) < count:
            if start:
                index = start.pop(0)
            elif ranked and problem.rng.random() >= DRAWN:
                index = ranked.pop(0)
            elif free:
                index = free.pop()
            else:
                break
            if index not in chosen:
                chosen.append(index)
        known = sorted(scores, key=lambda i: -float(scores[i].mean()))
        return chosen + [i for i in known if i not in chosen][: count - len(chosen)]


def _proposals(problem: Problem, K: Array, scores: dict[int, Array]) -> list[int]:
    """Return the candidates without a score, by expected improvement; none before FLOOR scores."""
    lengths = sorted({len(each) for each in scores.values()}, reverse=True)
    for length in lengths:
        known = [i for i, each in scores.items() if len(each) >= length]
        if len(known) >= FLOOR:
            break
    else:
        return []
    at = np.array(known)
    y = np.array([scores[i][:length].mean() for i in known])
    y = (y - y.mean()) / (y.std() or 1.0)
    free = np.setdiff1d(np.arange(len(K)), list(scores))
    values, U = np.linalg.eigh(K[np.ix_(at, at)])
    evidence, damped, signal = spectral_evidence(values, U.T @ y)
    best = int(np.argmax(evidence))
    k = K[np.ix_(free, at)] @ U
    mean = k @ ((U.T @ y) / damped[:, best])
    variance = signal[best] * np.maximum(1.0 - k**2 @ (1.0 / damped[:, best]), 0.0)
    improvement = expected_improvement(mean, np.diag(variance), float(y.max()), problem.rng)
    return [int(i) for i in free[np.argsort(-improvement, kind="stable")]]
