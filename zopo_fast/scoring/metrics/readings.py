"""Readings of an answer: the text that it gives, without fences, quotes, lead-ins and other wrapping."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from zopo_fast._utils.text import parse_json
from zopo_fast.scoring.metrics.sentences import first_sentence

MAX_SHORT_WORDS = 12  # a reference of more words is no label, and the answer is not cut
_MAX_LAYERS = 8  # wrappings removed one after the other

_KEYS = ("final_answer", "answer", "output", "result", "response", "label", "prediction", "value", "text")
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
_LAST = re.compile(
    r"^[*_#> -]{0,6}(?:the\s)?(?:final\s)?answer(?:\sis)?[*_]{0,3}\s?[:：][*_]{0,3}[^\S\n]?(\S[^\n]*)$"
    r"|^####[^\S\n]+([^\n]+)$",
    re.IGNORECASE | re.MULTILINE,
)
_TAG = r"(?:final[_-]?)?answer|output|result|response|label|solution"
_OPEN_TAG = re.compile(rf"<({_TAG})>", re.IGNORECASE)
_CLOSE_TAG = re.compile(rf"</({_TAG})>", re.IGNORECASE)
_MARKUP = re.compile(r"</?[a-z][a-z0-9_-]{0,20}\s?/?>", re.IGNORECASE)
_COMMAND = re.compile(r"\\(?:boxed|fbox|text|textbf|textit|mathrm|mathbf)\s?\{|\\[()\[\]]")
_ANY_COMMAND = re.compile(r"\\(?:boxed|fbox|text|textbf|textit|mathrm|mathbf)\s?(?=\{)")
_BRACE = re.compile("[{}]")
_MATH = re.compile(r"\$(?! )([^$\n]{0,200})(?<! )\$(?!\d)")
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
    for layer in dict.fromkeys([*layers, *announced(answer)]):
        text = layer.strip()
        yield text
        line = text.split("\n", 1)[0]
        yield line
        yield first_sentence(line)


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
    r"""Yield what an answer declares at its end: \boxed{...}, <answer>...</answer>, "Final answer: ..."."""
    for found in (in_box(answer), in_tags(answer)):
        if found is not None:
            yield found
            yield from list(unwrapped(found))[1:]
    lines = _LAST.findall(answer)
    if lines:
        yield from unwrapped("".join(lines[-1]))


def without_markup(answer: str, reference: str) -> str:
    """Return an answer without tags and LaTeX commands, unless the reference has some too."""
    if "<" not in reference and "<" in answer:
        answer = _MARKUP.sub(" ", answer)
    if "$" not in reference and "$" in answer:
        answer = _MATH.sub(r" \1 ", answer)
    if "\\" not in reference and "\\" in answer:
        answer = _COMMAND.sub(" ", answer)
    return answer


def json_value(text: str, keys: tuple[str, ...] = _KEYS) -> str | None:
    """Return the one value of a JSON object or list, or that under one of `keys`; None otherwise."""
    text = text.strip()
    if text[:1] + text[-1:] not in ("{}", "[]"):
        return None
    try:
        document = parse_json(text, parse_int=str, parse_float=str)
    except ValueError:
        return None
    if isinstance(document, dict):
        named = {str(key).casefold().replace(" ", "_"): value for key, value in document.items()}
        chosen = [named[key] for key in keys if key in named]
        values = list(named.values()) if len(named) == 1 else chosen[:1]
    else:
        values = document if isinstance(document, list) else []
    return _scalar(values[0]) if len(values) == 1 else None


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
    for lead_in in (_LEAD_IN, _HEADING, _INTRODUCTION):
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


def _scalar(value: Any) -> str | None:
    if isinstance(value, list):
        parts = [part for part in value if isinstance(part, str)]
        return ", ".join(parts) if parts and len(parts) == len(value) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else None
