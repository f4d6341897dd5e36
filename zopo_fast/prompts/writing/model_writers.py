"""Writers that ask a model: variations, combinations, rewriting from failures, shortening."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import combinations, islice
from typing import ClassVar, NamedTuple

from zopo_fast._utils.aio import gather_or_cancel
from zopo_fast._utils.checks import as_count
from zopo_fast._utils.public import public
from zopo_fast._utils.text import printable, short_repr
from zopo_fast.errors import LLMError
from zopo_fast.llm.adapter import ModelLike, as_chat_model
from zopo_fast.llm.types import Answer, CallKey, ChatModel, Usage
from zopo_fast.prompts.writing.asking import ask, instruction_in
from zopo_fast.prompts.writing.messages import (
    SHORTER_WAYS,
    WAYS,
    crossover_message,
    paraphrase_message,
    rewrite_message,
)
from zopo_fast.prompts.writing.types import Draft, Parent, WriteRequest, Written

MIN_WORDS = 4  # of a prompt that is worth shortening
_SLOTS = 8  # calls at once of a function that does not say how many


class _Call(NamedTuple):
    """Message to the model, and what its answer is."""

    content: str
    parents: tuple[Parent, ...]
    note: str


class _ModelWriter(ABC):
    """Writer that asks a model for each draft; the messages of a request are distinct.

    The calls of a request run concurrently; the model limits how many are in flight. Each call has a key of
    its own, made of the writer's name, the seed of the request and the number of the call, so that a study
    replays it. The calls of two requests with the same seed in one study would be mistaken for each other.
    """

    name: str
    calls: int = 1

    def __init__(self, model: ModelLike | ChatModel) -> None:
        self._model = as_chat_model(model, _SLOTS, "the writer's model")

    async def write(self, request: WriteRequest) -> Written:
        """Ask for up to `request.n` drafts, one a call.

        Raises:
            ConfigError: `request.n` is no count.
            LLMError: every call failed.
            LimitReachedError: the account of the model has no room for a call.
        """
        n = as_count("n", request.n)
        rng = random.Random(request.seed)
        calls = list(islice(_distinct(self._calls(request, rng)), n))
        part = f"write {self.name} {request.seed}"
        keys = [CallKey(part, call.parents[0].prompt, number) for number, call in enumerate(calls)]
        outcomes = await gather_or_cancel(
            [ask(self._model, call.content, key) for call, key in zip(calls, keys, strict=True)]
        )
        errors = [outcome for outcome in outcomes if isinstance(outcome, LLMError)]
        if errors and len(errors) == len(calls):
            raise errors[0]  # every call fails: the model cannot be used
        usage = Usage()
        drafts: list[Draft] = []
        rejected: list[str] = []
        for call, outcome in zip(calls, outcomes, strict=True):
            if isinstance(outcome, Answer):
                usage += outcome.usage
                prompt, reason = self._prompt_of(outcome, call)
            else:
                usage += getattr(outcome, "usage", Usage())  # of a probe
                prompt, reason = "", f"the call failed: {short_repr(printable(str(outcome)), 200)}"
            if prompt:
                drafts.append(Draft(prompt, tuple(parent.index for parent in call.parents), call.note))
            else:
                rejected.append(reason)
        return Written(tuple(drafts), usage, tuple(rejected))

    def _prompt_of(self, answer: Answer, call: _Call) -> tuple[str, str]:
        """Return the prompt in an answer; "" and the reason if there is none."""
        prompt, problem, text = instruction_in(answer)
        if problem == "cut":
            return "", "the answer is cut by the limit of tokens: raise max_tokens"
        if problem == "refused":
            return "", f"the model refused: {short_repr(printable(text[:200]), 120)}"
        if problem == "none":
            return "", f"the answer holds no instruction: {short_repr(printable(text[:200]), 120)}"
        return self._checked(prompt, call)

    def _checked(self, prompt: str, call: _Call) -> tuple[str, str]:
        """Return the prompt; "" and a reason if it is not what was asked for."""
        return prompt, ""

    @abstractmethod
    def _calls(self, request: WriteRequest, rng: random.Random) -> Iterator[_Call]:
        """Yield the calls in the order of their promise; duplicates are left out."""


def _distinct(calls: Iterator[_Call]) -> Iterator[_Call]:
    seen: set[str] = set()
    for call in calls:
        if call.content not in seen:
            seen.add(call.content)
            yield call


class _WaysWriter(_ModelWriter):
    """Writer whose messages ask for a change of one prompt in one of several ways."""

    ways: ClassVar[Sequence[str]]

    def _calls(self, request: WriteRequest, rng: random.Random) -> Iterator[_Call]:
        parents = [parent for parent in request.parents if self._takes(parent)]
        orders = [rng.sample(range(len(self.ways)), len(self.ways)) for _ in parents]
        for turn in range(len(self.ways)):
            for parent, order in zip(parents, orders, strict=True):
                way = order[turn]
                yield _Call(paraphrase_message(self.ways[way], parent.prompt), (parent,), f"way {way + 1}")

    def _takes(self, parent: Parent) -> bool:
        return True


@public
class Paraphraser(_WaysWriter):
    """Writer that asks a model for variations of one parent.

        writer = zf.Paraphraser(zf.LocalModel())

    The parents take turns, best first. Each parent can be varied in six ways, in random order.

    Args:
        model: a client with `chat`, or a function `messages -> text`.

    Raises:
        ConfigError: `model` is no model.
    """

    name = "paraphrase"
    ways = WAYS


@public
class Shortener(_WaysWriter):
    """Writer that asks a model for a shorter form of one parent; a draft that is not shorter is rejected.

    The parents take turns, best first; those of fewer than four words are skipped.

    Args:
        model: a client with `chat`, or a function `messages -> text`.

    Raises:
        ConfigError: `model` is no model.
    """

    name = "shorten"
    ways = SHORTER_WAYS

    def _takes(self, parent: Parent) -> bool:
        return len(parent.prompt.split()) >= MIN_WORDS

    def _checked(self, prompt: str, call: _Call) -> tuple[str, str]:
        before = len(call.parents[0].prompt)
        if len(prompt) >= before:
            return "", f"the draft is not shorter: {len(prompt)} characters from {before}"
        return prompt, ""


@public
class Crossover(_ModelWriter):
    """Writer that asks a model to combine two parents; the best pairs come first.

    Args:
        model: a client with `chat`, or a function `messages -> text`.

    Raises:
        ConfigError: `model` is no model.
    """

    name = "crossover"

    def _calls(self, request: WriteRequest, rng: random.Random) -> Iterator[_Call]:
        pairs = sorted(combinations(range(len(request.parents)), 2), key=sum)
        swapped = [rng.random() < 0.5 for _ in pairs]
        for swaps in (swapped, [not swap for swap in swapped]):  # each pair in both orders
            for (better, worse), swap in zip(pairs, swaps, strict=True):
                first, second = (worse, better) if swap else (better, worse)
                parents = (request.parents[better], request.parents[worse])
                content = crossover_message(request.parents[first].prompt, request.parents[second].prompt)
                yield _Call(content, parents, "")


@public
class FailureRewriter(_ModelWriter):
    """Writer that asks a model to rewrite a parent, and shows what it answered wrongly.

    Each call shows another random sample of the parent's failures, as lines of JSON. The parents with
    failures take turns, best first; without any, there is no draft.

    Args:
        model: a client with `chat`, or a function `messages -> text`.
        shown: failures in a call.

    Raises:
        ConfigError: `model` is no model, or `shown` is no integer of at least 1.
    """

    name = "rewrite"

    def __init__(self, model: ModelLike | ChatModel, shown: int = 5) -> None:
        super().__init__(model)
        self._shown = as_count("shown", shown, 1)

    def _calls(self, request: WriteRequest, rng: random.Random) -> Iterator[_Call]:
        parents = [parent for parent in request.parents if parent.failures]
        for _ in range(request.n):
            for parent in parents:
                failures = rng.sample(parent.failures, min(self._shown, len(parent.failures)))
                note = f"{len(failures)} failures"
                yield _Call(rewrite_message(parent.prompt, failures), (parent,), note)
