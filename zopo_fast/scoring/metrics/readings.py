"""Readings of an answer: the text that it gives, without fences, quotes, lead-ins and other wrapping."""

from __future__ import annotations

import re
from collections.abc import Iterator

from zopo_fast.scoring.metrics.documents import json_value, last_object
from zopo_fast.scoring.metrics.endings import (
    abbreviation_before_sentence,
    label_before_explanation,
    last_announced,
)
from zopo_fast.scoring.metrics.sentences import first_sentence

MAX_SHORT_WORDS = 12  # a reference of more words is no label, and the answer is not cut
_MAX_LAYERS = 8  # wrappings removed one after the other

_NAMES = (
    r"answer|ans|output|result|response|reply|label|class|category|classification|sentiment|prediction|"
    r"translation|solution|conclusion|antwort|réponse|respuesta|risposta|resposta|ответ|答案|回答|答え|정답|답"
)
_LEAD_IN = re.compile(
    r"\s*(?:#{1,6}\s+|>\s+)?[*_]{0,3}(?:the\s+)?(?:(?:final|correct|best|right|predicted|model|my)\s+)?"
    rf"(?:(?:{_NAMES})(?:\s+is)?|(?-i:A))[*_]{{0,3}}\s*[:：][*_]{{0,3}}\s*",
    re.IGNORECASE,
)
_HEADING = re.compile(
    rf"\s*(?:#{{1,6}}[^\S\n]+|\*\*|__)[^\n]{{0,40}}\b(?:{_NAMES})[^\S\n]*[:：]?(?:\*\*|__)?[^\S\n]*\n",
    re.IGNORECASE,
)
_INTRODUCTION = re.compile(
    r"\s*(?:(?:sure|certainly|of course|okay|ok|yes|absolutely|great)\b[!,. ]{1,4})?"
    r"(?:here(?:'s|’s| is| are)|the (?:correct |final )?answer is|below is)\b[^\n:]{0,80}:\s+",
    re.IGNORECASE,
)
_IS = re.compile(
    r"\s*(?:(?:so|therefore|thus|hence)\b,?\s+)?[*_]{0,3}(?:the\s+|my\s+)?(?:(?:final|correct|best|right)\s+)?"
    r"answer\s+is\s+(?=\S)",
    re.IGNORECASE,
)
_TAG = r"(?:final[_-]?)?answer|output|result|response|label|solution"
_OPEN_TAG = re.compile(rf"<({_TAG})>", re.IGNORECASE)
_CLOSE_TAG = re.compile(rf"</({_TAG})>", re.IGNORECASE)
_MARKUP = re.compile(r"</?[a-z][a-z0-9_-]{0,20}\s?/?>", re.IGNORECASE)
_COMMAND = re.compile(r"\\(?:boxed|fbox|text|textbf|textit|mathrm|mathbf)\s?\{|\\[()\[\]]")
_ANY_COMMAND = re.compile(r"\\(?:boxed|fbox|text|textbf|textit|mathrm|mathbf)\s?(?=\{)")
_BRACE = re.compile("[{}]")
_MATH = re.compile(r"(?<!\\)\$(?! )([^$\n]{0,200})(?<![ \\])\$(?!\d)")
_ESCAPE = re.compile(r"\\(?=[%$&#_])")
_PAIRS = (
    ("**", "**"), ("__", "__"), ("*", "*"), ("_", "_"), ("`", "`"), ('"', '"'), ("'", "'"), ("“", "”"),
    ("‘", "’"), ("«", "»"), ("„", "“"), ("「", "」"), ("$$", "$$"), ("$", "$"),
    ("\\(", "\\)"), ("\\[", "\\]"),
)  # fmt: skip


def readings(answer: str, reference: str) -> Iterator[str]:
    """Yield the texts that an answer can be read as, from the whole answer to its first sentence."""
    layers = list(unwrapped(answer))
    bare = without_markup(layers[-1], reference)
    layers = [*layers, bare] if bare != layers[-1] else layers
    yield from layers
    if not is_short(reference):
        return
    declared = list(announced(answer))
    declared += [without_markup(text, reference) for text in declared]
    for layer in dict.fromkeys([*layers, *declared]):
        text = layer.strip()
        yield text
        line = text.split("\n", 1)[0]
        yield line
        yield first_sentence(line)
        yield from label_before_explanation(line, reference)
        yield from abbreviation_before_sentence(line, reference)


