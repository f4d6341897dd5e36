"""Upper bounds of calls, tokens and cost of a run, before it makes a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zopo_fast.llm import tokens
from zopo_fast.llm.bodies import ANSWER_BODY, JUDGE_BODY, WRITER_BODY
from zopo_fast.prompts.writing.demonstrations import layout_of
from zopo_fast.runs.config import RunConfig
from zopo_fast.runs.growth.describe import space_of, with_reserve
from zopo_fast.scoring.judge import DEFAULT_RUBRIC
from zopo_fast.tasks.task import Task

UNKNOWN_PROMPT_TOKENS = 40  # assumed for a prompt that is not generated yet
EMBED_BATCH = 64  # prompts embedded in one call
MAX_SAMPLE = 50  # prompts whose tokens are counted


@dataclass(frozen=True)
class Estimate:
    """Upper bounds of a run; a perfect score or a target may end it earlier.

    Attributes:
        calls: of all models.
        prompt_tokens: tokens in.
        completion_tokens: tokens out; None where nothing limits the length of an answer.
        estimated: True if the tokens were not counted with the vocabulary of the model.
        price: in the unit of the given prices; None without prices or without a limit of the tokens out.
    """

    calls: int
    prompt_tokens: int
    completion_tokens: int | None
    estimated: bool
    price: float | None

    def __str__(self) -> str:
        about = "about " if self.estimated else ""
        out = "no limit of the" if self.completion_tokens is None else f"at most {self.completion_tokens}"
        text = f"at most {self.calls} calls, {about}{self.prompt_tokens} tokens in, {out} tokens out"
        return text if self.price is None else f"{text}, at most {self.price:.4f} in money"


def estimate(
    task: Task,
    prompts: Sequence[str],
    config: RunConfig,
    *,
    model: str | None = None,
    max_tokens: int | None = ANSWER_BODY["max_tokens"],
    judge_max_tokens: int | None = JUDGE_BODY["max_tokens"],
    writer_max_tokens: int | None = WRITER_BODY["max_tokens"],
    generate: int = 0,
    writes: bool = False,
    embed: int = 0,
    embed_batch: int = EMBED_BATCH,
    prices: tuple[float, float] | None = None,
) -> Estimate:
    """Return upper bounds of the calls of a run, their tokens and their cost.

    Args:
        task: what prompts are scored on.
        prompts: the pool; empty if it is not generated yet.
        config: budget and comparisons.
        model: name of the model, for its vocabulary; None: the embedded model.
        max_tokens: maximum length of an answer; None: nothing limits it.
        judge_max_tokens: maximum length of a judge's answer; None: nothing limits it.
        writer_max_tokens: maximum length of an answer with prompts; None: nothing limits it.
        generate: calls that generate the pool.
        writes: whether a model writes new prompts; its calls are among those of the budget.
        embed: prompts embedded by an endpoint, in calls of `embed_batch`.
        prices: of a million tokens in and out.
    """
    task = with_reserve(task, config.demonstrations)
    space = space_of(task)
    layout = layout_of(task)
    examples = [*task.train, *task.heldout]

    def longest(prompt: str) -> str:  # of a search over demonstrations, every call may hold the longest
        return prompt if space is None else space.render(space.split(prompt)[0], space.longest)

    counted = [
        tokens.count_messages(
            layout.render(longest(prompt), example.input, task.demonstrations, example.columns), model
        )
        for prompt in (list(prompts[:: max(1, len(prompts) // MAX_SAMPLE)]) or [""])
        for example in examples[:: max(1, len(examples) // 20)]
    ]
    per_call = sum(c.tokens for c in counted) / len(counted) + (0 if prompts else UNKNOWN_PROMPT_TOKENS)

    scored = config.budget * len(task.train)
    if config.races(task):
        scored = config.calls_of_race(task)
    compared = (3 + config.compare_random + (config.prefer_short is not None)) * config.heldout
    calls = scored * (2 if config.compare_random else 1) + compared * len(task.heldout)
    induced = sum(len(e.input) + len(e.outputs[0]) for e in task.train[:5]) // 4 + UNKNOWN_PROMPT_TOKENS
    written = int(config.growth.share * scored) if writes else 0
    tokens_in = round(calls * per_call) + (generate + written) * induced
    answers = [(calls, max_tokens), (generate + written, writer_max_tokens)]
    if task.metric == "judge":  # its messages hold the rubric, the example and the answer
        rubric = tokens.count_tokens(config.rubric or DEFAULT_RUBRIC, model).tokens
        # Without a limit, assume an answer as long as the default allows.
        graded = ANSWER_BODY["max_tokens"] if max_tokens is None else max_tokens
        tokens_in += round(calls * (rubric + per_call + graded))
        answers.append((calls, judge_max_tokens))
        calls *= 2
    tokens_out = _sum_of_bounds(answers)
    calls += generate
    if embed:
        own = [tokens.count_tokens(p, model).tokens for p in prompts[:MAX_SAMPLE]] or [UNKNOWN_PROMPT_TOKENS]
        calls += -(-embed // embed_batch)
        tokens_in += round(embed * sum(own) / len(own))
    price = None
    if prices is not None and tokens_out is not None:
        price = (tokens_in * prices[0] + tokens_out * prices[1]) / 1e6
    # The vocabulary of the embedded model is not available here.
    estimated = model is None or not prompts or any(c.estimated for c in counted)
    return Estimate(calls, tokens_in, tokens_out, estimated, price)


def _sum_of_bounds(answers: Sequence[tuple[int, int | None]]) -> int | None:
    """Return the tokens of pairs (calls, longest answer); None where an answer has no limit."""
    total = 0
    for calls, longest in answers:
        if calls and longest is None:
            return None
        total += calls * (longest or 0)
    return total
