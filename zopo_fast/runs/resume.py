"""What ties a run to its study file: opening it, knowing the run again, and what it keeps beside the log."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zopo_fast._utils.settings import declared
from zopo_fast.errors import InputError, StoreError, StudyMismatchError
from zopo_fast.llm.types import Usage
from zopo_fast.storage.file import is_absent
from zopo_fast.storage.store import Store
from zopo_fast.tasks import template
from zopo_fast.tasks.task import Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zopo_fast.prompts.pool import Pool
    from zopo_fast.runs.config import RunConfig


@contextmanager
def open_store(store: str | Path | Store | None) -> Iterator[Store | None]:
    """Yield the study of a path, made where it is missing and closed in the end; a Store is left open.

    Raises:
        StoreBusyError: another run uses it.
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
    with _open_or_create(Path(store)) as made, made.exclusive():
        yield made


def _open_or_create(path: Path) -> Store:
    try:
        if is_absent(path):
            try:
                return Store.create(path, {})
            except StoreError:
                if is_absent(path):
                    raise  # else another run was faster
        return Store.open(path)
    except StoreError:
        raise
    except OSError as error:  # such as a folder that may not be looked into
        raise StoreError(f"{path}: cannot be used: {error.strerror or error}") from error


def identity(
    task: Task | Callable[[str], Any], pool: Pool, config: RunConfig, llm: Any, judge: Any
) -> dict[str, Any]:
    """All that the asks of a run depend on, as JSON values; texts as their hash."""
    declarations = declared(type(config))
    settings = {k: v for k, v in asdict(config).items() if not declarations[k].may_change}
    settings["search"] = config.search.to_dict()
    return {
        "task": _task(task),
        "pool": _digest([pool.prompts, sorted(pool.scores.items())]),
        "model": None if not isinstance(task, Task) else _model(llm),
        "judge": None if judge is None else _model(judge),
        **json.loads(json.dumps(settings, default=str)),
    }


def check_identity(store: Store, now: Mapping[str, Any]) -> None:
    """Keep what a run depends on, or compare it with what the study was begun with.

    Raises:
        StudyMismatchError: it differs; names what.
    """
    then = store.get("run")
    if then is None:
        store.put("run", dict(now))
        return
    differ = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    if differ:
        what = "; ".join(
            f"{name}: {_short(then.get(name))} then, {_short(now.get(name))} now" for name in differ
        )
        raise StudyMismatchError(
            f"{store.path} was begun with something else: {what}. Give what it was begun with, or another "
            "file"
        )


def pin(store: Store | None, name: str, value: int) -> int:
    """The number that a study was begun with; kept there at first."""
    if store is None:
        return value
    then = store.get(name)
    if isinstance(then, int):
        return then
    store.put(name, value)
    return value


def stored_embeddings(store: Store, given: Any) -> NDArray[Any] | None:
    """The embeddings that the study holds; None where it holds none.

    Raises:
        StudyMismatchError: others were given.
    """
    there = store.array("embeddings")
    if there is not None and given is not None and not np.array_equal(there, np.asarray(given)):
        raise StudyMismatchError(f"{store.path} was begun with other embeddings")
    return there


def spent(store: Store) -> dict[str, float]:
    """What the study has spent, as an Account takes it; a call cut off by a kill with all it may cost."""
    calls, tokens, cost = store.charged()
    seconds = max((float(event.data.get("at", 0.0)) for event in store.events()), default=0.0)
    return {"calls": calls, "tokens": tokens, "cost": cost, "seconds": seconds}


def usage_of(embedder: Any) -> dict[str, int] | None:
    """What an embedder has cost so far, where it says so."""
    usage = getattr(embedder, "usage", None)
    return asdict(usage) if isinstance(usage, Usage) else None


def _task(task: Task | Callable[[str], Any]) -> str:
    if isinstance(task, Task):
        return _digest([asdict(task), asdict(template.resolve(task.template))])
    return f"function {getattr(task, '__qualname__', type(task).__qualname__)}"


def _model(model: Any) -> Any:
    """What a model answers by, as far as it says so: name and settings, not where it is reached."""
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "public"):
        public = config.public()
        return {"model": public["model"], "body": public["body"]}
    return {"model": str(getattr(model, "name", type(model).__name__)), "body": getattr(model, "body", None)}


def _digest(value: Any) -> str:
    def named(other: Any) -> str:  # a metric that is a function: not by where it lies in memory
        return str(getattr(other, "__qualname__", type(other).__qualname__))

    text = json.dumps(value, sort_keys=True, default=named)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
