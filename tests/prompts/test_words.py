"""Features of the words of prompts: `word_features`."""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter

import numpy as np
import pytest

import zopo_fast as zf

TEXTS = [
    'Q: Which word is "{word}"?\nA:',
    "Which word is {word}?",
    "which word is {word}?",
    "Name the word: {word}",
    "Name the word: {word}\n",
]


def test_is_the_count_of_shared_ngrams_by_their_rarity() -> None:
    features = zf.word_features(["a b", "a c", "a b b"])
    assert (features.shape, features.dtype) == ((3, 1024), np.float32)
    # Of the beginning ^ and the end $: all three share ^, a, $ and "^ a". The first and the last share b,
    # "a b", "b $" and "^ a b". An n-gram of one text alone does not count.
    of_all, of_two = (math.log(4 / (1 + n)) + 1.0 for n in (3, 2))
    twice = 1.0 + math.log(2.0)
    squares = [4 * of_all**2 + n * of_two**2 for n in (4, 0, 3 + twice**2)]
    a, b, c = np.sqrt(squares)
    expected = np.eye(3)
    expected[0, 1] = expected[1, 0] = 4 * of_all**2 / (a * b)
    expected[1, 2] = expected[2, 1] = 4 * of_all**2 / (b * c)
    expected[0, 2] = expected[2, 0] = (4 * of_all**2 + (3 + twice) * of_two**2) / (a * c)
    np.testing.assert_allclose(features @ features.T, expected, atol=1e-6)


def test_sees_form_and_ignores_case() -> None:
    features = zf.word_features(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1.0, rtol=1e-5)
    alike = features @ features.T
    assert alike[1, 2] == pytest.approx(1.0, abs=1e-5)
    assert alike[0, 1] < 0.9
    assert alike[3, 4] < 1.0 - 1e-3  # a line break


def test_a_word_has_the_same_column_in_every_process() -> None:
    row = zf.word_features(["a b", "a c", "a b b"])[0]
    columns = np.flatnonzero(row)
    assert columns.tolist() == [72, 211, 559, 579, 860, 894, 964, 1017]
    assert np.sign(row[columns]).tolist() == [1, -1, -1, 1, -1, -1, -1, 1]
    # No digits that depend on the processor.
    np.testing.assert_array_equal(row, row.astype(float).round(6).astype(np.float32))


def test_added_prompts_are_weighed_by_the_first_pool() -> None:
    features = zf.word_features(TEXTS)
    np.testing.assert_array_equal(zf.word_features(TEXTS[1:3], TEXTS), features[1:3])
    assert not np.array_equal(zf.word_features(TEXTS[1:3]), features[1:3])


def test_a_text_of_a_pool_of_its_own_has_no_features() -> None:
    assert not zf.word_features(["a few words"]).any()
    assert zf.word_features([]).shape == (0, 1024)


def test_any_text_has_features() -> None:
    features = zf.word_features(["", "\ud800 \x00", "\ud800 \x00", "é" * 10_000])
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(features[1], features[2])


@pytest.mark.parametrize("texts", [[1], ["a", None], [b"a"]])
def test_a_text_that_is_no_string_is_refused(texts: list[object]) -> None:
    with pytest.raises(zf.InputError, match="texts: expected strings"):
        zf.word_features(texts)  # type: ignore[arg-type]


def plain_features(texts: list[str]) -> np.ndarray:
    """Return the features by the text of the docstring, one n-gram at a time."""
    counts = []
    for text in texts:
        tokens = ["^", *re.findall(r"\{\w+\}|\w+|[^\w ]", text.lower()), "$"]
        spans = [(i, n) for n in (1, 2, 3) for i in range(len(tokens) - n + 1)]
        counts.append(Counter(" ".join(tokens[i : i + n]) for i, n in spans))
    frequency = Counter(ngram for each in counts for ngram in each)
    out = np.zeros((len(texts), 1024))
    for row, each in zip(out, counts, strict=True):
        for ngram, count in each.items():
            if frequency[ngram] > 1:
                weight = (1.0 + math.log(count)) * (math.log((1 + len(texts)) / (1 + frequency[ngram])) + 1.0)
                key = ngram.encode()
                row[zlib.crc32(key) % 1024] += weight if zlib.crc32(b"#" + key) & 1024 else -weight
    norm = np.linalg.norm(out, axis=1, keepdims=True)
    return np.round(out / np.where(norm > 0.0, norm, 1.0), 6).astype(np.float32)


def test_features_of_random_texts_equal_a_plain_count() -> None:
    rng = np.random.default_rng(0)
    words = ["a", "b", "^", "$", "\n", "{c}", "#", "é", *(f"w{i}" for i in range(12))]
    texts = [" ".join(rng.choice(words, rng.integers(0, 40))) for _ in range(80)]
    np.testing.assert_array_equal(zf.word_features(texts), plain_features(texts))
