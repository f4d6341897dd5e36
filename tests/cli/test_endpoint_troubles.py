"""Troubles of providers that a run of the command line survives, and what it says about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_tools import Bench, serving
from fake_server import Request, ok, status
from provider_errors import GEMINI_QUOTA, MODES, reasoning_model, says


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_reasoning_model_is_adapted_to_and_that_is_said_once(bench: Bench) -> None:
    with serving(plan=reasoning_model) as server:
        done = bench.run(*bench.optimize(server, "--generate", "4", "--out", "out"))
    assert done.code == 0, done
    lines = done.err.replace("\r", "\n").splitlines()
    said = [line for line in lines if "refuses the default parameter" in line]
    assert len(said) == 2, done
    assert all(line.startswith("m at http://127.0.0.1") for line in said)  # not behind a progress bar


@pytest.mark.parametrize("option", [(), ("--max-tokens", "500")])
def test_the_limit_of_an_option_is_renamed(bench: Bench, option: tuple[str, ...]) -> None:
    with serving(plan=reasoning_model) as server:
        done = bench.run(*bench.optimize(server, *option, "--quiet", "--out", "out"))
        limits = {request.body.get("max_completion_tokens") for request in server.requests[-20:]}
    assert done.code == 0, done
    assert limits == {500 if option else 64}


def test_a_temperature_that_was_typed_stays(bench: Bench) -> None:
    with serving(plan=reasoning_model) as server:
        done = bench.run(*bench.optimize(server, "--temperature", "0.3", "--quiet", "--out", "out"))
    assert done.code == 2, done
    assert "refuses 'temperature' in the request; set another value in --temperature" in done.err


def test_max_wait_bounds_a_call(bench: Bench) -> None:
    wait = says(429, GEMINI_QUOTA)
    with serving(plan=lambda request: wait if "messages" in request.body else ok()) as server:
        done = bench.run(*bench.optimize(server, "--max-wait", "20", "--quiet", "--out", "out"))
    assert done.code != 0, done
    assert (
        "the endpoint asks to wait 27 s (retryDelay), longer than the 20 s left of max_elapsed=20 s"
        in done.err
    )
    assert "--max-wait" in done.err


@pytest.mark.parametrize(
    "name", ["azure content filter", "openrouter moderation", "refusal", "vllm context", "500"]
)
def test_one_example_that_is_refused_does_not_end_the_run(bench: Bench, name: str) -> None:
    trouble = status(500) if name == "500" else MODES[name].behaviour

    def plan(request: Request) -> Any:
        return trouble if "question 8" in request.key else ok()

    with serving(plan=plan) as server:
        done = bench.run(*bench.optimize(server, "--quiet", "--out", "out", "--budget", "3"))
    assert done.code == 0, done
