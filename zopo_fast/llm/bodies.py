"""Default body parameters of chat calls by purpose, and their merge with given ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ANSWER_BODY: Mapping[str, Any] = {"temperature": 0.0, "max_tokens": 64}
WRITER_BODY: Mapping[str, Any] = {"temperature": 0.9, "max_tokens": 256}
JUDGE_BODY: Mapping[str, Any] = {"temperature": 0, "max_tokens": 256}  # room for a model that thinks first

UNSET = "unset"
"""Value that leaves a key out of a body, as None does; TOML has no null."""


@dataclass(frozen=True)
class ChatBody:
    """Body parameters of chat calls.

    Args:
        defaults: parameters that the client may leave out or rename where the endpoint refuses them.
        given: parameters that the user gave, which replace the defaults.
    """

    defaults: Mapping[str, Any]
    given: Mapping[str, Any]

    @property
    def merged(self) -> dict[str, Any]:
        """Parameters of a call."""
        return merged_body(self.defaults, self.given)


def merged_body(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults with the given parameters in their place.

    A given None or "unset" leaves its key out. A given `max_completion_tokens` replaces the default
    `max_tokens`: endpoints refuse a body with both.
    """
    body = {**defaults, **given}
    if _is_set(given.get("max_completion_tokens")) and "max_tokens" not in given:
        body.pop("max_tokens", None)
    return {name: value for name, value in body.items() if _is_set(value)}


def explicit_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a merged body with None for the default keys it lacks, to merge it with defaults again."""
    return {**dict.fromkeys(ANSWER_BODY), **body}


def _is_set(value: Any) -> bool:
    return value is not None and not (isinstance(value, str) and value == UNSET)
