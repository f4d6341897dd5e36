"""Preset `official` against a second implementation of the published loop, on settings without a trace.

With the small published learning rate a step rarely goes beyond the nearest candidate. With large ones the
moments, the staleness and the kept gradient all influence the order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numeric_tools import random_network

import zopo_fast as zf
from zopo_fast.gp import reference


class Loop:
    """Published loop with plain lists and reference.posterior, without incremental updates."""

    def __init__(self, Z: np.ndarray, f: np.ndarray, W: Any, b: Any, s: dict[str, Any]) -> None:
        self.Z, self.f, self.W, self.b, self.s = Z, f, W, b, s
        self.order: list[int] = []

    def descent(self, center: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, float]:
        X = self.Z[self.order]
        near = np.argsort(((X - center) ** 2).sum(axis=1), kind="stable")[: self.s["gp_queries"]]
        X, y = X[near], self.f[self.order][near]
        low, span = X.min(axis=0), X.max(axis=0) - X.min(axis=0)
        low, span = np.where(span == 0, 0, low), np.where(span == 0, 1, span)
        p = reference.posterior(self.W, self.b, (X - low) / span, y, self.s["sigma"] ** 2, (x - low) / span)
        return -p.gradient / span, abs(p.variance)

    def adam(self, gradient: np.ndarray) -> np.ndarray:
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.999 * self.v + 0.001 * gradient**2
        m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return -self.s["lr"] * m / (np.sqrt(v) + 1e-8)

    def fresh_adam(self) -> None:
        self.m, self.v, self.t = np.zeros(self.Z.shape[1]), np.zeros(self.Z.shape[1]), 0

    def nearest(self, x: np.ndarray) -> int:
        free = np.ones(len(self.Z), dtype=bool)
        free[self.order] = False
        return int(reference.k_nearest(self.Z, x, 1, free)[0])

    def neighbors(self, x: np.ndarray) -> list[int]:
        count = self.s["neighbors"]
        near = np.argpartition(((self.Z - x) ** 2).sum(axis=1), count)[:count]
        return [int(i) for i in near if i not in self.order]

    def run(self, initial: list[int], budget: int) -> list[int]:
        s, Z, f = self.s, self.Z, self.f
        self.order = list(initial)
        k, best, stale, uncertain, first_ask = len(initial), f[initial].max(), 0, 0, True
        self.fresh_adam()
        while k < budget:
            k += 1
            best_seen = self.order[int(np.argmax(f[self.order]))]
            current, first_ask = best_seen if first_ask else self.order[-1], False
            best, stale = (f[current], 0) if f[current] > best else (best, stale + 1)
            if stale > s["tolerance"]:
                current, stale = best_seen, 0
                self.fresh_adam()
            x, answer, steps, held = Z[current], -1, 0, None
            while True:
                gradient, u = self.descent(Z[current], x)
                if steps == 0:
                    uncertain += u > s["uncertainty_threshold"]
                    uncertain *= not u < s["uncertainty_threshold"]
                flat = gradient.sum() == 0
                if flat or (uncertain >= s["uncertainty_count"] and k <= budget - s["neighbors"]):
                    stale = uncertain = 0
                    new = self.neighbors(Z[current])[: budget - k]
                    self.order += new
                    k += len(new)
                    if new or not flat:
                        continue
                    answer = self.nearest(x)  # the published loop never returns here
                    break
                if not (u < s["uncertainty_threshold"] or steps == 0) or steps >= s["max_steps"]:
                    break
                if held is None:
                    held = gradient
                    answer = self.nearest(Z[current] + self.adam(gradient))
                    x = Z[answer]
                else:
                    self.adam(held)
                steps += 1
                if u >= s["uncertainty_threshold"]:
                    break
            self.order.append(answer)
        return self.order


BASE: dict[str, Any] = {
    "lr": 1.0, "uncertainty_threshold": 1e9, "uncertainty_count": 3, "neighbors": 4, "gp_queries": 8,
    "tolerance": 2, "max_steps": 1, "sigma": 0.1,
}  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {
    "one step": {},
    "two steps": {"max_steps": 2},
    "four steps": {"max_steps": 4},
    "small steps": {"lr": 0.1},
    "no tolerance": {"tolerance": 0},
    "long tolerance": {"tolerance": 6, "lr": 2.0},
    "few queries": {"gp_queries": 2, "max_steps": 2},
    "uncertain at times": {"uncertainty_threshold": 2e-2, "max_steps": 3},
    "always uncertain": {"uncertainty_threshold": 1e-4},
    "noise": {"sigma": 1.0, "max_steps": 2},
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("change", CHANGES)
def test_the_order_equals_that_of_the_loop(change: str, seed: int) -> None:
    rng, s = np.random.default_rng(seed), BASE | CHANGES[change]
    Z, f = rng.normal(size=(60, 3)), rng.normal(size=60)
    f = np.sin(Z[:, 0]) + 0.5 * np.cos(2 * Z[:, 1]) + 0.1 * f
    W, b = random_network(rng, 3, [8, 6])
    initial = np.argsort(f)[10:15].tolist()  # low scores, so that the best keeps changing
    expected = Loop(Z, f, W, b, s).run(initial, 40)
    opt, order = zf.Zopo(Z, zf.ZopoConfig.official(budget=40, initial=initial, **s), zf.NTK(W, b)), []
    while not opt.done:
        order.append(i := opt.ask())
        opt.tell(i, float(f[i]))
    assert order == expected[:40]
