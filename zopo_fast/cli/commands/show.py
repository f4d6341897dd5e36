"""`zopo-fast show`: the winner, the best prompts, and the answers of one prompt of a run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zopo_fast._utils.text import json_line, printable
from zopo_fast.cli.params import FILE, Command, option
from zopo_fast.errors import StoreError

if TYPE_CHECKING:
    from zopo_fast.runs.inspection import Inspection, PromptScore, ScoredAnswer
    from zopo_fast.storage.store import Store
    from zopo_fast.tasks.task import Task

BEST = 10  # prompts in the table
_HEAD = "rank  prompt   score  examples  calls   tokens     cost  text"
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
    from zopo_fast.runs.inspection import Inspection
    from zopo_fast.storage.snapshot import snapshot
    from zopo_fast.storage.store import STUDY

    path = _study_in(folder, STUDY) if folder.is_dir() else folder
    with snapshot(path) as store:
        result = _result_of(path)
        found = Inspection(store, _task_of(store), _heldout_of(result))
        shown = _Show(store, found, result, full)
        if as_json:
            click.echo(json_line(shown.document(prompt)), nl=False)
        else:
            for line in shown.best() if prompt is None else shown.answers(prompt):
                click.echo(printable(line))
    return 0


def _study_in(folder: Path, name: str) -> Path:
    """Return the path of the study in a folder.

    Raises:
        StoreError: The folder holds landscapes and no run.
    """
    from zopo_fast.runs.landscape import LandscapeFiles

    path = folder / name
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


def _task_of(store: Store) -> Task | None:
    from zopo_fast.cli.resume import stored_task

    with suppress(StoreError):  # a study of a Python program or of `landscape`
        return stored_task(store)
    return None


def _result_of(path: Path) -> dict[str, Any]:
    """Return result.json beside a study; empty during the run."""
    from zopo_fast.runs.folder import RESULT

    with suppress(OSError, ValueError):
        document = json.loads((path.parent / RESULT).read_text(encoding="utf-8"))
        if isinstance(document, dict):
            return document
    return {}


def _heldout_of(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the comparison that have scores; a file edited by hand may hold anything."""
    rows = result.get("heldout")
    return [
        row
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict)
        and isinstance(row.get("prompt"), str)
        and isinstance(row.get("scores"), list)
        and all(isinstance(score, (int, float)) for score in row["scores"])
        and isinstance(row.get("unanswered") or {}, dict)
    ]


class _Show:
    """Lines and JSON values of a run.

    Args:
        store: Study of the run.
        found: Its scores and answers.
        result: Its result.json; empty without one.
        full: Show whole texts.
    """

    def __init__(self, store: Store, found: Inspection, result: Mapping[str, Any], full: bool) -> None:
        self._found, self._result, self._full = found, result, full
        options = store.config.get("options", {})
        self._prices = options.get("price_in"), options.get("price_out")

    def document(self, prompt: int | None) -> dict[str, Any]:
        """Return the values of `--json`."""
        if prompt is not None:
            answers = [asdict(answer) for answer in self._found.answers(prompt)]
            return {**self._row_values(self._found.prompt(prompt)), "answers": answers}
        ranked, failed = self._found.ranked(), self._found.failed()
        winner = self._winner()
        return {
            "stopped_by": self._result.get("stopped_by"),
            "winner": None if winner is None else winner.index,
            "prompts": [self._row_values(row) for row in [*ranked, *failed]],
        }

    def best(self) -> Iterator[str]:
        """Yield the lines about the winner and the best prompts."""
        ranked, failed = self._found.ranked(), self._found.failed()
        winner = self._winner()
        if winner is None or winner.score is None:
            yield f"No prompt of {len(self._found.prompts)} has a score yet."
        else:
            ended = self._result.get("stopped_by")
            yield f"Winner{'' if ended else ' so far'}: prompt {winner.index}, {_score_text(winner)}"
            yield from ("  " + line for line in self._cut(winner.prompt).split("\n"))
            yield ""
            yield _HEAD
            yield from (self._row(row) for row in ranked[:BEST])
            if len(ranked) > BEST:
                yield f"... and {len(ranked) - BEST} more"
        for row in failed[:BEST]:
            yield f"Failed: prompt {row.index}: {self._one_line(row.error or '')}"
        if len(failed) > BEST:
            yield f"... and {len(failed) - BEST} more that failed"
        yield "--prompt N shows the answers of a prompt."

    def answers(self, prompt: int) -> Iterator[str]:
        """Yield the lines about the answers of a prompt."""
        row = self._found.prompt(prompt)
        yield f"Prompt {row.index}: {_score_text(row)}" + (f", rank {row.rank}" if row.rank else "")
        yield from ("  " + line for line in self._cut(row.prompt).split("\n"))
        if row.error is not None:
            yield f"Failed: {self._one_line(row.error)}"
        for answer in self._found.answers(prompt):
            yield ""
            yield from self._answer(answer)

    # ---- internals ---------------------------------------------------------------------------------

    def _winner(self) -> PromptScore | None:
        index = self._result.get("best_index")
        if isinstance(index, int) and 0 <= index < len(self._found.prompts):
            return self._found.prompt(index)
        ranked = self._found.ranked()
        return ranked[0] if ranked else None

    def _row(self, row: PromptScore) -> str:
        cost = self._cost(row)
        money = "-" if cost is None else f"{cost:.4f}"
        text = self._cut(row.prompt.replace("\n", " "), 60)
        return (
            f"{row.rank:>4}{row.index:>8}{row.score:>8.3f}{f'{row.tried}/{row.examples}':>10}"
            f"{row.usage.calls:>7}{row.usage.total_tokens:>9}{money:>9}  {text}"
        )

    def _row_values(self, row: PromptScore) -> dict[str, Any]:
        values = asdict(row)
        return {
            "rank": values.pop("rank"), "index": values.pop("index"), "score": row.score,
            "is_full": row.is_full, **values, "cost": self._cost(row),
        }  # fmt: skip

    def _cost(self, row: PromptScore) -> float | None:
        """Return the cost in money; None without prices."""
        price_in, price_out = self._prices
        if price_in is None or price_out is None:
            return None
        usage = row.usage
        return float(usage.prompt_tokens * price_in + usage.completion_tokens * price_out) / 1e6

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
