"""Extraction of an instruction from the answer of a model: the instruction alone, and all of it."""

from __future__ import annotations

import json
import re
from typing import Any

from zopo_fast.prompts.lists import ITEM_LINE, first_item
from zopo_fast.prompts.phrases import ALTERNATIVES, ANALYSIS, ANNOUNCED, HEADING, LABEL, LEAD_INS, OPTION
from zopo_fast.prompts.pool import normalise
from zopo_fast.prompts.refusals import is_refusal
from zopo_fast.prompts.remarks import remark_start, without_aside

MAX_INSTRUCTION_CHARACTERS = 4000
"""Length of the longest instruction; a longer "instruction" is the model rambling."""
MAX_ANSWER_CHARACTERS = 20_000
"""Characters of an answer that are read; the rest is ignored."""

_MAX_LAYERS = 12  # wrappings and lead-ins removed one after the other
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "«": "»", "„": "“", "「": "」"}
_KEYS = (
    "instruction", "new_instruction", "rewritten_instruction", "revised_instruction", "improved_instruction",
    "variation", "new_prompt", "prompt", "text", "rewritten", "paraphrase", "output", "answer", "result",
    "content", "response", "instructions", "variations", "prompts",
)  # fmt: skip
_TAG_NAMES = r"(?:new_|revised_|rewritten_|improved_|final_)?(?:instructions?|prompt|variation)"
_OPENING_TAG = re.compile(rf"<({_TAG_NAMES})>", re.IGNORECASE)
_ANY_TAG = re.compile(r"<([a-z][\w-]{0,30})>(.*)</\1>", re.IGNORECASE | re.DOTALL)
_SPECIAL = re.compile(r"<\|[\w/]{1,30}\|>|</?s>|\[/?INST\]|<(?:end|start)_of_turn>|<[eb]os>")
_SECOND = re.compile(r"\s\(?2[.)]\s")
_OFFER = re.compile(
    r"[^\n.!]{0,30}\b(?:happy|glad|pleased) to (?:help|assist)\b|thank|what would", re.IGNORECASE
)
_SINGLE = re.compile(r"\s*(?:\{|\[\s*\{|\[\s*\"\s*\d)(?!\s*\"(?:variation|paraphrase|prompt|version)s\")")
_RULE = re.compile(r"[-*_=]{3,}[^\S\n]*$")
_FIELD = re.compile(
    r"""["'](?:new_)?(?:instruction|prompt|text)["']\s*:\s*(["'])(?P<text>(?:(?!\1)[^\\]|\\.)*)""",
    re.IGNORECASE | re.DOTALL,
)
_FIRST = re.compile(r"\[\s*'(?P<text>(?:[^'\\]|\\.)*)'\s*[,\]]", re.DOTALL)
_FOLLOWING = re.compile(r"#{1,6}\s*(?:input|response|output|answer|completion)\s*:?\s*$", re.IGNORECASE)
_AFTER_QUOTE = re.compile(
    r"[\s.]*(?:$|\n|[(\[—–-]|(?:this|it|the|which|here|i|let|explanation|note|in|each|"
    r"these|based|as|because|so)\b)",
    re.IGNORECASE,
)


def clean(text: str) -> str:
    """Extract the instruction from an answer of a model.

    Lead-ins, labels, quotes, fences, tags and JSON around the instruction are removed, and remarks after it.
    Rules, lists and further paragraphs of the instruction stay. Of several alternatives the first one counts.

    Returns:
        The normalised instruction; "" if there is none, if the answer is a refusal, or if it is too long.
    """
    found = _extracted(text)
    if len(found) > MAX_INSTRUCTION_CHARACTERS or is_refusal(found) or _asks_back(text):
        return ""
    return found


def _asks_back(text: str) -> bool:
    """Return True if an answer refuses with an offer to help, which looks like a lead-in."""
    return _OFFER.match(text) is not None and is_refusal(text)


def is_refused(text: str) -> bool:
    """Return True if what an answer holds in place of an instruction is a refusal."""
    return is_refusal(_extracted(text)) or _asks_back(text)


def reaches_end(text: str) -> bool:
    """Return True if the instruction in an answer ends where the answer ends: a cut answer cut it too."""
    found = _extracted(text)
    return bool(found) and normalise(text[:MAX_ANSWER_CHARACTERS]).endswith(found[-40:])


