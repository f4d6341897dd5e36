"""Optuna's ask and tell beside ours on the same prompts, and our search as an Optuna sampler.

    python examples/optuna_ask_tell.py [LANDSCAPE [RUNS]]     # one of bench/landscapes

A landscape is a pool of prompts whose scores with a real model are known, so no model is called here.
`ZopoSampler` keeps your Optuna study, with its storage, dashboard and parallel jobs.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

import zopo_fast as zf

LANDSCAPES = Path(__file__).parent.parent / "bench" / "landscapes"
BUDGET = 30


class ZopoSampler(optuna.samplers.BaseSampler):
    """Optuna sampler that chooses the categorical parameter `name` by `zf.Zopo`, all others at random.

    Args:
        embeddings: (m, d), one row per choice, in order.
        config: settings of the search; its budget is the number of trials.
    """

    def __init__(self, embeddings: Any, config: zf.ZopoConfig, name: str = "prompt") -> None:
        self._opt, self._name = zf.Zopo(embeddings, config), name
        self._others = optuna.samplers.RandomSampler(config.seed)
        self._lock = threading.Lock()  # study.optimize(n_jobs=...) samples from several threads
        self._asked: dict[int, int] = {}  # number of the trial -> index
        self._new = True

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, choices: Any) -> Any:
        if name != self._name:
            return self._others.sample_independent(study, trial, name, choices)
        with self._lock:
            self._learn(study)
            index = self._asked[trial.number] = self._opt.ask()
        return choices.choices[index]

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        with self._lock:
            index = self._asked.pop(trial.number, None)
            if index is not None and state == TrialState.COMPLETE and values:
                self._opt.tell(index, self._higher_is_better(study, values[0]))
            elif index is not None:  # failed or pruned: refunded, and offered again after all others
                self._opt.discard(index)

    def _learn(self, study: optuna.Study) -> None:
        """Tell the scores of a continued study once, as prior data that is not asked for again."""
        known = study.get_trials(states=[TrialState.COMPLETE]) if self._new else []
        self._new = False
        for trial in known:
            if self._name in trial.params:
                choice = trial.distributions[self._name].to_internal_repr(trial.params[self._name])
                self._opt.tell(int(choice), self._higher_is_better(study, trial.values[0]))

    def _higher_is_better(self, study: optuna.Study, value: float) -> float:
        return value if study.direction == optuna.study.StudyDirection.MAXIMIZE else -value


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
