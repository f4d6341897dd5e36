"""The DSPy optimizer: instructions of real programs, whose LMs are engines without a network."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import serving
from time_tools import HANG

import zopo_fast as zf

dspy = pytest.importorskip("dspy")

from dspy import lm15  # noqa: E402 - after the check for dspy

from zopo_fast.integrations.dspy import ZOPO  # noqa: E402

WAYS = [f"Do it in way number {i}." for i in range(1, 13)]
TRAINSET = [dspy.Example(question=f"question {i}", answer="yes").with_inputs("question") for i in range(24)]
CONFIG = zf.RunConfig(score_range=(0.0, 1.0), budget=13)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep DSPy from asking another host for prices of models, and from writing into the home folder."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "true")
    dspy.configure_cache(enable_disk_cache=False)


class Engine:
    """Engine that writes instructions, and answers the better the higher the number in an instruction."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.written = 0
        self._lock = threading.Lock()

    def complete(self, request: Any) -> Any:
        system = request.system if isinstance(request.system, str) else ""
        text = f"{system}\n{request.messages[-1].text}"
        with self._lock:
            self.requests.append(text)
            is_written = "nstruction" in text
            self.written += is_written
            reply = f"Do it in way number {self.written}." if is_written else self._answer(text)
        return lm15.Response(
            id=None,
            model="fake",
            message=lm15.Message.assistant([lm15.TextPart(reply)]),
            finish_reason="stop",
            usage=lm15.Usage(input_tokens=1, output_tokens=1, total_tokens=2),
        )

    def _answer(self, text: str) -> str:
        fields = re.findall(r"\[\[ ## (\w+) ## \]\]`", text.rpartition("Respond with")[2])
        return "\n".join(f"[[ ## {field} ## ]]\n{verdict(text)}\n" for field in fields)


def verdict(text: str) -> str:
    numbers = [int(number) for number in re.findall(r"number (\d+)", text)]
    question = re.search(r"question (\d+)", text)
    if not numbers or question is None:
        return "no"
    return "yes" if (int(question[1]) * 7 + 3) % 24 < 2 * numbers[-1] else "no"


def lm_of(engine: Engine) -> Any:
    return dspy.LM("fake/model", engine=engine, cache=False)