def _extracted(text: str) -> str:
    text = normalise(text[:MAX_ANSWER_CHARACTERS])
    has_sections = text.startswith("#") and any(pattern.match(text) for pattern in (HEADING, LABEL))
    text = _after_analysis(_SPECIAL.sub("\n\n", text).strip())
    is_one = False  # a lead-in announces a single instruction: a list after it is its text
    are_alternatives = False
    for _ in range(_MAX_LAYERS):
        before = text
        text, announced = _without_lead_in(text.strip())
        is_one = is_one or (announced is not None and ALTERNATIVES.search(announced) is None)
        are_alternatives = not is_one and (are_alternatives or announced is not None)
        wrapped = text.strip()
        text = _without_wrapping(wrapped)
        # One field of JSON, or one tag, holds one instruction.
        is_one = is_one or (text != wrapped and _is_single(wrapped))
        text = _first_option(text)
        if not is_one or (len(ITEM_LINE.findall(text)) == 1 and not _SECOND.search(text)):
            text = first_item(text, are_alternatives)
        text = _without_remarks(text, has_sections)
        text = _without_quotes(text)
        if text == before:
            break
    found = normalise(text)
    return found if any(map(str.isalnum, found)) else ""


def _is_single(wrapped: str) -> bool:
    """Return True if a wrapping announces one instruction."""
    tag = _OPENING_TAG.match(wrapped)
    if tag is not None:
        return not tag[1].casefold().endswith("s")
    return _SINGLE.match(_without_fence(wrapped)) is not None


def _after_analysis(text: str) -> str:
    """Return the text from the label of the instruction on, if an analysis stands before it."""
    for start in (match.end() for match in re.finditer(r"\n(?=[^\S\n]*[#*_>\w])", text)):
        label = next((found for pattern in ANNOUNCED if (found := pattern.match(text, start))), None)
        if label is None or OPTION.match(text, start):
            continue
        if re.match(r"[\s#*_>]*(?:output|answer|task|result)", label[0], re.IGNORECASE):
            continue
        if ANALYSIS.search(text, 0, label.end()) and text[label.end() :].strip():
            return text[start:]
        return text
    return text


def _without_lead_in(text: str) -> tuple[str, str | None]:
    """Return a text without what stands before the instruction, and what was removed."""
    removed = None
    for pattern in LEAD_INS:
        if pattern in (LABEL, HEADING) and OPTION.match(text):
            continue
        match = pattern.match(text)
        if match is not None and 0 < match.end() < len(text):
            removed = (removed or "") + match[0]
            text = text[match.end() :].lstrip()
    return text, removed


def _without_wrapping(text: str) -> str:
    """Return the instruction inside a fence, tags, JSON or bold; other text unchanged."""
    text = _without_tags(_without_fence(text))
    if text.startswith(">") and all(line.startswith(">") for line in text.split("\n") if line.strip()):
        text = re.sub(r"^>[^\S\n]?", "", text, flags=re.MULTILINE)
    if (match := _FIELD.match(text)) is not None:
        return _unescaped(match["text"])
    if text[:1] in ("{", "["):
        found = _from_json(text)
        if found is not None:
            return found
    if (boxed := re.fullmatch(r"\$?\\boxed\{(.*)\}\$?", text, re.DOTALL)) is not None:
        return boxed[1]
    for mark in ("***", "**", "__", "*", "_"):
        size = len(mark)
        inside = text[size:-size]
        if len(text) > 2 * size and text.startswith(mark) and text.endswith(mark) and mark[0] not in inside:
            return inside
    return text


def _without_fence(text: str) -> str:
    """Return the content of a fence at the start of a text, or of the only one after an analysis."""
    start = text.find("```")
    end = text.find("```", start + 3)
    if start < 0:
        return text
    if end < 0:
        return text[3:].split("\n", 1)[-1] if start == 0 and "\n" in text else text
    lead = text[:start].rstrip()
    if lead and not (lead.endswith(":") and ANALYSIS.search(lead)):
        return text
    first, newline, rest = text[start + 3 : end].partition("\n")
    return rest if newline and re.fullmatch(r"[\w+-]*\s*", first) else first + newline + rest


