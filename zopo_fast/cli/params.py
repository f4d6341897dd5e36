"""Parameter types, options derived from declared settings, grouped help, and defaults from a TOML file."""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import click

from zopo_fast._utils.files import MAX_SETTINGS_BYTES, UnreadableFileError, read_bytes
from zopo_fast._utils.settings import Setting, declared
from zopo_fast._utils.text import parse_json, short_repr
from zopo_fast.errors import ConfigError
from zopo_fast.llm.bodies import UNSET

Group = Literal["Server", "Task", "Pool", "Search", "Model", "Limits", "Output", "Other"]  # in this order
MAX_SHOWN_BOUND = 10**9  # the help omits larger bounds, which the configuration checks

Decorator = Callable[[Any], Any]


class File(click.Path):
    """Path; refuses one that no file can have, on which click itself would fail."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except ValueError as error:  # NUL, or half a surrogate pair
            self.fail(f"{short_repr(value)} is not a path: {error}", param, ctx)


FILE = File(path_type=Path)


class FiniteRange(click.FloatRange):
    """Finite number in a range; click's own ranges accept NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{short_repr(value)} is not a finite number.", param, ctx)
        return number


class Option(click.Option):
    """Option with a group of the help.

    Args:
        *args: As for `click.Option`.
        group: Title of the group.
        may_change: Whether `optimize --resume` accepts another value than that of the study.
        **attrs: As for `click.Option`.
    """

    def __init__(self, *args: Any, group: Group = "Other", may_change: bool = False, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.group, self.may_change = group, may_change

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        # A default that is text stands in brackets of its own before those of click.
        return None if record is None else (record[0], record[1].replace("]  [", "; "))


class Command(click.Command):
    """Command whose help lists the options by group.

    Args:
        *args: As for `click.Command`.
        most_used: Names of the parameters that the help lists first.
        **attrs: As for `click.Command`.
    """

    def __init__(self, *args: Any, most_used: Sequence[str] = (), **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self._most_used = most_used

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = {each.name: each for each in self.get_params(ctx) if isinstance(each, click.Option)}
        groups = {"Most used": [options.pop(name) for name in self._most_used]}
        groups |= {title: [] for title in get_args(Group)}
        for each in options.values():
            groups[each.group if isinstance(each, Option) else "Other"].append(each)
        for title, members in groups.items():
            records = [record for each in members if (record := each.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def option(*flags: str, group: Group, **attrs: Any) -> Decorator:
    """Return a decorator that adds an option to a group of the help."""
    return click.option(*flags, cls=Option, group=group, **attrs)


def setting_option(
    config: type,
    name: str,
    *flags: str,
    group: Group,
    only_if_given: bool = False,
    note: str = "",
    default_note: str = "",
    **attrs: Any,
) -> Decorator:
    """Return a decorator that adds the option of a declared setting.

    Type, range, default and help come from the declaration.

    Args:
        config: Dataclass that declares the setting.
        name: Field of the dataclass.
        *flags: Names of the option and its parameter; by default the name of the field.
        group: Group of the help.
        only_if_given: Use None as the value where the option is not given.
        note: Text after the help of the setting.
        default_note: Text after the default in the help.
        **attrs: Attributes of the option that replace the derived ones.
    """
    each = declared(config)[name]
    words = None if each.default is False else each.default_words
    if words is not None and default_note:
        words = f"{words}; {default_note}"
    derived: dict[str, Any] = {
        "type": _option_type(each),
        "default": None if only_if_given else each.default,
        "help": " ".join(part for part in (each.help, note) if part) + default_help(words),
        "may_change": each.may_change,
    }
    if each.kind is bool and not any("/" in flag for flag in flags):
        derived["is_flag"] = True
    return option(*(flags or (f"--{name.replace('_', '-')}",)), group=group, **{**derived, **attrs})


def default_help(words: str | None) -> str:
    """Return the end of a help text that states the default in words."""
    return "" if words is None else f"  [default: {words}]"


def options(*decorators: Decorator) -> Decorator:
    """Return a decorator that adds several options in the given order."""

    def apply(function: Any) -> Any:
        for decorate in reversed(decorators):
            function = decorate(function)
        return function

    return apply


def json_object(_: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, Any]:
    """Parse the value of an option as a JSON object."""
    try:
        parsed = parse_json(value or "{}")
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param=parameter) from error
    if not isinstance(parsed, dict):
        raise click.BadParameter("not a JSON object", param=parameter)
    return parsed


def from_toml(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Take defaults from a TOML file whose keys are the names of the options.

    Raises:
        ConfigError: The file cannot be read, has an unknown key, or a value of another type.
    """
    if path is not None:
        given = defaults_of(context, read_toml(path), str(path))
        context.default_map = {**(context.default_map or {}), **given}


def defaults_of(context: click.Context, table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the defaults of a command that a table of a TOML file gives, by name of the parameter.

    Args:
        context: Context of the command.
        table: Values by the names of the options.
        where: File, and table in it, for messages.

    Raises:
        ConfigError: The table has an unknown key, or a value of another type.
    """
    # The parameters behind "--pool" and "--from" have names of their own: keys are what is typed.
    known = {
        name.removeprefix("--"): option
        for option in context.command.params
        if isinstance(option, click.Option) and option.name != "config"
        for name in option.opts
        if name.startswith("--")
    }
    defaults: dict[str, Any] = {}
    for key, value in table.items():
        option = known.get(key.replace("_", "-"))
        if option is None:
            raise ConfigError(f"{where}: {_unknown(context, key, value, known)}")
        name, place = str(option.name), f"{where}: {key}"
        values = value if option.multiple and isinstance(value, list) else [value]
        typed = [_as_typed(option, each, place) for each in values]
        defaults[name] = typed if option.multiple else typed[0]
        _check_value(context, option, defaults[name], place)
    return defaults


def _unknown(context: click.Context, key: str, value: Any, known: Collection[str]) -> str:
    """Return what an error says of a key that names no option."""
    name = key.replace("_", "-").removeprefix("--")
    if any(isinstance(each, click.Argument) and each.name == key.lower() for each in context.command.params):
        return f"{key} is an argument and no option: give {key.upper()} on the command line"
    if isinstance(value, dict):
        return f"unknown table [{key}]; all keys stand at the top, outside any table"
    close = difflib.get_close_matches(name.lower(), sorted(known), n=3, cutoff=0.7)
    hint = f"did you mean {' or '.join(close)}?" if close else f"use one of {', '.join(sorted(known))}"
    return f"unknown key {short_repr(key)}; {hint}"


def _check_value(context: click.Context, option: click.Option, value: Any, where: str) -> None:
    """Check a value here, because click would name the option alone and not the file.

    Raises:
        ConfigError: The option cannot take the value.
    """
    try:
        if option.callback is json_object:
            json_object(context, option, str(value))
        else:
            option.type_cast_value(context, value)
    except click.BadParameter as error:
        raise ConfigError(f"{where} = {short_repr(value, 60)}: {error.message}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """Return the document of a TOML file.

    Raises:
        ConfigError: The file cannot be read, or is not TOML.
    """
    try:
        text = read_bytes(path, MAX_SETTINGS_BYTES).decode("utf-8-sig")
        # As text files are read: TOML itself refuses a lone carriage return.
        return tomllib.loads(text.replace("\r\n", "\n").replace("\r", "\n"))
    except UnreadableFileError as error:
        raise ConfigError(f"{path}: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply") from error
    except ValueError as error:  # not UTF-8, not TOML, or a number of too many digits
        raise ConfigError(f"{path}: {short_repr(str(error), 300)[1:-1]}") from error


def _as_typed(option: click.Option, value: Any, where: str) -> str | bool:
    """Return a TOML value as it would be typed, so that both are checked alike."""
    if isinstance(value, dict) and option.callback is json_object:  # body = { top_p = 0.5 }
        try:
            return json.dumps(value, default=str)
        except (ValueError, RecursionError) as error:  # a number of too many digits; nested too deeply
            raise ConfigError(f"{where}: cannot be written as JSON: {error}") from error
    if not isinstance(value, (bool, str, int, float)) or isinstance(value, bool) != option.is_flag:
        wanted = "true or false" if option.is_flag else "a string or a number"
        raise ConfigError(f"{where} must be {wanted}, got {short_repr(value, 60)}")
    try:
        return value if isinstance(value, bool) else str(value)
    except ValueError as error:  # an integer of too many digits
        raise ConfigError(f"{where}: {error}") from error


def _option_type(setting: Setting) -> Any:
    """Return the parameter type of a setting; None for a flag."""
    if setting.choices:
        return click.Choice(setting.choices)
    if setting.kind in (int, float):
        low: Any = setting.minimum if setting.above is None else setting.above
        high: Any = setting.maximum if setting.below is None else setting.below
        if high is not None and high >= MAX_SHOWN_BOUND:
            high = None
        if low is None and high is None:
            return click.INT if setting.kind is int else click.FLOAT
        is_open = {"min_open": setting.above is not None, "max_open": setting.below is not None}
        return (click.IntRange if setting.kind is int else FiniteRange)(low, high, **is_open)
    if setting.kind is bool:
        return None
    return FILE if setting.kind is Path else click.STRING


def body_option(flag: str, calls: str, group: Group = "Model") -> Decorator:
    """Return a decorator that adds an option with the body parameters of some calls."""
    return option(
        flag,
        group=group,
        may_change=True,
        callback=json_object,
        help=f'Body parameters of {calls}, a JSON object; null or "{UNSET}" leaves a key out.',
    )


def max_tokens_option(flag: str, answer: str, default: int) -> Decorator:
    """Return a decorator that adds an option with the length of the longest answer of some kind."""
    return option(
        flag,
        group="Model",
        type=click.IntRange(1),
        help=f"Tokens of the longest {answer}, reasoning included." + default_help(f"{default}"),
    )


def key_option(flag: str, calls: str, default: str, group: Group = "Model") -> Decorator:
    """Return a decorator that adds an option with the environment variable of a key."""
    return option(
        flag,
        group=group,
        may_change=True,
        metavar="NAME",
        help=f"Environment variable with the API key of {calls}." + default_help(default),
    )
