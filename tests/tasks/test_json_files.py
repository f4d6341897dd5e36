"""JSON task files: documents and lines under either suffix, labels, nested outputs, and splits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from zopo_fast.errors import TaskError
from zopo_fast.tasks.task import Task

ROWS = [{"input": "a", "output": "x"}, {"input": "b", "output": "y"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def pairs(path: Any, **options: Any) -> list[tuple[str, tuple[str, ...]]]:
    task = Task.load(path, examples=None, **options)
    return sorted((example.input, example.outputs) for example in task.train)


@pytest.mark.parametrize("suffix", ["json", "jsonl", "ndjson", "JSON"])
@pytest.mark.parametrize(
    "text",
    [
        LINES,
        "\n\r\n" + LINES.replace("\n", "\r\n\r\n"),
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        json.dumps({"examples": ROWS}, indent=2),
        json.dumps({"metadata": {}, "examples": {"1": ROWS[0], "2": ROWS[1]}}),
        json.dumps({"data": ROWS}, indent=1),
        json.dumps({"version": 1, "rows": ROWS}, indent=1),
    ],
)
def test_the_content_decides_between_lines_and_a_document(write: Any, suffix: str, text: str) -> None:
    assert pairs(write(f"a.{suffix}", text)) == [("a", ("x",)), ("b", ("y",))]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize(
    "document",
    [
        {"input": ["a", "b"], "output": ["x", "y"], "id": [1, 2]},
        {"input": {"0": "a", "1": "b"}, "output": {"0": "x", "1": "y"}},
    ],
)
def test_a_document_of_columns(write: Any, suffix: str, document: dict[str, Any]) -> None:
    path = write(f"a.{suffix}", json.dumps(document, indent=1))
    assert pairs(path) == [("a", ("x",)), ("b", ("y",))]


def test_a_document_of_one_example(write: Any) -> None:
    assert pairs(write("a.json", ROWS[0])) == [("a", ("x",))]


def test_a_document_of_splits(write: Any) -> None:
    path = write("a.json", {"train": ROWS, "validation": [{"input": "c", "output": "z"}]})
    task = Task.load(path, examples=None)
    assert ([e.input for e in task.heldout], sorted(e.input for e in task.train)) == (["c"], ["a", "b"])


@pytest.mark.parametrize(
    ("name", "text", "line", "says"),
    [
        ("a.json", LINES + '{"input": "c",}\n', 3, "not JSON"),
        ("a.json", LINES + "[1]\n", 3, "each line must be a JSON object"),
        ("a.json", '[\n{"input": "a", "output": "x"},\n]', 2, "not JSON"),
        ("a.json", '{"examples": [\n{"input": "a", "output": "x",}]}', 2, "not JSON"),
        ("a.jsonl", '[\n{"input": "a", "output": "x"},\n]', 2, "not JSON"),
        ("a.jsonl", '[{"input": "a", "output": "x"},\n {"input": "b",}]', 2, "not JSON"),
        ("a.jsonl", '{\n"input": "a"\n"output": "x"\n}', 3, "not JSON"),
        ("a.jsonl", '{"input": "a", "output": "x",}\n' + LINES, 1, "not JSON"),
        ("a.jsonl", LINES + LINES[:20], 3, "not JSON"),
        ("a.jsonl", '["a", "x"]\n["b", "y"]\n', 1, "each line must be a JSON object"),
        ("a.json", '{"input": ["a", "b"], "output": ["x"]}', None, "different lengths"),
        ("a.json", '{"input": "a", "input": "b"}\n', None, "duplicate key"),
    ],
)
def test_errors_name_the_line(write: Any, name: str, text: str, line: int | None, says: str) -> None:
    with pytest.raises(TaskError, match=says) as caught:
        Task.load(write(name, text))
    assert caught.value.line in (line, None if line is None else line + 1)  # 3.13 points behind the comma


@pytest.mark.parametrize(
    ("value", "outputs"),
    [
        ("true", ("true",)),
        ("false", ("false",)),
        ("[true, false, 1, 2.50]", ("true", "false", "1", "2.50")),
        ("1e3", ("1e3",)),
        ("-0.0", ("-0.0",)),
        ("12345678901234567890.10", ("12345678901234567890.10",)),
        ('{"text": ["x", "y", "x"], "answer_start": [1, 2, 3]}', ("x", "y")),
        ('{"text": "x"}', ("x",)),
        ('{"answers": {"text": ["x", "y"], "answer_start": [0, 0]}}', ("x", "y")),
        ('{"answers": ["x", "y"]}', ("x", "y")),
        ('[{"text": "x", "answer_start": 1}, {"text": "y", "answer_start": 2}]', ("x", "y")),
        ('{"value": "x", "aliases": ["y", "z"], "type": "WikipediaEntity"}', ("x", "y", "z")),
        ('{"text": [], "answer_start": []}', ("",)),
        ('[{"role": "assistant", "content": "x"}]', ("x",)),
    ],
)
def test_outputs(write: Any, value: str, outputs: tuple[str, ...]) -> None:
    assert pairs(write("a.jsonl", f'{{"input": true, "output": {value}}}')) == [("true", outputs)]
    path = write("b.json", f'[{{"q": 1, "answers": {value}}}]')
    assert pairs(path, input_field="q", output_field="answers") == [("1", outputs)]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("null", "'output' is null; remove the example"),
        ("[null]", "'output' is null"),
        ('{"text": null}', "'output' is null"),
        ('{"label": "x"}', "'output' must be a text"),
        ("[[1]]", "'output' must be a text"),
        ('{"text": {"text": {"text": {"text": {"text": {"text": 1}}}}}}', "'output' must be a text"),
    ],
)
def test_outputs_that_are_none(write: Any, value: str, says: str) -> None:
    with pytest.raises(TaskError, match=says) as caught:
        Task.load(write("a.jsonl", f'\n{{"input": "a", "output": {value}, "unused": null}}'))
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("name", "side"),
    [
        *((name, "train") for name in ("train", "TRAIN", " Training ", "train-00000-of-00002", "train_sft")),
        *(
            (name, "heldout")
            for name in (
                "heldout", "held-out", "held_out", "Held Out", "holdout", "test", "TEST", "testing", "dev",
                "development", "val", "valid", "Validation", "validation_matched", "eval",
                "evaluation", "dev2",
            )
        ),
    ],
)  # fmt: skip
def test_names_of_splits(write: Any, name: str, side: str) -> None:
    path = write("a.jsonl", [*ROWS, {"input": "c", "output": "z", "split": name}])
    task = Task.load(path, examples=None)
    assert [each.input for each in task.heldout] == (["c"] if side == "heldout" else [])
    assert len(task.train) == (2 if side == "heldout" else 3)


@pytest.mark.parametrize("name", ["unsupervised", "trainer", "tester", "1", "a train", "contest"])
def test_other_names_of_splits_are_errors(write: Any, name: str) -> None:
    with pytest.raises(TaskError, match="'split' must be one of train, heldout, test, validation"):
        Task.load(write("a.jsonl", [*ROWS, {"input": "c", "output": "z", "split": name}]))


def test_rows_that_are_all_held_out_leave_none_to_train_on(write: Any) -> None:
    with pytest.raises(TaskError, match=r"too few examples: .*; their 'split' holds all of them out"):
        Task.load(write("a.jsonl", [{**row, "split": "test"} for row in ROWS]), examples=None)


def test_a_spreadsheet_is_to_be_saved_as_csv(write: Any) -> None:
    with pytest.raises(TaskError, match=r"unknown format; .*\.parquet.*; save a spreadsheet as CSV"):
        Task.load(write("a.xlsx", b"PK"))
