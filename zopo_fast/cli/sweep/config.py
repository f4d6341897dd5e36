"""File of a sweep: tasks, models, seeds and settings, and the runs that they make."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from zopo_fast._utils.text import short_repr
from zopo_fast.cli.params import Option, defaults_of
from zopo_fast.errors import ConfigError

TABLES = ("options", "tasks", "models", "settings")
_OF_SWEEP = {
    "out": "folders follow from --out of the sweep; leave it out",
    "resume": "a sweep resumes by itself; leave it out",
    "resume_or_start": "a sweep resumes by itself; leave it out",
    "dry_run": "give --dry-run to the sweep",
    "quiet": "give --quiet to the sweep",
    "seed": "give seeds = [...] at the top of the file",
    **{
        f"limit_{kind}": "limits hold over the whole sweep; give it at the top of the file"
        for kind in ("calls", "tokens", "cost", "seconds")
    },
}

Axis = dict[str, dict[str, Any]]
"""Options of `optimize` by the names that the file gives to tasks, models or settings."""


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
        name: Name of the run and of its folder.
        axes: Names of its task, model and settings, and its seed; those that the file has.
        task: File or folder of the task.
        options: Options of `optimize` by the name of the parameter.
        identity: Digest of the task and of the options that a resumed run cannot change.
    """

    name: str
    axes: dict[str, Any]
    task: str
    options: dict[str, Any]
    identity: str


@dataclass(frozen=True)
class SweepFile:
    """Contents of a sweep file.

    Attributes:
        path: Path of the file.
        tables: Tables of the options of the runs, and `seeds`.
        own: The other keys: options of the sweep itself.
    """

    path: Path
    tables: dict[str, Any]
    own: dict[str, Any]

    @classmethod
    def of(cls, path: Path, document: Mapping[str, Any]) -> SweepFile:
        """Return the parts of a document.

        Raises:
            ConfigError: The document has an unknown table.
        """
        names = (*TABLES, "seeds")
        own = {key: value for key, value in document.items() if key not in names}
        for key, value in own.items():
            if isinstance(value, dict):
                close = difflib.get_close_matches(key, TABLES, n=1)
                hint = f"did you mean [{close[0]}]?" if close else f"use {', '.join(TABLES)}"
                raise ConfigError(f"{path}: unknown table [{key}]; {hint}")
        return cls(path, {key: document[key] for key in names if key in document}, own)

    def runs(self, command: click.Command) -> list[Run]:
        """Return the runs, the seeds of one combination next to each other.

        Args:
            command: The command `optimize`, which knows the options.

        Raises:
            ConfigError: A key is unknown, has an invalid value, or belongs to the sweep.
        """
        context = click.Context(command, info_name="zopo-fast optimize")
        common = self._options(context, self.tables.get("options", {}), "[options]")
        tasks = self._axis(context, "tasks", "task")
        if not tasks:
            raise ConfigError(f'{self.path}: no tasks; give tasks = ["FILE", ...] or tables [tasks.NAME]')
        axes = [tasks, self._axis(context, "models", "model"), self._axis(context, "settings", None)]
        names = [name for name, axis in zip(("task", "model", "settings"), axes, strict=True) if axis]
        seeds = self._seeds(context)
        runs = []
        for chosen, seed in itertools.product(itertools.product(*(a.items() for a in axes if a)), seeds):
            options = dict(common)
            for _, more in chosen:
                options |= more
            task = options.pop("task")
            labels: dict[str, Any] = dict(zip(names, (name for name, _ in chosen), strict=True))
            if seed is not None:
                labels["seed"], options["seed"] = seed, str(seed)
            name = "-".join([*(name for name, _ in chosen), *([] if seed is None else [f"seed{seed}"])])
            runs.append(Run(name, labels, task, options, _identity(context.command, task, options)))
        if double := [name for name, count in Counter(run.name for run in runs).items() if count > 1]:
            raise ConfigError(f"{self.path}: two runs are named {double[0]}; rename one of their tables")
        return runs

    def _axis(self, context: click.Context, key: str, short: str | None) -> Axis:
        """Return the entries of an axis: of tables, or of a list of the values of one option."""
        given, where = self.tables.get(key, {}), f"{self.path}: {key}"
        if isinstance(given, list) and short is not None:
            if not all(isinstance(each, str) for each in given):
                raise ConfigError(f"{where} must be a list of strings, or tables [{key}.NAME]")
            tables = {_slug(each, is_file=short == "task"): {short: each} for each in given}
            if len(tables) < len(given):
                raise ConfigError(f"{where}: two entries have the same name; give tables [{key}.NAME]")
        elif isinstance(given, dict):
            tables = given
        else:
            kinds = f"tables [{key}.NAME]" + (", or a list of strings" if short else "")
            raise ConfigError(f"{where} must be {kinds}; got {short_repr(given, 60)}")
        axis = {}
        for name, table in tables.items():
            if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):
                raise ConfigError(
                    f"{where}: the name {short_repr(name)} names a folder; "
                    "use letters, digits, '_', '.', '+' and '-'"
                )
            if not isinstance(table, dict):
                raise ConfigError(f"{where}.{name} must be a table [{key}.{name}]")
            task = {}
            if key == "tasks":
                if not isinstance(table.get("task"), str):
                    raise ConfigError(f'{where}.{name}: give task = "FILE", the task of these runs')
                task = {"task": table["task"]}
            rest = {option: value for option, value in table.items() if option not in task}
            axis[name] = {**self._options(context, rest, f"[{key}.{name}]"), **task}
        return axis

    def _options(self, context: click.Context, table: Any, where: str) -> dict[str, Any]:
        where = f"{self.path}: {where}"
        if not isinstance(table, dict):
            raise ConfigError(f"{where} must be a table; got {short_repr(table, 60)}")
        found = defaults_of(context, table, where)
        for name in found:
            if name in _OF_SWEEP:
                raise ConfigError(f"{where}: {name.replace('_', '-')}: {_OF_SWEEP[name]}")
        return found

    def _seeds(self, context: click.Context) -> list[int | None]:
        seeds = self.tables.get("seeds", [None])
        if not isinstance(seeds, list) or not seeds:
            raise ConfigError(f"{self.path}: seeds must be a list of numbers, such as [0, 1, 2]")
        for seed in self.tables.get("seeds", []):
            defaults_of(context, {"seed": seed}, f"{self.path}: seeds")
        return seeds


def _identity(command: click.Command, task: str, options: Mapping[str, Any]) -> str:
    fixed = {
        each.name: options[each.name]
        for each in command.params
        if each.name in options and not (isinstance(each, Option) and each.may_change)
    }
    text = json.dumps([str(Path(task).absolute()), fixed], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _slug(value: str, is_file: bool) -> str:
    """Return the name of a list's entry: that of a file without its suffix, or the text without signs."""
    name = Path(value).name.split(".")[0] if is_file else value
    return re.sub(r"[^\w.+-]+", "_", name)
