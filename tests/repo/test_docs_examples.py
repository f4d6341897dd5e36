"""Code blocks of the documents run as they stand, against an endpoint on the loopback interface."""

from __future__ import annotations

import ast
import asyncio
import functools
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import KEY, serving, write_lines
from doc_tools import PAGES, ROOT, Block, blocks_of
from fake_server import FakeServer

import zopo_fast as zf
from zopo_fast.prompts import embedders
from zopo_fast.prompts.embedders import resolve

RUN = {"python", "sh", "bash"}
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SERVER_PAGE = "docs/server.md"  # its shell blocks are one session with a server
NEEDED = {f"docs/integrations/{name}.md": name for name in ("dspy", "gepa", "optuna")}
"""Package without which a page cannot run."""
OPENAI = "https://api.openai.com/v1"
PROMPTS = [f"Write answer number {i}." for i in range(60)]


def chosen(*languages: str) -> list[Any]:
    """Return the blocks of some languages that are run one by one."""
    found = [
        block
        for block in BLOCKS
        if block.language in languages and block.reason is None
        and (block.page != SERVER_PAGE or block.language == "python")
    ]  # fmt: skip
    return [pytest.param(block, id=f"{block.page}:{block.code.splitlines()[0][:40]}") for block in found]


def answer(messages: Any) -> str:
    """Write another instruction each time one is asked for, else answer an example."""
    text = messages[-1]["content"]
    if "instruction" in text.lower():
        answer.number += 1  # type: ignore[attr-defined]
        return f"Say in style number {answer.number} which of the two it is."  # type: ignore[attr-defined]
    if "[[ ## answer ## ]]" in text:  # of DSPy
        return "[[ ## answer ## ]]\npositive"
    return "positive" if "style" in text else "no"


answer.number = 0  # type: ignore[attr-defined]


@pytest.fixture
def endpoint() -> Iterator[FakeServer]:
    with serving(answer) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: FakeServer) -> Path:
    """Make a working folder with the files that the documents take for granted."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    rows = [{"input": f"question {i}", "output": "yes"} for i in range(24)]
    write_lines(tmp_path / "task.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ZOPO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "true")  # DSPy asks no other host for prices
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def bash(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script that ends at the first error."""
    command = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


def test_blocks_are_run_or_say_why_not() -> None:
    languages = {block.language for block in BLOCKS}
    assert languages <= RUN | {"text", "toml", "json", "nginx"}  # what is no program has one of these
    assert len(chosen("python")) >= 10
    assert len(chosen("sh", "bash")) >= 6
    for block in BLOCKS:
        assert block.reason is None or len(block.reason.split()) >= 3, block
    marks = sum(text.count("<!-- not run:") for page, text in PAGES.items() if page != "CONTRIBUTING.md")
    assert marks == sum(block.reason is not None for block in BLOCKS if block.page != "CONTRIBUTING.md")


# ---- Python ----------------------------------------------------------------------------------------------


def names(page: str) -> dict[str, Any]:
    """Return what the blocks of a page take for granted."""
    rng = np.random.default_rng(0)
    given: dict[str, Any] = {"zf": zf, "embeddings": rng.normal(size=(60, 384))}
    if page == "docs/search.md":
        given |= {"config": zf.ZopoConfig(budget=6), "prompts": PROMPTS, "more_prompts": ["Do it twice."]}
        given |= {"more_embeddings": rng.normal(size=(1, 384)), "pools": list(rng.normal(size=(4, 180, 6)))}
        given |= {"scores": np.arange(4.0), "shown": np.eye(60, 4), "more_shown": np.eye(1, 4)}
        given |= {"new_embeddings": rng.normal(size=(2, 384))}
        for name in "abc":
            given |= {f"indices_{name}": [0, 3, 5], f"scores_{name}": [0.1, 0.4, 0.2]}
    if page == "docs/integrations/optuna.md":
        given |= {"prompts": PROMPTS, "score": len}
    if page == "docs/integrations/dspy.md":
        given |= {"reviews": [(f"Review {i}.", "positive" if i % 2 else "negative") for i in range(12)]}
    if page == "docs/integrations/gepa.md":
        given |= {"prompts": PROMPTS, "embed": lambda texts: rng.normal(size=(len(texts), 8))}
    if page == "docs/production.md":
        given |= {"task": zf.Task.load("task.jsonl", examples=8), "pool": zf.Pool.load("pool.jsonl")}
    return given


