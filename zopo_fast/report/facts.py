"""Facts of a study as the page shows them: plain values, with every text made harmless."""

from __future__ import annotations

import difflib
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath, PureWindowsPath
from typing import Any, NamedTuple

from zopo_fast._utils.text import printable
from zopo_fast.llm.types import Usage
from zopo_fast.report.study import Study
from zopo_fast.runs.inspection import PromptScore, ScoredAnswer
from zopo_fast.runs.result import HeldOut
from zopo_fast.scoring.intervals import score_interval

MAX_TOKENS = 1500  # of a text in a comparison of two; the time grows with the square
MIN_RATIO = 0.5  # share of common words from which on two texts are compared word by word
MAX_ROWS = 20_000  # prompts of the table
MAX_NEEDED = 100_000  # held-out examples that advice may name
MAX_ANSWERS = 400  # examples of the comparison of answers
_DIGEST = re.compile(r":\d+:[0-9a-f]{8,}(:\w+)?$")  # of the file of an embedded model
_TOKEN = re.compile(r"\s+|\w+|[^\w\s]")
_HIDDEN = {"out", "headers", "quiet", "dry_run", "resume_or_start", "incumbent"}


class Change(NamedTuple):
    """Part of a comparison of two texts; `kind` is "same", "added" or "removed"."""

    kind: str
    text: str


@dataclass(frozen=True)
class Part:
    """Usage of one part of the run, and its cost; None without prices."""

    name: str
    usage: Usage
    cost: float | None


def cut(text: str, length: int) -> str:
    """Return a text made harmless for a page, cut to a number of characters."""
    if len(text) <= length:
        return printable(text)
    return f"{printable(text[:length])} … ({len(text):,} characters)"


def changes(old: str, new: str) -> list[Change]:
    """Compare two texts word by word; none for texts that are too long to compare."""
    before, after = _TOKEN.findall(old), _TOKEN.findall(new)
    if max(len(before), len(after)) > MAX_TOKENS:
        return []
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    if matcher.ratio() < MIN_RATIO:  # single common words would scatter the texts
        return [Change("removed", printable(old)), Change("same", "\n"), Change("added", printable(new))]
    found: list[Change] = []
    for kind, i, j, k, end in matcher.get_opcodes():
        if kind == "equal":
            found.append(Change("same", printable("".join(after[k:end]))))
            continue
        if j > i:
            found.append(Change("removed", printable("".join(before[i:j]))))
        if end > k:
            found.append(Change("added", printable("".join(after[k:end]))))
    return found


def origin(study: Study, row: PromptScore) -> str:
    """Return how the search came to ask a prompt."""
    if row.index == study.incumbent:
        return "incumbent"
    if row.index in study.initial:
        return "start"
    if (one := study.grown_at(row.index)) is not None:
        return f"written by {cut(one.writer, 64)}"
    if row.order is None:
        return "known before"
    return {"improvement": "expected improvement", "thompson": "Thompson sample"}.get(
        study.config.search, study.config.search
    )


def prompt_rows(study: Study, length: int) -> list[list[Any]]:
    """Return the rows of the table of prompts: scored ones by rank, failed ones, then the others.

    Args:
        study: the study.
        length: characters of a text.

    Returns:
        Rows of rank, number, text, score, interval, examples, calls, tokens, cost, origin, order, and the
        numbers of the parents; None for a prompt that the pool began with.
    """
    rows = [_prompt_row(study, row, length) for row in (*study.ranked, *study.failed)]
    known = {row[1] for row in rows}
    rest = [
        [
            *(None, index, cut(text, length), None, None, "0", 0, 0, None, "not asked", None),
            parents(study, index),
        ]
        for index, text in enumerate(study.prompts[: MAX_ROWS + len(known)])
        if index not in known
    ]
    return (rows + rest)[:MAX_ROWS]


def _prompt_row(study: Study, row: PromptScore, length: int) -> list[Any]:
    interval = score_interval(list(row.scores.values()))
    usage = row.usage
    how = origin(study, row) if row.error is None else f"failed: {cut(row.error, 200)}"
    return [
        row.rank,
        row.index,
        cut(row.prompt, length),
        row.score,
        None if interval is None else [interval.low, interval.high],
        f"{row.tried} of {row.examples}" if row.tried < row.examples else str(row.tried),
        usage.calls + usage.cached,
        usage.total_tokens,
        study.cost(usage),
        how,
        row.order,
        parents(study, row.index),
    ]


def parents(study: Study, index: int) -> list[int] | None:
    """Return the numbers of a prompt's parents; None for a prompt that the pool began with."""
    one = study.grown_at(index)
    return None if one is None else list(one.parents)


def rival(study: Study) -> tuple[str, int] | None:
    """Return name and index of the prompt that the winner is compared with; None if there is none.

    The prompt is the incumbent, else the first prompt of the comparison, else the first one of the start.
    """
    winner = study.winner
    if winner is None:
        return None
    if study.incumbent is not None and study.incumbent != winner.index:
        return "incumbent", study.incumbent
    if study.incumbent is None:
        for row in study.heldout:
            if row.role != "winner" and row.prompt in study.prompts:
                index = study.prompts.index(row.prompt)
                if index != winner.index:
                    return study.role(row), index
    return None


