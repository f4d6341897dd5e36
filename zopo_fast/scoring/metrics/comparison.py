"""Comparisons of an answer with a reference, token by token. The reference is never cut."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable

from zopo_fast.scoring.metrics.documents import is_same_json
from zopo_fast.scoring.metrics.readings import readings, unfenced, unwrapped, without_markup
from zopo_fast.scoring.metrics.tokens import aligned, blank_grouped, plain, same_marks, tokens

_JOINERS = frozenset({"and", "&", "|"})
_BRACKETS = re.compile(r"[][(){}|]")
_SLASH = re.compile(r"(?<=[^\W\d_]{2})/(?=[^\W\d_]{2})")
_JOINS = "\u200d\ufe0f"
_DASHES = dict.fromkeys((*range(0x2010, 0x2014), 0x2212), "-")
_NUMBERED = re.compile(r"[^\S\n]{0,16}\(?\d{1,4}[.)][^\S\n]")


def exact_match(answer: str, reference: str) -> float:
    """Return 1 if the answer, without wrapping and continuation, has the tokens of the reference, else 0."""
    if reference.strip()[:1] in ("{", "[") and any(is_same_json(one, reference) for one in unwrapped(answer)):
        return 1.0
    wanted = tokens(reference)
    grouped = blank_grouped(reference)

    def is_equal(given: list[str], text: str) -> bool:
        if given == wanted:
            return True
        if len(given) == 1 and grouped is not None:
            return aligned(given, grouped) == grouped
        if len(wanted) == 1 and len(given) > 1 and (number := blank_grouped(text)) is not None:
            return aligned(number, wanted) == wanted
        return False

    return _any_reading(answer, reference, wanted, is_equal)


def exact_set(answer: str, reference: str) -> float:
    """Return 1 if the answer, without wrapping and continuation, has the reference's set of tokens, else 0.

    "and" and "&" join the items of a list; they count only if there is nothing else.
    """
    wanted = _items(tokens(reference))

    def is_equal(given: list[str], text: str) -> bool:
        return _items(given) == wanted or _items(tokens(_without_numbers(text))) == wanted

    return _any_reading(answer, reference, sorted(wanted), is_equal)


def contains(answer: str, reference: str) -> float:
    """Return 1 if the answer contains the tokens of the reference in a row, else 0."""
    wanted = tokens(reference)
    if not wanted:
        return float(_contains_marks(answer, reference))
    shown = without_markup(answer, reference)
    sought = f" {' '.join(wanted)} "
    if any(sought in f" {' '.join(aligned(tokens(text), wanted))} " for text in (shown, _split(shown))):
        return 1.0
    return float(_contains_symbols(answer, reference))


def f1(answer: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall over the tokens of both texts, with multiplicity."""
    wanted = tokens(reference)
    if wanted:
        given = aligned(tokens(without_markup(unfenced(answer), reference)), wanted)
    else:
        given, wanted = plain(answer).split(), plain(reference).split()
    if not given and not wanted:
        return 1.0
    common = sum((Counter(given) & Counter(wanted)).values())
    return 2 * common / (len(given) + len(wanted))


def _any_reading(
    answer: str, reference: str, wanted: list[str], is_equal: Callable[[list[str], str], bool]
) -> float:
    """Return 1 if one reading of the answer is equal to the reference, else 0."""
    if not wanted:  # punctuation, or nothing
        marks = _marks(reference)
        shown = unwrapped(answer) if marks else (answer,)
        return float(any(_marks(text) == marks for text in shown))
    seen: set[str] = set()
    for text in readings(answer, reference):
        if text in seen:
            continue
        seen.add(text)
        if is_equal(aligned(tokens(text), wanted), text) and same_marks(text, reference):
            return 1.0
    return 0.0


def _without_numbers(text: str) -> str:
    """Return a list of numbered lines without the numbers; any other text unchanged."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) < 2 or not all(map(_NUMBERED.match, lines)):
        return text
    return "\n".join(_NUMBERED.sub("", line, count=1) for line in lines)


def _items(found: list[str]) -> set[str]:
    items = set(found)
    return items - _JOINERS or items


def _split(text: str) -> str:
    """Return a text with its brackets and bars, and slashes between words, replaced by blanks."""
    chunks = _BRACKETS.sub(" ", text).split()
    return " ".join(chunk if "://" in chunk else _SLASH.sub(" ", chunk) for chunk in chunks)


def _contains_symbols(answer: str, reference: str) -> bool:
    """Return whether a reference of pictures such as "😀" stands anywhere in the answer."""
    marks = plain(reference)
    if not marks or not all(unicodedata.category(c) == "So" or c in _JOINS for c in marks):
        return False
    return re.search(re.escape(marks) + f"(?![{_JOINS}\U0001f3fb-\U0001f3ff])", plain(answer)) is not None


def _marks(text: str) -> str:
    return plain(text.translate(_DASHES))


def _contains_marks(answer: str, reference: str) -> bool:
    """Return whether a reference without any word stands in the answer between blanks, or both are empty."""
    marks, given = _marks(reference), _marks(answer)
    return f" {marks} " in f" {given} " if marks else not given
