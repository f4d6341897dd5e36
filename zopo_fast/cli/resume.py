"""`zopo-fast optimize --resume`: what a study keeps of the command that began it, and how it is taken up."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from zopo_fast.errors import ConfigError, StoreError
from zopo_fast.storage.store import Store
from zopo_fast.tasks.task import Example, Task

# What may be typed anew: the course of a run does not depend on it.
FREE = frozenset(
    {
        "resume", "quiet", "concurrency", "timeout", "no_comparison", "compare_random", "price_in",
        "price_out", "limit_calls", "limit_tokens", "limit_cost", "limit_seconds", "requests_per_minute",
        "tokens_per_minute", "cache", "cache_size", "base_url", "judge_base_url", "headers", "body",
    }
)  # fmt: skip
# What may hold a secret: kept without its values, and to be given again where it was given.
SECRET = ("headers", "body", "base_url", "judge_base_url")


def to_keep(options: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """The options of a command and its task, as JSON values, without what may be secret."""
    kept = {name: _plain(value) for name, value in options.items() if name not in ("task", "resume", "out")}
    again = []
    for name in SECRET:
        value = options.get(name)
        if not value:
            continue
        kept[name] = _without_secrets(name, value)
        if kept[name] != value:
            again.append(name)
            kept[name] = None
    return {"options": kept, "again": again, "task": asdict(task)}


def taken_up(store: Store, options: Mapping[str, Any]) -> tuple[dict[str, Any], Task]:
    """The options with which a study goes on, and its task.

    Args:
        store: the study.
        options: of the present command.

    Raises:
        ConfigError: something was typed that cannot change, or is to be typed again.
        StoreError: the study is not one of this command's.
    """
    config = store.config
    try:
        kept, again, task = dict(config["options"]), list(config["again"]), _task(config["task"])
    except (LookupError, TypeError, ValueError) as error:
        raise StoreError(f"{store.path}: not begun by `zopo-fast optimize` ({error!r})") from error
    typed = _typed()
    if "task" in typed:
        raise ConfigError("--resume goes on with the study's own task: give no TASK")
    for name in sorted(typed - FREE):
        if _plain(options[name]) != kept.get(name):
            raise ConfigError(
                f"{_flags([name])} cannot change in a study that has begun: it was "
                f"{kept.get(name)!r}, leave it out"
            )
    if missing := [name for name in again if name not in typed]:
        raise ConfigError(
            f"{_flags(missing)}: given then, and not kept since it may hold a secret; give it again"
        )
    used = {name: kept.get(name, value) for name, value in options.items()}
    used |= {name: options[name] for name in typed}
    for name in ("pool_file", "lists", "source"):
        used[name] = None if used[name] is None else Path(used[name])
    if used["score_range"] is not None:
        used["score_range"] = tuple(used["score_range"])
    for name in ("headers", "body"):
        used[name] = used[name] or {}
    return {**used, "out": options["resume"]}, task


def how_to_go_on(store: Store, folder: Path) -> str:
    """The command that goes on with the run in this folder."""
    again = store.config.get("again")
    more = f", and {_flags(again)} as before" if again else ""
    return f"zopo-fast optimize --resume {shlex.quote(str(folder))}{more}"


def _flags(names: Sequence[str]) -> str:
    """The options of these names as they are typed."""
    typed = {option.name: option.opts[0] for option in click.get_current_context().command.params}
    return ", ".join(typed.get(name, name) for name in names)


def _typed() -> set[str]:
    """Names of the options that were given on the command line or in its configuration file."""
    context = click.get_current_context()
    given = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
    return {name for name in context.params if context.get_parameter_source(name) in given}


def _without_secrets(name: str, value: Any) -> Any:
    from zopo_fast.llm.openai.config import ClientConfig
    from zopo_fast.llm.openai.redaction import parse_base_url, show_url

    if name == "headers":
        return {}
    if name == "body":
        return ClientConfig("m", body=value).public()["body"]
    return show_url(parse_base_url(name, value))


def _task(values: Mapping[str, Any]) -> Task:
    def examples(name: str) -> tuple[Example, ...]:
        return tuple(Example(one["input"], tuple(one["outputs"])) for one in values[name])

    return Task(
        values["name"],
        examples("train"),
        examples("heldout"),
        values["metric"],
        values["template"],
        examples("demonstrations"),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.absolute())  # the same one from another folder
    return list(value) if isinstance(value, tuple) else value
