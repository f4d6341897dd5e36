"""Small pool, score function and ask/tell loop for tests of searches."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from time_tools import time_limit

import zopo_fast as zf

M, D = 60, 6


CONFIGS: dict[str, Any] = {
    "default": zf.ZopoConfig,
    "trust region": functools.partial(zf.ZopoConfig, region=16),
    "thompson": functools.partial(zf.ZopoConfig, search="thompson"),
    "gradient": functools.partial(zf.ZopoConfig, search="gradient"),
    "official": zf.ZopoConfig.official,
}


def pool(m: int = M, d: int = D, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(m, d))


def score(i: int) -> float:
    return math.sin(3.0 * i) + 0.01 * i


def can_offer(opt: zf.Zopo) -> bool:
    return opt._native.can_offer(opt._number)


def is_scored(opt: zf.Zopo, i: int) -> bool:
    """Return whether a prompt has a score, final or partial."""
    return not math.isnan(opt._native.score_of(opt._number, i))


def play(opt: zf.Zopo, f: Any = score, limit: int = 10_000) -> list[int]:
    """Ask and tell until the budget is spent; return the indices asked."""
    order = []
    with time_limit():
        while not opt.done:
            order.append(i := opt.ask())
            opt.tell(i, f(i))
            assert len(order) <= limit
    return order
