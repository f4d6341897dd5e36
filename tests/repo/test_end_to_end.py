"""End-to-end comparison: budgets hold for every method, one harness scores all, the scripted writer edits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast.bench.common.harness import Settings
from zopo_fast.bench.micro import end_to_end as question
from zopo_fast.bench.search.end_to_end import __main__ as command, comparison, figures
from zopo_fast.bench.search.end_to_end.comparison import (
    HeldOut,
    Journal,
    Plan,
    compare,
    load_task,
    run_method,
)
from zopo_fast.bench.search.end_to_end.editor import Parts, ScriptedWriter, join
from zopo_fast.bench.search.end_to_end.methods import METHODS, SCRIPTED, Method
from zopo_fast.bench.search.end_to_end.servers import Endpoint, SimulatedModel, scripted
from zopo_fast.bench.search.end_to_end.session import (
    BUDGET_EXHAUSTED,
    SCORED,
    WRITER,
    Client,
    Problem,
    RefusedError,
    Run,
    Scorer,
)
from zopo_fast.errors import ConfigError

BUDGET = 100
PLAN = Plan(tracks=(SCRIPTED,), tasks=("simulated",), seeds=1, budgets=(BUDGET,), examples=12, pool=30)
SENTIMENT = Parts.of("sentiment")


def problem(budget: int = BUDGET, seed: int = 0) -> Problem:
    task = comparison.load_task("simulated", PLAN.examples)
    plan = Plan(**{**vars(PLAN), "budgets": (budget,), "seeds": seed + 1})
    return list(comparison.problems(task, SCRIPTED, plan))[seed]


def run_function(
    monkeypatch: pytest.MonkeyPatch, function: Callable[[Run], None], given: Problem
) -> tuple[dict[str, Any], Endpoint]:
    """Run a function as a method and return its record and the endpoint that counted."""
    monkeypatch.setattr(Method, "load", lambda self: function)

    async def go() -> tuple[dict[str, Any], Endpoint]:
        scored = SimulatedModel(given.task, given.parts).answer
        async with (
            aiohttp.ClientSession() as session,
            Endpoint(scored, scripted(given.parts)) as endpoint,
        ):
            client = Client(asyncio.get_running_loop(), session, endpoint.url, "harness")
            heldout = HeldOut(given.task, client)
            return await run_method(METHODS["GEPA"], given, endpoint, session, heldout), endpoint

    return asyncio.run(go())


# ---- the scripted writer -----------------------------------------------------------------------------


def difference(first: str, second: str) -> int:
    """Return the number of parts in which two compositions differ."""
    (one,), (other,) = SENTIMENT.find(first), SENTIMENT.find(second)
    assert (join(one), join(other)) == (first, second)
    return sum(a != b for a, b in zip(one, other, strict=True))


def test_every_composition_is_found_by_its_parts() -> None:
    for kind in ("sentiment", "rhymes", "cause_and_effect"):
        parts = Parts.of(kind)
        for text in parts.every():
            assert [join(found) for found in parts.find(f"Prompt: {text}\n\nReturn another.")] == [text]


def test_an_edit_changes_one_part_and_differs_by_seed_alone() -> None:
    writer, prompt = ScriptedWriter(SENTIMENT), SENTIMENT.every()[100]
    answers = [writer.answer(f"Improve this: {prompt}", seed) for seed in range(20)]
    assert {difference(prompt, answer) for answer in answers} == {1}
    assert len(set(answers)) > 10
    assert answers == [
        ScriptedWriter(SENTIMENT).answer(f"Improve this: {prompt}", seed) for seed in range(20)
    ]


def test_the_prompt_shown_last_is_edited() -> None:
    first, second, third = SENTIMENT.every()[3], SENTIMENT.every()[300], SENTIMENT.every()[600]
    text = f"text: {first}\nscore: 10\n\ntext: {third}\nscore: 20\n\ntext: {second}\nscore: 30"
    answer = ScriptedWriter(SENTIMENT).answer(text, 0)
    assert difference(second, answer) == 1


def test_a_merge_takes_each_part_from_one_of_two_prompts() -> None:
    first, second = SENTIMENT.every()[100], SENTIMENT.every()[-1]
    writer = ScriptedWriter(SENTIMENT)
    for seed in range(20):
        merged = writer.answer(f"Please merge the two prompts:\n1: {first}\n2: {second}", seed)
        (parts,) = SENTIMENT.find(merged)
        (one,), (other,) = SENTIMENT.find(first), SENTIMENT.find(second)
        assert all(part in pair for part, pair in zip(parts, zip(one, other, strict=True), strict=True))


def test_a_text_without_a_prompt_gets_a_composition() -> None:
    assert ScriptedWriter(SENTIMENT).answer("Describe the data.", 0) in SENTIMENT.every()


# ---- budgets -----------------------------------------------------------------------------------------


def greedy(run: Run) -> None:
    """Score one prompt after the other for ever."""
    for prompt in run.problem.pool * 100:
        run.scorer.mean(prompt)
        run.take_best_complete()


def test_a_method_that_asks_for_more_is_refused_at_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    record, endpoint = run_function(monkeypatch, greedy, problem())
    assert record["counted_by_proxy"] == BUDGET
    assert record["completions"] == {SCORED: BUDGET, WRITER: 0}
    assert record["notes"] == ["ended by the proxy"]
    assert record["error"] is None
    # One harness scores winner and former incumbents on all held-out examples, outside the budget.
    judged = len(set(record["incumbents"]))
    assert endpoint.counts[SCORED] == BUDGET + judged * len(problem().task.heldout)


def test_a_framework_that_swallows_exceptions_still_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def swallowing(run: Run) -> None:
        while True:
            try:
                greedy(run)
            except Exception:
                continue

    record, _ = run_function(monkeypatch, swallowing, problem())
    assert record["counted_by_proxy"] == BUDGET


def test_the_writer_is_paid_from_the_same_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    def writing(run: Run) -> None:
        run.scorer.mean(run.problem.initial[0])
        for _ in range(1000):
            run.write([f"Improve: {run.problem.initial[0]}"])

    record, _ = run_function(monkeypatch, writing, problem())
    assert record["completions"] == {SCORED: 12, WRITER: BUDGET - 12}


def test_completions_past_the_proxy_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def cheating(run: Run) -> None:
        run.client.url = endpoint_urls[0]
        greedy_once(run, BUDGET + 1)

    def greedy_once(run: Run, count: int) -> None:
        pairs = [(prompt, example) for prompt in run.problem.pool for example in range(12)]
        run.scorer.answers(pairs[:count])

    endpoint_urls: list[str] = []
    entered = Endpoint.__aenter__

    async def enter(self: Endpoint) -> Endpoint:
        await entered(self)
        endpoint_urls.append(self.url)
        return self

    monkeypatch.setattr(Endpoint, "__aenter__", enter)
    with pytest.raises(RuntimeError, match="of 100 completions"):
        run_function(monkeypatch, cheating, problem())


def test_a_failing_method_keeps_its_best_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(run: Run) -> None:
        run.take("Is the tone good or bad?")
        raise ValueError("no luck")

    record, _ = run_function(monkeypatch, failing, problem())
    assert record["error"] == "ValueError: no luck"
    assert record["winner"] == "Is the tone good or bad?"


def test_other_failures_than_refusals_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def asking(run: Run) -> None:
        run.client.ask([{"model": SCORED}])  # without messages

    record, _ = run_function(monkeypatch, asking, problem())
    assert "the endpoint answered 500" in record["error"] or "error" in record["error"].lower()


# ---- scores ------------------------------------------------------------------------------------------


def test_a_repeated_pair_is_asked_once_and_scored_by_the_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def twice(run: Run) -> None:
        first = run.scorer.answers([("a", 0), ("a", 1), ("a", 0)])
        asked.append(run.calls)
        assert run.scorer.answers([("a", 1), ("a", 0)]) == [first[1], first[0]]
        assert first[0] == first[2]
        asked.append(run.calls)
        train = run.problem.task.train
        assert run.scorer.judge(f"It is {train[3].outputs[0]}.", 3) == 1.0
        assert run.scorer.judge("none", 3) == 0.0

    record, _ = run_function(monkeypatch, twice, problem())
    assert record["error"] is None
    assert asked == [2, 2]


def test_the_best_complete_prompt_counts_only_prompts_scored_on_all_examples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[str] = []

    def partly(run: Run) -> None:
        run.scorer.scores = {"whole": dict.fromkeys(range(12), 0.5), "part": dict.fromkeys(range(11), 1.0)}
        run.take_best_complete()
        taken.append(run.incumbents[-1][1])
        run.take_best_complete(range(11))
        taken.append(run.incumbents[-1][1])

    run_function(monkeypatch, partly, problem())
    assert taken == ["whole", "part"]


def test_all_methods_get_the_same_examples_and_starting_prompts() -> None:
    first, again = problem(), problem(budget=50)
    assert first.task == again.task
    assert first.initial == again.initial == first.pool[:10]
    assert problem(seed=1).initial != first.initial
    assert problem(seed=1).task == first.task
    assert not set(first.task.train) & set(first.task.heldout)


def test_the_request_is_that_of_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same message for all methods: the template of the task, as zf.optimize renders it."""
    given = problem()
    bodies: list[dict[str, Any]] = []

    async def remember(body: Any) -> str:
        bodies.append(dict(body))
        return "none"

    async def go() -> None:
        async with (
            aiohttp.ClientSession() as session,
            Endpoint(remember, remember) as endpoint,
            zf.OpenAIClient(zf.ClientConfig(SCORED, base_url=endpoint.url, api_key="k", body={})) as model,
        ):
            client = Client(asyncio.get_running_loop(), session, endpoint.url, "k")
            scorer = Scorer(given.task, given.task.train, client)
            await asyncio.to_thread(scorer.answers, [("Say.", 2)])
            task = zf.Task("t", (given.task.train[2],), metric="contains")
            config = zf.RunConfig(budget=2, heldout=False)
            Z = np.eye(2, dtype=np.float32)
            await zf.optimize(task, ["Say.", "Tell."], model, config, embeddings=Z)

    asyncio.run(go())
    assert bodies[0]["messages"] in [body["messages"] for body in bodies[1:]]


