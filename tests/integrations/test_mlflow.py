"""ZopoPromptOptimizer and log_result with the real MLflow on a SQLite store: no server, no network."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from doc_tools import blocks_of
from fake_server import hashed_vector
from time_tools import HANG

import zopo_fast as zf

if importlib.util.find_spec("mlflow") is None:  # an import here would precede the settings of the fixture
    pytest.skip("needs the extra mlflow", allow_module_level=True)

pytestmark = [  # warnings of the package itself
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

DATA = [
    {"inputs": {"question": f"question {i}"}, "expectations": {"expected_response": "yes"}} for i in range(4)
]
CANDIDATES = [f"Answer in way {i}: {{{{question}}}}" for i in range(7)] + ["Answer in way 9."]


class Embedder:
    """Embeds texts without a model."""

    async def embed(self, texts: Any) -> list[list[float]]:
        return [hashed_vector(text) for text in texts]


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Point MLflow at a SQLite store in a folder of its own; its schema takes seconds to create."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("DO_NOT_TRACK", "true")
        patch.chdir(folder)
        import mlflow

        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        mlflow.create_experiment("zopo", artifact_location=(folder / "artifacts").as_uri())
        mlflow.set_experiment("zopo")
        yield mlflow
        mlflow.set_tracking_uri(before)


def way(text: str) -> int:
    return int(text.split("way ")[1][0]) if "way " in text else 0


def optimized(mlflow: Any, name: str, pool: Any, **more: Any) -> tuple[Any, Any]:
    """Return the result of MLflow and the optimizer."""
    from mlflow.genai.scorers import scorer

    from zopo_fast.integrations.mlflow import ZopoPromptOptimizer

    prompt = mlflow.genai.register_prompt(name=name, template="Answer: {{question}}")
    asked: list[str] = []

    def predict(question: str) -> str:
        text = mlflow.genai.load_prompt(prompt.uri).format(question=question)
        asked.append(text)
        return "yes" if int(question.split()[1]) < way(text) - 3 else "no"

    @scorer
    def correct(outputs: Any, expectations: Any) -> float:
        return float(outputs == expectations["expected_response"])

    config = zf.RunConfig(budget=20, initial=3)
    optimizer = ZopoPromptOptimizer(pool, config=config, embedder=Embedder())
    given = {"predict_fn": predict, "train_data": DATA, "prompt_uris": [prompt.uri], "scorers": [correct]}
    result = mlflow.genai.optimize_prompts(**given, optimizer=optimizer, **more)
    assert all("question" in text for text in asked)
    return result, optimizer


def test_the_best_candidate_becomes_a_new_version(store: Any) -> None:
    result, optimizer = optimized(store, "first", CANDIDATES)
    (prompt,) = result.optimized_prompts
    assert prompt.template == "Answer in way 9.\n\n{{question}}"
    assert prompt.version == 2
    assert (result.initial_eval_score, result.final_eval_score) == (0.0, 1.0)
    assert result.final_eval_score_per_scorer == {"correct": 1.0}
    assert optimizer.results["first"].trials[0].prompt == "Answer: {{question}}"  # the incumbent


def test_scores_are_metrics_of_the_active_run(store: Any) -> None:
    with store.start_run() as run:
        _, optimizer = optimized(store, "tracked", CANDIDATES)
    history = store.MlflowClient().get_metric_history(run.info.run_id, "tracked.score")
    assert [each.value for each in history] == [t.score for t in optimizer.results["tracked"].trials]


def test_a_notebook_with_a_running_loop_can_call_it(store: Any) -> None:
    async def cell() -> Any:
        return optimized(store, "notebook", CANDIDATES, enable_tracking=False)[0]

    assert asyncio.run(cell()).final_eval_score == 1.0


def test_a_prompt_without_candidates_is_named(store: Any) -> None:
    with pytest.raises(zf.ConfigError, match="no candidates of the prompt 'none'"):
        optimized(store, "none", {"other": CANDIDATES}, enable_tracking=False)


def test_several_prompts_are_optimized_in_turn_and_evaluated_once() -> None:
    from mlflow.genai.optimize.types import EvaluationResultRecord

    from zopo_fast.integrations.mlflow import ZopoPromptOptimizer

    seen: list[tuple[str, str]] = []

    def evaluate(templates: dict[str, str], records: list[dict[str, Any]]) -> list[Any]:
        seen.append((templates["a"], templates["b"]))
        score = (way(templates["a"]) + way(templates["b"])) / 18
        return [EvaluationResultRecord({}, "", {}, score, None, {}, {"s": score}) for _ in records]

    optimizer = ZopoPromptOptimizer({"a": CANDIDATES, "b": CANDIDATES}, embedder=Embedder())
    output = optimizer.optimize(evaluate, DATA, {"a": " Do way 1 ", "b": "Do way 1"}, enable_tracking=False)
    assert output.optimized_prompts == {"a": "Answer in way 9.", "b": "Answer in way 9."}
    assert (output.initial_eval_score, output.final_eval_score) == (pytest.approx(1 / 9), 1.0)
    assert len(seen) == len(set(seen))
    kept = ZopoPromptOptimizer({"a": ["way 0", "way 0."]}, embedder=Embedder())
    output = kept.optimize(evaluate_one, DATA, {"a": " Do way 1 "}, enable_tracking=False)
    assert output.optimized_prompts == {"a": " Do way 1 "}  # as the registry has it


def evaluate_one(templates: dict[str, str], records: list[dict[str, Any]]) -> list[Any]:
    from mlflow.genai.optimize.types import EvaluationResultRecord

    return [EvaluationResultRecord({}, "", {}, float(way(templates["a"])), None, {}, {}) for _ in records]


def test_no_scores_and_no_records_are_errors() -> None:
    from mlflow.genai.optimize.types import EvaluationResultRecord

    from zopo_fast.integrations.mlflow import ZopoPromptOptimizer

    optimizer = ZopoPromptOptimizer(CANDIDATES, embedder=Embedder())
    with pytest.raises(zf.ConfigError, match="train_data"):
        optimizer.optimize(None, [], {"a": "x"})  # type: ignore[arg-type]
    with pytest.raises(zf.MetricError, match="no score"):
        optimizer.optimize(
            lambda *_: [EvaluationResultRecord({}, "", {}, None, None, {}, {})], DATA, {"a": "x"}
        )


def test_a_result_is_logged_as_a_run_with_artefacts_and_a_version(store: Any, tmp_path: Path) -> None:
    from zopo_fast.integrations.mlflow import log_result

    study = tmp_path / "study.sqlite3"
    pool = [f"way {i}" for i in range(5)]
    result = zf.optimize_sync(
        lambda prompt: way(prompt) / 4, pool, config=zf.RunConfig(budget=5), embedder=Embedder(), store=study
    )
    run_id = log_result(result, study=study, prompt_name="logged", params={"model": "m"})
    client = store.MlflowClient()
    run = client.get_run(run_id)
    assert run.data.params == {"stopped_by": result.stopped_by, "model": "m"}
    assert run.data.metrics["best_score"] == 1.0
    assert [m.value for m in client.get_metric_history(run_id, "score")] == [t.score for t in result.trials]
    folder = Path(client.download_artifacts(run_id, "", str(tmp_path)))
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(result.to_dict()))
    assert (folder / "best_prompt.txt").read_text() == "way 4"
    assert "<html" in (folder / "report.html").read_text()
    assert store.genai.load_prompt("prompts:/logged@latest").template == "way 4"
    with store.start_run() as parent:
        nested = log_result(result)
    assert client.get_run(nested).data.tags["mlflow.parentRunId"] == parent.info.run_id
    with pytest.raises(zf.InputError, match="study"):
        log_result(result, study=tmp_path / "none")


def test_the_lines_of_the_page_run(store: Any) -> None:
    code = next(b.code for b in blocks_of("docs/integrations/mlflow.md") if b.language == "python")
    assert code.count("ZopoPromptOptimizer(pool)") == 1
    code = code.replace("ZopoPromptOptimizer(pool)", "ZopoPromptOptimizer(pool, embedder=embedder)")
    given: dict[str, Any] = {"embedder": Embedder()}
    exec(compile(code, "<page>", "exec"), given)
    assert given["result"].final_eval_score == 1.0


def test_a_missing_package_is_named() -> None:
    code = "import sys; sys.modules['mlflow'] = None\nimport zopo_fast.integrations.mlflow"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG, check=False
    )
    assert "MissingDependencyError" in done.stderr
    assert 'pip install "zopo-fast[mlflow]"' in done.stderr
