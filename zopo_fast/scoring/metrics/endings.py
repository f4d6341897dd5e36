"""Endings of answers: the final answer after reasoning, and the label before an explanation."""

from __future__ import annotations

import re
from collections.abc import Iterator

_ANSWER = r"(?:the\s|my\s)?(?:final\s|correct\s)?answer"
_LAST = re.compile(
    r"^[*_#> -]{0,6}(?:the\s)?(?:final\s)?answer(?:\sis)?[*_]{0,3}\s?[:：][*_]{0,3}[^\S\n]?(\S[^\n]*)$"
    rf"|^[*_#> -]{{0,6}}(?:(?:so|therefore|thus|hence)\b,?\s)?{_ANSWER}\sis[^\S\n]{{1,3}}(\S[^\n]*)$"
    r"|^####[^\S\n]+([^\n]+)$"
    rf"|^[*_# ]{{0,8}}{_ANSWER}[*_]{{0,3}}[:：]?[*_]{{0,3}}[^\S\n]{{0,8}}\n\s{{0,8}}(\S[^\n]*)$",
    re.IGNORECASE | re.MULTILINE,
)
_INSIDE = re.compile(r"\banswer(?:\sis)?\s?[:：]\s?|\banswer\sis\s", re.IGNORECASE)
_REPEATED = re.compile(rf"{_ANSWER}\sis[\s:：]{{1,3}}(?=\S)", re.IGNORECASE)
_MAX_LABEL_WORDS = 2
_MAX_LABEL = 60
_HEAD = re.compile(
    r"[*_`\"'“”’]{0,3}\s{0,3}(?:[,;:，、：،؛（(—–]|\s-(?=\s))\s{0,3}(?=(?P<next>[^\s,.;:!?)，。]{1,30}))"
)
_PUNCTUATION = re.compile(r"[,;:，、：،؛（()—–\n]|\s-\s")
_CONNECTIVES = (
    "because", "since", "as", "it", "it's", "it’s", "its", "this", "the", "but", "i", "i'm", "i’m", "for",
    "given", "so", "due", "that", "there", "they", "he", "she", "we", "if", "when", "although", "weil", "da",
    "denn", "car", "parce", "porque", "ya", "pois", "perché", "потому", "так", "поскольку",
    "क्योंकि", "لأن", "لأنه",
)  # fmt: skip
_JOINED_CONNECTIVES = ("因为", "因為", "由于", "なぜなら", "왜냐하면", "เพราะ")
_JUDGEMENTS = frozenset({
    "yes", "no", "true", "false", "ja", "nein", "oui", "non", "sí", "si", "não", "sim", "sì", "да", "нет",
    "是", "否", "不是", "はい", "いいえ", "네", "아니요", "हाँ", "नहीं", "نعم", "لا", "correct", "incorrect",
})  # fmt: skip
_BEGINS_SENTENCE = re.compile(
    r"\.[*_\"”]{0,3}\s+(?:It|Its|This|That|These|Those|The|He|His|She|Her|They|There|We|I|In|A|An|Because|Since|As|"
    r"However|Explanation|Reason|Here|Founded)\b"
)
_WORD = re.compile(r"[^\W_]+")


def last_announced(answer: str) -> str | None:
    """Return what the last line "Final answer: ...", "The answer is ..." or "#### ..." of a text gives."""
    found = [group for groups in _LAST.findall(answer) for group in groups if group]
    text = found[-1] if found else None
    if text is None:
        last_line = answer.rstrip().rsplit("\n", 1)[-1]
        inside = list(_INSIDE.finditer(last_line))
        text = last_line[inside[-1].end() :].rstrip("*_ ") if inside else None
    if text is None:
        return None
    again = _REPEATED.match(text)  # "Final Answer: The final answer is 8. I hope it is correct."
    return text[again.end() :] if again else text


def label_before_explanation(line: str, reference: str) -> Iterator[str]:
    """Yield the start of a line that an explanation follows: "Yes, because ..." of a reference "yes".

    The explanation begins with a connective; after yes, no and the like with any word but another of them.
    """
    wanted = reference.strip()
    if not wanted or len(wanted.split()) > _MAX_LABEL_WORDS or len(wanted) > _MAX_LABEL:
        return
    if _PUNCTUATION.search(wanted):
        return
    head = _HEAD.search(line, 0, 2 * _MAX_LABEL)
    if head is None or not head.start():
        return
    following = head["next"].casefold()
    rest = line[head.end() : head.end() + 100].casefold()
    is_reason = following in _CONNECTIVES or following.startswith(_JOINED_CONNECTIVES)
    if following == "as" and rest.startswith("as well"):
        is_reason = False
    judged = wanted.casefold().strip(".!") in _JUDGEMENTS and not _JUDGEMENTS.intersection(
        _WORD.findall(rest)[:3]
    )
    if is_reason or judged:
        yield line[: head.start()]


def abbreviation_before_sentence(line: str, reference: str) -> Iterator[str]:
    """Yield the start of a line that is the reference with its abbreviation: "U.S." of "U.S. It is big."."""
    wanted = reference.strip().rstrip(".")
    size = len(wanted)
    if wanted and line[:size].casefold() == wanted.casefold() and _BEGINS_SENTENCE.match(line, size):
        yield line[: size + 1]
