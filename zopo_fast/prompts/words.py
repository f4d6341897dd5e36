"""Features of the words of texts: a description of prompts beside their embeddings."""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from zopo_fast._utils.public import public
from zopo_fast.errors import InputError

DIMENSION = 1024  # n-grams that share a column blur each other: 512 columns lose a part of the gain
MAX_WORDS = 3  # of an n-gram
MIN_TEXTS = 2  # an n-gram of a single text relates it to no other
DECIMALS = 6  # further digits depend on the processor, and a saved search knows its features by their bits
_TOKEN = re.compile(r"\{\w+\}|\w+|[^\w ]")  # placeholders, words, marks and line breaks
_START, _END = "^", "$"


@public
def word_features(texts: Sequence[str], pool: Iterable[str] | None = None) -> NDArray[np.float32]:
    """Compute weighted counts of the n-grams of one to three words, for `Zopo(features=...)`.

        import numpy as np
        import zopo_fast as zf

        prompts = ["Name the capital.", "Name the capital city.", "Which city is the capital?"]
        embeddings = np.random.default_rng(0).normal(size=(3, 8))
        opt = zf.Zopo(embeddings, zf.ZopoConfig(budget=2), features=zf.word_features(prompts))

    Embeddings of paraphrases say what a prompt means. Their scores also depend on wording and form: a final
    "A:", a line break, a question instead of a command. An n-gram counts 1 + log(count), times its inverse
    document frequency (Salton & Buckley 1988). Signed hashing (Weinberger et al. 2009) gives the columns.

    Args:
        texts: m prompts.
        pool: Prompts whose document frequencies count; default: `texts`. Give the first pool for prompts that
            are added to it.

    Returns:
        (m, 1024) array with rows of unit length; zeros for a text that shares no n-gram with the pool.

    Raises:
        InputError: A text is not a string.
    """
    counts = [_ngrams(text) for text in texts]
    known = counts if pool is None else [_ngrams(text) for text in pool]
    frequency = Counter(ngram for each in known for ngram in each)
    columns: dict[str, tuple[int, float]] = {}  # column and signed weight
    out = np.zeros((len(counts), DIMENSION))
    for row, each in zip(out, counts, strict=True):
        for ngram, count in each.items():
            if frequency[ngram] < MIN_TEXTS:
                continue
            if ngram not in columns:
                columns[ngram] = _column(ngram, math.log((1 + len(known)) / (1 + frequency[ngram])) + 1.0)
            at, weight = columns[ngram]
            row[at] += weight * (1.0 + math.log(count))
    length = np.linalg.norm(out, axis=1, keepdims=True)
    features: NDArray[np.float32] = np.round(out / np.where(length > 0.0, length, 1.0), DECIMALS).astype(
        np.float32
    )
    return features


def _ngrams(text: str) -> Counter[str]:
    if not isinstance(text, str):
        raise InputError(f"texts: expected strings, got {type(text).__name__}")
    tokens = [_START, *_TOKEN.findall(text.lower()), _END]
    return Counter(
        " ".join(tokens[i : i + n]) for n in range(1, MAX_WORDS + 1) for i in range(len(tokens) - n + 1)
    )


def _column(ngram: str, weight: float) -> tuple[int, float]:
    key = ngram.encode("utf-8", "surrogatepass")
    return zlib.crc32(key) % DIMENSION, weight if zlib.crc32(b"#" + key) & DIMENSION else -weight
