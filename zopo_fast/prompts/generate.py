"""Where candidate prompts come from: a model shown examples, a model asked to rephrase, or lists of parts.

    found = await generate.induce(model, task.train, 200, seed=0)
    found.pool, found.usage, found.failed
    pool = generate.compose(500, seed=0, kind="sentiment")     # no model at all

All calls are begun together, a wave at a time; how many run at once is the client's to bound. Answers are
taken in the order they were asked for, so the same seed and the same answers give the same pool.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zopo_fast._utils.aio import gather_or_cancel
from zopo_fast._utils.files import MAX_SETTINGS_BYTES, UnreadableFileError, read_bytes
from zopo_fast._utils.text import parse_json, printable, short_repr
from zopo_fast.errors import ConfigError, LLMError, PoolError
from zopo_fast.llm.types import Usage
from zopo_fast.prompts.pool import Pool, normalise

if TYPE_CHECKING:
    from zopo_fast.llm.types import Answer, ChatModel, Message
    from zopo_fast.tasks.task import Example

COMPOSE_FILE = Path(__file__).with_name("compose.toml")
PARTS = ("roles", "instructions", "formats")

# The published experiments' templates (after APE, arXiv 2211.01910).
INDUCE = (
    "I gave a friend an instruction. Based on the instruction they produced the following input-output pairs:"
    "\n\n{pairs}\n\nThe instruction was"
)
PARAPHRASE = "{way}\n\nInstruction: {prompt}\n\nWrite only the new instruction."
WAYS = (
    "Generate a variation of the following instruction while keeping its meaning.",
    "Say the following instruction in other words.",
    "Make the following instruction shorter and keep its meaning.",
    "Make the following instruction more precise and keep its meaning.",
    "Rewrite the following instruction so that a child understands it.",
    "Rewrite the following instruction, and say clearly what the output should look like.",
)

ENOUGH = 8  # calls without a new prompt after which no more are made
_MAX_CHARACTERS = 2000  # an "instruction" beyond is the model rambling
_MOST_READ = 20_000  # characters of an answer: the instruction is at its beginning
_WHOLE_PRODUCT = 10**6
MOST_PROMPTS = 10**6
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "«": "»", "„": "“"}
_LEAD_IN = re.compile(
    r"\s*(?:sure|certainly|of course|okay|ok)\b[^\n:]{0,80}?[!.,:]\s+"
    r"|\s*here(?: is|'s|’s)\b[^\n:]{0,80}:\s*"
    r"|\s*(?:[-*•]|\(?\d{1,3}[.)])\s+"
    r"|\s*\*{0,4}(?:the )?(?:(?:new|rewritten|revised|shorter|variation|modified)\s+)?"
    r"(?:instruction|prompt|output|answer|task|variation)(?: was| is)?\*{0,4}\s*:\*{0,4}\s*"
    r"|\s*the instruction was(?: to)?\s+",
    re.IGNORECASE,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generated:
    """What a model wrote: the pool, what it cost, and how many calls failed for good."""

    pool: Pool
    usage: Usage
    failed: int = 0


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
    """Ask `model` which instruction produced `demonstrations` of the `examples`, until `n` distinct answers.

    Every call sees another seeded subsample in another order. At most `max_calls` (default 4 n) calls are
    made; where they do not suffice the pool is smaller, with a warning. Raises `ConfigError`, the `LLMError`
    where every call failed, `PoolError` where no answer could be used.
    """
    _counted(n=n, demonstrations=demonstrations)
    if not examples:
        raise ConfigError("induce needs at least one example")
    if "{pairs}" not in template:
        raise ConfigError("the template of induce has to hold {pairs}")
    rng = random.Random(seed)

    def request(_: int) -> str:
        shown = rng.sample(list(examples), min(demonstrations, len(examples)))
        pairs = "\n\n".join(f"Input: {example.input}\nOutput: {example.outputs[0]}" for example in shown)
        return template.replace("{pairs}", pairs)

    return await _collect(model, request, n, max_calls, exclude=frozenset())


async def paraphrase(
    model: ChatModel, prompts: Sequence[str], n: int, *, seed: int = 0, max_calls: int | None = None
) -> Generated:
    """Ask `model` for variations of `prompts`, until `n` distinct ones that are not among `prompts`.

    Prompts and ways of asking (`WAYS`) take turns in a seeded order. Otherwise as `induce`.
    """
    _counted(n=n)
    originals = Pool.from_texts(prompts).prompts
    if not originals:
        raise ConfigError("paraphrase needs at least one prompt")
    rng = random.Random(seed)
    order = rng.sample(originals, len(originals))
    ways = [rng.sample(WAYS, len(WAYS)) for _ in order]

    def request(number: int) -> str:
        turn, which = divmod(number, len(order))
        # The way first: the prompt may hold {way} itself.
        way = PARAPHRASE.replace("{way}", ways[which][turn % len(WAYS)])
        return way.replace("{prompt}", order[which])

    return await _collect(model, request, n, max_calls, exclude=frozenset(originals))


def compose(
    n: int,
    seed: int = 0,
    lists: Mapping[str, Sequence[str]] | str | Path | None = None,
    *,
    kind: str = "general",
) -> Pool:
    """Return `n` distinct prompts of role, instruction and output format: a seeded sample of the product.

    `lists`: the parts, `{"roles": [...], "instructions": [...], "formats": [...]}` (roles and formats may be
    left out), or a TOML or JSON file that holds them, at its top or in a table per `kind`; default
    `COMPOSE_FILE`, whose kinds are general, sentiment, rhymes and cause_and_effect. Where there are fewer
    than `n` combinations all are returned, shuffled, with a warning. Raises `ConfigError`.
    """
    _counted(n=n)
    if n > MOST_PROMPTS:
        raise ConfigError(f"n must be at most {MOST_PROMPTS}, got {n}")
    parts = _parts(lists, kind)
    size = len(parts[0]) * len(parts[1]) * len(parts[2])
    if size >= 2**63:
        raise ConfigError(f"the lists have {size} combinations, more than can be counted through")
    rng = random.Random(seed)
    # All of a product of common size; of a huge one enough to make up for what reads the same in the end.
    order = rng.sample(range(size), size if size <= _WHOLE_PRODUCT else min(size, 2 * n))
    chosen: dict[str, None] = {}
    for number in order:
        rest, third = divmod(number, len(parts[2]))
        first, second = divmod(rest, len(parts[1]))
        words = (parts[0][first], parts[1][second], parts[2][third])
        chosen.setdefault(normalise(" ".join(word for word in words if word)))
        if len(chosen) == n:
            break
    if len(chosen) < n:
        _log.warning("compose: %d prompts were asked for, the lists give %d", n, len(chosen))
    return Pool.from_texts(list(chosen))


def kind_of(task_name: str) -> str:
    """Return the kind of `COMPOSE_FILE` that is made for a task of that name, else "general"."""
    name = task_name.lower().replace("-", "_").replace(" ", "_")
    kinds = [kind for kind in _document(COMPOSE_FILE) if kind in name]
    return max(kinds, key=len, default="general")


def clean(text: str) -> str:
    """Return the instruction in a model's answer, or "": no lead-in, numbering, quotes, later paragraphs."""
    text = text[:_MOST_READ]
    text = re.sub(r"^\s*```\w*\n(.*?)\n?```.*$", r"\1", text, flags=re.DOTALL)
    paragraphs = re.split(r"\n\s*\n", text.strip())
    for paragraph in paragraphs:
        found = normalise(_peeled(paragraph))
        if found:
            return found if len(found) <= _MAX_CHARACTERS else ""
    return ""


