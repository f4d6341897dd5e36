"""Open the study of a run, check that it belongs to the run, and read what it keeps beside the log."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from zopo_fast import __version__
from zopo_fast._utils.settings import declared
from zopo_fast.errors import InputError, StoreError, StudyMismatchError
from zopo_fast.runs.growth.config import Growth
from zopo_fast.runs.log.entries import AGAIN, FAILED, SCORE
from zopo_fast.scoring import metrics
from zopo_fast.scoring.scorer import FunctionTask
from zopo_fast.search.problem import as_embeddings
from zopo_fast.search.state import pool_fingerprint
from zopo_fast.storage.file import is_absent
from zopo_fast.storage.store import Event, Store
from zopo_fast.tasks import template
from zopo_fast.tasks.task import Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zopo_fast.llm.types import ChatModel
    from zopo_fast.prompts.pool import Pool
    from zopo_fast.runs.config import RunConfig

T = TypeVar("T")

MAX_COPIED = 2**28
"""Bytes of given embeddings that a study copies; it refers to larger ones by a fingerprint."""
EMBEDDINGS = "embeddings"
"""Name of the fingerprint among the values of a study."""

TASK, PRICES, RESULT, VERSION, BEGAN = "task", "prices", "result", "version", "began"
"""Names of values that readers of a study need, and its runs do not."""

# Settings that older versions did not store, with the value that their logs replay under.
_ABSENT = {"unanswered": "zero", "writing": None, "grow": None, "growth": asdict(Growth())}


@contextmanager
def open_store(store: str | Path | Store | None) -> Iterator[Store | None]:
    """Open the study of a run for the length of a block.

    Args:
        store: a path, created if absent and closed at the end; a Store, left open; or None.

    Raises:
        StoreBusyError: another run uses the study.
        StoreError: the study cannot be opened or created.
        InputError: neither a path nor a Store.
    """
    if store is None:
        yield None
        return
    if isinstance(store, Store):
        with store.exclusive():
            yield store
        return
    if not isinstance(store, (str, Path)):
        raise InputError(f"store: expected a path or a Store, got {type(store).__name__}")
    with open_or_create(Path(store), {}) as opened, opened.exclusive():
        yield opened


def open_or_create(path: Path, config: Mapping[str, Any]) -> Store:
    """Open a study file; where there is none, create it with these settings (JSON values).

    Raises:
        StoreBusyError: another process has the study open.
        StoreError: the study cannot be opened or created.
    """
    try:
        if is_absent(path):
            try:
                return Store.create(path, config)
            except StoreError:
                if is_absent(path):
                    raise  # otherwise another run has created it meanwhile
        return Store.open(path)
    except StoreError:
        raise
    except OSError as error:  # such as a folder without permission to search it
        raise StoreError(f"{path}: cannot be used: {error.strerror or error}") from error


def identity(
    task: Task | FunctionTask | Callable[[str], Any],
    pool: Pool,
    config: RunConfig,
    model: ChatModel | None,
    judge: ChatModel | None,
    writing: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return all that the asks of a run depend on, as JSON values; texts are hashed.

    Args:
        task: of the run.
        pool: of the run.
        config: of the run.
        model: that answers the examples; None for a function.
        judge: of the metric "judge"; None: `model`.
        writing: names of the writers and their model; None for a pool that does not grow.
    """
    declarations = declared(type(config))
    settings = {k: v for k, v in asdict(config).items() if not declarations[k].may_change}
    settings["search"] = config.search.to_dict()
    return {
        "task": _task_identity(task),
        "pool": _digest([pool.prompts, sorted(pool.scores.items())]),
        "model": None if model is None else dict(model.description),
        "judge": None if judge is None else dict(judge.description),
        "writing": None if writing is None else dict(writing),
        **json.loads(json.dumps(settings, default=str)),
    }


def graded_by_model(store: Store | None) -> bool:
    """Return True for the study of a run without a judge, whose answers the model itself graded."""
    then = None if store is None else store.get("run")
    return isinstance(then, Mapping) and then.get("judge") is None


def check_identity(store: Store, now: Mapping[str, Any]) -> None:
    """Store the identity of a new run, or compare it with that of the study.

    Raises:
        StudyMismatchError: the two differ; names each difference.
    """
    then = store.get("run")
    if then is None:
        store.put("run", dict(now))
        return
    then = {**_ABSENT, **then}
    differ = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    if differ:
        what = "; ".join(
            f"{name}: {_abbreviated(then.get(name))} then, {_abbreviated(now.get(name))} now"
            for name in differ
        )
        raise StudyMismatchError(
            f"{store.path} was started with other settings: {what}. Use the same settings again, or another "
            "file"
        )


def describe(store: Store, task: Task | FunctionTask | Callable[[str], Any], config: RunConfig) -> None:
    """Store the task, the prices and the version of a run for readers of the study."""
    if isinstance(task, Task) and "task" not in store.config:  # the command line stores it at creation
        pin(store, TASK, task.to_dict())
    store.put(VERSION, __version__)
    pin(store, BEGAN, time.time())
    if config.prices is not None:
        store.put(PRICES, asdict(config.prices))
    if store.get(RESULT) is not None:
        store.put(RESULT, None)  # of an earlier run; this one replaces it at its end


def task_as_begun(store: Store, task: T) -> T:
    """Return the task with the metric whose rules are those of the version that began the study.

    A new study stores the present rules. Scores of one study are comparable only under the same rules.
    """
    if store.get("run") is None:
        store.put("metric_rules", metrics.RULES)
    if not isinstance(task, Task) or store.get("metric_rules") is not None:
        return task
    if not isinstance(task.metric, str) or task.metric not in metrics.RULES_1:
        return task
    return replace(task, metric=metrics.RULES_1[task.metric])


