"""DSPy optimizer that finds the instructions of a program's predictors by the runs of this package.

import dspy
from zopo_fast.integrations.dspy import ZOPO

program = dspy.ChainOfThought("question -> answer")
compiled = ZOPO(metric=exact, prompt_model=dspy.LM("openai/gpt-5-mini")).compile(program, trainset=trainset)
compiled.save("program.json")
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from zopo_fast._utils.aio import call_in_thread, run_to_end
from zopo_fast._utils.text import printable, short_repr
from zopo_fast.errors import ConfigError, MetricError, MissingDependencyError, ZopoError
from zopo_fast.llm.adapter import as_chat_model
from zopo_fast.prompts import generate
from zopo_fast.prompts.pool import Pool
from zopo_fast.runs.config import RunConfig
from zopo_fast.runs.optimize import optimize
from zopo_fast.runs.result import Result
from zopo_fast.tasks.example import Example

try:
    import dspy
    from dspy.teleprompt import Teleprompter
except ImportError as error:
    raise MissingDependencyError(
        "zopo_fast.integrations.dspy needs dspy 3.4 or later: pip install 'zopo-fast[dspy]'"
    ) from error

_log = logging.getLogger(__name__)


class ZOPO(Teleprompter):
    """DSPy optimizer that sets the instructions of a program's predictors.

    The predictors are searched one after the other, in the order of `named_predictors()`. Each is scored in
    the whole program, with the instructions found so far in the predictors before it. The present instruction
    is scored first, and stays where no candidate beats it. A full score at the upper end of `score_range`
    ends the search. An exception of the program or metric scores 0.

    The compiled program has the attribute `detailed_results`: the Result of each predictor by its name.

    Args:
        metric: DSPy metric `metric(example, prediction)`, which returns a number, a bool, or a Prediction
            with a score.
        config: Settings of the run. Its budget and calls are shared evenly by the predictors; the incumbent
            is the present instruction. Default: a budget of 50 prompts, and a `score_range` from 0 to 1.
        candidates: Instructions to choose from, or those of each predictor by its name; a predictor without
            any keeps its own. Default: `prompt_model` writes them.
        prompt_model: dspy.LM that writes candidates. Default: the LM in `dspy.settings`.
        num_candidates: Number of candidates that the model writes for each predictor.
        embedder: dspy.Embedder, function `texts -> (n, d) array`, or embedding model of this package.
            Default: the embedded model with a cache on disk.
        max_errors: Number of exceptions in a row that is scored; the next one fails the prompt. Default:
            `dspy.settings.max_errors`.
        progress: True shows a bar for each predictor.
    """

    def __init__(
        self,
        metric: Callable[..., Any],
        config: RunConfig | None = None,
        *,
        candidates: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        prompt_model: Any = None,
        num_candidates: int = 30,
        embedder: Any = None,
        max_errors: int | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__()
        self.metric, self.config = metric, config or RunConfig(score_range=(0.0, 1.0))
        self.candidates, self.prompt_model, self.num_candidates = candidates, prompt_model, num_candidates
        self.embedder, self.max_errors, self.progress = embedder, max_errors, progress

    def compile(
        self,
        student: Any,
        *,
        trainset: Sequence[Any],
        teacher: Any = None,
        valset: Sequence[Any] | None = None,
    ) -> Any:
        """Return a copy of the program with the best instructions found.

        Args:
            student: The program, which is not changed.
            trainset: Examples that the prompt model sees. Their scores decide where there is no `valset`.
            teacher: Must be None.
            valset: Examples whose scores decide.

        Raises:
            ConfigError: The program has no predictor, there are no examples or no LM that writes candidates,
                or `candidates` names an unknown predictor.
            MetricError: The first prompt failed: exceptions in a row exceeded `max_errors`.
            LLMError: Every call of the prompt model failed.
            PoolError: A predictor has no candidate beside its present instruction.
        """
        if teacher is not None:
            raise ConfigError("teacher: this optimizer learns from no teacher; leave it out")
        names = [name for name, _ in student.named_predictors()]
        if not names:
            raise ConfigError("student: the program has no predictor whose instruction could be set")
        if not len(trainset):
            raise ConfigError("trainset: expected at least one example")
        given = self._given(names)
        return run_to_end(self._compile(student, names, given, trainset, valset or trainset))

    def _given(self, names: list[str]) -> Mapping[str, Sequence[str]] | None:
        """Return the candidates of the caller by the names of predictors."""
        if self.candidates is None or isinstance(self.candidates, Mapping):
            if unknown := set(self.candidates or ()) - set(names):
                raise ConfigError(
                    f"candidates: {sorted(unknown)} are not among the predictors {names}; use their names"
                )
            return self.candidates
        if len(names) > 1:
            raise ConfigError(
                f"candidates: the program has the predictors {names}; pass a list for each name"
            )
        return {names[0]: self.candidates}

    async def _compile(
        self,
        student: Any,
        names: list[str],
        given: Mapping[str, Sequence[str]] | None,
        trainset: Sequence[Any],
        scored: Sequence[Any],
    ) -> Any:
        program, results = student.deepcopy(), dict[str, Result]()
        searched = [name for name in names if given is None or name in given]
        for name in searched:
            present = _predictors(program)[name].signature.instructions
            candidates = given[name] if given else await self._written(_predictors(program)[name], trainset)
            pool = Pool.from_texts([present, *candidates])
            scores = _Scores(program, name, self.metric, self._max_errors, self.config.score_range)
            try:
                result = results[name] = await optimize(
                    scores.score,
                    pool,
                    None,
                    self._shared(len(searched), pool, present),
                    examples=scored,
                    embedder=_as_embedder(self.embedder),
                    progress=self.progress,
                )
            finally:
                await scores.settled()
            program = _with_instruction(program, name, result.best_prompt)
            if result.stopped_by == "error":
                _log.warning("%s: the run ended early: %s", name, printable(str(result.error)))
        program._compiled = True
        program.detailed_results = results
        return program

    @property
    def _max_errors(self) -> int:
        return int(dspy.settings.max_errors if self.max_errors is None else self.max_errors)

    def _shared(self, predictors: int, pool: Pool, present: str) -> RunConfig:
        """Return the settings of the run of one predictor."""
        config = self.config
        budget = min(max(2, config.budget // predictors), len(pool))
        calls = None if config.calls is None else max(1, config.calls // predictors)
        target = config.target
        if target is None and config.stop_at_perfect and config.score_range:
            target = config.score_range[1]
        return replace(config, budget=budget, calls=calls, incumbent=present, target=target)

    async def _written(self, predictor: Any, trainset: Sequence[Any]) -> list[str]:
        """Return candidates of the prompt model: half of them from examples, where these have the fields."""
        lm = self.prompt_model or dspy.settings.lm
        if lm is None:
            raise ConfigError(
                "prompt_model: no LM writes candidates; pass one, or call dspy.configure(lm=...)"
            )
        model = as_chat_model(_Writer(lm), self.config.concurrency)
        n, seed = self.num_candidates, self.config.seed
        examples = list(_labelled(predictor.signature, trainset))
        texts: list[str] = []
        if examples and n > 1:
            texts += (await generate.induce(model, examples, n // 2, seed=seed)).pool.prompts
        originals = [predictor.signature.instructions, *texts]
        texts += (await generate.paraphrase(model, originals, n - len(texts), seed=seed)).pool.prompts
        return texts


class _Writer:
    """Function `messages -> text` that calls a dspy.LM; equal requests get different answers."""

    def __init__(self, lm: Any) -> None:
        self._lm, self._numbers, self._context = lm, itertools.count(1), contextvars.copy_context()

    async def __call__(self, messages: Sequence[Any]) -> str:
        number = next(self._numbers)  # outside of the thread, so that a cached run repeats the numbers
        return await call_in_thread(self._call, (messages[-1]["content"], number))

    def _call(self, request: tuple[str, int]) -> str:
        # The rollout makes DSPy's cache tell equal requests apart.
        call = functools.partial(self._lm, request[0], temperature=1.0, rollout_id=request[1])
        output = self._context.copy().run(call)[0]
        return str(output["text"] if isinstance(output, Mapping) else output)


class _Scores:
    """Scores of one predictor's instructions in a program."""

    def __init__(
        self,
        program: Any,
        name: str,
        metric: Callable[..., Any],
        max_errors: int,
        score_range: tuple[float, float] | None,
    ) -> None:
        self._metric, self._max_errors, self._errors = metric, max_errors, 0
        self._failure = min(0.0, *score_range) if score_range else 0.0
        # Threads of the run have no context of their own, and dspy.context() lives there.
        self._context = contextvars.copy_context()
        self._program = functools.cache(lambda instruction: _with_instruction(program, name, instruction))
        self._calls: set[asyncio.Future[float]] = set()
        self._first: asyncio.Future[float] | None = None

    async def score(self, instruction: str, example: Any) -> float:
        """Score an instruction on an example; an exception scores 0.

        Raises:
            MetricError: More than `max_errors` calls in a row failed.
        """
        call = functools.partial(self._called, instruction, example)
        if self._first is not None:
            # DSPy loads its client in the first call; a second thread would find it half loaded.
            await asyncio.wait([self._first])
        future = asyncio.ensure_future(call_in_thread(self._context.copy().run, call))
        self._first = self._first or future
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        try:
            score: float = await asyncio.shield(future)
        except ZopoError:
            raise
        except Exception as error:
            self._errors += 1
            if self._errors > self._max_errors:
                raise MetricError(f"{self._errors} calls in a row failed, the last with {error!r}") from error
            _log.warning("an example scores %s: %s", self._failure, short_repr(error, 200))
            return self._failure
        self._errors = 0
        return score

    async def settled(self) -> None:
        """Wait for the calls of prompts that were given up, whose threads cannot be cancelled."""
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _called(self, instruction: str, example: Any) -> float:
        prediction = self._program(instruction)(**example.inputs())
        return float(self._metric(example, prediction))


