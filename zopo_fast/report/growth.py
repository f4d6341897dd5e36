"""Facts about a pool that has grown, as the page shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zopo_fast.report.facts import cut

if TYPE_CHECKING:
    from zopo_fast.report.study import Study

MAX_FAMILIES = 50  # prompts with their parents
MAX_REASONS = 5  # of rejections of a round
_MAX_TEXT = 400


@dataclass(frozen=True)
class RoundRow:
    """Row of a round, or of a writer.

    Attributes:
        name: of the writer; "" for a round.
        written: number of drafts.
        rejected: number of them that a guard rejected, or that were screened out, for a writer.
        entered: number of prompts that entered.
        won: number of these that beat the best score of their time.
        calls: of the model that writes.
        number: of the round; 0 for a writer.
        screened: number of drafts screened out in a round.
        reasons: why drafts were rejected, with counts, and why writers failed.
    """

    name: str
    written: int
    rejected: int
    entered: int
    won: int
    calls: int
    number: int = 0
    screened: int = 0
    reasons: str = ""


def round_rows(study: Study) -> list[RoundRow]:
    """Return a row for each round of writing."""
    rows = []
    for each in study.growth.rounds:
        reasons = [f"{cut(reason, 80)}: {n}" for reason, n in list(each.rejected.items())[:MAX_REASONS]]
        if len(each.rejected) > MAX_REASONS:
            reasons.append("others")
        reasons += [f"{cut(name, 64)} failed: {cut(error, 200)}" for name, error in each.failed.items()]
        rows.append(
            RoundRow(
                "",
                sum(each.written.values()),
                sum(each.rejected.values()),
                len(each.entered),
                sum(has_won(study, one.index) for one in each.entered),
                sum(each.calls.values()),
                each.order.number,
                each.screened,
                "; ".join(reasons),
            )
        )
    return rows


def writer_rows(study: Study) -> list[RoundRow]:
    """Return a row for each writer, in order of its first round."""
    names = dict.fromkeys(name for each in study.growth.rounds for name in each.order.asked)
    rows = []
    for name in names:
        written = sum(each.written.get(name, 0) for each in study.growth.rounds)
        entered = [one for one in study.grown if one.writer == name]
        won = sum(has_won(study, one.index) for one in entered)
        calls = sum(each.calls.get(name, 0) for each in study.growth.rounds)
        rows.append(RoundRow(cut(name, 64), written, written - len(entered), len(entered), won, calls))
    return rows


def has_won(study: Study, index: int) -> bool:
    """Return whether a prompt that entered beats the best score of the time when it was written."""
    score = study.prompt(index).score
    return score is not None and score > study.grown[index - study.given].target


def families(study: Study) -> list[dict[str, Any]]:
    """Return the scored prompts that entered, best first, each with its parents."""
    rows = []
    for row in [row for row in study.ranked if row.index >= study.given][:MAX_FAMILIES]:
        one = study.grown[row.index - study.given]
        rows.append(
            {
                "index": row.index,
                "prompt": cut(row.prompt, _MAX_TEXT),
                "score": row.score,
                "writer": cut(one.writer, 64),
                "note": cut(one.note, 80),
                "round": one.round,
                "parents": [
                    {"index": i, "prompt": cut(study.prompts[i], _MAX_TEXT), "score": study.prompt(i).score}
                    for i in one.parents
                ],
            }
        )
    return rows
