"""MLflow: an optimizer for `mlflow.genai.optimize_prompts`, and results logged as runs with artefacts.

optimizer = ZopoPromptOptimizer(candidates, config=zf.RunConfig(budget=30))
mlflow.genai.optimize_prompts(predict_fn=predict, train_data=data, prompt_uris=[uri], optimizer=optimizer,
                              scorers=[correct])
run_id = log_result(zf.optimize_sync(task, pool, llm), prompt_name="classifier")
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zopo_fast._utils.aio import run_to_end
from zopo_fast.errors import ConfigError, InputError, MetricError, MissingDependencyError
from zopo_fast.llm.adapter import Embeds
from zopo_fast.prompts.pool import Pool, normalise
from zopo_fast.report.output import write_output
from zopo_fast.runs.config import RunConfig
from zopo_fast.runs.optimize import optimize
from zopo_fast.runs.result import Result, Trial
from zopo_fast.tasks.template import variables_of, with_variables

try:
    import mlflow
    from mlflow.genai.optimize.optimizers import BasePromptOptimizer
    from mlflow.genai.optimize.types import PromptOptimizerOutput
except ImportError as error:
    raise MissingDependencyError(
        f'MLflow with mlflow.genai.optimize cannot be loaded ({error}): pip install "zopo-fast[mlflow]"'
    ) from error

__all__ = ["ZopoPromptOptimizer", "log_result"]


class ZopoPromptOptimizer(BasePromptOptimizer):
    """Optimizer for `mlflow.genai.optimize_prompts` that searches pools of candidate prompts.

    The present template is scored first, as the incumbent. A candidate without any variable of the template
    gets all of them at its end. Several prompts are optimised one after the other, each with the winners so
    far in the place of the others.

    Args:
        pool: candidates of the only prompt, or a mapping from the name of a prompt to its candidates.
        config: settings of each search; the budget counts evaluations on all of `train_data`.
        embedder: embedding model of the candidates, as for `optimize`; None: the embedded model.

    Raises:
        PoolError: a candidate is empty.
    """

    def __init__(
        self,
        pool: Pool | Sequence[str] | Mapping[str, Pool | Sequence[str]],
        *,
        config: RunConfig | None = None,
        embedder: Embeds | None = None,
    ) -> None:
        self._pools = (
            {name: _pool(each) for name, each in pool.items()} if isinstance(pool, Mapping) else None
        )
        self._only = None if isinstance(pool, Mapping) else _pool(pool)
        # MLflow evaluates one candidate at a time: its evaluation patches the registry.
        self._config = replace(config or RunConfig(), prompts_in_flight=1)
        self._embedder = embedder
        self.results: dict[str, Result] = {}
        """Result of each search of the last call, by the name of the prompt."""

    def optimize(
        self,
        eval_fn: Callable[[dict[str, str], list[dict[str, Any]]], list[Any]],
        train_data: list[dict[str, Any]],
        target_prompts: dict[str, str],
        enable_tracking: bool = True,
    ) -> Any:
        """Return the best templates with their scores.

        Args:
            eval_fn: scores templates on records.
            train_data: the records.
            target_prompts: present templates by name.
            enable_tracking: log the score of each candidate as a metric of the active run.

        Raises:
            ConfigError: a prompt has no candidates, or there are no records.
            MetricError: the scorers give no score.
        """
        if eval_fn is None or not train_data:
            raise ConfigError("train_data: a search needs records to score candidates on, and scorers")
        pools = {name: self._pool_of(name, list(target_prompts)) for name in target_prompts}
        evaluation = _Evaluation(eval_fn, train_data)
        best = dict(target_prompts)
        first = evaluation(best)
        self.results = {}
        for name, template in target_prompts.items():
            self.results[name] = self._search(name, template, pools[name], best, evaluation, enable_tracking)
            winner = self.results[name].best_prompt
            # The incumbent is normalised in the pool; the registry keeps it as it was.
            best[name] = template if winner == normalise(template) else winner
        last = evaluation(best)
        return PromptOptimizerOutput(
            optimized_prompts=best,
            initial_eval_score=first[0],
            final_eval_score=last[0],
            initial_eval_score_per_scorer=first[1],
            final_eval_score_per_scorer=last[1],
        )

    def _pool_of(self, name: str, names: list[str]) -> Pool:
        found = self._pools.get(name) if self._pools is not None else self._only if len(names) == 1 else None
        if found is None:
            raise ConfigError(
                f"pool: no candidates of the prompt {name!r}; give a mapping from names to candidates"
            )
        return found

    def _search(
        self,
        name: str,
        template: str,
        pool: Pool,
        best: Mapping[str, str],
        evaluation: _Evaluation,
        is_tracked: bool,
    ) -> Result:
        """Return the result of the search of one prompt."""
        variables = () if template.lstrip().startswith("[") else variables_of(template)  # a chat is JSON
        candidates = Pool.from_texts([template, *(with_variables(text, variables) for text in pool.prompts)])
        run = mlflow.active_run() if is_tracked else None
        config = replace(self._config, incumbent=template, budget=min(self._config.budget, len(candidates)))

        def on_trial(trial: Trial) -> None:
            if run is not None and trial.score is not None:
                mlflow.log_metric(f"{name}.score", trial.score, step=trial.number, run_id=run.info.run_id)

        return run_to_end(
            optimize(
                lambda prompt: evaluation({**best, name: prompt})[0],
                candidates,
                config=config,
                embedder=self._embedder,
                on_trial=on_trial,
            )
        )


class _Evaluation:
    """Mean scores of templates on the records; equal templates are evaluated once."""

    def __init__(
        self,
        eval_fn: Callable[[dict[str, str], list[dict[str, Any]]], list[Any]],
        records: list[dict[str, Any]],
    ) -> None:
        self._eval_fn, self._records = eval_fn, records
        self._known: dict[tuple[tuple[str, str], ...], tuple[float, dict[str, float]]] = {}

    def __call__(self, templates: Mapping[str, str]) -> tuple[float, dict[str, float]]:
        """Return the mean score, and the mean of each scorer."""
        key = tuple(sorted(templates.items()))
        if key not in self._known:
            records = self._eval_fn(dict(templates), self._records)
            scores = [each.score for each in records]
            if not scores or any(score is None for score in scores):
                raise MetricError("the evaluation gives no score: pass scorers to optimize_prompts")
            names = dict.fromkeys(name for each in records for name in each.individual_scores)
            parts = {
                name: _mean(
                    [each.individual_scores[name] for each in records if name in each.individual_scores]
                )
                for name in names
            }
            self._known[key] = _mean(scores), parts
        return self._known[key]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(float(value) for value in values) / len(values)


def _pool(given: Pool | Sequence[str]) -> Pool:
    return given if isinstance(given, Pool) else Pool.from_texts(list(given))


def log_result(
    result: Result,
    *,
    study: str | Path | None = None,
    prompt_name: str | None = None,
    params: Mapping[str, Any] | None = None,
    run_name: str = "zopo_fast",
) -> str:
    """Log a result as a run of MLflow, nested in the active run if there is one.

    Metrics are the score of each trial and the best score so far, by trial, and the final figures. Artefacts
    are `best_prompt.txt`, `result.json` and, with a study, `report.html` and `curve.png` where the extra
    `report` is installed.

    Args:
        result: of a run.
        study: file of the study of this run.
        prompt_name: name in the prompt registry, under which the winner becomes a new version.
        params: parameters of the run, such as the model and its temperature.
        run_name: name of the run.

    Returns:
        Id of the run of MLflow.

    Raises:
        InputError: `study` is no file.
    """
    if study is not None and not Path(study).is_file():
        raise InputError(f"study: {study} is no file; give the path of a study, such as out/study.sqlite3")
    with mlflow.start_run(run_name=run_name, nested=mlflow.active_run() is not None) as run:
        mlflow.log_params({"stopped_by": result.stopped_by, **(params or {})})
        for trial in result.trials:
            found = {"score": trial.score, "best_score_so_far": trial.best_score}
            mlflow.log_metrics(
                {name: value for name, value in found.items() if value is not None}, step=trial.number
            )
        mlflow.log_metrics(_final(result))
        mlflow.log_text(result.best_prompt, "best_prompt.txt")
        mlflow.log_dict(result.to_dict(), "result.json")
        with tempfile.TemporaryDirectory() as folder:
            write_output(result, Path(folder), None if study is None else Path(study))
            mlflow.log_artifacts(folder)
        if prompt_name is not None:
            version = mlflow.genai.register_prompt(
                name=prompt_name,
                template=result.best_prompt,
                commit_message=f"zopo_fast: train score {result.best_score:.3f}",
            )
            mlflow.set_tag("zopo_fast.prompt", version.uri)
        return str(run.info.run_id)


def _final(result: Result) -> dict[str, float]:
    """Return the figures of the whole run."""
    figures: dict[str, float] = {
        "best_score": result.best_score,
        "prompts_scored": len(result.prompts_scored()),
        "calls": result.usage.calls,
        "prompt_tokens": result.usage.prompt_tokens,
        "completion_tokens": result.usage.completion_tokens,
        "seconds": result.seconds,
    }
    for row in result.heldout:
        if row.score is not None:
            figures[f"heldout_score.{row.role.replace(' ', '_')}"] = row.score
    return figures
