"""Model card: what an endpoint says of the model that it serves, without what changes between requests."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

# Fields that change while the model stays the same: times, state of the server, prices, and texts about it.
# "created" is the time of the request in llama.cpp and vLLM, which also draws the ids in "permission" anew.
_VOLATILE = re.compile(
    r"created|permission|modified|updated|(?:^|_)(?:at|on|time|date|timestamp|ttl)$|expires|deprecat|uptime"
    r"|^stat(?:e|us)|loaded|load$|running|active|available|health|ready|busy|idle|in_cache|last|used|usage"
    r"|queue|latency|throughput|pric(?:e|ing)|cost|discount|(?:^|_)limits?$|rate|rank|popular|download|likes"
    r"|description|hugging_face_id|top_provider|(?:^|_)(?:url|links?|icon|logo)$|etag|request|vram|memory",
    re.IGNORECASE,
)
_LISTS = ("data", "models")
_NAMES = ("id", "name", "model")
_GENERIC = frozenset({*_NAMES, "object", "owned_by", "type", "display_name", "displayName"})
_NOTHING: tuple[Any, ...] = (None, "", [], {})
_RECENT = 86_400.0  # seconds; a number this close to the present is taken as a time
_MAX_DEPTH = 20
_MAX_UNNAMED = 8
"""Entries of a list that counts without the model's name: local servers take any name for their models."""


def read_card(body: bytes, model: str, now: float) -> Any:
    """Return what a response to `GET /models` says of a model; None where it says nothing.

    Args:
        body: the response.
        model: name of the model in requests.
        now: seconds since 1970, to recognise times.

    Returns:
        The stable fields of the model's entry, or of all entries of a short list where none has that name:
        local servers accept any name. A long list without the name tells nothing of the model.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    entries = _entries(document)
    if not entries:
        return None
    own = [entry for entry in entries if _is_named(entry, model)]
    if not own and len(entries) > _MAX_UNNAMED:
        return None
    cards = [_stable(entry, now) for entry in own or entries]
    return sorted(cards, key=lambda card: json.dumps(card, sort_keys=True)) if len(cards) > 1 else cards[0]


def tells_model(card: Any, model: str) -> bool:
    """Return whether a card tells more of the model than its name and owner.

    Args:
        card: result of `read_card`.
        model: name of the model in requests.
    """
    if card is None:
        return False
    if not isinstance(card, Mapping) or not _is_named(card, model):
        return True  # the names of other models
    names = {card.get(name) for name in _NAMES if isinstance(card.get(name), str)}
    more = {name: value for name, value in card.items() if name not in _GENERIC and value not in _NOTHING}
    return any(not isinstance(value, str) or value not in names for value in more.values())


def _entries(document: Any) -> list[Any]:
    if isinstance(document, Mapping):
        document = next((document[name] for name in _LISTS if document.get(name)), None)
    return [entry for entry in document if isinstance(entry, Mapping)] if isinstance(document, list) else []


def _is_named(entry: Mapping[str, Any], model: str) -> bool:
    names = {entry.get(name) for name in _NAMES if isinstance(entry.get(name), str)}
    # Gemini lists "models/NAME", Ollama "NAME:latest".
    return not names.isdisjoint({model, f"models/{model}", f"{model}:latest"})


def _stable(value: Any, now: float, depth: int = 0) -> Any:
    """Return a JSON value without volatile fields."""
    if depth > _MAX_DEPTH:
        return None
    if isinstance(value, Mapping):
        return {
            name: _stable(part, now, depth + 1)
            for name, part in value.items()
            if not _VOLATILE.search(name) and not _is_time(part, now)
        }
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_stable(part, now, depth + 1) for part in value]
    return value


def _is_time(value: Any, now: float) -> bool:
    """Return whether a value is a time near the present."""
    if isinstance(value, str):
        value = _number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return any(abs(value / scale - now) < _RECENT for scale in (1.0, 1e3, 1e6, 1e9))


def _number(text: str) -> float | None:
    """Return the seconds since 1970 of a date, or the number that a text is; None for other texts."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def origin_of(document: Mapping[str, Any]) -> str | None:
    """Return what a chat response says of the model behind it, as JSON; None where it says nothing."""
    said = [document.get(name) for name in ("model", "system_fingerprint")]
    stated = [name if isinstance(name, str) and name else None for name in said]
    return json.dumps(stated) if any(stated) else None