# ---- methods -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", METHODS)
def test_a_method_ends_within_its_budget_with_a_prompt(name: str) -> None:
    method = METHODS[name]
    if (why := method.missing()) is not None:
        pytest.skip(why)
    plan = Plan(**{**vars(PLAN), "methods": (name,), "seeds": 2})
    records, skipped = asyncio.run(compare(plan, show=lambda _: None))
    assert not skipped
    assert [record["error"] for record in records] == [None, None]
    for record in records:
        made = record["completions"]
        assert sum(made.values()) == record["counted_by_proxy"] <= BUDGET
        assert made[SCORED] >= BUDGET // 2
        assert record["curve"][0][0] == 0
        calls = [point[0] for point in record["curve"]]
        assert calls == sorted(calls)
        assert record["heldout"] == record["curve"][-1][1]
        assert SENTIMENT.find(record["winner"])
    if name.startswith("zopo_fast"):
        return  # several calls are in flight, and the search learns from each as it arrives
    again, _ = asyncio.run(compare(plan, show=lambda _: None))
    assert [record["winner"] for record in again] == [record["winner"] for record in records]


@pytest.mark.filterwarnings("ignore")
def test_demonstrations_of_capo_are_written_as_the_template_writes_them() -> None:
    pytest.importorskip("promptolution")
    from promptolution.utils.prompt import Prompt

    from zopo_fast.bench.search.end_to_end.promptolution_peers import in_template
    from zopo_fast.tasks import template

    shots = [zf.Example("red", ("warm",)), zf.Example("blue", ("cold",))]
    prompt = Prompt("Say.", [f"Input:\n{shot.input}\nOutput:\n{shot.outputs[0]}" for shot in shots])
    layout = template.resolve("instruction")
    assert layout.render(in_template(str(prompt)), "x") == layout.render("Say.", "x", shots)
    assert in_template("Say.") == "Say."


