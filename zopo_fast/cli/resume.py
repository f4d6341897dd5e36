"""`zopo-fast optimize --resume`: the options that a study stores, and those of its resumption."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from zopo_fast._utils.text import short_repr
from zopo_fast.cli.models import BODIES
from zopo_fast.cli.params import Option
from zopo_fast.errors import ConfigError, StoreError
from zopo_fast.llm.bodies import merged_body
from zopo_fast.storage.store import Store
from zopo_fast.tasks.task import Task

# Options that may hold a secret: stored without it, so they may be needed again.
SECRET = ("headers", *BODIES, "base_url", "judge_base_url", "writer_base_url", "embedding_base_url")

# Options whose default fits the pool, so that the stored value may differ from the default.
FITTED = ("budget", "initial")
# Options that make another task of the same file.
_OF_TASK = (
    "examples", "heldout", "demonstrations", "seed", "input_field", "output_field", "metric", "template",
    "encoding",
)  # fmt: skip
_NOT_STORED = ("task", "resume", "resume_or_start", "out")


def stored_options(options: Mapping[str, Any], task: Task, given: Collection[str] = ()) -> dict[str, Any]:
    """Return the options of a command and its task as JSON values without secrets."""
    stored = {name: _plain(value) for name, value in options.items() if name not in _NOT_STORED}
    again = []
    for name in SECRET:
        value = options.get(name)
        if not value:
            continue
        stored[name] = _without_secrets(name, value)
        if stored[name] != value:
            again.append(name)
            stored[name] = None
    return {
        "options": stored, "again": again, "task": task.to_dict(), "given": sorted(given),
        "command": _command_line(options, given),
    }  # fmt: skip


def _command_line(options: Mapping[str, Any], given: Collection[str]) -> str:
    """Return the command that repeats a run, without secrets and without folders of this machine."""
    context = click.get_current_context()
    words = ["zopo-fast", "optimize"]
    for each in context.command.params:
        value = options.get(each.name or "")
        if isinstance(each, click.Argument):
            words.append(_shown(context.params[each.name or ""]))
        elif each.name in SECRET and value:
            words += [each.opts[0], "..."]
        elif each.name not in given or each.name in (*SECRET, *_NOT_STORED, "quiet"):
            continue
        elif isinstance(value, bool):
            words.append((each.opts if value else each.secondary_opts or each.opts)[0])
        else:
            for one in value if isinstance(value, tuple) and getattr(each, "multiple", False) else (value,):
                words += [each.opts[0], *map(_shown, one if isinstance(one, tuple) else (one,))]
    return " ".join(word if word == "..." else shlex.quote(word) for word in words)


def _shown(value: Any) -> str:
    path = Path(str(value))
    return path.name if path.is_absolute() else str(value)


def resume_options(
    store: Store, options: Mapping[str, Any], repeated: Task | None = None
) -> tuple[dict[str, Any], Task]:
    """Return the options that resume a study, and its task.

    Args:
        store: The study.
        options: Options of the present command; those given replace stored ones that may change.
        repeated: Task of a command that must be the one that started the study; None: `--resume`, which
            takes task and options from the study.

    Raises:
        ConfigError: An option is given that cannot change, or one is missing that was not stored.
        StoreError: The study was not created by this command.
    """
    task, given = stored_task(store), given_options()
    stored, again = dict(store.config["options"]), list(store.config["again"])
    if repeated is None:
        if "task" in given:
            raise ConfigError("TASK: --resume uses the task of the study; leave TASK out")
        compared, advice = given, "leave it out"
    else:
        compared, advice = _repeated(given, stored), "give the same again, or another --out"
        if repeated != task and not any(_plain(options.get(name)) != stored.get(name) for name in _OF_TASK):
            raise ConfigError(f"TASK: {_difference(repeated, task)} since {store.path} began; {advice}")
    for name in sorted(compared - _changeable()):
        if _plain(options[name]) != stored.get(name):
            raise ConfigError(
                f"{_flags([name])} cannot change on resume: it was {stored.get(name)!r}; {advice}"
            )
    if missing := [name for name in again if name not in given]:
        raise ConfigError(f"{_flags(missing)}: not stored, because of possible secrets; give the same again")
    resumed = {name: stored.get(name, value) for name, value in options.items()}
    resumed |= {name: options[name] for name in given - {"task"}}
    for name in ("pool_file", "embeddings", "lists", "source", "write_back"):
        resumed[name] = None if resumed[name] is None else Path(resumed[name])
    if resumed["score_range"] is not None:
        resumed["score_range"] = tuple(resumed["score_range"])
    for name in ("headers", *BODIES):
        resumed[name] = resumed.get(name) or {}
    return {**resumed, "out": store.path.parent}, task


def stored_task(store: Store) -> Task:
    """Return the task of a study.

    Raises:
        StoreError: The study was not created by this command.
    """
    config = store.config
    try:
        dict(config["options"]), list(config["again"])
        return Task.from_dict(config["task"])
    except (LookupError, TypeError, ValueError) as error:
        raise StoreError(f"{store.path}: not created by `zopo-fast optimize` ({error!r})") from error


def _difference(now: Task, then: Task) -> str:
    """Return what differs between the tasks that the same options made of two files."""
    if now.name != then.name:
        return f"the task was {short_repr(then.name)} and is {short_repr(now.name)}: another file was named"
    sizes = [len(task.train) + len(task.heldout) + len(task.demonstrations) for task in (then, now)]
    if sizes[0] != sizes[1]:
        return f"the file has changed, from {sizes[0]} examples to {sizes[1]},"
    return "the file has changed"


def _repeated(given: set[str], stored: Mapping[str, Any]) -> set[str]:
    """Return the options that a repeated command must have as before; defaults may fit the pool since."""
    names = {name for name in click.get_current_context().params if name in stored}
    return (names - set(FITTED)) | (given - set(_NOT_STORED))


def resume_command(store: Store, folder: Path) -> str:
    """Return the command that resumes the run in a folder."""
    again = store.config.get("again")
    more = f", and {_flags(again)} as before" if again else ""
    return f"zopo-fast optimize --resume {shlex.quote(str(folder))}{more}"


def _changeable() -> set[str]:
    """Return the names of the options that may change in a resumed study."""
    parameters = click.get_current_context().command.params
    return {each.name for each in parameters if isinstance(each, Option) and each.may_change and each.name}


def _flags(names: Sequence[str]) -> str:
    """Return the options of these names as they are typed."""
    flags = {each.name: each.opts[0] for each in click.get_current_context().command.params}
    return ", ".join(flags.get(name, name) for name in names)


def given_options() -> set[str]:
    """Return the names of the options given on the command line or in its configuration file."""
    context = click.get_current_context()
    sources = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
    return {name for name in context.params if context.get_parameter_source(name) in sources}


def _without_secrets(name: str, value: Any) -> Any:
    from zopo_fast.llm.openai.config import ClientConfig
    from zopo_fast.llm.openai.redaction import parse_base_url, show_url, veiled

    if name == "headers":
        return {}
    if name in BODIES:
        body = merged_body({}, value)  # a configuration refuses values that cannot be sent
        if name == "embedding_body":
            ClientConfig("m", embedding_body=body)
        else:
            ClientConfig("m", body=body)
        return veiled(value)
    return show_url(parse_base_url(name, value))


def _plain(value: Any) -> Any:
    """Return a value of an option as a JSON value; a path does not depend on the working directory."""
    if isinstance(value, Path):
        return str(value.absolute())
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
