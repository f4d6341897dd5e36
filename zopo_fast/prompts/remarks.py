"""Remarks to the reader after an instruction: where they begin, and what is no remark."""

from __future__ import annotations

import re
from collections.abc import Sequence

from zopo_fast.prompts.phrases import NOUN, any_of, words_of

_VERBS = words_of(
    "keep, keeps, kept, maintain, maintains, preserve, preserves, convey, conveys, capture, captures, "
    "retain, "
    "retains, explain, explains, clarify, clarifies, simplify, simplifies, shorten, shortens, mean, means, "
    "suggest, suggests, indicate, indicates, imply, implies, align, aligns, reflect, reflects, fit, "
    "fits, match, "
    "matches, aim, aims, ensure, ensures, emphasize, emphasizes, ask, asks, tell, tells, directs, "
    "guides, prompts, "
    "instructs, describes, specifies, provides, uses, makes, is more, is shorter, is clear, is concise, "
    "is simple, "
    "is simpler, is a, is designed, is meant, is intended, is based, is consistent, is because, "
    "is written, has, "
    "would, should work, should help, still, effectively, clearly, accurately, better"
)
_PAIRS = words_of("input-output pairs, input/output pairs, input and output pairs, examples, pairs, outputs")
_SHOW = words_of(
    "show, shows, demonstrate, demonstrates, illustrate, illustrates, suggest, suggests, indicate, "
    "indicates, "
    "follow, follows, consistently, the output, the outputs, we can see, are the, are all the"
)
_CERTAIN_TITLES = words_of(
    "key changes, changes made, why this works, why it works, what changed, what has changed"
) + any_of(
    r"", r" (?:for|behind|of) (?:the|this|my|these) (?:child|instruction|prompt|version|changes?|choices?)"
)
_REMARK = re.compile(
    r"[\s*_(>\[-]*"
    + any_of(
        words_of(
            "let me know, please let me know, feel free, please feel free, i hope, hope this, hope that, "
            "i trust"
        )
        + r"\b",
        r"if you(?:['’]d| would| need| want| have| prefer)[^\n]{0,80}\b(?:me|i|let|feel|ask|version|"
        r"variation|help|tell)\b",
        words_of(
            "would you like, do you want, do you need, do you have, is there anything, does this, "
            "can i help, "
            "happy to, i'm happy, is that correct, is that right, is this correct, is this right, "
            "is this what, which one, which version, which of, alternatively"
        )
        + r"\b",
        r"or[,:]?[*_]*$",
        r"i(?:['’]ve| have)? (?:kept|made|chose|used|tried|rewrote|rephrased|replaced|changed|added|removed|"
        r"simplified|shortened|aimed|believe|think)\b",
        rf"(?:this|the|both|these|each|all|my) (?:of )?(?:the |"
        rf"these )?(?:\w+[- ]){{0,2}}{NOUN}s? (?:\w+ly )?{_VERBS}\b",
        r"(?:this|it) (?:\w+ly )?(?:keeps|maintains|preserves|conveys|captures|retains|clarifies|simplifies|"
        r"means that|suggests|indicates|implies|aligns|fits|matches (?:the|all|each)|explains|works because|"
        r"ensures (?:that )?the (?:meaning|original))\b",
        r"(?:the|these|all|each of the|all of the|in (?:each|all|these|every)(?: of)?(?: the| these)?) "
        rf"(?:given |provided |above )?{_PAIRS}\b[^\n]{{0,40}}?\b{_SHOW}\b",
        r"(?:in )?(?:each|every|all) (?:outputs?|case|example|pair),? (?:the output )?is (?:the|"
        r"an?) (?:direct )?"
        r"[^\n]{0,40}\b(?:of|to) (?:its|the) (?:corresponding )?input",
        rf"(?:#{{1,6}}\s*)?(?:the )?{_CERTAIN_TITLES}\b[^\n]{{0,40}}(?::|$)",
        r"(?:note:? )?(?:other|alternative)s?\b(?: \w+)? (?:is|are)?[^\S\n]*possible\b",
        r"(?:word|character) count:?[*_]*:?\s*~?\d",
        r"(?:an(?:other)? )?(?:alternatives?|other options?|another (?:version|option|way|variation))\b"
        r"(?: (?:version|phrasing|wording|instruction|prompt)s?)?:",
        r"(?:please )?note(?: that|:)[*_]*\s+(?:this|i|that this|(?:that )?the (?:above|new|rewritten|"
        r"original|revised|"
        r"meaning|instruction))\b",
        r"i gave a friend\b",
        r"\[?end of (?:instruction|prompt)",
        r"(?:human|user|assistant)\s*:",
        r"generate a variation of the following",
        r"here(?:['’]s| is) (?:why|how|an explanation|a breakdown|the (?:reasoning|explanation))\b",
    ),
    re.IGNORECASE | re.MULTILINE,
)