def is_short(reference: str) -> bool:
    """Return whether a reference is one short sentence on one line."""
    text = reference.strip()
    if "\n" in text or "\r" in text or len(text) > 40 * MAX_SHORT_WORDS:
        return False
    return len(text.split()) <= MAX_SHORT_WORDS and len(first_sentence(text)) == len(text)


def unwrapped(answer: str) -> Iterator[str]:
    """Yield an answer, and what remains after each wrapping that is removed from the outside in."""
    text = answer.replace("\r\n", "\n").replace("\r", "\n")
    for _ in range(_MAX_LAYERS):
        yield text
        inner = _inner(text.strip())
        if inner is None:
            return
        text = inner


def unfenced(answer: str) -> str:
    """Return the text in a code fence if that is all of an answer, else the answer."""
    found = _fence(answer.strip())
    return answer if found is None or found[1] else found[0]


def announced(answer: str) -> Iterator[str]:
    r"""Yield what an answer declares: \boxed{...}, <answer>...</answer>, "Final answer: ...", JSON."""
    for found in (in_box(answer), in_tags(answer)):
        if found is not None:
            yield found
            yield from list(unwrapped(found))[1:]
    for found in (last_announced(answer), last_object(answer)):
        if found is not None:
            yield from unwrapped(found)


def without_markup(answer: str, reference: str) -> str:
    """Return an answer without tags and LaTeX commands, unless the reference has some too."""
    if "<" not in reference and "<" in answer:
        answer = _MARKUP.sub(" ", answer)
    if "$" not in reference and "$" in answer:
        answer = _MATH.sub(r" \1 ", answer)
    if "\\" not in reference and "\\" in answer:
        answer = _ESCAPE.sub("", _COMMAND.sub(" ", answer))
    return answer


def in_box(text: str) -> str | None:
    r"""Return the inside of the last \boxed{...} of a text."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    return None if start < 0 else _braces(text, text.find("{", start, start + 9))


def in_tags(text: str) -> str | None:
    """Return the inside of the last <answer>...</answer> or similar of a text."""
    closing = list(_CLOSE_TAG.finditer(text))
    if not closing:
        return None
    end, name = closing[-1].start(), closing[-1][1].lower()
    starts = [found.end() for found in _OPEN_TAG.finditer(text, 0, end) if found[1].lower() == name]
    return text[starts[-1] : end] if starts else None


def _inner(text: str) -> str | None:
    """Return a text without its outermost wrapping; None if it has none."""
    for remove in (
        _without_fence,
        _without_pair,
        _without_command,
        _without_tags,
        json_value,
        _without_lead_in,
    ):
        inside = remove(text)
        if inside is not None:
            return inside
    return None


def _without_fence(text: str) -> str | None:
    found = _fence(text)
    return None if found is None else found[0]


def _without_pair(text: str) -> str | None:
    if text.startswith("> "):
        return text[2:]
    for opening, closing in _PAIRS:
        if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
            inside = text[len(opening) : -len(closing)]
            if opening[0] not in inside and closing[0] not in inside:
                return inside
    return None


def _without_command(text: str) -> str | None:
    match = _ANY_COMMAND.match(text)
    inside = None if match is None else _braces(text, match.end())
    if match is None or inside is None or text[match.end() + len(inside) + 2 :].strip(" .$"):
        return None
    return inside


def _without_tags(text: str) -> str | None:
    inside = in_tags(text) if text.startswith("<") else None
    is_all = inside is not None and len(text) - len(inside) <= len("<final_answer></final_answer>")
    return inside if is_all else None


def _without_lead_in(text: str) -> str | None:
    for lead_in in (_LEAD_IN, _HEADING, _INTRODUCTION, _IS):
        if (match := lead_in.match(text)) is not None and match.end() < len(text):
            return text[match.end() :]
    return None


def _fence(text: str) -> tuple[str, bool] | None:
    """Return the content of the only code fence of a text, and whether there is text around it."""
    if text.count("```") != 2:
        return None
    start, end = text.find("```"), text.rfind("```")
    inside = text[start + 3 : end]
    first, newline, rest = inside.partition("\n")
    if newline and re.fullmatch(r"[\w+#.-]*\s*", first):  # the language
        inside = rest
    if not newline and text[:start].strip():  # code in the middle of a sentence
        return None
    return inside.strip("\n"), bool(text[:start].strip() or text[end + 3 :].strip())


def _braces(text: str, start: int) -> str | None:
    """Return what the brace at `start` and its partner enclose."""
    if start < 0:
        return None
    depth = 0
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start + 1 : brace.start()]
    return None
