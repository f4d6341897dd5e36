"""Multiple choice: the option that an answer picks, by its letter, its number or its text."""

from __future__ import annotations

import re

from zopo_fast._utils.text import nfkc
from zopo_fast.scoring.metrics.comparison import exact_match
from zopo_fast.scoring.metrics.documents import json_value
from zopo_fast.scoring.metrics.labels import KINDS, NEGATED, SEVERAL, Labels
from zopo_fast.scoring.metrics.readings import in_box, in_tags, unwrapped, without_markup
from zopo_fast.scoring.metrics.tokens import plain

_KEYS = (
    "final_answer", "answer", "choice", "option", "letter", "label", "selected", "selection",
    "correct_answer", "correct_option", "correct_choice", "output", "result", "response",
)  # fmt: skip
_SAID = re.compile(r"(?i:\banswer\s+(?:is|would be|must be)[\s:]{1,3}(?:option\s)?)([^\n]{1,400})")
_EMPHASIS = re.compile(r"\*\*|__")


def multiple_choice(answer: str, reference: str) -> float:
    """Return 1 if the answer picks the reference's option, by label ("(B)", "Answer: 2") or text, else 0.

    An answer that joins several options picks none of them, unless it announces its choice.
    """
    if plain(answer) == plain(reference):
        return 1.0
    kind, label, text = _option(nfkc(reference).strip())
    declared = _declared(nfkc(answer).strip())
    chosen, rest = _chosen(without_markup(declared, ""), kind)
    if label and chosen == label:
        return 1.0
    is_bare = kind.may_be_text and text == label  # such a reference may be a number, and no option
    if label and (chosen == SEVERAL if is_bare or not text else bool(chosen) and chosen != SEVERAL):
        return 0.0
    if not text:
        return 0.0
    said = _SAID.findall(_EMPHASIS.sub("", declared))
    shown = dict.fromkeys((rest or declared, declared, *said[-1:]))
    return max(exact_match(one, text) for one in shown)


def _option(text: str) -> tuple[Labels, str, str]:
    """Return kind and label (lower case or "") and text of an option: "(B) Paris", "2. Paris" or "Paris"."""
    for kind in KINDS:
        match = kind.option.match(text)
        if match is not None and not re.match(r"[A-Z]\.", text[match.end() :]):  # initials: "J. K. Rowling"
            label, rest = match[match.lastindex or 1].lower(), text[match.end() :].strip()
            return kind, label, rest or (label if kind.may_be_text else "")
    return KINDS[0], "", text.strip()


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


def _chosen(answer: str, kind: Labels) -> tuple[str, str]:
    """Return the label that an answer picks, in lower case, and the text after it.

    The label is "" if there is none, and SEVERAL if the answer joins options.
    """
    answer = kind.answer_mark.sub("", _EMPHASIS.sub("", answer).lstrip("#> \n"))
    last = None
    for pattern in (kind.announced, kind.reversed):
        for found in pattern.finditer(answer):
            if last is None or found.end() > last.end():
                last = found
    if last is None:
        last = next(iter(kind.chosen.finditer(answer)), None)
    if last is None:
        last = next(iter(kind.concluded.finditer(answer)), None)
    if last is not None:
        return _unless_joined(answer, last, kind)
    return _leading(answer, kind)


def _leading(answer: str, kind: Labels) -> tuple[str, str]:
    """Return the option at the start of an answer, else the only one that it names."""
    first = answer.split("\n", 1)[0].strip().strip("*_`\"'“”‘’${} ")
    match = kind.option.match(first) or kind.starts.match(first)
    if match is None:
        negated = {found.lower() for found in kind.negated.findall(answer)}
        others = {found.lower() for found in kind.line_label.findall(answer)}
        others |= {found.lower() for pair in kind.named.findall(answer) for found in pair if found}
        others -= negated
        return (others.pop(), "") if len(others) == 1 else ("", "")
    label, rest = match[match.lastindex or 1].lower(), first[match.end() :].strip()
    paragraph = answer.split("\n\n", 1)[0]
    listed = {found.lower() for found in kind.line_label.findall(paragraph)}
    listed |= {found.lower() for found in kind.joined_later.findall(first)}
    if listed - {label} or _is_list(first, kind) or NEGATED.match(first, match.end(match.lastindex or 1)):
        return SEVERAL, ""
    return label, rest


def _unless_joined(answer: str, found: re.Match[str], kind: Labels) -> tuple[str, str]:
    """Return the label of a match, unless another one follows: "A or B"."""
    label = next(group for group in found.groups() if group).lower()
    end = max(found.end(group) for group in range(1, len(found.groups()) + 1))
    joined = kind.joined.match(answer, end)
    if joined is not None and next(group for group in joined.groups() if group).lower() != label:
        return SEVERAL, ""
    return label, answer[found.end() :].split("\n", 1)[0].strip(" .:)*_-")


def _is_list(line: str, kind: Labels) -> bool:
    """Return whether a line begins with several labels: "A, B", "A and B", "(A) (B)"."""
    match = kind.any.match(line)
    return match is not None and kind.joined.match(line, max(match.end(g) for g in range(1, 5))) is not None
