"""`zopo-fast show`: the winner, the best prompts, and the answers of one prompt of a run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zopo_fast._utils.text import json_line, printable
from zopo_fast.cli.params import FILE, Command, option
from zopo_fast.cli.terminal.summary import tokens_text
from zopo_fast.errors import StoreError

if TYPE_CHECKING:
    from zopo_fast.report.study import Study
    from zopo_fast.runs.inspection import PromptScore, ScoredAnswer

BEST = 10  # prompts in the table
_HEAD = "rank  prompt   score  examples  calls   tokens  per call     cost  text"
_CUT = 200  # characters of a text without --full


@click.command(cls=Command, most_used=("prompt", "full"))
@click.argument("folder", metavar="DIR", type=FILE)
@option(
    "--prompt",
    group="Output",
    type=click.IntRange(0),
    metavar="N",
    help="Number of a prompt in the pool, as in the table: its examples and answers, wrong ones first.",
)
@option("--full", group="Output", is_flag=True, help=f"Whole texts instead of the first {_CUT} characters.")
@option("--json", "as_json", group="Output", is_flag=True, help="One JSON object with whole texts.")
def show(folder: Path, prompt: int | None, full: bool, as_json: bool) -> int:
    """Show the best prompts of the run in DIR, or the answers of one prompt.

    DIR is the folder of --out, or a study file. A run in progress can be shown too: the study is copied.
    """
    from zopo_fast.report.study import Study

    with Study.open(study_file(folder)) as study:
        shown = _Show(study, full)
        if as_json:
            click.echo(json_line(shown.document(prompt)), nl=False)
        else:
            for line in shown.best() if prompt is None else shown.answers(prompt):
                click.echo(printable(line))
    return 0


def study_file(folder: Path) -> Path:
    """Return the path of the study in the folder of a run; a file is returned as given.

    Raises:
        StoreError: The folder holds landscapes and no run.
    """
    from zopo_fast.runs.landscape import LandscapeFiles
    from zopo_fast.storage.store import STUDY

    path = folder / STUDY
    if not folder.is_dir():
        return folder
    if path.exists():
        return path
    unfinished = sorted(folder.glob(f"*{LandscapeFiles.of(folder, '').study.name}"))
    if unfinished:
        raise StoreError(
            f"{folder}: holds an unfinished landscape, which its `zopo-fast landscape` command resumes; show "
            f"{shlex.quote(str(unfinished[0]))} lists its scores so far"
        )
    finished = sorted(each for each in folder.glob("*.json") if each.with_suffix(".npy").exists())
    if finished:
        raise StoreError(
            f"{folder}: holds a landscape of `zopo-fast landscape` and no run; its prompts and scores are in "
            f"{finished[0]}"
        )
    return path


class _Show:
    """Lines and JSON values of a run.

    Args:
        study: The study of the run.
        full: Show whole texts.
    """

    def __init__(self, study: Study, full: bool) -> None:
        self._study, self._full = study, full

    def document(self, prompt: int | None) -> dict[str, Any]:
        """Return the values of `--json`."""
        if prompt is not None:
            answers = [asdict(answer) for answer in self._study.answers(prompt)]
            return {**self._row_values(self._study.prompt(prompt)), "answers": answers}
        ranked, failed = self._study.ranked, self._study.failed
        winner = self._study.winner
        return {
            "stopped_by": self._study.result.get("stopped_by"),
            "winner": None if winner is None else winner.index,
            "front": [point.to_dict() for point in self._study.front],
            "prompts": [self._row_values(row) for row in [*ranked, *failed]],
        }

    def best(self) -> Iterator[str]:
        """Yield the lines about the winner and the best prompts."""
        ranked, failed = self._study.ranked, self._study.failed
        winner = self._study.winner
        if winner is None or winner.score is None:
            yield f"No prompt of {len(self._study.prompts)} has a score yet."
        else:
            ended = self._study.result.get("stopped_by")
            yield f"Winner{'' if ended else ' so far'}: prompt {winner.index}, {_score_text(winner)}"
            yield from ("  " + line for line in self._cut(winner.prompt).split("\n"))
            yield ""
            yield _HEAD
            yield from (self._row(row) for row in ranked[:BEST])
            if len(ranked) > BEST:
                yield f"... and {len(ranked) - BEST} more"
            yield from self._front()
        for row in failed[:BEST]:
            yield f"Failed: prompt {row.index}: {self._one_line(row.error or '')}"
        if len(failed) > BEST:
            yield f"... and {len(failed) - BEST} more that failed"
        yield "--prompt N shows the answers of a prompt."

    def answers(self, prompt: int) -> Iterator[str]:
        """Yield the lines about the answers of a prompt."""
        row = self._study.prompt(prompt)
        yield f"Prompt {row.index}: {_score_text(row)}" + (f", rank {row.rank}" if row.rank else "")
        yield from ("  " + line for line in self._cut(row.prompt).split("\n"))
        if (one := self._study.grown_at(row.index)) is not None:
            parents = ", ".join(map(str, one.parents)) or "none"
            note = f" ({self._one_line(one.note)})" * bool(one.note)
            yield f"Written by {one.writer}{note} in round {one.round}; parents: {parents}"
        if row.error is not None:
            yield f"Failed: {self._one_line(row.error)}"
        for answer in self._study.answers(prompt):
            yield ""
            yield from self._answer(answer)

    # ---- internals ---------------------------------------------------------------------------------

    def _front(self) -> Iterator[str]:
        """Yield the lines about the prompts that no other one beats in both score and tokens."""
        front = self._study.front
        if len(front) < 2:
            return
        best = self._study.given_up
        yield ""
        if best is not None:
            yield f"Chosen for its length: the best score is {best.score:.3f}, of prompt {best.index}."
        left_out = f", the {BEST} longest of {len(front)}" if len(front) > BEST else ""
        yield f"Score against tokens{left_out}:"
        for point in front[-BEST:]:
            text = self._cut(point.prompt.replace("\n", " "), 60)
            yield f"  {point.score:.3f} with {tokens_text(point)}: prompt {point.index}  {text}"

    def _row(self, row: PromptScore) -> str:
        cost = self._study.cost(row.usage)
        money = "-" if cost is None else f"{cost:.4f}"
        per_call = "-" if row.tokens_per_call is None else f"{row.tokens_per_call:.1f}"
        text = self._cut(row.prompt.replace("\n", " "), 60)
        return (
            f"{row.rank:>4}{row.index:>8}{row.score:>8.3f}{f'{row.tried}/{row.examples}':>10}"
            f"{row.usage.calls:>7}{row.usage.total_tokens:>9}{per_call:>10}{money:>9}  {text}"
        )

    def _row_values(self, row: PromptScore) -> dict[str, Any]:
        values, one = asdict(row), self._study.grown_at(row.index)
        origin = ("writer", "parents", "note", "round")
        return {
            "rank": values.pop("rank"), "index": values.pop("index"), "score": row.score,
            "is_full": row.is_full, **values, "cost": self._study.cost(row.usage),
            "grown": None if one is None else {name: getattr(one, name) for name in origin},
        }  # fmt: skip

    def _answer(self, answer: ScoredAnswer) -> Iterator[str]:
        score = "left out" if answer.score is None else f"score {answer.score:.3g}"
        if answer.score is None and answer.unanswered is None:
            score = "no score"
        yield f"{answer.part} {answer.index}: {score}"
        if answer.expected:
            yield f"  input:    {self._indented(answer.input)}"
            yield f"  expected: {self._indented(' | '.join(answer.expected))}"
        if answer.unanswered is not None:
            yield f"  unanswered: {self._indented(answer.unanswered)}"
        if answer.answer is not None:
            yield f"  answer:   {self._indented(answer.answer)}"
            if answer.reduced is None:
                yield "  reduced:  (cut inside its reasoning)"
            elif answer.reduced != answer.answer:
                yield f"  reduced:  {self._indented(answer.reduced)}"
        elif answer.unanswered is None:
            yield "  answer:   (not in the study)"

    def _one_line(self, text: str) -> str:
        return self._cut(text).replace("\n", " ")

    def _indented(self, text: str) -> str:
        return self._cut(text).replace("\n", "\n            ")

    def _cut(self, text: str, length: int = _CUT) -> str:
        if self._full or len(text) <= length:
            return text
        return f"{text[:length]}... ({len(text)} characters)"


def _score_text(row: PromptScore) -> str:
    if row.score is None:
        return "not scored"
    unanswered = f", {len(row.unanswered)} unanswered" if row.unanswered else ""
    return f"score {row.score:.3f} on {row.tried} of {row.examples} examples{unanswered}"
