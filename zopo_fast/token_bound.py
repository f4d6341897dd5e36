"""How many tokens a chat call can take at most, whatever vocabulary the model has.

A tokenizer that works on bytes makes no more tokens than its text has UTF-8 bytes, and one that normalises
the text first works on the bytes of what that gives. What a chat format puts around the messages, a default
system message among it, is bounded generously: reserving too much holds a call back until others have
ended, reserving too little would break a budget.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from zopo_fast.errors import ConfigError
from zopo_fast.usage import Message, Usage

PER_CALL = 256
"""Tokens of a chat format's own: a default system message, a date, what opens the answer."""
PER_MESSAGE = 16
_PER_BODY_BYTE = 4  # tools and schemas go into the prompt, indented by some formats


def chat_bound(messages: Sequence[Message], body: Mapping[str, Any], *, required: bool) -> Usage:
    """Return the most that one chat call with this body can take: calls=1, prompt and completion tokens.

    Without a limit of the answer's length completion tokens are 0; where the bound is `required` that raises
    `ConfigError`, which says what to set.
    """
    completion = completion_bound(body)
    if completion is None and required:
        raise ConfigError(
            "a limit of tokens or cost needs to know the longest answer: set max_tokens (or "
            "max_completion_tokens) in the body of the calls, --max-tokens on the command line"
        )
    return Usage(prompt_bound(messages, body), completion or 0, calls=1)


def completion_bound(body: Mapping[str, Any]) -> int | None:
    """Return the most tokens all answers to one call can have, or None where nothing limits them."""
    stated = [body.get(name) for name in ("max_tokens", "max_completion_tokens")]
    limits = [limit for limit in stated if isinstance(limit, int) and not isinstance(limit, bool)]
    if not limits:
        return None
    # Which of the two a server heeds is its own affair.
    return max(limits) * max(_count(body.get("n")), _count(body.get("best_of")))


def prompt_bound(messages: Sequence[Message], body: Mapping[str, Any]) -> int:
    """Return the most tokens that messages, and what else of the body a model reads, can have."""
    texts = sum(text_bound(part) for message in messages for part in message.values())
    nested = [value for value in body.values() if isinstance(value, (Mapping, list))]
    extra = _PER_BODY_BYTE * sum(len(json.dumps(value)) for value in nested)
    return texts + extra + PER_MESSAGE * len(messages) + PER_CALL


def texts_bound(texts: Sequence[str]) -> int:
    """Return the most tokens a batch of texts to embed can have."""
    return sum(text_bound(text) + PER_MESSAGE for text in texts)


def text_bound(text: str) -> int:
    """Return the most tokens a text can have."""
    if text.isascii():
        return len(text)
    # Some vocabularies are of normalised text: one character may become eighteen.
    forms = (text, unicodedata.normalize("NFKC", text), unicodedata.normalize("NFKD", text))
    return max(len(form.encode("utf-8", "replace")) for form in forms)


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 1 else 1
