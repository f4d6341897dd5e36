"""Interrupted runs resume as if uninterrupted, and repeat no recorded call."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conductor import Conductor, Images, Run, conducted
from resume_tools import (
    EMBEDDINGS,
    EXAMPLES,
    FULL,
    PROMPTS,
    SMALL,
    TASK,
    Model,
    answer,
    events,
    go,
    never_twice,
    settings,
    told,
)

import zopo_fast as zf
from zopo_fast.llm.types import Answer
from zopo_fast.storage.store import Event, Store


class Judging:
    """Chat model that grades through the conductor."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor

    async def chat(self, messages: Any) -> Answer:
        return Answer(await self._conductor.judge(messages), zf.Usage(7, 1, 1))


def search(task: Any = SMALL, pool: Any = PROMPTS, asked: str = "model", **more: Any) -> Run:
    """Return a run on the toy task; `asked` names the function of the conductor that answers."""
    judged = asked == "chatty"

    def run(conductor: Conductor, store: Store) -> Any:
        return zf.optimize(
            getattr(conductor, asked) if task is None else replace(task, metric="judge") if judged else task,
            pool,
            None if task is None else getattr(conductor, asked),
            settings(**{**FULL, **more}),
            examples=range(EXAMPLES) if asked == "by_example" else None,
            judge=Judging(conductor) if judged else None,
            embeddings=EMBEDDINGS,
            on_phase=conductor.phase,
            store=store,
        )

    return run


RACE = {"racing": True, "budget": 8, "prompts_in_flight": 4}
KNOWN = zf.Pool.from_texts(PROMPTS, {i: i / 60 for i in range(0, 30, 3)})
OFFICIAL = zf.ZopoConfig.official(budget=14, initial=5, gp_queries=8, neighbors=4)
REJECT = (3, 11, 17, 40, 52, 58)
RUNS: dict[str, tuple[Run, dict[str, Any]]] = {
    "in full": (search(), {}),
    "race": (search(TASK, **RACE), {}),
    "race, other order": (search(TASK, **RACE, seed=8), {"seed": 1}),
    "function": (search(None, asked="function", budget=30), {}),
    "function of examples": (
        search(None, asked="by_example", **RACE, score_range=(0.0, 1.0), concurrency=7),
        {},
    ),
    "judge": (search(asked="chatty"), {}),
    "refused prompts": (search(max_failures=10), {"reject": REJECT}),
    "refused prompts in a race": (search(TASK, **RACE, max_failures=10), {"reject": REJECT}),
    "all but a few refused": (search(budget=14, max_failures=99), {"reject": range(8, 60)}),
    "refused prompts, fail": (search(max_failures=10, unanswered="fail"), {"reject": REJECT}),
    "refused prompts in a race, fail": (
        search(TASK, **RACE, max_failures=10, unanswered="fail"),
        {"reject": REJECT},
    ),
    "refused examples": (search(), {"reject_examples": (1, 3)}),
    "refused examples, skip": (search(unanswered="skip"), {"reject_examples": (1, 3)}),
    "refused examples in a race": (search(TASK, **RACE, race_first=1), {"reject_examples": (1, 3, 12)}),
    "official": (search(search=OFFICIAL), {}),
    "gradient": (search(search=zf.ZopoConfig(search="gradient")), {}),
    "thompson": (search(search=zf.ZopoConfig(search="thompson")), {}),
    "prior scores": (search(pool=KNOWN), {}),
    "prior scores in a race": (search(TASK, KNOWN, **RACE), {}),
    "incumbent": (search(TASK, PROMPTS[:-1], incumbent=PROMPTS[-1], **RACE), {}),
    "target": (search(target=0.9, budget=40), {}),
    "random sample": (search(compare_random=True), {}),
    "random sample of a race": (search(TASK, **RACE, compare_random=True), {}),
}


def comparable(result: zf.Result, log: Sequence[Event] = ()) -> Any:
    """Return the result without times and without answers after the end of the search."""
    trials = [replace(trial, seconds=0.0) for trial in result.trials]
    late = sum(event.kind == "late" for event in log)
    usage = replace(result.usage, calls=result.usage.calls - late)
    return replace(result, seconds=0.0, trials=trials, usage=usage)


def in_time(log: Sequence[Event]) -> list[Any]:
    return [entry for entry in told(log) if entry[0] != "late"]


