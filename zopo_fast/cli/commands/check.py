"""`zopo-fast check`: the regression check of one prompt, for continuous integration."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zopo_fast._utils.files import MAX_SETTINGS_BYTES, UnreadableFileError, read_bytes
from zopo_fast._utils.signals import run_until_terminated
from zopo_fast._utils.text import printable, short_repr
from zopo_fast.cli.group import EXIT_BELOW
from zopo_fast.cli.models import JudgeSettings, ModelSettings, settings_of
from zopo_fast.cli.options import (
    answer_options,
    dry_run_options,
    judge_options,
    limit_options,
    model_options,
    quiet_option,
    task_options,
    unanswered_option,
)
from zopo_fast.cli.params import Command, FiniteRange, option
from zopo_fast.cli.plan import announce, fit_heldout, model_text
from zopo_fast.cli.resume import given_options
from zopo_fast.cli.settings import LimitSettings, check_names, load_task, prices_of, text_or_file, with_prices
from zopo_fast.cli.terminal.progress import Progress, used
from zopo_fast.errors import InputError

if TYPE_CHECKING:
    from zopo_fast.report.check import Check, Part
    from zopo_fast.runs.config import RunConfig
    from zopo_fast.tasks.task import Task


@click.command(cls=Command, most_used=("prompt", "at_least", "model", "base_url", "dry_run", "as_json"))
@task_options
@option(
    "--prompt",
    group="Task",
    required=True,
    metavar="FILE|TEXT",
    help="Prompt to check: a file, or a text; one without a space is always the name of a file.",
)
@option(
    "--at-least",
    group="Task",
    type=FiniteRange(),
    required=True,
    help="Threshold of the score; the exit code is 1 below it.",
)
@option(
    "--all",
    "all_examples",
    group="Task",
    is_flag=True,
    help="All examples, the train ones included, to which a search has fitted its winner.",
)
@unanswered_option
@model_options
@answer_options
@judge_options
@limit_options
@dry_run_options
@option("--json", "as_json", group="Output", is_flag=True, help="One JSON object instead of text.")
@quiet_option
def check(task: Path, **options: Any) -> int:
    """Score one prompt on TASK and compare the score with a threshold.

    With the options of `optimize` for the task, the held-out examples are those of that run.
    """
    options["rubric"] = text_or_file(options["rubric"], "--rubric")
    prompt = _prompt(options["prompt"])
    loaded = fit_heldout(load_task(task, options), given_options())
    runner = CheckRunner(with_prices(options), loaded, prompt)
    if options["dry_run"]:
        click.echo(f"{runner.plan()}. No call was made.")
        return 0
    return run_until_terminated(runner.run())


def _prompt(value: str) -> str:
    """Return the text of --prompt, or that of the file it names.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        is_file = not any(map(str.isspace, value)) or Path(value).is_file()
    except (OSError, ValueError):  # a text that no path can be
        is_file = False
    if not is_file:
        return value
    try:
        return read_bytes(value, MAX_SETTINGS_BYTES).decode("utf-8-sig")
    except (UnreadableFileError, UnicodeDecodeError) as error:
        raise InputError(
            f"--prompt {short_repr(value)}: cannot be read: {error}; give a file, or a text with a space"
        ) from error


class CheckRunner:
    """One `check` command, from the parsed options to the exit code."""

    def __init__(self, options: dict[str, Any], task: Task, prompt: str) -> None:
        from zopo_fast.report.check import scored_task

        self.options, self.task, self.prompt = options, task, prompt
        self.model = settings_of(ModelSettings, options)
        self.judge = settings_of(JudgeSettings, options)
        self.limits = settings_of(LimitSettings, options)
        self.part: Part = "all" if options["all_examples"] else "heldout"
        self.scored = scored_task(task, self.part)
        self.config = self._run_config()
        check_names(task)
        self.judge.check()

    def _run_config(self) -> RunConfig:
        from zopo_fast.runs.config import RunConfig

        return RunConfig(
            budget=1,
            heldout=False,
            racing=False,
            unanswered=self.options["unanswered"],
            rubric=self.options["rubric"],
            limits=self.limits.limits(),
            prices=self.limits.prices(prices_of(self.options)),
        )

    def plan(self) -> str:
        """Return the examples to score, with upper bounds of calls, tokens and cost."""
        from zopo_fast.llm.tokens import completion_bound
        from zopo_fast.runs.cost.estimate import estimate

        bound = estimate(
            self.scored,
            [self.prompt],
            self.config,
            model=None if self.model.is_local else self.model.model,
            max_tokens=completion_bound(self.model.answer_body()),
            judge_max_tokens=completion_bound(self.judge.body(self.model).merged),
            prices=prices_of(self.options),
        )
        held = "held-out " if self.part == "heldout" and self.task.heldout else ""
        return f"check on {len(self.scored.train)} {held}examples; {bound}; {model_text(self.model)}"

    async def run(self) -> int:
        """Check the prompt, print the outcome and return the exit code."""
        announce(self.plan(), self.options["quiet"])
        progress = Progress(self.options["quiet"])
        try:
            found = await self._check(progress)
        finally:
            progress.close()
        self._report(found)
        return 0 if found.passed else EXIT_BELOW

    async def _check(self, progress: Progress) -> Check:
        from zopo_fast.report.check import check as run

        async with AsyncExitStack() as stack:
            llm = await stack.enter_async_context(self.model.opened())
            judge = await stack.enter_async_context(self.judge.opened(self.model, llm, self.task, None))
            if (cache := self.limits.open_cache()) is not None:
                stack.callback(cache.close)
            progress.phase("check")
            progress.usage = lambda: used(llm, judge if self.judge.judge_model else None)
            return await run(
                self.task,
                self.prompt,
                llm,
                self.config,
                at_least=self.options["at_least"],
                part=self.part,
                judge=judge,
                on_progress=progress.update,
                cache=cache,
            )

    def _report(self, found: Check) -> None:
        from zopo_fast.cli.terminal.summary import usage_line

        if not self.options["as_json"]:
            click.echo("\n".join(printable(line) for line in str(found).split("\n")))
            click.echo(usage_line(found.usage))
            return
        document = {
            "passed": found.passed,
            "score": found.score,
            "interval": None if found.interval is None else list(found.interval),
            "at_least": found.at_least,
            "is_clear": found.is_clear,
            "examples": len(found.answers),
            "unanswered": found.unanswered,
            "wrong": [
                {"input": each.example.input, "outputs": each.example.outputs, "answer": each.answer}
                | {"score": each.score}
                for each in found.wrong
            ],
            "usage": asdict(found.usage),
            "prompt": found.prompt,
        }
        click.echo(json.dumps(document, allow_nan=False))
