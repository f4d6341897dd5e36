"""Prompts with demonstrations: an instruction and a set of solved examples as one text."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from zopo_fast.errors import ConfigError, TaskError
from zopo_fast.prompts.pool import normalise
from zopo_fast.tasks import template as templates
from zopo_fast.tasks.example import Example
from zopo_fast.tasks.splits import MIN_RESERVE
from zopo_fast.tasks.task import Task

SIZES = (1, 2, 4, 8)  # of a set
SETS_PER_SIZE = 6  # one set says little of its size: which examples are shown matters as much
MAX_CHARACTERS = 4000  # of the examples of a prompt, about 1,000 tokens
MAX_CANDIDATES = 1024  # of a pool with its sets
SETS_PER_PROMPT = 4
MIN_PAIRS = 64  # of a pool of more prompts
MAX_FIRST = 3  # initial prompts that are also asked with demonstrations
SEPARATOR = "\n\n"

# Scales of the linear features: whether a prompt has demonstrations at all matters more than which.
SIZE_SCALE, MEMBER_SCALE = 0.5, 0.5

Chosen = tuple[int, ...]


class DemonstrationSpace:
    """Sets of demonstrations that a prompt may show after its instruction.

        space = DemonstrationSpace(task.reserve, task.template)
        text = space.render("Name the opposite.", (0, 3))
        assert space.split(text) == ("Name the opposite.", (0, 3))

    A text names an instruction and its demonstrations in a form that can be read. The model is sent them as
    the template shows demonstrations: as blocks of text, or as turns of the chat (`DemonstratedTemplate`).

    Args:
        reserve: Examples that are shown and never scored on.
        template: Template of the task, whose form of an input the demonstrations have.
        seed: Of the sets.
        max_characters: Longest total of a set's texts.

    Attributes:
        blocks: Text of each example of the reserve that can be shown, without repeats.
        examples: The same as examples.
        outputs: First output of each of them.
        sets: Distinct sets of 1, 2, 4 and 8 of them, as increasing positions in `blocks`. Where outputs are
            labels, a set holds each of them as often as any other, give or take one.

    Raises:
        TaskError: Fewer than two examples can be shown.
        ConfigError: The prompts of the template are whole templates, which end with no instruction.
    """

    def __init__(
        self,
        reserve: Sequence[Example],
        template: str | templates.Template,
        *,
        seed: int = 0,
        max_characters: int = MAX_CHARACTERS,
    ) -> None:
        layout = templates.resolve(template)
        if isinstance(layout, templates.VariableTemplate):
            raise ConfigError(
                "demonstrations: a search needs prompts that are instructions; those of a configuration of "
                "promptfoo are whole templates. Put the examples into the prompts"
            )
        shown: dict[str, Example] = {}
        for example in reserve:
            shown.setdefault(normalise(layout.demonstration_text(example)), example)
        # A text that ends with another one would make the end of a prompt ambiguous.
        usable = {
            text: example
            for text, example in shown.items()
            if text
            and len(text) <= max_characters
            and not any(text.endswith(SEPARATOR + other) for other in shown)
        }
        self.blocks, self.examples = tuple(usable), tuple(usable.values())
        self.outputs = tuple(example.outputs[0] for example in self.examples)
        if len(self.blocks) < MIN_RESERVE:
            raise TaskError(
                f"demonstrations: {len(self.blocks)} of {len(reserve)} examples that are not scored can be "
                f"shown (distinct, at most {max_characters} characters), at least {MIN_RESERVE} are needed: "
                "score prompts on fewer examples, or give more"
            )
        self._max_characters = max_characters
        self._ends = [SEPARATOR + text for text in self.blocks]
        self.sets = self._draw(random.Random(seed))

    # ---- text --------------------------------------------------------------------------------------

    def render(self, instruction: str, chosen: Chosen) -> str:
        """Return the normalised text of an instruction with demonstrations, in the order of `chosen`.

        Raises:
            IndexError: A position is outside the reserve.
        """
        return SEPARATOR.join([normalise(instruction), *(self.blocks[i] for i in chosen)])

    def split(self, text: str) -> tuple[str, Chosen]:
        """Return the instruction of a text and its demonstrations; () for a prompt without any."""
        chosen: list[int] = []
        while True:
            last = next((i for i, end in enumerate(self._ends) if text.endswith(end)), None)
            if last is None or last in chosen:
                return text, tuple(reversed(chosen))
            chosen.append(last)
            text = text[: -len(self._ends[last])]

    def instructions(self, texts: Iterable[str]) -> list[str]:
        """Return the instructions of texts."""
        return [self.split(text)[0] for text in texts]

    @property
    def longest(self) -> Chosen:
        """Set that costs at least as much as any set that fits; it may be too long itself."""
        by_length = sorted(range(len(self.blocks)), key=lambda i: -len(self.blocks[i]))
        chosen: list[int] = []
        while by_length and len(chosen) < SIZES[-1]:
            is_full = sum(len(self.blocks[i]) for i in chosen) >= self._max_characters
            chosen.append(by_length.pop(-1 if is_full else 0))  # each turn repeats the instruction
        return tuple(sorted(chosen))

    # ---- sets --------------------------------------------------------------------------------------

    def fits(self, chosen: Chosen) -> bool:
        """Return True for a set that is not too large."""
        length = sum(len(self.blocks[i]) for i in chosen)
        return len(chosen) <= SIZES[-1] and length <= self._max_characters

    def _draw(self, rng: random.Random) -> tuple[Chosen, ...]:
        found: dict[Chosen, None] = {}
        for size in SIZES:
            if size > len(self.blocks):
                break
            wanted = min(SETS_PER_SIZE, math.comb(len(self.blocks), size))
            for _ in range(4 * wanted):  # draws may repeat
                if sum(len(each) == size for each in found) == wanted:
                    break
                if self.fits(chosen := self.balanced(size, rng)):
                    found.setdefault(chosen)
        return tuple(found)

    def balanced(self, size: int, rng: random.Random) -> Chosen:
        """Draw a set of at most `size` that shows all labels about equally often."""
        by_output: defaultdict[str, list[int]] = defaultdict(list)
        order = rng.sample(range(len(self.blocks)), len(self.blocks))
        for i in order:
            by_output[self.outputs[i]].append(i)
        if len(by_output) > len(self.blocks) // 2:  # no labels
            return tuple(sorted(order[:size]))
        # The first of each label, then the second of each: the sort is stable.
        rank = {i: place for members in by_output.values() for place, i in enumerate(members)}
        return tuple(sorted(sorted(order, key=rank.__getitem__)[:size]))

    # ---- features ----------------------------------------------------------------------------------

    def linear(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return features of the demonstrations of k texts, for a linear part of a kernel.

        Returns:
            (k, 2 + n) array: whether there are any, the logarithm of their number, and 1 / sqrt(number) for
            each of the n examples that is among them. A text without demonstrations has zeros.
        """
        out = np.zeros((len(texts), 2 + len(self.blocks)), dtype=np.float32)
        for row, text in zip(out, texts, strict=True):
            if chosen := self.split(text)[1]:
                middle = math.log2(SIZES[-1]) / 2.0
                row[0] = 1.0
                row[1] = SIZE_SCALE * (math.log2(len(chosen)) / middle - 1.0)
                row[[2 + i for i in chosen]] = MEMBER_SCALE / math.sqrt(len(chosen))
        return out


