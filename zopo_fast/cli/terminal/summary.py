"""Summary of a run for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from zopo_fast._utils.columns import width, wrap
from zopo_fast._utils.text import printable
from zopo_fast.cli.terminal.look import COLUMNS
from zopo_fast.llm.limits import Prices
from zopo_fast.llm.types import Usage
from zopo_fast.runs.cost.front import FrontPoint
from zopo_fast.runs.log.unanswered import unanswered_lines
from zopo_fast.runs.result import HeldOut, Interval, Result

STOPPED = {
    "budget": "the budget is spent",
    "pool": "every prompt of the pool is scored",
    "perfect": "a perfect score is reached",
    "target": "the target is reached",
    "interrupted": "interrupted; these are the results so far",
    "failures": "too many prompts could not be scored",
    "calls": "the limit of calls is reached",
    "tokens": "the limit of tokens is reached",
    "cost": "the limit of cost is reached",
    "time": "the time is up",
    "error": "the model is unavailable; these are the results so far",
}

MAX_FRONT = 4  # prompts of the front in the summary

_heading = partial(click.style, bold=True)
_winner = partial(click.style, fg="green", bold=True)
_warning = partial(click.style, fg="yellow")


def summary(
    result: Result, *, prices: Prices | None = None, columns: int = COLUMNS, has_color: bool = False
) -> str:
    """Return the summary of a run for a terminal: the winner and its scores, then how the run went.

    Args:
        result: Result of the run.
        prices: Prices of its tokens; None: unknown.
        columns: Width of the lines.
        has_color: Style the lines; the words are the same.
    """
    lines: list[str] = []

    def add(text: str, style: Any = None) -> None:
        indent = " " * min(len(text) - len(text.lstrip(" ")), columns // 2)
        wrapped = wrap(text.lstrip(" "), columns, indent, indent + "  ")
        lines.extend(style(line) if style and has_color and line else line for line in wrapped)

    add("Best prompt:", _heading)
    for line in printable(result.best_prompt).split("\n"):
        add("  " + line, _winner)
    add("")
    add(f"Train score: {result.best_score:.3f}" + " (over some examples only)" * result.in_part, _heading)
    for line in _verdict(result.heldout):
        add(line, _heading)
    for line in _short_of(result):
        add(line)
    if prices is not None:
        usage = result.usage
        add(f"Cost: {prices.of(usage.prompt_tokens, usage.completion_tokens):.4f}")
    if result.heldout:
        lines += ["", *_table(result.heldout, columns)]
    add("")
    for line in _course(result):
        add(line)
    for note in result.comparison_notes:
        add(_one_line(f"Note: {note}"), _warning)
    return "\n".join(lines)


def _verdict(rows: Sequence[HeldOut]) -> list[str]:
    """Return the winner's score on the held-out examples, and its lead over the seed prompt."""
    by_role = {row.role: row for row in rows}
    winner, seed = by_role.get("winner"), by_role.get("seed prompt")
    if winner is None or winner.score is None:
        return []
    lines = [f"Held-out score: {winner.score:.3f}"]
    if seed is None or seed.winner_ahead is None:
        return lines
    ahead = seed.winner_ahead
    word = "better" if ahead.low > 0 else "worse" if ahead.high < 0 else "not clearly better"
    return [*lines, f"Against the seed prompt: {_interval(ahead)}, {word}"]


def _short_of(result: Result) -> list[str]:
    """Return what a shorter winner has given up, and the front of score and tokens where it is a choice."""
    front, best = result.front, result.given_up
    lines = []
    if best is not None:
        lines = [
            f"Chosen for its length: the best score is {best.score:.3f}, of prompt {best.index} with "
            f"{tokens_text(best)}."
        ]
    if len(front) > 1:
        left_out = f"{len(front) - MAX_FRONT} shorter ones, " if len(front) > MAX_FRONT else ""
        shown = ", ".join(f"{each.score:.3f} with {tokens_text(each)}" for each in front[-MAX_FRONT:])
        lines.append(f"Score against length: {left_out}{shown}")
    return lines


def tokens_text(point: FrontPoint) -> str:
    """Return the tokens of a prompt in words."""
    if point.estimated:
        return f"about {point.tokens:.0f} tokens of text"
    return f"{point.tokens:.1f} tokens a call"


def _course(result: Result) -> list[str]:
    """Return why the run stopped, and what it took."""
    scored, full = len(result.prompts_scored()), len(result.prompts_scored(in_full=True))
    failed = sum(t.score is None for t in result.trials)
    return [
        f"Stopped: {STOPPED[result.stopped_by]}.",
        f"Prompts scored: {scored}"
        + (f", {full} of them on all examples" if full < scored else "")
        + (f", failed: {failed}" if failed else ""),
        usage_line(result.usage),
        *map(_one_line, unanswered_lines(result.unanswered)),
        f"Time: {result.seconds:.1f} s",
    ]


def _one_line(text: str) -> str:
    return printable(text).replace("\n", " ")


def usage_line(usage: Usage) -> str:
    """Return calls and tokens as one line for a terminal."""
    return (
        f"Calls: {usage.calls}, tokens: {usage.prompt_tokens} in, {usage.completion_tokens} out"
        + (f" ({usage.estimated_calls} calls estimated)" if usage.estimated_calls else "")
        + (f"; from the cache: {usage.cached}{_reused_words(usage)}" if usage.cached else "")
        + (f"; lost, possibly billed: {usage.lost_calls}" if usage.lost_calls else "")
    )


def _reused_words(usage: Usage) -> str:
    """Return how many answers of the cache earlier runs gave, and the age of the oldest."""
    if not usage.reused:
        return ""
    count = "" if usage.reused == usage.cached else f"{usage.reused} "
    return f", {count}of earlier runs, the oldest {age_words(usage.reused_age)} old"


def age_words(seconds: float) -> str:
    """Return an age in whole days, hours or minutes."""
    if seconds < 60:
        return "less than a minute"
    units = (("day", 86_400), ("hour", 3_600), ("minute", 60))
    name, size = next(unit for unit in units if seconds >= unit[1])
    number = int(seconds // size)
    return f"{number} {name}{'' if number == 1 else 's'}"


def _table(rows: Sequence[HeldOut], columns: int) -> list[str]:
    examples = max(len(row.scores) for row in rows)
    lines = [f"On {examples} held-out examples:" if examples else "On the held-out examples:"]
    lines += _row("", "train", "held-out", ["winner ahead by (95 % CI)"], columns)
    for row in rows:
        more = [] if row.winner_ahead is None else [_interval(row.winner_ahead)]
        if row.unanswered:
            reasons = ", ".join(sorted(set(row.unanswered.values())))
            more.append(_one_line(f"{len(row.unanswered)} unanswered ({reasons})"))
        if row.error is not None:
            more.append(_one_line(f"not scored: {row.error}"))
        lines += _row(row.role, _score(row.train_score), _score(row.score), more, columns)
    return lines


def _row(role: str, train: str, heldout: str, more: Sequence[str], columns: int) -> list[str]:
    """Return a row of the table; what does not fit into the line follows below it."""
    lines = [f"  {role:13}{train:>8}{heldout:>10}"]
    for text in more:
        if len(lines) == 1 and width(lines[0]) + 3 + width(text) <= columns:
            lines[0] += "   " + text
        else:
            lines += wrap(text, columns, " " * 6)
    return lines


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"


def _interval(interval: Interval) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*interval)
