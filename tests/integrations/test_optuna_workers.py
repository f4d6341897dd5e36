"""Several processes share an Optuna study and ask at the same moment: no prompt is asked twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna_tools import journal, relational, shared_trials
from postgres_tools import cluster

pytest.importorskip("optuna")
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture
def postgres() -> Iterator[str]:
    with cluster() as running:
        yield running.database()


def assert_all_differ(storage: Callable[[str], Any], where: str) -> None:
    trials = shared_trials(storage, where, workers=2, trials=15)
    assert len(trials) == 30
    assert all(trial.state.name == "COMPLETE" for trial in trials)
    assert len({trial.params["prompt"] for trial in trials}) == 30


def test_workers_on_postgresql_ask_30_prompts_in_30_trials(postgres: str) -> None:
    assert_all_differ(relational, postgres)


def test_workers_on_a_journal_file_ask_30_prompts_in_30_trials(tmp_path: Path) -> None:
    assert_all_differ(journal, str(tmp_path / "journal"))
