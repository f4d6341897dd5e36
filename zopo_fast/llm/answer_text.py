"""Text of an answer without the reasoning of the model: one rule for scoring, judging and generation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING

from zopo_fast.errors import MalformedAnswerError
from zopo_fast.llm.finish_reasons import is_cut

if TYPE_CHECKING:
    from zopo_fast.llm.types import Answer

CUT = "cut_in_reasoning"
"""Code of the error for an answer that ends inside its reasoning."""

_NAMES = r"(?:think|thinking|thought|thoughts|reasoning|reflection|scratchpad|seed:think|analysis)"
# Opening and closing mark of each form of reasoning.
_FORMS = (
    (rf"<{_NAMES}>", rf"</{_NAMES}>"),
    (r"\[THINK\]", r"\[/THINK\]"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    (r"◁think▷", r"◁/think▷"),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Cohere
    (r"<\|channel>thought", r"<channel\|>"),  # Gemma
)
_DETAILS = (r"<details\s[^<>]*type=[\"']reasoning[\"'][^<>]*>", r"</details>")  # Open WebUI
_OPEN = re.compile("|".join(form[0] for form in (*_FORMS, _DETAILS)), re.IGNORECASE)
_CLOSE = re.compile("|".join(form[1] for form in (*_FORMS, _DETAILS)), re.IGNORECASE)
# A </details> without its opening mark is HTML of the answer.
_STRAY_CLOSE = re.compile("|".join(form[1] for form in _FORMS), re.IGNORECASE)
_START = re.compile(
    r"(?:[\s\ufeff]|<s>|<bos>|<\|begin_of_text\|>|<\|startoftext\|>|<｜begin▁of▁sentence｜>"
    r"|<\|im_start\|>(?:assistant)?)*"
)
# gpt-oss writes channels; the answer is in the last "final" one.
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*<\|message\|>")
_CHANNEL_END = re.compile(r"<\|(?:end|return|start|call)\|>")
_SPECIAL_WRAP = re.compile(
    r"\s*<\|(?:begin_of_solution|START_RESPONSE|START_TEXT)\|>(.*?)"
    r"(?:<\|(?:end_of_solution|END_RESPONSE|END_TEXT)\|>\s*(?:<\|\w+\|>\s*)*)?\Z",
    re.DOTALL,
)
_TAG_WRAP = re.compile(
    r"\s*<(answer|final_answer|final|response)>((?:(?!</?\1>).)*)(?:</\1>\s*)?\Z", re.DOTALL | re.IGNORECASE
)

# Words before a closing tag in a sentence about the tag, such as "Use </think> to close."
_MENTION = re.compile(
    r"\b(?:use|using|write|add|put|insert|type|append|emit|output|print|with|tags?|token|by|the|an?|closing|missing"
    r"|like|and|or|of|before|after)[ \t]+\Z",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?…。！？][)\"'”’]*[ \t]+\Z")
_LINE_START = re.compile(r"(?:\A|[\r\n])[ \t]*\Z")
_LINE_END = re.compile(r"[ \t]*(?:[\r\n]|\Z)")
_MAX_LOOK = 1000  # characters of a line beside a tag
_MAX_TAGS = 100  # of one name, so that many unbalanced tags take no quadratic time
_PUNCTUATION = frozenset(".,;:!?)]}")
_QUOTES = frozenset({"''", '""', "‘’", "“”", "«»", "()", "[]", "{}", "**", "__"})

_TEXT_PARTS = ("text", "output_text")


def answer_text(answer: Answer, *, option: str = "--max-tokens") -> str:
    """Return the text of an answer without a leading block of reasoning.

    Understood are `<think>...</think>` and its relatives, also with the opening tag missing, which chat
    templates often put into the prompt (see `_ends_reasoning`). Tags after the first word of the answer
    belong to the answer. After reasoning, tags around the whole answer such as `<answer>` are left out too.

    Args:
        answer: the answer.
        option: command-line option that limits its length, for the error.

    Raises:
        MalformedAnswerError: the answer ends inside its reasoning; the code is `CUT`.
    """
    text = without_reasoning(answer.text)
    # Most endpoints keep the reasoning to themselves: of an answer that is cut inside it, nothing is left.
    is_empty = text is not None and is_cut(answer.finish_reason) and not text.strip()
    if text is None or is_empty:
        raise MalformedAnswerError(
            f"the answer ends inside its reasoning after {answer.usage.completion_tokens} tokens "
            f"(finish_reason {answer.finish_reason!r}): raise max_tokens, {option} on the command "
            "line",
            concerns="call",
            code=CUT,
        )
    return text


def without_reasoning(text: str) -> str | None:
    """Return the text after the reasoning at its start, unchanged without one; None if it is not closed."""
    channels = list(_CHANNEL.finditer(text))
    if channels:
        last = channels[-1]
        return _CHANNEL_END.split(text[last.end() :], maxsplit=1)[0].strip() if last[1] == "final" else None
    begin = 0
    while (opening := _OPEN.match(text, _skip_start(text, begin))) is not None:
        end = _end_of_reasoning(text, opening)
        if end is None:
            return None
        begin = end
    begin = _after_stray_close(text, begin)
    rest = text[begin:]
    wrapped = _SPECIAL_WRAP.match(rest)
    if wrapped is not None:
        return wrapped[1].strip()
    if not begin:
        return text
    wrapped = _TAG_WRAP.match(rest)
    return (rest if wrapped is None else wrapped[2]).strip()


def holds_reasoning(text: str) -> bool:
    """Return whether a text holds a mark of reasoning, wherever and for whatever reason."""
    if "<" not in text and "[" not in text and "◁" not in text:
        return False
    return any(pattern.search(text) is not None for pattern in (_OPEN, _STRAY_CLOSE, _CHANNEL))


def _skip_start(text: str, begin: int) -> int:
    """Return the index after blanks, a byte-order mark and the tokens that begin a text."""
    found = _START.match(text, begin)
    return begin if found is None else found.end()


def _end_of_reasoning(text: str, opening: re.Match[str]) -> int | None:
    """Return the end of the reasoning that `opening` begins; None if it is not closed.

    Nested tags of the same name are counted. Where they do not balance, the first closing tag ends it: the
    reasoning names a tag. A closing tag of another name counts where there is none of this name.
    """
    name = opening[0].strip("<>").split()[0] if opening[0][0] == "<" and opening[0][1] != "|" else None
    first, depth = None, 1
    if name is not None:
        tags = re.compile(rf"<(/?){re.escape(name)}(?:\s[^<>]*)?>", re.IGNORECASE)
        for tag in islice(tags.finditer(text, opening.end()), _MAX_TAGS):
            depth += -1 if tag[1] else 1
            if tag[1] and first is None:
                first = tag.end()
            if depth == 0:
                return tag.end()
    if first is None and (closing := _CLOSE.search(text, opening.end())) is not None:
        first = closing.end()
    return first


def _after_stray_close(text: str, begin: int) -> int:
    """Return the index after a closing tag whose opening tag is missing; `begin` without one."""
    marks = [(found, True) for found in islice(_OPEN.finditer(text, begin), _MAX_TAGS)]
    marks += [(found, False) for found in islice(_STRAY_CLOSE.finditer(text, begin), _MAX_TAGS)]
    depth = 1
    for mark, is_open in sorted(marks, key=lambda found: found[0].start()):
        if is_open:
            depth += 1
        elif depth > 1:
            depth -= 1
        elif _ends_reasoning(text, begin, mark):
            return mark.end()
    return begin


def _ends_reasoning(text: str, begin: int, tag: re.Match[str]) -> bool:
    """Return whether a lone closing tag ends reasoning, rather than being named by the answer.

    A tag in code or quotes, before punctuation, or after words such as "use" or "the" is named. A tag at the
    start or the end of a line ends reasoning, and so does one that touches the text before or after it.
    Between two blanks it does only after the end of a sentence: "Yes. </think> positive".
    """
    before = text[max(begin, tag.start() - _MAX_LOOK) : tag.start()]
    line = re.split(r"[\r\n]", before)[-1]
    after = text[tag.end() : tag.end() + _MAX_LOOK] if text[tag.end() :].strip() else ""
    in_block = text.count("```", begin, tag.start()) % 2 == 1 and "```" in text[tag.end() :]
    in_span = line.count("`") % 2 == 1 and "`" in re.split(r"[\r\n]", after)[0]
    if in_block or in_span:
        return False
    if _LINE_START.search(before):
        return True
    if line[-1:] + after[:1] in _QUOTES or _MENTION.search(line) or after[:1] in _PUNCTUATION:
        return False
    ends_line = after != "" and _LINE_END.match(after) is not None
    is_apart = line[-1:].isspace() and not ends_line and after[:1] in ("", " ", "\t")
    return not is_apart or _SENTENCE_END.search(line) is not None


def content_text(content: object) -> str | None:
    """Return the text of a message's `content`: a string, a part, or a list of parts without the reasoning.

    Returns:
        The text; None if the content holds none, such as null, a refusal, or reasoning alone.
    """
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        return _part_text(content)
    if not isinstance(content, list):
        return None
    parts = [_part_text(part) for part in content]
    texts = [part for part in parts if part is not None]
    return "".join(texts) if texts else None


def _part_text(part: object) -> str | None:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping) or part.get("type", "text") not in _TEXT_PARTS:
        return None
    if part.get("thought") is True:  # Gemini
        return None
    text = part.get("text")
    if isinstance(text, Mapping):  # {"text": {"value": ...}} as in the Assistants API
        text = text.get("value")
    return text if isinstance(text, str) else None
