"""Runs every method on every problem through the metering proxy, and scores the winners by one harness."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp

import zopo_fast as zf
from zopo_fast.errors import ConfigError
from zopo_fast.prompts import generate
from zopo_fast.scoring.metrics.comparison import contains

from ...common.metering_proxy import MeteringProxy
from .editor import Parts
from .methods import LOCAL, METHODS, SCRIPTED, TRACKS, Method
from .servers import Answerer, Endpoint, SimulatedModel, WordEmbedder, forwarded, local, scripted
from .session import MAX_WRITTEN, SCORED, WRITER, Client, Problem, RefusedError, Run, Scorer

Record = dict[str, Any]
Show = Callable[[str], object]
EXAMPLES = Path("examples")
TASKS = ("sentiment", "cause_and_effect", "headlines")
LISTS = Path(__file__).parents[2] / "landscapes" / "tasks"
"""Folder of files with the parts of prompts, for tasks of no kind that `generate.compose` knows."""
LABELS = {"headlines": 6}
"""Tokens of an answer where it must equal a label, so that a longer one is wrong in any case."""
MOST_LABELS = 10  # outputs of a task beyond which they are no labels
KEYS = ("track", "task", "method", "seed", "budget")  # of a record


@dataclass(frozen=True)
class Plan:
    """Size of a comparison.

    Args:
        tracks: of TRACKS.
        tasks: files of examples/ without ending; or "simulated".
        methods: names.
        seeds: number of seeds: of starting prompts and methods. All have the same train examples.
        budgets: completions of a run.
        examples: train examples.
        initial: starting prompts.
        pool: prompts of the fixed pool.
        max_tokens: of an answer to an example.
        model: name of the scored model, for the results.
    """

    tracks: tuple[str, ...] = TRACKS
    tasks: tuple[str, ...] = TASKS
    methods: tuple[str, ...] = tuple(METHODS)
    seeds: int = 3
    budgets: tuple[int, ...] = (500, 1500)
    examples: int = 40
    initial: int = 10
    pool: int = 200
    max_tokens: int = 16
    model: str = "simulated"

    def __post_init__(self) -> None:
        for known, given in ((TRACKS, self.tracks), (METHODS, self.methods)):
            for name in given:
                if name not in known:
                    raise ConfigError(f"{name!r} is unknown; there are {', '.join(map(repr, known))}")
        if min(self.seeds, *self.budgets, self.examples) < 1 or self.initial < 3 or self.pool < self.initial:
            raise ConfigError(
                f"seeds, budgets and examples from 1, initial from 3, pool from initial: {self}"
            )


def simulated_task(examples: int, heldout: int = 60) -> zf.Task:
    """Return a task for the simulated model, which needs no file."""
    rows = [
        {"input": f"review {number}", "output": f"label {number % 2}"} for number in range(examples + heldout)
    ]
    return zf.Task.from_records(rows, name="simulated", examples=examples, metric="contains")


def load_task(name: str, examples: int, folder: Path = EXAMPLES) -> zf.Task:
    """Return a task with the train examples of the split with seed 0, and all others held out."""
    if name == "simulated":
        return simulated_task(examples)
    task = zf.Task.load(folder / f"{name}.jsonl", examples=examples, seed=0)
    labels = {output for example in task.train for output in example.outputs}
    is_strict = task.metric != "contains" or len(labels) > MOST_LABELS
    return task if is_strict else replace(task, metric=OneLabel(labels))


class OneLabel:
    """Metric that wants an answer to hold a label of the reference, and none of the others.

    The metric `contains` of a file counts an answer that lists all labels, and the best searches find the
    prompts that make a model list them.

    Args:
        labels: of the task.
    """

    def __init__(self, labels: Iterable[str]) -> None:
        self._labels = frozenset(labels)

    def __call__(self, answer: str, references: Sequence[str]) -> float:
        """Return 1 or 0."""
        found = {label for label in self._labels if contains(answer, label)}
        return float(bool(found) and found <= set(references))


def problems(task: zf.Task, track: str, plan: Plan) -> Iterator[Problem]:
    """Yield the problems of a task, the smaller budgets first."""
    is_simulated = task.name == "simulated"
    kind = "sentiment" if is_simulated else generate.kind_of(task.name)
    embedder = WordEmbedder() if is_simulated else None
    own = LISTS / f"{task.name}.toml"
    lists = own if own.exists() else None
    parts = Parts.of(kind, lists)
    for budget, seed in itertools.product(sorted(plan.budgets), range(plan.seeds)):
        pool = generate.compose(plan.pool, seed=seed, lists=lists, kind=kind).prompts
        initial, longest = pool[: plan.initial], tokens_of_answer(task, plan)
        yield Problem(task, track, seed, budget, initial, pool, parts, longest, embedder)


def tokens_of_answer(task: zf.Task, plan: Plan) -> int:
    """Return the largest number of tokens of an answer to an example."""
    return min(plan.max_tokens, LABELS.get(task.name, plan.max_tokens))


# ---- one run -----------------------------------------------------------------------------------------


class HeldOut:
    """Scores of prompts on the held-out examples: one harness for the winners of all methods.

    Its completions do not go through the proxy, so no budget pays for them.

    Args:
        task: with the held-out examples.
        client: of the endpoint itself.
        max_tokens: of an answer.
    """

    def __init__(self, task: zf.Task, client: Client, max_tokens: int = 8) -> None:
        self._scorer = Scorer(task, task.heldout, client, max_tokens)
        self._means: dict[str, float] = {}

    def mean(self, prompt: str) -> float:
        """Return the mean score of a prompt; each prompt is scored once."""
        if prompt not in self._means:
            self._means[prompt] = self._scorer.mean(prompt)
        return self._means[prompt]


async def run_method(
    method: Method, problem: Problem, endpoint: Endpoint, session: aiohttp.ClientSession, heldout: HeldOut
) -> Record:
    """Run a method on a problem and return its record.

    Raises:
        RuntimeError: more completions reached the models than the budget allows.
    """
    key, before = "run", endpoint.counts.copy()
    began = time.perf_counter()
    async with MeteringProxy(endpoint.url, {key: problem.budget}) as proxy:
        loop = asyncio.get_running_loop()
        run = Run(problem, Client(loop, session, proxy.url, key))
        run.take(problem.initial[0])
        error = await asyncio.to_thread(_attempt, method.load(), run)
        counted = proxy.counts[key]
    seconds = time.perf_counter() - began
    kinds = {kind: endpoint.counts[kind] - before[kind] for kind in (SCORED, WRITER)}
    if sum(kinds.values()) > problem.budget or counted > problem.budget:
        raise RuntimeError(
            f"{method.name} made {kinds}, {counted} by the proxy, of {problem.budget} completions"
        )
    incumbents = [prompt for _, prompt in run.incumbents]
    means = await asyncio.gather(*(asyncio.to_thread(heldout.mean, prompt) for prompt in incumbents))
    curve = [[calls, mean] for (calls, _), mean in zip(run.incumbents, means, strict=True)]
    return {
        "track": problem.track,
        "task": problem.task.name,
        "method": method.name,
        "seed": problem.seed,
        "budget": problem.budget,
        "winner": incumbents[-1],
        "heldout": curve[-1][1],
        "completions": kinds,
        "counted_by_proxy": counted,
        "curve": curve,
        "incumbents": incumbents,
        "seconds": round(seconds, 2),
        "notes": run.notes,
        "error": error,
    }


def _attempt(function: Callable[[Run], None], run: Run) -> str | None:
    """Run a method in this thread and return its error; None for an end by itself or by the proxy."""
    try:
        function(run)
    except RefusedError:
        run.notes.append("ended by the proxy")
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None


# ---- all runs ----------------------------------------------------------------------------------------


class Journal:
    """Records of finished runs, one JSON line each, so that an interrupted comparison resumes.

    Args:
        path: of the file; None: nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else []
        self.records: list[Record] = [json.loads(line) for line in lines]
        self._known = {self._key(record) for record in self.records}

    @staticmethod
    def _key(record: Record) -> tuple[Any, ...]:
        return tuple(record[key] for key in KEYS)

    def has(self, method: Method, problem: Problem) -> bool:
        """Return True if the run of a method on a problem is recorded."""
        return (problem.track, problem.task.name, method.name, problem.seed, problem.budget) in self._known

    def add(self, record: Record) -> None:
        """Keep a record."""
        self.records.append(record)
        self._known.add(self._key(record))
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def available(plan: Plan) -> tuple[list[Method], dict[str, str]]:
    """Return the methods of a plan that can run here, and why the others cannot."""
    chosen = [METHODS[name] for name in plan.methods]
    skipped = {method.name: why for method in chosen if (why := method.missing()) is not None}
    return [method for method in chosen if method.name not in skipped], skipped


