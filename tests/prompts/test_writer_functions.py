"""Functions of the caller as writers."""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import Any

import pytest

from zopo_fast.errors import ConfigError, MetricError, ServerError
from zopo_fast.prompts.writing.function_writer import FunctionWriter, as_writer
from zopo_fast.prompts.writing.part_editor import PartEditor
from zopo_fast.prompts.writing.types import Draft, Parent, Writer, WriteRequest, Written

PARENTS = (Parent(4, "First.", 1.0), Parent(2, "Second.", 0.5))


def write(writer: Writer, n: int = 3) -> Written:
    return asyncio.run(writer.write(WriteRequest(PARENTS, n, 0)))


def shout(parents: list[Parent], n: int) -> list[str]:
    assert isinstance(parents, list)
    return [parent.prompt.upper() for parent in parents] * n


def test_a_function_is_called_in_a_thread_and_an_async_one_in_the_loop() -> None:
    threads = []

    def sync(parents: list[Parent], n: int) -> list[str]:
        threads.append(threading.current_thread())
        return shout(parents, n)

    async def coroutine(parents: list[Parent], n: int) -> tuple[str, ...]:
        await asyncio.sleep(0)
        threads.append(threading.current_thread())
        return tuple(shout(parents, n))

    expected = tuple(Draft(text, (4, 2)) for text in ("FIRST.", "SECOND.", "FIRST."))
    for function in (sync, coroutine):
        writer = as_writer(function)
        assert isinstance(writer, FunctionWriter)
        assert (writer.name, writer.calls) == (function.__name__, 0)
        assert write(writer) == Written(expected)
    assert threads[0] is not threading.main_thread()
    assert threads[1] is threading.main_thread()


def test_names() -> None:
    class Shouter:
        def __call__(self, parents: list[Parent], n: int) -> list[str]:
            return shout(parents, n)

    assert FunctionWriter(shout, "mine").name == "mine"
    assert FunctionWriter(lambda parents, n: []).name == "function"
    assert FunctionWriter(functools.partial(shout, n=2)).name == "shout"
    assert FunctionWriter(Shouter()).name == "Shouter"
    assert write(FunctionWriter(Shouter()), 1).drafts[0].prompt == "FIRST."
    for name in ("", "a\nb", "x" * 65, 3):
        with pytest.raises(ConfigError, match="name must be a line"):
            FunctionWriter(shout, name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("one text", "returned str; expected a list of texts"),
        (None, "returned NoneType"),
        ({"a": "b"}, "returned dict"),
        (b"x", "returned bytes"),
        (iter(["a"]), "returned list_iterator"),
        (["a", 3], "item 1 of the function's list is 3"),
        ([None], "item 0 of the function's list is None"),
    ],
)
def test_wrong_values_name_the_function(value: Any, message: str) -> None:
    def mine(parents: list[Parent], n: int) -> Any:
        return value

    with pytest.raises(MetricError, match=message) as caught:
        write(FunctionWriter(mine))
    assert str(caught.value).startswith("writer 'mine': ")


def test_errors_of_the_function() -> None:
    def mine(parents: list[Parent], n: int) -> list[str]:
        raise KeyError("bug")

    def refused(parents: list[Parent], n: int) -> list[str]:
        raise ServerError("503")

    with pytest.raises(MetricError, match=r"writer 'mine': the function failed: KeyError\('bug'\)") as caught:
        write(FunctionWriter(mine))
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(ServerError):  # a typed error stays what it is
        write(FunctionWriter(refused))


def test_hostile_texts_pass_unchanged_for_the_guards_to_reject() -> None:
    texts = ["", "\0", "\ud800", "x" * 10**6, "\u202e{input}"]
    written = write(FunctionWriter(lambda parents, n: texts), 5)
    assert [draft.prompt for draft in written.drafts] == texts


def test_writers_are_taken_as_they_are() -> None:
    editor = PartEditor({"instructions": ["a", "b"]})
    assert as_writer(editor) is editor
    writer = FunctionWriter(shout)
    assert as_writer(writer) is writer
    with pytest.raises(ConfigError, match=r"PartEditor is a class; pass an instance"):
        as_writer(PartEditor)
    with pytest.raises(ConfigError, match="int is no writer"):
        as_writer(3)
    with pytest.raises(ConfigError, match="int is no function"):
        FunctionWriter(3)  # type: ignore[arg-type]


def test_writers_of_the_caller_are_checked() -> None:
    class Mine:
        name = "mine"
        calls = 1

        async def write(self, request: WriteRequest) -> Written:
            return Written(())

    writer = Mine()
    assert as_writer(writer) is writer
    writer.calls = -1
    with pytest.raises(ConfigError, match="writer 'mine': calls"):
        as_writer(writer)
    writer.calls, writer.name = 1, ""
    with pytest.raises(ConfigError, match="name must be a line"):
        as_writer(writer)