class _FunctionEmbedder:
    """Function `texts -> vectors` as an embedding model."""

    def __init__(self, function: Callable[[list[str]], Any]) -> None:
        self._function = function

    async def embed(self, texts: Sequence[str]) -> Any:
        return await call_in_thread(self._function, list(texts))


def _as_embedder(embedder: Any) -> Any:
    is_function = callable(embedder) and not hasattr(embedder, "embed")
    return _FunctionEmbedder(embedder) if is_function else embedder


def _predictors(program: Any) -> dict[str, Any]:
    return dict(program.named_predictors())


def _with_instruction(program: Any, name: str, instruction: str) -> Any:
    """Return a copy of the program with another instruction of one predictor."""
    copied = program.deepcopy()
    predictor = _predictors(copied)[name]
    predictor.signature = predictor.signature.with_instructions(instruction)
    return copied


def _labelled(signature: Any, examples: Iterable[Any]) -> Iterable[Example]:
    """Return the examples that hold all inputs and some outputs of a predictor, as texts."""
    for example in examples:
        inputs = [field for field in signature.input_fields if field in example]
        outputs = [field for field in signature.output_fields if field in example]
        if outputs and len(inputs) == len(signature.input_fields):
            yield Example(_text(example, inputs), (_text(example, outputs),))


def _text(example: Any, fields: list[str]) -> str:
    if len(fields) == 1:
        return str(example[fields[0]])
    return "\n".join(f"{field}: {example[field]}" for field in fields)