def answer_rows(study: Study, length: int) -> list[dict[str, Any]]:
    """Return the answers of the winner and its rival example by example, the winner's worst first.

    Args:
        study: the study.
        length: characters of a text.
    """
    winner, other = study.winner, rival(study)
    if winner is None:
        return []
    theirs = {} if other is None else {(a.part, a.index): a for a in study.answers(other[1])}
    rows = sorted(
        study.answers(winner.index), key=lambda a: (math.inf if a.score is None else a.score, a.part, a.index)
    )
    return [
        {
            "part": answer.part, "index": answer.index, "input": cut(answer.input, length),
            "expected": cut(" | ".join(answer.expected), length),
            "answers": [_said(answer, length), _said(theirs.get((answer.part, answer.index)), length)],
        }
        for answer in rows[:MAX_ANSWERS]
    ]  # fmt: skip


def _said(answer: ScoredAnswer | None, length: int) -> dict[str, Any] | None:
    if answer is None:
        return None
    text = answer.answer
    if answer.unanswered is not None:
        text = f"(unanswered: {answer.unanswered})"
    said = {"score": answer.score, "text": None if text is None else cut(text, length)}
    return {**said, "cut": True} if answer.is_cut else said


class AnswerCounts(NamedTuple):
    """Counts over the examples that winner and rival both answered, and of answers cut at the length limit.

    Attributes:
        gained: examples on which the winner scores higher.
        lost: examples on which the winner scores lower.
        cut: answers of the winner that end at the length limit.
        answers: answers of the winner.
    """

    gained: int
    lost: int
    cut: int
    answers: int


def count_answers(rows: Sequence[Mapping[str, Any]]) -> AnswerCounts:
    """Count what the rows of `answer_rows` say."""
    pairs = [
        (ours["score"], theirs["score"])
        for ours, theirs in (row["answers"] for row in rows)
        if theirs is not None and None not in (ours["score"], theirs["score"])
    ]
    return AnswerCounts(
        sum(ours > theirs for ours, theirs in pairs),
        sum(ours < theirs for ours, theirs in pairs),
        sum(bool(row["answers"][0].get("cut")) for row in rows),
        len(rows),
    )


def advice(row: HeldOut) -> str:
    """Return what the comparison of the winner with a rival suggests."""
    ahead = row.winner_ahead
    assert ahead is not None
    if ahead.low > 0:
        return "The gain is significant: use the winner."
    if ahead.high < 0:
        return "The loss is significant: keep the prompt in use."
    enough = ""
    if ahead.mean > 0:  # the width of an interval falls with the root of the number of examples
        needed = _rounded(len(row.scores) * ((ahead.mean - ahead.low) / ahead.mean) ** 2)
        if len(row.scores) < needed < MAX_NEEDED:
            enough = f" About {needed:,} held-out examples would show a gain of this size."
    return f"Too close to call with {len(row.scores)} examples: keep the prompt in use for now.{enough}"


def _rounded(number: float) -> int:
    """Round up to two digits."""
    step = int(10 ** max(0, int(math.log10(max(number, 1))) - 1))
    return math.ceil(number / step) * step


def subtitle(study: Study) -> list[str]:
    """Return date, model, metric and sizes of a run, as far as they are known."""
    parts = [] if study.began is None else [time.strftime("%d %b %Y", time.gmtime(study.began))]
    model = (study.run.get("model") or {}).get("model")
    if model:
        parts.append(f"model {cut(_DIGEST.sub('', str(model)), 80)}")
    if study.task is not None:
        task = study.task
        parts.append(f"metric {printable(task.metric_name)}")
        parts.append(f"{len(task.train)} train and {len(task.heldout)} held-out examples")
    return parts


def spending(study: Study) -> list[Part]:
    """Return the usage and cost of each part of the run."""
    usages = study.usages
    full = sum((row.usage for row in study.ranked if row.is_full), Usage())
    partial = sum((row.usage for row in study.ranked if not row.is_full), Usage())
    failed = sum((row.usage for row in study.failed), Usage())
    parts = [
        ("writing the pool", usages.get("writing", Usage())),
        ("embedding the pool", usages.get("embedding", Usage())),
        ("growing the pool", usages.get("growth", Usage())),
        ("search: prompts scored on all examples", full),
        ("search: prompts stopped early", partial),
        ("search: prompts that failed", failed),
        ("judges, comparison on held-out examples", usages.get("comparison", Usage())),
    ]
    return [Part(name, usage, study.cost(usage)) for name, usage in parts if usage.calls or usage.cached]


def settings(study: Study) -> dict[str, str]:
    """Return the settings of the run, without keys, headers and paths of the machine."""
    values: Mapping[str, Any] = study.options or {
        name: value for name, value in study.run.items() if name not in ("task", "pool", "search")
    }
    shown = {}
    for name, value in sorted(values.items()):
        if name in _HIDDEN or value is None or value is False or value in ([], {}, ()):
            continue
        shown[name] = cut(_without_folders(value), 300)
    return shown


def _without_folders(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_without_folders(each) for each in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {_without_folders(each)}" for name, each in value.items())
    text = str(value)
    for kind in (PurePath, PureWindowsPath):
        if kind(text).is_absolute():
            return kind(text).name
    return text


def ahead(study: Study) -> HeldOut | None:
    """Return the row of the comparison with the rival of the winner; None without one."""
    other = rival(study)
    rows = [row for row in study.heldout if row.winner_ahead is not None]
    if other is not None:
        rows = [row for row in rows if row.prompt == study.prompts[other[1]]] or rows
    return rows[0] if rows else None