@pytest.mark.filterwarnings("ignore")
def test_an_unparsable_proposal_is_taken_as_a_whole() -> None:
    dspy = pytest.importorskip("dspy")
    from zopo_fast.bench.search.end_to_end.dspy_peer import TemplateAdapter

    run = Run(problem(), None)  # type: ignore[arg-type]
    adapter = TemplateAdapter(run)
    proposal = dspy.Signature("code -> proposed_instruction")
    assert adapter.parse(proposal, " Say it. ") == {"proposed_instruction": "Say it."}
    marked = "[[ ## proposed_instruction ## ]]\nSay.\n\n[[ ## completed ## ]]"
    assert adapter.parse(proposal, marked) == {"proposed_instruction": "Say."}
    ours = dspy.Signature("input -> output", "Say.")
    shown = run.problem.task.train[1].input
    (message,) = adapter.format(ours, [{"input": "red", "output": "warm"}], {"input": shown})
    assert json.loads(message["content"]) == ["Say.\n\nInput: red\n\nOutput: warm", 1]


def test_an_uninstalled_peer_is_left_out_with_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "GEPA", Method("GEPA", "gepa_peer", "run", ("no_such_module",)))
    plan = Plan(**{**vars(PLAN), "methods": ("GEPA",)})
    records, skipped = asyncio.run(compare(plan, show=lambda _: None))
    assert not records
    assert skipped == {"GEPA": "no_such_module not installed; `make end-to-end-peers` installs it"}


def test_an_answer_that_lists_all_labels_is_wrong() -> None:
    task = load_task("sentiment", 40)
    assert callable(task.metric)
    expected = {"Negative.": 1.0, "positive": 0.0, "Options: positive, negative": 0.0, "It broke.": 0.0}
    assert {answer: task.metric(answer, ["negative"]) for answer in expected} == expected
    assert [load_task(name, 40).metric for name in comparison.TASKS[1:]] == ["contains", "exact_match"]