@pytest.mark.parametrize("name", RUNS)
def test_resumes_as_if_uninterrupted(name: str, tmp_path: Path) -> None:
    run, how = RUNS[name]
    path = tmp_path / "study.sqlite3"
    images = Images(path, every=23)
    whole, conductor, log = conducted(run, path, images=images, **how)
    assert whole.error is None
    assert max(Counter(conductor.calls).values()) == 1 or "random" in name
    assert len(images.paths) >= 2
    for image in images.paths:
        cut = events(image)
        assert told(cut) == told(log)[: len(cut)]
        result, again, relived = conducted(run, image, log, **how)
        assert in_time(relived) == in_time(log)
        assert comparable(result, relived) == comparable(whole, log)
        scored = {(e.data["prompt"], e.data["example"]) for e in cut if e.kind == "score"}
        assert not scored & set(again.calls), "repeated a recorded call"
        assert not scored & set(again.graded)
    finished, silent, _ = conducted(run, path, log, **how)
    assert (silent.calls, silent.graded) == ([], [])
    assert comparable(finished) == comparable(whole)  # late answers included


# ---- interruptions but kills -------------------------------------------------------------------------


@pytest.mark.parametrize("calls", [20, 50, 51, 80])
@pytest.mark.parametrize("how", ["error", "stop", "cancel"])
def test_after_an_interruption(how: str, calls: int, tmp_path: Path) -> None:
    """An error of the model, Ctrl-C, a cancelled task: the entries of the log follow from each other."""
    path = tmp_path / "study.sqlite3"
    stop = asyncio.Event()
    first = Model(calls if how == "error" else None, zf.ServerError("down"))

    def interrupt(count: int) -> None:
        if count == calls and how == "stop":
            stop.set()
        if count == calls and how == "cancel":
            tasks = [task for task in asyncio.all_tasks() if task.get_name() == "run"]
            tasks[0].cancel()

    async def cancelled() -> None:
        config = settings(budget=8)
        run = zf.optimize(TASK, PROMPTS, first, config, embeddings=EMBEDDINGS, store=path)
        await asyncio.create_task(run, name="run")

    first.after = interrupt
    if how == "cancel":
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(cancelled())
    else:
        try:
            cut = go(path, first, stop=stop)
            assert cut.stopped_by == {"error": "error", "stop": "interrupted"}[how]
        except zf.ZopoError:  # no prompt was scored in full yet
            assert calls < 100
    kept = events(path)
    second = Model()
    seen: list[zf.Trial] = []
    held: list[list[zf.Trial]] = []
    result = go(path, second, on_trial=seen.append, on_resume=held.append)
    assert (result.error, result.stopped_by) == (None, "budget")
    assert len(result.heldout) == 3
    assert told(events(path))[: len(kept)] == told(kept)
    assert len(held) == 1
    assert [*held[0], *seen] == result.trials
    assert [trial.number for trial in result.trials] == list(range(1, len(result.trials) + 1))
    never_twice(first, second)
    assert result.usage.calls == len(first.calls) + len(second.calls)
    # An uninterrupted run with the same answers in the same order has the same log.
    whole, _, log = conducted(
        lambda conductor, store: zf.optimize(
            TASK, PROMPTS, conductor.model, settings(budget=8), embeddings=EMBEDDINGS, store=store,
            on_phase=conductor.phase,
        ),
        tmp_path / "twin.sqlite3",
        events(path),
    )  # fmt: skip
    assert told(log) == told(events(path))
    assert comparable(whole) == comparable(result)


