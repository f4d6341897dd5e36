"""Lists in place of an instruction: alternatives, of which the first counts, or the steps of one."""

from __future__ import annotations

import re

from zopo_fast.prompts.phrases import any_of, words_of
from zopo_fast.prompts.remarks import begins_remark

ITEM = re.compile(r"(?:[-*•]|\(?\d{1,3}[.)])[^\S\n]+")
"""Mark of an item."""
ITEM_LINE = re.compile(rf"^{ITEM.pattern}", re.MULTILINE)
"""Mark of an item at the start of a line."""

_LEAD = r"[\s*_\"'“`]*"
# An item that asks for no output is no instruction of its own.
_PREPARES = re.compile(
    _LEAD
    + r"(?:carefully )?"
    + words_of("read, look, study, examine, consider, listen, review, inspect, take")
    + r"\b",
    re.IGNORECASE,
)
_FINDS = re.compile(
    _LEAD + words_of("find, identify, count, pick, choose, extract, locate, determine, detect, list") + r"\b",
    re.IGNORECASE,
)
_USES_IT = re.compile(_LEAD + r"\w+ (?:it|them|these|those)\b", re.IGNORECASE)
_OPENS = re.compile(_LEAD + r"(?:first(?:ly)?\b|(?:start|begin) (?:by|with)\b|step \d)", re.IGNORECASE)
_GOES_ON = re.compile(
    _LEAD
    + any_of(
        r"(?:and )?(?:then|next|finally|lastly|afterwards?|second(?:ly)?|third(?:ly)?|now)\b",
        r"after (?:that|this|reading|doing)\b",
        r"(?:based on|using|from) (?:that|this|these|those|your|the (?:result|previous|above))\b",
        r"step \d",
        r"(?:write|say|add|output|return|print|give) nothing (?:else|more)\b",
        r"otherwise\b",
    ),
    re.IGNORECASE,
)
_REFERS = re.compile(
    r"\b(?:that|the chosen|the resulting) (?:word|label|number|letter|answer|result|value|list|"
    r"category|choice|"
    r"decision|score|sum|name)s?\b|\bthe (?:result|previous step|steps? above)\b|\bstep \d|"
    r"\byour (?:answer|decision|choice|result|label)\b|\bnothing else\b",
    re.IGNORECASE,
)
_LIMITS = re.compile(
    _LEAD
    + any_of(
        r"(?:do not|don['’]t|never|avoid|ignore)\b",
        r"(?:answer|reply|respond|write|output|return|give|print)(?: only| just)?(?: with| in| using)? "
        r"(?:one|a single|exactly one) (?:word|label|number|letter|line|sentence)[.!]?$",
        r"(?:answer|reply|respond|write|output|return|give|print)(?: with| in)? (?:only|just|nothing but) "
        r"(?:this|one|the) (?:word|label|number|letter|answer|result|final \w+|one)\b[^\n]{0,12}$",
        r"(?:write|output|return|give|print|report) the (?:sum|total|result|final \w+)[.!]?$",
        r"(?:use|keep|write in|answer in) (?:only )?(?:lower|upper|one|the same|english)\b[^\n]{0,30}$",
        r"no (?:explanations?|punctuation|extra|other)\b",
    ),
    re.IGNORECASE,
)
_CASE = re.compile(_LEAD + r"(?:if|when)\b(?![^\n]*\b(?:otherwise|else|or)\b)", re.IGNORECASE)


def first_item(text: str, are_alternatives: bool) -> str:
    """Return the first item of a text that is a list of alternatives and nothing else; other text unchanged.

    Args:
        text: The text.
        are_alternatives: The list was announced as one of several instructions.
    """
    marker = ITEM.match(text)
    if marker is None:
        return text
    starts = [match.start() for match in ITEM_LINE.finditer(text)]
    for block in re.split(r"\n\s*\n", text):
        line = block.split("\n", 1)[0]
        if not ITEM.match(line.lstrip()) and not line[:1].isspace() and not begins_remark(block):
            return text if len(starts) > 1 else text[marker.end() :]  # a paragraph between or after the items
    items = [text[start:end].strip() for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    items = [ITEM.sub("", item, count=1) for item in items]
    if not are_alternatives and _are_steps(items):
        return text
    return items[0]


def _are_steps(items: list[str]) -> bool:
    """Return True if items refer to each other, or ask for parts of one output; alternatives do neither."""
    first, rest = items[0], items[1:]
    if not rest:
        return False
    goes_on = _OPENS.match(first) or any(_GOES_ON.match(item) for item in rest)
    is_used = _FINDS.match(first) and _USES_IT.match(rest[0])
    are_cases = _CASE.match(first) and _CASE.match(rest[0])
    refers = not _REFERS.search(first) and any(_REFERS.search(item) for item in rest)
    # Every paraphrase would limit the answer; only parts of one instruction leave that to a line of its own.
    limits = [_LIMITS.match(item) is not None for item in items]
    is_limited = any(limits[1:]) and (not limits[0] or all(limits))
    return bool(goes_on or is_used or are_cases or refers or is_limited or _only_prepares(first))


def _only_prepares(item: str) -> bool:
    """Return True if an item asks for no output: "Read the text."."""
    has_more = re.search(r"[,;]|\b(?:and|then)\b", item)
    return _PREPARES.match(item) is not None and has_more is None and len(item.split()) <= 8