@dataclass(frozen=True)
class Pairs:
    """Candidates of a search over instructions and demonstrations.

    Attributes:
        prompts: The pool's own, in order, then prompts with demonstrations.
        origins: Position in the pool of the prompt that each was made from; its own for the pool's.
        own: Number of the pool's own.
    """

    prompts: tuple[str, ...]
    origins: tuple[int, ...]
    own: int

    def first(self, initial: Sequence[int], space: DemonstrationSpace) -> list[int]:
        """Return what to ask first, given the initial prompts of the pool: some also with demonstrations.

        The level of the linear part is known once the same instructions have scores with demonstrations and
        without. The sets that are shown first differ in size, the largest first.
        """
        by_origin: defaultdict[int, list[int]] = defaultdict(list)
        for place in range(self.own, len(self.prompts)):
            by_origin[self.origins[place]].append(place)
        # In a pool of a thousand prompts, only some have sets: these follow the initial ones.
        both = [*(i for i in initial if i in by_origin), *(i for i in by_origin if i not in initial)]
        asked, sizes = list(initial), set[int]()
        for origin in both[:MAX_FIRST]:
            size = {place: len(space.split(self.prompts[place])[1]) for place in by_origin[origin]}
            unseen = {place: number for place, number in size.items() if number not in sizes} or size
            best = max(unseen, key=unseen.__getitem__)
            sizes.add(size[best])
            asked += [best] if origin in asked else [origin, best]
        return asked


