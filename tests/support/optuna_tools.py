"""Optuna studies in several processes: workers that ask at the same moment."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import numpy as np
from time_tools import HANG

PROMPTS = [f"Do it in way number {i}." for i in range(40)]
EMBEDDINGS = np.random.default_rng(3).normal(size=(len(PROMPTS), 8))
SCORES = EMBEDDINGS @ np.arange(8.0)


def relational(url: str) -> Any:
    """Return a storage in a database."""
    from optuna.storages import RDBStorage

    return RDBStorage(url.replace("postgresql://", "postgresql+psycopg://"))


def journal(path: str) -> Any:
    """Return a storage in a file that workers append to."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(path))


def work(storage: Callable[[str], Any], where: str, trials: int, barrier: Any) -> None:
    """Run trials of the study "shared", each begun when all workers are ready for it."""
    import optuna

    from zopo_fast.optuna import ZopoSampler

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name="shared", storage=storage(where), sampler=ZopoSampler(EMBEDDINGS))
    for _ in range(trials):
        trial = study.ask()
        barrier.wait(HANG)
        study.tell(trial, SCORES[PROMPTS.index(trial.suggest_categorical("prompt", PROMPTS))])


def closed(storage: Any) -> None:
    """Close the connections of a storage in a database."""
    if hasattr(storage, "engine"):
        storage.remove_session()
        storage.engine.dispose()


def shared_trials(storage: Callable[[str], Any], where: str, workers: int, trials: int) -> list[Any]:
    """Return the trials of workers, each a process with its own sampler, that have run `trials` each."""
    import optuna

    made = storage(where)
    study = optuna.create_study(study_name="shared", storage=made, direction="maximize")
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(workers)
    processes = [context.Process(target=work, args=(storage, where, trials, barrier)) for _ in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(2 * HANG)
    assert [process.exitcode for process in processes] == [0] * workers
    found: list[Any] = study.trials
    closed(made)
    return found