async def compare(
    plan: Plan,
    model_url: str | None = None,
    journal: Journal | None = None,
    show: Show = print,
    folder: Path = EXAMPLES,
) -> tuple[list[Record], dict[str, str]]:
    """Run all methods of a plan.

    Args:
        plan: of the comparison.
        model_url: endpoint of the scored model, /v1 included; None: the simulated model.
        journal: of finished runs, which are not repeated.
        show: called with a line for each run.
        folder: with the task files.

    Returns:
        Records of the runs, and the methods left out with reasons.

    Raises:
        ConfigError: the local track without a model.
        RuntimeError: a method made more completions than its budget.
    """
    if LOCAL in plan.tracks and model_url is None:
        raise ConfigError(
            "the local track needs a model: give --model-url, or only the scripted writer's track"
        )
    journal = journal or Journal(None)
    methods, skipped = available(plan)
    found: list[Record] = []
    # Pooled connections without a limit: the clients limit their completions themselves.
    timeout, connector = aiohttp.ClientTimeout(total=None), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        for track, name in itertools.product(plan.tracks, plan.tasks):
            task = load_task(name, plan.examples, folder)
            async with _endpoint(task, track, plan, model_url, session) as endpoint:
                loop = asyncio.get_running_loop()
                client = Client(loop, session, endpoint.url, "harness")
                heldout = HeldOut(task, client, tokens_of_answer(task, plan))
                for problem, method in itertools.product(problems(task, track, plan), methods):
                    if track in method.tracks and not journal.has(method, problem):
                        record = await run_method(method, problem, endpoint, session, heldout)
                        journal.add(record)
                        show(line(record))
    wanted = _wanted(plan, methods)
    found = [record for record in journal.records if wanted(record)]
    return found, skipped


