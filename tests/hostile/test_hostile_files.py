"""Pipes, endless files and any content: a loader returns a value or raises a typed error, and never hangs."""

from __future__ import annotations

import csv
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from hostile_tools import NASTY, json_values, numbers, texts, typed
from hypothesis import HealthCheck, given, settings, strategies as st
from time_tools import time_limit

import zopo_fast as zf
from zopo_fast._utils import files
from zopo_fast.cli.params import from_toml
from zopo_fast.cli.settings import text_or_file
from zopo_fast.prompts import generate
from zopo_fast.scoring import metrics
from zopo_fast.tasks import rows, template
from zopo_fast.tasks.sources import readers

SENTIMENT = Path(__file__).parents[2] / "examples" / "sentiment.jsonl"
ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def toml(path: Path) -> Any:
    """Read a file like --config."""

    @click.command()
    @click.option("--budget", type=int)
    @click.option("--quiet", is_flag=True)
    def command() -> None: ...

    context = click.Context(command)
    from_toml(context, command.params[0], path)
    return context.default_map


# name: (loader, accepted suffixes)
LOADERS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "task": (lambda path: zf.Task.load(path, examples=None), (".jsonl", ".csv", ".tsv", ".json")),
    "pool": (zf.Pool.load, (".jsonl", ".txt")),
    "template": (lambda path: template.resolve(str(path)), (".json",)),
    "lists": (lambda path: generate.compose(5, 0, path), (".json", ".toml")),
    "config": (toml, (".toml",)),
    "rubric": (lambda path: text_or_file(f"@{path}", "--rubric"), (".txt",)),
}
EVERY = [(name, ending) for name, (_, endings) in LOADERS.items() for ending in endings]
every = pytest.mark.parametrize(("name", "ending"), EVERY)

