"""`Task.from_records`: data frames, data sets, tables, columns and iterables of mappings."""

from __future__ import annotations

import datetime
import decimal
import itertools
from collections import namedtuple
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from zopo_fast.errors import ConfigError, TaskError
from zopo_fast.tasks.sources import in_memory
from zopo_fast.tasks.task import Task

COLUMNS: dict[str, list[Any]] = {
    "input": ["a", "b", "c"],
    "output": [0, 1, 1],
    "other": [None, 2.5, float("nan")],
}
ROWS = [dict(zip(COLUMNS, values, strict=True)) for values in zip(*COLUMNS.values(), strict=True)]
EXPECTED = [("a", ("0",)), ("b", ("1",)), ("c", ("1",))]
Named = namedtuple("Named", COLUMNS)


def pairs(records: Any, **options: Any) -> list[tuple[str, tuple[str, ...]]]:
    task = Task.from_records(records, examples=None, **options)
    return sorted((example.input, example.outputs) for example in (*task.train, *task.heldout))


def pandas_frame(columns: Any) -> Any:
    return pytest.importorskip("pandas").DataFrame(columns)


def polars_frame(columns: Any) -> Any:
    return pytest.importorskip("polars").DataFrame(columns)


def arrow_table(columns: Any) -> Any:
    return pytest.importorskip("pyarrow").table(columns)


def arrow_batch(columns: Any) -> Any:
    return arrow_table(columns).to_batches()[0]


def data_set(columns: Any) -> Any:
    return pytest.importorskip("datasets").Dataset.from_dict(columns)


MAKERS = {
    "pandas": pandas_frame,
    "polars": polars_frame,
    "pyarrow": arrow_table,
    "batch": arrow_batch,
    "datasets": data_set,
}


@pytest.mark.parametrize(
    "records",
    [
        ROWS,
        tuple(ROWS),
        COLUMNS,
        [MappingProxyType(row) for row in ROWS],
        [Named(**row) for row in ROWS],
        {name: np.array(values) for name, values in COLUMNS.items() if name != "other"},
        {name: dict(enumerate(values)) for name, values in COLUMNS.items()},  # DataFrame.to_dict()
        {"train": ROWS[:2], "test": {name: values[2:] for name, values in COLUMNS.items()}},
    ],
)
def test_mappings_and_columns(records: Any) -> None:
    assert pairs(records) == EXPECTED


def test_an_iterator_is_read_once() -> None:
    assert pairs(iter(ROWS)) == EXPECTED
    assert pairs(row for row in ROWS) == EXPECTED


@pytest.mark.parametrize("maker", MAKERS)
def test_frames_tables_and_data_sets(maker: str) -> None:
    make = MAKERS[maker]
    assert pairs(make(COLUMNS)) == EXPECTED
    with pytest.raises(
        TaskError, match="Did you mean --input-field question --output-field answer"
    ) as caught:
        pairs(make({"question": ["a"], "answer": ["b"]}))
    assert caught.value.path is None
    with pytest.raises(TaskError, match=r"^row 2: 'output' is null"):
        pairs(make({"input": ["a", "b"], "output": ["x", None]}))
    task = Task.from_records(
        {"train": make(COLUMNS), "validation": make({"input": ["d"], "output": [3]})}, examples=2
    )
    assert [example.outputs for example in task.heldout] == [("3",)]


def test_options_are_those_of_a_file() -> None:
    rows = [{"q": f"q{i}", "c": i, "a": [i, i + 1]} for i in range(30)]
    options: dict[str, Any] = {"output_field": "a", "template": "{prompt} {q} {c}", "metric": "f1"}
    task = Task.from_records(rows, name="mine", examples=5, heldout=3, demonstrations=2, seed=4, **options)
    assert (task.name, task.metric, task.template) == ("mine", "f1", "{prompt} {q} {c}")
    assert (len(task.train), len(task.heldout), len(task.demonstrations)) == (5, 3, 2)
    i = int(task.train[0].outputs[0])
    assert task.train[0].outputs == (str(i), str(i + 1))
    assert task.train[0].columns == (("q", f"q{i}"), ("c", str(i)))
    assert (
        Task.from_records(rows, name="mine", examples=5, heldout=3, demonstrations=2, seed=4, **options)
        == task
    )
    assert Task.from_records(ROWS, examples=1).name == "task"
    with pytest.raises(ConfigError, match="examples"):
        Task.from_records(rows, examples=0)
    with pytest.raises(TaskError, match="too few examples"):
        Task.from_records(ROWS, examples=4)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"), (np.bool_(False), "false"), (3, "3"), (np.int8(-3), "-3"), (2.5, "2.5"),
        (np.float32(0.1), "0.1"), (np.float64(0.1), "0.1"), (1e300, "1e+300"), (np.str_("x"), "x"),
        (np.array(["x"]), "x"), (np.array(7), "7"), (decimal.Decimal("1.50"), "1.50"),
        (datetime.date(2024, 2, 3), "2024-02-03"), (("x",), "x"), ({"text": np.array(["x"])}, "x"),
    ],
)  # fmt: skip
def test_values_become_texts(value: Any, text: str) -> None:
    assert pairs([{"input": "a", "output": value}]) == [("a", (text,))]


