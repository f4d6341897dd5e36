"""Training examples that a prompt copies: shared n-grams of words, and short inputs beside their answers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zopo_fast._utils.text import nfkc
from zopo_fast.tasks.example import Example

NGRAM = 5
"""Words of a run that a prompt may not share with an example."""
CHARACTER_NGRAM = 10
"""The same for scripts without blanks between words, whose characters count as words."""
WINDOW = 6
"""Words between a short input and its answer that still quote the example."""
MAX_EXAMPLES = 2
SHARED = 0.02
"""An n-gram of more examples than both `MAX_EXAMPLES` and this share is wording of the task, and no copy."""
LABEL = 0.1
"""An output of more examples than both `MAX_EXAMPLES` and this share is a label."""


_MIN_CONTENT = 2  # words of an n-gram that are no function words: "at the end of the" copies nothing
_MIN_PHRASE = 3  # words of a short input that is a copy without its answer, too
# Lao, Thai, Burmese, Khmer, kana and Han are written without blanks.
_WIDE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
# Vowel signs and other marks are parts of words, although \w does not match them.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0963\u0966-\u0dff"
_LETTERS = rf"(?:[^\W_{_WIDE}]|[{_MARKS}])+"
_TOKEN = re.compile(rf"[{_WIDE}]|{_LETTERS}(?:['’]{_LETTERS})*")
_ASCII_TOKEN = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*")
_IS_WIDE = re.compile(rf"[{_WIDE}]")
_INVISIBLE = dict.fromkeys([0xAD, *range(0x200B, 0x2010), *range(0x2060, 0x2065), 0xFEFF])
_FUNCTION = (
    "a about after all also am an and any are as at be because been before but by can could did do does each "
    "for from had has have he her here him his how i if in into is it its just may me more most my no nor "
    "not of off on once one only or other our out over own same she should so some such than that the "
    "their them then there these they this those to too under until up very was we were what when where "
    "which while who whom whose why will with would yes you your"
)
_LINKING = "a an answer answers be becomes gives is it its label means output response the"
_FUNCTION_WORDS = frozenset(_FUNCTION.split())
_BETWEEN = frozenset(_LINKING.split())
_LINK = re.compile(r"[:=>→⇒\n\"“”'‘’]|\b(?:is|means|becomes|gives)\b")
_LIST = re.compile(r"[,/]")


class Tokens(NamedTuple):
    """Words of a text, and the text in lower case."""

    text: str
    words: list[str]

    def between(self, first: int, second: int) -> str:
        """Return the text between two words."""
        spans = [match.span() for match in _pattern(self.text).finditer(self.text)]
        return self.text[spans[first][1] : spans[second][0]]


def tokens(text: str) -> Tokens:
    """Split a text into words in lower case; characters of scripts without blanks are words of their own."""
    if not text.isascii():
        text = nfkc(text).translate(_INVISIBLE)
    lower = text.casefold()
    return Tokens(lower, _pattern(lower).findall(lower))


def _pattern(text: str) -> re.Pattern[str]:
    return _ASCII_TOKEN if text.isascii() else _TOKEN


class _Pair(NamedTuple):
    """Short input with its short answers."""

    example: int
    input: tuple[str, ...]
    outputs: tuple[tuple[str, ...], ...]
    is_distinctive: bool  # the input alone names the example
    is_loose: bool  # words may stand between input and answer


class CopiedExamples:
    """Finder of training examples in prompts.

    Three things count as a copy.

    - A run of `NGRAM` words, two of which are no function words, of an input, of an output or of a column.
      Runs that many examples share are wording of the task. An output that two examples share is a label,
      which an instruction may name.
    - A whole input of three or four words.
    - A shorter input with an accepted output beside it: `WINDOW` words between them, none if the output is a
      label or if either consists of function words only, such as "in" and "out".

    A single short answer is no copy: which of them are names of classes cannot be told from few examples.

    Args:
        examples: of the task that are scored on.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        self._limit = max(MAX_EXAMPLES, int(SHARED * len(examples)))
        self._ids: dict[str, int] = {"": 0}
        self._grams: dict[int, tuple[NDArray[np.uint64], NDArray[np.intp]]] = {}
        self._pairs: dict[tuple[str, ...], list[_Pair]] = {}  # by the words of the input
        self._lengths: dict[str, tuple[int, ...]] = {}  # of the inputs that begin with a word
        sharing = Counter(output for example in examples for output in set(example.outputs))
        repeated = Counter(example.input for example in examples)
        texts: list[tuple[int, list[str]]] = []
        for number, example in enumerate(examples):
            words = tokens(example.input).words
            texts.append((number, words))
            texts += [(number, tokens(text).words) for _, text in example.columns]
            texts += [(number, tokens(text).words) for text in example.outputs if sharing[text] == 1]
            is_label = sharing[example.outputs[0]] > max(MAX_EXAMPLES, LABEL * len(examples))
            if words and repeated[example.input] <= self._limit:
                self._add_pair(number, tuple(words), example.outputs, is_label)
        self._index(texts)

    def _add_pair(self, number: int, words: tuple[str, ...], outputs: Sequence[str], is_label: bool) -> None:
        """Store an input whose n-grams say nothing: one of few words, or of function words only."""
        if _has_ngram(words):
            return
        content = sum(map(_is_content, words))
        pair = _Pair(
            number,
            words,
            tuple(output for text in outputs if 0 < len(output := tuple(tokens(text).words)) < NGRAM),
            is_distinctive=len(words) >= NGRAM or (len(words) >= _MIN_PHRASE and content >= _MIN_CONTENT),
            is_loose=content > 0 and (not is_label or content >= _MIN_CONTENT),
        )
        if any(map(_is_wide, words)):
            pair = pair._replace(is_distinctive=False)  # a few characters are a word
        if pair.outputs or pair.is_distinctive:
            self._pairs.setdefault(words, []).append(pair)
            self._lengths[words[0]] = tuple({*self._lengths.get(words[0], ()), len(words)})

    def _index(self, texts: Sequence[tuple[int, list[str]]]) -> None:
        """Hash the n-grams of the examples; sorted arrays take 16 bytes an n-gram."""
        ids = self._ids
        words = np.array(
            [ids.setdefault(word, len(ids)) for _, text in texts for word in (*text, "")], np.int64
        )
        owners = np.repeat([number for number, _ in texts], [len(text) + 1 for _, text in texts])
        self._content = np.array([word != "" and _is_content(word) for word in ids], np.int64)
        self._wide = np.array([_is_wide(word) for word in ids], np.int64)
        self._begins = np.array([word in self._lengths for word in ids])
        for size in (NGRAM, CHARACTER_NGRAM):
            hashes, starts = self._hashes(words, size)
            if not len(hashes):
                continue
            pairs = np.unique(np.stack([hashes, owners[starts].astype(np.uint64)], axis=1), axis=0)
            values, first, counts = np.unique(pairs[:, 0], return_index=True, return_counts=True)
            kept = counts <= self._limit
            self._grams[size] = values[kept], pairs[first[kept], 1].astype(np.intp)

    def _hashes(self, words: NDArray[np.int64], size: int) -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
        """Return the hashes and the starts of the n-grams that can be copies; word 0 ends a text."""
        windows = max(len(words) - size + 1, 0)
        hashes = np.zeros(windows, np.uint64)
        if not windows:
            return hashes, np.zeros(0, np.intp)
        is_known, content, wide = (
            _window_sums(values, size) for values in (words > 0, self._content[words], self._wide[words])
        )
        kept = (is_known == size) & (content >= _MIN_CONTENT)
        kept &= (wide > 1) == (size == CHARACTER_NGRAM)
        starts = np.flatnonzero(kept)
        hashes = np.zeros(len(starts), np.uint64)
        for place in range(size):
            mixed = (hashes ^ words[starts + place].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
            hashes = mixed ^ (mixed >> np.uint64(29))
        return hashes, starts

    def find(self, texts: Sequence[Tokens]) -> list[int | None]:
        """Return the number of an example that each text copies; None for a text that copies none."""
        found: list[int | None] = [None] * len(texts)
        get = self._ids.get
        words = np.array([get(word, 0) for text in texts for word in (*text.words, "")], np.int64)
        places = np.repeat(np.arange(len(texts)), [len(text.words) + 1 for text in texts])
        for size, (values, owners) in self._grams.items():
            hashes, starts = self._hashes(words, size)
            at = np.minimum(np.searchsorted(values, hashes), len(values) - 1)
            for hit in np.flatnonzero(values[at] == hashes)[::-1] if len(values) else ():
                found[places[starts[hit]]] = int(owners[at[hit]])
        for place in np.unique(places[self._begins[words]]):  # others hold no word that begins a short input
            if found[place] is None:
                found[place] = self._quoted(texts[place])
        return found

    def _quoted(self, text: Tokens) -> int | None:
        """Return the number of an example with a short input that a text quotes."""
        words, lengths = text.words, self._lengths
        for start, word in enumerate(words):
            for length in lengths.get(word, ()):
                end = start + length
                for pair in self._pairs.get(tuple(words[start:end]), ()):
                    if pair.is_distinctive or any(
                        _is_beside(text, start, end, output, pair.is_loose and output != pair.input)
                        for output in pair.outputs
                    ):
                        return pair.example
        return None


def _is_beside(text: Tokens, start: int, end: int, output: tuple[str, ...], is_loose: bool) -> bool:
    """Return True if an answer stands beside the input in words[start:end]."""
    words, size = text.words, len(output)
    for at in range(end, min(end + WINDOW, len(words) - size) + 1):
        if tuple(words[at : at + size]) == output and (is_loose or _is_linked(text, end, at)):
            return True
    return is_loose and any(
        tuple(words[at : at + size]) == output
        for at in range(max(start - size - WINDOW, 0), start - size + 1)
    )


def _is_linked(text: Tokens, end: int, at: int) -> bool:
    """Return True if only a link such as an arrow, "is" or "Output:" stands between input and answer."""
    if not _BETWEEN.issuperset(text.words[end:at]):
        return False
    between = text.between(end - 1, at)
    return _LINK.search(between) is not None and _LIST.search(between) is None


def _has_ngram(words: Sequence[str]) -> bool:
    """Return True if an n-gram of the words counts as a copy."""
    content = [_is_content(word) for word in words]
    wide = [_is_wide(word) for word in words]
    return any(
        sum(content[start : start + size]) >= _MIN_CONTENT
        and (sum(wide[start : start + size]) > 1) == (size == CHARACTER_NGRAM)
        for size in (NGRAM, CHARACTER_NGRAM)
        for start in range(len(words) - size + 1)
    )


def _is_content(word: str) -> bool:
    return word not in _FUNCTION_WORDS and not (len(word) == 1 and word.isdigit())


def _is_wide(word: str) -> bool:
    return len(word) == 1 and _IS_WIDE.match(word) is not None


def _window_sums(values: NDArray[Any], size: int) -> NDArray[np.int64]:
    """Return the sums of all runs of `size` values."""
    sums = np.concatenate([[0], np.cumsum(values)])
    found: NDArray[np.int64] = sums[size:] - sums[:-size]
    return found
