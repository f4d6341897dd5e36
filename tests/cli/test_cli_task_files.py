"""Task files on the command line: remarks, encodings, and columns through every command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cli_tools import Bench, chats, serving
from test_cli_resume import interrupt, resume

QA = "".join(
    f'{{"question": "question {i}", "context": "context {i}", "answer": "yes"}}\n' for i in range(12)
)
COLUMNS = ("--template", "{prompt} / {context} / {question}", "--output-field", "answer")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def write(bench: Bench, text: str | bytes) -> None:
    (bench.folder / "task.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())


def test_remarks_on_the_rows_are_printed_once(bench: Bench) -> None:
    rows = "".join(f'{{"input": "question {i % 11}", "output": "yes {i}"}}\n' for i in range(12))
    write(bench, rows)
    done = bench.run("optimize", "task.jsonl", "--pool", "pool.txt", "--budget", "4", "--dry-run")
    assert done.code == 0, done
    lines = [line for line in done.err.splitlines() if "task.jsonl" in line]
    assert len(lines) == 1, done
    assert (
        "1 input has different outputs in different rows, such as 'question 0': 'yes 0' (line 1)" in lines[0]
    )


def test_an_encoding_is_named(bench: Bench) -> None:
    rows = "".join(f'{{"input": "café {i}", "output": "yes"}}\n' for i in range(12))
    write(bench, rows.encode("cp1252"))
    command = ["optimize", "task.jsonl", "--pool", "pool.txt", "--budget", "4", "--dry-run"]
    done = bench.run(*command)
    assert (done.code, "task.jsonl:1: not UTF-8" in done.err) == (2, True), done
    assert "--encoding, likely cp1252" in done.err
    assert bench.run(*command, "--encoding", "cp1252").code == 0
    done = bench.run(*command, "--encoding", "klingon")
    assert (done.code, "unknown name 'klingon'" in done.err) == (2, True), done


def sent(server: Any) -> list[str]:
    return [request.body["messages"][-1]["content"] for request in chats(server)]


def test_columns_are_sent_and_survive_a_resume(bench: Bench) -> None:
    write(bench, QA)
    interrupt(bench, *COLUMNS, "--demonstrations", "1", "--concurrency", "1", "--quiet")
    (bench.folder / "task.jsonl").unlink()  # the study has what it needs
    with serving() as server:
        done = resume(bench, server)
        assert done.code == 0, done
        texts = sent(server)
    assert texts
    for text in texts:
        prompt, context, question = text.split(" / ")
        assert prompt.startswith("Do it in way number")
        assert context.removeprefix("context ") == question.removeprefix("question ")


def test_columns_in_generate_and_landscape(bench: Bench) -> None:
    write(bench, QA)
    with serving(lambda _: "Say yes to everything.") as server:
        model = ("--model", "m", "--base-url", server.url)
        done = bench.run(
            "generate", "task.jsonl", "-n", "2", *COLUMNS, *model, "--how", "induce", "--out", "p.jsonl"
        )
        pattern = r"Input: context: context (\d+)\nquestion: question \1\nOutput: yes"
        assert all(re.search(pattern, text) for text in sent(server)), done
        server.requests.clear()
        land = ("landscape", "task.jsonl", "--pool", "pool.txt", *COLUMNS, *model, "--examples", "3")
        done = bench.run(*land, "--embedder", "endpoint:e", "--out", "land", "--name", "mine")
        assert done.code == 0, done
        assert all(" / context " in text for text in sent(server))
    document = json.loads((bench.folder / "land" / "mine.json").read_text())
    assert document["template"] == "{prompt} / {context} / {question}"
    for example in document["examples"]:
        assert [name for name, _ in example["columns"]] == ["context", "question"]


def test_a_missing_column_is_an_error_before_any_call(bench: Bench) -> None:
    write(bench, QA)
    with serving() as server:
        done = bench.run(*bench.optimize(server, "--out", "out"))
        assert done.code == 2
        assert "Did you mean --input-field '{context} {question}' --output-field answer?" in done.err
        done = bench.run(*bench.optimize(server, *COLUMNS[:1], "{prompt} {contxt}", *COLUMNS[2:]))
        assert (done.code, "{contxt} is no column; the columns are: 'question', 'context'" in done.err) == (
            2,
            True,
        )
        assert server.requests == []


def test_a_folder_of_parquet_files(bench: Bench) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = bench.folder / "sst" / "data"
    folder.mkdir(parents=True)
    for name, count in (("train", 6), ("validation", 4)):
        rows = {"sentence": [f"question {name} {i}" for i in range(count)], "label": ["yes"] * count}
        parquet.write_table(pyarrow.table(rows), folder / f"{name}-00000-of-00001.parquet")
    command = ("--pool", "pool.txt", "--budget", "4", "--dry-run", "--examples", "5")
    done = bench.run("optimize", "sst", *command)
    assert (done.code, "Did you mean --input-field sentence --output-field label?" in done.err) == (
        2,
        True,
    ), done
    done = bench.run("optimize", "sst", *command, "--input-field", "sentence", "--output-field", "label")
    assert (done.code, "5 examples, 4 held out" in done.out) == (0, True), done