@pytest.mark.parametrize(
    "value", [None, float("nan"), np.float32("nan"), np.array(np.nan), [None], [1, np.nan]]
)
def test_missing_values_are_errors_with_the_row(value: Any) -> None:
    with pytest.raises(TaskError, match=r"^row 2: 'output' is null; remove the example"):
        pairs([{"input": "a", "output": "x"}, {"input": "b", "output": value}])


def test_missing_values_of_pandas_are_errors() -> None:
    pandas = pytest.importorskip("pandas")
    for value in (pandas.NA, pandas.NaT):
        with pytest.raises(TaskError, match=r"^row 1: 'output' is null"):
            pairs([{"input": "a", "output": value}])
    frame = pandas.DataFrame([["a", "b", "c"]], columns=["input", "output", "output"])
    with pytest.raises(TaskError, match="more than one column 'output'"):
        pairs(frame)


def test_class_labels_become_their_names() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"input": datasets.Value("string"), "output": datasets.ClassLabel(names=["no", "yes"])}
    )
    made = datasets.Dataset.from_dict({"input": ["a", "b"], "output": [1, 0]}, features=features)
    assert pairs(made) == pairs(made.data.table) == [("a", ("yes",)), ("b", ("no",))]
    assert pairs(datasets.DatasetDict({"train": made, "test": made.select([0])})) == pairs(made)
    assert pairs(made.with_format("numpy")) == pairs(made.to_iterable_dataset()) == pairs(made)


@pytest.mark.parametrize(
    ("records", "says"),
    [
        (3, "expected a data frame or an iterable of mappings, got 3"),
        (None, "expected a data frame"),
        ("a.jsonl", r"Task\.load\(\) reads a file"),
        ([], "no examples"),
        ({}, "no examples|no column"),
        ([3], "row 1: expected a mapping of columns, got 3"),
        ([("a", "b")], "row 1: expected a mapping of columns, got tuple"),
        ([*ROWS, "x"], "row 4: expected a mapping"),
        ({"input": "a", "output": "b"}, "must hold a list for each column"),
        ({"input": ["a", "b"], "output": ["b"]}, "different lengths"),
        ([{"input": "a"}], "row 1: no field 'output'; the fields are: 'input'"),
        ([{"input": "a", "output": b"x"}], "row 1: 'output' must be a text"),
        ([{"input": "a", "output": object()}], "row 1: 'output' must be a text"),
        ([{"input": " ", "output": "x"}], "row 1: 'input' is empty"),
        ([{"input": "a", "output": 10**5000}], "row 1: 'output' must be a text"),
    ],
)
def test_records_that_are_none(records: Any, says: str) -> None:
    with pytest.raises(TaskError, match=says):
        Task.from_records(records)


def test_a_value_that_holds_itself_and_endless_records_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TaskError, match="must be a text"):
        Task.from_records([{"input": "a", "output": loop}])
    monkeypatch.setattr(in_memory, "MAX_RECORDS", 100)
    with pytest.raises(TaskError, match="more than 100 records"):
        Task.from_records({"input": str(i), "output": "x"} for i in itertools.count())


def test_a_lazy_frame_is_refused() -> None:
    polars = pytest.importorskip("polars")
    with pytest.raises(TaskError, match=r"call its collect\(\) first"):
        Task.from_records(polars.LazyFrame(COLUMNS))


def test_remarks_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    pairs([{"input": "a", "output": "x"}, {"input": "a", "output": "y"}])
    assert caplog.messages == [
        "1 input has different outputs in different rows, such as 'a': 'x' (row 1) and 'y' (row 2); each row "
        "stays an example"
    ]