def test_answers_that_are_labels_are_short() -> None:
    assert comparison.tokens_of_answer(load_task("cause_and_effect", 40), PLAN) == PLAN.max_tokens
    given = next(comparison.problems(load_task("headlines", 40), SCRIPTED, PLAN))
    assert (given.max_tokens, set(given.pool) - set(given.parts.every())) == (6, set())


# ---- figures and command -----------------------------------------------------------------------------


def record(method: str, seed: int, heldout: float, **more: Any) -> dict[str, Any]:
    return {
        "track": SCRIPTED,
        "task": "simulated",
        "method": method,
        "seed": seed,
        "budget": BUDGET,
        "heldout": heldout,
        "completions": {SCORED: 90, WRITER: 10},
        "curve": [[0, 0.2], [50, heldout]],
        "error": None,
    } | more


def test_methods_with_demonstrations_are_compared_with_our_search_over_them() -> None:
    scores = {"zopo_fast": 0.5, "zopo_fast, demonstrations": 0.8, "CAPO": 0.6, "GEPA": 0.6}
    records = [record(method, seed, score) for method, score in scores.items() for seed in range(2)]
    ahead = {(pair["ours"], pair["method"]): pair["mean"] for pair in figures.pairs(records)}
    assert ahead == {
        ("zopo_fast, demonstrations", "CAPO"): pytest.approx(0.2),
        ("zopo_fast", "GEPA"): pytest.approx(-0.1),
    }


def test_pairs_are_of_the_same_task_and_seed() -> None:
    records = [record("zopo_fast", seed, 0.5 + 0.1 * seed) for seed in range(3)]
    records += [record("GEPA", seed, 0.3 + 0.1 * seed) for seed in range(4)]
    (pair,) = figures.pairs(records)
    assert pair["method"] == "GEPA"
    assert pair["pairs"] == 3
    assert pair["mean"] == pytest.approx(0.2)
    assert pair["low"] == pytest.approx(0.2)
    assert pair["high"] == pytest.approx(0.2)
    rows = {row["method"]: row for row in figures.rows(records)}
    assert rows["GEPA"]["heldout"] == pytest.approx(0.45)
    assert rows["GEPA"]["written"] == 10
    low, high = figures.interval(np.array([0.0, 1.0] * 50))
    assert low == pytest.approx(0.4, abs=0.02)
    assert high == pytest.approx(0.6, abs=0.02)


def test_a_curve_holds_the_last_change_up_to_each_count() -> None:
    found = figures.curve(
        record("GEPA", 0, 0.9, curve=[[0, 0.2], [50, 0.5], [50, 0.9]]), np.array([0, 49, 50, 99])
    )
    assert found.tolist() == [0.2, 0.2, 0.9, 0.9]


def test_finished_runs_are_not_repeated(tmp_path: Path) -> None:
    plan = Plan(**{**vars(PLAN), "methods": ("zopo_fast, fixed pool",)})
    lines: list[object] = []
    first, _ = asyncio.run(compare(plan, journal=Journal(tmp_path / "runs.jsonl"), show=lines.append))
    again, _ = asyncio.run(compare(plan, journal=Journal(tmp_path / "runs.jsonl"), show=lines.append))
    assert len(lines) == 1
    assert again == json.loads(json.dumps(first))


def test_the_command_writes_figures_without_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--quick", "--methods", "zopo_fast, fixed pool", "--out", str(tmp_path)]
    assert command.main(arguments) == 0
    assert "zopo_fast, fixed pool" in capsys.readouterr().out
    text = (tmp_path / "search_end_to_end.json").read_text("utf-8")
    document = json.loads(text)
    assert document["rows"][0]["runs"] == 1
    assert document["runs"][0]["counted_by_proxy"] <= 150
    assert str(tmp_path) not in text


def test_the_local_track_needs_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--quick", "--tracks", "local", "--out", str(tmp_path)]) == 2
    assert "give --model-url" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="'GA' is unknown"):
        Plan(methods=("GA",))


def test_the_question_runs_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        question, "QUICK", Plan(**{**vars(question.QUICK), "methods": ("zopo_fast, fixed pool", "CAPO")})
    )
    monkeypatch.setattr(
        METHODS["CAPO"].__class__, "missing", lambda self: "absent" if self.name == "CAPO" else None
    )
    result = question.run(Settings(quick=True))
    assert [row.who for row in result.rows] == ["zopo_fast, fixed pool"]
    assert result.skipped == {"CAPO": "absent"}


def test_refusals_pass_every_handler_of_exceptions() -> None:
    assert not issubclass(RefusedError, Exception)
    assert BUDGET_EXHAUSTED == "budget_exhausted"