# A valid file of each kind, to be damaged.
GOOD: dict[str, Any] = {
    "task.jsonl": '{"metadata": {"name": "n", "metric": "f1"}}\n{"input": "a", "output": ["b", "c"]}\n',
    "task.csv": 'input,output,split\n"a ""q""","[""x"", 2]",train\nb,c,\n',
    "task.tsv": "input\toutput\na\tb\n",
    "task.json": '{"metadata": {}, "examples": {"1": {"cause": "a", "effect": "b"}}}',
    "pool.jsonl": '"one"\n{"prompt": "two", "score": 0.5, "count": 2}\n',
    "pool.txt": "one\ntwo\n",
    "template.json": '{"messages": [{"role": "user", "content": "{prompt} {input}"}]}',
    "lists.json": '{"roles": ["a"], "instructions": ["b", "c"], "formats": [""]}',
    "lists.toml": '[general]\ninstructions = ["b", "c"]\n[other]\ninstructions = ["d"]\n',
    "config.toml": 'budget = 5\nquiet = true # so\n"x" = 2020-01-01\n',
    "rubric.txt": "{answer}\n",
}
BOMS = (b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf\xef\xbb\xbf")


@st.composite
def contents(draw: st.DrawFn, good: str) -> bytes:
    """Make bytes, or a valid file with parts removed, repeated, replaced or in another encoding."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.binary(max_size=60))
    data = good.encode()
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        to = draw(st.integers(at, min(len(data), at + 8)))
        nasty = draw(st.sampled_from(NASTY)).encode("utf-8", "surrogatepass")
        data = (
            data[:at]
            + draw(st.sampled_from([b"", nasty, data[:at][-20:], b"[" * 50, b"9" * 5000]))
            + data[to:]
        )
    if draw(st.integers(0, 5)) == 0:
        data = data.decode("utf-8", "replace").encode(
            draw(st.sampled_from(["utf-16", "latin-1", "utf-32"])), "replace"
        )
    return draw(st.sampled_from(BOMS)) + data


@every
@ONE_FOLDER
@given(data=st.data())
def test_any_content_is_loaded_or_refused(
    tmp_path: Path, name: str, ending: str, data: st.DataObject
) -> None:
    path = tmp_path / f"{name}{ending}"
    path.write_bytes(data.draw(contents(GOOD[path.name])))
    typed(LOADERS[name][0], path)


@every
def test_the_valid_files_are_loaded(tmp_path: Path, name: str, ending: str) -> None:
    path = tmp_path / f"{name}{ending}"
    path.write_text(GOOD[path.name].replace('"x" =', "# x ="), encoding="utf-8")
    assert LOADERS[name][0](path)


@ONE_FOLDER
@given(
    rows=st.lists(st.dictionaries(texts, json_values, max_size=4), max_size=4), fields=st.tuples(texts, texts)
)
def test_any_json_as_a_task_is_loaded_or_refused(
    tmp_path: Path, rows: list[Any], fields: tuple[str, str]
) -> None:
    names = dict(zip(("input_field", "output_field"), fields, strict=True))
    for path in (tmp_path / "t.json", tmp_path / "t.jsonl"):
        for document in (rows, {"examples": rows}, {"metadata": rows[:1], "examples": rows}):
            lines = [document] if path.suffix == ".json" else rows
            path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
            typed(zf.Task.load, path, examples=None)
            typed(zf.Task.load, path, examples=None, **names)


@pytest.mark.parametrize("good", [True, False])
@given(number=numbers, name=st.sampled_from(["examples", "heldout", "demonstrations", "seed"]))
def test_any_number_of_examples_is_split_or_refused(good: bool, number: Any, name: str) -> None:
    typed(zf.Task.load, SENTIMENT if good else "nothing.jsonl", **{name: number})


# ---- pipes, sockets, devices -------------------------------------------------------------------------


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(path.parent)  # the path of a socket must be short
        one.bind(path.name)


NO_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pipe": (pipe, "a named pipe, not a regular file"),
    "socket": (listening, "a socket, not a regular file"),
    "directory": (Path.mkdir, "a directory, not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a device, not a regular file"),
    "link to itself": (lambda path: path.symlink_to(path), "(?i)symbolic links"),
    "link to nothing": (lambda path: path.symlink_to("nowhere"), "(?i)no such file"),
}


@every
@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.skipif(sys.platform == "win32", reason="no pipes and devices in the file system")
def test_pipes_sockets_and_devices_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, ending: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path, (make, says) = tmp_path / f"x{ending}", NO_FILES[kind]
    make(path)
    with time_limit(), pytest.raises(zf.InputError, match=says):
        LOADERS[name][0](path)


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes in the file system")
def test_a_pipe_that_replaces_the_file_after_the_check_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    regular, path = tmp_path / "regular", tmp_path / "pipe"
    regular.touch()
    os.mkfifo(path)
    looked_at = os.stat(regular)
    shim = SimpleNamespace(**{**vars(os), "stat": lambda _: looked_at})
    monkeypatch.setattr(files, "os", shim)
    with time_limit(), pytest.raises(files.UnreadableFileError, match="a named pipe"):
        files.read_bytes(path, 100)


@every
@pytest.mark.parametrize("bad", ["a\0b", "\ud800", "a" * 5000, "", "a/" * 3000])
def test_invalid_paths_are_refused(name: str, ending: str, bad: str) -> None:
    """Paths are given as text, like those of users."""
    call = {
        "task": zf.Task.load,
        "pool": zf.Pool.load,
        "template": template.resolve,
        "lists": lambda path: generate.compose(5, 0, path),
        "config": lambda path: toml(Path(path)),
        "rubric": lambda path: text_or_file(f"@{path}", "--rubric"),
    }[name]
    for path in (bad + ending, bad):
        if (name, path) not in {("lists", ""), ("pool", "")}:  # no path given; the current folder
            typed(call, path)
    typed(zf.Pool.from_texts(["a"]).save, bad + ".jsonl")


@every
def test_a_file_that_is_too_large_is_refused_before_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, ending: str
) -> None:
    path = tmp_path / f"x{ending}"
    with path.open("wb") as file:
        file.truncate(files.MAX_DATA_BYTES + 1)  # a sparse file takes no disk space
    with time_limit(), pytest.raises(zf.InputError, match="larger than"):
        LOADERS[name][0](path)


def test_a_file_that_grows_during_reading_is_read_up_to_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * 100)
    assert files.read_bytes(path, 100) == b"x" * 100
    with pytest.raises(files.UnreadableFileError, match="larger than 99 bytes"):
        files.read_bytes(path, 99)
    if sys.platform == "linux":  # procfs reports a size of 0
        assert files.read_bytes("/proc/self/status", 2**20).startswith(b"Name:")
        with pytest.raises(files.UnreadableFileError, match="larger than 10 bytes"):
            files.read_bytes("/proc/self/status", 10)


# ---- nesting, keys, sizes ----------------------------------------------------------------------------


def test_nesting_of_any_depth_is_loaded_or_refused(tmp_path: Path) -> None:
    """The parser may accept a depth that the error message cannot show: that is a typed error as well."""
    limit = sys.getrecursionlimit()
    for depth in [1, 40, *range(limit - 150, limit + 10, 2), 100_000]:
        for nested in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
            (tmp_path / "t.jsonl").write_text(f'{{"input": "a", "output": {nested}}}\n', encoding="utf-8")
            typed(zf.Task.load, tmp_path / "t.jsonl", examples=None)
        (tmp_path / "t.csv").write_text(f"input,output\na,{'[' * depth + ']' * depth}\n", encoding="utf-8")
        typed(zf.Task.load, tmp_path / "t.csv", examples=None)
    for depth in (50, limit - 100, limit, 100_000):
        nested = "[" * depth + "]" * depth
        (tmp_path / "p.jsonl").write_text(f'{{"prompt": "a", "score": {nested}}}\n', encoding="utf-8")
        typed(zf.Pool.load, tmp_path / "p.jsonl")
        (tmp_path / "c.toml").write_text(f"budget = {nested}\n", encoding="utf-8")
        typed(toml, tmp_path / "c.toml")
        typed(generate.compose, 3, 0, tmp_path / "c.toml")
        (tmp_path / "m.json").write_text(f'{{"messages": {nested}}}', encoding="utf-8")
        typed(template.resolve, str(tmp_path / "m.json"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.jsonl", '{"input": "a", "input": "b", "output": "c"}'),
        ("t.json", '{"examples": {"1": {"input": "a", "output": "b"}, "1": {"input": "c", "output": "d"}}}'),
        ("p.jsonl", '{"prompt": "a", "prompt": "b"}'),
        ("m.json", '{"messages": [{"role": "user", "role": "system", "content": "{prompt}{input}"}]}'),
        ("l.json", '{"instructions": ["a"], "instructions": ["b"]}'),
        ("c.toml", "budget = 1\nbudget = 2\n"),
    ],
)
def test_a_repeated_key_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    kind = {"t": "task", "p": "pool", "m": "template", "l": "lists", "c": "config"}[name[0]]
    with pytest.raises(zf.InputError, match=r"duplicate key|overwrite"):
        LOADERS[kind][0](tmp_path / name)


def test_numbers_of_thousands_of_digits_are_refused(tmp_path: Path) -> None:
    digits = "9" * 5000
    for name, text in {
        "p.jsonl": f'{{"prompt": "a", "count": {digits}}}',
        "c.toml": f"budget = {digits}",
        "c2.toml": f"budget = 0x{'f' * 5000}",  # the parser accepts it; converting it to decimal does not
        "c3.toml": f"quiet = 0x{'f' * 5000}",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(zf.InputError):
            LOADERS["pool" if name[0] == "p" else "config"][0](tmp_path / name)
    (tmp_path / "p.jsonl").write_text(f'{{"prompt": "a", "count": {2**53}}}\n' * 3, encoding="utf-8")
    assert zf.Pool.load(tmp_path / "p.jsonl").counts == (2**53,)


def test_fields_of_megabytes_give_short_messages(tmp_path: Path) -> None:
    long = "x" * 2_000_000
    path = tmp_path / "t.csv"
    path.write_text(f'input,output\n"{long}\n""{long}""",b\n', encoding="utf-8")
    (example,) = zf.Task.load(path, examples=None).train
    assert len(example.input) == 2 * len(long) + 3
    for text in (
        f'{{"{long}": 1}}',
        json.dumps({"input": "a", "output": "b", "split": long}),
        f'{{"{long}": 1, ' * 2,
    ):
        (tmp_path / "t.jsonl").write_text(text, encoding="utf-8")
        with pytest.raises(zf.TaskError) as caught:
            zf.Task.load(tmp_path / "t.jsonl")
        assert len(str(caught.value)) < 1000
    (tmp_path / "p.jsonl").write_text(
        f'{{"prompt": "{long}", "score": 1}}\n{{"prompt": "{long}", "score": 2}}\n'
    )
    with pytest.raises(zf.ConflictingScoreError) as conflict:
        zf.Pool.load(tmp_path / "p.jsonl")
    assert len(str(conflict.value)) < 1000


def test_threads_leave_the_process_wide_limit_of_csv_unchanged(
    tmp_path: Path,
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("input,output\n" + "".join(f"{i},{i}\n" for i in range(2000)), encoding="utf-8")
    before, switches = csv.field_size_limit(), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    together = [
        threading.Thread(target=readers.read, args=(path, rows.Wanted("input", "output"), 0))
        for _ in range(8)
    ]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    sys.setswitchinterval(switches)
    assert csv.field_size_limit() == before


# ---- data files run no code --------------------------------------------------------------------------


def test_a_task_file_cannot_name_a_function_to_run(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"metadata": {"metric": "subprocess:call"}}\n{"input": "a", "output": "b"}\n')
    with pytest.raises(zf.TaskError, match="names a function as the metric"):
        zf.Task.load(path, examples=None)
    assert zf.Task.load(path, examples=None, metric="f1").metric == "f1"
    assert zf.Task.load(path, examples=None, metric="my:own").metric == "my:own"


@given(texts)
def test_unknown_names_are_refused(name: str) -> None:
    typed(metrics.resolve, name.replace(":", ""))
    typed(template.resolve, name.replace("/", ""))
    typed(generate.kind_of, name)
    typed(generate.compose, 3, 0, kind=name)
