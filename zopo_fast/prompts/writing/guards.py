"""Guards that drafts of prompts must pass before they enter a pool."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zopo_fast._utils.checks import as_count
from zopo_fast._utils.public import public
from zopo_fast._utils.text import nfkc
from zopo_fast.errors import ArrayError, InputError
from zopo_fast.llm.answer_text import holds_reasoning
from zopo_fast.prompts.cleaning import MAX_INSTRUCTION_CHARACTERS
from zopo_fast.prompts.pool import normalise
from zopo_fast.prompts.refusals import is_refusal
from zopo_fast.prompts.writing.copied import CopiedExamples, tokens
from zopo_fast.tasks.example import Example

LONGER = 2
"""A draft may be this many times as long as the longest prompt of the pool, ..."""
MIN_LIMIT = 400
"""... and as long as this many characters in any case."""

# C0 and C1 controls except tab and line breaks, which `normalise` handles.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# Embeddings, overrides and isolates of the text direction, and tag characters: they hide or reorder text.
# Direction marks and joiners, which languages and emoji use, are no part of them.
_HIDDEN = re.compile("[\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
_PUNCTUATION = str.maketrans({**dict.fromkeys('.,;:!?…"“”„«»`*()[]-–—', " "), **dict.fromkeys("'‘’", None)})


@public
class Guard:
    """Check of drafts: only a new, short prompt that copies no training example passes.

        guard = zf.Guard(task.train, known=pool.prompts)
        guard.reason("Say whether the review is positive.")     # None: it passes

    Rejected are empty drafts; control characters, lone surrogates and marks that hide or reorder text; drafts
    above the length limit; refusals; marks of reasoning such as `<think>`, unless a known prompt holds some;
    drafts that equal a known prompt but for case, blanks and punctuation; and copies of training examples:

    - five words in a row of an input, an output or a column, two of which are no function words. Runs that
      many examples share, and outputs that two examples share, may be named. Of a script without blanks
      between words, ten characters in a row.
    - a whole input of three or four words.
    - a shorter input with one of its outputs at most six words away. Where the output is a label of many
      examples, or input or output is a function word, only both beside each other, as in `in -> out`.

    Args:
        task_examples: examples that prompts are scored on.
        max_characters: length limit; None: twice the longest known prompt, and from 400 to 4,000 characters,
            but never below the longest known prompt.
        known: texts of the pool.

    Raises:
        ConfigError: `max_characters` is no integer of at least 1.
        InputError: a known prompt is no text.
    """

    def __init__(
        self,
        task_examples: Sequence[Example],
        max_characters: int | None = None,
        known: Iterable[str] = (),
    ) -> None:
        known = list(known)
        self._copied = CopiedExamples(task_examples)
        self._known: dict[str, str] = {}
        self._may_hold_reasoning = False
        self.add(known)
        longest = max(map(len, known), default=0)
        if max_characters is None:
            limit = min(max(LONGER * longest, MIN_LIMIT), MAX_INSTRUCTION_CHARACTERS)
            self.max_characters = max(limit, longest)
        else:
            self.max_characters = as_count("max_characters", max_characters, 1)

    def add(self, prompts: Iterable[str]) -> None:
        """Add known prompts.

        Raises:
            InputError: a prompt is no text.
        """
        for prompt in prompts:
            if not isinstance(prompt, str):
                raise InputError(f"known: expected texts, got {type(prompt).__name__}")
            text = normalise(prompt)
            self._known.setdefault(_key(text), text)
            self._may_hold_reasoning = self._may_hold_reasoning or holds_reasoning(text)

    def reason(self, text: str) -> str | None:
        """Return the reason to reject a draft; None if it passes."""
        return self.reasons([text])[0]

    def reasons(self, texts: Sequence[str]) -> list[str | None]:
        """Return the reason to reject each draft; None for those that pass.

        A draft that equals an earlier one of `texts` that passes is a duplicate.
        """
        found = [self._form_reason(text) for text in texts]
        places = [place for place, reason in enumerate(found) if reason is None]
        copied = self._copied.find([tokens(texts[place]) for place in places])
        passed: set[str] = set()
        for place, example in zip(places, copied, strict=True):
            text = normalise(texts[place])
            key = _key(text)
            if key in self._known:
                is_equal = self._known[key] == text
                found[place] = (
                    "equals a known prompt"
                    if is_equal
                    else "equals a known prompt but for case or punctuation"
                )
            elif example is not None:
                found[place] = f"copies training example {example}"
            elif key in passed:
                found[place] = "equals another draft"
            else:
                passed.add(key)
        return found

    def _form_reason(self, text: str) -> str | None:
        """Return what is wrong with a draft on its own."""
        if not isinstance(text, str):
            return f"is no text but {type(text).__name__}"
        if len(text) > self.max_characters:  # first: the other checks read all of the text
            return f"is too long: {len(text)} characters; the limit is {self.max_characters}"
        if (problem := _bad_character(text)) is not None:
            return problem
        if not text.strip():
            return "is empty"
        if not self._may_hold_reasoning and holds_reasoning(text):
            return "holds a mark of reasoning such as <think>"
        return "is a refusal" if is_refusal(text) else None


def _bad_character(text: str) -> str | None:
    if _CONTROL.search(text):
        return "holds a control character"
    if text.isascii():
        return None
    if _SURROGATE.search(text):
        return "holds a lone surrogate"
    return "holds characters that hide or reorder text" if _HIDDEN.search(text) else None


def _key(text: str) -> str:
    """Return a form that equals for texts that differ in case, blanks and punctuation only."""
    folded = text if text.isascii() else nfkc(text)
    return " ".join(folded.casefold().translate(_PUNCTUATION).split()) or text


@public
def near_duplicates(new: NDArray[Any], known: NDArray[Any], threshold: float) -> NDArray[np.bool_]:
    """Find embeddings that are close to a known one, or to an earlier new one that is not.

    Close means a cosine of at least `threshold`. Zero vectors are close to none.

    Args:
        new: (n, d) embeddings, of any length.
        known: (m, d) embeddings.
        threshold: cosine in (0, 1].

    Returns:
        (n,) True for near duplicates.

    Raises:
        ArrayError: a shape does not fit, or an entry is NaN or infinite.
        InputError: `threshold` is out of range.
    """
    if not 0.0 < threshold <= 1.0:
        raise InputError(f"threshold must be in (0, 1], got {threshold!r}")
    new, known = np.asarray(new, np.float32), np.asarray(known, np.float32)
    if new.ndim != 2 or known.ndim != 2 or new.shape[1] != known.shape[1]:
        raise ArrayError(f"expected (n, d) and (m, d) embeddings, got shapes {new.shape} and {known.shape}")
    lengths = [np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None] for rows in (new, known)]
    if not all(np.isfinite(each).all() for each in lengths):
        raise ArrayError("embeddings hold NaN, or entries that are infinite or too large for float32")
    rows = new / np.where(lengths[0] > 0.0, lengths[0], 1.0)
    # Scale the threshold by the lengths of the known rows: dividing all entries by them takes longer.
    norms = lengths[1].T
    marked: NDArray[np.bool_] = ((rows @ known.T >= threshold * norms) & (norms > 0.0)).any(axis=1)
    close = rows @ rows.T >= threshold
    for row in range(1, len(rows)):
        if not marked[row]:
            marked[row] = (close[row, :row] & ~marked[:row]).any()
    return marked
