"""Optuna's ask and tell beside ours on the same prompts, and our search as an Optuna sampler.

    python examples/optuna_ask_tell.py [LANDSCAPE [RUNS]]     # one of bench/landscapes

A landscape is a pool of prompts whose scores with a real model are known, so no model is called here.
`zopo_fast.optuna.ZopoSampler` keeps your Optuna study, with its storage, dashboard and parallel workers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna

import zopo_fast as zf
from zopo_fast.optuna import ZopoSampler

LANDSCAPES = Path(__file__).parent.parent / "bench" / "landscapes"
BUDGET = 30


def by_zopo(embeddings: Any, scores: Any, seed: int) -> list[int]:
    opt = zf.Zopo(embeddings, zf.ZopoConfig(budget=BUDGET, seed=seed))
    asked = []
    while not opt.done:
        i = opt.ask()
        opt.tell(i, scores[i])
        asked.append(i)
    return asked


def by_optuna(prompts: Sequence[str], scores: Any, sampler: optuna.samplers.BaseSampler) -> list[int]:
    study = optuna.create_study(direction="maximize", sampler=sampler)
    asked = []
    for _ in range(BUDGET):
        trial = study.ask()
        i = prompts.index(trial.suggest_categorical("prompt", prompts))
        study.tell(trial, scores[i])
        asked.append(i)
    return asked


def main(name: str = "rhymes", runs: str = "20") -> None:
    landscape = json.loads((LANDSCAPES / f"{name}.json").read_text(encoding="utf-8"))
    embeddings = np.load(LANDSCAPES / f"{name}.npy")
    prompts, scores = landscape["prompts"], np.mean(landscape["scores"], axis=1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: dict[str, list[list[int]]] = {}
    for seed in range(int(runs)):
        ours = ZopoSampler(embeddings, zf.ZopoConfig(budget=BUDGET, seed=seed))
        for who, asked in {
            "Optuna, RandomSampler": by_optuna(prompts, scores, optuna.samplers.RandomSampler(seed)),
            "Optuna, TPESampler": by_optuna(prompts, scores, optuna.samplers.TPESampler(seed=seed)),
            "Optuna, ZopoSampler": by_optuna(prompts, scores, ours),
            "zopo_fast": by_zopo(embeddings, scores, seed),
        }.items():
            found.setdefault(who, []).append(asked)
    print(f"{name}: {len(prompts)} prompts, best score after asking for n of them, mean of {runs} runs")
    print(f"(the best of all is {scores.max():.3f}, their mean {scores.mean():.3f})\n")
    columns = (10, 20, BUDGET)
    print(f"{'n':>24}" + "".join(f"{n:>8}" for n in columns))
    for who, all_asked in found.items():
        best = [np.mean([scores[asked[:n]].max() for asked in all_asked]) for n in columns]
        print(f"{who:>24}" + "".join(f"{score:8.3f}" for score in best))


if __name__ == "__main__":
    main(*sys.argv[1:])
