"""Progress through every phase: the callback of a run, bars on a terminal, lines elsewhere."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cli_tools import EXAMPLES, HELDOUT, PROMPTS, Bench, serving
from resume_tools import EMBEDDINGS, PROMPTS as MANY, TASK, answer, asked_for

import zopo_fast as zf
from zopo_fast.cli.terminal.progress import Progress
from zopo_fast.llm.adapter import as_chat_model
from zopo_fast.runs.progress import PHASES, ChunkedEmbedder, CountedModel


class Clock:
    """Clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# ---- the callback ------------------------------------------------------------------------------------


def events(model: Any = answer, **more: Any) -> dict[str, list[tuple[int, int]]]:
    """Run and return the progress reports by phase."""
    found: dict[str, list[tuple[int, int]]] = {}
    given = {"budget": 8, "initial": 4, "stop_at_perfect": False, "concurrency": 1, **more}
    zf.optimize_sync(
        TASK,
        MANY,
        model,
        zf.RunConfig(**given),
        embeddings=EMBEDDINGS,
        on_progress=lambda phase, done, total: found.setdefault(phase, []).append((done, total)),
    )
    return found


@pytest.mark.parametrize("racing", [True, False])
def test_the_search_reports_every_example(racing: bool) -> None:
    parts, total = len(TASK.train), 8 * len(TASK.train)
    found = events(racing=racing)["search"]
    assert {each for _, each in found} == {total}
    assert [done for done, _ in found] == list(range(len(found)))
    assert found[-1][0] == total if not racing else total - parts < found[-1][0] <= total


def test_a_failed_prompt_takes_its_examples_back() -> None:
    async def refusing(messages: Any) -> str:
        if asked_for(messages)[0] % 3 == 0:
            raise zf.RequestRejectedError("no")
        return answer(messages)

    found = events(refusing, racing=False, max_failures=60)["search"]
    assert found[-1] == (8 * len(TASK.train), 8 * len(TASK.train))
    assert max(done for done, _ in found) == 8 * len(TASK.train)


def test_comparison_and_random_sample_report_their_examples() -> None:
    found = events(racing=False, compare_random=True)
    parts, held = len(TASK.train), len(TASK.heldout)
    done, total = found["random sample"][-1]
    assert done == total
    assert total % parts == 0
    assert [done for done, _ in found["comparison"]][-1] == found["comparison"][-1][1]
    assert found["comparison"][0] == (0, 4 * held)
    assert found["comparison"][-1][1] in {n * held for n in (1, 2, 3, 4)}


class Embedder:
    name = "mine"
    usage = zf.Usage()

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def embed(self, texts: Any) -> Any:
        self.sizes.append(len(texts))
        return EMBEDDINGS[: len(texts)]

    async def aclose(self) -> None:
        pass


def test_embedder_and_writer_report() -> None:
    found: list[tuple[str, int, int]] = []
    embedder = Embedder()
    chunked = ChunkedEmbedder(embedder, 4, lambda *report: found.append(report))
    assert len(asyncio.run(chunked.embed(MANY[:10]))) == 10
    assert embedder.sizes == [4, 4, 2]
    assert chunked.name == "mine"
    assert found == [("embedding", done, 10) for done in (0, 4, 8, 10)]
    found.clear()
    counted = CountedModel(
        as_chat_model(lambda _: "p", 1), "generating", 1, lambda *report: found.append(report)
    )
    for _ in range(2):
        asyncio.run(counted.chat([{"role": "user", "content": "write"}]))
    assert found == [("generating", 1, 1), ("generating", 2, 2)]


# ---- lines and bars ----------------------------------------------------------------------------------


def test_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    progress = Progress(quiet=False, is_terminal=False, clock=clock)
    progress.usage = lambda: zf.Usage(100, 20, 7)
    progress.phase("embedding")
    progress.update("embedding", 32, 200)
    clock.now = 12.4
    progress.tick()
    progress.update("embedding", 200, 200)
    progress.phase("search")
    progress.tick()
    progress.update("search", 5, 50)
    progress.close()
    progress.close()
    assert capsys.readouterr().err.splitlines() == [
        "Embedding the pool ...",
        "embedding: 32/200 prompts, best -, 7 calls, 120 tokens, 12 s",
        "embedding: 200/200 prompts, best -, 7 calls, 120 tokens, 12 s, done",
        "Scoring prompts ...",
        "search: 0/? examples, best -, 7 calls, 120 tokens, 0 s",
        "search: 5/50 examples, best -, 7 calls, 120 tokens, 0 s, ended",
    ]


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for is_terminal in (True, False):
        progress = Progress(quiet=True, is_terminal=is_terminal)
        progress.phase("search")
        progress.update("search", 1, 2)
        progress.close()
    assert capsys.readouterr().err == ""