def _peeled(text: str) -> str:
    """Strip lead-ins and quotes for as long as there are any."""
    while True:
        before = text = text.strip()
        if match := _LEAD_IN.match(text):
            text = text[match.end() :]
        if text.startswith("**") and text.endswith("**") and len(text) > 4:
            text = text[2:-2]
        closing = _QUOTES.get(text[:1])
        if closing and len(text) > 1 and text.find(closing, 1) == len(text) - 1:
            text = text[1:-1]
        if text == before:
            return text


async def _collect(
    model: ChatModel,
    request: Callable[[int], str],
    n: int,
    max_calls: int | None,
    *,
    exclude: frozenset[str],
) -> Generated:
    """Ask `request(0)`, `request(1)`, ... in waves until `n` distinct answers or `max_calls` calls."""
    limit = 4 * n if max_calls is None else max_calls
    _counted(max_calls=limit)
    found: list[str] = []
    distinct: set[str] = set()
    errors: list[LLMError] = []
    usage = Usage()
    asked = 0
    while len(distinct) < n and asked < limit:
        numbers = range(asked, min(limit, asked + n - len(distinct)))
        asked = numbers.stop
        before = len(distinct)
        outcomes = await gather_or_cancel([_ask(model, request(number)) for number in numbers])
        answers = [outcome for outcome in outcomes if not isinstance(outcome, LLMError)]
        errors += [outcome for outcome in outcomes if isinstance(outcome, LLMError)]
        for answer in answers:
            usage += answer.usage
            prompt = clean(answer.text)
            if prompt and prompt not in exclude and (len(distinct) < n or prompt in distinct):
                found.append(prompt)
                distinct.add(prompt)
        if not answers and not found:
            raise errors[0]  # nothing answers: no use in asking on
        if len(distinct) == before and len(numbers) >= ENOUGH:
            break  # the model repeats itself: more calls would only cost
    if errors:
        _log.warning("%d of %d calls failed, the first: %s", len(errors), asked, printable(str(errors[0])))
    if not found:
        raise PoolError(f"none of the model's {asked} answers holds an instruction that is new")
    if len(distinct) < n:
        _log.warning("%d prompts were asked for, %d calls gave %d distinct ones", n, asked, len(distinct))
    return Generated(Pool.from_texts(found), usage, len(errors))


