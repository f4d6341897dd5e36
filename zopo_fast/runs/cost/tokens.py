"""Tokens per call of each prompt, comparable between prompts that were asked on different examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from zopo_fast.llm.tokens import estimate

MAX_SWEEPS = 500  # of the fit; each costs two passes over the counts
_TOLERANCE = 1e-9  # change of a mean, in shares of the greatest count, at which the fit ends

Counts = Mapping[int, Mapping[int, tuple[int, int]]]
"""Prompt and completion tokens of each answer, by prompt and example."""


@dataclass(frozen=True)
class CallTokens:
    """Mean tokens of a prompt's calls.

    Attributes:
        prompt: mean prompt tokens.
        completion: mean completion tokens.
        by_example: prompt and completion tokens of the call on each example, in ascending order of the
            examples; empty where only the text of the prompt was counted.
    """

    prompt: float
    completion: float
    by_example: tuple[float, ...] = ()

    @property
    def total(self) -> float:
        """Mean prompt and completion tokens together."""
        return self.prompt + self.completion


def tokens_per_call(counts: Counts) -> dict[int, CallTokens]:
    """Return the tokens per call of each prompt with a count, on all examples that any prompt was asked on.

    A race asks a prompt on some examples only, and a plain mean over those would say how long these examples
    are. The counts are fitted by tokens = prompt effect + example effect, by least squares. For prompt tokens
    this holds nearly exactly: text and input are concatenated. For completion tokens it is an approximation.
    A prompt with a count on every example gets the plain mean of its counts.

    The order of the counts does not matter.

    Args:
        counts: of the answers.
    """
    prompts = sorted(prompt for prompt, known in counts.items() if known)
    examples = sorted({example for prompt in prompts for example in counts[prompt]})
    if not prompts:
        return {}
    place = {example: column for column, example in enumerate(examples)}
    cells = [
        (row, place[example], *tokens)
        for row, prompt in enumerate(prompts)
        for example, tokens in sorted(counts[prompt].items())
    ]
    table = np.array(cells, dtype=np.float64)
    rows, columns = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    calls = np.empty((2, len(prompts), len(examples)))  # counts where they are known, else fitted values
    for kind, counted in enumerate((table[:, 2], table[:, 3])):
        of_prompt, of_example = _fitted(rows, columns, counted, len(prompts), len(examples))
        calls[kind] = of_prompt[:, None] + of_example
        calls[kind, rows, columns] = counted
    means, totals = calls.sum(axis=2) / len(examples), calls.sum(axis=0)
    return {
        prompt: CallTokens(float(means[0, row]), float(means[1, row]), tuple(totals[row].tolist()))
        for row, prompt in enumerate(prompts)
    }


def _fitted(
    rows: np.ndarray, columns: np.ndarray, counts: np.ndarray, prompts: int, examples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the effects of prompts (prompts,) and examples (examples,) in counts (n,), by least squares.

    Each effect in turn is the mean of what the other leaves (backfitting; Buja, Hastie & Tibshirani 1989),
    which solves a complete table in one sweep.
    """
    per_row = np.bincount(rows, minlength=prompts)
    per_column = np.bincount(columns, minlength=examples)
    of_prompt = np.bincount(rows, counts, prompts) / per_row
    of_example = np.zeros(examples)
    enough = _TOLERANCE * max(1.0, float(np.abs(counts).max()))
    for _ in range(MAX_SWEEPS):
        of_example = np.bincount(columns, counts - of_prompt[rows], examples) / per_column
        updated = np.bincount(rows, counts - of_example[columns], prompts) / per_row
        change = float(np.abs(updated - of_prompt).max())
        of_prompt = updated
        if change <= enough:
            break
    return of_prompt, of_example


def tokens_of_texts(prompts: Mapping[int, str]) -> dict[int, CallTokens]:
    """Return the estimated tokens of texts alone, for prompts whose calls have no counts."""
    return {index: CallTokens(float(estimate(text)), 0.0) for index, text in prompts.items()}
