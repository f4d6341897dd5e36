"""Assertions of promptfoo that make no call, and the metric that scores an answer by them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zopo_fast._utils.text import short_repr
from zopo_fast.tasks.template import VARIABLE


def _is_json(answer: str, _: str) -> bool:
    try:
        json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return True


_SINGLE: Mapping[str, Callable[[str, str], bool]] = {
    "equals": lambda answer, value: answer.strip() == value.strip(),
    "contains": lambda answer, value: value in answer,
    "icontains": lambda answer, value: value.lower() in answer.lower(),
    "starts-with": lambda answer, value: answer.startswith(value),
    "regex": lambda answer, value: re.search(value, answer) is not None,
    "is-json": _is_json,
}
_LISTS: Mapping[str, tuple[str, Callable[[list[bool]], bool]]] = {
    "contains-any": ("contains", any),
    "contains-all": ("contains", all),
    "icontains-any": ("icontains", any),
    "icontains-all": ("icontains", all),
}
KINDS = (*_SINGLE, *_LISTS, "llm-rubric")
_NEGATION = "not-"


@dataclass(frozen=True)
class Assertion:
    """One assertion: its type, its value and its weight."""

    kind: str
    value: Any
    weight: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return the assertion as JSON values."""
        return {"type": self.kind, "value": self.value, "weight": self.weight}

    def holds(self, answer: str) -> bool:
        """Return whether an answer meets the assertion."""
        kind = self.kind.removeprefix(_NEGATION)
        if kind in _LISTS:
            single, combine = _LISTS[kind]
            met = combine([_SINGLE[single](answer, each) for each in self.value])
        else:
            met = _SINGLE[kind](answer, self.value)
        return met != self.kind.startswith(_NEGATION)


def read_assertions(stated: Sequence[Any], variables: Mapping[str, str]) -> list[Assertion]:
    """Return the assertions of a test, with its variables in their values.

    Raises:
        ValueError: An assertion is malformed or not supported; says which.
    """
    return [_read(each, variables) for each in stated]


def _read(stated: Any, variables: Mapping[str, str]) -> Assertion:
    if not isinstance(stated, Mapping) or not isinstance(stated.get("type"), str):
        raise ValueError(f"an assertion is a mapping with a type, got {short_repr(stated)}")
    kind, value, weight = stated["type"], stated.get("value"), stated.get("weight", 1)
    plain = kind.removeprefix(_NEGATION)
    if plain not in KINDS or kind == "not-llm-rubric":
        raise ValueError(
            f"the assertion {kind!r} is not supported; supported are {', '.join(KINDS)}, and not-"
        )
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
        raise ValueError(f"the weight of {kind!r} must be a number of at least 0, got {short_repr(weight)}")

    def filled(text: Any) -> str:
        shown = str(text).lower() if isinstance(text, bool) else str(text)
        return VARIABLE.sub(lambda match: variables.get(match[1], ""), shown)

    if plain == "is-json":
        if value is not None:
            raise ValueError("the schema of 'is-json' is not supported; leave the value out")
        return Assertion(kind, "", float(weight))
    if value is None or isinstance(value, Mapping):
        raise ValueError(f"the assertion {kind!r} needs a text as its value, got {short_repr(value)}")
    if plain in _LISTS:
        parts = value if isinstance(value, list) else str(value).split(",")
        return Assertion(kind, [filled(part).strip() for part in parts], float(weight))
    text = filled(value)
    if text.startswith("file://"):
        raise ValueError(f"the value of {kind!r} in a file is not supported; write it in the configuration")
    if plain == "regex":
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"the regular expression {short_repr(text)} is malformed: {error}") from None
    return Assertion(kind, text, float(weight))


def cell_assertion(text: str) -> dict[str, Any]:
    """Return the assertion of a cell `__expected`: `type: value`, a type alone, or a text that equals."""
    head, colon, rest = text.partition(":")
    kind = head.strip()
    if kind.removeprefix(_NEGATION) in KINDS or kind in (
        "javascript",
        "python",
        "fn",
        "eval",
        "similar",
        "grade",
    ):
        kind = "llm-rubric" if kind == "grade" else kind
        return {"type": kind, **({"value": rest.strip()} if colon else {})}
    return {"type": "equals", "value": text}


def score(answer: str, references: list[str]) -> float:
    """Return the score of an answer: the weighted share of the assertions that it meets.

    Args:
        answer: text of the answer.
        references: JSON of the assertions and the threshold of a test. With a threshold the score is 1 where
            the share reaches it, else 0.
    """
    test = json.loads(references[0])
    assertions = [Assertion(each["type"], each["value"], each["weight"]) for each in test["assert"]]
    total = sum(each.weight for each in assertions)
    met = sum(each.weight for each in assertions if each.holds(answer))
    share = met / total if total else 1.0
    threshold = test["threshold"]
    return share if threshold is None else float(share >= threshold)
