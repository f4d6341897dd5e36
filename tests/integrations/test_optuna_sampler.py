"""The Optuna sampler: the same search as without Optuna, rebuilt from the trials of the study at each ask."""

from __future__ import annotations

import itertools
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna_tools import EMBEDDINGS, PROMPTS, SCORES, journal

import zopo_fast as zf

optuna = pytest.importorskip("optuna")
ready_checks = pytest.importorskip("optuna.testing.pytest_samplers")

from zopo_fast.optuna import ZopoSampler  # noqa: E402 - after the check for optuna

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
M = len(PROMPTS)
FAIL, PRUNED = optuna.trial.TrialState.FAIL, optuna.trial.TrialState.PRUNED


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def study_of(direction: str = "maximize", sampler: Any = None, **more: Any) -> Any:
    return optuna.create_study(direction=direction, sampler=sampler or ZopoSampler(EMBEDDINGS), **more)


def suggest(trial: Any) -> int:
    """Return the row of the prompt that a trial suggests."""
    return PROMPTS.index(trial.suggest_categorical("prompt", PROMPTS))


def rows_of(study: Any) -> list[int]:
    return [PROMPTS.index(trial.params["prompt"]) for trial in study.trials if "prompt" in trial.params]


def searched(sign: float, n: int) -> list[int]:
    """Return the rows that the search asks without Optuna."""
    opt = zf.Zopo(EMBEDDINGS, zf.ZopoConfig(budget=M))
    asked = []
    for _ in range(n):
        asked.append(opt.ask())
        opt.tell(asked[-1], sign * SCORES[asked[-1]])
    return asked


class TestReadyChecks(ready_checks.BasicSamplerTestCase, ready_checks.RelativeSamplerTestCase):  # type: ignore[misc]
    """The checks that Optuna ships for samplers; their parameters go to the other sampler."""

    @pytest.fixture
    def sampler(self) -> Any:
        other = optuna.samplers.TPESampler
        return lambda: ZopoSampler(EMBEDDINGS, other_sampler=other(multivariate=True, n_startup_trials=0))


@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1.0), ("minimize", -1.0)])
@pytest.mark.parametrize("kind", ["choices", "shuffled", "integer"])
def test_the_prompts_are_those_of_the_search_itself(direction: str, sign: float, kind: str) -> None:
    choices = PROMPTS if kind == "choices" else sorted(PROMPTS, reverse=True)
    sampler = ZopoSampler(EMBEDDINGS, prompts=PROMPTS if kind == "shuffled" else None)
    study = study_of(direction, sampler)
    asked = []

    def objective(trial: Any) -> float:
        whole = kind == "integer"
        value = (
            trial.suggest_int("prompt", 0, M - 1) if whole else trial.suggest_categorical("prompt", choices)
        )
        assert type(value) is (int if whole else str)
        asked.append(value if whole else PROMPTS.index(value))
        return float(SCORES[asked[-1]])

    study.optimize(objective, n_trials=15)
    assert asked == searched(sign, 15)


def test_a_new_sampler_at_each_ask_asks_the_same_as_one_for_the_study() -> None:
    """Trials overlap, fail, repeat prompts, wait in the queue and come from another sampler."""
    kept, renewed = study_of(), study_of()
    for study in (kept, renewed):
        rng = np.random.default_rng(7)
        running: list[tuple[Any, int]] = []
        for step in range(120):
            chance = rng.random()
            if chance < 0.1:
                study.enqueue_trial({"prompt": PROMPTS[rng.integers(M)]})
            elif chance < 0.2:
                drawn = optuna.distributions.CategoricalDistribution(PROMPTS)
                row = int(rng.integers(M))
                told = {"params": {"prompt": PROMPTS[row]}, "distributions": {"prompt": drawn}}
                study.add_trial(optuna.trial.create_trial(**told, value=SCORES[row] + step))
            elif chance < 0.6 and len(running) < 4 and len(set(rows_of(study))) < M - 8:
                if study is renewed:
                    study.sampler = ZopoSampler(EMBEDDINGS)
                trial = study.ask()
                running.append((trial, suggest(trial)))
            elif running:
                trial, row = running.pop(int(rng.integers(len(running))))
                if rng.random() < 0.7:
                    study.tell(trial, SCORES[row])
                else:
                    study.tell(trial, state=FAIL if rng.random() < 0.5 else PRUNED)
    rows = rows_of(kept)
    assert rows == rows_of(renewed)
    assert len(rows) > 40


