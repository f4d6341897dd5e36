"""Features of the words of texts: a description of prompts beside their embeddings."""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

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
    return WordFeatures(texts if pool is None else pool).of(texts)


class WordFeatures:
    """Features of `word_features` by the document frequencies of one pool, which are counted once.

    Args:
        pool: Texts whose document frequencies count.

    Raises:
        InputError: A text is not a string.
    """

    def __init__(self, pool: Iterable[str]) -> None:
        frequency: Counter[str] = Counter()
        size = 0
        for text in pool:
            frequency.update(_ngrams(_tokens(text)))
            size += 1
        known = [ngram for ngram, count in frequency.items() if count >= MIN_TEXTS]
        places = {
            ngram: _place(ngram, math.log((1 + size) / (1 + frequency[ngram])) + 1.0) for ngram in known
        }
        # Numbers of n-grams count from 1 for each n; 0 is any n-gram without a column.
        self._numbers = {ngram: number for number, ngram in enumerate((n for n in known if " " not in n), 1)}
        self._tables = [_Table(np.arange(1, len(self._numbers) + 1), [places[n] for n in self._numbers])]
        shorter = self._numbers
        for length in range(2, MAX_WORDS + 1):
            # The beginning and the last word of a known n-gram are known: no fewer texts hold them.
            codes = {
                ngram: self._code(shorter[ngram.rpartition(" ")[0]], self._numbers[ngram.rpartition(" ")[2]])
                for ngram in known
                if ngram.count(" ") == length - 1
            }
            ordered = sorted(codes, key=codes.__getitem__)
            self._tables.append(
                _Table(np.array([codes[n] for n in ordered], dtype=np.int64), [places[n] for n in ordered])
            )
            shorter = {ngram: number for number, ngram in enumerate(ordered, 1)}

    def of(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Compute the features of m texts.

        Returns:
            (m, 1024) array with rows of unit length; zeros for a text that shares no n-gram with the pool.

        Raises:
            InputError: A text is not a string.
        """
        tokens = [_tokens(text) for text in texts]
        words = np.array([self._numbers.get(token, 0) for each in tokens for token in each], dtype=np.int64)
        rows = np.repeat(np.arange(len(tokens)), [len(each) for each in tokens])
        cells, values = [], []
        numbers = words
        for length, table in enumerate(self._tables, start=1):
            if length > 1:
                last = words[length - 1 :]
                fits = (numbers[: len(last)] > 0) & (last > 0) & (rows[: len(last)] == rows[length - 1 :])
                numbers = np.where(fits, table.numbers(self._code(numbers[: len(last)], last)), 0)
            at = np.flatnonzero(numbers)
            _, first, count = np.unique(
                rows[at] * (table.size + 1) + numbers[at], return_index=True, return_counts=True
            )
            order = np.argsort(first)  # a sum depends on the order of its terms
            at, count = at[first[order]], count[order]
            found = numbers[at] - 1
            cells.append(rows[at] * DIMENSION + table.columns[found])
            values.append(table.weights[found] * _damped(count))
        sums = np.bincount(np.concatenate(cells), np.concatenate(values), minlength=len(tokens) * DIMENSION)
        at = np.flatnonzero(sums != 0.0)  # a few in a hundred; booleans are searched faster
        norm = np.sqrt((sums * sums).reshape(len(tokens), DIMENSION).sum(axis=1))
        features = np.zeros(len(sums), dtype=np.float32)
        features[at] = np.round(sums[at] / norm[at // DIMENSION], DECIMALS)
        return features.reshape(len(tokens), DIMENSION)

    def _code(self, beginning: Any, last: Any) -> Any:
        return beginning * (len(self._numbers) + 1) + last


class _Table:
    """Known n-grams of one length, in order of their codes.

    Args:
        codes: of the n-grams, increasing.
        places: column and signed weight of each.
    """

    def __init__(self, codes: NDArray[np.int64], places: Sequence[tuple[int, float]]) -> None:
        self.size = len(codes)
        self.columns = np.array([column for column, _ in places], dtype=np.int64)
        self.weights = np.array([weight for _, weight in places])
        self._codes = codes

    def numbers(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of codes, counted from 1; 0 for an unknown code."""
        if not self.size:
            return np.zeros_like(codes)
        at = np.minimum(np.searchsorted(self._codes, codes), self.size - 1)
        return np.where(self._codes[at] == codes, at + 1, 0)


def _damped(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return 1 + log(count); `math.log`, because `np.log` depends on the processor."""
    table = [1.0 + math.log(count) for count in range(1, int(counts.max(initial=0)) + 1)]
    return np.array([0.0, *table])[counts]


def _tokens(text: str) -> list[str]:
    if not isinstance(text, str):
        raise InputError(f"texts: expected strings, got {type(text).__name__}")
    return [_START, *_TOKEN.findall(text.lower()), _END]


def _ngrams(tokens: Sequence[str]) -> set[str]:
    return {" ".join(tokens[i : i + n]) for n in range(1, MAX_WORDS + 1) for i in range(len(tokens) - n + 1)}


def _place(ngram: str, weight: float) -> tuple[int, float]:
    key = ngram.encode("utf-8", "surrogatepass")
    return zlib.crc32(key) % DIMENSION, weight if zlib.crc32(b"#" + key) & DIMENSION else -weight