def execute(code: str, given: dict[str, Any]) -> None:
    """Run a block, at whose top level `await` may stand."""
    compiled = compile(code, "<block>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    made = eval(compiled, given)
    if inspect.iscoroutine(made):

        async def run() -> None:
            await made
            if isinstance(given.get("llm"), zf.OpenAIClient):
                await given["llm"].aclose()

        asyncio.run(run())


@pytest.mark.parametrize("page", sorted({param.values[0].page for param in chosen("python")}))
def test_python_blocks_of_a_page_run_in_order(
    page: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page in NEEDED:
        package = pytest.importorskip(NEEDED[page])
        if NEEDED[page] == "dspy":
            package.configure_cache(enable_disk_cache=False)
            # With OPENAI_BASE_URL, DSPy would use LiteLLM, which takes 20 s to import and closes no socket.
            settings = {"engine": "lm15", "api_base": os.environ["OPENAI_BASE_URL"], "api_key": KEY}
            monkeypatch.setattr(package, "LM", functools.partial(package.LM, **settings))
    served: list[str] = []
    monkeypatch.setattr("aiohttp.web.run_app", lambda app, **_: served.append(type(app).__name__))
    monkeypatch.setattr(embedders, "resolve", lambda _: resolve("endpoint:e"))
    write_lines(folder / "pool.jsonl", PROMPTS)
    given = names(page)
    for param in chosen("python"):
        block: Block = param.values[0]
        if block.page == page:
            execute(block.code, given)
    if "dspy" in given:
        given["dspy"].settings.lm.close()
        given["dspy"].configure(lm=None)
    assert served == (["Application"] if page == SERVER_PAGE else [])


def test_a_failing_block_fails() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        execute("import asyncio\nawait asyncio.sleep(0)\nzf.nothing", {"zf": zf})


# ---- shell -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", sorted({param.values[0].page for param in chosen("sh", "bash")}))
def test_shell_blocks_of_a_page_run_in_order(page: str, folder: Path, endpoint: FakeServer) -> None:
    """Only the endpoint and the embedder, by default the slow embedded model, differ from the page."""
    shell = [param.values[0].code for param in chosen("sh", "bash") if param.values[0].page == page]
    script = "\n".join(shell).replace(OPENAI, endpoint.url)
    done = bash(
        re.sub(r"zopo-fast (optimize|landscape) (?!--resume)", r"\g<0>--embedder endpoint:e ", script)
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_a_failing_command_fails(folder: Path) -> None:
    assert bash("zopo-fast show nowhere\ntrue").returncode != 0


@pytest.mark.skipif(not shutil.which("jq") or not shutil.which("curl"), reason="needs curl and jq")
def test_the_session_with_the_server_runs_as_the_page_shows(folder: Path, endpoint: FakeServer) -> None:
    blocks = [block for block in blocks_of(SERVER_PAGE) if block.reason is None]
    token, start = next(b.code for b in blocks if b.language == "sh").strip().splitlines()
    assert bash(token).returncode == 0
    models = next(block.code for block in blocks_of(SERVER_PAGE) if block.language == "toml")
    (folder / "models.toml").write_text(models.replace(OPENAI, endpoint.url))
    words = [*start.replace("8321", "0").split(), "--models", "models.toml"]
    session = "\n".join(block.code for block in blocks if block.language == "bash")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            address = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
            assert address is not None
            session = session.replace("http://127.0.0.1:8321", address[0])
            done = bash(session)
        finally:
            server.terminate()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    shown = re.findall(r"^# (\{.*\})$", session, re.MULTILINE)
    assert len(shown) == 5
    for response in shown:
        assert response in done.stdout
