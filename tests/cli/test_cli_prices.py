"""`--price auto`: dry run, a limit of cost, a resumed run, and what contradicts it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_tools import Bench, chats, serving

from zopo_fast.storage.store import Store

pytest.importorskip("genai_prices")
NOTE = "a million tokens cost 0.15 in and 0.6 out: gpt-4o-mini of openai in genai-prices"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_dry_run_takes_the_listed_prices(bench: Bench) -> None:
    with serving() as server:
        run = bench.optimize(server, "--model", "gpt-4o-mini", "--dry-run")
        listed = bench.run(*run, "--price", "auto")
        typed = bench.run(*run, "--price-in", "0.15", "--price-out", "0.6")
        assert server.requests == []
    assert listed.code == typed.code == 0, listed
    assert NOTE in listed.err
    assert "in money" in listed.out
    assert listed.out == typed.out


def test_a_limit_of_cost_holds_and_a_resumed_run_keeps_the_prices(bench: Bench) -> None:
    with serving() as server:
        run = bench.optimize(server, "--model", "gpt-4o-mini", "--out", "out", "--quiet", "--no-cache")
        done = bench.run(*run, "--price", "auto", "--limit-cost", "0.00008", "--max-tokens", "4")
        assert done.code == 0, done
        assert "the limit of cost is reached" in done.out
        before = len(chats(server))
        assert before < 6 * 5
        with Store.open(bench.folder / "out" / "study.sqlite3") as store:
            options = store.config["options"]
        assert (options["price"], options["price_in"], options["price_out"]) == ("auto", 0.15, 0.6)
        more = bench.run("optimize", "--resume", "out", "--limit-cost", "1", "--quiet")
        assert more.code == 0, more
        assert NOTE not in more.err
        assert len(chats(server)) > before
    result = json.loads((bench.folder / "out" / "result.json").read_text())
    assert result["stopped_by"] == "budget"


def test_a_dearer_judge_counts(bench: Bench) -> None:
    with serving() as server:
        run = bench.optimize(
            server, "--model", "gpt-4o-mini", "--metric", "judge", "--dry-run", "--price", "auto"
        )
        done = bench.run(*run, "--judge-model", "gpt-4o")
    assert done.code == 0, done
    assert "cost 2.5 in and 10 out: gpt-4o-mini of openai and gpt-4o of openai" in done.err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--model", "nonsense", "--price", "auto"), "no price of the model 'nonsense' in genai-prices"),
        (("--model", "gpt-4o-mini", "--price", "auto", "--price-in", "1"), "contradict each other"),
        (("--model", "gpt-4o-mini", "--price", "cheap"), "'cheap' is not 'auto'"),
        (
            ("--model", "gpt-4o-mini", "--limit-cost", "1"),
            "--limit-cost needs prices: --price auto, or --price-in",
        ),
        (
            ("--model", "gpt-4o-mini", "--price", "auto", "--judge-model", "nonsense"),
            "no price of the model 'nonsense'",
        ),
    ],
)
def test_prices_that_are_none(bench: Bench, more: tuple[str, ...], says: str) -> None:
    with serving() as server:
        done = bench.run(*bench.optimize(server, *more, "--out", "out"))
        assert server.requests == []
    assert done.code == 2, done
    assert says in done.err
    assert not (bench.folder / "out").exists()


def test_the_embedded_model_has_no_price(bench: Bench) -> None:
    run = ("task.jsonl", "--pool", "pool.txt", "--budget", "4", "--dry-run", "--price", "auto")
    done = bench.run("optimize", *run)
    assert (done.code, "the embedded model has no price" in done.err) == (2, True), done


def test_a_landscape_takes_the_listed_prices(bench: Bench) -> None:
    with serving() as server:
        model = ("--model", "gpt-4o-mini", "--base-url", server.url, "--embedder", "endpoint:e")
        done = bench.run(
            *(
                "landscape",
                "task.jsonl",
                "--pool",
                "pool.txt",
                *model,
                "--out",
                "land",
                "--dry-run",
                "--price",
                "auto",
            )
        )
    assert done.code == 0, done
    assert NOTE in done.err
    assert "in money" in done.out
