"""One run of a method: completions through the metering proxy, scores, and the best prompt so far.

Methods are synchronous and run in a thread of their own; the completions go through the event loop that
serves the proxy. A refused completion raises `RefusedError`. Frameworks catch `Exception` in many places and
carry on with invented scores, or ask for ever; `RefusedError` therefore derives from BaseException, as
KeyboardInterrupt does, and ends any of them at once.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

import zopo_fast as zf
from zopo_fast.scoring import metrics
from zopo_fast.tasks import template

from .editor import Parts

SCORED, WRITER = "scored", "writer"  # names of the two models behind the proxy
BUDGET_EXHAUSTED = "budget_exhausted"  # code of a refusal
MAX_WRITTEN = 100  # tokens of a written prompt
SLOTS = 40  # completions in flight: an evaluation on all examples


class RefusedError(BaseException):
    """The proxy refused a completion: the budget of the run is spent."""


@dataclass(frozen=True)
class Problem:
    """Inputs of every method.

    Args:
        task: train examples to score on; methods must not use the others.
        track: "scripted writer" or "local".
        seed: of initial prompts and method.
        budget: completions of the run, the writer's included.
        initial: starting prompts; methods that take one get the first.
        pool: larger fixed pool, which begins with the starting prompts.
        parts: of the scripted writer.
        max_tokens: of an answer to an example.
        embedder: of this package's methods; None: the embedded model.
    """

    task: zf.Task
    track: str
    seed: int
    budget: int
    initial: tuple[str, ...]
    pool: tuple[str, ...]
    parts: Parts
    max_tokens: int = 8
    embedder: Any = None

    @property
    def examples(self) -> int:
        """Number of train examples."""
        return len(self.task.train)


class Client:
    """Client of an OpenAI-compatible endpoint that other threads use.

    Args:
        loop: event loop of the session.
        session: HTTP session.
        url: endpoint, /v1 included.
        key: bearer token.
        slots: completions in flight.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        session: aiohttp.ClientSession,
        url: str,
        key: str,
        slots: int = SLOTS,
    ) -> None:
        self._loop, self._session, self._slots = loop, session, slots
        self.url, self.key = url, key
        self.calls: Counter[str] = Counter()

    def ask(
        self, bodies: Sequence[Mapping[str, Any]], on_answer: Callable[[int, str], None] | None = None
    ) -> list[str]:
        """Return the answers to several requests, from a thread other than the event loop's.

        Args:
            bodies: of the requests.
            on_answer: called with number and text of each answer as it arrives.

        Raises:
            RefusedError: the proxy refused one; the others have ended.
            RuntimeError: the endpoint failed.
        """
        return asyncio.run_coroutine_threadsafe(self.gather(bodies, on_answer), self._loop).result()

    async def gather(
        self, bodies: Sequence[Mapping[str, Any]], on_answer: Callable[[int, str], None] | None = None
    ) -> list[str]:
        """Return the answers to several requests; arguments and errors as of `ask`."""
        slots = asyncio.Semaphore(self._slots)
        refused = False

        async def one(number: int, body: Mapping[str, Any]) -> str | None:
            nonlocal refused
            async with slots:
                if refused:
                    return None
                text = await self._post(body)
                if text is None:
                    refused = True
                elif on_answer is not None:
                    on_answer(number, text)
                return text

        texts = await asyncio.gather(*(one(number, body) for number, body in enumerate(bodies)))
        if refused:
            raise RefusedError
        return [text for text in texts if text is not None]

    async def _post(self, body: Mapping[str, Any]) -> str | None:
        """Return the answer to a request; None for a refused one."""
        async with self._session.post(
            f"{self.url}/chat/completions", json=dict(body), headers={"Authorization": f"Bearer {self.key}"}
        ) as response:
            document = await response.json()
            if response.status == 429 and document.get("error", {}).get("code") == BUDGET_EXHAUSTED:
                return None
            if response.status != 200:
                raise RuntimeError(f"the endpoint answered {response.status}: {document}")
            self.calls[str(body["model"])] += 1
            return str(document["choices"][0]["message"]["content"] or "")


