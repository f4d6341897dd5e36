"""The instruction-induction benchmark's own comparison: first sentence, no punctuation, without "and"."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter

from zopo_fast._utils.text import nfc


def normalise(text: str) -> str:
    """Return the first sentence of the first line, in lower case, without punctuation and the word "and".

    As in the instruction-induction benchmark, "Sentence 1:" and "Sentence 2:" are removed and articles stay.
    Unlike there, numbers keep decimal point and sign, and blanks, dashes and accents are unified. Words are
    separated by one blank.
    """
    text = re.sub("[\u2010-\u2015\u2212]", "-", nfc(text))
    text = re.sub(r"(?i)\bsentence [12]:", " ", text).strip()
    text = re.split(r"[\r\n]", text, maxsplit=1)[0]
    text = re.split(r"(?<!\d)\.|\.(?!\d)", text, maxsplit=1)[0].lower()
    text = re.sub(r"((?<!\w)-(?=\d))|-", lambda dash: " -" if dash[1] else " ", text)
    text = text.translate(_NO_PUNCTUATION)
    words = nfc(text).split()
    return " ".join([word for word in words if word != "and"] or words)


class _NoPunctuation(dict[int, "int | None"]):
    """Table of `str.translate` that removes punctuation except "-" and ".", which belong to numbers here."""

    def __missing__(self, code: int) -> int | None:
        c = chr(code)
        is_removed = c not in "-." and (c in string.punctuation or unicodedata.category(c).startswith("P"))
        self[code] = None if is_removed else code
        return self[code]


_NO_PUNCTUATION = _NoPunctuation()


def _both(answer: str, reference: str) -> tuple[str, str]:
    """Return both texts normalised; only stripped where the reference is pure punctuation."""
    wanted = normalise(reference)
    return (normalise(answer), wanted) if wanted else (answer.strip(), reference.strip())


def induction_match(answer: str, reference: str) -> float:
    """Return 1 if the normalised texts are equal, else 0."""
    given, wanted = _both(answer, reference)
    return float(given == wanted)


def induction_set(answer: str, reference: str) -> float:
    """Return 1 if the normalised texts hold the same set of words, else 0."""
    given, wanted = _both(answer, reference)
    return float(set(given.split()) == set(wanted.split()))


def induction_contains(answer: str, reference: str) -> float:
    """Return 1 if the answer contains the reference as whole words, else 0."""
    given, wanted = _both(answer, reference)
    return float(f" {wanted} " in f" {given} ")


def induction_f1(answer: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall over the words of both texts, with multiplicity."""
    given, wanted = (Counter(text.split()) for text in _both(answer, reference))
    if not given and not wanted:
        return 1.0
    common = sum((given & wanted).values())
    return 2 * common / (sum(given.values()) + sum(wanted.values())) if common else 0.0
