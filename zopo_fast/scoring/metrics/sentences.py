"""First sentence of a text; abbreviations, initials, names of hosts and decimals do not end one."""

from __future__ import annotations

import re

_END = re.compile(r"(?<![.!?])[.!?]+(?P<closing>[\"'”’)\]*_`]*)(?=\s|\Z)|[。！？।॥۔؟]+[”’」』）]*")
_ABBREVIATIONS = frozenset({
    "adj", "adm", "al", "approx", "ave", "bldg", "blvd", "bros", "capt", "cf", "cmdr", "col", "corp", "dept",
    "dr", "est", "etc", "ex", "ft", "gen", "gov", "hon", "inc", "incl", "jr", "lt", "ltd", "maj", "messrs",
    "mme", "mr", "mrs", "ms", "mt", "mlle", "prof", "rep", "rev", "sen", "sgt", "sr", "st", "vs", "viz",
    "bzw", "ca", "dipl", "evtl", "ggf", "inkl", "nr", "sog", "str", "tel", "usw", "vgl", "zzgl",
})  # fmt: skip
_BEFORE_A_NUMBER = frozenset({
    "no", "nos", "art", "ch", "eq", "eqs", "fig", "figs", "p", "pp", "par", "pt", "sec", "vol", "vols", "op",
    "ver", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec",
})  # fmt: skip


def first_sentence(text: str) -> str:
    """Return the text up to the end of its first sentence, with its punctuation."""
    for end in _END.finditer(text):
        if not _is_abbreviation(text, end):
            return text[: end.end()]
    return text


def _is_abbreviation(text: str, end: re.Match[str]) -> bool:
    """Return whether the mark at `end` is part of an abbreviation, so that the sentence continues."""
    mark = end[0]
    following = text[end.end() : end.end() + 8].lstrip()
    if mark[0] == "!" or len(mark) > 1:  # as in "Yahoo! is", "wait... no"
        return not end["closing"] and following[:1].islower()
    if mark != "." or not following:
        return False
    word = re.split(r"[\s(\[\"'“‘/*_-]", text[max(0, end.start() - 40) : end.start()])[-1]
    parts = word.split(".")
    if len(parts) > 1 or len(word) == 1:
        # Initials, U.S., e.g., Ph.D.; but google.com and 3.14 can end a sentence.
        return all(len(part) <= 2 and part.isalpha() and part.upper() != part.lower() for part in parts)
    name = word.lower()
    return name in _ABBREVIATIONS or (name in _BEFORE_A_NUMBER and following[:1] in "#0123456789")
