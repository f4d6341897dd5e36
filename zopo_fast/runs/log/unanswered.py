"""Record of the train examples that a run has asked, and summary of those without an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zopo_fast.llm.types import Usage
from zopo_fast.scoring.unanswered import Unanswered, cannot_be_answered

MAX_INPUT = 80  # characters of an input in the summary


@dataclass(frozen=True)
class UnansweredExample:
    """Train example that some calls of a run could not get an answer for.

    Attributes:
        index: of the train example.
        input: start of its input.
        reasons: number of calls by reason, such as {"content_filter": 14}.
        calls: calls without an answer.
        prompts: prompts that were asked on the example, failed prompts not counted.
        by_all: True if no prompt got an answer for the example.
        message: message of the last error.
    """

    index: int
    input: str
    reasons: dict[str, int]
    calls: int
    prompts: int
    by_all: bool
    message: str


class AskedExamples:
    """Outcome of every asked example, by prompt.

    Attributes:
        tokens: prompt and completion tokens of each answer with known counts, by prompt and example.
    """

    def __init__(self) -> None:
        self.tokens: dict[int, dict[int, tuple[int, int]]] = {}
        self._outcomes: dict[int, dict[int, Unanswered | None]] = {}
        self._failed: set[int] = set()

    def add(self, prompt: int, example: int, unanswered: Unanswered | None, usage: Usage) -> None:
        """Record an example as answered (None), or as unanswered for a reason, with its usage."""
        self._outcomes.setdefault(prompt, {})[example] = unanswered
        if unanswered is None and (counts := usage.answer_tokens) is not None:
            self.tokens.setdefault(prompt, {})[example] = counts

    def mark_failed(self, prompt: int) -> None:
        """Exclude a failed prompt from the summary: its failure says nothing about the examples."""
        self._failed.add(prompt)

    def reasons(self, prompt: int) -> dict[int, Unanswered]:
        """Return the reasons of a prompt's unanswered examples, by ascending index."""
        found = self._outcomes.get(prompt, {})
        return {example: why for example, why in sorted(found.items()) if why is not None}

    def has_answer(self, prompt: int) -> bool:
        """Return whether any example is answered under a prompt."""
        return any(why is None for why in self._outcomes.get(prompt, {}).values())

    def cannot_be_answered(self, prompt: int, examples: int) -> bool:
        """Return whether a prompt counts as failed, because all its examples so far are unanswered."""
        outcomes = self._outcomes.get(prompt, {})
        return cannot_be_answered(len(outcomes), len(self.reasons(prompt)), examples)

    def summary(self, text_of: Callable[[int], str]) -> list[UnansweredExample]:
        """Return the unanswered examples by ascending index.

        Args:
            text_of: returns the input of an example.
        """
        asked: Counter[int] = Counter()
        reasons: dict[int, list[Unanswered]] = {}
        for prompt, outcomes in self._outcomes.items():
            if prompt in self._failed:
                continue
            asked.update(outcomes.keys())
            for example, why in outcomes.items():
                if why is not None:
                    reasons.setdefault(example, []).append(why)
        return [
            UnansweredExample(
                index,
                text_of(index)[:MAX_INPUT],
                dict(Counter(why.code for why in found).most_common()),
                len(found),
                asked[index],
                len(found) == asked[index],
                found[-1].message,
            )
            for index, found in sorted(reasons.items())
        ]


def unanswered_lines(examples: Sequence[UnansweredExample]) -> list[str]:
    """Return the summary of unanswered examples for a terminal, one line a fact; empty without any."""
    if not examples:
        return []
    reasons: Counter[str] = Counter()
    for one in examples:
        reasons.update(one.reasons)
    calls = sum(one.calls for one in examples)
    codes = ", ".join(
        code if len(reasons) == 1 else f"{code} ({count})" for code, count in reasons.most_common()
    )
    lines = [
        f"{len(examples)} example{'s' * (len(examples) > 1)} unanswered in {calls} "
        f"call{'s' * (calls > 1)}: {codes}"
    ]
    lines += [
        f"  Example {one.index} has no answer under any of {one.prompts} prompts: {one.input!r}"
        for one in examples
        if one.by_all and one.prompts > 1
    ]
    return [*lines, f"  The last: {examples[-1].message}"]
