"""Parquet, Arrow and folders of data sets, written by pandas, pyarrow and `datasets`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from zopo_fast.errors import ConfigError, MissingDependencyError, TaskError
from zopo_fast.tasks.sources import columnar
from zopo_fast.tasks.task import Task

pandas = pytest.importorskip("pandas")
pyarrow = pytest.importorskip("pyarrow")
datasets = pytest.importorskip("datasets")
from pyarrow import feather, ipc, parquet  # noqa: E402

COLUMNS = {"text": ["a", "b", "c"], "label": [0, 1, 1], "image": [b"\xff", b"", b"\0"]}
FEATURES = datasets.Features(
    {
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["neg", "pos"]),
        "tags": datasets.Sequence(datasets.ClassLabel(names=["x", "y"])),
    }
)
FIELDS: dict[str, Any] = {"input_field": "text", "output_field": "label", "examples": None}
EXPECTED = [("a", ("neg",)), ("b", ("pos",)), ("c", ("pos",))]


@pytest.fixture(autouse=True)
def without_bars() -> Any:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def pairs(path: Any, **options: Any) -> list[tuple[str, tuple[str, ...]]]:
    task = Task.load(path, **{**FIELDS, **options})
    return sorted((example.input, example.outputs) for example in (*task.train, *task.heldout))


def made(rows: str = "abc", labels: Any = (0, 1, 1)) -> Any:
    columns = {"text": list(rows), "label": list(labels), "tags": [[0], [1], [0, 1]][: len(rows)]}
    return datasets.Dataset.from_dict(columns, features=FEATURES)


def stream(table: Any, path: Path) -> None:
    with ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)


def ipc_file(table: Any, path: Path) -> None:
    with ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


WRITERS: dict[str, tuple[str, Callable[[Any, Path], Any]]] = {
    "pandas": ("a.parquet", lambda table, path: table.to_pandas().to_parquet(path)),
    "pandas, gzip": ("a.parquet", lambda table, path: table.to_pandas().to_parquet(path, compression="gzip")),
    "pandas, feather": ("a.feather", lambda table, path: table.to_pandas().to_feather(path)),
    "parquet": ("A.PARQUET", parquet.write_table),
    "row groups": ("a.parquet", lambda table, path: parquet.write_table(table, path, row_group_size=1)),
    "feather": ("a.feather", lambda table, path: feather.write_feather(table, str(path))),
    "stream": ("a.arrow", stream),
    "file": ("a.arrow", ipc_file),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_files_of_pandas_and_pyarrow(tmp_path: Path, writer: str) -> None:
    name, write = WRITERS[writer]
    write(pyarrow.table(COLUMNS), tmp_path / name)
    assert pairs(tmp_path / name) == [("a", ("0",)), ("b", ("1",)), ("c", ("1",))]
    with pytest.raises(
        TaskError,
        match=r"no column 'input'; the columns are: 'text', 'label', 'image'\. Did you mean --input-field",
    ):
        Task.load(tmp_path / name)
    with pytest.raises(TaskError, match=r"row 1: 'image' must be a text"):
        pairs(tmp_path / name, output_field="image")


def test_values_of_every_type(tmp_path: Path) -> None:
    columns = {
        "text": ["a"],
        "label": [{"text": ["x", "y"], "answer_start": [1, 2]}],
        "category": pandas.Categorical(["red"]),
        "number": pandas.array([3], dtype="Int8"),
        "half": pandas.array([0.1], dtype="float32"),
        "flag": [True],
        "day": [pandas.Timestamp("2024-02-03")],
        "list": [["p", "q"]],
    }
    pandas.DataFrame(columns).to_parquet(tmp_path / "a.parquet")
    template = "{prompt} " + " ".join(f"{{{name}}}" for name in list(columns)[2:]) + " {input}"
    (example,) = Task.load(tmp_path / "a.parquet", **FIELDS, template=template).train
    assert example.outputs == ("x", "y")
    assert dict(example.columns) == {
        "category": "red", "number": "3", "half": "0.1", "flag": "true",
        "day": "2024-02-03 00:00:00", "list": "p\nq",
    }  # fmt: skip


@pytest.mark.parametrize("write", ["to_parquet", "save_to_disk"])
def test_class_labels_become_their_names(tmp_path: Path, write: str) -> None:
    path = tmp_path / ("a.parquet" if write == "to_parquet" else "a")
    getattr(made(), write)(str(path))
    assert pairs(path) == EXPECTED
    assert pairs(path, output_field="tags")[2] == ("c", ("x", "y"))
    assert Task.load(path, **FIELDS).name == "a"


def test_a_missing_label_is_an_error_with_its_row(tmp_path: Path) -> None:
    made(labels=(0, -1, 1)).to_parquet(str(tmp_path / "a.parquet"))
    with pytest.raises(TaskError, match=r"a\.parquet: row 2: 'label' is null"):
        pairs(tmp_path / "a.parquet")
    pandas.DataFrame({"text": ["a", None], "label": ["x", "y"]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(TaskError, match="row 2: 'text' is null"):
        pairs(tmp_path / "b.parquet")


def test_a_saved_dictionary_of_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = {
        "train": made(),
        "validation": made("de", (0, 1)),
        "test": made("fg", (-1, -1)),
        "extra": made("h", [0]),
    }
    shards = {name: min(2, len(part)) for name, part in parts.items()}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "a"), num_shards=shards)
    task = Task.load(tmp_path / "a", **FIELDS)
    assert sorted(example.input for example in task.train) == ["a", "b", "c"]
    assert sorted(example.input for example in task.heldout) == ["d", "e"]
    assert "left out: 'test', which has no 'label'" in caplog.text
    assert "left out: split 'extra'" in caplog.text


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"),
        (
            "data/train-00000-of-00001.parquet",
            "data/train-1.parquet",
            "data/validation-00000-of-00001.parquet",
        ),
        ("train/0.parquet", "train/1.parquet", "test/0.parquet"),
        ("sst2-train.parquet", "sst2-train2.parquet", "sst2-dev.parquet"),
    ],
)
def test_folders_of_parquet_files(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name, rows in zip(names, ("ab", "c", "de"), strict=True):
        path = tmp_path / "a" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        made(rows, (0, 1, 1)[: len(rows)]).to_parquet(str(path))
    (tmp_path / "a" / "README.md").write_text("about")
    (tmp_path / "a" / "dataset_infos.json").write_text("{}")
    task = Task.load(tmp_path / "a", **FIELDS)
    assert sorted(example.input for example in task.train) == ["a", "b", "c"]
    assert sorted(example.input for example in task.heldout) == ["d", "e"]
    assert task.train[0].outputs[0] in ("neg", "pos")


def test_folders_of_text_files(write: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write("a/train.csv", "text;label\na;x\nb;y\n")
    write("a/dev.csv", "text,label\nc,z\n")
    write("a/test.csv", "text\nd\n")
    write("a/sample_submission.csv", "id,label\n1,x\n")
    task = Task.load(tmp_path / "a", **FIELDS)
    assert (sorted(e.input for e in task.train), [e.input for e in task.heldout]) == (["a", "b"], ["c"])
    assert "left out: 'test.csv', which has no 'label'" in caplog.text
    assert "left out: sample_submission.csv" in caplog.text
    write("b/train.jsonl", [{"text": "a", "label": True}])
    write("b/test.jsonl", [{"text": "b", "label": 1, "split": "train"}])
    task = Task.load(tmp_path / "b", **FIELDS)
    assert sorted(e.outputs for e in task.train) == [("1",), ("true",)]  # a row knows better than its file
    write("c/only.tsv", "text\tlabel\na\tx\n")
    assert pairs(tmp_path / "c") == [("a", ("x",))]
    assert Task.load(f"{tmp_path}/c/../c/", **FIELDS).name == "c"


def test_a_folder_of_one_configuration_and_one_of_held_out_examples(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a" / "default" / "train" / "0000.parquet"
    path.parent.mkdir(parents=True)
    made().to_parquet(str(path))
    assert pairs(tmp_path / "a") == EXPECTED
    path = tmp_path / "b" / "test.parquet"
    path.parent.mkdir()
    made().to_parquet(str(path))
    task = Task.load(tmp_path / "b", **FIELDS)
    assert (len(task.train), len(task.heldout)) == (3, 0)
    assert "all splits are of held-out examples; their names do not count" in caplog.text


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "a directory, not a regular file"),
        ({"a.txt": "x"}, "a directory, not a regular file"),
        (
            {"a.csv": "text,label\na,b\n", "b.csv": "text,label\na,b\n"},
            r"several files .*: a\.csv, b\.csv; name one",
        ),
        (
            {"main/train.csv": "text,label\na,b\n", "other/train.csv": "x"},
            "name one of its folders: main, other",
        ),
        ({"train.csv": "text,label\na,b\n", "test.csv": "text,label\na\n"}, r"test\.csv:2: 1 cells"),
        ({"dataset_dict.json": '{"splits": ["../b"]}'}, "names '../b', which is no file of the folder"),
        ({"dataset_dict.json": '{"splits": ["train"]}'}, "no such file|cannot be read"),
        ({"dataset_dict.json": '{"splits": 3}'}, "names no files"),
        ({"dataset_dict.json": "[]"}, "must be a JSON object"),
        ({"state.json": "{"}, "not JSON"),
        ({"state.json": "{}"}, "_data_files"),
        ({"state.json": '{"_data_files": [{"filename": "/etc/passwd"}]}'}, "is no file of the folder"),
        ({"state.json": '{"_data_files": [{"filename": ".."}]}'}, "is no file of the folder"),
        ({"state.json": '{"_data_files": [{"filename": "a.arrow"}]}'}, "no such file"),
        ({"state.json": '{"_data_files": [{"filename": "a.arrow"}]}', "a.arrow": "x"}, "malformed"),
    ],
)
def test_folders_that_are_none(write: Any, tmp_path: Path, files: dict[str, str], says: str) -> None:
    (tmp_path / "a").mkdir()
    for name, text in files.items():
        write(f"a/{name}", text)
    with pytest.raises(TaskError, match=says):
        Task.load(tmp_path / "a", **FIELDS)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    path, (_, write) = (
        tmp_path / name,
        WRITERS[{"a.parquet": "parquet", "a.arrow": "stream"}.get(name, "feather")],
    )
    write(pyarrow.table(COLUMNS), path)
    good = path.read_bytes()
    for at in range(0, len(good), 7):
        for bad in (
            good[:at],
            good[:at] + b"\xff\xff\xff\x7f" + good[at + 4 :],
            good[:at] + b"\0" + good[at + 1 :],
        ):
            path.write_bytes(bad)
            with suppress(TaskError):  # what the damage leaves readable is loaded
                Task.load(path, **FIELDS)
    for bad in (b"", b"PAR1", b"x" * 1000, b"ARROW1\0\0" * 40):
        path.write_bytes(bad)
        with pytest.raises(TaskError):
            Task.load(path, **FIELDS)


def test_a_file_is_bounded_in_full_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pyarrow.table({"text": ["a" * 1000] * 1000, "label": ["x"] * 1000})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    feather.write_feather(table, str(tmp_path / "b.feather"), compression="zstd")
    monkeypatch.setattr(columnar, "MAX_DATA_BYTES", 3000)
    for name in ("a.parquet", "b.feather"):
        with pytest.raises(TaskError, match="larger than 3,000 bytes when decompressed"):
            Task.load(tmp_path / name, **FIELDS)


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table(COLUMNS), tmp_path / "a.parquet")
    code = (
        "import sys; sys.modules['pyarrow'] = None\nimport zopo_fast as zf\n"
        f"try: zf.Task.load({str(tmp_path / 'a.parquet')!r})\n"
        "except zf.MissingDependencyError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert 'a.parquet: reading it needs pyarrow: pip install "zopo-fast[data]"' in done.stdout
    assert issubclass(MissingDependencyError, ImportError)


def test_an_encoding_is_for_text_files(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table(COLUMNS), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="encoding"):
        Task.load(tmp_path / "a.parquet", encoding="cp1252")


def test_chat_messages_in_parquet(tmp_path: Path) -> None:
    messages = [
        [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}] for i in range(2)
    ]
    datasets.Dataset.from_dict({"messages": messages}).to_parquet(str(tmp_path / "a.parquet"))
    task = Task.load(tmp_path / "a.parquet", examples=None)
    assert sorted((e.input, e.outputs) for e in task.train) == [("q0", ("a0",)), ("q1", ("a1",))]
    assert json.dumps(task.to_dict())