def test_prompts_in_flight_or_in_the_queue_are_not_asked() -> None:
    study = study_of()
    first = suggest(study.ask())
    waiting = [row for row in range(M) if row != first][:-1]
    for row in waiting[:-1]:
        study.enqueue_trial({"prompt": PROMPTS[row]})
    started = study.ask()  # the first in the queue, whose prompt is not yet suggested
    assert suggest(_fresh(study)) not in {first, *waiting[:-1]}
    assert suggest(started) == waiting[0]


def _fresh(study: Any) -> Any:
    """Begin a trial of the sampler's own while others wait in the queue."""
    trial_id = study._storage.create_new_trial(study._study_id)
    return optuna.trial.Trial(study, trial_id)


@pytest.mark.filterwarnings("ignore:The value nan is not acceptable")
def test_failed_and_infinite_trials_come_again_after_all_others() -> None:
    study = study_of()
    ends = {0: {"state": FAIL}, 1: {"state": PRUNED}, 2: {"values": math.inf}, 3: {"values": math.nan}}
    rows = []
    for number in range(M + 4):
        trial = study.ask()
        rows.append(suggest(trial))
        study.tell(trial, **ends.get(number, {"values": float(SCORES[rows[-1]])}))
    assert sorted(rows[:M]) == list(range(M))
    assert rows[M:] == rows[:4]


def test_repeated_scores_of_a_prompt_count_by_their_mean() -> None:
    rows = searched(1.0, 8)
    once, twice = study_of(), study_of()
    for study, spread in ((once, [0.0]), (twice, [-3.0, 3.0])):
        for row in rows:
            for value in spread if row % 2 else reversed(spread):
                study.enqueue_trial({"prompt": PROMPTS[row]})
                trial = study.ask()
                suggest(trial)
                study.tell(trial, SCORES[row] + value)
    assert suggest(once.ask()) == suggest(twice.ask())


@pytest.mark.parametrize("budget", [12, M])
def test_the_end_of_the_budget_or_the_pool_ends_optimize_and_raises_elsewhere(budget: int) -> None:
    study = study_of(sampler=ZopoSampler(EMBEDDINGS, zf.ZopoConfig(budget=budget)))
    study.optimize(lambda trial: float(SCORES[suggest(trial)]), n_trials=M + 10)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * budget + ["PRUNED"]
    with pytest.raises(zf.NothingToAsk, match=f"{budget} prompts asked"):
        suggest(study.ask())


def test_a_budget_spent_by_other_samplers_is_spent() -> None:
    study = study_of(sampler=optuna.samplers.RandomSampler(1))
    study.optimize(lambda trial: float(SCORES[suggest(trial)]), n_trials=30)
    study.sampler = ZopoSampler(EMBEDDINGS, zf.ZopoConfig(budget=5))
    with pytest.raises(zf.NothingToAsk):
        suggest(study.ask())
    study.sampler = ZopoSampler(EMBEDDINGS)
    before = set(rows_of(study))
    assert suggest(study.ask()) not in before


def test_threads_of_one_study_ask_different_prompts() -> None:
    study = study_of()
    study.optimize(lambda trial: float(SCORES[suggest(trial)]), n_trials=24, n_jobs=4)
    assert len(set(rows_of(study))) == 24


