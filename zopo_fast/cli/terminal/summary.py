"""Summary of a run for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from zopo_fast._utils.text import printable
from zopo_fast.llm.types import Usage
from zopo_fast.runs.result import HeldOut, Result
from zopo_fast.runs.unanswered import unanswered_lines

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


def summary(result: Result) -> str:
    """Return the summary of a run for a terminal."""
    scored, full = len(result.prompts_scored()), len(result.prompts_scored(in_full=True))
    failed = sum(t.score is None for t in result.trials)
    lines = [
        f"Stopped: {STOPPED[result.stopped_by]}.",
        f"Prompts scored: {scored}"
        + (f", {full} of them on all examples" if full < scored else "")
        + (f", failed: {failed}" if failed else ""),
        usage_line(result.usage),
        *map(_one_line, unanswered_lines(result.unanswered)),
        f"Time: {result.seconds:.1f} s",
        "",
        "Best prompt:",
        *("  " + line for line in printable(result.best_prompt).split("\n")),
        f"Train score: {result.best_score:.3f}" + " (over some examples only)" * result.in_part,
    ]
    if result.heldout:
        lines += ["", *_table(result.heldout)]
    lines += [_one_line(f"Note: {note}") for note in result.comparison_notes]
    return "\n".join(lines)


def _one_line(text: str) -> str:
    return " ".join(printable(text).split("\n"))


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


def _table(rows: Sequence[HeldOut]) -> list[str]:
    examples = max(len(row.scores) for row in rows)
    lines = [
        f"On {examples} held-out examples:" if examples else "On the held-out examples:",
        f"  {'':16}{'train':>7}{'held-out':>10}   winner ahead by (95 % CI)",
    ]
    for row in rows:
        after = ""
        if row.winner_ahead is not None:
            after = "   {:+.3f} [{:+.3f}, {:+.3f}]".format(*row.winner_ahead)
        if row.unanswered:
            after += (
                f"   {len(row.unanswered)} unanswered ({', '.join(sorted(set(row.unanswered.values())))})"
            )
        if row.error is not None:
            after += f"   not scored: {row.error}"
        train = "-" if row.train_score is None else f"{row.train_score:.3f}"
        score = "-" if row.score is None else f"{row.score:.3f}"
        lines.append(_one_line(f"  {row.role:16}{train:>7}{score:>10}{after}"))
    return lines
