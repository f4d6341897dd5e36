"""Scores of earlier studies, matched to the pool of a new run by the text of the prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zopo_fast.errors import ConfigError, InputError, StoreError, StudyMismatchError
from zopo_fast.prompts.pool import Pool, normalise
from zopo_fast.runs.inspection import Inspection, mean_variances
from zopo_fast.search.config import ZopoConfig
from zopo_fast.search.sources import checked_source, winners
from zopo_fast.storage.snapshot import snapshot
from zopo_fast.storage.store import STUDY, Store

PRIOR = "prior"
"""Name of the earlier scores among the values of a study."""


def require_usable(config: ZopoConfig, prior: Sequence[str | Path | Store] = ()) -> None:
    """Check that a search can use earlier studies, and that they are there, before any call is paid for.

    Raises:
        ConfigError: The gradient search and the official preset cannot.
        StoreError: An earlier study is missing.
    """
    if config.official_settings or config.search == "gradient":
        raise ConfigError(
            "prior: the gradient search and the official preset cannot use earlier studies; leave the prior "
            "out, or use search='improvement'"
        )
    for each in prior:
        if isinstance(each, (str, Path)) and not _file(each).is_file():
            raise StoreError(f"prior: {_file(each)}: no study file there; give the folder of a run")


def prior_of_run(
    study: Store | None, prior: Sequence[str | Path | Store], pool: Pool
) -> list[dict[str, Any]]:
    """Return the earlier scores of a run, as arguments of `Zopo.learn_from`, one entry a source.

    A new study keeps the scores, so that a resumed run needs no earlier file and is identical.

    Args:
        study: Study of the run; None for a run without one.
        prior: Earlier studies.
        pool: Prompts of the run.

    Raises:
        InputError: An earlier study has no score of a prompt of the pool.
        StoreError: An earlier study cannot be read.
        StudyMismatchError: The study was started without earlier studies.
    """
    if study is not None and study.get("run") is not None:
        then = study.get(PRIOR) or []
        if prior and not then:
            raise StudyMismatchError(
                f"{study.path} was started without earlier studies; leave the prior out, or use another file"
            )
        return list(then)
    found = [_source(each, number, pool) for number, each in enumerate(prior, start=1)]
    if study is not None:
        study.put(PRIOR, found)
    return found


def earlier_winners(prior: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the distinct indices of the best prompts of earlier studies."""
    return winners(checked_source(**entry) for entry in prior)


def _source(study: str | Path | Store, number: int, pool: Pool) -> dict[str, Any]:
    """Return the scores that an earlier study has of prompts of the pool.

    Raises:
        InputError: There is none.
    """
    index = {text: i for i, text in enumerate(pool.prompts)}
    with _opened(study) as store:
        rows = Inspection(store, None).ranked()
        path = store.path
    noises = mean_variances(rows)
    known = [
        (index[text], row.score, noise)
        for row, noise in zip(rows, noises, strict=True)
        if (text := normalise(row.prompt)) in index and row.score is not None
    ]
    if not known:
        raise InputError(
            f"prior: {study if isinstance(study, (str, Path)) else path} has no score of a prompt of this "
            "pool; prompts are matched by their text: give a study of the same or of an overlapping pool"
        )
    indices, scores, variances = zip(*known, strict=True)
    return {
        "indices": list(indices),
        "scores": list(scores),
        "noise": list(variances),
        "source": f"study {number}",  # not the path: a name must not depend on the machine
    }


@contextmanager
def _opened(study: str | Path | Store) -> Iterator[Store]:
    """Open an earlier study for reading, without its lock; a folder is that of a run."""
    if isinstance(study, Store):
        yield study
        return
    if not isinstance(study, (str, Path)):
        raise InputError(f"prior: expected paths or Stores, got {type(study).__name__}")
    with snapshot(_file(study)) as store:
        yield store


def _file(study: str | Path) -> Path:
    path = Path(study)
    return path / STUDY if path.is_dir() else path
