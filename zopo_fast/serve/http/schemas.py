"""JSON types that studies and jobs share, and the JSON types of declared settings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from zopo_fast._utils.checks import MAX_COUNT
from zopo_fast._utils.settings import Setting, declared

_MAX_FLOAT = 1.7976931348623157e308

Index = Annotated[int, Meta(ge=0, le=MAX_COUNT, description="Position of a prompt in the pool, from 0.")]

Finite = Annotated[float, Meta(ge=-_MAX_FLOAT, le=_MAX_FLOAT)]

NotNegative = Annotated[float, Meta(ge=0, le=_MAX_FLOAT)]

Count = Annotated[int, Meta(ge=1, le=MAX_COUNT)]

Label = Annotated[str, Meta(max_length=200)]

Text = Annotated[str, Meta(min_length=1)]


class RequestBody(msgspec.Struct, forbid_unknown_fields=True):
    """Base of request bodies; an unknown field is refused, so that no misspelled one is ignored."""


class ResponseBody(msgspec.Struct):
    """Base of response bodies."""


class Health(ResponseBody):
    """State of the server."""

    status: Literal["ok", "stopping"]
    version: str


class ProblemDetails(msgspec.Struct, frozen=True):
    """Problem details (RFC 9457); `error` is the name of the typed error."""

    type: str
    title: str
    status: int
    detail: str
    error: str


def settings_struct(config: type, *, omit: Collection[str] = (), **types: Any) -> Any:
    """Return a base class of request bodies that hold the settings of a dataclass.

    Type, bounds, default and description of each field come from the declaration of the setting.

    Args:
        config: The dataclass.
        omit: Settings that a request cannot state.
        **types: JSON types of those settings whose declaration has none.
    """
    settings = declared(config)
    members: list[Any] = []
    for each in fields(config):
        if each.name in omit:
            continue
        kind = types.get(each.name) or _json_type(settings[each.name])
        typed: Any = Annotated[kind, Meta(description=_description(settings[each.name]))]
        if each.default is not MISSING:
            members.append((each.name, typed, each.default))
        elif each.default_factory is not MISSING:
            members.append((each.name, typed, msgspec.field(default_factory=kind)))
        else:
            members.append((each.name, typed))
    return msgspec.defstruct(config.__name__, members, bases=(RequestBody,))


def _json_type(setting: Setting) -> Any:
    kind: Any = setting.kind
    if setting.choices:
        kind = Literal[setting.choices]
    elif setting.kind is str and setting.minimum is not None:
        kind = Annotated[str, Meta(min_length=int(setting.minimum))]
    elif setting.kind is int or setting.kind is float:
        kind = Annotated[setting.kind, _bounds(setting)]
    return kind | None if setting.is_optional or setting.default is None else kind


def _bounds(setting: Setting) -> Meta:
    """Return the bounds of a number: integers as every JSON reader keeps them, floats finite."""
    greatest: float = MAX_COUNT if setting.kind is int else _MAX_FLOAT
    low, high = setting.minimum, setting.maximum
    if low is None and setting.above is None:
        low = -greatest
    if setting.below is None:
        high = greatest if high is None else min(high, greatest)
    bounds: dict[str, Any] = {"ge": low, "gt": setting.above, "le": high, "lt": setting.below}
    return Meta(**bounds)


def _description(setting: Setting) -> str:
    default = "" if setting.default_text is None else f" Default: {setting.default_text}."
    return setting.help + default
