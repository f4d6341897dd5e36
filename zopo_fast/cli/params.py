"""What the values of options may be, typed or from a TOML file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click

from zopo_fast._utils.files import MAX_SETTINGS_BYTES, UnreadableFileError, read_bytes
from zopo_fast._utils.text import parse_json, short_repr
from zopo_fast.errors import ConfigError


class File(click.Path):
    """A path; one that no file can have is refused here, where click itself would fail."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except ValueError as error:  # NUL, or half a surrogate pair
            self.fail(f"{short_repr(value)} is not a path: {error}", param, ctx)


class FiniteRange(click.FloatRange):
    """A finite number in a range: NaN is in every one of click's own."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{short_repr(value)} is not a finite number.", param, ctx)
        return number


def from_toml(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Take defaults from a TOML file whose keys are the options' names."""
    if path is None:
        return
    import tomllib

    try:
        # Line ends as in a text file: TOML itself knows no lone carriage return.
        text = (
            read_bytes(path, MAX_SETTINGS_BYTES).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        )
        table = tomllib.loads(text)
    except UnreadableFileError as error:
        raise ConfigError(f"{path}: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply") from error
    except ValueError as error:  # not UTF-8 or not TOML; also a number of too many digits
        raise ConfigError(f"{path}: {short_repr(str(error), 300)[1:-1]}") from error
    # By what is typed, "--pool" or "--from": the parameters behind have names of their own.
    options = {
        name.removeprefix("--"): option
        for option in context.command.params
        if isinstance(option, click.Option) and option.name != "config"
        for name in option.opts
        if name.startswith("--")
    }
    defaults = {}
    for key, value in table.items():
        option = options.get(key.replace("_", "-"))
        if option is None:
            raise ConfigError(
                f"{path}: unknown key {short_repr(key)}; there are {', '.join(sorted(options))}"
            )
        defaults[option.name] = _as_typed(option, value, f"{path}: {key}")
    context.default_map = {**(context.default_map or {}), **defaults}


def _as_typed(option: click.Option, value: Any, where: str) -> str | bool:
    """What a TOML value is on the command line, so that it is checked alike."""
    if isinstance(value, dict) and option.callback is json_object:  # body = { top_p = 0.5 }
        try:
            return json.dumps(value, default=str)
        except (ValueError, RecursionError) as error:  # a number of too many digits; nested too deeply
            raise ConfigError(f"{where}: cannot be written as JSON: {error}") from error
    if not isinstance(value, (bool, str, int, float)) or isinstance(value, bool) != option.is_flag:
        wanted = "true or false" if option.is_flag else "a text or a number"
        raise ConfigError(f"{where} has to be {wanted}, not {short_repr(value, 60)}")
    try:
        return value if isinstance(value, bool) else str(value)
    except ValueError as error:  # an integer of too many digits
        raise ConfigError(f"{where}: {error}") from error


def json_object(_: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, Any]:
    try:
        parsed = parse_json(value or "{}")
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param=parameter) from error
    if not isinstance(parsed, dict):
        raise click.BadParameter("not a JSON object", param=parameter)
    return parsed