def _without_tags(text: str) -> str:
    opening = _OPENING_TAG.search(text)
    if opening is not None and (
        not text[: opening.start()].strip() or ANALYSIS.search(text, 0, opening.start())
    ):
        closing = re.compile(f"</{opening[1]}>", re.IGNORECASE).search(text, opening.end())
        return text[opening.end() : len(text) if closing is None else closing.start()]
    whole = _ANY_TAG.fullmatch(text) if text.startswith("<") else None
    return text if whole is None else whole[2]


def _from_json(text: str) -> str | None:
    """Return the instruction of a JSON value; "" if it holds none, None if the text is no JSON."""
    try:
        return _instruction_in(json.loads(text, strict=False))
    except (ValueError, RecursionError):
        pass
    try:
        value, _ = json.JSONDecoder(strict=False).raw_decode(text)  # with a remark after it
    except (ValueError, RecursionError):
        # Cut JSON, or a literal of Python.
        match = _FIELD.search(text) or _FIRST.match(text)
        return None if match is None else _unescaped(match["text"])
    return _instruction_in(value)


def _unescaped(text: str) -> str:
    return re.sub(
        r"\\(.)", lambda found: {"n": "\n", "t": " "}.get(found[1], found[1]), text, flags=re.DOTALL
    )


def _instruction_in(value: Any) -> str:
    """Return the first instruction in a JSON value: a text, or the field that is named like one."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return next((found for found in map(_instruction_in, value) if found), "")
    if not isinstance(value, dict):
        return ""
    fields = {re.sub(r"[\s-]+", "_", str(key).casefold()): part for key, part in value.items()}
    for key in (*_KEYS, *(name for name in fields if "instruction" in name or "prompt" in name)):
        if key in fields and (found := _instruction_in(fields[key])):
            return found
    values = list(fields.values())
    return _instruction_in(values[0]) if len(values) == 1 else ""


def _first_option(text: str) -> str:
    """Return the first of several labelled instructions: "Option 1: ... Option 2: ..."."""
    starts = [
        match
        for place in re.finditer(r"^", text, re.MULTILINE)
        if (match := OPTION.match(text, place.start()))
    ]
    if not starts or text[: starts[0].start()].strip():
        return text
    return text[starts[0].end() : starts[1].start() if len(starts) > 1 else len(text)].strip()


def _without_remarks(text: str, has_sections: bool) -> str:
    """Return a text without the remarks after the instruction, and without the sections of a template."""
    lines = text.strip().split("\n")
    lines = lines[: remark_start(lines)]
    if has_sections:
        followed = (number for number, line in enumerate(lines) if number and _FOLLOWING.match(line))
        lines = lines[: next(followed, len(lines))]
    while lines and (not lines[-1].strip() or _RULE.match(lines[-1].strip())):
        lines.pop()
    while lines and (not lines[0].strip() or _RULE.match(lines[0].strip())):
        lines.pop(0)
    return without_aside("\n".join(lines))


def _without_quotes(text: str) -> str:
    """Return the text inside quotes that enclose all of it, or all but a remark."""
    text = text.strip()
    closing = _QUOTES.get(text[:1])
    if closing is None:
        return text
    end = text.find(closing, 1)
    if end == len(text) - 1 and end > 0:
        return text[1:-1]
    if end > 15 and text[end - 1] in ".!?:" and _AFTER_QUOTE.match(text, end + 1):
        return text[1:end]
    if closing != text[:1] and text[-1] == closing and _encloses(text, text[0], closing):
        return text[1:-1]
    if closing == text[:1] and len(text) > 2 and text[-1] == closing and text.count(closing) % 2 == 0:
        inside = text[1:-1]
        if "\n" in inside or inside.count(closing) == 0 or _are_nested(inside, closing):
            return inside
    return text


def _encloses(text: str, opening: str, closing: str) -> bool:
    """Return True if the first quote of a text is closed by the last one."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign == opening) - (sign == closing)
        if depth == 0:
            return place == len(text) - 1
    return False


def _are_nested(text: str, quote: str) -> bool:
    """Return True if the quotes in a text open and close inside it: the next ones around it enclose all."""
    inner = [match.start() for match in re.finditer(re.escape(quote), text)]
    opening, closing = inner[::2], inner[1::2]
    return all(place == 0 or text[place - 1] in " \n\t([:=/-" for place in opening) and all(
        text[place - 1 : place].strip() for place in closing
    )
