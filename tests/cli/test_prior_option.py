"""`zopo-fast optimize --prior`: a run that learns from an earlier one."""

from __future__ import annotations

import shutil
from pathlib import Path

from cli_tools import Bench, read_lines, serving

from zopo_fast.storage.store import Store


def test_prior_of_a_run_and_its_resume(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with serving() as server:
        first = bench.run(*bench.optimize(server, "--out", "first", "--quiet"))
        assert first.code == 0, first
        args = bench.optimize(server, "--out", "second", "--seed", "5", "--prior", "first", "--quiet")
        second = bench.run(*args, "--resume-or-start")
        assert second.code == 0, second
        shutil.rmtree(tmp_path / "first")
        again = bench.run(*args, "--resume-or-start")
        assert again.code == 0, again
        resumed = bench.run("optimize", "--resume", "second", "--quiet")
        assert resumed.code == 0, resumed
    with Store.open(tmp_path / "second" / "study.sqlite3") as store:
        (source,) = store.get("prior")
    best = source["indices"][source["scores"].index(max(source["scores"]))]
    assert read_lines(tmp_path / "second" / "trials.jsonl")[0]["index"] == best


def test_three_priors_start_with_a_winner_each(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    names = ["A", "B", "C"]
    with serving() as server:
        for seed, name in enumerate(names):
            done = bench.run(*bench.optimize(server, "--out", name, "--seed", str(seed), "--quiet"))
            assert done.code == 0, done
        priors = [argument for name in names for argument in ("--prior", name)]
        done = bench.run(*bench.optimize(server, "--out", "next", *priors, "--seed", "9", "--quiet"))
        assert done.code == 0, done
    with Store.open(tmp_path / "next" / "study.sqlite3") as store:
        sources = store.get("prior")
        asked = [event.data["prompt"] for event in store.events() if event.kind == "ask"]
    assert [source["source"] for source in sources] == ["study 1", "study 2", "study 3"]
    best = [source["indices"][source["scores"].index(max(source["scores"]))] for source in sources]
    assert set(best) <= set(asked[:3]), (best, asked)
    for name, source in zip(names, sources, strict=True):
        trials = read_lines(tmp_path / name / "trials.jsonl")
        assert {line["index"] for line in trials} == set(source["indices"])


def test_prior_in_a_configuration_file(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for value in ('"none"', '["none", "gone"]'):
        (tmp_path / "run.toml").write_text(f"prior = {value}\n")
        done = bench.run(*bench.optimize("http://127.0.0.1:9/v1", "--config", "run.toml"))
        assert done.code != 0
        assert "prior: none: no study file there" in done.err, done


def test_official_loop_refuses_a_prior(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    done = bench.run(*bench.optimize("http://127.0.0.1:9/v1", "--official", "--prior", "none"))
    assert done.code == 2, done
    assert "prior" in done.err
