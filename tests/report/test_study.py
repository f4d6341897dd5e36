"""zf.Study: what a reader finds in a study, while the run holds it and after."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from report_tools import HOSTILE, make_run

import zopo_fast as zf
from zopo_fast.storage.snapshot import snapshot


def test_a_finished_study_has_the_trials_and_scores_of_its_result(tmp_path: Path) -> None:
    result = make_run(tmp_path)
    with zf.Study.open(tmp_path) as study:
        assert study.is_finished
        assert study.winner is not None
        assert (study.winner.index, study.winner.score) == (result.best_index, result.best_score)
        assert {(t.index, t.score) for t in study.trials} == {(t.index, t.score) for t in result.trials}
        assert [row.score for row in study.heldout] == [row.score for row in result.heldout]
        assert study.incumbent == 0
        assert study.task is not None
        assert study.task.name == "toy"
        assert sum(usage.calls for usage in study.usages.values()) == result.usage.calls
        assert f"{len(study.ranked)} of 24 prompts scored, finished" in repr(study)


def test_a_finished_study_has_the_prompts_that_a_race_left_unfinished(tmp_path: Path) -> None:
    prompts = [f"Say yes{' please' * (i % 3)} ({i})." for i in range(40)]
    result = make_run(tmp_path, prompts, budget=4, prompts_in_flight=1)
    with snapshot(tmp_path / "study.sqlite3") as store:
        assert len(store.trials()) < len(result.trials)
    with zf.Study.open(tmp_path) as study:
        assert sorted((t.index, t.score, t.examples) for t in study.trials) == sorted(
            (t.index, t.score, t.examples) for t in result.trials
        )


def test_answers_are_those_of_the_model_worst_first(tmp_path: Path) -> None:
    result = make_run(tmp_path)
    with zf.Study.open(tmp_path / "study.sqlite3") as study:
        answers = study.answers(result.best_index)
        train = [answer for answer in answers if answer.part == "train"]
        assert [answer.score for answer in train] == sorted(answer.score for answer in train)
        assert {answer.answer for answer in answers} <= {"yes", "no", f"no to {HOSTILE[0]}"}
        assert all((answer.answer == "yes") == (answer.score == 1.0) for answer in answers)
        assert len([answer for answer in answers if answer.part == "heldout"]) == 12


@pytest.mark.parametrize("racing", [True, False])
def test_the_posterior_is_exact_where_a_score_is_final(tmp_path: Path, racing: bool) -> None:
    make_run(tmp_path, racing=racing)
    with zf.Study.open(tmp_path) as study:
        posterior = study.posterior()
        assert posterior is not None
        assert posterior.indices.tolist() == list(range(24))
        for row in study.ranked:
            if row.is_full:
                assert posterior.mean[row.index] == pytest.approx(row.score)
                assert posterior.std[row.index] == 0.0
            else:
                assert posterior.std[row.index] > 0
        asked = {row.index for row in study.ranked}
        free = [i for i in range(24) if i not in asked]
        assert (posterior.std[free] > 0).all()


def test_the_posterior_of_a_partial_score_lies_between_prediction_and_score(tmp_path: Path) -> None:
    make_run(tmp_path)
    with zf.Study.open(tmp_path) as study:
        partial = [row for row in study.ranked if not row.is_full]
        assert partial
        posterior = study.posterior()
        assert posterior is not None
        study.ranked = [row for row in study.ranked if row.index != partial[0].index]
        without = study.posterior()
        assert without is not None
        k = partial[0].index
        low, high = sorted((float(without.mean[k]), float(partial[0].score or 0.0)))
        assert low - 0.05 <= posterior.mean[k] <= high + 0.05  # the model's settings move a little too
        assert posterior.std[k] < without.std[k]


def test_a_search_without_a_study_file(tmp_path: Path) -> None:
    embeddings = np.random.default_rng(1).normal(size=(30, 4))
    prompts = [f"prompt {i}" for i in range(30)]
    study = zf.Study.of_search("mine", prompts, embeddings, {4: 0.5, 9: 0.75}, [4, 9, 2])
    assert [row.index for row in study.ranked] == [9, 4]
    assert [trial.best_score for trial in study.trials] == [0.5, 0.75]
    assert study.prompt(2).score is None
    posterior = study.posterior()
    assert posterior is not None
    assert posterior.mean[9] == pytest.approx(0.75)


def test_reading_keeps_the_lock_of_a_run_in_this_process(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    with zf.Store.create(path, {}) as store:
        store.append("ask", {"n": 1})
        with snapshot(path) as copy:
            assert [event.data for event in copy.events()] == [{"n": 1}]
        # Another process must still find the study in use.
        code = f"import zopo_fast as zf; zf.Store.open({str(path)!r})"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "StoreBusyError" in other.stderr
        store.append("ask", {"n": 2})
    with zf.Store.open(path) as store:
        assert [event.data["n"] for event in store.events()] == [1, 2]


def test_a_study_can_be_read_while_its_run_continues(tmp_path: Path) -> None:
    seen: list[str] = []

    def score(prompt: str) -> float:
        if (tmp_path / "s.sqlite3").exists() and len(seen) < 3:
            with zf.Study.open(tmp_path / "s.sqlite3") as study:
                seen.append(repr(study))
        return float(len(prompt))

    texts = [f"prompt{'!' * i}" for i in range(12)]
    embeddings = np.arange(24, dtype=np.float64).reshape(12, 2)
    config = zf.RunConfig(budget=6, initial=2)
    result = zf.optimize_sync(
        score, texts, config=config, embeddings=embeddings, store=tmp_path / "s.sqlite3"
    )
    assert len(seen) >= 3
    assert all("unfinished" in each for each in seen)
    with zf.Study.open(tmp_path / "s.sqlite3") as study:
        assert study.is_finished
        assert study.winner is not None
        assert study.winner.score == result.best_score


def test_a_resumed_run_is_unfinished_until_it_ends(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_run(tmp_path, stop_after=1)
    with zf.Study.open(tmp_path) as study:
        assert not study.is_finished
    make_run(tmp_path)
    with zf.Study.open(tmp_path) as study:
        assert study.is_finished
        assert study.result["stopped_by"] == "budget"


def test_a_missing_study_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(zf.StoreError, match="no study file there"):
        zf.Study.open(tmp_path)


def test_a_run_that_continues_has_no_result_meanwhile(tmp_path: Path) -> None:
    first = make_run(tmp_path, limits=zf.Limits(calls=40))
    assert first.stopped_by == "calls"
    with zf.Study.open(tmp_path) as study:
        assert study.result["stopped_by"] == "calls"
    with pytest.raises(KeyboardInterrupt):
        make_run(tmp_path, limits=zf.Limits(calls=1000), stop_after=1)
    with zf.Study.open(tmp_path) as study:
        assert not study.is_finished
