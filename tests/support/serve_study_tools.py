"""Searches over HTTP and the same searches in process."""

from __future__ import annotations

from typing import Any

import numpy as np
from serve_tools import Client, pool

import zopo_fast as zf


def score(index: int) -> float:
    return float(np.sin(index) * (1 + index % 7) + 1 / 3)


def run_to_the_end(call: Client, study: str, steps: int = 10**6) -> list[int]:
    """Ask and tell to the end, one request a prompt; return the indices in order."""
    order: list[int] = []
    answer = call.ok("POST", f"/v1/studies/{study}/ask")
    while answer["indices"] and len(order) < steps:
        (index,) = answer["indices"]
        order.append(index)
        answer = call.ok(
            "POST", f"/v1/studies/{study}/tell", {"index": index, "score": score(index), "ask": 1}
        )
    return order


def reference(m: int = 30, d: int = 6, seed: int = 0, **config: Any) -> zf.Zopo:
    return zf.Zopo(pool(m, d, seed), zf.ZopoConfig(**{"budget": m, "initial": 5, "seed": seed, **config}))


def in_process(m: int = 30, **config: Any) -> list[int]:
    optimizer = reference(m, **config)
    order = []
    while not optimizer.done:
        order.append(optimizer.ask())
        optimizer.tell(order[-1], score(order[-1]))
    return order
