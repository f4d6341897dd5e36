"""Scheduling of examples by item response theory, from the idea of POES."""

from __future__ import annotations

import numpy as np

from .replay import Array, Method, Problem, Request, Search, order

CALIBRATED = 0.1  # share of the budget that scores random candidates in full, to learn the examples
STEP = 0.1  # share of the examples that a candidate gets at a time
LEADERS = 5  # candidates that the examples have to tell apart
WIDTH = 1.0  # of the confidence bound, in posterior deviations
PRIOR = 1.0, 1.5  # deviations of ability and difficulty, in logits
REFIT = 10  # new candidates between two fits; every step has one where all have begun
STEPS, AGAIN = 8, 2  # Newton steps of a first fit, and of one that starts from an earlier fit


class ItemResponse(Method):
    """POES-like (arXiv 2604.11328), from its idea: examples are test items, prompts are examinees.

    Some random candidates are scored in full. A Rasch model (ability + ease, logistic, normal priors) then
    gives the ease of every example. All candidates first get the most discriminating examples, the same for
    all. Then the candidate of the highest confidence bound gets its next ones. The discrimination of an
    example is the Fisher information p (1 - p) summed over the leaders. The coverage term and the swaps of
    POES have no counterpart, because a candidate keeps its scores here.
    """

    partial = True
    name = "POES-like"

    def search(self, problem: Problem) -> Search:
        m, N = len(problem.Z), problem.examples
        step, candidates = max(1, round(STEP * N)), order(problem)
        Y = np.full((m, N), np.nan)
        left = problem.calls
        for index in candidates[: max(1, int(CALIBRATED * problem.calls / N))]:
            Y[index] = yield Request(index, N)
            left -= N
        ability, ease, deviation = fit(Y, problem.examples_a_call)
        while left > 0:
            open_ = np.isnan(Y).any(axis=1)
            if not open_.any():
                return None
            fresh = [i for i in candidates if np.isnan(Y[i]).all()]
            best = int(np.argmax(np.where(~open_, ability, -np.inf))) if (~open_).any() else None
            if fresh:
                index = fresh[0]
            else:
                index = int(np.argmax(np.where(open_, ability + WIDTH * deviation, -np.inf)))
            leaders = np.sort(ability)[::-1][:LEADERS]
            p = 1.0 / (1.0 + np.exp(-(leaders[:, None] + ease)))
            information = np.where(np.isnan(Y[index]), (p * (1.0 - p)).sum(axis=0), -1.0)
            asked = np.argsort(-information, kind="stable")[: min(step, int((information >= 0).sum()), left)]
            scores = yield Request(index, [int(i) for i in asked], best)
            Y[index, asked] = scores[-len(asked) :]
            left -= len(asked)
            if len(fresh) % REFIT == 0 or left == 0:
                ability, ease, deviation = fit(Y, problem.examples_a_call, (ability, ease))
        return int(np.argmax(ability))


def fit(Y: Array, trials: int = 1, start: tuple[Array, Array] | None = None) -> tuple[Array, Array, Array]:
    """Fit the Rasch model by alternating Newton steps on the posterior.

    Args:
        Y: (m, N) scores from 0 to 1, NaN where not scored.
        trials: number of examples whose mean a score is.
        start: ability and ease of an earlier fit.

    Returns:
        Ability (m,), ease (N,), and the posterior deviation of the ability (m,), in logits.
    """
    known = ~np.isnan(Y)
    y = np.where(known, Y, 0.0)
    center = float(np.clip(y.sum() / max(1, known.sum()), 0.02, 0.98))
    level = np.log(center / (1.0 - center))  # mean of the prior of the ease
    ability, ease = (np.zeros(len(Y)), np.full(Y.shape[1], level)) if start is None else start
    for _ in range(STEPS if start is None else AGAIN):
        p = 1.0 / (1.0 + np.exp(-(ability[:, None] + ease)))
        error, weight = trials * np.where(known, y - p, 0.0), trials * np.where(known, p * (1.0 - p), 0.0)
        ability = ability + (error.sum(axis=1) - ability / PRIOR[0] ** 2) / (
            weight.sum(axis=1) + 1.0 / PRIOR[0] ** 2
        )
        p = 1.0 / (1.0 + np.exp(-(ability[:, None] + ease)))
        error, weight = trials * np.where(known, y - p, 0.0), trials * np.where(known, p * (1.0 - p), 0.0)
        ease = ease + (error.sum(axis=0) - (ease - level) / PRIOR[1] ** 2) / (
            weight.sum(axis=0) + 1.0 / PRIOR[1] ** 2
        )
    return ability, ease, 1.0 / np.sqrt(weight.sum(axis=1) + 1.0 / PRIOR[0] ** 2)