_SPEAKER = re.compile(r"[\s*_]*(?:human|user|assistant)\s*:", re.IGNORECASE)
_TITLE = re.compile(
    r"[\s*_(>\[#-]*(?:the )?(?:please )?"
    + words_of(
        "explanation, rationale, reasoning, justification, analysis, change, changes, breakdown, comment, "
        "comments, remark, remarks, note, notes"
    )
    + r"\b[^\n:]{0,40}?[*_]*(?::[*_]*|$)\s*",
    re.IGNORECASE | re.MULTILINE,
)
# A title is also a field of an answer, "Reasoning: one sentence": what follows tells the two apart.
_ABOUT = re.compile(
    r"\A[\s*_-]*(?:it|they|i|we|both|because|since)\b"
    r"|\b(?:this|these|those|original|my) (?:\w+[- ])?(?:instruction|prompt|version|variation|"
    r"wording|phrasing|"
    r"rewrite|rewording|paraphrase|change)s?\b"
    r"|\bthe (?:\w+[- ])?(?:instruction|prompt|version|variation|wording|phrasing|pairs|outputs|examples)\b"
    r"|\b(?:input[-/ ]output|(?:each|every|all) pairs?|other (?:phrasing|wording)s?|pairs|clearer|"
    r"simpler|more concise|simplified|shortened|"
    r"reworded|rephrased)\b|^[\s*_-]*shorter\b|\bI (?:have|kept|made|used|chose|\w+ed)\b",
    re.IGNORECASE,
)
_ASKED = re.compile(
    r"[\s*_-]*(?:[<{\[\"0-9]|\.{3}|…|(?:one|two|three|an?|brief|briefly|short|at most|in one|up to|"
    r"think|give|write|"
    r"explain|describe|state|say|use|answer|list|keep|provide|add|show|include|do|don['’]t|never|"
    r"always|if|when)\b)",
    re.IGNORECASE,
)
_ASIDE = re.compile(r"\s*[(\[]((?:note|other|alternative)\b[^()\[\]\n]{1,200})[)\]]\.?\s*\Z", re.IGNORECASE)
_FIELD_LINE = re.compile(r"[^\S\n]*(?:[-*•>][^\S\n]+)?[*_]*[^\W\d_][\w /-]{0,30}[*_]*:")


def remark_start(lines: Sequence[str]) -> int:
    """Return the number of the line that begins the remarks after an instruction.

    A line of an output format is no remark: one among other fields, or below a line that ends with a colon.

    Args:
        lines: The instruction and what follows it.

    Returns:
        The number of the line; the number of lines if there is no remark.
    """
    for number in range(1, len(lines)):
        if _is_remark(lines, number):
            return number
    return len(lines)


def without_aside(text: str) -> str:
    """Return a text without a remark in brackets at its end."""
    aside = _ASIDE.search(text)
    return text if aside is None or not begins_remark(aside[1]) else text[: aside.start()]


def begins_remark(text: str) -> bool:
    """Return True if a text begins like a remark."""
    return _REMARK.match(text) is not None or _is_titled_remark(text.split("\n"), 0)


def _is_remark(lines: Sequence[str], number: int) -> bool:
    if _REMARK.match(lines[number]) is not None:
        return _SPEAKER.match(lines[number]) is None or not _is_field(lines, number)
    return not _is_field(lines, number) and _is_titled_remark(lines, number)


def _is_titled_remark(lines: Sequence[str], number: int) -> bool:
    """Return True if a line has a title like "Explanation" and what follows talks about the instruction."""
    title = _TITLE.match(lines[number])
    if title is None:
        return False
    said = "\n".join((lines[number][title.end() :], *lines[number + 1 :])).strip()
    return _ASKED.match(said) is None and _ABOUT.search(said) is not None


def _is_field(lines: Sequence[str], number: int) -> bool:
    """Return True if a line is one field of an output format."""
    before = next((line for line in reversed(lines[:number]) if line.strip()), "")
    if before.rstrip(" *_").endswith((":", "：")):
        return True
    beside = (lines[number - 1], *lines[number + 1 : number + 2])
    return any(_FIELD_LINE.match(line) and not _TITLE.match(line) for line in beside)