def config_as_begun(store: Store, config: RunConfig) -> RunConfig:
    """Return the settings with values of the version that began the study, where none are given.

    They were numbers before; what no number stands for now may be something else.
    """
    then = store.get("run")
    if not isinstance(then, Mapping):
        return config
    for name in ("race_first", "initial"):
        if getattr(config, name) is None and isinstance(value := then.get(name), int):
            begun: dict[str, Any] = {name: value}
            config = replace(config, **begun)
    search = then.get("search")
    for name in ("region", "initial"):
        value = search.get(name) if isinstance(search, Mapping) else None
        if getattr(config.search, name) is None and isinstance(value, int):
            begun = {name: value}
            config = replace(config, search=replace(config.search, **begun))
    return config


def is_new(store: Store) -> bool:
    """Return True for a study whose search has not started."""
    return store.get("initial") is None and next(iter(store.events()), None) is None


def pin(store: Store | None, name: str, value: T) -> T:
    """Return the JSON value that the study was started with; a new study stores `value`."""
    if store is None:
        return value
    then = store.get(name)
    if isinstance(then, type(value)):
        return then
    store.put(name, value)
    return value


def stored_embeddings(store: Store, given: Any) -> NDArray[Any] | None:
    """Return the embeddings of the study, (m, d); None before the study knows any.

    Args:
        store: the study.
        given: embeddings that must equal those of the study; None: no embeddings are given.

    Raises:
        StudyMismatchError: the study was started with other embeddings, or does not hold its embeddings and
            none are given.
    """
    stored = store.array("embeddings")
    if stored is not None and given is not None and not np.array_equal(stored, np.asarray(given)):
        raise StudyMismatchError(f"{store.path} was started with other embeddings")
    then = store.get(EMBEDDINGS)
    if stored is not None or then is None:
        return stored
    m, d = then["shape"]
    what = f"{m} x {d} embeddings of {then['dtype']}{then['source'] and ' from ' + then['source']}"
    if given is None:
        raise StudyMismatchError(
            f"{store.path} refers to {what} and does not hold them: give the same again, by --embeddings "
            "FILE or embeddings=..."
        )
    Z = as_embeddings(given)
    if any(then[name] != value for name, value in pool_fingerprint(Z).items()):
        raise StudyMismatchError(
            f"{store.path} was started with {what}; the given ones, {len(Z)} x {Z.shape[1]} of {Z.dtype}, "
            "are others: give the same again, or use another study"
        )
    return Z


def keep_embeddings(store: Store, Z: NDArray[Any], source: str | None) -> None:
    """Store the embeddings of a new study; of large given ones only their fingerprint.

    Args:
        store: the study.
        Z: (m, d) embeddings.
        source: file of given embeddings, "" where it is unknown; None: an embedder made them, perhaps for
            money, so the study holds them whatever their size.
    """
    if source is None or Z.nbytes <= MAX_COPIED:
        store.put_array("embeddings", Z)
    else:
        store.put(EMBEDDINGS, {**pool_fingerprint(Z), "source": source})


def spent(store: Store) -> dict[str, float]:
    """Return what the study has spent, for Account.restore(); a call interrupted by a kill counts in full."""
    calls, tokens, cost = store.charged()
    return {"calls": calls, "tokens": tokens, "cost": cost, "seconds": _elapsed(store)}


def failures(store: Store) -> dict[int, str]:
    """Return the error of each prompt that could not be scored, by pool index."""
    return {event.data["prompt"]: event.data["error"] for event in store.events() if event.kind == FAILED}


def retry_failures(store: Store) -> None:
    """Rewind the log to before the first failure, so that the resumed run scores all failed prompts again.

    The failure of a prompt begins with its first unanswered example.

    Answers stay in the study: the resumed run takes them from there, without a call, for all other prompts.
    """
    failed = failures(store)
    first = next((event.seq for event in store.events() if _belongs_to_failure(event, failed)), None)
    if first is not None:
        seconds = _elapsed(store)
        store.rewind(first - 1)
        store.append(AGAIN, {"at": seconds})  # keeps the time spent so far, which a limit counts


def _belongs_to_failure(event: Event, failed: Container[int]) -> bool:
    is_unanswered = event.kind == SCORE and "unanswered" in event.data
    return event.kind == FAILED or (is_unanswered and event.data["prompt"] in failed)


def forget_refusals(store: Store) -> None:
    """Rewind the log to its last answered example, so that a resumed run asks the refused ones again.

    For a run whose endpoint has begun to refuse every call: the scores of its last refusals say nothing about
    their prompts.
    """
    events = list(store.events())
    answered = [event.seq for event in events if event.kind == SCORE and "unanswered" not in event.data]
    if answered and events[-1].seq > answered[-1]:
        seconds = _elapsed(store)
        store.rewind(answered[-1])
        store.append(AGAIN, {"at": seconds})  # keeps the time spent so far, which a limit counts


def _elapsed(store: Store) -> float:
    """Return the seconds into the run at the end of its log."""
    return max((float(event.data.get("at", 0.0)) for event in store.events()), default=0.0)


def _task_identity(task: Task | FunctionTask | Callable[[str], Any]) -> str:
    if isinstance(task, Task):
        return _digest([task.to_dict(), asdict(template.resolve(task.template))])
    function = task.function if isinstance(task, FunctionTask) else task
    name = f"function {getattr(function, '__qualname__', type(function).__qualname__)}"
    return f"{name} on {len(task.train)} examples" if isinstance(task, FunctionTask) else name


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _abbreviated(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
