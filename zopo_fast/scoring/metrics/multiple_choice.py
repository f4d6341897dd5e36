"""Multiple choice: the option that an answer picks, by its letter or its text."""

from __future__ import annotations

import re

from zopo_fast._utils.text import nfkc
from zopo_fast.scoring.metrics.comparison import exact_match
from zopo_fast.scoring.metrics.readings import in_box, in_tags, json_value, unwrapped, without_markup
from zopo_fast.scoring.metrics.sentences import first_sentence
from zopo_fast.scoring.metrics.tokens import plain

_KEYS = (
    "final_answer", "answer", "choice", "option", "letter", "label", "selected", "selection",
    "correct_answer", "correct_option", "correct_choice", "output", "result", "response",
)  # fmt: skip
_OPENING = r"[*_`\"'“‘$]{0,3}"
# "B", "(B)", "[b]", "b." and "B" in bold; "A", "I" and small letters must not begin a phrase ("a dog").
_LETTER = (
    rf"{_OPENING}(?:[(\[]\s?(?P<{{0}}1>[A-Za-z])\s?[)\]]|(?P<{{0}}2>[A-Za-z])[).](?!\w)"
    rf"|(?P<{{0}}3>[B-HJ-Z])(?![\w'’/+#-])|(?P<{{0}}4>[A-Za-z])(?![\w'’/+#-])(?!\s+[a-z]))"
)


def _letter(name: str) -> str:
    return _LETTER.replace("{0}", name)


_OPTION = re.compile(
    r"\s*(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])\)|([A-Za-z])[.:\]](?=\s|$)"
    r"|([A-Za-z])\s+[-–—]\s+|([A-Za-z])\s*$)[\s:.\-–—]*"
)
_BE = r"(?:is|would be|should be|must be|could be|might be|=|:|：|是|为|は|은|는)"
_ANNOUNCED = re.compile(
    r"(?:(?i:\b(?:answer|antwort|réponse|respuesta|risposta|resposta|ответ)\b)|答案|选项|正解|答え|정답|답"
    rf"|(?i:\b(?:option|choice)\b)(?=[*_\"]{{0,3}}\s*{_BE}))"  # "option A" names an option only
    rf"[*_\"]{{0,3}}(?i:\s*{_BE})?[\s:：=*_\"]{{0,6}}"
    r"(?i:(?:is\s+)?(?:the\s+)?(?:option|choice|letter|answer)?[\s:*_]{0,4})" + _letter("a")
)
_CHOSEN = re.compile(
    r"(?i:\b(?:choose|chose|pick|select|go with|going with|it is|it['’]s|would be|must be)"
    r"\s+(?:option\s+)?)" + _letter("c")
)
_REVERSED = re.compile(
    r"(?<![\w(])\(?([A-Z])\)?\s+is\s+(?:the\s+)?(?:correct|right|best)(?:\s+(?:answer|option|choice))?"
)
_NAMED = re.compile(r"[(\[]([A-Za-z])[)\]]|(?<![\w(])([A-Z])\)|(?i:\b(?:option|choice)\s+)([A-Za-z])\b")
_JOINED = re.compile(
    rf"[)\].]?{_OPENING}\s*(?:,|/|&|\+|\bor\b|\band\b)\s*(?:\bor\b|\band\b)?\s*" + _letter("j")
)
_STARTS = re.compile(_OPENING + r"([A-Z])\s+(?:is|because|since|as)\b")
_ANSWER_MARK = re.compile(r"\AA:\s+(?=\(?[A-Za-z](?:[).]|$))")  # "A: B", where "A" is no option
_LINE_LABEL = re.compile(rf"^\s{{0,8}}(?:[-*•]\s)?{_OPENING}\(?([A-Za-z])[).:](?=\s)", re.MULTILINE)


def multiple_choice(answer: str, reference: str) -> float:
    """Return 1 if the answer picks the reference's option, by letter ("(B)", "Answer: B") or text, else 0.

    An answer that names several options picks none of them, unless it announces its choice.
    """
    if plain(answer) == plain(reference):
        return 1.0
    letter, text = _option(nfkc(reference).strip())
    declared = _declared(nfkc(answer).strip())
    chosen, rest = _chosen(without_markup(declared, ""))
    if letter and chosen:
        return float(letter == chosen)
    if not text:
        return 0.0
    return max(exact_match(shown, text) for shown in dict.fromkeys((rest or declared, declared)))


def _option(text: str) -> tuple[str, str]:
    """Return letter (lower case or "") and text of an option: "(B) Paris", "B. Paris", "B" or "Paris"."""
    match = _OPTION.match(text)
    if match is None or re.match(r"[A-Z]\.", text[match.end() :]):  # initials: "J. K. Rowling"
        return "", text.strip()
    return match[match.lastindex or 1].lower(), text[match.end() :].strip()


def _declared(answer: str) -> str:
    """Return the part of an answer that declares its choice: JSON, a box or tags; else the whole answer."""
    for layer in unwrapped(answer):
        value = json_value(layer, _KEYS)
        if value is not None:
            return value.strip()
    inside = in_box(answer)
    if inside is None:
        inside = in_tags(answer)
    if inside is None:
        return answer
    return list(unwrapped(inside))[-1].strip()


def _chosen(answer: str) -> tuple[str, str]:
    """Return the letter that an answer picks, in lower case, and the text after it; "" if there is none."""
    answer = _ANSWER_MARK.sub("", answer)
    last = None
    for pattern in (_ANNOUNCED, _REVERSED):
        for found in pattern.finditer(answer):
            if last is None or found.end() > last.end():
                last = found
    if last is None:
        last = next(iter(_CHOSEN.finditer(answer)), None)
    if last is not None:
        return _unless_joined(answer, last)
    first = answer.split("\n", 1)[0].strip().strip("*_`\"'“”${} ")
    label, text = _option(first)
    if not label and (match := _STARTS.match(first)):
        label = match[1].lower()
    others = {found.lower() for pair in _NAMED.findall(first_sentence(first)) for found in pair if found}
    others |= {found.lower() for found in _LINE_LABEL.findall(answer)}
    if label:
        return ("", "") if others - {label} or _is_list(first) else (label, text)
    others |= {found.lower() for pair in _NAMED.findall(answer) for found in pair if found}
    return (others.pop(), "") if len(others) == 1 else ("", "")


def _unless_joined(answer: str, found: re.Match[str]) -> tuple[str, str]:
    """Return the letter of a match, unless another one follows: "A or B"."""
    letter = next(group for group in found.groups() if group).lower()
    end = max(found.end(group) for group in range(1, len(found.groups()) + 1))
    joined = _JOINED.match(answer, end)
    if joined is not None and next(group for group in joined.groups() if group).lower() != letter:
        return "", ""
    return letter, answer[found.end() :].split("\n", 1)[0].strip(" .:)*_-")


def _is_list(line: str) -> bool:
    """Return whether a line begins with several letters: "A, B", "A and B", "(A) (B)"."""
    match = re.match(_letter("l"), line)
    return match is not None and _JOINED.match(line, max(match.end(g) for g in range(1, 5))) is not None