def most_pairs(prompts: int) -> int:
    """Return the largest number of candidates with demonstrations beside a number of prompts."""
    return min(max(MAX_CANDIDATES - prompts, MIN_PAIRS), SETS_PER_PROMPT * prompts)


def initial_pairs(prompts: Sequence[str], space: DemonstrationSpace, *, seed: int = 0) -> Pairs:
    """Return a pool's prompts and some of them with sets of demonstrations, at most 1,024 in all.

    A larger pool keeps all its prompts, and 64 of them get a set.

    Args:
        prompts: Of the pool, normalised.
        space: Its sets are dealt out evenly.
        seed: Of the choice.
    """
    rng = random.Random(seed)
    room = most_pairs(len(prompts))
    texts, origins, known = list(prompts), list(range(len(prompts))), set(prompts)
    dealt: list[Chosen] = []
    # One set for each prompt before any gets a second one.
    order = [i for _ in range(SETS_PER_PROMPT) for i in rng.sample(range(len(prompts)), len(prompts))]
    for origin in order:
        if len(texts) - len(prompts) == room:
            break
        instruction = space.split(prompts[origin])[0]
        # The next set that the prompt does not have: the rest of a deck may hold none.
        deck = [*dealt, *rng.sample(space.sets, len(space.sets))] if len(dealt) <= SETS_PER_PROMPT else dealt
        for place, chosen in enumerate(deck):
            if (text := space.render(instruction, chosen)) not in known:
                known.add(text)
                texts.append(text)
                origins.append(origin)
                dealt = [*deck[:place], *deck[place + 1 :]]
                break
    return Pairs(tuple(texts), tuple(origins), len(prompts))


@dataclass(frozen=True)
class DemonstratedTemplate(templates.Template):
    """Template of prompts that may hold demonstrations, which it shows as the given template does.

    Args:
        space: Of the demonstrations.
    """

    space: DemonstrationSpace | None = None

    @classmethod
    def of(cls, layout: templates.Template, space: DemonstrationSpace) -> DemonstratedTemplate:
        """Return the template with demonstrations."""
        return cls(layout.name, layout.messages, layout.demonstration, space)

    def render(
        self,
        prompt: str,
        input: str,
        demonstrations: Sequence[Example] = (),
        columns: Iterable[tuple[str, str]] = (),
    ) -> list[dict[str, str]]:
        """Return the messages of a call, with the demonstrations of the prompt in place of others."""
        assert self.space is not None
        instruction, chosen = self.space.split(prompt)
        shown = [self.space.examples[i] for i in chosen]
        return super().render(instruction, input, shown or demonstrations, columns)


def layout_of(task: Task) -> templates.Template:
    """Return the template of a task, which shows the demonstrations of prompts where the task has a reserve.

    Raises:
        ConfigError: The template cannot be used.
        TaskError: Too few examples of the reserve can be shown.
    """
    layout = templates.resolve(task.template)
    return _with_space(layout, task.reserve) if task.reserve else layout


@lru_cache(maxsize=8)
def _with_space(layout: templates.Template, reserve: tuple[Example, ...]) -> DemonstratedTemplate:
    return DemonstratedTemplate.of(layout, DemonstrationSpace(reserve, layout))


def messages_of(task: Task, prompt: str) -> list[dict[str, str]]:
    """Return the messages of a call with a prompt.

    `{input}` stands for the input of the example, and the name of a column in braces for that column.

    Raises:
        ConfigError: The template cannot be used.
        TaskError: Too few examples of the reserve can be shown.
    """
    layout = layout_of(task)
    if isinstance(layout, templates.VariableTemplate):
        columns = [(name, f"{{{{{name}}}}}") for name in templates.variables_of(prompt)]
    else:
        columns = [(name, f"{{{name}}}") for name in layout.columns]
    return layout.render(prompt, "{input}", task.demonstrations, columns)