async def _ask(model: ChatModel, content: str) -> Answer | LLMError:
    message: Message = {"role": "user", "content": content}
    try:
        return await model.chat([message])
    except LLMError as error:
        return error


def _parts(lists: Mapping[str, Sequence[str]] | str | Path | None, kind: str) -> list[list[str]]:
    """Roles, instructions and formats, each without repetitions."""
    source = "lists" if isinstance(lists, Mapping) else str(lists or COMPOSE_FILE.name)
    table = lists if isinstance(lists, Mapping) else _table(Path(lists or COMPOSE_FILE), kind)
    if unknown := [key for key in table if key not in PARTS]:
        raise ConfigError(f"{source}: unknown {short_repr(unknown[0])}; there are {', '.join(PARTS)}")
    parts = []
    for name in PARTS:
        values = table.get(name, [""])
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ConfigError(f"{source}: {name} has to be a list of strings")
        if not values or not all(isinstance(value, str) for value in values):
            raise ConfigError(f"{source}: {name} has to be a list of strings that is not empty")
        parts.append(list(dict.fromkeys(normalise(value) for value in values)))
    if not any(parts[1]):
        raise ConfigError(f"{source}: instructions are missing")
    if "" in parts[1]:
        raise ConfigError(f"{source}: an instruction is empty")
    return parts


def _table(path: Path, kind: str) -> Mapping[str, Any]:
    """The parts in a file: those of `kind`, or its top level where it holds the lists themselves."""
    document = _document(path)
    if any(name in document for name in PARTS):
        return document
    table = document.get(kind)
    if not isinstance(table, dict):
        there = ", ".join(map(str, document)) or "none"
        raise ConfigError(f"{path}: no table {short_repr(kind)}; there are {there:.200}")
    return table


def _document(path: Path) -> dict[str, Any]:
    try:
        text = read_bytes(path, MAX_SETTINGS_BYTES).decode("utf-8-sig")
        if path.suffix.lower() == ".json":
            document = parse_json(text)
        else:
            import tomllib

            document = tomllib.loads(text)
    except UnreadableFileError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, TOML or JSON
        raise ConfigError(f"{path}: not a TOML or JSON file: {short_repr(str(error), 200)}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: has to hold tables with {', '.join(PARTS)}")
    return document


def _counted(**numbers: int) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} must be an integer of at least 1, not {short_repr(value)}")
        if value > MOST_PROMPTS * 100:
            raise ConfigError(f"{name} must be at most {MOST_PROMPTS * 100}, got {short_repr(value)}")