class Scorer:
    """Answers and scores of prompts on examples.

    A pair of prompt and example is asked once a run: every framework here has such a cache, and temperature
    is 0.

    Args:
        task: whose template and metric count.
        examples: of one side of the task.
        client: of the model.
        max_tokens: of an answer.

    Attributes:
        scores: by prompt and index of the example, in the order of asking.
    """

    def __init__(
        self, task: zf.Task, examples: Sequence[zf.Example], client: Client, max_tokens: int = 8
    ) -> None:
        self._client, self._examples, self._max_tokens = client, tuple(examples), max_tokens
        self._template = template.resolve(task.template)
        self._metric = metrics.resolve(task.metric)
        self._answers: dict[tuple[str, int], str] = {}
        self.scores: dict[str, dict[int, float]] = {}

    def body(self, prompt: str, example: int) -> dict[str, Any]:
        """Return the request for a prompt and an example: the task's own template, whatever the method."""
        shown = self._examples[example]
        messages = self._template.render(prompt, shown.input, (), shown.columns)
        return {"model": SCORED, "messages": messages, "max_tokens": self._max_tokens, "temperature": 0}

    def answers(self, pairs: Iterable[tuple[str, int]]) -> list[tuple[str, float]]:
        """Return answer and score of each pair of prompt and example.

        Raises:
            RefusedError: the budget is spent; what was answered before is in `scores`.
        """
        wanted = list(pairs)
        missing = [pair for pair in dict.fromkeys(wanted) if pair not in self._answers]
        if missing:
            self._client.ask(
                [self.body(*pair) for pair in missing], lambda k, text: self._keep(missing[k], text)
            )
        return [(self._answers[pair], self.scores[pair[0]][pair[1]]) for pair in wanted]

    def mean(self, prompt: str) -> float:
        """Return the mean score of a prompt on all examples."""
        found = self.answers((prompt, example) for example in range(len(self._examples)))
        return math.fsum(score for _, score in found) / len(found)

    def judge(self, text: str, example: int) -> float:
        """Return the score of an answer to an example."""
        call = self._metric(text, self._examples[example])
        try:
            call.send(None)  # built-in metrics of texts await nothing
        except StopIteration as done:
            return float(done.value)
        call.close()
        raise TypeError("the metric of a task of this comparison must not await")

    def _keep(self, pair: tuple[str, int], text: str) -> None:
        self._answers[pair] = text
        self.scores.setdefault(pair[0], {})[pair[1]] = self.judge(text, pair[1])


@dataclass
class Run:
    """A run of a method.

    Args:
        problem: what to solve.
        client: of the metering proxy.
        loop: event loop of proxy and client.

    Attributes:
        incumbents: completions so far and prompt, at each change of the best prompt.
        notes: what the record of the run should say.
    """

    problem: Problem
    client: Client
    incumbents: list[tuple[int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scorer = Scorer(self.problem.task, self.problem.task.train, self.client, self.problem.max_tokens)
        self._asked: Counter[str] = Counter()

    @property
    def calls(self) -> int:
        """Completions so far."""
        return self.client.calls.total()

    def take(self, prompt: str, calls: int | None = None) -> None:
        """State the best prompt so far.

        Args:
            prompt: its text.
            calls: completions so far, where the client does not count them.
        """
        if not self.incumbents or self.incumbents[-1][1] != prompt:
            self.incumbents.append((self.calls if calls is None else calls, prompt))

    def take_best_complete(self, examples: Sequence[int] | None = None) -> None:
        """State the best of the prompts scored on all of these examples, the first of equals.

        Args:
            examples: that count; None: all.
        """
        counted = range(self.problem.examples) if examples is None else examples
        means = {
            prompt: math.fsum(found[index] for index in counted)
            for prompt, found in self.scorer.scores.items()
            if all(index in found for index in counted)
        }
        if means:
            self.take(max(means, key=lambda prompt: means[prompt]))

    def write(self, texts: Sequence[str]) -> list[str]:
        """Return the writer's answers to meta prompts; each is a completion.

        Raises:
            RefusedError: the budget is spent.
        """
        return self.client.ask([self.writer_body(text) for text in texts])

    def writer_body(self, text: str) -> dict[str, Any]:
        """Return the request for a meta prompt. A repeated text gets another seed, so another answer."""
        seed = 1_000_003 * self.problem.seed + self._asked[text]
        self._asked[text] += 1
        return {
            "model": WRITER,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": MAX_WRITTEN,
            "temperature": 0.7,
            "seed": seed,
        }
