"""Bad input to the real command: exit code 2, one line, no traceback, no key, no file changed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cli_tools import KEY, PROMPTS, Bench, Done, ended, serving
from fake_server import Behaviour, FakeServer, edited, html, no_choices, ok, status

GOOD = '{"input": "question 1", "output": "yes"}\n'
CLOSED = "http://127.0.0.1:9/v1"  # a port without a listener


class Case(NamedTuple):
    args: tuple[str, ...]
    says: tuple[str, ...]
    files: dict[str, str | bytes] | None = None
    command: str = "optimize"


def pool_of(*rows: Any) -> dict[str, str | bytes]:
    """Return a pool.jsonl of these rows and some good ones."""
    lines = [json.dumps(row) for row in [*rows, *PROMPTS]]
    return {"p.jsonl": "\n".join(lines)}


def task_of(*lines: str) -> dict[str, str | bytes]:
    return {"t.jsonl": "\n".join(lines)}


POOL = ("--pool", "p.jsonl")
CASES = {
    "missing task": Case(("TASK=nowhere.jsonl",), ("nowhere.jsonl", "no such file")),
    "empty task": Case(("TASK=t.jsonl",), ("t.jsonl", "empty"), {"t.jsonl": " \n"}),
    "task without examples": Case(
        ("TASK=t.jsonl",), ("t.jsonl", "no examples"), task_of('{"metadata": {"name": "x"}}')
    ),
    "malformed line": Case(("TASK=t.jsonl",), ("t.jsonl:3:", "not JSON"), task_of(GOOD, '{"input": "a"')),
    "unknown field": Case(
        ("TASK=t.jsonl",), ("t.jsonl:1:", "'input'", "'question'"), task_of('{"question": "a"}')
    ),
    "unknown column": Case(
        ("TASK=t.csv",), ("t.csv:1:", "'input'", "'question'"), {"t.csv": "question,output\na,b\n"}
    ),
    "named column": Case(("--input-field", "text"), ("task.jsonl:1:", "'text'")),
    "too few examples": Case(("--examples", "500"), ("examples=500", "of 12")),
    "an unknown format": Case(("TASK=t.docx",), ("t.docx", ".jsonl"), {"t.docx": "PK"}),
    "no prompts": Case(("--pool", "", "NO-POOL"), ("--pool", "--generate")),
    "missing pool": Case(("--pool", "nowhere.txt"), ("nowhere.txt",)),
    "empty pool": Case(("--pool", "p.txt"), ("p.txt", "no prompts"), {"p.txt": "\n\n"}),
    "pool of one": Case(("--pool", "p.txt", "--budget", "1"), ("at least 2", "1"), {"p.txt": "one\none \n"}),
    "budget above the pool": Case(("--budget", "13"), ("--budget 13", "pool of 12")),
    "budget above what is generated": Case(
        ("--generate", "3", "--how", "induce", "NO-POOL"), ("--budget 6", "of 3 ")
    ),
    "two scores": Case(
        POOL,
        ("p.jsonl:2:", "two scores", "0.5", "0.25"),
        pool_of({"prompt": "a", "score": 0.5}, {"prompt": "a ", "score": 0.25}),
    ),
    "NaN in a pool": Case(POOL, ("p.jsonl:1:", "finite"), pool_of({"prompt": "a", "score": float("nan")})),
    "infinity in a pool": Case(
        POOL, ("p.jsonl:1:", "finite"), pool_of({"prompt": "a", "score": float("-inf")})
    ),
    "malformed pool": Case(POOL, ("p.jsonl:2:", "not JSON"), {"p.jsonl": '"a"\n{"prompt"\n'}),
    "pool not UTF-8": Case(("--pool", "p.txt"), ("p.txt:2:", "UTF-8"), {"p.txt": b"a\n\xff\n"}),
    "wrong flag": Case(("--bogus",), ("--bogus",)),
    "not a number": Case(("--budget", "many"), ("--budget", "many")),
    "negative seed": Case(("--seed", "-1"), ("--seed", "-1")),
    "target that is no number": Case(("--target", "nan"), ("target", "nan")),
    "body that is no JSON": Case(("--body", "{"), ("--body", "not JSON")),
    "missing TOML": Case(("--config", "nowhere.toml"), ("nowhere.toml",)),
    "broken TOML": Case(("--config", "c.toml"), ("c.toml",), {"c.toml": "budget = "}),
    "unknown key in TOML": Case(
        ("--config", "c.toml"), ("c.toml", "'budgett'; did you mean budget?"), {"c.toml": "budgett = 3"}
    ),
    "list in TOML": Case(("--config", "c.toml"), ("c.toml: seed", "[1]"), {"c.toml": "seed = [1]"}),
    "fraction in TOML": Case(
        ("--config", "c.toml"), ("c.toml: heldout = '1.9'", "integer"), {"c.toml": "heldout = 1.9"}
    ),
    "number of text in TOML": Case(
        ("--config", "c.toml"), ("c.toml: budget = 'five'", "integer"), {"c.toml": 'budget = "five"'}
    ),
    "choice in TOML": Case(
        ("--config", "c.toml"), ("c.toml: unanswered = 'x'", "skip"), {"c.toml": 'unanswered = "x"'}
    ),
    "body in TOML": Case(("--config", "c.toml"), ("c.toml: body", "not JSON"), {"c.toml": 'body = "{"'}),
    "task in TOML": Case(
        ("--config", "c.toml"), ("c.toml: task is an argument", "TASK"), {"c.toml": 'task = "task.jsonl"'}
    ),
    "table in TOML": Case(
        ("--config", "c.toml"), ("c.toml: unknown table [optimize]",), {"c.toml": "[optimize]\nbudget = 4"}
    ),
    "flag of text in TOML": Case(
        ("--config", "c.toml"), ("c.toml: official", "true"), {"c.toml": 'official = "no"'}
    ),
    "unknown metric": Case(("--metric", "nonsense"), ("'nonsense'", "exact_match")),
    "unknown metric, dry run": Case(("--metric", "nonsense", "--dry-run"), ("'nonsense'", "exact_match")),
    "missing metric module": Case(("--metric", "nowhere_at_all:score"), ("nowhere_at_all",)),
    "unknown template": Case(("--template", "nonsense"), ("'nonsense'", "instruction")),
    "unknown embedder": Case(("--embedder", "nonsense"), ("'nonsense'", "endpoint:MODEL")),
    "empty incumbent": Case(("--incumbent", " "), ("--incumbent", "empty")),
    "incumbent not UTF-8": Case(("--incumbent", "a\udcff"), ("--incumbent", "surrogate")),
    "incumbent's file is missing": Case(("--incumbent", "@nowhere.txt"), ("nowhere.txt",)),
    "half a price": Case(("--dry-run", "--price-in", "1"), ("--price-in", "--price-out")),
    "base url that is none": Case(("--base-url", "nonsense"), ("base_url", "http")),
    "local and remote": Case(("--local",), ("--local", "--base-url")),
    "folder below a file": Case(("--out", "task.jsonl/out"), ("task.jsonl/out", "cannot be written")),
    "folder that is a file": Case(("--out", "task.jsonl"), ("task.jsonl", "cannot be written")),
    "folder that holds a prompt": Case(
        ("--out", "."), ("already holds", "best_prompt.txt"), {"best_prompt.txt": "mine"}
    ),
    "name of a terminal's command": Case(("TASK=\x1b[31m.jsonl",), ("\\x1b[31m.jsonl", "no such file")),
    "generate into nowhere": Case(
        ("--how", "induce", "--out", "nowhere/p.jsonl"), ("nowhere/p.jsonl",), command="generate"
    ),
    "generate another format": Case(
        ("--how", "induce", "--out", "p.txt"), ("p.txt", ".jsonl"), command="generate"
    ),
}


@pytest.fixture(scope="module")
def quiet_server() -> Iterator[FakeServer]:
    with serving() as server:
        yield server


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def arguments(bench: Bench, case: Case, url: str) -> list[str]:
    """Return the good command with the arguments of the case in place of its own."""
    args = bench.optimize(url, "--quiet", "--out", "out")
    if case.command == "generate":
        args = ["generate", "task.jsonl", "--examples", "5", "--model", "m", "--base-url", url]
    extra = list(case.args)
    if extra[0].startswith("TASK="):
        args[1] = extra.pop(0).removeprefix("TASK=")
    if extra[-1:] == ["NO-POOL"]:
        del args[args.index("--pool") : args.index("--pool") + 2]
        extra = [] if extra[0] == "--pool" else extra[:-1]
    return [*args, *extra]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_one_clear_line(done: Done, *says: str, code: int = 2) -> None:
    assert done.code == code, done
    assert done.out == "", done
    assert "Traceback" not in done.err, done
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert [line.startswith("Error: ") for line in lines] == [False] * (len(lines) - 1) + [True], done
    assert len(lines) == 1 or lines[0].startswith(("Usage: ", "Plan: ")), done
    for text in says:
        assert text in lines[-1], done
    assert KEY not in done.text
    assert "\x1b" not in done.err


@pytest.mark.parametrize("name", CASES)
def test_bad_input(bench: Bench, quiet_server: FakeServer, name: str) -> None:
    case = CASES[name]
    for file, content in (case.files or {}).items():
        (bench.folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    before, asked = snapshot(bench.folder), len(quiet_server.requests)
    done = bench.run(*arguments(bench, case, quiet_server.url))
    assert_one_clear_line(done, *case.says)
    assert len(quiet_server.requests) == asked  # no call was made
    assert snapshot(bench.folder) == before
    assert not (bench.folder / "out").exists()


def test_the_good_command_is_good(bench: Bench, quiet_server: FakeServer) -> None:
    """The cases fail because of their changes: the command they share works."""
    done = bench.run(*arguments(bench, Case(("--dry-run",), ()), quiet_server.url))
    assert (done.code, done.err) == (0, ""), done
    assert "No call was made." in done.out


# ---- endpoints ---------------------------------------------------------------------------------------


def on(path: str, behaviour: Behaviour) -> Any:
    return lambda request: behaviour if request.path.endswith(path) else ok()


ANSWERS = {
    "wrong key": (status(401, text=f"no {KEY} \x1b[2J\x07"), ("HTTP 401", "refuses the key", "***")),
    "HTML": (html(), ("web page", "/v1")),
    "no choices": (no_choices(), ("no choices",)),
    "not an object": (edited(lambda _: [1, 2]), ("not a JSON object",)),
    "unknown model": (status(404, text="no model m"), ("HTTP 404", "no model m")),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_endpoint_whose_answers_cannot_be_used(bench: Bench, name: str) -> None:
    behaviour, says = ANSWERS[name]
    with serving(plan=on("/chat/completions", behaviour)) as server:
        done = bench.run(*bench.optimize(server, "--quiet", "--out", "out"))
        assert len(server.requests) > 1
    assert_one_clear_line(done, "POST http://127.0.0.1", *says)
    assert all(KEY.encode() not in content for content in snapshot(bench.folder / "out").values())


@pytest.mark.parametrize("name", ["wrong key", "HTML"])
def test_endpoint_whose_embeddings_cannot_be_used(bench: Bench, name: str) -> None:
    behaviour, says = ANSWERS[name]
    with serving(plan=on("/embeddings", behaviour)) as server:
        done = bench.run(*bench.optimize(server, "--out", "out"))
        # A web page may be a temporary fault of a proxy and is retried; a refusal is not.
        assert len(server.requests) == (4 if name == "HTML" else 1)
    assert_one_clear_line(done, "/embeddings", *says)
    assert not (bench.folder / "out").exists()  # the name stays free


@pytest.fixture(scope="module", autouse=True)
def unreachable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[bytes]]:
    """Start before the other tests: the client retries the connection for some 15 seconds."""
    bench = Bench(tmp_path_factory.mktemp("unreachable"))
    process = bench.start(*bench.optimize(CLOSED, "--quiet"))
    yield process
    process.kill()
    process.communicate(timeout=10)


def test_endpoint_that_cannot_be_reached(unreachable: subprocess.Popen[bytes]) -> None:
    assert_one_clear_line(ended(unreachable), CLOSED, "cannot be reached", "base_url", code=75)
