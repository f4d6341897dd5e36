"""The test and the command that docs/integrations/pytest.md shows, run as they stand."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from cli_tools import Bench, Done, ended, serving
from doc_tools import ROOT, blocks_of

PAGE = "docs/integrations/pytest.md"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return Bench(tmp_path)


def code(language: str) -> str:
    return next(block.code for block in blocks_of(PAGE) if block.language == language)


def both(messages: Sequence[Mapping[str, str]]) -> str:
    """Answer with both labels, of which the metric "contains" finds the right one."""
    return "positive or negative"


def neither(messages: Sequence[Mapping[str, str]]) -> str:
    return "cannot say"


def run_test(bench: Bench, url: str) -> Done:
    (bench.folder / "test_prompt.py").write_text(code("python"), encoding="utf-8")
    env = bench.env(OPENAI_BASE_URL=url)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_prompt.py"]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return ended(subprocess.Popen(words, cwd=bench.folder, env=env, **piped))


def test_the_test_of_the_page_passes_and_fails(bench: Bench) -> None:
    with serving(both) as server:
        passed = run_test(bench, server.url)
    with serving(neither) as server:
        failed = run_test(bench, server.url)
    assert passed.code == 0, passed
    assert failed.code == 1, failed
    assert "Score: 0.000 on " in failed.out
    assert "Wrong: " in failed.out


def test_the_command_of_the_page_passes_and_fails(bench: Bench) -> None:
    (bench.folder / "best_prompt.txt").write_text("Classify the review.", encoding="utf-8")
    words = [*shlex.split(code("sh"))[1:], "--no-cache"]
    with serving(both) as server:
        passed = bench.run(*words, env={"OPENAI_BASE_URL": server.url})
    with serving(neither) as server:
        failed = bench.run(*words, env={"OPENAI_BASE_URL": server.url})
    assert (passed.code, failed.code) == (0, 1), (passed, failed)
