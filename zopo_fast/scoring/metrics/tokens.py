"""Tokens of a text: what the metrics compare.

A text is folded (compatibility forms, case, apostrophes, dashes, digits of all scripts) and split at blanks.
A token loses the punctuation at its ends and keeps that inside: "U.S.", "C++", "don't" remain distinct.
Scripts without blanks between words give one token a character. A number gives its key (numerals.py).
"""

from __future__ import annotations

import re
import unicodedata

from zopo_fast._utils.text import nfkc
from zopo_fast.scoring.metrics.numerals import CURRENCIES, parse_number

_KEPT_AT_ENDS = frozenset("#%&@-/\\_‰‱§¶†‡′″‴")
_OPENING = {")": "(", "]": "[", "}": "{"}
_FRACTIONS = "¼-¾⅐-⅞↉"
_NO_BLANKS = (  # scripts that write no blanks between words; Korean joins particles to words
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e80-\u0ece\u1000-\u103f\u1050-\u109f\u1780-\u17d3"
    "\u1100-\u11ff\u3005-\u3007\u3031-\u3035\u3041-\u309f\u30a1-\u30fa\u30fc-\u318f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U000323af"
)
_MARKS = (  # vowels and tones written above, below or after their consonant
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece"
    "\u102b-\u103e\u17b4-\u17d3\u3099\u309a\u0300-\u036f"
)
_CHARACTER = re.compile(f"[{_NO_BLANKS}][{_MARKS}]*")
_GROUPS = re.compile(r"(?<![\d.,])\d{1,3}(?:[\u00a0\u2009\u202f]\d{3})+(?!\d)")
_SUPERSCRIPT = re.compile("(?<=[^\\W_])[⁺⁻]?[⁰¹²³⁴-⁹]+")
_BULLET = re.compile(r"^[^\S\n]{0,16}[-*•+](?:[^\S\n]+|$)", re.MULTILINE)
_UNIT_AFTER = re.compile(rf"(?<=\d)[^\S\n]{{1,3}}(?=[%‰{CURRENCIES}](?!\.?\w))")
_UNIT_BEFORE = re.compile(rf"(?<![^\s(])([+-]?[{CURRENCIES}])[^\S\n]{{1,3}}(?=\d)")
_CODES = frozenset({
    "usd", "eur", "gbp", "jpy", "cny", "rmb", "inr", "rs", "chf", "cad", "aud", "nzd", "krw", "brl", "mxn",
    "sek", "nok", "dkk", "pln", "rub", "hkd", "sgd", "zar", "czk", "huf", "ils", "thb",
})  # fmt: skip
_UNITS = (
    "km|cm|mm|μm|nm|m|mi|miles|ft|in|yd|kg|g|mg|μg|lbs?|oz|l|ml|cl|sec|min|hrs?|h|ms|am|pm|[kmgt]b|[kmg]?hz|kwh?|mph|kph|"
    "kcal|cal|kj|°c|°f"
)
_NUMBER_OF_UNIT = re.compile(rf"(?<![^\s(~<>])[+-]?\d[\d.,:]*(?=(?:{_UNITS})(?!\w))")
_RELATION = re.compile("[<>!=]+")
_SEPARATOR = re.compile(r"(?<!\d),|,(?!\d)|;|(?<=[^\W\d_][^\W\d_]):(?=\w)")
_TWO_NUMBERS = re.compile(r"^\D{0,3}\d{3} (?!000)\d{3}(?! \d)")
_WORD = re.compile(r"[^\W\d_]{2}")
_FACTORIAL = re.compile(r"\w!(?!=)")
_BRACKET = re.compile(r"[][(){}]")
_LISTED = re.compile("[,;]")
MAX_FORMULA = 200
_VALUE = re.compile(r"-?\d+e-?\d+")
_LIST_OF_DIGITS = re.compile(r"\d+(?:,\d+){2,}")
_NUMBERS_IN_BRACKETS = re.compile(r"(?<!\w)[\[({]-?[\d.]+(?:,-?[\d.]+)+[\])}]")
_COMMA_GROUPS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_BLANK_GROUPS = re.compile(
    rf"[+-]?[{CURRENCIES}]?[+-]?\d{{1,3}}(?: \d{{3}})+(?:[.,]\d+)?[%‰{CURRENCIES}]?\.?"
)


def plain(text: str) -> str:
    """Return text in its compatibility form, case-folded, with single blanks; punctuation stays."""
    return " ".join(nfkc(nfkc(text).casefold()).split())


def fold(text: str) -> str:
    """Return text with one form of each letter, digit, apostrophe and dash."""
    text = _GROUPS.sub(lambda found: re.sub(r"\D", "", found[0]), text)
    text = _SUPERSCRIPT.sub(lambda found: "^" + found[0], text)  # 10² is not 102
    text = re.sub(rf"(?<=\d)(?=[{_FRACTIONS}])", " ", text)
    text = re.sub(r"(?<=\w)[`´](?=\w)", "'", text)
    return nfkc(nfkc(text.translate(_FOLDED)).casefold()).translate(_FOLDED)


class _Folded(dict[int, "int | str | None"]):
    """Table of `str.translate` that unifies digits, dashes and apostrophes, and removes invisible marks."""

    def __missing__(self, code: int) -> int | str | None:
        c = chr(code)
        self[code] = str(unicodedata.digit(c)) if unicodedata.category(c) == "Nd" else code
        return self[code]