def line(record: Record) -> str:
    """Return a record as a line of text."""
    made = record["completions"]
    what = record["error"] or record["winner"]
    return (
        f"{record['track']:15} {record['task']:16} {record['budget']:5} seed {record['seed']} "
        f"{record['method']:28} {record['heldout']:.3f} {made[SCORED]:5} + {made[WRITER]:3} "
        f"{record['seconds']:6.1f} s  {what[:90]!r}"
    )


def _wanted(plan: Plan, methods: Sequence[Method]) -> Callable[[Record], bool]:
    names = {method.name for method in methods}
    return lambda r: (
        r["track"] in plan.tracks
        and r["task"] in plan.tasks
        and r["method"] in names
        and r["seed"] < plan.seeds
        and r["budget"] in plan.budgets
    )


@asynccontextmanager
async def _endpoint(
    task: zf.Task, track: str, plan: Plan, model_url: str | None, session: aiohttp.ClientSession
) -> AsyncIterator[Endpoint]:
    """Serve the scored model and the writer of a track."""
    parts = next(problems(task, track, plan)).parts
    scored: Answerer
    if model_url is None:
        scored = SimulatedModel(task, parts).answer
    else:
        scored = forwarded(session, model_url, plan.model)
    if track == SCRIPTED:
        async with Endpoint(scored, scripted(parts)) as endpoint:
            yield endpoint
        return
    writer = zf.LocalModel(body={"max_tokens": MAX_WRITTEN, "temperature": 0.7})
    try:
        async with Endpoint(scored, local(writer)) as endpoint:
            yield endpoint
    finally:
        await writer.aclose()