def test_threads_minimise_in_a_resumed_study_with_failed_trials() -> None:
    study, failed, numbers = study_of("minimize"), [], itertools.count()

    def objective(trial: Any) -> float:
        row = suggest(trial)
        trial.suggest_float("temperature", 0.0, 1.0)
        if next(numbers) < 2:
            failed.append(row)
            raise RuntimeError("no answer")
        return float(SCORES[row])

    study.optimize(objective, n_trials=12, n_jobs=3, catch=RuntimeError)
    study.sampler = ZopoSampler(EMBEDDINGS)
    study.optimize(objective, n_trials=8)
    rows = [PROMPTS.index(trial.params["prompt"]) for trial in study.trials if trial.value is not None]
    assert len(rows) == len(set(rows)) == 18
    assert not set(rows) & set(failed)
    assert study.best_value == min(SCORES[rows])


def test_a_resumed_study_on_disk_continues_as_if_never_interrupted(tmp_path: Path) -> None:
    for _ in range(3):
        sampler = pickle.loads(pickle.dumps(ZopoSampler(EMBEDDINGS)))
        study = study_of(
            sampler=sampler, storage=journal(str(tmp_path / "log")), study_name="s", load_if_exists=True
        )
        study.optimize(lambda trial: float(SCORES[suggest(trial)]), n_trials=5)
    assert rows_of(study) == searched(1.0, 15)


def test_a_pruner_that_shows_parts_of_the_study_hides_no_prompt() -> None:
    study = study_of(pruner=optuna.pruners.HyperbandPruner(max_resource=27))

    def objective(trial: Any) -> float:
        row = suggest(trial)
        trial.report(float(SCORES[row]), step=1)
        trial.should_prune()
        return float(SCORES[row])

    study.optimize(objective, n_trials=20)
    assert rows_of(study) == searched(1.0, 20)


def test_other_parameters_come_from_the_other_sampler() -> None:
    other = optuna.samplers.RandomSampler
    study, alone = (
        study_of(sampler=ZopoSampler(EMBEDDINGS, other_sampler=other(5))),
        study_of(sampler=other(5)),
    )

    def objective(trial: Any) -> float:
        if trial.study is study:
            suggest(trial)
        return float(trial.suggest_float("temperature", 0.0, 1.0))

    for each in (study, alone):
        each.optimize(objective, n_trials=5)
    assert [t.params["temperature"] for t in study.trials] == [t.value for t in alone.trials]


# ---- refusals --------------------------------------------------------------------------------------------


def test_a_name_that_no_trial_suggests_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    study = study_of(sampler=ZopoSampler(EMBEDDINGS, name="promt"))
    study.optimize(lambda trial: SCORES[suggest(trial)], n_trials=3)
    assert [r.getMessage() for r in caplog.records if r.name == "zopo_fast.optuna"] == [
        "trial 0 has no parameter 'promt', which this sampler chooses, but prompt; pass its name as name="
    ]


def test_several_objectives_are_refused() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=ZopoSampler(EMBEDDINGS))
    with pytest.raises(zf.errors.InputError, match="2 objectives"):
        study.ask()


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda trial: trial.suggest_categorical("prompt", PROMPTS[1:]), "39 choices are not the 40 prompts"),
        (lambda trial: trial.suggest_int("prompt", 1, M), r"suggest_int\(name, 0, 39\)"),
        (lambda trial: trial.suggest_int("prompt", 0, M - 1, step=3), "expected suggest_categorical"),
        (lambda trial: trial.suggest_float("prompt", 0, 1), "expected suggest_categorical"),
    ],
)
def test_a_parameter_without_a_value_for_each_row_is_refused(ask: Any, said: str) -> None:
    for prompts in (None, PROMPTS):
        trial = study_of(sampler=ZopoSampler(EMBEDDINGS, prompts=prompts)).ask()
        with pytest.raises(zf.errors.InputError, match=said):
            ask(trial)


def test_wrong_prompts_and_embeddings_are_refused() -> None:
    with pytest.raises(zf.ConfigError, match="40 distinct texts"):
        ZopoSampler(EMBEDDINGS, prompts=PROMPTS[1:])
    with pytest.raises(zf.ConfigError, match="40 distinct texts"):
        ZopoSampler(EMBEDDINGS, prompts=[*PROMPTS[1:], PROMPTS[1]])
    with pytest.raises(zf.errors.ArrayError):
        ZopoSampler([["a"]])
