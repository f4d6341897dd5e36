"""States and pickles of commit 1eecb8d, the last one whose searches were state machines in Python.

    PYTHONPATH=CHECKOUT_OF_1eecb8d python make_states.py

writes `states.json` and the pickles. The log of each state says what the search asked and was told.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

import zopo_fast as zf

HERE = Path(__file__).parent
M, D, ADDED = 44, 4, 4
BATCH = [30, 44, 24]  # sizes of the pools of the batch
PICKLED = ["improvement", "thompson", "gradient", "official", "batch"]
CONFIGS: dict[str, zf.ZopoConfig] = {
    "improvement": zf.ZopoConfig(budget=26, initial=6, seed=1),
    "region": zf.ZopoConfig(budget=26, initial=6, seed=2, region=10, patience=2),
    "several kernels": zf.ZopoConfig(budget=26, initial=[3, 1, 4], noise=0.1, emphasis=0.0, zscore=True),
    "thompson": zf.ZopoConfig(budget=26, initial=6, seed=3, search="thompson"),
    "gradient": zf.ZopoConfig(budget=26, initial=6, seed=4, search="gradient"),
    "official": zf.ZopoConfig.official(budget=26, initial=6, seed=5),
    "batch": zf.ZopoConfig(budget=20, initial=5, seed=6, search="gradient"),
}


def embeddings() -> np.ndarray:
    """Return the pool, (M, D), which no generator of random numbers made."""
    i, j = np.arange(M)[:, None], np.arange(D)
    return ((i * (37 + 14 * j) + 29 * j * j) % 97 / 97 - 0.5).astype(np.float32)


def score(i: int) -> float:
    x = embeddings()[i]
    return float(np.round(np.float64(x @ np.arange(1, D + 1)) + (i * 7 % 5) / 10, 3))


def played(opt: zf.Zopo) -> zf.Zopo:
    """Make calls of every kind, and leave three prompts pending, one of them with a partial score."""
    opt.tell(20, score(20), noise=0.2)
    for step in range(9):
        opt.tell(i := opt.ask(), score(i) + 0.1, noise=0.3 if step % 3 else None, final=False)
        opt.tell(i, score(i), noise=0.05 if step % 2 else None)
    opt.discard(opt.ask())
    opt.add(embeddings()[M - ADDED :])
    for i in opt.ask(4)[1:]:
        opt.tell(i, score(i))
    opt.tell(M - 1, score(M - 1))
    opt.ask(2)
    opt.tell(opt.pending[0], 0.25, noise=0.5, final=False)
    return opt


def played_batch(batch: zf.ZopoBatch) -> zf.ZopoBatch:
    for _ in range(11):
        asked = batch.ask()
        batch.tell(asked, np.array([score(i) for i in asked.tolist()]))
    asked = batch.ask()
    batch.tell(np.array([asked[0], -1, asked[2]]), np.array([score(i) for i in asked.tolist()]))
    return batch


def kernel_of(name: str) -> Any:
    if name != "several kernels":
        return None
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(6, D)), rng.normal(size=(1, 6))]
    return [zf.NTK(weights, [np.zeros(6), np.zeros(1)]), zf.InfiniteNTK(3), zf.NTK.random(D, seed=1)]


def main() -> None:
    Z = embeddings()
    made: dict[str, Any] = {
        name: played(zf.Zopo(Z[: M - ADDED], config, kernel_of(name)))
        for name, config in CONFIGS.items()
        if name != "batch"
    }
    made["batch"] = played_batch(zf.ZopoBatch([Z[:m] for m in BATCH], CONFIGS["batch"]))
    states = {name: search.state_dict() for name, search in made.items()}
    (HERE / "states.json").write_text(json.dumps(states, sort_keys=True) + "\n")
    for name in PICKLED:
        (HERE / f"{name}.pickle").write_bytes(pickle.dumps(made[name], protocol=4))


if __name__ == "__main__":
    main()