def exact(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(example.answer == prediction.answer)


def embedded(texts: list[str]) -> Any:
    """Embed the number in each text, so that near numbers are near."""
    found = [re.search(r"\d+", text) for text in texts]
    return np.array(
        [[float(each[0]) if each else 0.0, len(text)] for each, text in zip(found, texts, strict=True)]
    )


def optimizer(**settings: Any) -> Any:
    return ZOPO(**{"metric": exact, "config": CONFIG, "candidates": WAYS, "embedder": embedded, **settings})


class Two(dspy.Module):  # type: ignore[misc]
    """Program whose answer depends on both of its predictors."""

    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict("question -> draft")
        self.second = dspy.ChainOfThought("question, draft -> answer")

    def forward(self, question: str) -> Any:
        draft = self.first(question=question).draft
        return self.second(question=question, draft=draft)


def test_the_best_instruction_is_set_in_a_copy_of_the_program() -> None:
    program = dspy.Predict("question -> answer")
    before = program.signature.instructions
    engine = Engine()
    with dspy.context(lm=lm_of(engine)):
        compiled = optimizer().compile(program, trainset=TRAINSET)
    assert compiled.signature.instructions == WAYS[-1]
    assert program.signature.instructions == before
    result = compiled.detailed_results["self"]
    assert result.best_score == 1.0
    assert result.stopped_by == "target"
    assert before in {trial.prompt for trial in result.trials}
    assert len(engine.requests) < 13 * 24  # the candidates have raced


def test_the_predictors_of_a_program_are_searched_one_after_the_other() -> None:
    engine = Engine()
    with dspy.context(lm=lm_of(engine)):
        compiled = optimizer(candidates={"second.predict": WAYS}).compile(Two(), trainset=TRAINSET)
    assert list(compiled.detailed_results) == ["second.predict"]
    chosen = {name: each.signature.instructions for name, each in compiled.named_predictors()}
    assert chosen["second.predict"] == WAYS[-1]
    assert "number" not in chosen["first"]
    both = {"first": WAYS[:3], "second.predict": WAYS}
    with dspy.context(lm=lm_of(engine)):
        compiled = optimizer(candidates=both, config=zf.RunConfig(budget=8)).compile(Two(), trainset=TRAINSET)
    assert list(compiled.detailed_results) == ["first", "second.predict"]
    assert [len(result.trials) for result in compiled.detailed_results.values()] == [4, 4]  # shared evenly


def test_the_present_instruction_is_scored_first_and_stays_where_none_beats_it() -> None:
    program = dspy.Predict(dspy.Signature("question -> answer", WAYS[-1]))
    with dspy.context(lm=lm_of(Engine())):
        compiled = optimizer(candidates=WAYS[:9], config=zf.RunConfig(budget=2)).compile(
            program, trainset=TRAINSET
        )
    assert compiled.signature.instructions == WAYS[-1]


def test_the_validation_set_decides_where_there_is_one() -> None:
    valset = [dspy.Example(question="question 3", answer="no").with_inputs("question")] * 12
    with dspy.context(lm=lm_of(Engine())):
        compiled = optimizer().compile(dspy.Predict("question -> answer"), trainset=TRAINSET, valset=valset)
    assert compiled.detailed_results["self"].best_score == 1.0
    assert compiled.signature.instructions != WAYS[-1]  # which answers question 3 with "yes"


def test_the_prompt_model_writes_the_candidates_from_examples_and_the_present_instruction() -> None:
    writer, answering = Engine(), Engine()
    with dspy.context(lm=lm_of(answering)):
        compiled = optimizer(candidates=None, prompt_model=lm_of(writer), num_candidates=8).compile(
            dspy.ChainOfThought("question -> answer"), trainset=TRAINSET
        )
    induced = [text for text in writer.requests if "Input: question" in text]
    assert len(induced) == 4
    assert len(writer.requests) == 8
    assert any("Given the fields" in text for text in writer.requests)
    assert compiled.predict.signature.instructions == "Do it in way number 8."
    assert not any("nstruction:" in text for text in answering.requests)


def test_equal_requests_of_the_prompt_model_pass_the_cache() -> None:
    engine = Engine()
    with dspy.context(lm=dspy.LM("fake/cached", engine=engine)):
        for _ in range(2):  # the second time from the cache
            optimizer(candidates=None, num_candidates=9, config=zf.RunConfig(budget=2)).compile(
                dspy.Predict("query -> answer"), trainset=TRAINSET[:1] * 2
            )
    assert engine.written == 9


def test_exceptions_of_the_program_score_0() -> None:
    class Fragile(dspy.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.answer = dspy.Predict("question -> answer")

        def forward(self, question: str) -> Any:
            if "number 12" in self.answer.signature.instructions and question.endswith("3"):
                raise RuntimeError("no answer")
            return self.answer(question=question)

    config = zf.RunConfig(budget=13, concurrency=1)  # one call at a time: no two failures in a row
    with dspy.context(lm=lm_of(Engine())):
        compiled = optimizer(config=config, max_errors=1).compile(Fragile(), trainset=TRAINSET)
    scores = {trial.prompt: trial.score for trial in compiled.detailed_results["answer"].trials}
    assert scores[WAYS[-1]] == pytest.approx(21 / 24)
    assert compiled.answer.signature.instructions == WAYS[-2]


def test_a_program_that_always_fails_ends_the_run() -> None:
    def failing(example: Any, prediction: Any) -> float:
        raise RuntimeError("broken metric")

    with (
        dspy.context(lm=lm_of(Engine())),
        pytest.raises(zf.MetricError, match=r"6 calls in a row failed.*broken"),
    ):
        optimizer(metric=failing, max_errors=5, config=zf.RunConfig(concurrency=1)).compile(
            dspy.Predict("question -> answer"), trainset=TRAINSET
        )


def test_a_metric_may_return_a_prediction_with_a_score() -> None:
    def scored(example: Any, prediction: Any, trace: Any = None) -> Any:
        return dspy.Prediction(score=float(exact(example, prediction)), feedback="none")

    with dspy.context(lm=lm_of(Engine())):
        compiled = optimizer(metric=scored).compile(dspy.Predict("question -> answer"), trainset=TRAINSET)
    assert compiled.signature.instructions == WAYS[-1]


def test_a_compiled_program_is_saved_and_loaded(tmp_path: Path) -> None:
    with dspy.context(lm=lm_of(Engine())):
        compiled = optimizer().compile(dspy.Predict("question -> answer"), trainset=TRAINSET)
    compiled.save(str(tmp_path / "program.json"))
    assert WAYS[-1] in json.loads((tmp_path / "program.json").read_text())["signature"]["instructions"]
    loaded = dspy.Predict("question -> answer")
    loaded.load(str(tmp_path / "program.json"))
    assert loaded.signature.instructions == WAYS[-1]
    compiled.save(str(tmp_path / "whole"), save_program=True)
    whole = dspy.load(str(tmp_path / "whole"), allow_pickle=True)
    assert whole.signature.instructions == WAYS[-1]
    assert whole.detailed_results["self"].best_score == 1.0


def test_no_call_runs_after_compile() -> None:
    """The present instruction ends the run, while calls of the prompt after it are held."""
    running: set[str] = set()
    release, held = threading.Event(), itertools.count()

    def metric(example: Any, prediction: Any) -> float:
        if prediction.answer == "no":
            running.add(example.question)
            if next(held) == 0:
                timer.start()
            assert release.wait(HANG)
            running.discard(example.question)
        return float(prediction.answer == "yes")

    timer = threading.Timer(0.5, release.set)
    config = zf.RunConfig(budget=13, score_range=(0.0, 1.0), racing=False, prompts_in_flight=2, concurrency=4)
    program = dspy.Predict(dspy.Signature("question -> answer", WAYS[-1]))
    with dspy.context(lm=lm_of(Engine())):
        compiled = optimizer(metric=metric, config=config, candidates=["Say no.", "Say it."]).compile(
            program, trainset=TRAINSET
        )
    assert running == set()
    assert compiled.detailed_results["self"].stopped_by == "target"
    timer.join()


def test_the_first_call_is_alone() -> None:
    """DSPy loads its client in the first call, and a second thread would find it half loaded."""
    running, most = 0, list[int]()
    lock = threading.Lock()

    def metric(example: Any, prediction: Any) -> float:
        nonlocal running
        with lock:
            running += 1
            most.append(running)
        if len(most) == 1:
            threading.Event().wait(0.2)  # the others have time to begin
        with lock:
            running -= 1
        return 0.0

    with dspy.context(lm=lm_of(Engine())):
        optimizer(metric=metric).compile(dspy.Predict("question -> answer"), trainset=TRAINSET)
    assert most[:2] == [1, 1]


def test_compile_works_where_an_event_loop_runs() -> None:
    async def notebook() -> Any:
        with dspy.context(lm=lm_of(Engine())):
            return optimizer().compile(dspy.Predict("question -> answer"), trainset=TRAINSET)

    assert asyncio.run(notebook()).signature.instructions == WAYS[-1]


def test_a_dspy_lm_at_an_endpoint_answers_the_examples() -> None:
    def reply(messages: Any) -> str:
        return f"[[ ## answer ## ]]\n{verdict(' '.join(m['content'] for m in messages))}"

    with serving(reply) as server:
        lm = dspy.LM("openai/m", api_base=server.url, api_key="key", cache=False)
        with dspy.context(lm=lm):
            compiled = optimizer().compile(dspy.Predict("question -> answer"), trainset=TRAINSET)
        lm.close()
        assert compiled.signature.instructions == WAYS[-1]
        scored = sum(len(trial.scores) for trial in compiled.detailed_results["self"].trials)
        assert 24 <= scored <= server.answered_total  # a prompt that is given up may have calls in flight


# ---- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "arguments", "said"),
    [
        ({}, {"student": "none"}, "no predictor"),
        ({}, {"trainset": []}, "at least one example"),
        ({}, {"teacher": 1}, "no teacher"),
        ({"candidates": {"other": WAYS}}, {}, r"\['other'\] are not among the predictors \['self'\]"),
        ({}, {"student": "two"}, "pass a list for each name"),
        ({"candidates": None}, {}, "no LM writes candidates"),
    ],
)
def test_unusable_arguments_are_refused(settings: Any, arguments: Any, said: str) -> None:
    students = {"none": dspy.Module(), "two": Two(), "one": dspy.Predict("question -> answer")}
    student = students[arguments.pop("student", "one")]
    with dspy.context(lm=None), pytest.raises(zf.ConfigError, match=said):
        optimizer(**settings).compile(student, **{"trainset": TRAINSET, **arguments})


def test_candidates_without_a_new_instruction_are_refused() -> None:
    program = dspy.Predict("question -> answer")
    with pytest.raises(zf.errors.PoolError):
        optimizer(candidates=[program.signature.instructions]).compile(program, trainset=TRAINSET)