def test_after_too_many_failures(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    first = Model(60, zf.RequestRejectedError("no more"))
    cut = go(path, first, max_failures=2, racing=False)
    assert cut.stopped_by == "failures"
    second = Model()
    result = go(path, second, max_failures=2, racing=False)
    assert (result.stopped_by, result.error) == ("budget", None)
    assert len(result.prompts_scored()) == 8
    never_twice(first, second)
    third = Model()
    assert comparable(go(path, third, max_failures=2, racing=False)) == comparable(result)
    assert third.calls == []


def test_a_score_outside_its_bounds_ends_every_run(tmp_path: Path) -> None:
    def beyond(answer: str, references: list[str]) -> float:
        return 0.5 if answer == "yes" else 7.0

    models = [Model(), Model()]
    for model in models:
        with pytest.raises(zf.InputError, match="a score must be 0 to 1, got 7"):
            go(tmp_path / "study.sqlite3", model, task=replace(TASK, metric=beyond), score_range=(0.0, 1.0))
    assert models[1].calls == []


def test_an_interrupted_comparison(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"

    first, second = Model(), Model()
    first.down_at = EXAMPLES + 2
    cut = go(path, first, compare_random=True)
    assert isinstance(cut.error, zf.ServerError)
    phases: list[str] = []
    result = go(path, second, compare_random=True, on_phase=phases.append)
    assert phases[0] == "search"  # the embeddings are stored
    assert result.error is None
    assert [row.role for row in result.heldout] == ["winner", "seed prompt", "random sample", "pool median"]
    never_twice(first, second)
    whole = go(tmp_path / "whole.sqlite3", Model(), compare_random=True)
    assert result.heldout == whole.heldout
    assert result.usage == whole.usage


def test_equal_train_and_held_out_examples_are_asked_separately(tmp_path: Path) -> None:
    """An answer of the search must not be used in the comparison."""
    path = tmp_path / "study.sqlite3"
    task = replace(SMALL, heldout=SMALL.train)

    async def model(messages: Any) -> str:
        await asyncio.sleep(0)
        calls[-1] += 1
        return "yes" if len(calls) == 1 else "no"

    calls = [0]
    first = go(path, model, task=task, heldout=False)
    assert (first.best_score, first.stopped_by) == (1.0, "budget")
    calls.append(0)
    second = go(path, model, task=task, heldout=True)
    assert calls[1] == 5 * len(second.heldout)
    assert {row.score for row in second.heldout} == {0.0}


# ---- identity ----------------------------------------------------------------------------------------


OTHER = {
    "task": {"task": replace(TASK, train=TASK.train[1:])},
    "pool": {"prompts": PROMPTS[:-1]},
    "budget": {"budget": 9},
    "seed": {"seed": 4},
    "search": {"search": zf.ZopoConfig(search="gradient")},
    "race_batch": {"race_batch": 4},
    "model": {"model": "b"},
}


@pytest.mark.parametrize("what", OTHER)
def test_a_change_is_refused_by_name(what: str, tmp_path: Path) -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        async def chat(self, messages: Any) -> Answer:
            calls.append(messages)
            return Answer(answer(messages), zf.Usage(calls=1))

    def run(model: str = "a", task: Any = TASK, prompts: Any = PROMPTS, **more: Any) -> zf.Result:
        return zf.optimize_sync(
            task, prompts, Named(model), settings(**{"budget": 8, **more}),
            embeddings=EMBEDDINGS[: len(prompts)], store=path,
        )  # fmt: skip

    calls: list[Any] = []
    path = tmp_path / "study.sqlite3"
    run()
    count, before = len(calls), events(path)
    with pytest.raises(zf.StudyMismatchError, match=f"started with other settings: {what}: .* then, .* now"):
        run(**OTHER[what])
    assert (len(calls), events(path)) == (count, before)
    run(concurrency=3, prompts_in_flight=9, heldout=False)  # no ask depends on these
    assert len(calls) == count


def test_other_embeddings_and_another_template_are_refused(tmp_path: Path) -> None:
    path, template = tmp_path / "study.sqlite3", tmp_path / "mine.json"
    task = replace(TASK, template=str(template))
    template.write_text('[{"role": "user", "content": "{prompt} {input}"}]')
    go(path, Model(), task=task)
    with pytest.raises(zf.StudyMismatchError, match="other embeddings"):
        go(path, Model(), task=task, embeddings=EMBEDDINGS + 1)
    template.write_text('[{"role": "user", "content": "{prompt}: {input}"}]')
    with pytest.raises(zf.StudyMismatchError, match="task"):
        go(path, Model(), task=task)


def test_an_inconsistent_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    go(path, Model())
    log = events(path)
    with Store.create(tmp_path / "other.sqlite3", {}) as store:
        asks = [(i, e.data) for i, e in enumerate(log) if e.kind == "ask"]
        ask, first = next(
            (i, d) for (_, d), (i, e) in itertools.combinations(asks, 2) if d["prompt"] == e["prompt"]
        )
        changed = log[ask]._replace(data={**log[ask].data, "examples": first["examples"]})
        store.merge_events([*log[:ask], changed])
    with pytest.raises(zf.StudyMismatchError, match=rf"entry {ask + 1} of its log does not .* scored on ex"):
        go(tmp_path / "other.sqlite3", Model())
    with Store.create(tmp_path / "strange.sqlite3", {}) as store:
        store.append("dance", {"at": 0.0})
    with pytest.raises(zf.StudyMismatchError, match="unknown entry 'dance'"):
        go(tmp_path / "strange.sqlite3", Model())