def test_a_bar_for_each_phase_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(quiet=False, is_terminal=True)
    for name in PHASES:
        progress.phase(name)
        for done in range(5):
            progress.update(name, done, 4)
        assert (progress._bar.tqdm.n, progress._bar.tqdm.total) == (4, 4)
        progress.update(name, 2, 4)  # a failed prompt takes its examples back
        assert progress._bar.tqdm.n == 2
    progress.close()
    shown = capsys.readouterr().err
    assert shown.count("| 2/4 [") >= len(PHASES)
    assert all(phase.message in shown for phase in PHASES.values())


def test_a_resumed_run_begins_with_what_was_spent(capsys: pytest.CaptureFixture[str]) -> None:
    from zopo_fast.runs.result import Trial

    progress = Progress(quiet=False, is_terminal=False, clock=Clock())
    progress.usage = lambda: zf.Usage(10, 10, 2)
    total = zf.Usage(100, 100, 20)
    earlier = [("p\n" + "q" * 99, 0.5), ("a worse one", 0.25)]
    progress.resume(
        [Trial(1, 0, p, score, (score,), zf.Usage(), 0.0, 0.5, total) for p, score in earlier], total
    )
    progress.phase("search")
    progress.update("search", 5, 50)
    progress.tick()
    progress.close()
    prompt = "p " + "q" * 55 + "..."
    assert (
        f'search: 5/50 examples, best 0.500 ("{prompt}"), 22 calls, 220 tokens, 0 s'
        in capsys.readouterr().err
    )


def test_the_command_without_a_terminal(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with serving() as server:
        done = bench.run(*bench.optimize(server, "--compare-random"))
    assert done.code == 0, done
    assert "\r" not in done.err
    assert "%|" not in done.err
    lines = done.err.splitlines()
    for start in ("Embedding the pool", "Scoring prompts", "Scoring the held-out", "Scoring a random sample"):
        assert any(line.startswith(start) for line in lines), done
    assert any(line.startswith(f"embedding: {len(PROMPTS)}/{len(PROMPTS)} prompts") for line in lines)
    assert any(line.startswith(f"search: {6 * EXAMPLES}/{6 * EXAMPLES} examples") for line in lines)
    (compared,) = [line for line in lines if line.startswith("comparison: ") and line.endswith(", done")]
    count, total = map(int, compared.split()[1].split("/"))
    assert count == total
    assert total % HELDOUT == 0


def test_generate_reports_its_answers(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    written = iter(range(1000))
    with serving(reply=lambda _: f"Answer in manner {next(written)}, please.") as server:
        done = bench.run(
            "generate", "task.jsonl", "-n", "8", "--model", "m", "--base-url", server.url, "--out", "p.jsonl"
        )
    assert done.code == 0, done
    assert "Generating prompts ..." in done.err
    assert any(line.startswith("generating: ") and line.endswith("done") for line in done.err.splitlines())


# ---- bars of optimize(progress=True) -----------------------------------------------------------------


def test_a_script_gets_bars_and_its_own_callbacks(capsys: pytest.CaptureFixture[str]) -> None:
    heard: dict[str, list[Any]] = {"trial": [], "phase": [], "progress": []}

    async def on_trial(trial: zf.Trial) -> None:
        heard["trial"].append(trial)

    how: dict[str, Any] = {
        "on_trial": on_trial,
        "on_phase": heard["phase"].append,
        "on_progress": lambda *report: heard["progress"].append(report),
    }
    config = zf.RunConfig(budget=8, initial=4, stop_at_perfect=False, racing=False)
    result = zf.optimize_sync(TASK, MANY, answer, config, embeddings=EMBEDDINGS, progress=True, **how)
    shown = capsys.readouterr().err
    total = 8 * len(TASK.train)
    assert f"Scoring prompts: 100%|██████████| {total}/{total} " in shown
    assert f"Best so far {result.best_score:.3f}: " in shown
    assert "Scoring the held-out examples: 100%" in shown
    assert len(heard["trial"]) == 8
    assert heard["phase"] == ["search", "comparison"]
    assert len(heard["progress"]) > total
    quiet = zf.optimize_sync(TASK, MANY, answer, config, embeddings=EMBEDDINGS)
    assert capsys.readouterr().err == ""
    assert quiet.best_prompt == result.best_prompt


def test_the_bars_are_no_part_of_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = zf.RunConfig(budget=8, initial=4, stop_at_perfect=False, racing=False)
    found = [
        zf.optimize_sync(
            TASK, MANY, answer, config, embeddings=EMBEDDINGS, store=tmp_path / "s", progress=shown
        )
        for shown in (False, True)
    ]
    assert found[0].usage == found[1].usage
    assert f"Best so far {found[0].best_score:.3f}: " in capsys.readouterr().err  # from the resumed trials