_FOLDED = _Folded(
    {
        **{ord(c): "'" for c in "‘’‛ʼ"},
        **{ord(c): "-" for c in "\u2010\u2011\u2012\u2013\u2212"},
        **{ord(c): " " for c in "\u2014\u2015\u2e3a\u2e3b、。〈〉《》「」『』【】〔〕\x1c\x1d\x1e\x1f"},
        **{ord(c): None for c in "\u00ad\u200b\u200e\u200f\u2060\ufeff"},
        **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xFE00, 0xFE10))),
        **{ord("٫"): ".", ord("٬"): ",", ord("٪"): "%", ord("⁄"): "/"},
    }
)


def tokens(text: str) -> list[str]:
    """Return the tokens of a text; none where it holds punctuation only."""
    text = _BULLET.sub("", fold(text))
    text = _UNIT_BEFORE.sub(r"\1", _UNIT_AFTER.sub("", text))
    text = _RELATION.sub(lambda found: f" {found[0]} " if "=" in found[0] else found[0], text)
    text = _NUMBER_OF_UNIT.sub(r"\g<0> ", text)
    text = _NUMBERS_IN_BRACKETS.sub(_spaced, text)
    text = _CHARACTER.sub(r" \g<0> ", _SEPARATOR.sub(" ", text))
    single = frozenset(c for c in "'\"*" if text.count(c) == 1)
    chunks = [trimmed for chunk in text.split() if (trimmed := _trim(chunk, single))]
    found: list[str] = []
    for place, chunk in enumerate(chunks):
        if not chunk.strip("-"):
            # A dash between words is punctuation; between numbers or variables it is a minus.
            if 0 < place < len(chunks) - 1 and all(map(_is_operand, (chunks[place - 1], chunks[place + 1]))):
                found.append("-")
        else:
            found += _keys(chunk)
    return found


def _spaced(found: re.Match[str]) -> str:
    """Return a list of numbers in brackets with blanks after commas; "(1,234)" is one number."""
    is_number = found[0][0] == "(" and _COMMA_GROUPS.fullmatch(found[0][1:-1])
    return found[0] if is_number else found[0].replace(",", ", ")


def blank_grouped(text: str) -> list[str] | None:
    """Return the tokens of a text that is one number grouped by blanks ("1 234"), else None.

    "100 200" may as well be two numbers, and "100 000" is one.
    """
    text = fold(text).strip()
    if not _BLANK_GROUPS.fullmatch(text) or _TWO_NUMBERS.search(text):
        return None
    return tokens(text.replace(" ", ""))


def same_marks(text: str, reference: str) -> bool:
    """Return whether brackets and factorials of a formula, which tokens lack, do not contradict.

    Only a reference of digits, single letters and marks is a formula: "[0, 1)" is, "(not) a" is not.
    """
    if len(reference) > MAX_FORMULA or _WORD.search(reference):
        return True
    if _FACTORIAL.search(reference) and not _FACTORIAL.search(text):
        return False
    wanted, given = _BRACKET.findall(reference), _BRACKET.findall(text)
    return wanted == given or not wanted or not given or not _LISTED.search(reference)


def aligned(given: list[str], wanted: list[str]) -> list[str]:
    """Return the tokens of an answer without the currency and percent signs and codes that `wanted` lacks."""
    values = {token for token in wanted if _VALUE.fullmatch(token)}
    if not values:
        return given
    shown = []
    for place, token in enumerate(given):
        if (
            token in _CODES
            and token not in wanted
            and not values.isdisjoint(given[max(0, place - 1) : place + 2])
        ):
            continue
        bare = token.rstrip("%‰") if token[-1] in "%‰" else _without_currency(token)
        shown.append(bare if token not in values and bare in values else token)
    return shown


def _without_currency(token: str) -> str:
    return token[: len(token) - 1] if unicodedata.category(token[-1]) == "Sc" else token


def _keys(chunk: str) -> list[str]:
    number = parse_number(chunk)
    if number is not None:
        return [number.value + number.unit[-1:]]
    if _LIST_OF_DIGITS.fullmatch(chunk):
        return [key for part in chunk.split(",") for key in _keys(part)]
    return [chunk]


def _is_operand(chunk: str) -> bool:
    return (len(chunk) == 1 and chunk.isalnum()) or any(map(str.isdigit, chunk))


def _trim(chunk: str, single: frozenset[str]) -> str:
    """Remove the punctuation at the ends of a chunk, except operators and a bracket with its partner: "f(x)".

    Args:
        chunk: text without blanks.
        single: quotes and stars that the whole text has once: they enclose nothing.
    """
    if chunk[-1] == "=" and _RELATION.fullmatch(chunk):
        return chunk
    start, end = 0, len(chunk)
    while start < end and _is_edge(chunk[start]) and not _begins_word(chunk, start, single):
        start += 1
    counts = {c: chunk.count(c, start) for pair in _OPENING.items() for c in pair}
    while start < end and _is_edge(c := chunk[end - 1]):
        before = chunk[end - 2 : end - 1]
        if c in single and (before.isdecimal() or (end - start == 2 and before.isalnum())):
            break  # 5' and x', but dogs'
        if c in _OPENING and counts[_OPENING[c]] >= counts[c]:
            break
        if c in counts:
            counts[c] -= 1
        end -= 1
    return chunk[start:end]


def _begins_word(chunk: str, start: int, single: frozenset[str]) -> bool:
    """Return whether the mark at `start` belongs to a word or number: ".NET", ".5", "!x", but not "...so"."""
    c = chunk[start]
    if not chunk[start + 1 : start + 2].isalnum():
        return False
    return c == "!" or (c == "*" and c in single) or (c == "." and (start == 0 or chunk[start - 1] != "."))


class _Edges(dict[str, bool]):
    def __missing__(self, c: str) -> bool:
        self[c] = c in "`´" or (unicodedata.category(c)[0] == "P" and c not in _KEPT_AT_ENDS)
        return self[c]


_EDGES = _Edges()


def _is_edge(c: str) -> bool:
    return _EDGES[c]
