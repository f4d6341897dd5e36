"""Reference of what a search learns from earlier scores: trends by refitting, and the opening."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from reference_book import Array

VARIANCE = 0.1  # of the coefficient of a trend
NUGGETS = (1e-2, 10 ** (-7 / 6), 10 ** (-1 / 3), 10**0.5)


def is_informative(source: dict[str, Any]) -> bool:
    return len(set(source["scores"])) > 1


def fitted(K: Array, at: Sequence[int], y: Array, noise: Array, onto: Sequence[int]) -> Array:
    """Return the posterior mean at rows `onto` given y at rows `at`, with an unknown constant."""
    A = K[np.ix_(at, at)] + np.diag(noise)
    ones = np.ones(len(at))
    constant = ones @ np.linalg.solve(A, y) / (ones @ np.linalg.solve(A, ones))
    mean: Array = constant + K[np.ix_(onto, at)] @ np.linalg.solve(A, y - constant)
    return mean


def trend(K: Array, source: dict[str, Any]) -> Array:
    """Return the trend (m,) of a source under the kernel matrix K (m, m) of mean diagonal 1."""
    at, m = list(source["indices"]), len(K)
    scores = np.array(source["scores"], dtype=float)
    n = len(scores)
    y = (scores - scores.mean()) / scores.std()
    given = source.get("noise")
    share = np.broadcast_to(0.0 if given is None else given, n) / scores.var()
    log_evidence, means, errors = [], [], []
    for nugget in NUGGETS:
        noise = share + nugget
        A = K[np.ix_(at, at)] + np.diag(noise)
        residual = y - fitted(K, at, y, noise, at)
        # The residuals are noise times the weights A^-1 (y - constant).
        amplitude = max(float(y @ (residual / noise)) / n, 1e-12)
        log_evidence.append(-0.5 * n * math.log(amplitude) - 0.5 * np.linalg.slogdet(A)[1])
        means.append(fitted(K, at, y, noise, range(m)))
        left_out = []
        for k in range(n):
            rest = [j for j in range(n) if j != k]
            others = [at[j] for j in rest]
            left_out.append(y[k] - fitted(K, others, y[rest], noise[rest], [at[k]])[0])
        errors.append(np.array(left_out))
    weight = np.exp(np.array(log_evidence) - max(log_evidence))
    weight /= weight.sum()
    mean, error = weight @ np.array(means), weight @ np.array(errors)
    explained = max(0.0, 1.0 - float(error @ error) / n)
    mean = mean - mean.mean()
    spread = math.sqrt(float((mean**2).mean()))
    return np.asarray(math.sqrt(VARIANCE * explained) / spread * mean if spread else 0.0 * mean)


def opening(initial: Sequence[int], sources: Sequence[dict[str, Any]], budget: int) -> list[int]:
    """Return the initial prompts: the best of each source, then others, of which three stay at least."""
    ranked = []
    for source in filter(is_informative, sources):
        scores = np.array(source["scores"], dtype=float)
        given = source.get("noise")
        noise = np.broadcast_to(0.0 if given is None else given, len(scores))
        shrunk = (scores - scores.mean()) * scores.var() / (scores.var() + noise)
        pairs = sorted(zip(-shrunk, range(len(scores)), strict=True))
        ranked.append([source["indices"][k] for _, k in pairs])
    best = list(dict.fromkeys(order[0] for order in ranked))
    others = [i for i in initial if i not in best]
    kept = max(len(initial) - len(best), min(3, len(initial)))
    return (best + others[:kept])[:budget]
