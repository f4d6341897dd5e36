"""File of a sweep and the division of its limits, without a run."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from zopo_fast.cli.group import load_command
from zopo_fast.cli.sweep.config import SweepFile
from zopo_fast.cli.sweep.ledger import Ledger
from zopo_fast.cli.sweep.ray import RayTasks
from zopo_fast.cli.sweep.rows import Row, ordered, table
from zopo_fast.cli.sweep.worker import NOTHING, Amounts
from zopo_fast.cli.terminal.look import Look
from zopo_fast.errors import ConfigError, MissingDependencyError, StoreBusyError
from zopo_fast.llm.limits import Limits
from zopo_fast.storage.store import STUDY, Store

TASKS = 'tasks = ["a.jsonl"]\n'

WRONG = {
    "no tasks": ("seeds = [0]\n", "no tasks; give tasks ="),
    "an unknown key": (TASKS + "budgett = 5\n", "unknown key 'budgett'"),
    "a typo": (TASKS + "limit-call = 5\n", "did you mean limit-calls"),
    "a value": (TASKS + "limit-calls = 0\n", "limit-calls = '0': 0 is not in the range x>=1"),
    "a table": (TASKS + "[model]\nx = 1\n", "unknown table [model]; did you mean [models]?"),
    "an option": (
        TASKS + "[options]\nbudgett = 5\n",
        "[options]: unknown key 'budgett'; did you mean budget?",
    ),
    "a value in a table": (TASKS + "[models.m]\nbudget = 0\n", "[models.m]: budget = '0': 0 is not in"),
    "a limit of a run": (
        TASKS + "[options]\nlimit-calls = 5\n",
        "[options]: limit-calls: limits hold over the whole sweep; give it at the top",
    ),
    "the folder of a run": (TASKS + '[settings.s]\nout = "x"\n', "[settings.s]: out: folders follow from"),
    "a seed": (TASKS + "[options]\nseed = 5\n", "give seeds = [...] at the top"),
    "no seeds": (TASKS + "seeds = []\n", "seeds must be a list"),
    "a text as seed": (TASKS + 'seeds = ["x"]\n', "seeds: seed = 'x'"),
    "tasks of a number": ("tasks = 3\n", "tasks must be tables [tasks.NAME], or a list of strings"),
    "a list of numbers": ("tasks = [3]\n", "tasks must be a list of strings"),
    "two names": ('tasks = ["a.jsonl", "b/a.jsonl"]\n', "two entries have the same name"),
    "a list of settings": (TASKS + 'settings = ["a"]\n', "settings must be tables [settings.NAME]"),
    "a task without a file": ("[tasks.x]\nbudget = 3\n", 'tasks.x: give task = "FILE"'),
    "a name": (TASKS + '[models."a/b"]\n', "the name 'a/b' names a folder"),
    "no TOML": ("tasks = [\n", "sweep.toml"),
    "a run that cannot work": (TASKS, "run a: a.jsonl: no such file"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=list(WRONG))
def test_an_error_names_file_key_and_remedy(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    done = CliRunner().invoke(load_command("sweep"), [str(path)])
    shown = str(done.exception) if isinstance(done.exception, ConfigError) else done.output
    assert done.exit_code != 0
    assert message in shown
    assert "sweep.toml" in shown
    assert list(tmp_path.iterdir()) == [path]  # no folder before the file is valid


def runs(document: Mapping[str, Any]) -> list[Any]:
    return SweepFile.of(Path("sweep.toml"), document).runs(load_command("optimize"))


def test_the_runs_are_the_product_and_settings_take_precedence() -> None:
    found = runs(
        {
            "tasks": ["x/a.jsonl", "b.csv.gz"],
            "models": ["org/small", "large"],
            "seeds": [0, 1],
            "settings": {"s": {"budget": 7}, "t": {}},
            "options": {"budget": 5, "model": "none", "racing": False},
        }
    )
    assert len(found) == len({run.name for run in found}) == len({run.identity for run in found}) == 16
    first = found[0]
    assert (first.name, first.task) == ("a-org_small-s-seed0", "x/a.jsonl")
    assert first.axes == {"task": "a", "model": "org_small", "settings": "s", "seed": 0}
    assert first.options == {"budget": "7", "model": "org/small", "racing": False, "seed": "0"}
    assert found[2].options["budget"] == "5"


def test_names_that_run_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="two runs are named a-b-c"):
        runs({"tasks": {"a": {"task": "x"}, "a-b": {"task": "y"}}, "models": {"b-c": {}, "c": {}}})


def test_an_option_that_may_change_is_no_part_of_the_identity() -> None:
    of = [runs({"tasks": ["a"], "options": {key: value}})[0].identity for key, value in (
        ("concurrency", 1), ("concurrency", 2), ("budget", 1), ("budget", 2),
    )]  # fmt: skip
    assert of[0] == of[1]
    assert of[2] != of[3]


def test_a_cluster_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"zopo-fast\[ray\]"):
        RayTasks("auto", None, 3)


# ---- limits ------------------------------------------------------------------------------------------


def study(out: Path, name: str, spent: Amounts) -> None:
    """Write the study of a run with one charge."""
    folder = out / "runs" / name
    if not (folder / STUDY).exists():
        Store.create_closed(folder / STUDY, {})
    with Store.open(folder / STUDY) as store:
        store.settled("all", *astuple(spent))


@pytest.mark.parametrize("seed", range(8))
def test_spending_and_shares_never_exceed_a_limit(seed: int, tmp_path: Path) -> None:
    """Runs start, spend, end, are lost and are recovered at random."""
    rng = random.Random(seed)
    limits = Limits(calls=rng.randint(5, 60), tokens=rng.randint(50, 4000), cost=rng.uniform(0.1, 3.0))
    names, spent = [f"r{i}" for i in range(5)], dict.fromkeys([f"r{i}" for i in range(5)], NOTHING)
    allowed: dict[str, Amounts] = {}
    ledger = Ledger(tmp_path, limits)
    for _ in range(60):
        name, step = rng.choice(names), rng.random()
        if name not in allowed and step < 0.5:
            if (share := ledger.grant(name, rng.randint(1, 5), "id")) is not None:
                allowed[name] = share
        elif name in allowed:  # spends a part of its share, or all
            whole = rng.random() < 0.3
            part = [
                have + (most - have if whole else type(have)(rng.random() * (most - have)))
                for have, most in zip(astuple(spent[name]), astuple(allowed[name]), strict=True)
            ]
            spent[name] = Amounts(*part)
            study(tmp_path, name, spent[name])
            if step < 0.5:
                ledger.settle(name, spent[name])
                del allowed[name]
        if step > 0.9:  # the command is killed: all runs end with it
            ledger.close()
            ledger = Ledger(tmp_path, limits)
            allowed.clear()
        sums = [sum(column) for column in zip(*map(astuple, spent.values()), strict=True)]
        assert sums[0] <= (limits.calls or 0)
        assert sums[1] <= (limits.tokens or 0)
        assert sums[2] <= (limits.cost or 0) * (1 + 1e-12)
    ledger.close()


def test_shares_are_equal_and_what_is_left_returns(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, Limits(calls=30, tokens=3000))
    assert ledger.grant("a", 3, "id") == Amounts(calls=10, tokens=1000)
    assert ledger.grant("b", 2, "id") == Amounts(calls=10, tokens=1000)
    ledger.settle("a", Amounts(4, 100, 0.0))
    assert ledger.grant("c", 1, "id") == Amounts(calls=16, tokens=1900)
    assert ledger.grant("d", 1, "id") is None
    ledger.settle("c", None)  # unknown: the share counts in full
    assert ledger.left() == Amounts(calls=0, tokens=0)
    ledger.close()


def test_the_spending_of_a_deleted_folder_still_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, Limits(calls=10))
    ledger.grant("a", 1, "id")
    ledger.settle("a", Amounts(4, 0, 0.0))  # and its folder is not there
    assert ledger.grant("a", 1, "id") == Amounts(calls=6)
    ledger.settle("a", Amounts(6, 0, 0.0))
    assert ledger.left() == Amounts(calls=0)
    ledger.close()


def test_a_run_whose_study_cannot_be_read_keeps_its_share(tmp_path: Path) -> None:
    """A process of a disconnected node may still spend the share."""
    ledger = Ledger(tmp_path, Limits(calls=10))
    ledger.grant("a", 2, "id")
    study(tmp_path, "a", Amounts(3, 0, 0.0))
    ledger.settle("a", None)
    with Store.open(tmp_path / "runs" / "a" / STUDY), pytest.raises(StoreBusyError):
        ledger.grant("a", 1, "id")
    assert ledger.left() == Amounts(calls=5)
    assert ledger.grant("a", 1, "id") == Amounts(calls=10)
    assert ledger.spent("a") == Amounts(3, 0, 0.0)
    ledger.close()


def test_a_second_command_and_a_new_limit_are_refused(tmp_path: Path) -> None:
    first = Ledger(tmp_path, Limits())
    with pytest.raises(StoreBusyError):
        Ledger(tmp_path, Limits())
    first.grant("a", 1, "id")
    first.settle("a", Amounts(1, 1, 0.0))
    first.close()
    with pytest.raises(ConfigError, match="began without this limit"):
        Ledger(tmp_path, Limits(calls=5))
    Ledger(tmp_path, Limits(seconds=5.0)).close()


def test_seconds_add_up_over_commands(tmp_path: Path) -> None:
    now = [100.0]
    for _ in range(2):
        ledger = Ledger(tmp_path, Limits(seconds=5.0), clock=lambda: now[0])
        now[0] += 2.0
        ledger.tick()
        ledger.close()
    ledger = Ledger(tmp_path, Limits(seconds=5.0), clock=lambda: now[0])
    assert ledger.seconds_left == 1.0
    ledger.close()


# ---- table -------------------------------------------------------------------------------------------


def test_the_table_is_sorted_fits_and_is_plain_without_colours() -> None:
    rows = [
        Row("b", "t", stopped_by="failed", error="x"),
        Row("名" * 40, "t", stopped_by="budget", train_score=0.5, heldout_score=0.5, heldout_low=0.25,
            heldout_high=0.75, calls=12345, prompt_tokens=10**9, completion_tokens=1, cost=0.5),
        Row("c", "t", stopped_by="calls", train_score=0.5, heldout_score=0.9),
        Row("a", "s"),
    ]  # fmt: skip
    assert [row.run[:1] for row in ordered(rows)] == ["a", "c", "名", "b"]
    plain = table(ordered(rows), Look(100, has_color=False))
    assert "\x1b" not in plain
    assert "[0.250, 0.750]" in plain
    assert "limit: calls" in plain
    assert "not started" in plain
    assert "\x1b" in table(rows, Look(100, has_color=True))
