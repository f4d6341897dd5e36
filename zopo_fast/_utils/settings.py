"""Settings declared once: a dataclass field with its type, default, range and help.

The range check, the `Args` of the docstring, the command-line option and the JSON type of the server are all
derived from that field:

    @document
    @dataclass(frozen=True)
    class Pace:
        calls: int = setting(16, "Calls in flight at a time.", minimum=1)

        def __post_init__(self) -> None:
            check(self)
"""

from __future__ import annotations

import inspect
import math
import textwrap
import types
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from zopo_fast._utils.checks import MAX_COUNT, as_integer, as_number
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ConfigError

T = TypeVar("T")
C = TypeVar("C", bound=type)

_KEY = "setting"


def setting(default: T, help: str, **details: Any) -> T:
    """Return a dataclass field that declares a setting; `details` are those of `described`."""
    made: T = field(default=default, metadata=described(help, **details))
    return made


def described(
    help: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    default_text: str | None = None,
    may_change: bool = False,
) -> dict[str, Any]:
    """Return the metadata of a field that declares a setting without a plain default.

    Args:
        help: Noun phrase that ends with a full stop.
        minimum: Least value; of a string, its least length without surrounding blanks.
        above: Exclusive lower bound.
        maximum: Greatest value; that of an integer is `MAX_COUNT` unless stated.
        below: Exclusive upper bound.
        default_text: Meaning of the default, where its value does not say it.
        may_change: Whether a resumed study accepts another value.
    """
    details = {"minimum": minimum, "above": above, "maximum": maximum, "below": below}
    return {_KEY: {"help": help, "default_text": default_text, "may_change": may_change, **details}}


@dataclass(frozen=True)
class Setting:
    """Declaration of one setting.

    `kind` is int, float, bool, str or a dataclass; object where the declaration cannot check the value.
    `choices` are the values of a Literal. `default` is MISSING where the setting is required.
    """

    name: str
    kind: type
    choices: tuple[str, ...]
    is_optional: bool
    default: Any
    help: str
    minimum: float | None
    above: float | None
    maximum: float | None
    below: float | None
    default_text: str | None
    may_change: bool

    def checked(self, value: Any, name: str) -> Any:
        """Return the value as the setting's type.

        Raises:
            ConfigError: The value is of another type or out of range; the message calls the setting `name`.
        """
        if value is None and self.is_optional:
            return None
        if self.choices:
            good = isinstance(value, str) and value in self.choices
        elif self.kind is int:
            value = as_integer(name, value)
            good = self._is_in_range(value)
        elif self.kind is float:
            value = as_number(name, value)
            good = math.isfinite(value) and self._is_in_range(value)
        elif self.kind is bool:
            good = isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", None) == "b"
            value = bool(value) if good else value
        elif self.kind is str:
            return self._checked_text(value, name)
        else:
            good = not is_dataclass(self.kind) or isinstance(value, self.kind)
        if not good:
            raise ConfigError(f"{name} must be {self.range_text}, got {short_repr(value)}")
        return value

    def _checked_text(self, value: Any, name: str) -> str:
        """Check a string; the message does not quote it, since it may be a secret."""
        if not isinstance(value, str):
            raise ConfigError(f"{name} must be {self.range_text}, got {type(value).__name__}")
        if self.minimum is not None and len(value.strip()) < self.minimum:
            raise ConfigError(f"{name} must be {self.range_text}, got {len(value.strip())} characters")
        return value

    def _is_in_range(self, value: float) -> bool:
        return (
            (self.minimum is None or value >= self.minimum)
            and (self.above is None or value > self.above)
            and (self.maximum is None or value <= self.maximum)
            and (self.below is None or value < self.below)
        )

    @property
    def range_text(self) -> str:
        """The allowed values in words, such as "an integer from 1 to 1000"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind in (int, float):
            return self._interval_text("an integer" if self.kind is int else "a finite number")
        if self.kind is str and self.minimum is not None:
            return (
                "a non-empty string"
                if self.minimum == 1
                else f"a string of {self.minimum} characters or more"
            )
        return {bool: "True or False", str: "a string"}.get(self.kind, f"of type {self.kind.__name__}")

    def _interval_text(self, noun: str) -> str:
        if self.minimum is not None and self.maximum is not None:
            return f"{noun} from {_shown(self.minimum)} to {_shown(self.maximum)}"
        bounds = {
            "of at least": self.minimum, "above": self.above, "at most": self.maximum, "below": self.below
        }  # fmt: skip
        parts = [f"{words} {_shown(bound)}" for words, bound in bounds.items() if bound is not None]
        return " ".join([noun, " and ".join(parts)]).rstrip()

    @property
    def default_words(self) -> str | None:
        """The default in words; None where the setting is required or None means nothing in particular."""
        if self.default_text is not None or self.default is MISSING or self.default is None:
            return self.default_text
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)


_DECLARED: dict[type, dict[str, Setting]] = {}


def declared(kind: type) -> dict[str, Setting]:
    """Return the settings that a dataclass declares, by name and in order."""
    found = _DECLARED.get(kind)
    if found is None:
        found = _DECLARED[kind] = _read_declarations(kind)
    return found


def _read_declarations(kind: Any) -> dict[str, Setting]:
    hints = get_type_hints(kind)
    found = {}
    for each in fields(kind):
        if _KEY not in each.metadata:
            continue
        base, choices, is_optional = _resolved(hints[each.name])
        details = dict(each.metadata[_KEY])
        if base is int and details["maximum"] is None:
            details["maximum"] = MAX_COUNT
        found[each.name] = Setting(each.name, base, choices, is_optional, each.default, **details)
    return found


def check(config: Any, prefix: str = "") -> None:
    """Check each setting of a dataclass and convert it to its type.

    Raises:
        ConfigError: A value is of another type or out of range; the message names setting, range and value.
    """
    for each in declared(type(config)).values():
        value = each.checked(getattr(config, each.name), prefix + each.name)
        object.__setattr__(config, each.name, value)


def document(kind: C) -> C:
    """Insert the section Args, made from the declared settings, into the docstring of a dataclass."""
    if kind.__doc__ is None:  # python -OO
        return kind
    lines = ["Args:"]
    for each in declared(kind).values():
        default = "" if each.default_words is None else f" Default: {each.default_words}."
        text = f"{each.name}: {each.help}{default}"
        lines += textwrap.wrap(text, 100, initial_indent="    ", subsequent_indent="        ")
    head, raises, tail = inspect.cleandoc(kind.__doc__).partition("Raises:\n")
    kind.__doc__ = "\n".join([head.rstrip(), "", *lines, "", raises + tail]).rstrip() + "\n"
    return kind


def _resolved(hint: Any) -> tuple[type, tuple[str, ...], bool]:
    """Return base type, choices and whether None is allowed."""
    if get_origin(hint) in (Union, types.UnionType):
        members = [member for member in get_args(hint) if member is not types.NoneType]
        is_optional = len(members) < len(get_args(hint))
        if len(members) > 1:
            return object, (), is_optional
        base, choices, _ = _resolved(members[0])
        return base, choices, is_optional
    if get_origin(hint) is Literal:
        return str, get_args(hint), False
    return (hint if isinstance(hint, type) else object), (), False


def _shown(bound: float) -> str:
    if isinstance(bound, int) and bound >= MAX_COUNT:
        bits = bound.bit_length()
        return f"2**{bits - 1}" if bound == 2 ** (bits - 1) else f"2**{bits} - 1"
    return f"{bound:g}" if isinstance(bound, float) else str(bound)
