"""Generate candidate prompts with a model, from examples or other prompts, or compose them from parts.

    found = await generate.induce(model, task.train, 200, seed=0)
    found.pool, found.usage, found.failed, found.refused
    pool = generate.compose(500, seed=0, kind="sentiment")     # without a model

Calls are made in rounds, all calls of a round concurrently; the client limits how many are in flight. Answers
are processed in the order of the requests, so the same seed and the same answers give the same pool.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zopo_fast._utils.aio import gather_or_cancel
from zopo_fast._utils.text import printable, short_repr
from zopo_fast.errors import ConfigError, LLMError, PoolError
from zopo_fast.llm.types import Usage
from zopo_fast.prompts.pool import Pool, normalise
from zopo_fast.prompts.writing.asking import ask, instruction_in
from zopo_fast.prompts.writing.messages import WAYS, paraphrase_message
from zopo_fast.prompts.writing.parts import COMPOSE_FILE, parts_document, read_parts

if TYPE_CHECKING:
    from pathlib import Path

    from zopo_fast.llm.types import Answer, ChatModel
    from zopo_fast.tasks.task import Example

# Template of the published experiments (after APE, arXiv 2211.01910).
INDUCE = (
    "I gave a friend an instruction. Based on the instruction they produced the following input-output pairs:"
    "\n\n{pairs}\n\nThe instruction was"
)
MIN_FRUITLESS_CALLS = 8  # a round of this size without a new prompt is the last one
MAX_PROMPTS = 10**6
_MAX_SHUFFLED = 10**6  # combinations of parts that are shuffled as a whole
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generated:
    """Prompts that a model wrote.

    Attributes:
        pool: the prompts.
        usage: of all calls.
        failed: number of calls that failed after their retries.
        refused: number of answers that refused, or asked back, instead of giving an instruction.
        cut: number of answers cut by the limit of tokens inside their reasoning or instruction.
        calls: number of calls made.
        first_refusal: text of the first refusal.
    """

    pool: Pool
    usage: Usage
    failed: int = 0
    refused: int = 0
    cut: int = 0
    calls: int = 0
    first_refusal: str = field(default="", repr=False)

    @property
    def skipped(self) -> str:
        """Counts of refused and cut answers, as the end of a sentence; "" if there are none."""
        return _skipped(self.refused, self.cut, self.first_refusal)


async def induce(
    model: ChatModel,
    examples: Sequence[Example],
    n: int,
    *,
    demonstrations: int = 5,
    seed: int = 0,
    max_calls: int | None = None,
    template: str = INDUCE,
) -> Generated:
    """Generate prompts by asking a model which instruction produced some examples.

    Every call shows another random sample of the examples in another order. If `max_calls` calls give fewer
    than `n` distinct prompts, the pool is smaller and a warning is logged.

    Args:
        model: writes the prompts.
        examples: of the task.
        n: number of distinct prompts.
        demonstrations: examples shown in a call.
        seed: of the samples.
        max_calls: maximum number of calls; None: 4 n.
        template: text of a call, with {pairs} where the examples go.

    Raises:
        ConfigError: a number is out of range, there is no example, or the template lacks {pairs}.
        LLMError: every call failed.
        PoolError: no answer holds an instruction.
    """
    _check_counts(n=n, demonstrations=demonstrations)
    if not examples:
        raise ConfigError("induce needs at least one example")
    if "{pairs}" not in template:
        raise ConfigError("the template of induce must hold {pairs}")
    rng = random.Random(seed)

    def request(_: int) -> str:
        shown = rng.sample(list(examples), min(demonstrations, len(examples)))
        pairs = "\n\n".join(f"Input: {example.input}\nOutput: {example.outputs[0]}" for example in shown)
        return template.replace("{pairs}", pairs)

    return await _collect(model, request, n, max_calls, exclude=frozenset())


async def paraphrase(
    model: ChatModel, prompts: Sequence[str], n: int, *, seed: int = 0, max_calls: int | None = None
) -> Generated:
    """Generate prompts by asking a model for variations of other prompts.

    Calls cycle through the prompts and through WAYS, the kinds of variation, in a random order. If
    `max_calls` calls give fewer than `n` new prompts, the pool is smaller and a warning is logged.

    Args:
        model: writes the variations.
        prompts: originals, which the pool does not hold.
        n: number of distinct new prompts.
        seed: of the order.
        max_calls: maximum number of calls; None: 4 n.

    Raises:
        ConfigError: a number is out of range, or there is no prompt.
        LLMError: every call failed.
        PoolError: no answer holds a new instruction.
    """
    _check_counts(n=n)
    originals = Pool.from_texts(prompts).prompts
    if not originals:
        raise ConfigError("paraphrase needs at least one prompt")
    rng = random.Random(seed)
    order = rng.sample(originals, len(originals))
    ways = [rng.sample(WAYS, len(WAYS)) for _ in order]

    def request(number: int) -> str:
        turn, which = divmod(number, len(order))
        return paraphrase_message(ways[which][turn % len(WAYS)], order[which])

    return await _collect(model, request, n, max_calls, exclude=frozenset(originals))


def compose(
    n: int,
    seed: int = 0,
    lists: Mapping[str, Sequence[str]] | str | Path | None = None,
    *,
    kind: str = "general",
) -> Pool:
    """Compose prompts of a role, an instruction and an output format.

    The prompts are a random sample of all combinations. If there are fewer than `n` distinct combinations,
    all are returned in random order, and a warning is logged.

    Args:
        n: number of distinct prompts, at most MAX_PROMPTS.
        seed: of the sample.
        lists: the parts, `{"roles": [...], "instructions": [...], "formats": [...]}`, of which roles and
            formats are optional; or a TOML or JSON file with these lists, at its top level or in one table a
            kind; None: COMPOSE_FILE.
        kind: table of the file. COMPOSE_FILE has general, sentiment, rhymes and cause_and_effect.

    Raises:
        ConfigError: a number is out of range, or the parts are missing or malformed.
    """
    _check_counts(n=n)
    if n > MAX_PROMPTS:
        raise ConfigError(f"n must be at most {MAX_PROMPTS}, got {n}")
    parts = read_parts(lists, kind)
    size = len(parts[0]) * len(parts[1]) * len(parts[2])
    if size >= 2**63:
        raise ConfigError(f"the lists have {size} combinations; at most 2**63 - 1 are supported")
    rng = random.Random(seed)
    # Sample 2 n of a huge number of combinations: some may give the same text after normalisation.
    order = rng.sample(range(size), size if size <= _MAX_SHUFFLED else min(size, 2 * n))
    chosen: dict[str, None] = {}
    for number in order:
        rest, third = divmod(number, len(parts[2]))
        first, second = divmod(rest, len(parts[1]))
        words = (parts[0][first], parts[1][second], parts[2][third])
        chosen.setdefault(normalise(" ".join(word for word in words if word)))
        if len(chosen) == n:
            break
    if len(chosen) < n:
        _log.warning("compose: %d prompts were requested, the lists give %d", n, len(chosen))
    return Pool.from_texts(list(chosen))


def kind_of(task_name: str) -> str:
    """Return the kind of COMPOSE_FILE that occurs in the name of a task, else "general"."""
    name = task_name.lower().replace("-", "_").replace(" ", "_")
    kinds = [kind for kind in parts_document(COMPOSE_FILE) if kind in name]
    return max(kinds, key=len, default="general")


def _skipped(refused: int, cut: int, first_refusal: str) -> str:
    said = []
    if refused:
        said.append(f"; {refused} refused, the first: {short_repr(printable(first_refusal), 120)}")
    if cut:
        said.append(f"; {cut} cut by the limit of tokens: raise max_tokens, --generate-max-tokens")
    return "".join(said)


class _Counts:
    """Answers that give no prompt, by reason."""

    def __init__(self) -> None:
        self.refused = 0
        self.cut = 0
        self.first_refusal = ""

    def prompt_of(self, answer: Answer) -> str:
        """Return the instruction in an answer; "" and a count if there is none."""
        prompt, problem, text = instruction_in(answer)
        if problem == "cut":
            self.cut += 1
        elif problem == "refused":
            self.refused += 1
            self.first_refusal = self.first_refusal or text
        return prompt


async def _collect(
    model: ChatModel,
    request: Callable[[int], str],
    n: int,
    max_calls: int | None,
    *,
    exclude: frozenset[str],
) -> Generated:
    """Send `request(0)`, `request(1)`, ... in rounds until `n` distinct prompts or `max_calls` calls."""
    limit = 4 * n if max_calls is None else max_calls
    _check_counts(max_calls=limit)
    found: list[str] = []
    distinct: set[str] = set()
    errors: list[LLMError] = []
    usage = Usage()
    asked = 0
    counts = _Counts()
    while len(distinct) < n and asked < limit:
        numbers = range(asked, min(limit, asked + n - len(distinct)))
        asked = numbers.stop
        before = len(distinct)
        outcomes = await gather_or_cancel([ask(model, request(number)) for number in numbers])
        answers = [outcome for outcome in outcomes if not isinstance(outcome, LLMError)]
        errors += [outcome for outcome in outcomes if isinstance(outcome, LLMError)]
        for answer in answers:
            usage += answer.usage
            prompt = counts.prompt_of(answer)
            if prompt and prompt not in exclude and (len(distinct) < n or prompt in distinct):
                found.append(prompt)
                distinct.add(prompt)
        if not answers and not found:
            raise errors[0]  # every call fails: more calls would fail too
        if len(distinct) == before and len(numbers) >= MIN_FRUITLESS_CALLS:
            break  # the model repeats itself: more calls would only cost money
    if errors:
        _log.warning("%d of %d calls failed, the first: %s", len(errors), asked, printable(str(errors[0])))
    skipped = _skipped(counts.refused, counts.cut, counts.first_refusal)
    if not found:
        raise PoolError(f"none of {asked} answers of the model holds a new instruction{skipped}")
    if len(distinct) < n:
        _log.warning(
            "%d prompts were requested, %d calls gave %d distinct ones%s", n, asked, len(distinct), skipped
        )
    return Generated(
        Pool.from_texts(found), usage, len(errors), counts.refused, counts.cut, asked, counts.first_refusal
    )


def _check_counts(**numbers: int) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} must be an integer of at least 1, not {short_repr(value)}")
        if value > MAX_PROMPTS * 100:
            raise ConfigError(f"{name} must be at most {MAX_PROMPTS * 100}, got {short_repr(value)}")
