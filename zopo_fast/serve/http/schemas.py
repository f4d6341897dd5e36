"""Field types that studies and jobs share."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Index = Annotated[int, Meta(ge=0, le=2**53, description="A prompt's place in the pool, from 0.")]

_MOST = 1.7976931348623157e308

Finite = Annotated[float, Meta(ge=-_MOST, le=_MOST)]

NotNegative = Annotated[float, Meta(ge=0, le=_MOST)]

Positive = Annotated[float, Meta(gt=0, le=_MOST)]

Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]

Whole = Annotated[int, Meta(ge=0, le=2**31 - 1)]

Some = Annotated[int, Meta(ge=1, le=10_000)]

Label = Annotated[str, Meta(max_length=200)]

Text = Annotated[str, Meta(min_length=1)]


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """A body: fields that are not known are refused, so that a misspelled one is not silently ignored."""


class Answer(msgspec.Struct):
    """An answer's body."""


class Health(Answer):
    """The server answers."""

    status: Literal["ok", "stopping"]
    version: str


class ProblemDetails(msgspec.Struct, frozen=True):
    """Problem details (RFC 9457); `error` is the typed error's name."""

    type: str
    title: str
    status: int
    detail: str
    error: str
